//! Emitting events.

use super::*;
use crate::flow::error::EXPRESSION;

fn emit(with: &str, further: &str) -> String {
    format!(
        "\n  - e: {{emit: {{event: {{with: {with}}}}}{further}}}\n  - after: {{set: {{got: \"${{ . }}\"}}}}\n"
    )
}

fn told(signal_id: u32, outcome: Result<(), Failure>) -> Resolution {
    Resolution::ExternalSignaled {
        signal_id: signal_id.to_string(),
        outcome,
    }
}

#[test]
fn the_event_is_the_output_and_is_recorded() {
    let with = "{source: 'https://x.test/{id}', type: t.made, data: {a: '${ .id }'}, room: 7, subject: '${ .none }'}";
    let fed = Fed::new(&emit(with, ""), json!({"id": "ä"}));
    let event = json!({
        "specversion": "1.0",
        "id": format!("{}-1", Uuid::from_u128(7)),
        "source": "https://x.test/%C3%A4",
        "type": "t.made",
        "time": timestamp(0).to_string(),
        "room": 7,
        "data": {"a": "ä"},
    });
    let Command::Emit {
        event: emitted,
        task,
    } = &fed.commands[0]
    else {
        panic!("{:?}", fed.commands)
    };
    assert_eq!(
        (emitted.to_json().unwrap(), task.as_str()),
        (event.clone(), "/do/0/e")
    );
    assert_eq!(fed.result(), json!({"got": event}));
}

#[test]
fn an_event_for_nobody_is_recorded() {
    let with = "{source: s, type: t}";
    let fed = Fed::new(&emit(with, ", metadata: {heyday: {to: []}}"), json!({}));
    assert!(matches!(
        fed.commands[..],
        [Command::Emit { .. }, Command::Complete { .. }]
    ));
}

#[test]
fn what_the_flow_gives_goes_over_the_defaults() {
    let with = "{source: /sensors, type: '${ .t }', id: mine, time: '2026-01-01T00:00:00Z'}";
    let fed = Fed::new(&emit(with, ""), json!({"t": "x"}));
    assert_eq!(
        fed.result(),
        json!({"got": {
            "specversion": "1.0", "id": "mine", "source": "/sensors", "type": "x",
            "time": "2026-01-01T00:00:00Z",
        }})
    );
}

#[test]
fn ids_differ_and_are_the_same_on_replay() {
    let tasks = "\n  - l: {for: {in: '${ .n }'}, do: [{e: {emit: {event: {with: {source: s, type: t}}}}}, {w: {wait: PT1S}}]}\n";
    let mut fed = Fed::new(tasks, json!({"n": [1, 2]}));
    fed.later(1_000, fired(1));
    let ids: Vec<_> = fed
        .log
        .iter()
        .flat_map(|(_, commands)| commands)
        .filter_map(|command| match command {
            Command::Emit { event, .. } => Some(event.to_json().unwrap()["id"].clone()),
            _ => None,
        })
        .collect();
    assert_eq!(ids.len(), 2);
    assert_ne!(ids[0], ids[1]);
    let mut again = driver(&fed.start);
    for (activation, commands) in &fed.log {
        assert_eq!(&again.activate(activation.clone()).unwrap(), commands);
    }
}

#[test]
fn an_event_goes_to_the_workflows_that_are_named() {
    let further = ", metadata: {heyday: {to: '${ .to }'}}";
    let with = "{source: s, type: t, data: 5}";
    let mut fed = Fed::new(&emit(with, further), json!({"to": ["a", "b"]}));
    let sent: Vec<_> = fed
        .commands
        .iter()
        .map(|command| match command {
            Command::SignalExternal(external) => external.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        (sent[0].signal_id.as_str(), sent[0].workflow_id.as_str()),
        ("1", "a")
    );
    assert_eq!(
        (sent[1].signal_id.as_str(), sent[1].workflow_id.as_str()),
        ("2", "b")
    );
    assert_eq!(
        (
            sent[0].signal.name.as_str(),
            &sent[0].signal.attributes["source"]
        ),
        ("t", &json!("s"))
    );
    assert_eq!(sent[0].signal.data.to_json().unwrap(), json!(5));
    fed.feed([told(2, Ok(()))]);
    assert_eq!(fed.said(), [""; 0]);
    fed.feed([told(1, Ok(()))]);
    assert_eq!(fed.result()["got"]["data"], 5);
    // The event that the others get is the same.
    let event = sent[0].signal.event(timestamp(99)).unwrap();
    assert_eq!(event, fed.result()["got"]);
    // Nobody is told of what was not sent.
    let mut fed = Fed::new(&emit(with, ", metadata: {heyday: {to: a}}"), json!({}));
    assert!(matches!(
        fed.try_feed([told(2, Ok(()))]),
        Err(DriverError::Unexpected(_))
    ));
}

#[test]
fn a_workflow_that_cannot_be_told_is_an_error_that_can_be_caught() {
    let tasks = r#"
  - guard:
      try: [{e: {emit: {event: {with: {source: s, type: t}}}, metadata: {heyday: {to: [a, b]}}}}]
      catch: {do: [{c: {set: {why: "${ $error.failure.kind }"}}}]}
"#;
    let mut fed = Fed::new(tasks, json!({}));
    fed.feed([told(
        1,
        Err(Failure::permanent("unknown-workflow", "no run is open")),
    )]);
    // The other one is awaited all the same.
    assert_eq!(fed.said(), [""; 0]);
    fed.feed([told(2, Ok(()))]);
    assert_eq!(fed.result(), json!({"why": "unknown-workflow"}));
}

#[test]
fn a_cancel_waits_for_what_is_sent() {
    let mut fed = Fed::new(
        &emit("{source: s, type: t}", ", metadata: {heyday: {to: a}}"),
        json!({}),
    );
    fed.feed([cancel()]);
    assert_eq!(fed.said(), [""; 0]);
    fed.feed([told(1, Ok(()))]);
    assert_eq!(fed.said(), ["cancelled enough"]);
}

#[test]
fn what_is_no_event_is_an_error() {
    for (with, further, says) in [
        ("{source: s, type: '${ .number }'}", "", "must be texts"),
        ("{source: s, type: ''}", "", "1 to 1000 bytes"),
        ("{source: s, type: __x}", "", "reserved"),
        ("{source: s, type: t, room: '${ .list }'}", "", "an integer"),
        ("{source: s, type: t, time: '${ .word }'}", "", "2026-01-31"),
        (
            "{source: '${ .number }', type: t}",
            "",
            "must answer a text",
        ),
        (
            "{source: s, type: t}",
            ", metadata: {heyday: {to: 5}}",
            "a number is none",
        ),
        (
            "{source: s, type: t}",
            ", metadata: {heyday: {to: ['']}}",
            "1 to 1000 bytes",
        ),
        (
            "{source: s, type: t}",
            ", metadata: {heyday: {to: '${ .none }'}}",
            "null is none",
        ),
    ] {
        let fed = Fed::new(
            &emit(with, further),
            json!({"number": 5, "list": [], "word": "x"}),
        );
        let fault = fed.fault();
        assert_eq!(fault["type"], EXPRESSION, "{with}");
        assert!(fault["detail"].as_str().unwrap().contains(says), "{fault}");
    }
    let many: Vec<_> = (0..101).map(|n| n.to_string()).collect();
    let to = ", metadata: {heyday: {to: '${ .to }'}}";
    let fed = Fed::new(&emit("{source: s, type: t}", to), json!({"to": many}));
    assert!(
        fed.fault()["detail"]
            .as_str()
            .unwrap()
            .contains("at most 100")
    );
    let large = json!({"x": "x".repeat(crate::payload::FOREIGN_LIMIT)});
    let fed = Fed::new(&emit("{source: s, type: t, data: '${ .x }'}", ""), large);
    assert_eq!(fed.failure().details.unwrap()["limit"], "event_bytes");
}
