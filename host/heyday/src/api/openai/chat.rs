//! `/v1/chat/completions`: the request. `answer.rs` has what is answered.

use axum::extract::State;
use axum::response::Response;
use heyday_inference::{GenerateRequest, Message, Role};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::answer::{CompletionBody, Form, generate};
use super::error::ErrorBody;
use super::text::TextOptions;
use super::{Members, Only, is_empty, is_false, is_one, is_zero};
use crate::api::App;
use crate::api::extract::{Caller, Json};
use crate::api::problem::Problem;

/// A conversation that a model should go on with. Further members are accepted that only
/// OpenAI's own service acts on (`user`, `metadata`, `service_tier`, `safety_identifier`,
/// `prompt_cache_key`, `prompt_cache_retention`, `parallel_tool_calls`), and others as long as
/// they ask for nothing (`n` 1, penalties 0, `response_format` of `text`, no `tools`).
#[derive(Debug, Clone, PartialEq, ToSchema)]
pub struct ChatRequest {
    /// The model's name.
    pub model: String,
    /// What was said so far.
    #[schema(value_type = Vec<ChatMessage>)]
    pub messages: Vec<Message>,
    /// The most tokens of the answer; 1,024 where absent.
    pub max_completion_tokens: Option<u32>,
    /// The same by its older name; not both.
    pub max_tokens: Option<u32>,
    /// How it is drawn, where it ends, and how it comes.
    #[serde(flatten)]
    pub options: TextOptions,
}

/// What was said.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
pub struct ChatMessage {
    /// Who said it; `developer` is `system`.
    pub role: ChatRole,
    /// A text, or parts of the type `text`.
    #[schema(value_type = Content)]
    pub content: String,
}

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChatRole {
    /// The same as `system`.
    Developer,
    /// Instructions.
    System,
    /// Who asks.
    User,
    /// The model.
    Assistant,
}

/// A message's text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Part {
    Text { text: String },
}

/// Members that change no answer.
const ACCEPTED: [&str; 7] = [
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "user",
];

/// Members that may be there as long as they ask for nothing.
const ONLY: [Only; 12] = [
    ("n", is_one, "one answer is made"),
    ("frequency_penalty", is_zero, "nothing is penalized"),
    ("presence_penalty", is_zero, "nothing is penalized"),
    ("logit_bias", is_empty, "tokens are not biased"),
    ("logprobs", is_false, "probabilities are not told"),
    ("top_logprobs", is_zero, "probabilities are not told"),
    ("store", is_false, "answers are not kept"),
    ("tools", is_empty, "models call no tools here"),
    ("functions", is_empty, "models call no tools here"),
    (
        "tool_choice",
        |it| it == "none" || it == "auto",
        "models call no tools here",
    ),
    (
        "response_format",
        |it| it["type"] == "text",
        "answers are plain text",
    ),
    (
        "modalities",
        |it| {
            it.as_array()
                .is_some_and(|all| all.iter().all(|it| it == "text"))
        },
        "answers are plain text",
    ),
];

impl ChatRequest {
    fn read(mut members: Members) -> Result<Self, Problem> {
        let request = Self {
            model: members.need("model")?,
            messages: messages(&mut members)?,
            max_completion_tokens: members.take("max_completion_tokens")?,
            max_tokens: members.take("max_tokens")?,
            options: TextOptions::read(&mut members)?,
        };
        if request.max_tokens.is_some() && request.max_completion_tokens.is_some() {
            return Err(
                members.invalid("max_tokens", "the same as `max_completion_tokens`: say one")
            );
        }
        // Later it would be refused by its other name.
        if request.max_completion_tokens == Some(0) {
            return Err(members.invalid("max_completion_tokens", "1 or more"));
        }
        members.accept(&ACCEPTED);
        for (name, asks_nothing, why) in ONLY {
            members.only(name, asks_nothing, why)?;
        }
        members.end()?;
        Ok(request)
    }

    /// What it asks of the model.
    fn generate(self) -> GenerateRequest {
        GenerateRequest {
            messages: self.messages,
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            ..self.options.generate()
        }
    }
}

fn messages(members: &mut Members) -> Result<Vec<Message>, Problem> {
    let all: Vec<Map<String, Value>> = members.need("messages")?;
    if all.is_empty() {
        return Err(members.invalid("messages", "there is no message"));
    }
    let each = all.into_iter().enumerate().map(|(index, map)| {
        let mut message = Members {
            at: format!("messages[{index}]."),
            map,
        };
        let role = match message.need("role")? {
            ChatRole::Developer | ChatRole::System => Role::System,
            ChatRole::User => Role::User,
            ChatRole::Assistant => Role::Assistant,
        };
        let content = match message.need("content") {
            Ok(Content::Text(text)) => text,
            Ok(Content::Parts(parts)) => {
                parts.into_iter().map(|Part::Text { text }| text).collect()
            }
            Err(_) => {
                return Err(
                    message.invalid("content", "a text, or a list of parts of the type `text`")
                );
            }
        };
        // Of an answer that is sent back.
        message.only("annotations", is_empty, "messages have none")?;
        message.only("tool_calls", is_empty, "models call no tools here")?;
        message.end()?;
        Ok(Message { role, content })
    });
    each.collect()
}

/// Let a model answer, as OpenAI does
///
/// With `stream` the answer is server-sent events that end with `[DONE]`. A client that goes
/// away stops the model. Members that are not listed are refused by their names.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "openai", request_body = ChatRequest,
    responses((status = 200, body = CompletionBody),
        (status = 400, description = "A member is wrong, or the conversation too long", body = ErrorBody),
        (status = 404, description = "No such model", body = ErrorBody),
        (status = 429, description = "Too much is waiting", body = ErrorBody),
        (status = 503, description = "The model cannot answer now, or as many wait or stream as the server lets; ask again soon", body = ErrorBody)))]
pub(in crate::api) async fn complete(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<Map<String, Value>>,
) -> Result<Response, Problem> {
    let request = ChatRequest::read(Members::of_body(body))?;
    let stream = request.options.streamed();
    let model = request.model.clone();
    generate(app, &caller, Form::Chat, model, request.generate(), stream).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<ChatRequest, Problem> {
        match value {
            Value::Object(map) => ChatRequest::read(Members::of_body(map)),
            other => panic!("{other}"),
        }
    }

    fn with(member: &str, value: &Value) -> Value {
        let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] });
        body[member] = value.clone();
        body
    }

    #[test]
    fn a_whole_request_is_read() {
        let body = json!({
            "model": "m",
            "messages": [
                { "role": "developer", "content": [
                    { "type": "text", "text": "be " }, { "type": "text", "text": "brief" },
                ] },
                { "role": "user", "content": "hi" },
                { "role": "assistant", "content": "hello", "tool_calls": null, "annotations": [] },
            ],
            "max_completion_tokens": 7, "stop": "\n", "temperature": 0, "top_p": 0.5, "top_k": 3,
            "seed": 9, "stream": true, "stream_options": { "include_usage": true },
            "n": 1, "presence_penalty": 0.0, "response_format": { "type": "text" }, "tools": [],
            "user": "u", "metadata": { "a": "b" }, "logprobs": null,
        });
        let request = read(body).expect("all of it is known");
        assert_eq!(request.options.streamed(), Some(true));
        let asked = request.generate();
        assert_eq!(asked.messages[0].role, Role::System);
        assert_eq!(asked.messages[0].content, "be brief");
        assert_eq!(asked.messages[2].role, Role::Assistant);
        assert_eq!(
            (asked.max_tokens, asked.seed, asked.top_k),
            (Some(7), Some(9), Some(3))
        );
        assert_eq!(
            (asked.temperature, asked.stop),
            (Some(0.0), vec!["\n".to_owned()])
        );
        let older = read(with("max_tokens", &json!(5))).expect("known");
        assert_eq!(older.generate().max_tokens, Some(5));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_its_name() {
        for (member, value) in [
            ("n", json!(2)),
            ("frequency_penalty", json!(0.1)),
            ("presence_penalty", json!(-1)),
            ("logit_bias", json!({ "1": 5 })),
            ("logprobs", json!(true)),
            ("top_logprobs", json!(3)),
            ("store", json!(true)),
            ("tools", json!([{ "type": "function" }])),
            ("functions", json!([{}])),
            ("tool_choice", json!("required")),
            ("response_format", json!({ "type": "json_object" })),
            ("modalities", json!(["text", "audio"])),
            ("reasoning_effort", json!("high")),
            ("web_search_options", json!({})),
        ] {
            let problem = read(with(member, &value)).expect_err(member);
            assert_eq!(problem.name, "unsupported-parameter", "{problem:?}");
            assert_eq!(problem.further["param"], member, "{problem:?}");
        }
        let image = json!([{ "role": "user", "content": [
            { "type": "image_url", "image_url": { "url": "http://127.0.0.1/" } },
        ] }]);
        let called = json!([{ "role": "assistant", "content": "", "tool_calls": [{}] }]);
        let by_tool = json!([{ "role": "tool", "content": "5" }]);
        for (member, value, param) in [
            ("messages", json!([]), "messages"),
            ("messages", json!("hi"), "messages"),
            ("messages", image, "messages[0].content"),
            ("messages", called, "messages[0].tool_calls"),
            ("messages", by_tool, "messages[0].role"),
            (
                "messages",
                json!([{ "role": "user" }]),
                "messages[0].content",
            ),
            (
                "messages",
                json!([{ "role": "user", "content": "a", "name": "n" }]),
                "messages[0].name",
            ),
            ("seed", json!(-1), "seed"),
            ("max_completion_tokens", json!(0), "max_completion_tokens"),
        ] {
            let problem = read(with(member, &value)).expect_err(param);
            assert_eq!(problem.further["param"], param, "{problem:?}");
        }
        let mut both = with("max_tokens", &json!(5));
        both["max_completion_tokens"] = json!(5);
        read(both).expect_err("both names");
    }
}
