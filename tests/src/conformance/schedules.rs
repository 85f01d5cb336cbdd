//! Schedules. Time is real here, so they are short or only asked about; what happens in
//! long times is shown in virtual time by the embedded engine's own tests.

use std::collections::BTreeSet;

use heyday_durable::engine::{EngineError, ExecutionStatus, RunRef};
use heyday_durable::schedule::{
    CreateSchedule, ListSchedules, OverlapPolicy, Schedule, ScheduleDescription, ScheduleInfo,
    SchedulePatch, ScheduleRef,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::bench::{Bench, NAMESPACE, run};

on_both!(
    temporal_with_schedules, real_with_schedules:
    an_interval_starts_runs,
    a_schedule_is_described_as_it_was_made,
    a_paused_schedule_lets_its_times_pass_and_takes_triggers,
    a_trigger_is_skipped_while_a_run_is_open,
    a_buffered_start_follows_the_open_run,
    all_buffered_starts_follow_each_other,
    a_run_that_goes_on_as_another_is_still_open,
    an_open_run_makes_way_for_the_next,
    a_backfill_starts_times_that_have_passed,
    a_failed_run_pauses_the_schedule,
    a_limited_schedule_ends,
    an_update_takes_its_place,
    jitter_moves_times_and_the_runs_that_they_start,
    schedules_are_listed,
    what_is_no_schedule_is_refused,
);

pub(super) fn name(id: &str) -> ScheduleRef {
    ScheduleRef {
        namespace: NAMESPACE.to_owned(),
        schedule_id: id.to_owned(),
    }
}

/// A schedule that starts `test.FLOW` under its own id.
pub(super) fn schedule(id: &str, flow: &str, spec: Value, policies: Value) -> Schedule {
    serde_json::from_value(json!({
        "spec": spec,
        "action": {"workflow_type": format!("test.{flow}"), "workflow_id": id, "input": {"n": 7}},
        "policies": policies,
    }))
    .unwrap()
}

/// One that has no times to come.
fn never() -> Value {
    json!({"calendars": [{"year": [{"start": 2001}]}]})
}

pub(super) async fn create(bench: &Bench, id: &str, schedule: Schedule) {
    let request = CreateSchedule {
        reference: name(id),
        schedule,
        trigger_immediately: false,
    };
    bench.engine().create_schedule(request).await.unwrap();
}

pub(super) async fn described(bench: &Bench, id: &str) -> ScheduleDescription {
    loop {
        match bench.engine().describe_schedule(&name(id)).await {
            // The cluster does not answer for a schedule that it is just working on.
            Err(EngineError::Unavailable { .. }) => {}
            described => return described.unwrap(),
        }
    }
}

async fn patch(bench: &Bench, id: &str, patch: SchedulePatch) {
    let patched = bench.engine().patch_schedule(&name(id), patch).await;
    patched.unwrap();
}

async fn trigger(bench: &Bench, id: &str, overlap: Option<OverlapPolicy>) {
    patch(
        bench,
        id,
        SchedulePatch::TriggerImmediately {
            overlap,
            scheduled_time: None,
        },
    )
    .await;
}

/// Waits until it is so of what the schedule did.
pub(super) async fn until(
    bench: &Bench,
    id: &str,
    what: &str,
    so: impl Fn(&ScheduleDescription) -> bool,
) -> ScheduleInfo {
    bench
        .until(what, async || so(&described(bench, id).await))
        .await;
    described(bench, id).await.info
}

/// The run of an action.
pub(super) fn run_of(info: &ScheduleInfo, index: usize) -> RunRef {
    let action = &info.recent_actions[index];
    RunRef {
        run_id: Some(action.run_id),
        ..run(&action.workflow_id)
    }
}

async fn an_interval_starts_runs(bench: Bench) {
    bench.define("echo", "  - a: {call: t.echo, with: {n: '${ .n }'}}\n");
    let spec = json!({"intervals": [{"every": "PT1S"}]});
    create(&bench, "s", schedule("s", "echo", spec, json!({}))).await;
    let info = until(&bench, "s", "two runs", |seen| seen.info.action_count >= 2).await;
    bench.engine().delete_schedule(&name("s")).await.unwrap();
    for (index, action) in info.recent_actions.iter().enumerate() {
        assert_eq!(bench.result(&run_of(&info, index)).await, json!({"n": 7}));
        assert_eq!(action.schedule_time.subsec_nanosecond(), 0);
        assert_eq!(action.workflow_id, format!("s-{}", action.schedule_time));
        let described = bench
            .engine()
            .describe(&run_of(&info, index))
            .await
            .unwrap();
        assert_eq!(described.info.workflow_type, "test.echo");
        assert_eq!(
            described.info.version.as_ref().unwrap().to_string(),
            "0.1.0"
        );
    }
    let gone = bench.engine().describe_schedule(&name("s")).await;
    assert!(
        matches!(gone, Err(EngineError::ScheduleNotFound { .. })),
        "{gone:?}"
    );
}

async fn a_schedule_is_described_as_it_was_made(bench: Bench) {
    let spec = json!({
        "cron": ["CRON_TZ=Europe/Berlin 0 3 * * mon-fri 2090"],
        "intervals": [{"every": "PT24000H", "offset": "PT5M"}],
        "jitter": "PT1M",
        "time_zone": "Europe/Berlin",
        "start_time": "2026-01-01T00:00:00Z",
        "end_time": "2090-12-31T00:00:00Z",
    });
    let policies = json!({
        "overlap": "cancel_other", "catchup_window": "PT2M", "pause_on_failure": true,
    });
    let mut given = schedule("s", "echo", spec, policies);
    given.action.version = Some("1.2.0".parse().unwrap());
    given.state.paused = true;
    given.state.note = "not yet".to_owned();
    given.state.limited_actions = true;
    given.state.remaining_actions = 3;
    create(&bench, "s", given.clone()).await;
    let seen = described(&bench, "s").await;
    assert_eq!(seen.schedule, given);
    assert_eq!(seen.info.action_count, 0);
    assert_eq!(seen.info.future_action_times.len(), 3);
    assert!(seen.info.create_time.is_some());
}

async fn a_paused_schedule_lets_its_times_pass_and_takes_triggers(bench: Bench) {
    bench.define("set", "  - a: {set: {x: 1}}\n");
    let spec = json!({"intervals": [{"every": "PT1S"}]});
    let mut paused = schedule("s", "set", spec, json!({}));
    paused.state.paused = true;
    create(&bench, "s", paused).await;
    let made = Timestamp::now();
    bench
        .until("two of its times passed", async || {
            Timestamp::now().duration_since(made) > SignedDuration::from_millis(2_100)
        })
        .await;
    assert_eq!(described(&bench, "s").await.info.action_count, 0);
    trigger(&bench, "s", None).await;
    let info = until(&bench, "s", "a run", |seen| seen.info.action_count > 0).await;
    assert_eq!(info.action_count, 1);
    let note = "go on".to_owned();
    patch(&bench, "s", SchedulePatch::Unpause { note }).await;
    until(&bench, "s", "more runs", |seen| seen.info.action_count > 2).await;
    let note = "enough".to_owned();
    patch(&bench, "s", SchedulePatch::Pause { note }).await;
    let seen = described(&bench, "s").await.schedule.state;
    assert_eq!((seen.paused, seen.note.as_str()), (true, "enough"));
}

async fn a_trigger_is_skipped_while_a_run_is_open(mut bench: Bench) {
    bench.define("hand", "  - a: {call: t.hand}\n");
    create(&bench, "s", schedule("s", "hand", never(), json!({}))).await;
    trigger(&bench, "s", None).await;
    let attempt = bench.attempt().await;
    until(&bench, "s", "it runs", |seen| {
        seen.info.running_workflows.len() == 1
    })
    .await;
    trigger(&bench, "s", None).await;
    let info = until(&bench, "s", "it is skipped", |seen| {
        seen.info.overlap_skipped == 1
    })
    .await;
    assert_eq!((info.action_count, info.buffer_size), (1, 0));
    attempt.end(Ok(json!(1)));
    bench.end(&run_of(&info, 0)).await;
    let info = until(&bench, "s", "it has ended", |seen| {
        seen.info.running_workflows.is_empty()
    })
    .await;
    assert_eq!(info.recent_actions[0].status, ExecutionStatus::Completed);
}

async fn a_buffered_start_follows_the_open_run(mut bench: Bench) {
    bench.define("hand", "  - a: {call: t.hand}\n");
    let policies = json!({"overlap": "buffer_one"});
    create(&bench, "s", schedule("s", "hand", never(), policies)).await;
    trigger(&bench, "s", None).await;
    let attempt = bench.attempt().await;
    next_second(&bench).await;
    trigger(&bench, "s", None).await;
    // The cluster keeps one of two triggers that come to it together.
    until(&bench, "s", "one waits", |seen| seen.info.buffer_size == 1).await;
    trigger(&bench, "s", None).await;
    let info = until(&bench, "s", "one waits, one is skipped", |seen| {
        seen.info.overlap_skipped == 1
    })
    .await;
    assert_eq!((info.action_count, info.buffer_size), (1, 1));
    bench.restart().await;
    drop(attempt);
    // A start beside the open run is none that waits for it.
    next_second(&bench).await;
    trigger(&bench, "s", Some(OverlapPolicy::AllowAll)).await;
    until(&bench, "s", "another", |seen| seen.info.action_count == 2).await;
    bench
        .engine()
        .terminate(&run_of(&info, 0), "")
        .await
        .unwrap();
    let info = until(&bench, "s", "the next", |seen| seen.info.action_count == 3).await;
    assert_eq!(info.buffer_size, 0);
}

async fn all_buffered_starts_follow_each_other(mut bench: Bench) {
    bench.define("hand", "  - a: {call: t.hand}\n");
    let policies = json!({"overlap": "buffer_all"});
    create(&bench, "s", schedule("s", "hand", never(), policies)).await;
    trigger(&bench, "s", None).await;
    let mut attempt = bench.attempt().await;
    for waiting in 1..=2 {
        next_second(&bench).await;
        trigger(&bench, "s", None).await;
        until(&bench, "s", "it waits", |seen| {
            seen.info.buffer_size == waiting
        })
        .await;
    }
    for (index, started) in (1..=3).enumerate() {
        let info = until(&bench, "s", "one is open, the others wait", |seen| {
            let info = &seen.info;
            (info.action_count, info.buffer_size) == (started, 3 - started)
                && info.running_workflows.len() == 1
        })
        .await;
        assert_eq!(info.overlap_skipped, 0);
        assert_eq!(bench.begun("t.hand"), started);
        attempt.end(Ok(json!(started)));
        let open = run_of(&info, index);
        assert_eq!(bench.result(&open).await, json!(started));
        if started == 3 {
            break;
        }
        attempt = bench.attempt().await;
    }
}

async fn a_run_that_goes_on_as_another_is_still_open(mut bench: Bench) {
    bench.with_short_histories(12).await;
    let step = |n| format!("  - s{n}: {{call: t.echo}}\n");
    let steps: String = (0..6).map(step).collect();
    bench.define("long", &format!("{steps}  - a: {{call: t.hand}}\n"));
    create(&bench, "s", schedule("s", "long", never(), json!({}))).await;
    trigger(&bench, "s", None).await;
    let attempt = bench.attempt().await;
    let info = until(&bench, "s", "it runs", |seen| {
        seen.info.running_workflows.len() == 1
    })
    .await;
    assert!(bench.chain(&run_of(&info, 0)).await.len() > 1);
    next_second(&bench).await;
    trigger(&bench, "s", None).await;
    until(&bench, "s", "another is skipped", |seen| {
        seen.info.overlap_skipped == 1
    })
    .await;
    next_second(&bench).await;
    trigger(&bench, "s", Some(OverlapPolicy::CancelOther)).await;
    attempt.obey().await;
    let info = until(&bench, "s", "the next one", |seen| {
        seen.info.action_count == 2
    })
    .await;
    let end = bench.end(&run_of(&info, 0)).await;
    assert_eq!(end.status, ExecutionStatus::Canceled);
}

/// Waits for another second: a run's id has no finer time.
async fn next_second(bench: &Bench) {
    let now = Timestamp::now().as_second();
    let is_over = async || Timestamp::now().as_second() != now;
    bench.until("the second is over", is_over).await;
}

async fn an_open_run_makes_way_for_the_next(mut bench: Bench) {
    bench.define("hand", "  - a: {call: t.hand}\n");
    for (id, policy, status) in [
        ("c", "cancel_other", ExecutionStatus::Canceled),
        ("t", "terminate_other", ExecutionStatus::Terminated),
    ] {
        let policies = json!({"overlap": policy});
        create(&bench, id, schedule(id, "hand", never(), policies)).await;
        trigger(&bench, id, None).await;
        let first = bench.attempt().await;
        next_second(&bench).await;
        trigger(&bench, id, None).await;
        first.obey().await;
        bench.attempt().await.end(Ok(json!(2)));
        let info = until(&bench, id, "the next", |seen| seen.info.action_count == 2).await;
        assert_eq!(bench.end(&run_of(&info, 0)).await.status, status);
        assert_eq!(bench.result(&run_of(&info, 1)).await, json!(2));
    }
}

async fn a_backfill_starts_times_that_have_passed(mut bench: Bench) {
    bench.define("set", "  - a: {set: {x: 1}}\n");
    let spec = json!({"cron": ["0 * * * * 2020/1"], "end_time": "2025-12-31T00:00:00Z"});
    create(&bench, "s", schedule("s", "set", spec.clone(), json!({}))).await;
    let backfill = |overlap| SchedulePatch::Backfill {
        start_time: "2025-03-01T10:00:00Z".parse().unwrap(),
        end_time: "2025-03-01T12:00:00Z".parse().unwrap(),
        overlap,
    };
    patch(&bench, "s", backfill(Some(OverlapPolicy::AllowAll))).await;
    let info = until(&bench, "s", "all of them", |seen| {
        seen.info.action_count >= 3
    })
    .await;
    let ids = |info: &ScheduleInfo| {
        let recent = info.recent_actions.iter();
        let mut ids: Vec<_> = recent.map(|one| one.workflow_id.clone()).collect();
        ids.sort();
        ids
    };
    let expected = ["10", "11", "12"].map(|hour| format!("s-2025-03-01T{hour}:00:00Z"));
    assert_eq!(ids(&info), expected);
    for index in 0..3 {
        assert_eq!(bench.result(&run_of(&info, index)).await, json!({"x": 1}));
    }
    // Asked for again, they are started again.
    patch(&bench, "s", backfill(Some(OverlapPolicy::AllowAll))).await;
    let info = until(&bench, "s", "all of them again", |seen| {
        seen.info.action_count >= 6
    })
    .await;
    assert_eq!(info.action_count, 6);
    let runs = info.recent_actions.iter().map(|one| one.run_id);
    assert_eq!(runs.collect::<BTreeSet<_>>().len(), 6);

    // By the schedule's own policy there is no room for others while the first one is open.
    bench.define("hand", "  - a: {call: t.hand}\n");
    create(&bench, "own", schedule("own", "hand", spec, json!({}))).await;
    patch(&bench, "own", backfill(None)).await;
    let attempt = bench.attempt().await;
    let info = until(&bench, "own", "the others are skipped", |seen| {
        seen.info.overlap_skipped == 2
    })
    .await;
    assert_eq!((info.action_count, info.buffer_size), (1, 0));
    let first = &info.recent_actions[0].workflow_id;
    assert_eq!(first, "own-2025-03-01T10:00:00Z");
    attempt.end(Ok(json!(1)));
    assert_eq!(bench.result(&run_of(&info, 0)).await, json!(1));
}

async fn a_failed_run_pauses_the_schedule(bench: Bench) {
    bench.define("fail", "  - a: {call: t.fail}\n");
    let policies = json!({"pause_on_failure": true});
    create(&bench, "s", schedule("s", "fail", never(), policies)).await;
    trigger(&bench, "s", None).await;
    until(&bench, "s", "it pauses", |seen| seen.schedule.state.paused).await;
    let seen = described(&bench, "s").await;
    assert_eq!(seen.info.recent_actions[0].status, ExecutionStatus::Failed);
    assert!(!seen.schedule.state.note.is_empty());
}

async fn a_limited_schedule_ends(bench: Bench) {
    bench.define("set", "  - a: {set: {x: 1}}\n");
    let spec = json!({"intervals": [{"every": "PT1S"}]});
    let mut limited = schedule("s", "set", spec, json!({}));
    limited.state.limited_actions = true;
    limited.state.remaining_actions = 2;
    create(&bench, "s", limited).await;
    let info = until(&bench, "s", "it ends", |seen| {
        seen.schedule.state.remaining_actions == 0
    })
    .await;
    assert_eq!(info.action_count, 2);
    assert!(info.future_action_times.is_empty());
}

async fn an_update_takes_its_place(bench: Bench) {
    bench.define("set", "  - a: {set: {x: 1}}\n");
    create(&bench, "s", schedule("s", "hand", never(), json!({}))).await;
    let policies = json!({"overlap": "allow_all"});
    let spec = json!({"intervals": [{"every": "PT1S"}]});
    let to = schedule("other", "set", spec, policies);
    let updated = bench.engine().update_schedule(&name("s"), to.clone()).await;
    updated.unwrap();
    let info = until(&bench, "s", "a run", |seen| seen.info.action_count > 0).await;
    assert!(info.recent_actions[0].workflow_id.starts_with("other-"));
    assert_eq!(described(&bench, "s").await.schedule, to);
}

async fn jitter_moves_times_and_the_runs_that_they_start(bench: Bench) {
    const EVERY: i64 = 2;
    bench.define("set", "  - a: {set: {x: 1}}\n");
    let spec = json!({"intervals": [{"every": "PT2S"}], "jitter": "PT2S"});
    let policies = json!({"overlap": "allow_all"});
    create(&bench, "s", schedule("s", "set", spec, policies)).await;
    let told = described(&bench, "s").await.info.future_action_times;
    let before_jitter = |time: &Timestamp| time.as_second().div_euclid(EVERY) * EVERY;
    assert!(told.len() > 3, "{told:?}");
    // Each stays before the next one, and not all are where they would be without.
    let steps = told.windows(2);
    assert!(
        steps
            .map(|pair| before_jitter(&pair[1]) - before_jitter(&pair[0]))
            .all(|step| step == EVERY),
        "{told:?}"
    );
    assert!(
        told.iter()
            .any(|time| time.duration_since(Timestamp::UNIX_EPOCH).as_millis() % 2_000 != 0),
        "{told:?}"
    );
    // A run is named after the time before jitter, and begins no sooner than was told.
    let runs = |info: &ScheduleInfo| -> Vec<(Timestamp, Timestamp)> {
        let of_told = info.recent_actions.iter().filter_map(|action| {
            let name = action.workflow_id.strip_prefix("s-").unwrap();
            let named: Timestamp = name.parse().unwrap();
            assert_eq!(action.schedule_time, named);
            let time = told
                .iter()
                .find(|time| before_jitter(time) == named.as_second());
            Some((*time?, action.actual_time))
        });
        of_told.collect()
    };
    let info = until(&bench, "s", "two runs", |seen| runs(&seen.info).len() >= 2).await;
    for (time, began) in runs(&info) {
        assert!(began >= time, "{began} before {time}: {told:?}");
    }
}

async fn schedules_are_listed(bench: Bench) {
    for id in ["a", "b", "c"] {
        let mut one = schedule(id, "set", json!({"cron": ["@yearly"]}), json!({}));
        one.state.paused = id == "b";
        one.state.note = "why".to_owned();
        create(&bench, id, one).await;
    }
    let list = async |page_size: usize, page_token: Option<String>| {
        let request = ListSchedules {
            namespace: NAMESPACE.to_owned(),
            page_size,
            page_token,
        };
        bench.engine().list_schedules(&request).await.unwrap()
    };
    bench
        .until("all are listed", async || {
            let page = list(10, None).await;
            page.schedules.len() == 3 && page.schedules[1].paused
        })
        .await;
    let page = list(10, None).await;
    let seen = &page.schedules[1];
    assert_eq!(
        (seen.schedule_id.as_str(), seen.note.as_str()),
        ("b", "why")
    );
    assert_eq!(seen.workflow_type, "test.set");
    assert_eq!(seen.spec.cron, ["@yearly"]);
    assert!(!seen.future_action_times.is_empty());
    assert_eq!(list(3, None).await.next_page_token, None);
    let first = list(2, None).await;
    assert_eq!(first.schedules.len(), 2);
    let second = list(2, first.next_page_token).await;
    assert_eq!(second.schedules.len(), 1);
    let refused = ListSchedules {
        namespace: NAMESPACE.to_owned(),
        page_size: 1,
        page_token: Some("%".to_owned()),
    };
    let refused = bench.engine().list_schedules(&refused).await;
    assert!(matches!(refused, Err(EngineError::Invalid(_))));
}

async fn what_is_no_schedule_is_refused(bench: Bench) {
    let engine = bench.engine();
    let create = async |id: &str, spec: Value| {
        let request = CreateSchedule {
            reference: name(id),
            schedule: schedule("w", "set", spec, json!({})),
            trigger_immediately: false,
        };
        engine.create_schedule(request).await
    };
    for (id, spec) in [
        ("s", json!({"cron": ["61 * * * *"]})),
        ("s", json!({"time_zone": "Mars/Base"})),
        ("s", json!({"intervals": [{"every": "PT0.5S"}]})),
        ("", never()),
    ] {
        let refused = create(id, spec).await;
        assert!(
            matches!(refused, Err(EngineError::Invalid(_))),
            "{refused:?}"
        );
    }
    create("s", never()).await.unwrap();
    let refused = create("s", never()).await;
    assert!(
        matches!(refused, Err(EngineError::ScheduleExists { .. })),
        "{refused:?}"
    );
    let nobody = name("nobody");
    let note = || "x".to_owned();
    let refusals = [
        engine.describe_schedule(&nobody).await.err(),
        engine.delete_schedule(&nobody).await.err(),
        engine
            .patch_schedule(&nobody, SchedulePatch::Pause { note: note() })
            .await
            .err(),
        engine
            .update_schedule(&nobody, schedule("w", "set", never(), json!({})))
            .await
            .err(),
        engine
            .schedule_times(&nobody, Timestamp::UNIX_EPOCH, Timestamp::now())
            .await
            .err(),
    ];
    for refused in refusals {
        assert!(
            matches!(refused, Some(EngineError::ScheduleNotFound { .. })),
            "{refused:?}"
        );
    }
    let no_note = SchedulePatch::Pause {
        note: String::new(),
    };
    let refused = engine.patch_schedule(&name("s"), no_note).await;
    assert!(matches!(refused, Err(EngineError::Invalid(_))));
    let backwards = SchedulePatch::Backfill {
        start_time: Timestamp::now(),
        end_time: Timestamp::UNIX_EPOCH,
        overlap: None,
    };
    let refused = engine.patch_schedule(&name("s"), backwards).await;
    assert!(matches!(refused, Err(EngineError::Invalid(_))));
}
