//! `/v1/rerank`: not OpenAI's, who have none, but what Cohere, Jina and vLLM have alike.

use axum::Json as JsonAnswer;
use axum::extract::State;
use heyday_inference::LongText;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::Instrument as _;
use utoipa::ToSchema;

use super::error::ErrorBody;
use super::{Members, Usage, asker, inference, refusal};
use crate::api::App;
use crate::api::extract::{Caller, Json};
use crate::api::problem::Problem;

/// Documents to be put in order.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
pub struct RerankRequest {
    /// The model's name.
    pub model: String,
    /// What they should answer.
    pub query: String,
    /// 1 to 2,048 texts. What is longer than the model's window is cut.
    pub documents: Vec<String>,
    /// So many of the best; all where absent.
    pub top_n: Option<usize>,
    /// Whether the answer has the texts too.
    #[schema(required = false)]
    pub return_documents: bool,
}

impl RerankRequest {
    fn read(mut members: Members) -> Result<Self, Problem> {
        let request = Self {
            model: members.need("model")?,
            query: members.need("query")?,
            documents: members.need("documents")?,
            top_n: members.take("top_n")?,
            return_documents: members.take("return_documents")?.unwrap_or_default(),
        };
        if request.documents.is_empty() {
            return Err(members.invalid("documents", "there is no document"));
        }
        if request.top_n == Some(0) {
            return Err(members.invalid("top_n", "1 or more"));
        }
        members.end()?;
        Ok(request)
    }
}

/// Documents in order.
#[derive(Debug, Serialize, ToSchema)]
pub struct RerankBody {
    /// The model's name.
    pub model: String,
    /// The best first.
    pub results: Vec<RerankResult>,
    /// What was read.
    pub usage: Usage,
}

/// How well a document answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct RerankResult {
    /// Which document, from 0.
    pub index: usize,
    /// The model's own score: higher is better.
    pub relevance_score: f32,
    /// Its text, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<RerankDocument>,
}

/// A document.
#[derive(Debug, Serialize, ToSchema)]
pub struct RerankDocument {
    /// Its text.
    pub text: String,
}

/// Put documents in order, as Cohere, Jina and vLLM do
///
/// Members that are not listed are refused by their names.
#[utoipa::path(post, path = "/v1/rerank", tag = "openai", request_body = RerankRequest,
    responses((status = 200, body = RerankBody),
        (status = 400, description = "A member is wrong", body = ErrorBody),
        (status = 404, description = "No such model", body = ErrorBody),
        (status = 429, description = "Too much is waiting", body = ErrorBody),
        (status = 503, description = "The model cannot answer now, or as many wait or stream as the server lets; ask again soon", body = ErrorBody)))]
pub(in crate::api) async fn rerank(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<Map<String, Value>>,
) -> Result<JsonAnswer<RerankBody>, Problem> {
    let inference = inference(&app)?;
    let request = RerankRequest::read(Members::of_body(body))?;
    let _place = app.waiting_place()?;
    let span = tracing::debug_span!(
        "rerank",
        otel.name = %format!("rerank {}", request.model),
        gen_ai.operation.name = "rerank",
        gen_ai.request.model = request.model,
        gen_ai.usage.input_tokens = tracing::field::Empty,
    );
    let kept = request.return_documents.then(|| request.documents.clone());
    let asked = inference.rerank(
        asker(&caller),
        &request.model,
        request.query,
        request.documents,
        LongText::Truncate,
    );
    let found = asked.instrument(span.clone()).await;
    let found = found.map_err(|error| refusal(error, "documents"))?;
    span.record("gen_ai.usage.input_tokens", found.usage.tokens);
    app.metrics
        .model_tokens(&request.model, "input", found.usage.tokens);
    let mut results: Vec<RerankResult> = found
        .values
        .into_iter()
        .enumerate()
        .map(|(index, relevance_score)| RerankResult {
            index,
            relevance_score,
            document: kept.as_ref().map(|texts| RerankDocument {
                text: texts[index].clone(),
            }),
        })
        .collect();
    results.sort_by(|a, b| b.relevance_score.total_cmp(&a.relevance_score));
    results.truncate(request.top_n.unwrap_or(usize::MAX));
    Ok(JsonAnswer(RerankBody {
        model: request.model,
        results,
        usage: Usage::read(found.usage.tokens),
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_refused_by_its_name() {
        let read = |member: &str, value: Value| {
            let mut body = json!({ "model": "m", "query": "q", "documents": ["a"] });
            body[member] = value;
            match body {
                Value::Object(map) => RerankRequest::read(Members::of_body(map)),
                other => panic!("{other}"),
            }
        };
        let full = read("top_n", json!(1)).expect("all of it is known");
        assert_eq!((full.top_n, full.documents.len()), (Some(1), 1));
        for (param, value) in [
            ("model", Value::Null),
            ("query", Value::Null),
            ("documents", Value::Null),
            ("documents", json!([])),
            ("documents", json!("a")),
            ("documents", json!([{ "text": "a" }])),
            ("top_n", json!(0)),
            ("top_n", json!(-1)),
            ("return_documents", json!(1)),
            ("truncate", json!(true)),
        ] {
            let problem = read(param, value.clone()).expect_err(param);
            assert_eq!(problem.further["param"], param, "{value}: {problem:?}");
        }
    }
}
