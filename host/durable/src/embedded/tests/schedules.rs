//! Schedules, in virtual time: overlaps, missed times, and crashes in between.

use super::*;
use crate::engine::EngineError;
use crate::schedule::{
    CreateSchedule, ListSchedules, OverlapPolicy, Schedule, ScheduleDescription, SchedulePatch,
    ScheduleRef, Schedules as _,
};

/// Runs wait for the test.
const HAND: &str = "  - a: {call: t.hand}\n";
/// Runs end by themselves.
const SET: &str = "  - a: {set: {x: 1}}\n";

fn name(id: &str) -> ScheduleRef {
    ScheduleRef {
        namespace: "default".to_owned(),
        schedule_id: id.to_owned(),
    }
}

/// Every minute; the clock stands at a whole hour.
fn minutely(flow: &str, policies: Value) -> Schedule {
    serde_json::from_value(json!({
        "spec": {"intervals": [{"every": "PT1M"}]},
        "action": {"workflow_type": format!("test.{flow}"), "workflow_id": "w", "input": {"n": 1}},
        "policies": policies,
    }))
    .unwrap()
}

const MINUTE: Duration = Duration::from_secs(60);

impl Bench {
    async fn schedule(&self, id: &str, schedule: Schedule) {
        let request = CreateSchedule {
            reference: name(id),
            schedule,
            trigger_immediately: false,
        };
        self.engine().create_schedule(request).await.unwrap();
    }

    async fn described(&self, id: &str) -> ScheduleDescription {
        self.engine().describe_schedule(&name(id)).await.unwrap()
    }

    async fn patch(&self, id: &str, patch: SchedulePatch) {
        let patched = self.engine().patch_schedule(&name(id), patch).await;
        patched.unwrap();
    }

    /// Waits until a schedule has started so many runs.
    async fn until_actions(&self, id: &str, count: u64) -> ScheduleDescription {
        self.until(&format!("{count} actions"), async || {
            self.described(id).await.info.action_count >= count
        })
        .await;
        let described = self.described(id).await;
        assert_eq!(described.info.action_count, count);
        described
    }

    /// Waits until the times up to now were looked at, by what the counts say.
    async fn until_counts(&self, id: &str, so: impl Fn(&ScheduleDescription) -> bool) {
        self.until("the schedule looked", async || {
            so(&self.described(id).await)
        })
        .await;
    }

    /// The workflow ids of the last actions.
    async fn started(&self, id: &str) -> Vec<String> {
        let recent = self.described(id).await.info.recent_actions;
        recent.into_iter().map(|one| one.workflow_id).collect()
    }
}

/// The workflow id of the run that many minutes after the clock's start.
fn at(minutes: i64) -> String {
    let time = Timestamp::from_second(1_800_000_000 + 60 * minutes).unwrap();
    format!("w-{time}")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_time_starts_a_run_whose_id_has_the_time() {
    let bench = Bench::new().await;
    bench.define("set", SET);
    bench.schedule("s", minutely("set", json!({}))).await;
    assert_eq!(bench.described("s").await.info.action_count, 0);
    for minute in 1..=3 {
        bench.clock.advance(MINUTE);
        let seen = bench.until_actions("s", minute).await;
        let last = seen.info.recent_actions.last().unwrap().clone();
        assert_eq!(last.workflow_id, at(minute as i64));
        let run = RunRef {
            run_id: Some(last.run_id),
            ..run(&last.workflow_id)
        };
        assert_eq!(bench.result(&run).await, json!({"x": 1}));
    }
    let info = bench.described("s").await.info;
    let next = Timestamp::from_second(1_800_000_000 + 240).unwrap();
    assert_eq!(info.future_action_times[0], next);
    assert_eq!(info.future_action_times.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_is_skipped_while_a_run_is_open() {
    let mut bench = Bench::new().await;
    bench.define("hand", HAND);
    bench.schedule("s", minutely("hand", json!({}))).await;
    bench.clock.advance(MINUTE);
    let attempt = bench.attempt().await;
    for skipped in 1..=3 {
        bench.clock.advance(MINUTE);
        bench
            .until_counts("s", |seen| seen.info.overlap_skipped == skipped)
            .await;
    }
    attempt.end(Ok(json!(1)));
    bench
        .until_counts("s", |seen| seen.info.running_workflows.is_empty())
        .await;
    bench.clock.advance(MINUTE);
    let _attempt = bench.attempt().await;
    assert_eq!(bench.started("s").await, [at(1), at(5)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn buffered_times_follow_each_other() {
    let mut bench = Bench::new().await;
    bench.define("hand", HAND);
    for (id, policy, buffered) in [("one", "buffer_one", 1), ("all", "buffer_all", 3)] {
        let mut schedule = minutely("hand", json!({"overlap": policy}));
        schedule.action.workflow_id = id.to_owned();
        bench.schedule(id, schedule).await;
        bench.clock.advance(MINUTE);
        let mut attempt = bench.attempt().await;
        for minute in 1..=3 {
            bench.clock.advance(MINUTE);
            bench
                .until_counts(id, |seen| {
                    seen.info.buffer_size + seen.info.overlap_skipped == minute
                })
                .await;
        }
        assert_eq!(bench.described(id).await.info.buffer_size, buffered);
        for count in 1..=buffered {
            attempt.end(Ok(json!(1)));
            attempt = bench.attempt().await;
            bench.until_actions(id, 1 + count).await;
        }
        attempt.end(Ok(json!(1)));
        bench
            .until_counts(id, |seen| seen.info.running_workflows.is_empty())
            .await;
        bench.engine().delete_schedule(&name(id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_open_run_makes_way_where_the_policy_says_so() {
    let mut bench = Bench::new().await;
    bench.define("hand", HAND);
    for (id, policy, status) in [
        ("cancel", "cancel_other", ExecutionStatus::Canceled),
        ("terminate", "terminate_other", ExecutionStatus::Terminated),
    ] {
        let mut schedule = minutely("hand", json!({"overlap": policy, "pause_on_failure": true}));
        schedule.action.workflow_id = id.to_owned();
        bench.schedule(id, schedule).await;
        bench.clock.advance(MINUTE);
        let first = bench.attempt().await;
        bench.clock.advance(MINUTE);
        first.context.cancellation.cancelled().await;
        first.end(Err(Failure::permanent(kind::CANCELLED, "stopped")));
        let _second = bench.attempt().await;
        let seen = bench.until_actions(id, 2).await;
        assert_eq!(seen.info.recent_actions[0].status, status);
        assert!(!seen.schedule.state.paused, "that is no failure");
        bench.engine().delete_schedule(&name(id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_runs_may_be_open_at_once() {
    let mut bench = Bench::new().await;
    bench.define("hand", HAND);
    let policies = json!({"overlap": "allow_all"});
    bench.schedule("s", minutely("hand", policies)).await;
    let mut attempts = Vec::new();
    for minute in 1..=3 {
        bench.clock.advance(MINUTE);
        attempts.push(bench.attempt().await);
        bench.until_actions("s", minute).await;
    }
    assert!(bench.described("s").await.info.running_workflows.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn missed_times_within_the_catchup_window_are_made_up_for_once() {
    let mut bench = Bench::new().await;
    bench.define("set", SET);
    let policies = json!({"overlap": "allow_all", "catchup_window": "PT5M"});
    bench.schedule("s", minutely("set", policies)).await;
    bench.clock.advance(MINUTE);
    bench.until_actions("s", 1).await;
    bench.stop().await;
    bench.clock.advance(9 * MINUTE);
    bench.open().await;
    // Minutes 2 to 4 are too long ago; 5 to 10 are not.
    bench.until_actions("s", 7).await;
    assert_eq!(bench.described("s").await.info.missed_catchup_window, 3);
    let expected: Vec<_> = [1, 5, 6, 7, 8, 9, 10].into_iter().map(at).collect();
    assert_eq!(bench.started("s").await, expected);
    bench.crash().await;
    bench.clock.advance(MINUTE);
    bench.until_actions("s", 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_a_start_and_its_record_starts_nothing_twice() {
    let mut bench = Bench::new().await;
    bench.define("set", SET);
    let policies = json!({"overlap": "buffer_all"});
    bench.schedule("s", minutely("set", policies)).await;
    let before = bench.row("s").await;
    for minute in 1..=3 {
        bench.clock.advance(MINUTE);
        bench.until_actions("s", minute).await;
    }
    let first = bench.described("s").await.info.recent_actions;
    bench.stop().await;
    // As if the power had gone after each start, before the schedule knew of it.
    bench.put_row("s", &before).await;
    bench.open().await;
    let again = bench.until_actions("s", 3).await.info.recent_actions;
    let runs = |actions: &[crate::schedule::ActionResult]| {
        let runs = actions.iter().map(|one| one.run_id);
        runs.collect::<Vec<_>>()
    };
    assert_eq!(runs(&first), runs(&again));
    let all = crate::engine::ListRuns {
        namespace: "default".to_owned(),
        page_size: 100,
        ..Default::default()
    };
    assert_eq!(bench.engine().list(&all).await.unwrap().runs.len(), 3);
}

impl Bench {
    async fn row(&self, id: &str) -> Vec<u8> {
        let rows = self.engine().core.store.schedules().await.unwrap();
        let found = rows.into_iter().find(|(found, _)| found == &name(id));
        found.unwrap().1
    }

    /// That row as it was when the last backfill had been written and not yet begun.
    async fn asked(&self, row: &[u8]) -> Vec<u8> {
        let keys: Vec<String> =
            sqlx::query_scalar("SELECT key FROM idempotency ORDER BY key DESC LIMIT 3")
                .fetch_all(self.engine().core.store.readers())
                .await
                .unwrap();
        let waiting = keys.iter().rev().map(|key| {
            let words: Vec<&str> = key.split(' ').collect();
            json!({"nominal": words[2], "overlap": "buffer_all", "request": words[1]})
        });
        let mut row: Value = serde_json::from_slice(row).unwrap();
        row["waiting"] = waiting.collect();
        row.to_string().into_bytes()
    }

    async fn put_row(&self, id: &str, body: &[u8]) {
        use sqlx::Connection as _;
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.database());
        let mut connection = sqlx::SqliteConnection::connect_with(&options)
            .await
            .unwrap();
        sqlx::query("UPDATE schedules SET body = ? WHERE schedule_id = ?")
            .bind(body)
            .bind(id)
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ended_while_the_server_was_away_makes_room() {
    let mut bench = Bench::new().await;
    bench.define("hand", HAND);
    let policies = json!({"overlap": "buffer_all"});
    bench.schedule("s", minutely("hand", policies)).await;
    bench.clock.advance(MINUTE);
    let _lost = bench.attempt().await;
    bench.clock.advance(MINUTE);
    bench
        .until_counts("s", |seen| seen.info.buffer_size == 1)
        .await;
    bench.crash().await;
    // The attempt was lost with the process, and is made again.
    bench
        .until("the attempt backs off", async || bench.next_at().is_some())
        .await;
    bench.clock.advance(Duration::from_secs(2));
    bench.attempt().await.end(Ok(json!(1)));
    let _next = bench.attempt().await;
    assert_eq!(bench.until_actions("s", 2).await.info.buffer_size, 0);
    assert_eq!(bench.started("s").await, [at(1), at(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn times_pass_by_while_it_is_paused() {
    let mut bench = Bench::new().await;
    bench.define("set", SET);
    let policies = json!({"overlap": "allow_all"});
    bench.schedule("s", minutely("set", policies)).await;
    let note = || "holidays".to_owned();
    bench
        .patch("s", SchedulePatch::Pause { note: note() })
        .await;
    bench.clock.advance(3 * MINUTE);
    bench.crash().await;
    assert_eq!(bench.described("s").await.schedule.state.note, "holidays");
    // What somebody asks for is done all the same.
    bench
        .patch(
            "s",
            SchedulePatch::TriggerImmediately {
                overlap: None,
                scheduled_time: None,
            },
        )
        .await;
    bench.until_actions("s", 1).await;
    assert_eq!(bench.started("s").await, [at(3)]);
    bench
        .patch("s", SchedulePatch::Unpause { note: note() })
        .await;
    bench.clock.advance(MINUTE);
    bench.until_actions("s", 2).await;
    assert_eq!(bench.started("s").await, [at(3), at(4)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_run_pauses_it_where_it_should() {
    let bench = Bench::new().await;
    bench.define("fail", "  - a: {call: t.fail}\n");
    let policies = json!({"pause_on_failure": true});
    bench.schedule("s", minutely("fail", policies)).await;
    bench.clock.advance(MINUTE);
    bench
        .until_counts("s", |seen| seen.schedule.state.paused)
        .await;
    let seen = bench.described("s").await;
    assert!(seen.schedule.state.note.contains("Failed"), "{seen:?}");
    assert_eq!(seen.info.recent_actions[0].status, ExecutionStatus::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_is_not_there_starts_nothing() {
    let bench = Bench::new().await;
    let policies = json!({"pause_on_failure": true});
    bench.schedule("s", minutely("nowhere", policies)).await;
    bench.clock.advance(MINUTE);
    bench
        .until_counts("s", |seen| seen.schedule.state.paused)
        .await;
    let seen = bench.described("s").await;
    assert!(
        seen.schedule.state.note.contains("test.nowhere"),
        "{seen:?}"
    );
    assert_eq!(seen.info.action_count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_after_as_many_actions_as_it_may_take() {
    let bench = Bench::new().await;
    bench.define("set", SET);
    let mut schedule = minutely("set", json!({"overlap": "allow_all"}));
    schedule.state.limited_actions = true;
    schedule.state.remaining_actions = 2;
    bench.schedule("s", schedule).await;
    assert_eq!(bench.described("s").await.info.future_action_times.len(), 2);
    bench.clock.advance(5 * MINUTE);
    bench.until_actions("s", 2).await;
    let seen = bench.described("s").await;
    assert_eq!(seen.schedule.state.remaining_actions, 0);
    assert!(seen.info.future_action_times.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_takes_times_that_have_passed() {
    let mut bench = Bench::new().await;
    bench.define("set", SET);
    bench.schedule("s", minutely("set", json!({}))).await;
    let patch = SchedulePatch::Backfill {
        start_time: Timestamp::from_second(1_800_000_000 - 180).unwrap(),
        end_time: Timestamp::from_second(1_800_000_000 - 60).unwrap(),
        overlap: Some(OverlapPolicy::BufferAll),
    };
    bench.patch("s", patch.clone()).await;
    bench.until_actions("s", 3).await;
    assert_eq!(bench.started("s").await, [at(-3), at(-2), at(-1)]);
    // Asked for again they are started again, and that once, whatever happens.
    let before = bench.row("s").await;
    bench.patch("s", patch).await;
    bench.until_actions("s", 6).await;
    assert_eq!(bench.started("s").await[3..], [at(-3), at(-2), at(-1)]);
    let runs = |actions: Vec<crate::schedule::ActionResult>| {
        let runs = actions.into_iter().map(|one| one.run_id);
        runs.collect::<std::collections::BTreeSet<_>>()
    };
    let first = runs(bench.described("s").await.info.recent_actions);
    assert_eq!(first.len(), 6);
    let asked = bench.asked(&before).await;
    bench.stop().await;
    bench.put_row("s", &asked).await;
    bench.open().await;
    let again = bench.until_actions("s", 6).await;
    assert_eq!(runs(again.info.recent_actions), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_spec_counts_from_now_on() {
    let bench = Bench::new().await;
    bench.define("set", SET);
    let mut schedule = minutely("set", json!({"overlap": "allow_all"}));
    bench.schedule("s", schedule.clone()).await;
    bench.clock.advance(MINUTE);
    bench.until_actions("s", 1).await;
    bench.clock.advance(Duration::from_secs(30));
    // Its times that have passed are of the old one.
    schedule.spec.intervals[0].every = Duration::from_secs(10);
    let updated = bench.engine().update_schedule(&name("s"), schedule).await;
    updated.unwrap();
    bench.clock.advance(Duration::from_secs(10));
    bench.until_actions("s", 2).await;
    assert_eq!(bench.started("s").await[1], "w-2027-01-15T08:01:40Z");
    assert!(bench.described("s").await.info.update_time.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_are_listed_in_pages_and_deleted_for_good() {
    let mut bench = Bench::new().await;
    for id in ["c", "a", "b"] {
        bench.schedule(id, minutely("set", json!({}))).await;
    }
    let again = CreateSchedule {
        reference: name("a"),
        schedule: minutely("set", json!({})),
        trigger_immediately: false,
    };
    let refused = bench.engine().create_schedule(again).await;
    assert!(matches!(refused, Err(EngineError::ScheduleExists { .. })));
    bench.engine().delete_schedule(&name("b")).await.unwrap();
    bench.crash().await;
    let mut seen = Vec::new();
    let mut page_token = None;
    loop {
        let request = ListSchedules {
            namespace: "default".to_owned(),
            page_size: 1,
            page_token,
        };
        let page = bench.engine().list_schedules(&request).await.unwrap();
        seen.extend(page.schedules.into_iter().map(|one| one.schedule_id));
        page_token = page.next_page_token;
        if page_token.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["a", "c"]);
    let gone = bench.engine().describe_schedule(&name("b")).await;
    assert!(matches!(gone, Err(EngineError::ScheduleNotFound { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_from_before_there_were_schedules_gets_them() {
    use sqlx::{Connection as _, Executor as _};
    let mut bench = Bench::new().await;
    bench.stop().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(bench.database());
    let mut connection = sqlx::SqliteConnection::connect_with(&options)
        .await
        .unwrap();
    connection
        .execute(
            "DROP TABLE schedules; DROP TABLE search_types; DROP TABLE search_values;
             PRAGMA user_version = 1",
        )
        .await
        .unwrap();
    connection.close().await.unwrap();
    bench.open().await;
    bench.schedule("s", minutely("set", json!({}))).await;
    bench.crash().await;
    assert_eq!(bench.described("s").await.info.action_count, 0);
}
