//! What is read of files, and what counts as a difference.

use prost::Message as _;
use serde_json::{Value, json};

use super::*;
use crate::embedded::events::{Event, EventType, Transition};

fn event(kind: EventType, id: &str) -> Event {
    Event::new(kind, jiff::Timestamp::UNIX_EPOCH, id)
}

fn file(transitions: &[Transition]) -> Value {
    use base64::Engine as _;
    let encode = |transition: &Transition| {
        base64::engine::general_purpose::STANDARD.encode(transition.encode_to_vec())
    };
    let transitions: Vec<String> = transitions.iter().map(encode).collect();
    json!({ "format": FORMAT, "transitions": transitions })
}

#[test]
fn an_event_of_a_newer_release_is_told_from_damage() {
    let first = Transition {
        activation_us: 0,
        events: vec![Event {
            kind: 999,
            ..Event::default()
        }],
        ..Transition::default()
    };
    let error = RecordedHistory::from_json(file(&[first])).unwrap_err();
    assert!(matches!(error, HistoryError::Newer(_)), "{error}");
    let timer = Transition {
        activation_us: 1,
        events: vec![event(EventType::TimerStarted, "1")],
        ..Transition::default()
    };
    let error = RecordedHistory::from_json(file(&[timer])).unwrap_err();
    assert!(matches!(error, HistoryError::Damaged(_)), "{error}");
    // Without its start, which only a first event has.
    let started = Transition {
        activation_us: 1,
        events: vec![event(EventType::WorkflowExecutionStarted, "default")],
        ..Transition::default()
    };
    let error = RecordedHistory::from_json(file(&[started])).unwrap_err();
    assert!(matches!(error, HistoryError::Damaged(_)), "{error}");
}

#[test]
fn what_is_too_large_says_how_much_is_allowed() {
    let error = RecordedHistory::parse(&vec![b' '; MAX_BYTES + 1]).unwrap_err();
    assert!(matches!(
        error,
        HistoryError::TooLarge {
            limit: MAX_BYTES,
            ..
        }
    ));
    let error = RecordedHistory::parse(b"{\"events\": [").unwrap_err();
    assert!(matches!(error, HistoryError::NotJson(_)), "{error}");
}

#[test]
fn how_much_is_compared_depends_on_the_definition() {
    let recorded = Event {
        task: "/do/0/a".to_owned(),
        name: "t.echo".to_owned(),
        queue: "general-queue".to_owned(),
        ..event(EventType::ActivityTaskScheduled, "1")
    };
    let moved = Event {
        task: "/do/1/a".to_owned(),
        ..recorded.clone()
    };
    let queued = Event {
        queue: "storage-queue".to_owned(),
        ..moved.clone()
    };
    let other = Event {
        name: "t.other".to_owned(),
        ..queued.clone()
    };
    let between = |expected: &Event, strictness| {
        Difference::between(7, &recorded, expected, strictness).map(|found| found.members)
    };
    assert_eq!(between(&recorded, Strictness::Bits), None);
    assert_eq!(between(&moved, Strictness::Bits), Some(vec!["task"]));
    assert_eq!(between(&moved, Strictness::Values), None);
    assert_eq!(between(&queued, Strictness::Values), Some(vec!["queue"]));
    assert_eq!(between(&queued, Strictness::Commands), None);
    assert_eq!(between(&other, Strictness::Commands), Some(Vec::new()));
    let difference = Difference::between(7, &recorded, &other, Strictness::Commands).unwrap();
    assert_eq!(
        difference.message,
        "replay differs at event 7: the history has ActivityTaskScheduled \"1\" of \"t.echo\" at \
         /do/0/a, and the workflow now commands ActivityTaskScheduled \"1\" of \"t.other\" at /do/1/a"
    );
}
