//! `/v1/completions`: how a text goes on, without a conversation. OpenAI calls it legacy; it is what
//! a `prompt` of inference is asked by where its model runs elsewhere. `answer.rs` has what is
//! answered.

use axum::extract::State;
use axum::response::Response;
use heyday_inference::GenerateRequest;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::answer::{CompletionBody, Form, generate};
use super::error::ErrorBody;
use super::text::TextOptions;
use super::{Members, Only, is_empty, is_false, is_one, is_zero};
use crate::api::App;
use crate::api::extract::{Caller, Json};
use crate::api::problem::Problem;

/// Tokens of an answer where the request says nothing: OpenAI's own number.
const MAX_TOKENS: u32 = 16;

/// A text that a model should go on with. `user` is accepted too, and others as long as they ask
/// for nothing (`n` and `best_of` 1, penalties 0, `echo` false).
#[derive(Debug, Clone, PartialEq, ToSchema)]
pub struct CompletionRequest {
    /// The model's name.
    pub model: String,
    /// A text, which is continued as it stands. Lists of tokens, and of several texts, are refused.
    pub prompt: String,
    /// The most tokens of the answer; 16 where absent.
    pub max_tokens: Option<u32>,
    /// How it is drawn, where it ends, and how it comes.
    #[serde(flatten)]
    pub options: TextOptions,
}

/// Members that may be there as long as they ask for nothing.
const ONLY: [Only; 8] = [
    ("n", is_one, "one answer is made"),
    ("best_of", is_one, "one answer is made"),
    ("frequency_penalty", is_zero, "nothing is penalized"),
    ("presence_penalty", is_zero, "nothing is penalized"),
    ("logit_bias", is_empty, "tokens are not biased"),
    ("logprobs", is_false, "probabilities are not told"),
    ("echo", is_false, "the prompt is not said again"),
    (
        "suffix",
        |it| it.as_str() == Some(""),
        "texts go on at their ends",
    ),
];

impl CompletionRequest {
    fn read(mut members: Members) -> Result<Self, Problem> {
        let request = Self {
            model: members.need("model")?,
            prompt: prompt(&mut members)?,
            max_tokens: members.take("max_tokens")?,
            options: TextOptions::read(&mut members)?,
        };
        members.accept(&["user"]);
        for (name, asks_nothing, why) in ONLY {
            members.only(name, asks_nothing, why)?;
        }
        members.end()?;
        Ok(request)
    }

    /// What it asks of the model.
    fn generate(self) -> GenerateRequest {
        GenerateRequest {
            prompt: Some(self.prompt),
            max_tokens: Some(self.max_tokens.unwrap_or(MAX_TOKENS)),
            ..self.options.generate()
        }
    }
}

/// One text, also where it is a list of one.
fn prompt(members: &mut Members) -> Result<String, Problem> {
    match members.take_value("prompt") {
        None => Err(members.missing("prompt")),
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(mut all)) if all.len() == 1 && all[0].is_string() => match all.pop() {
            Some(Value::String(text)) => Ok(text),
            _ => Err(members.missing("prompt")),
        },
        Some(_) => Err(members.invalid(
            "prompt",
            "one text; several, and lists of tokens, are not supported",
        )),
    }
}

/// Let a model continue a text, as OpenAI does
///
/// With `stream` the answer is server-sent events that end with `[DONE]`. A client that goes
/// away stops the model. Members that are not listed are refused by their names.
#[utoipa::path(post, path = "/v1/completions", tag = "openai", request_body = CompletionRequest,
    responses((status = 200, body = CompletionBody),
        (status = 400, description = "A member is wrong, or the prompt too long", body = ErrorBody),
        (status = 404, description = "No such model", body = ErrorBody),
        (status = 429, description = "Too much is waiting", body = ErrorBody),
        (status = 503, description = "The model cannot answer now, or as many wait or stream as the server lets; ask again soon", body = ErrorBody)))]
pub(in crate::api) async fn continue_text(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<Map<String, Value>>,
) -> Result<Response, Problem> {
    let request = CompletionRequest::read(Members::of_body(body))?;
    let stream = request.options.streamed();
    let model = request.model.clone();
    generate(app, &caller, Form::Text, model, request.generate(), stream).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(further: &Value) -> Result<CompletionRequest, Problem> {
        let mut body = json!({ "model": "m", "prompt": "once" });
        for (name, value) in further.as_object().expect("members") {
            body[name] = value.clone();
        }
        match body {
            Value::Object(map) => CompletionRequest::read(Members::of_body(map)),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn requests_are_read() {
        let short = read(&json!({})).expect("enough").generate();
        assert_eq!(short.prompt.as_deref(), Some("once"));
        assert_eq!(short.max_tokens, Some(16));
        let full = json!({
            "prompt": ["upon"], "max_tokens": 7, "stop": [".", "!"], "temperature": 0, "top_p": 0.5,
            "top_k": 3, "seed": 9, "stream": true, "stream_options": { "include_usage": true },
            "n": 1, "best_of": 1, "echo": false, "suffix": "", "logprobs": null, "user": "u",
        });
        let full = read(&full).expect("all of it is known");
        assert_eq!(full.options.streamed(), Some(true));
        let asked = full.generate();
        assert_eq!(asked.prompt.as_deref(), Some("upon"));
        assert_eq!((asked.max_tokens, asked.seed), (Some(7), Some(9)));
        assert_eq!(asked.stop, [".", "!"]);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_its_name() {
        for (param, value) in [
            ("prompt", Value::Null),
            ("prompt", json!(["a", "b"])),
            ("prompt", json!([1, 2])),
            ("prompt", json!([[1]])),
            ("n", json!(2)),
            ("best_of", json!(2)),
            ("echo", json!(true)),
            ("suffix", json!("the end")),
            ("logprobs", json!(0)),
            ("logit_bias", json!({ "1": 5 })),
            ("frequency_penalty", json!(0.1)),
            ("seed", json!(-1)),
            ("messages", json!([])),
        ] {
            let problem = read(&json!({ param: value })).expect_err(param);
            assert_eq!(problem.further["param"], param, "{problem:?}");
        }
    }
}
