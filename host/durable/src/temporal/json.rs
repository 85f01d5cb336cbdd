//! Temporal's histories as Temporal's JSON, both ways.
//!
//! The mapping is protobuf's own, by the descriptors of Temporal's messages. What else
//! Temporal's tools write is read as well: types of events in capitals and small letters
//! (`WorkflowExecutionStarted`), and payloads in short, as plain JSON.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor,
    SerializeOptions,
};
use serde_json::{Map, Value, json};

use super::sdk;
use crate::payload::{BINARY_NULL, JSON_PLAIN};

/// The message of one event.
const EVENT: &str = "temporal.api.history.v1.HistoryEvent";
const PAYLOADS: &str = "temporal.api.common.v1.Payloads";
const PAYLOAD: &str = "temporal.api.common.v1.Payload";

/// What a payload that is written in full may have.
const PAYLOAD_MEMBERS: [&str; 3] = ["metadata", "data", "externalPayloads"];

/// The descriptor of an event, or why there is none.
static DESCRIPTOR: LazyLock<Result<MessageDescriptor, String>> = LazyLock::new(|| {
    let bytes = include_bytes!(env!("HEYDAY_TEMPORAL_DESCRIPTORS"));
    let pool = DescriptorPool::decode(bytes.as_slice()).map_err(|error| error.to_string())?;
    pool.get_message_by_name(EVENT)
        .ok_or_else(|| format!("there is no message {EVENT}"))
});

/// Reads one event.
///
/// # Errors
/// With what is wrong with it.
pub fn read_event(mut event: Value) -> Result<sdk::HistoryEvent, String> {
    let descriptor = DESCRIPTOR.clone()?;
    complete(&mut event, &descriptor);
    let kind = event.get("eventType").cloned();
    // A newer cluster may say more.
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(descriptor, event, &options)
        .map_err(|error| error.to_string())?;
    let event = sdk::HistoryEvent::decode(message.encode_to_vec().as_slice())
        .map_err(|error| error.to_string())?;
    match kind {
        // It was passed over, as all that is unknown.
        Some(kind) if event.event_type == 0 => Err(format!("its type {kind} is not known")),
        _ => Ok(event),
    }
}

/// Writes one event.
///
/// # Errors
/// Where it is none that the descriptors know.
pub fn write_event(event: &sdk::HistoryEvent) -> Result<Value, String> {
    let descriptor = DESCRIPTOR.clone()?;
    let bytes = event.encode_to_vec();
    let message = DynamicMessage::decode(descriptor, bytes.as_slice());
    message
        .map_err(|error| error.to_string())?
        .serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new())
        .map_err(|error| error.to_string())
}

/// Makes protobuf's JSON of what is written in short.
fn complete(value: &mut Value, of: &MessageDescriptor) {
    match of.full_name() {
        PAYLOADS => {
            if let Value::Array(list) = value {
                *value = json!({ "payloads": std::mem::take(list) });
            }
        }
        PAYLOAD => return complete_payload(value),
        _ => {}
    }
    let Value::Object(members) = value else {
        return;
    };
    for (name, member) in members {
        let field = of
            .get_field_by_json_name(name)
            .or_else(|| of.get_field_by_name(name));
        if let Some(field) = field {
            complete_field(member, &field);
        }
    }
}

fn complete_field(value: &mut Value, field: &FieldDescriptor) {
    let each: Box<dyn Iterator<Item = &mut Value>> = match value {
        Value::Array(list) if field.is_list() => Box::new(list.iter_mut()),
        Value::Object(map) if field.is_map() => Box::new(map.values_mut()),
        one => Box::new(std::iter::once(one)),
    };
    let kind = match field.kind() {
        Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
        kind => kind,
    };
    match kind {
        Kind::Message(message) => {
            let in_list = field.is_list() || field.is_map();
            for one in each {
                // An absent member is null; an element is a null payload.
                if in_list || !one.is_null() {
                    complete(one, &message);
                }
            }
        }
        Kind::Enum(options) => {
            for one in each {
                let Some(text) = one.as_str() else { continue };
                if options.get_value_by_name(text).is_some() {
                    continue;
                }
                let known = options
                    .values()
                    .find(|option| in_short(option.name(), text));
                if let Some(known) = known {
                    *one = known.name().into();
                }
            }
        }
        _ => {}
    }
}

/// Whether `EVENT_TYPE_TIMER_FIRED` ends with the words of `TimerFired`.
fn in_short(name: &str, short: &str) -> bool {
    let mut words = String::new();
    for letter in short.chars() {
        if letter.is_ascii_uppercase() {
            words.push('_');
        }
        words.push(letter.to_ascii_uppercase());
    }
    words.starts_with('_') && name.ends_with(&words)
}

fn complete_payload(value: &mut Value) {
    let is_whole = |members: &Map<String, Value>| {
        members.contains_key("metadata")
            && members
                .keys()
                .all(|name| PAYLOAD_MEMBERS.contains(&name.as_str()))
    };
    if value.as_object().is_some_and(is_whole) {
        return;
    }
    let encoded = |text: &str| BASE64.encode(text);
    *value = if value.is_null() {
        json!({ "metadata": { "encoding": encoded(BINARY_NULL) } })
    } else {
        let data = encoded(&value.to_string());
        json!({ "metadata": { "encoding": encoded(JSON_PLAIN) }, "data": data })
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started() -> Value {
        json!({
            "eventId": "1", "eventTime": "2026-11-27T10:00:00.5Z",
            "eventType": "EVENT_TYPE_WORKFLOW_EXECUTION_STARTED",
            "workflowExecutionStartedEventAttributes": {
                "workflowType": { "name": "test.flow" },
                "workflowRunTimeout": "30s",
                "input": { "payloads": [{
                    "metadata": { "encoding": BASE64.encode(JSON_PLAIN) },
                    "data": BASE64.encode("{\"n\":3}"),
                }] },
            },
        })
    }

    #[test]
    fn an_event_is_read_and_written_alike() {
        let event = read_event(started()).unwrap();
        assert_eq!(event.event_id, 1);
        assert_eq!(event.event_time.unwrap().nanos, 500_000_000);
        let Some(sdk::Attributes::WorkflowExecutionStartedEventAttributes(start)) =
            &event.attributes
        else {
            panic!("another event: {event:?}");
        };
        assert_eq!(start.workflow_run_timeout.unwrap().seconds, 30);
        assert_eq!(start.input.as_ref().unwrap().payloads[0].data, b"{\"n\":3}");
        let written = write_event(&event).unwrap();
        assert_eq!(read_event(written.clone()).unwrap(), event);
        assert_eq!(written["eventType"], started()["eventType"]);
    }

    #[test]
    fn what_is_written_in_short_is_read() {
        let mut short = started();
        short["eventType"] = json!("WorkflowExecutionStarted");
        short["somethingNew"] = json!({ "a": 1 });
        let attributes = &mut short["workflowExecutionStartedEventAttributes"];
        attributes["input"] = json!([{ "n": 3 }, null]);
        attributes["memo"] = json!({ "fields": { "data": { "data": 1 } } });
        let event = read_event(short).unwrap();
        assert_eq!(event.event_type, 1);
        let Some(sdk::Attributes::WorkflowExecutionStartedEventAttributes(start)) =
            event.attributes
        else {
            panic!("another event");
        };
        let input = start.input.unwrap().payloads;
        assert_eq!(input[0].data, b"{\"n\":3}");
        assert_eq!(input[1].metadata["encoding"], BINARY_NULL.as_bytes());
        assert_eq!(start.memo.unwrap().fields["data"].data, b"{\"data\":1}");
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for event in [
            json!(7),
            json!({ "eventId": "seven" }),
            json!({ "eventTime": "yesterday" }),
        ] {
            read_event(event).unwrap_err();
        }
        let unknown = json!({ "eventType": "EVENT_TYPE_OF_TOMORROW" });
        let error = read_event(unknown).unwrap_err();
        assert!(error.contains("TOMORROW"), "{error}");
    }
}
