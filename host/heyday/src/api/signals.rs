//! `/workflows/{workflow_id}/signals`: events for a run.

use axum::Json as JsonAnswer;
use axum::extract::State;
use bytes::Bytes;
use heyday_durable::payload::Payload;
use heyday_durable::signal::Signal;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::extract::{IdempotencyKey, Json, check_json};
use super::problem::Problem;
use super::runs::RunPath;

/// A signal: a CloudEvent for the run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalBody {
    /// Its name, the event's `type`: 1 to 1,000 bytes.
    #[schema(example = "approve")]
    pub name: String,
    /// The event's `id`: a run takes the same one once. The Idempotency-Key where absent,
    /// else a new one.
    #[serde(default)]
    pub id: Option<String>,
    /// The event's `data`: any JSON.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    pub data: Option<Box<RawValue>>,
    /// Further attributes of the event: `source`, `subject`, `time`, extensions. Names are
    /// lower-case letters and digits, values texts, booleans and integers.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub attributes: Map<String, Value>,
}

impl SignalBody {
    /// The signal. `key` is its id where it names none.
    ///
    /// # Errors
    /// When its data nests too deep.
    pub(super) fn signal(self, key: Option<&str>) -> Result<Signal, Problem> {
        let data = match self.data {
            None => Payload::null(),
            Some(raw) => {
                let text = Bytes::from(String::from(Box::<str>::from(raw)));
                check_json(&text)?;
                Payload::json_bytes(text)
            }
        };
        Ok(Signal {
            name: self.name,
            id: self
                .id
                .or_else(|| key.map(str::to_owned))
                .unwrap_or_else(|| Uuid::now_v7().to_string()),
            attributes: self.attributes,
            data,
        })
    }
}

/// A signal that a run has.
#[derive(Debug, Serialize, ToSchema)]
pub struct SignaledBody {
    /// The workflow id.
    pub workflow_id: String,
    /// The signal's id.
    pub id: String,
}

/// Send a signal to an open run
///
/// When it is answered, the run has the signal until a task listens for it, whatever
/// happens to the server. The same id again changes nothing.
#[utoipa::path(post, path = "/workflows/{workflow_id}/signals", tag = "workflows",
    params(("workflow_id" = String, Path, description = "The caller's id, percent-encoded"),
        ("Idempotency-Key" = Option<String>, Header, description = "The signal's id, where the body names none")),
    request_body = SignalBody,
    responses((status = 200, description = "The run has it", body = SignaledBody),
        (status = 404, body = Problem, description = "No such run", content_type = "application/problem+json"),
        (status = 409, body = Problem, description = "It has ended, or takes no more signals", content_type = "application/problem+json"),
        (status = 413, body = Problem, description = "It is larger than 2 MiB", content_type = "application/problem+json")))]
pub(super) async fn send(
    State(app): State<App>,
    RunPath(run): RunPath,
    IdempotencyKey(key): IdempotencyKey,
    Json(body): Json<SignalBody>,
) -> Result<JsonAnswer<SignaledBody>, Problem> {
    let signal = body.signal(key.as_deref())?;
    let id = signal.id.clone();
    app.engine.signal(&run, signal).await?;
    Ok(JsonAnswer(SignaledBody {
        workflow_id: run.workflow_id,
        id,
    }))
}
