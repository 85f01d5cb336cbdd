//! When a schedule's times are, as the engine tells beforehand. What is expected was worked
//! out by hand: a cluster computes its own.

use serde_json::json;

use super::bench::Bench;
use super::schedules::{create, described, name, schedule};

on_both!(
    temporal_with_schedules, real_with_schedules:
    times_are_told_beforehand_as_they_come,
);

/// The times from one to another.
async fn told(bench: &Bench, id: &str, from: &str, to: &str) -> Vec<String> {
    let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
    let times = bench.engine().schedule_times(&name(id), from, to).await;
    let times = times.unwrap().into_iter();
    times.map(|time| time.to_string()).collect()
}

async fn times_are_told_beforehand_as_they_come(bench: Bench) {
    let spec = json!({
        "cron": ["CRON_TZ=America/New_York 30 1,2 * * *"],
        "start_time": "2030-01-01T00:00:00Z",
    });
    create(&bench, "s", schedule("s", "set", spec, json!({}))).await;
    let times = async |from, to| told(&bench, "s", from, to).await;
    // Clocks are set forward at 2 on 2030-03-10, and back at 2 on 2030-11-03.
    assert_eq!(
        times("2030-03-10T06:30:00Z", "2030-03-11T06:30:00Z").await,
        [
            "2030-03-10T06:30:00Z",
            "2030-03-11T05:30:00Z",
            "2030-03-11T06:30:00Z"
        ]
    );
    assert_eq!(
        times("2030-11-03T00:00:00Z", "2030-11-03T12:00:00Z").await,
        [
            "2030-11-03T05:30:00Z",
            "2030-11-03T06:30:00Z",
            "2030-11-03T07:30:00Z"
        ]
    );
    let first = described(&bench, "s").await.info.future_action_times[0];
    assert_eq!(first.to_string(), "2030-01-01T06:30:00Z");
    all_kinds_add_up(&bench).await;
}

/// Calendars and intervals add up within the bounds, and a whole day of the time zone is
/// taken away from both.
async fn all_kinds_add_up(bench: &Bench) {
    let all = |last: u8| json!([{ "start": 0, "end": last }]);
    let spec = json!({
        "calendars": [{
            "hour": [{"start": 9, "end": 17, "step": 4}],
            "day_of_week": [{"start": 1, "end": 5}],
        }],
        "intervals": [{"every": "PT12H", "offset": "PT5M"}],
        "exclude_calendars": [{
            "second": all(59), "minute": all(59), "hour": all(23),
            "day_of_month": [{"start": 5}], "month": [{"start": 2}],
        }],
        "time_zone": "America/New_York",
        "start_time": "2030-02-04T14:00:00Z",
        "end_time": "2030-02-06T14:00:00Z",
    });
    create(bench, "all", schedule("all", "set", spec, json!({}))).await;
    // Monday to Wednesday, in a time zone 5 hours behind; both bounds match.
    assert_eq!(
        told(bench, "all", "2030-02-04T00:00:00Z", "2030-02-07T00:00:00Z").await,
        [
            "2030-02-04T14:00:00Z",
            "2030-02-04T18:00:00Z",
            "2030-02-04T22:00:00Z",
            "2030-02-05T00:05:00Z",
            "2030-02-06T12:05:00Z",
            "2030-02-06T14:00:00Z",
        ]
    );
}
