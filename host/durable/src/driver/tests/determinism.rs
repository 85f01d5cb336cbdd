//! The same activations give the same commands, however they are grouped.

use super::*;

/// A flow with every kind of wait, and what happens to it.
const FLOW: &str = r#"
  - all:
      try:
        - both:
            fork:
              branches:
                - a: {do: [{x: {call: p.a}}, {y: {call: p.b, with: {from: "${ . }"}}}]}
                - b: {try: [{z: {call: p.c}}], catch: {retry: {delay: PT1S, jitter: {from: PT0S, to: PT1S}, limit: {attempt: {count: 2}}}}}
                - c: {timeout: {after: PT9S}, do: [{w: {wait: PT2S}}, {k: {run: {workflow: {namespace: n, name: w, version: latest}}}}]}
      catch: {}
  - last: {call: p.a}
"#;

fn events() -> Vec<Resolution> {
    vec![
        failed(2, "broken"),
        done(1, json!({"one": 1})),
        fired(2),
        fired(3),
        child_started(1),
        done(4, json!("retried")),
        child_done(1, Ok(json!([1]))),
        done(3, json!(null)),
        done(5, json!("end")),
    ]
}

fn replay(start: &RunStart, log: &[(Activation, Vec<Command>)]) {
    let mut driver = driver(start);
    for (activation, commands) in log {
        assert_eq!(&driver.activate(activation.clone()).unwrap(), commands);
    }
}

#[test]
fn a_replay_gives_the_same_commands() {
    let mut fed = Fed::new(FLOW, json!({"x": 1}));
    for event in events() {
        fed.later(10, event);
    }
    assert_eq!(fed.result(), json!("end"));
    for _ in 0..3 {
        replay(&fed.start, &fed.log);
    }
}

#[test]
fn one_at_a_time_or_together_is_the_same() {
    let single = {
        let mut fed = Fed::new(FLOW, json!({"x": 1}));
        let mut all: Vec<String> = fed.said();
        for event in events() {
            fed.feed([event]);
            all.extend(fed.said());
        }
        all
    };
    for size in 2..=events().len() {
        let mut fed = Fed::new(FLOW, json!({"x": 1}));
        let mut all = fed.said();
        for chunk in events().chunks(size) {
            fed.feed(chunk.to_vec());
            all.extend(fed.said());
        }
        assert_eq!(all, single, "{size} at a time");
    }
}

#[test]
fn ids_count_from_one_in_the_order_of_their_commands() {
    let mut fed = Fed::new(FLOW, json!({}));
    for event in events() {
        fed.feed([event]);
    }
    let ids: Vec<_> = fed
        .log
        .iter()
        .flat_map(|(_, commands)| commands)
        .filter_map(|command| match command {
            Command::ScheduleActivity(schedule) => Some(schedule.activity_id.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5"]);
}

#[test]
fn a_driver_can_move_between_threads() {
    let mut fed = Fed::new("\n  - a: {call: p.a}\n", json!({}));
    let mut driver = std::mem::replace(&mut fed.driver, driver(&fed.start));
    let commands = std::thread::spawn(move || {
        driver.activate(Activation {
            now: timestamp(1),
            resolutions: vec![done(1, json!(1))],
            continue_as_new_suggested: false,
        })
    })
    .join()
    .unwrap()
    .unwrap();
    assert_eq!(
        commands.iter().map(brief).collect::<Vec<_>>(),
        ["complete 1"]
    );
}

#[test]
fn what_nothing_waits_for_is_refused() {
    let tasks = "\n  - a: {call: p.a}\n  - b: {wait: PT1S}\n  - c: {wait: PT1S}\n";
    for wrong in [
        done(2, json!(1)),
        done(0, json!(1)),
        fired(1),
        child_started(1),
        child_done(1, Ok(json!(1))),
        Resolution::Timer {
            timer_id: "x".to_owned(),
        },
    ] {
        let mut fed = Fed::new(tasks, json!({}));
        assert!(matches!(
            fed.try_feed([wrong]),
            Err(DriverError::Unexpected(_))
        ));
    }
    // The same twice.
    let mut fed = Fed::new(tasks, json!({}));
    fed.feed([done(1, json!(1))]).feed([fired(1)]);
    assert!(matches!(
        fed.try_feed([fired(1)]),
        Err(DriverError::Unexpected(_))
    ));
}

#[test]
fn a_timer_that_fired_with_what_cancels_it_is_accepted() {
    let tasks = "\n  - race: {fork: {compete: true, branches: [{a: {call: p.a}}, {b: {wait: PT1S}}]}}\n  - last: {wait: PT1S}\n";
    let mut fed = Fed::new(tasks, json!({}));
    fed.feed([done(1, json!(1)), fired(1)]);
    assert_eq!(fed.said(), ["timer 2 1000ms"]);
    // Afterwards it is not.
    let mut fed = Fed::new(tasks, json!({}));
    fed.feed([done(1, json!(1))]);
    assert_eq!(fed.said(), ["cancel timer 1", "timer 2 1000ms"]);
    assert!(matches!(
        fed.try_feed([fired(1)]),
        Err(DriverError::Unexpected(_))
    ));
}

#[test]
fn nothing_follows_the_end() {
    let mut fed = Fed::new(
        "\n  - a: {fork: {compete: true, branches: [{a: {call: p.a}}, {b: {call: p.b}}]}}\n",
        json!({}),
    );
    // The second answers the cancel; what comes after the end is dropped.
    fed.feed([done(1, json!(1)), stopped(2), cancel()]);
    assert_eq!(fed.said(), ["complete 1"]);
    assert!(matches!(
        fed.try_feed([cancel()]),
        Err(DriverError::Unexpected(_))
    ));
}

#[test]
fn a_newer_revision_is_refused() {
    let mut start = start_of(&document("  - a: {set: {z: 0}}\n"), &json!({}));
    start.revision = REVISION + 1;
    let expressions: Arc<dyn Expressions> = Arc::new(TinyJqForTests::default());
    assert_eq!(
        Driver::new(start, &expressions).unwrap_err(),
        DriverError::UnknownRevision {
            recorded: REVISION + 1
        }
    );
}
