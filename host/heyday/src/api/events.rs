//! Events for whoever waits for them: `/events`.

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::StatusCode;
use heyday_durable::signal::Signal;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::extract::{Caller, IdempotencyKey, Json};
use super::problem::Problem;
use crate::schedules::FlowScheduleError;

/// Who got an event.
#[derive(Debug, Serialize, ToSchema)]
pub struct PublishedBody {
    /// The event's id.
    pub id: String,
    /// The flows whose `schedule.on` may be about it.
    pub flows: Vec<String>,
}

/// Send an event to the flows that events start
///
/// A CloudEvent as JSON (its `application/cloudevents+json`). When it is answered, each of
/// the flows has it, whatever happens to the server; the same `id` of the same `source`
/// again changes nothing. Flows whose filters do not fit it are not started by it.
#[utoipa::path(post, path = "/events", tag = "workflows",
    params(("Idempotency-Key" = Option<String>, Header, description = "The event's id, where it names none")),
    request_body(content = Object, description = "`type` is needed; `id`, `source`, `subject`, `time`, `data` and extensions are not",
        example = json!({"specversion": "1.0", "type": "com.example.uploaded", "source": "/inbox", "id": "7", "data": {"key": "a.pdf"}})),
    responses((status = 202, description = "They have it", body = PublishedBody),
        (status = 400, body = Problem, description = "It is no CloudEvent", content_type = "application/problem+json"),
        (status = 413, body = Problem, description = "It is larger than 2 MiB", content_type = "application/problem+json"),
        (status = 503, body = Problem, description = "Not all of them have it; send it again with the same id", content_type = "application/problem+json")))]
pub(super) async fn publish(
    State(app): State<App>,
    caller: Caller,
    IdempotencyKey(key): IdempotencyKey,
    Json(event): Json<Map<String, Value>>,
) -> Result<(StatusCode, JsonAnswer<PublishedBody>), Problem> {
    let event = signal(event, key)?;
    let flows = app
        .flow_schedules
        .publish(&caller.namespace, &event)
        .await
        .map_err(|error| match error {
            FlowScheduleError::Engine(error) => error.into(),
            FlowScheduleError::Flow(_) => Problem::internal(&error),
        })?;
    let body = PublishedBody {
        id: event.id,
        flows,
    };
    Ok((StatusCode::ACCEPTED, JsonAnswer(body)))
}

/// What a CloudEvent is for a run.
fn signal(mut event: Map<String, Value>, key: Option<String>) -> Result<Signal, Problem> {
    if let Some(version) = event.get("specversion")
        && version != "1.0"
    {
        return Err(Problem::invalid(format!(
            "specversion {version} is not supported; events are CloudEvents 1.0"
        )));
    }
    if event.contains_key("data_base64") {
        return Err(Problem::invalid(
            "data_base64 is not supported; send JSON in `data`, and large or binary data as the key of a blob",
        ));
    }
    for name in ["type", "id"] {
        if event.get(name).is_some_and(|value| !value.is_string()) {
            return Err(Problem::invalid(format!("an event's {name} is a text")));
        }
    }
    if !event.contains_key("type") {
        return Err(Problem::invalid("an event has a `type`"));
    }
    event.entry("id").or_insert_with(|| {
        let id = key.unwrap_or_else(|| Uuid::now_v7().to_string());
        id.into()
    });
    let signal = Signal::of_event(&Value::Object(event));
    let signal = signal.ok_or_else(|| Problem::invalid("an event has a `type` and an `id`"))?;
    signal.check().map_err(|error| {
        let error: heyday_durable::engine::EngineError = error.into();
        Problem::from(error)
    })?;
    Ok(signal)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(event: Value, key: Option<&str>) -> Result<Signal, Problem> {
        let event = serde_json::from_value(event).expect("an object");
        signal(event, key.map(str::to_owned))
    }

    #[test]
    fn an_event_is_read_and_gets_an_id() {
        let event = json!({"specversion": "1.0", "type": "a", "source": "/s", "data": {"n": 1}});
        let keyed = read(event.clone(), Some("k")).expect("an event");
        assert_eq!((keyed.name.as_str(), keyed.id.as_str()), ("a", "k"));
        assert_eq!(keyed.attributes["source"], "/s");
        assert!(!keyed.attributes.contains_key("specversion"));
        let (one, other) = (read(event.clone(), None), read(event, None));
        assert_ne!(one.expect("an event").id, other.expect("an event").id);
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for wrong in [
            json!({}),
            json!({"type": 7}),
            json!({"type": "a", "id": 7}),
            json!({"type": ""}),
            json!({"type": "__a"}),
            json!({"type": "a", "specversion": "0.3"}),
            json!({"type": "a", "data_base64": "AA=="}),
            json!({"type": "a", "Source": "/s"}),
            json!({"type": "a", "source": {}}),
            json!({"type": "a", "time": "noon"}),
        ] {
            assert!(read(wrong.clone(), None).is_err(), "{wrong}");
        }
    }
}
