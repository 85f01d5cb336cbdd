//! The answer of `/v1/chat/completions` and of `/v1/completions`: whole, or piece by piece.
//!
//! A stream owns its generation, so that a client that goes away stops it. What was
//! generated is counted when it is dropped, whichever way it ended.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json as JsonAnswer;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::stream;
use heyday_inference::{FinishReason, GenerateRequest, Generation, InferenceError};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Usage, asker, error, inference, refusal};
use crate::api::App;
use crate::api::extract::Caller;
use crate::api::problem::Problem;

/// A comment is sent after so long without a piece, so that nobody between closes.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The last event of a stream.
const DONE: &str = "[DONE]";
/// Who says an answer.
const ASSISTANT: &str = "assistant";

/// How an answer is streamed.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct StreamOptions {
    /// Whether the last piece says what was used.
    pub(super) include_usage: bool,
    /// Accepted, and changes nothing: pieces are not padded.
    #[allow(dead_code, reason = "it is read to be accepted")]
    include_obfuscation: bool,
}

/// A whole answer, or a piece of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompletionBody {
    /// Its id.
    pub id: String,
    /// `chat.completion`; of a stream's pieces `chat.completion.chunk`. Of a text that was
    /// continued `text_completion`.
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
    /// How a text goes on, or the next piece of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// `stop` or `length`; null in pieces before the last.
    #[schema(value_type = Option<String>)]
    pub finish_reason: Option<FinishReason>,
    /// Null.
    pub logprobs: Option<()>,
}

/// What the model says.
#[derive(Debug, Serialize, ToSchema)]
pub struct Said {
    /// `assistant`; in a stream in the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// The text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// What is asked: each has a form of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The answer in a conversation.
    Chat,
    /// How a text goes on.
    Text,
}

impl Form {
    /// As traces name it.
    const fn operation(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Text => "text_completion",
        }
    }

    /// The member of the request that has what is read.
    const fn input(self) -> &'static str {
        match self {
            Self::Chat => "messages",
            Self::Text => "prompt",
        }
    }

    const fn object(self, whole: bool) -> &'static str {
        match (self, whole) {
            (Self::Chat, true) => "chat.completion",
            (Self::Chat, false) => "chat.completion.chunk",
            (Self::Text, _) => "text_completion",
        }
    }

    fn id(self) -> String {
        let kind = match self {
            Self::Chat => "chatcmpl",
            Self::Text => "cmpl",
        };
        format!("{kind}-{}", Uuid::now_v7().simple())
    }

    /// A piece; none at the end of all of them.
    fn piece(self, text: Option<String>, finish_reason: Option<FinishReason>) -> Choice {
        let mut choice = Choice {
            index: 0,
            message: None,
            delta: None,
            text: None,
            finish_reason,
            logprobs: None,
        };
        match self {
            Self::Chat => {
                choice.delta = Some(Said {
                    role: None,
                    content: text,
                });
            }
            Self::Text => choice.text = Some(text.unwrap_or_default()),
        }
        choice
    }
}

/// Asks a model, and answers whole or, where that is given, piece by piece: then it says whether the
/// last piece tells what was used.
pub(super) async fn generate(
    app: App,
    caller: &Caller,
    form: Form,
    model: String,
    request: GenerateRequest,
    stream: Option<bool>,
) -> Result<Response, Problem> {
    let inference = inference(&app)?;
    let place = app.waiting_place()?;
    let span = tracing::debug_span!(
        "generate",
        otel.name = %format!("{} {model}", form.operation()),
        gen_ai.operation.name = form.operation(),
        gen_ai.request.model = model,
        gen_ai.usage.input_tokens = tracing::field::Empty,
        gen_ai.usage.output_tokens = tracing::field::Empty,
    );
    let asked = inference.generate(asker(caller), &model, request);
    let generation = asked.instrument(span.clone()).await;
    let generation = generation.map_err(|error| refusal(error, form.input()))?;
    let answer = Answer {
        id: form.id(),
        created: Timestamp::now().as_second(),
        app,
        form,
        model,
        generation,
        span,
        _place: place,
    };
    match stream {
        Some(include_usage) => Ok(answer.streamed(include_usage)),
        None => answer.whole().await,
    }
}

/// A generation that is being answered.
struct Answer {
    app: App,
    form: Form,
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
    fn body(
        &self,
        object: &'static str,
        choice: Option<Choice>,
        usage: Option<Usage>,
    ) -> CompletionBody {
        CompletionBody {
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
        next.map_err(|error| refusal(error, self.form.input()))
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
    async fn whole(mut self) -> Result<Response, Problem> {
        let mut text = String::new();
        while let Some(piece) = self.next().await? {
            text.push_str(&piece);
        }
        let (finish_reason, usage) = self.end();
        let mut choice = self.form.piece(Some(text), finish_reason);
        if let Some(said) = choice.delta.take() {
            choice.message = Some(Said {
                role: Some(ASSISTANT),
                ..said
            });
        }
        let object = self.form.object(true);
        Ok(JsonAnswer(self.body(object, Some(choice), usage)).into_response())
    }

    fn piece(&self, choice: Choice) -> Event {
        event(&self.body(self.form.object(false), Some(choice), None))
    }

    /// Piece by piece.
    fn streamed(self, include_usage: bool) -> Response {
        let form = self.form;
        let first = match form {
            Form::Chat => Step::Begin,
            Form::Text => Step::Pieces,
        };
        let events = stream::unfold((self, first), move |(mut answer, step)| async move {
            let (event, next) = match step {
                Step::Begin => {
                    let mut choice = form.piece(Some(String::new()), None);
                    if let Some(said) = &mut choice.delta {
                        said.role = Some(ASSISTANT);
                    }
                    (answer.piece(choice), Step::Pieces)
                }
                Step::Pieces => match answer.next().await {
                    Ok(Some(text)) => (answer.piece(form.piece(Some(text), None)), Step::Pieces),
                    Ok(None) => {
                        let (reason, _) = answer.end();
                        let next = if include_usage {
                            Step::Usage
                        } else {
                            Step::Done
                        };
                        (answer.piece(form.piece(None, reason)), next)
                    }
                    // The status is sent already: the error is an event, and the end.
                    Err(problem) => (event(&error::body(&problem)), Step::End),
                },
                Step::Usage => {
                    let (_, usage) = answer.end();
                    let body = answer.body(form.object(false), None, usage);
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
