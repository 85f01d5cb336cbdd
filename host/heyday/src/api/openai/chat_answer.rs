//! The answer of `/v1/chat/completions`: whole, or piece by piece.
//!
//! A stream owns its generation, so that a client that goes away stops it. What was
//! generated is counted when it is dropped, whichever way it ended.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json as JsonAnswer;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::stream;
use heyday_inference::{FinishReason, Generation, InferenceError};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Usage, error, refusal};
use crate::api::App;
use crate::api::problem::Problem;

/// A comment is sent after so long without a piece, so that nobody between closes.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The last event of a stream.
const DONE: &str = "[DONE]";

/// A whole answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatBody {
    /// Its id.
    pub id: String,
    /// `chat.completion`; of a stream's pieces `chat.completion.chunk`.
    pub object: &'static str,
    /// When it was begun: seconds since the Unix epoch.
    pub created: i64,
    /// The model's name.
    pub model: String,
    /// One; none in a stream's last piece.
    pub choices: Vec<Choice>,
    /// What was used; in a stream only where that was asked for, and then in its last piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// An answer, or a piece of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Choice {
    /// 0.
    pub index: usize,
    /// It, where it is whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Said>,
    /// The next piece of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<Said>,
    /// `stop` or `length`; null in pieces before the last.
    #[schema(value_type = Option<String>)]
    pub finish_reason: Option<FinishReason>,
    /// Null.
    pub logprobs: Option<()>,
}

/// What the model says.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Said {
    /// `assistant`; in a stream in the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// The text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// A generation that is being answered.
pub(super) struct Answer {
    app: App,
    id: String,
    created: i64,
    model: String,
    generation: Generation,
    span: tracing::Span,
    _place: OwnedSemaphorePermit,
}

impl Drop for Answer {
    fn drop(&mut self) {
        let used = self.generation.usage();
        self.span
            .record("gen_ai.usage.input_tokens", used.prompt_tokens);
        self.span
            .record("gen_ai.usage.output_tokens", used.completion_tokens);
        let metrics = &self.app.metrics;
        metrics.model_tokens(&self.model, "input", used.prompt_tokens);
        metrics.model_tokens(&self.model, "output", used.completion_tokens);
    }
}

/// Where a stream is.
enum Step {
    Begin,
    Pieces,
    Usage,
    Done,
    End,
}

impl Answer {
    pub(super) fn new(
        app: App,
        model: String,
        generation: Generation,
        span: tracing::Span,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            app,
            id: format!("chatcmpl-{}", Uuid::now_v7().simple()),
            created: Timestamp::now().as_second(),
            model,
            generation,
            span,
            _place: place,
        }
    }

    fn body(&self, object: &'static str, choice: Option<Choice>, usage: Option<Usage>) -> ChatBody {
        ChatBody {
            id: self.id.clone(),
            object,
            created: self.created,
            model: self.model.clone(),
            choices: choice.into_iter().collect(),
            usage,
        }
    }

    /// The text that came next; none at its end.
    async fn next(&mut self) -> Result<Option<String>, Problem> {
        let stopping: CancellationToken = self.app.stopping.clone();
        let next = tokio::select! {
            next = self.generation.next() => next,
            () = stopping.cancelled() => Err(InferenceError::Stopping),
        };
        next.map_err(|error| refusal(error, "messages"))
    }

    /// Why it ended, and what it used.
    fn end(&self) -> (Option<FinishReason>, Option<Usage>) {
        let summary = self.generation.summary();
        (
            summary.map(|it| it.finish_reason),
            summary.map(|it| Usage::of(it.prompt_tokens, it.completion_tokens)),
        )
    }

    /// All of it at once.
    pub(super) async fn whole(mut self) -> Result<Response, Problem> {
        let mut text = String::new();
        while let Some(piece) = self.next().await? {
            text.push_str(&piece);
        }
        let (finish_reason, usage) = self.end();
        let choice = Choice {
            index: 0,
            message: Some(Said {
                role: Some("assistant"),
                content: Some(text),
            }),
            delta: None,
            finish_reason,
            logprobs: None,
        };
        Ok(JsonAnswer(self.body("chat.completion", Some(choice), usage)).into_response())
    }

    fn piece(&self, delta: Said, finish_reason: Option<FinishReason>) -> Event {
        let choice = Choice {
            index: 0,
            message: None,
            delta: Some(delta),
            finish_reason,
            logprobs: None,
        };
        event(&self.body("chat.completion.chunk", Some(choice), None))
    }

    /// Piece by piece.
    pub(super) fn streamed(self, include_usage: bool) -> Response {
        let events = stream::unfold((self, Step::Begin), move |(mut answer, step)| async move {
            let (event, next) = match step {
                Step::Begin => {
                    let said = Said {
                        role: Some("assistant"),
                        content: Some(String::new()),
                    };
                    (answer.piece(said, None), Step::Pieces)
                }
                Step::Pieces => match answer.next().await {
                    Ok(Some(text)) => {
                        let said = Said {
                            role: None,
                            content: Some(text),
                        };
                        (answer.piece(said, None), Step::Pieces)
                    }
                    Ok(None) => {
                        let (reason, _) = answer.end();
                        let next = if include_usage {
                            Step::Usage
                        } else {
                            Step::Done
                        };
                        (answer.piece(Said::default(), reason), next)
                    }
                    // The status is sent already: the error is an event, and the end.
                    Err(problem) => (event(&error::body(&problem)), Step::End),
                },
                Step::Usage => {
                    let (_, usage) = answer.end();
                    let body = answer.body("chat.completion.chunk", None, usage);
                    (event(&body), Step::Done)
                }
                Step::Done => (Event::default().data(DONE), Step::End),
                Step::End => return None,
            };
            Some((Ok::<_, Infallible>(event), (answer, next)))
        });
        Sse::new(events)
            .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
            .into_response()
    }
}

/// An event of JSON, which has no line breaks.
fn event(data: &impl Serialize) -> Event {
    // Strings and numbers cannot fail to be written.
    Event::default().data(serde_json::to_string(data).unwrap_or_default())
}
