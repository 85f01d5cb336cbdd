//! `/v1/embeddings`.

use axum::Json as JsonAnswer;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use heyday_inference::LongText;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::Instrument as _;
use utoipa::ToSchema;

use super::error::ErrorBody;
use super::{Members, Texts, Usage, asker, inference, invalid, refusal};
use crate::api::App;
use crate::api::extract::{Caller, Json};
use crate::api::problem::Problem;

/// How vectors are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodingFormat {
    /// Numbers.
    #[default]
    Float,
    /// 32-bit numbers, little-endian, in base64.
    Base64,
}

/// Texts to be embedded.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
pub struct EmbeddingsRequest {
    /// The model's name.
    pub model: String,
    /// A text, or up to 2,048. Lists of tokens are refused: which text they are is the
    /// model's matter. A text that is longer than the model's window is refused.
    #[schema(value_type = Texts)]
    pub input: Vec<String>,
    /// How vectors are written; `float` where absent.
    #[schema(required = false)]
    pub encoding_format: EncodingFormat,
    /// The numbers of each vector: only those that the model has.
    pub dimensions: Option<usize>,
    /// Accepted, and changes nothing.
    pub user: Option<String>,
}

impl EmbeddingsRequest {
    fn read(mut members: Members) -> Result<Self, Problem> {
        let request = Self {
            model: members.need("model")?,
            input: input(&mut members)?,
            encoding_format: members.take("encoding_format")?.unwrap_or_default(),
            dimensions: members.take("dimensions")?,
            user: members.take("user")?,
        };
        members.end()?;
        Ok(request)
    }
}

fn input(members: &mut Members) -> Result<Vec<String>, Problem> {
    let value = members.take_value("input");
    let of_tokens = value
        .as_ref()
        .and_then(Value::as_array)
        .is_some_and(|all| all.iter().any(|it| it.is_number() || it.is_array()));
    if of_tokens {
        return Err(members.invalid(
            "input",
            "a text or a list of texts; lists of tokens are not supported",
        ));
    }
    let value = value.ok_or_else(|| members.missing("input"))?;
    let texts: Texts = serde_json::from_value(value)
        .map_err(|_| members.invalid("input", "a text or a list of texts"))?;
    let texts = texts.into_vec();
    if texts.is_empty() {
        return Err(members.invalid("input", "there is no text"));
    }
    Ok(texts)
}

/// The vectors of texts.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingsBody {
    /// `list`.
    pub object: &'static str,
    /// One for each text, in their order.
    pub data: Vec<EmbeddingBody>,
    /// The model's name.
    pub model: String,
    /// What was read.
    pub usage: Usage,
}

/// The vector of one text.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingBody {
    /// `embedding`.
    pub object: &'static str,
    /// Which text, from 0.
    pub index: usize,
    /// It.
    pub embedding: Vector,
}

/// A vector.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Vector {
    /// Its numbers.
    Float(Vec<f32>),
    /// Its numbers in base64.
    Base64(String),
}

fn vector(values: &[f32], format: EncodingFormat) -> Vector {
    match format {
        EncodingFormat::Float => Vector::Float(values.to_vec()),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = values.iter().flat_map(|it| it.to_le_bytes()).collect();
            Vector::Base64(STANDARD.encode(bytes))
        }
    }
}

/// Embed texts, as OpenAI does
///
/// Members that are not listed are refused by their names.
#[utoipa::path(post, path = "/v1/embeddings", tag = "openai", request_body = EmbeddingsRequest,
    responses((status = 200, body = EmbeddingsBody),
        (status = 400, description = "A member is wrong, or a text too long", body = ErrorBody),
        (status = 404, description = "No such model", body = ErrorBody),
        (status = 429, description = "Too much is waiting", body = ErrorBody),
        (status = 503, description = "The model cannot answer now, or as many wait or stream as the server lets; ask again soon", body = ErrorBody)))]
pub(in crate::api) async fn embed(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<Map<String, Value>>,
) -> Result<JsonAnswer<EmbeddingsBody>, Problem> {
    let inference = inference(&app)?;
    let request = EmbeddingsRequest::read(Members::of_body(body))?;
    let _place = app.waiting_place()?;
    if let (Some(asked), Some(model)) = (request.dimensions, inference.model(&request.model))
        && let Some(dimensions) = model.properties().dimensions
        && asked != dimensions
    {
        return Err(invalid(
            "dimensions",
            format!(
                "`dimensions` is {dimensions} for the model {}: vectors are not cut here",
                request.model
            ),
        ));
    }
    let span = tracing::debug_span!(
        "embeddings",
        otel.name = %format!("embeddings {}", request.model),
        gen_ai.operation.name = "embeddings",
        gen_ai.request.model = request.model,
        gen_ai.usage.input_tokens = tracing::field::Empty,
    );
    let asked = inference.embed(
        asker(&caller),
        &request.model,
        request.input,
        LongText::Refuse,
    );
    let found = asked.instrument(span.clone()).await;
    let found = found.map_err(|error| refusal(error, "input"))?;
    let read = found.tokens.iter().map(|&tokens| u64::from(tokens)).sum();
    span.record("gen_ai.usage.input_tokens", read);
    app.metrics.model_tokens(&request.model, "input", read);
    // A model that makes vectors makes some of one number at least.
    let vectors = found.values.chunks_exact(found.dimensions.max(1));
    let data = vectors.enumerate().map(|(index, values)| EmbeddingBody {
        object: "embedding",
        index,
        embedding: vector(values, request.encoding_format),
    });
    Ok(JsonAnswer(EmbeddingsBody {
        object: "list",
        data: data.collect(),
        model: request.model,
        usage: Usage::read(read),
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<EmbeddingsRequest, Problem> {
        match value {
            Value::Object(map) => EmbeddingsRequest::read(Members::of_body(map)),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn requests_are_read() {
        let full = json!({
            "model": "m", "input": "a", "encoding_format": "base64", "dimensions": 48,
            "user": "somebody",
        });
        let full = read(full).expect("all of it is known");
        assert_eq!(full.input, ["a"]);
        assert_eq!(full.encoding_format, EncodingFormat::Base64);
        let short = read(json!({ "model": "m", "input": ["a", "b"] })).expect("enough");
        assert_eq!(short.input, ["a", "b"]);
        assert_eq!(short.encoding_format, EncodingFormat::Float);
        for (body, param, told) in [
            (json!({ "input": "a" }), "model", "missing"),
            (json!({ "model": "m" }), "input", "missing"),
            (json!({ "model": "m", "input": null }), "input", "missing"),
            (json!({ "model": "m", "input": [] }), "input", "no text"),
            (json!({ "model": "m", "input": {} }), "input", "a text or"),
            (json!({ "model": "m", "input": [1, 2] }), "input", "tokens"),
            (json!({ "model": "m", "input": [[1]] }), "input", "tokens"),
            (
                json!({ "model": "m", "input": "a", "encoding_format": "int8" }),
                "encoding_format",
                "base64",
            ),
            (
                json!({ "model": "m", "input": "a", "dimensions": -1 }),
                "dimensions",
                "dimensions",
            ),
            (
                json!({ "model": "m", "input": "a", "truncate": true }),
                "truncate",
                "not supported",
            ),
        ] {
            let problem = read(body.clone()).expect_err("refused");
            assert_eq!(problem.further["param"], param, "{body}: {problem:?}");
            assert!(problem.detail.contains(told), "{body}: {problem:?}");
        }
    }

    #[test]
    fn vectors_are_little_endian_in_base64() {
        let encoded = vector(&[1.0, -2.5], EncodingFormat::Base64);
        assert_eq!(encoded, Vector::Base64("AACAPwAAIMA=".to_owned()));
        let plain = serde_json::to_value(vector(&[1.0], EncodingFormat::Float));
        assert_eq!(plain.expect("written"), json!([1.0]));
    }
}
