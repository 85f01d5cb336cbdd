//! `/v1`: the models of this server by OpenAI's protocol, so that programs that know that
//! one need no other client. What it says is its public API reference; the tests use its
//! official Python client.
//!
//! Requests pass the same layers as those of `/api/v1`: the token, the namespace, the span,
//! what is counted. A handler takes the members of the body one after the other
//! ([`Members`]), asks [`heyday_inference::Inference`] for them as a caller of its own, and answers. What it
//! refuses is a [`Problem`] as everywhere; [`error`] writes it in OpenAI's form.
//!
//! A member that we do not know, or cannot honour, is refused by its name: a client that
//! asked for something learns that it does not get it. Those that only OpenAI's own service
//! could act on, and that change no answer, are accepted.

mod answer;
pub mod chat;
pub mod completions;
pub mod embeddings;
pub mod error;
pub mod models;
pub mod rerank;
pub mod text;

use heyday_inference::InferenceError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::extract::Caller;
use super::models::inference;
use super::problem::Problem;
use crate::server::chain;

/// Where it is.
pub(super) const BASE: &str = "/v1";
/// Characters of a refused value that are told.
const TOLD: usize = 200;

/// The member of a [`Problem`] that names a member of the request.
const PARAM: &str = "param";

/// One text, or several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Texts {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl Texts {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Several(texts) => texts,
        }
    }
}

/// Tokens that a request used.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct Usage {
    /// Tokens that were read.
    pub prompt_tokens: u64,
    /// Tokens that were written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<u64>,
    /// Both.
    pub total_tokens: u64,
}

impl Usage {
    const fn of(prompt_tokens: u64, completion_tokens: u64) -> Self {
        Self {
            prompt_tokens,
            completion_tokens: Some(completion_tokens),
            total_tokens: prompt_tokens + completion_tokens,
        }
    }

    const fn read(prompt_tokens: u64) -> Self {
        Self {
            prompt_tokens,
            completion_tokens: None,
            total_tokens: prompt_tokens,
        }
    }
}

/// The members of an object of a request, taken one after the other. One that is `null` is
/// absent.
struct Members {
    /// What its members' names begin with: nothing, or `messages[1].`.
    at: String,
    map: Map<String, Value>,
}

impl Members {
    const fn of_body(map: Map<String, Value>) -> Self {
        Self {
            at: String::new(),
            map,
        }
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.at)
    }

    fn invalid(&self, name: &str, why: &str) -> Problem {
        let name = self.name(name);
        invalid(&name, format!("`{name}`: {why}"))
    }

    fn take_value(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// The member, where it is there.
    fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        let Some(value) = self.take_value(name) else {
            return Ok(None);
        };
        serde_json::from_value(value).map(Some).map_err(|error| {
            let told: String = error.to_string().chars().take(TOLD).collect();
            self.invalid(name, &told)
        })
    }

    fn missing(&self, name: &str) -> Problem {
        let name = self.name(name);
        Problem::invalid(format!("`{name}` is missing")).with(PARAM, name)
    }

    /// The member, which must be there.
    fn need<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, Problem> {
        self.take(name)?.ok_or_else(|| self.missing(name))
    }

    /// Members that change no answer.
    fn accept(&mut self, names: &[&str]) {
        for name in names {
            self.map.remove(*name);
        }
    }

    /// A member of which only what asks for nothing is taken.
    fn only(
        &mut self,
        name: &str,
        asks_nothing: fn(&Value) -> bool,
        why: &str,
    ) -> Result<(), Problem> {
        match self.take_value(name) {
            Some(value) if !asks_nothing(&value) => Err(unsupported(&self.name(name), why)),
            _ => Ok(()),
        }
    }

    /// Nothing may be left.
    fn end(self) -> Result<(), Problem> {
        let left = self.map.iter().find(|(_, value)| !value.is_null());
        let Some((name, _)) = left else {
            return Ok(());
        };
        let told: String = name.chars().take(TOLD).collect();
        Err(unsupported(&self.name(&told), "it is not known here"))
    }
}

/// A member's name, when it asks for nothing, and why it is refused otherwise.
type Only = (&'static str, fn(&Value) -> bool, &'static str);

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn is_one(value: &Value) -> bool {
    value.as_u64() == Some(1)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        _ => false,
    }
}

fn is_false(value: &Value) -> bool {
    value == &Value::Bool(false)
}

/// A member that is wrong.
fn invalid(param: &str, detail: impl Into<String>) -> Problem {
    Problem::new(
        axum::http::StatusCode::BAD_REQUEST,
        "invalid-value",
        "A member of the request is wrong",
        detail,
    )
    .with(PARAM, param)
}

/// A member that is refused whatever its value.
fn unsupported(param: &str, why: &str) -> Problem {
    Problem::new(
        axum::http::StatusCode::BAD_REQUEST,
        "unsupported-parameter",
        "A member of the request is not supported",
        format!("`{param}` is not supported: {why}; leave it out"),
    )
    .with(PARAM, param)
}

/// Who asks, for fairness: no plugin has such a name.
fn asker(caller: &Caller) -> heyday_inference::Caller {
    heyday_inference::Caller {
        namespace: caller.namespace.clone(),
        plugin: format!("{BASE} {}", caller.principal.name),
    }
}

fn unknown_model(name: &str) -> Problem {
    let told: String = name.chars().take(TOLD).collect();
    Problem::new(
        axum::http::StatusCode::NOT_FOUND,
        "model-not-found",
        "There is no such model",
        format!("there is no model {told}; GET {BASE}/models lists those that there are"),
    )
    .with(PARAM, "model")
}

/// What inference refuses. `input`: the member that holds the texts.
pub(super) fn refusal(error: InferenceError, input: &'static str) -> Problem {
    let detail = error.to_string();
    match error {
        InferenceError::UnknownModel(name) => unknown_model(&name),
        InferenceError::Unsupported { .. } => invalid("model", detail),
        InferenceError::InputTooLong { .. } | InferenceError::PromptTooLong { .. } => Problem::new(
            axum::http::StatusCode::BAD_REQUEST,
            "context-length-exceeded",
            "A text is too long",
            detail,
        )
        .with(PARAM, input),
        InferenceError::LimitExceeded(_) => invalid(input, detail),
        // It begins with the member that it is about, where it is about one.
        InferenceError::InvalidRequest(_) => {
            let member = detail.strip_prefix('`').and_then(|rest| {
                let (name, _) = rest.split_once(['`', '['])?;
                Some(name.to_owned())
            });
            invalid(member.as_deref().unwrap_or(input), detail)
        }
        InferenceError::Busy => Problem::new(
            axum::http::StatusCode::TOO_MANY_REQUESTS,
            "busy",
            "Too much is waiting",
            detail,
        ),
        InferenceError::OutOfMemory(_) => Problem::unavailable("out-of-memory", detail),
        InferenceError::DeviceLost | InferenceError::DeviceGone => {
            Problem::unavailable("device-lost", detail)
        }
        InferenceError::Unavailable { .. } => Problem::unavailable("model-unavailable", detail),
        InferenceError::Stopping => Problem::unavailable("shutting-down", detail),
        // Its words name files of the host.
        InferenceError::Unloadable { ref model, .. } => {
            tracing::error!(model, error = %chain(&error), "a model cannot be loaded");
            Problem::unavailable(
                "model-unavailable",
                format!("the model {model} cannot be loaded; the server's log has the cause"),
            )
        }
        InferenceError::Internal => Problem::internal(&error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn members(value: Value) -> Members {
        match value {
            Value::Object(map) => Members::of_body(map),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut body = members(json!({ "model": 5, "input": ["a"], "odd": 1, "nothing": null }));
        let wrong = body.need::<String>("model").expect_err("a number");
        assert!(wrong.detail.contains("`model`"), "{wrong:?}");
        assert_eq!(wrong.further["param"], "model");
        let missing = body.need::<String>("model").expect_err("taken");
        assert_eq!(missing.further["param"], "model");
        assert_eq!(
            body.need::<Texts>("input").expect("texts").into_vec(),
            ["a"]
        );
        body.map.insert("user".to_owned(), json!("u"));
        body.accept(&["user"]);
        let left = body.end().expect_err("one is left");
        assert_eq!(left.name, "unsupported-parameter");
        assert_eq!(left.further["param"], "odd");
        members(json!({})).end().expect("nothing");
        let long = members(json!({ "x".repeat(10_000): 1 }));
        assert!(long.end().expect_err("one is left").detail.len() < 500);
    }

    #[test]
    fn statuses_are_those_that_clients_retry_by() {
        for (error, status, retry) in [
            (InferenceError::Busy, 429, true),
            (InferenceError::DeviceLost, 503, true),
            (InferenceError::DeviceGone, 503, true),
            (InferenceError::Stopping, 503, true),
            (InferenceError::Internal, 500, false),
            (InferenceError::UnknownModel("m".to_owned()), 404, false),
            (InferenceError::LimitExceeded("x".to_owned()), 400, false),
        ] {
            let problem = refusal(error, "input");
            assert_eq!(problem.status.as_u16(), status, "{problem:?}");
            let response = error::render(&problem);
            assert_eq!(response.headers().contains_key("retry-after"), retry);
        }
        let wrong = InferenceError::InvalidRequest("`stop[3]` has 1 to 256 bytes".to_owned());
        assert_eq!(refusal(wrong, "messages").further["param"], "stop");
        let wrong = InferenceError::InvalidRequest("text 3 has no tokens".to_owned());
        assert_eq!(refusal(wrong, "messages").further["param"], "messages");
        let unloadable = refusal(
            InferenceError::Unloadable {
                model: "m".to_owned(),
                message: "/srv/models/blobs/0".to_owned(),
            },
            "input",
        );
        assert!(!unloadable.detail.contains("/srv"), "{unloadable:?}");
    }
}
