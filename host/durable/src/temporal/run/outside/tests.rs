//! Which signals wait outside, in which order they come in, and how they go on.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::driver::{REVISION, RunLimits};

const ROOM: u64 = 10_000;

fn pins(revision: u32) -> Pins {
    Pins {
        version: "1.0.0".parse().unwrap(),
        digest: Digest::of(b"flow"),
        activities: BTreeMap::new(),
        seed: 1,
        limits: RunLimits {
            data_bytes: 2 * ROOM,
            ..RunLimits::default()
        },
        revision,
        answer_revision: 1,
        evaluator: Digest::of(b"jq"),
    }
}

fn signal(name: &str, id: &str, bytes: usize) -> Signal {
    Signal::new(name, id, Payload::json(&json!("x".repeat(bytes))))
}

fn coming(signals: Vec<Signal>) -> Vec<Resolution> {
    let signals = signals.into_iter();
    signals
        .map(|one| Resolution::Signal(Box::new(one)))
        .collect()
}

fn listening(name: &str) -> [Listening; 1] {
    [Listening {
        task: "/do/0/l".to_owned(),
        signals: vec![name.to_owned()],
        updates: false,
    }]
}

fn id(signal: Option<Signal>) -> Option<String> {
    signal.map(|signal| signal.id)
}

#[test]
fn what_has_no_room_waits_outside_and_comes_in_as_it_came() {
    let mut outside = Outside::new(&pins(REVISION), None).unwrap();
    let now = Timestamp::UNIX_EPOCH;
    let little = coming(vec![signal("part", "1", 4_000)]);
    assert_eq!(outside.hold_back(0, now, little.clone()), little);
    let mut more = coming(vec![signal("part", "2", 4_000), signal("part", "3", 4_000)]);
    let timer = Resolution::Timer {
        timer_id: "1".to_owned(),
    };
    more.push(timer.clone());
    // What is no signal never waits, nor what is no event.
    let binary = Signal::new("part", "4", Payload::default());
    more.extend(coming(vec![binary.clone()]));
    let rest = outside.hold_back(4_500, now, more);
    assert_eq!(rest, [vec![timer], coming(vec![binary])].concat());
    // Those that come later stay behind them.
    assert!(
        outside
            .hold_back(0, now, coming(vec![signal("part", "5", 1)]))
            .is_empty()
    );
    let ids = |outside: &Outside| -> Vec<Value> {
        let shown = outside.shown().first.into_iter();
        shown.map(|one| one["id"].clone()).collect()
    };
    assert_eq!(ids(&outside), ["2", "3", "5"]);
    assert_eq!(
        outside.shown().first[0],
        json!({ "name": "part", "id": "2", "time": "1970-01-01T00:00:00Z" })
    );
    let second = outside.next(4_500, &[]).unwrap();
    assert_eq!(ids(&outside), ["3", "5"]);
    assert_eq!(
        (second.id.as_str(), &second.attributes["time"]),
        ("2", &json!("1970-01-01T00:00:00Z"))
    );
    assert_eq!(id(outside.next(9_000, &[])), None);
    assert_eq!(id(outside.next(0, &[])).as_deref(), Some("3"));
    assert_eq!(id(outside.next(0, &[])).as_deref(), Some("5"));
    assert_eq!(id(outside.next(0, &[])), None);
    // One that never has room is the driver's to refuse.
    let large = coming(vec![signal("part", "6", 30_000)]);
    assert!(outside.hold_back(0, now, large).is_empty());
    assert_eq!(id(outside.next(1, &[])), None);
    assert_eq!(id(outside.next(0, &[])).as_deref(), Some("6"));
}

#[test]
fn what_a_task_listens_for_passes_what_nobody_listens_for() {
    let mut outside = Outside::new(&pins(REVISION), None).unwrap();
    let signals = vec![
        signal("part", "1", 4_000),
        signal("go", "2", 10),
        signal("go", "3", 6_000),
    ];
    let now = Timestamp::UNIX_EPOCH;
    assert!(outside.hold_back(9_000, now, coming(signals)).is_empty());
    assert_eq!(id(outside.next(9_000, &listening("other"))), None);
    let go = outside.next(9_000, &listening("go"));
    assert_eq!(id(go).as_deref(), Some("2"));
    // Only as far as the run may hold it.
    assert_eq!(id(outside.next(9_500, &listening("go"))), None);
    let any = outside.next(9_500, &listening("*"));
    assert_eq!(id(any).as_deref(), Some("1"));
}

#[test]
fn a_run_at_rest_does_not_take_along_signals_without_end() {
    let mut outside = Outside::new(&pins(REVISION), None).unwrap();
    let now = Timestamp::UNIX_EPOCH;
    let mut hold = |from: usize, to: usize| {
        let signals = (from..to).map(|number| signal("part", &number.to_string(), 1));
        assert!(
            outside
                .hold_back(ROOM, now, coming(signals.collect()))
                .is_empty()
        );
        outside.may_go_on()
    };
    assert!(hold(0, TAKEN_ALONG));
    assert!(!hold(TAKEN_ALONG, TAKEN_ALONG + 1));
}

#[test]
fn a_run_of_an_earlier_revision_lets_all_in() {
    let mut outside = Outside::new(&pins(2), None).unwrap();
    let many = coming(vec![signal("part", "1", 9_000), signal("part", "2", 9_000)]);
    let now = Timestamp::UNIX_EPOCH;
    assert_eq!(outside.hold_back(9_000, now, many.clone()), many);
    assert_eq!(id(outside.next(0, &[])), None);
}

#[test]
fn what_waits_goes_on_with_the_next_run() {
    let mut outside = Outside::new(&pins(REVISION), None).unwrap();
    let mut stored = Vec::new();
    assert_eq!(outside.carry(&mut stored), None);
    let mut small = signal("go", "small", 10);
    small
        .attributes
        .insert("time".to_owned(), "2026-01-01T00:00:00Z".into());
    small.attributes.insert("source".to_owned(), "urn:x".into());
    let mut large = signal("go", "large", 5_000);
    large.attributes.clone_from(&small.attributes);
    let mut none = Signal::new("go", "none", Payload::null());
    none.attributes.clone_from(&small.attributes);
    let broken = Signal::new("go", "broken", Payload::json_bytes("{nope".into()));
    let signals = vec![small.clone(), large.clone(), none.clone(), broken];
    let now = Timestamp::UNIX_EPOCH;
    assert!(outside.hold_back(ROOM, now, coming(signals)).is_empty());
    let carried = outside.carry(&mut stored).unwrap();
    assert_eq!(
        stored,
        [(Digest::of(&large.data.data), large.data.data.clone())]
    );
    assert_eq!(outside.carry(&mut stored), None);

    let mut next = Outside::new(&pins(REVISION), Some(&carried)).unwrap();
    assert_eq!(next.next(0, &[]), Some(small));
    // What is stored counts as what it is.
    assert_eq!(next.next(ROOM - 1_000, &[]), None);
    // It goes on once more without being read.
    let mut again = Vec::new();
    let carried = next.carry(&mut again).unwrap();
    assert!(again.is_empty());
    let mut last = Outside::new(&pins(REVISION), Some(&carried)).unwrap();
    let reference = last.next(0, &[]).unwrap();
    assert_eq!(
        (reference.key(), reference.attributes.clone()),
        (large.key(), large.attributes)
    );
    let found = reference.data.as_blob_ref().unwrap().unwrap();
    assert_eq!(found.digest, stored[0].0);
    assert_eq!(id(last.next(0, &[])).as_deref(), Some("none"));
    assert_eq!(last.next(0, &[]), None);
    assert!(Outside::new(&pins(REVISION), Some(&Payload::json(&json!(1)))).is_err());
}
