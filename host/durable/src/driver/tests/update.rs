//! Updates and queries.

use super::*;

fn update(name: &str, id: &str, data: Value) -> Signal {
    Signal::new(name, id, Payload::json(&data))
}

impl Fed {
    /// Offers an update; where a task takes it, lets it resolve.
    fn offer(&mut self, update: &Signal) -> Result<(), Failure> {
        let before = self.driver.query(STATE_QUERY, &json!(null)).unwrap();
        let valid = self.driver.validate(update).unwrap();
        // Asking changes nothing.
        assert_eq!(
            self.driver.query(STATE_QUERY, &json!(null)).unwrap(),
            before
        );
        valid?;
        self.feed([Resolution::Update(Box::new(update.clone()))]);
        Ok(())
    }

    /// The updates that the last activation ended.
    fn ended(&self) -> Vec<(String, Result<Value, Failure>)> {
        let ended = self.commands.iter().filter_map(|command| match command {
            Command::CompleteUpdate { update_id, outcome } => Some((
                update_id.clone(),
                outcome.clone().map(|result| result.to_json().unwrap()),
            )),
            _ => None,
        });
        ended.collect()
    }
}

const REVIEW: &str = r#"
  - review:
      listen:
        to: {any: [{with: {type: approve, data: "${ .by != null }"}}, {with: {type: reject}}]}
        read: envelope
      output: {as: "{verdict: .[0].type}"}
      metadata: {heyday: {update: {answer: {was: "${ .type }", by: "${ .data.by }"}}}}
"#;

#[test]
fn an_update_is_taken_answered_and_read() {
    let mut fed = Fed::new(REVIEW, json!({}));
    assert!(fed.driver.listening()[0].updates);
    fed.offer(&update("approve", "u1", json!({"by": "Ada"})))
        .unwrap();
    assert_eq!(
        fed.ended(),
        [("u1".to_owned(), Ok(json!({"was": "approve", "by": "Ada"})))]
    );
    assert_eq!(fed.result(), json!({"verdict": "approve"}));
    // It is no signal.
    assert_eq!(fed.driver.take_consumed(), [""; 0]);
}

#[test]
fn what_no_task_takes_is_rejected_and_leaves_no_trace() {
    let mut fed = Fed::new(REVIEW, json!({}));
    let rejected = fed
        .offer(&update("approve", "u1", json!({"by": null})))
        .unwrap_err();
    assert_eq!(rejected.kind, crate::failure::kind::UPDATE_REJECTED);
    assert!(rejected.message.contains("approve, reject"), "{rejected}");
    fed.offer(&update("other", "u2", json!(1))).unwrap_err();
    // A signal of the same name is taken as before.
    fed.feed([signal("reject", json!(1))]);
    assert_eq!(fed.result(), json!({"verdict": "reject"}));

    let mut fed = Fed::new("\n  - l: {listen: {to: {any: []}}}\n", json!({}));
    let rejected = fed.offer(&update("approve", "u1", json!(1))).unwrap_err();
    assert!(
        rejected.message.contains("no task of it waits for updates"),
        "{rejected}"
    );
    let mut fed = Fed::new("\n  - w: {wait: PT1S}\n", json!({}));
    fed.offer(&update("approve", "u1", json!(1))).unwrap_err();
}

#[test]
fn an_update_that_was_not_asked_for_ends_as_rejected() {
    let tasks = "\n  - l: {listen: {to: {one: {with: {type: go}}}}}\n";
    let mut fed = Fed::new(tasks, json!({}));
    fed.feed([Resolution::Update(Box::new(update("go", "u", json!(1))))]);
    let ended = fed.ended();
    assert_eq!(
        ended[0].1.as_ref().unwrap_err().kind,
        crate::failure::kind::UPDATE_REJECTED
    );
    fed.feed([signal("go", json!(2))]);
    assert_eq!(fed.result(), json!([2]));
}

const WORK: &str = r#"
  - work:
      listen: {to: {any: [{with: {type: job}}], until: {one: {with: {type: stop}}}}}
      foreach: {item: job, do: [{a: {call: p.a, with: "${ $job }"}}], output: {as: "{done: .}"}}
      metadata: {heyday: {update: {}}}
"#;

#[test]
fn an_update_ends_with_what_its_tasks_answered() {
    let work = WORK.replace("with: \"${ $job }\"", "with: {job: \"${ $job }\"}");
    let mut fed = Fed::new(&work, json!({}));
    fed.offer(&update("job", "u1", json!(1))).unwrap();
    assert_eq!(fed.said(), [r#"activity 1 p.a {"job":1}"#]);
    // While one is under way nobody listens; a signal waits.
    fed.offer(&update("job", "u2", json!(2))).unwrap_err();
    fed.feed([signal("job", json!(3))]);
    fed.feed([done(1, json!("one"))]);
    assert_eq!(fed.ended(), [("u1".to_owned(), Ok(json!({"done": "one"})))]);
    assert_eq!(fed.said()[1], r#"activity 2 p.a {"job":3}"#);
    fed.feed([done(2, json!("three"))]);
    fed.offer(&update("job", "u2", json!(2))).unwrap();
    fed.feed([done(3, json!("two"))]);
    assert_eq!(fed.ended(), [("u2".to_owned(), Ok(json!({"done": "two"})))]);
    fed.offer(&update("stop", "u3", json!("now"))).unwrap();
    assert_eq!(fed.ended(), [("u3".to_owned(), Ok(json!("now")))]);
    assert_eq!(
        fed.result(),
        json!([{"done": "one"}, {"done": "three"}, {"done": "two"}])
    );
}

#[test]
fn an_update_whose_tasks_fail_fails() {
    let work = WORK.replace("with: \"${ $job }\"", "with: {job: \"${ $job }\"}");
    let mut fed = Fed::new(&work, json!({}));
    fed.offer(&update("job", "u1", json!(1))).unwrap();
    fed.feed([failed(1, "broken")]);
    let ended = fed.ended();
    assert_eq!(ended[0].0, "u1");
    assert!(format!("{:?}", ended[0].1).contains("broken happened"));
    assert_eq!(fed.fault()["failure"]["kind"], "broken");
    // The same where the run is cancelled.
    let mut fed = Fed::new(&work, json!({}));
    fed.offer(&update("job", "u1", json!(1))).unwrap();
    fed.feed([cancel()]).feed([stopped(1)]);
    assert_eq!(
        fed.ended()[0].1.as_ref().unwrap_err().kind,
        crate::flow::error::CANCELLED
    );
}

#[test]
fn an_answer_that_fails_fails_the_update_alone() {
    let tasks = r#"
  - l:
      listen: {to: {one: {with: {type: a}}}}
      metadata: {heyday: {update: {answer: "${ .x | error }"}}}
  - after: {set: {got: "${ . }"}}
"#;
    let mut fed = Fed::new(tasks, json!({}));
    fed.offer(&update("a", "u1", json!({"x": 1}))).unwrap();
    assert_eq!(
        fed.ended()[0].1.as_ref().unwrap_err().kind,
        crate::flow::error::EXPRESSION
    );
    assert_eq!(fed.result(), json!({"got": [{"x": 1}]}));
}

#[test]
fn an_update_is_asked_for_in_every_branch_and_by_the_innermost_state() {
    let tasks = r#"
  - both:
      fork:
        branches:
          - a: {wait: PT9S}
          - b:
              timeout: {after: PT5S}
              listen: {to: {all: [{with: {type: x}}, {with: {type: y}, correlate: {r: {from: .data.r}}}]}}
              metadata: {heyday: {update: {}}}
"#;
    let mut fed = Fed::new(tasks, json!({}));
    fed.offer(&update("x", "u1", json!(1))).unwrap();
    // Its filter had its event.
    fed.offer(&update("x", "u2", json!(1))).unwrap_err();
    fed.offer(&update("y", "u3", json!({"r": null})))
        .unwrap_err();
    fed.offer(&update("y", "u3", json!({"r": 1}))).unwrap();
    assert_eq!(fed.said(), [r#"complete update u3"#, "cancel timer 2"]);
}

#[test]
fn a_replay_takes_updates_without_asking() {
    let mut fed = Fed::new(REVIEW, json!({}));
    fed.offer(&update("approve", "u1", json!({"by": "Ada"})))
        .unwrap();
    let mut again = driver(&fed.start);
    for (activation, commands) in &fed.log {
        assert_eq!(&again.activate(activation.clone()).unwrap(), commands);
    }
}

#[test]
fn an_update_needs_a_run_that_is_under_way() {
    let start = start_of(&document(REVIEW), &json!({}));
    let mut fresh = driver(&start);
    let go = update("approve", "u", json!({"by": 1}));
    assert!(matches!(
        fresh.validate(&go),
        Err(DriverError::Unexpected(_))
    ));
    let mut over = Fed::new("\n  - s: {set: {a: 1}}\n", json!({}));
    assert!(matches!(
        over.driver.validate(&go),
        Err(DriverError::Unexpected(_))
    ));
    let away = "\n  - l: {listen: {to: {one: {with: {data: '${ unavailable }'}}}}, metadata: {heyday: {update: {}}}}\n";
    let mut fed = Fed::new(away, json!({}));
    assert!(matches!(
        fed.driver.validate(&go),
        Err(DriverError::Unavailable(_))
    ));
}

#[test]
fn every_run_says_where_it_stands() {
    let tasks = r#"
  - c: {set: {a: 1}, export: {as: "{n: .a}"}}
  - guard: {try: [{l: {listen: {to: {one: {with: {type: go}}}}}}], catch: {}}
"#;
    let mut fed = Fed::new(tasks, json!({}));
    fed.feed([signal("other", json!(1))]);
    let state = fed.driver.query(STATE_QUERY, &json!(null)).unwrap();
    assert_eq!(
        state,
        json!({
            "tasks": ["/do/1/guard", "/do/1/guard/try/0/l"],
            "context": {"n": 1},
            "listening": [{"task": "/do/1/guard/try/0/l", "signals": ["go"], "updates": false}],
            "signals": [{"name": "other", "id": "other", "time": "2023-11-14T22:13:20Z"}],
            "signal_count": 1,
        })
    );
    // Those that an engine keeps outside come behind.
    let outside = json!({"name": "late", "id": "2", "time": "2023-11-14T22:13:21Z"});
    let beside = fed
        .driver
        .query_beside(
            STATE_QUERY,
            &json!(null),
            &Beside::of([outside.clone()].into_iter()),
        )
        .unwrap();
    assert_eq!(
        (&beside["signals"], &beside["signal_count"]),
        (&json!([state["signals"][0].clone(), outside]), &json!(2))
    );
    fed.feed([signal("go", json!(1))]);
    let state = fed.driver.query(STATE_QUERY, &json!(null)).unwrap();
    assert_eq!(
        (&state["tasks"], &state["context"]),
        (&json!([]), &json!({"n": 1}))
    );
}

#[test]
fn of_many_signals_the_first_are_shown_and_all_are_counted() {
    let document = "document: {dsl: '1.0.3', namespace: test, name: sample, version: '0.1.0', metadata: {heyday: {queries: {all: '${ .signals | length }'}}}}\ndo:\n  - c: {set: {a: 1}, export: {as: '{n: .a}'}}\n  - l: {listen: {to: {one: {with: {type: go}}}}}\n";
    let mut fed = Fed::start(start_of(document, &json!({})));
    fed.feed((0..3_000).map(|n| {
        let id = format!("{n}-{}", "i".repeat(900));
        Resolution::Signal(Box::new(Signal::new("other", id, Payload::json(&json!(1)))))
    }));
    // Short ones: what is said around them counts as well.
    let late = |n: usize| json!({"name": "late", "id": n.to_string(), "time": null});
    let outside = Beside::of((0..100_000).map(late));
    let ask = |fed: &Fed, name: &str, arguments: Value| {
        let answer = fed.driver.query_beside(name, &arguments, &outside).unwrap();
        assert!(answer.to_string().len() < 600_000);
        answer
    };
    let state = ask(&fed, STATE_QUERY, json!(null));
    assert_eq!(state["signal_count"], 103_000);
    let shown = state["signals"].as_array().unwrap();
    assert!((500..600).contains(&shown.len()), "{}", shown.len());
    assert!(shown[1]["id"].as_str().unwrap().starts_with("1-i"));
    assert_eq!(state["listening"][0]["task"], "/do/1/l");
    assert_eq!(state["context"], json!({"n": 1}));
    let brief = ask(&fed, STATE_QUERY, json!({"context": false}));
    assert_eq!(brief["context"], json!(null));
    // A flow's own query looks at all that its driver has.
    let all = ask(&fed, "all", json!(null));
    assert_eq!(all, json!(3_000 + outside.first.len()));
    // Where none waits in the driver, those outside are shown within the same bounds.
    let waits = "\n  - l: {listen: {to: {one: {with: {type: go}}}}}\n";
    let beside = ask(&Fed::new(waits, json!({})), STATE_QUERY, json!(null));
    assert_eq!(beside["signals"], json!(outside.first));
    assert_eq!(beside["signal_count"], 100_000);
}

#[test]
fn a_flow_answers_the_queries_that_it_declares() {
    let document = "document: {dsl: '1.0.3', namespace: test, name: sample, version: '0.1.0', metadata: {heyday: {queries: {progress: '${ .context.n + .arguments }', bad: '${ .context | error }', away: '${ unavailable }', plain: {fixed: [1]}}}}}\ndo:\n  - c: {set: {a: 1}, export: {as: '{n: .a}'}}\n  - w: {wait: PT1S}\n";
    let mut fed = Fed::start(start_of(document, &json!({})));
    let ask = |fed: &Fed, name: &str| fed.driver.query(name, &json!(41));
    assert_eq!(ask(&fed, "progress"), Ok(json!(42)));
    assert_eq!(ask(&fed, "plain"), Ok(json!({"fixed": [1]})));
    assert!(matches!(ask(&fed, "bad"), Err(QueryError::Failed(_))));
    assert!(matches!(ask(&fed, "away"), Err(QueryError::Unavailable(_))));
    match ask(&fed, "none") {
        Err(QueryError::Unknown { known, .. }) => {
            assert_eq!(known, "__heyday_state, away, bad, plain, progress");
        }
        other => panic!("{other:?}"),
    }
    fed.later(1_000, fired(1));
    assert_eq!(ask(&fed, "progress"), Ok(json!(42)));
}

#[test]
fn an_offer_is_judged_in_the_middle_of_an_activation() {
    let work = WORK.replace("with: \"${ $job }\"", "with: {job: \"${ $job }\"}");
    let offer = |name: &str, id: &str| Resolution::Offer(Box::new(update(name, id, json!(1))));
    let mut fed = Fed::new(&work, json!({}));
    // A task is busy with what came before them in the same activation.
    fed.feed([
        signal("job", json!(0)),
        offer("job", "late"),
        offer("stop", "s"),
    ]);
    let verdicts = |fed: &mut Fed| {
        let verdicts = fed.driver.take_verdicts().into_iter();
        let verdicts = verdicts.map(|(id, verdict)| (id, verdict.map_err(|why| why.kind)));
        verdicts.collect::<Vec<_>>()
    };
    let rejected = Err(crate::failure::kind::UPDATE_REJECTED.to_owned());
    assert_eq!(
        verdicts(&mut fed),
        [
            ("late".to_owned(), rejected.clone()),
            ("s".to_owned(), rejected)
        ]
    );
    fed.feed([done(1, json!("done")), offer("job", "u")]);
    assert_eq!(verdicts(&mut fed), [("u".to_owned(), Ok(()))]);
    // What a run took is taken on replay without asking, and what follows is the same.
    let taken = fed.commands.clone();
    let mut again = Fed::new(&work, json!({}));
    again.feed([signal("job", json!(0))]);
    again.feed([
        done(1, json!("done")),
        Resolution::Update(Box::new(update("job", "u", json!(1)))),
    ]);
    assert_eq!(again.commands, taken);
    assert_eq!(verdicts(&mut again), []);
}

#[test]
fn temporals_tools_are_told_where_a_run_stands() {
    let fed = Fed::new(REVIEW, json!({}));
    let told = fed.driver.query(METADATA_QUERY, &json!(null)).unwrap();
    let names = json!([{"name": "approve"}, {"name": "reject"}]);
    assert_eq!(told["definition"]["signalDefinitions"], names);
    assert_eq!(told["definition"]["updateDefinitions"], names);
    assert_eq!(
        told["definition"]["queryDefinitions"][0]["name"],
        STATE_QUERY
    );
    assert_eq!(
        told["currentDetails"],
        "- `/do/0/review`: waits for signals and updates: approve, reject\n"
    );
    let fed = Fed::new("\n  - l: {listen: {to: {any: []}}}\n", json!({}));
    let told = fed.driver.query(METADATA_QUERY, &json!(null)).unwrap();
    assert_eq!(told["definition"]["signalDefinitions"], json!([{}]));
    assert_eq!(told["definition"]["updateDefinitions"], json!([]));
    let fed = Fed::new("\n  - w: {wait: PT1S}\n", json!({}));
    let told = fed.driver.metadata(|task| Some(format!("half of {task}")));
    assert_eq!(told["currentDetails"], "- `/do/0/w`: half of /do/0/w\n");
}
