//! What a schedule's own times do while a run that it started is open. Triggers and backfills,
//! which come when a test wants them, are in `schedules`.

use heyday_durable::engine::ExecutionStatus;
use heyday_durable::schedule::ScheduleInfo;
use serde_json::json;

use super::bench::Bench;
use super::schedules::{create, name, run_of, schedule, until};

on_both!(
    temporal_with_schedules, real_with_schedules:
    a_time_that_finds_a_run_open_does_what_the_policy_says,
);

/// Whether what is told of a schedule shows its policy.
type Shown = fn(&ScheduleInfo) -> bool;

/// Whether the first of the runs that are told of ended so, and another one followed it.
fn made_way(info: &ScheduleInfo, status: ExecutionStatus) -> bool {
    info.recent_actions.len() > 1 && info.recent_actions[0].status == status
}

async fn a_time_that_finds_a_run_open_does_what_the_policy_says(bench: Bench) {
    bench.define("waits", "  - w: {wait: PT1H}\n");
    // Those that start runs come first, and are gone as soon as they have.
    let policies: [(&str, Shown); 6] = [
        ("allow_all", |info| info.recent_actions.len() > 1),
        ("cancel_other", |info| {
            made_way(info, ExecutionStatus::Canceled)
        }),
        ("terminate_other", |info| {
            made_way(info, ExecutionStatus::Terminated)
        }),
        ("skip", |info| {
            info.overlap_skipped > 0 && (info.action_count, info.buffer_size) == (1, 0)
        }),
        ("buffer_one", |info| {
            info.overlap_skipped > 0 && (info.action_count, info.buffer_size) == (1, 1)
        }),
        ("buffer_all", |info| {
            info.buffer_size > 1 && (info.action_count, info.overlap_skipped) == (1, 0)
        }),
    ];
    // All at once: what takes time is that the times come.
    for (policy, _) in policies {
        let spec = json!({"intervals": [{"every": "PT1S"}]});
        let policies = json!({ "overlap": policy });
        create(&bench, policy, schedule(policy, "waits", spec, policies)).await;
    }
    for (policy, so) in policies {
        let info = until(&bench, policy, policy, |seen| so(&seen.info)).await;
        let deleted = bench.engine().delete_schedule(&name(policy)).await;
        deleted.unwrap();
        if policy == "allow_all" {
            for index in 0..2 {
                let run = run_of(&info, index);
                let described = bench.engine().describe(&run).await.unwrap();
                assert_eq!(described.info.status, ExecutionStatus::Running);
            }
        }
    }
}
