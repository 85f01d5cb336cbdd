//! When a schedule's times are. What is expected here was worked out by hand from
//! Temporal's rules.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;

fn name(id: &str) -> ScheduleRef {
    ScheduleRef {
        namespace: "default".to_owned(),
        schedule_id: id.to_owned(),
    }
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn read(spec: Value) -> Result<Times, String> {
    let spec = serde_json::from_value(spec).map_err(|error| error.to_string())?;
    Times::new(&name("s"), &spec)
}

/// The first times after one.
fn times(spec: Value, after: &str, count: usize) -> Vec<String> {
    let times = read(spec).unwrap();
    let times = times.after(time(after)).take(count);
    times.map(|time| time.nominal.to_string()).collect()
}

fn cron(text: &str, after: &str, count: usize) -> Vec<String> {
    times(json!({"cron": [text]}), after, count)
}

#[test]
fn cron_has_five_to_seven_fields() {
    let after = "2026-02-27T23:59:30Z";
    for (text, expected) in [
        (
            "30 3 * * *",
            ["2026-02-28T03:30:00Z", "2026-03-01T03:30:00Z"],
        ),
        (
            "*/20 1 * * *",
            ["2026-02-28T01:00:00Z", "2026-02-28T01:20:00Z"],
        ),
        (
            "5/25 1 * * *",
            ["2026-02-28T01:05:00Z", "2026-02-28T01:30:00Z"],
        ),
        (
            "0 0 29 2 *",
            ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"],
        ),
        (
            "0 9 * * mon-fri",
            ["2026-03-02T09:00:00Z", "2026-03-03T09:00:00Z"],
        ),
        (
            "0 9 * * 6,7",
            ["2026-02-28T09:00:00Z", "2026-03-01T09:00:00Z"],
        ),
        (
            "0 0 1 jan,July *",
            ["2026-07-01T00:00:00Z", "2027-01-01T00:00:00Z"],
        ),
        (
            "0 0 1 1 * 2030/5",
            ["2030-01-01T00:00:00Z", "2035-01-01T00:00:00Z"],
        ),
        (
            "15,45 59 23 * * * *",
            ["2026-02-27T23:59:45Z", "2026-02-28T23:59:15Z"],
        ),
        ("@daily", ["2026-02-28T00:00:00Z", "2026-03-01T00:00:00Z"]),
        ("@weekly", ["2026-03-01T00:00:00Z", "2026-03-08T00:00:00Z"]),
        ("@yearly", ["2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"]),
        (
            "@every 6h/30m",
            ["2026-02-28T00:30:00Z", "2026-02-28T06:30:00Z"],
        ),
        (
            "0 0 * * * # midnight",
            ["2026-02-28T00:00:00Z", "2026-03-01T00:00:00Z"],
        ),
        (
            "TZ=Asia/Kolkata 0 9 * * *",
            ["2026-02-28T03:30:00Z", "2026-03-01T03:30:00Z"],
        ),
    ] {
        assert_eq!(cron(text, after, 2), expected, "{text}");
    }
}

#[test]
fn a_day_matches_both_of_its_fields() {
    // Friday the 13th: not every Friday and every 13th.
    let days = cron("0 0 13 * fri", "2026-01-01T00:00:00Z", 3);
    let expected = [
        "2026-02-13T00:00:00Z",
        "2026-03-13T00:00:00Z",
        "2026-11-13T00:00:00Z",
    ];
    assert_eq!(days, expected);
}

#[test]
fn a_time_that_clocks_leave_out_is_left_out() {
    // In Berlin 02:00 to 03:00 of 2026-03-29 does not exist.
    let berlin = "CRON_TZ=Europe/Berlin 30 2 * * *";
    let expected = ["2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z"];
    assert_eq!(cron(berlin, "2026-03-27T12:00:00Z", 2), expected);
    let hourly = "CRON_TZ=Europe/Berlin 30 * * * *";
    let expected = [
        "2026-03-29T00:30:00Z",
        "2026-03-29T01:30:00Z",
        "2026-03-29T02:30:00Z",
    ];
    assert_eq!(cron(hourly, "2026-03-29T00:00:00Z", 3), expected);
}

#[test]
fn a_time_that_comes_twice_is_taken_twice() {
    // In Berlin 02:00 to 03:00 of 2026-10-25 comes twice.
    let berlin = "CRON_TZ=Europe/Berlin 30 2 * * *";
    let expected = [
        "2026-10-25T00:30:00Z",
        "2026-10-25T01:30:00Z",
        "2026-10-26T01:30:00Z",
    ];
    assert_eq!(cron(berlin, "2026-10-24T12:00:00Z", 3), expected);
    // Also where it is asked from within the first of the two.
    assert_eq!(cron(berlin, "2026-10-25T00:45:00Z", 1), expected[1..2]);
    // Half an hour, in Lord Howe.
    let half = "CRON_TZ=Australia/Lord_Howe 45 1 * * *";
    let expected = [
        "2026-04-04T14:45:00Z",
        "2026-04-04T15:15:00Z",
        "2026-04-05T15:15:00Z",
    ];
    assert_eq!(cron(half, "2026-04-04T00:00:00Z", 3), expected);
}

#[test]
fn what_is_no_cron_string_says_why() {
    for (text, reason) in [
        ("* * * *", "this one has 4"),
        ("60 * * * *", "minute: \"60\" is no value from 0 to 59"),
        ("* 5-3 * * *", "hour: \"3\" is no value from 5 to 23"),
        ("* * 0 * *", "day_of_month"),
        ("* * * dez *", "month: \"dez\""),
        ("* * * * 8", "day_of_week"),
        ("* * * * * 1999", "year"),
        ("*/0 * * * *", "\"0\" is no step"),
        ("1/2/3 * * * *", "no step"),
        ("@reboot", "this one has 1"),
        ("@every", "is not a duration"),
        ("@every 1500ms", "whole seconds"),
        ("CRON_TZ=Europe/Berlin", "nothing follows"),
        ("CRON_TZ=Mars/Base 0 0 * * *", "no time zone"),
        ("", "this one has 0"),
    ] {
        let refused = read(json!({"cron": [text]})).unwrap_err();
        assert!(refused.contains(reason), "{text}: {refused}");
    }
    let long = format!("0 0 * * * #{}", "x".repeat(200));
    assert!(read(json!({"cron": [long]})).is_err());
}

#[test]
fn a_spec_that_cannot_be_is_refused() {
    for (spec, reason) in [
        (json!({"time_zone": "Mars/Base"}), "no time zone"),
        (
            json!({"cron": ["TZ=UTC 0 0 * * *"], "time_zone": "Europe/Berlin"}),
            "the cron strings name",
        ),
        (
            json!({"cron": ["TZ=UTC 0 0 * * *", "0 0 * * *"]}),
            "the same time zone",
        ),
        (
            json!({"calendars": [{"hour": [{"start": 24}]}]}),
            "hour has ranges from 0 to 23",
        ),
        (
            json!({"calendars": [{"hour": [{"start": 5, "end": 3}]}]}),
            "end 3",
        ),
        (
            json!({"calendars": [{"day_of_week": [{"start": 7}]}]}),
            "day_of_week",
        ),
        (
            json!({"calendars": [{"minute": [{"start": 1, "step": -1}]}]}),
            "steps",
        ),
        (
            json!({"calendars": [{"comment": "x".repeat(201)}]}),
            "comment",
        ),
        (json!({"intervals": [{"every": "PT0S"}]}), "at least 1"),
        (
            json!({"intervals": [{"every": "PT1M", "offset": "PT1M"}]}),
            "offset below",
        ),
        (json!({"intervals": [{"every": "PT9999999H"}]}), "100 years"),
        (
            json!({"start_time": "2026-02-01T00:00:00Z", "end_time": "2026-01-01T00:00:00Z"}),
            "before it begins",
        ),
        (json!({"jitter": "PT1200H"}), "49 days"),
        (
            json!({"intervals": vec![json!({"every": "PT1H"}); 101]}),
            "at most 100",
        ),
    ] {
        let refused = read(spec.clone()).unwrap_err();
        assert!(refused.contains(reason), "{spec}: {refused}");
    }
}

#[test]
fn entries_add_up_and_excluded_times_do_not_count() {
    let spec = json!({
        "calendars": [{"hour": [{"start": 9, "end": 17, "step": 4}]}],
        "intervals": [{"every": "PT12H", "offset": "PT1H"}],
        "exclude_calendars": [{
            "second": [{"start": 0, "end": 59}], "minute": [{"start": 0, "end": 59}],
            "hour": [{"start": 0, "end": 23}], "day_of_week": [{"start": 6}, {"start": 0}],
        }],
    });
    let expected = [
        "2026-11-27T09:00:00Z",
        "2026-11-27T13:00:00Z",
        "2026-11-27T17:00:00Z",
        "2026-11-30T01:00:00Z",
    ];
    assert_eq!(times(spec, "2026-11-27T01:00:00Z", 4), expected);
}

#[test]
fn intervals_are_counted_from_the_epoch() {
    let spec = json!({"intervals": [{"every": "PT1M", "offset": "PT10S"}]});
    let expected = ["2026-11-27T07:00:10Z", "2026-11-27T07:01:10Z"];
    assert_eq!(times(spec.clone(), "2026-11-27T07:00:09.5Z", 2), expected);
    assert_eq!(times(spec, "2026-11-27T07:00:10.5Z", 1), expected[1..]);
}

#[test]
fn a_schedule_begins_and_ends() {
    let spec = json!({
        "intervals": [{"every": "PT1H"}],
        "start_time": "2026-11-27T07:00:00Z", "end_time": "2026-11-27T09:00:00Z",
    });
    let expected = [
        "2026-11-27T07:00:00Z",
        "2026-11-27T08:00:00Z",
        "2026-11-27T09:00:00Z",
    ];
    assert_eq!(times(spec, "2020-01-01T00:00:00Z", 10), expected);
    assert!(times(json!({}), "2020-01-01T00:00:00Z", 1).is_empty());
    assert!(cron("0 0 30 2 *", "2020-01-01T00:00:00Z", 1).is_empty());
    assert_eq!(cron("0 0 1 1 *", "2098-06-01T00:00:00Z", 5).len(), 2);
}

#[test]
fn jitter_is_the_schedule_s_own_and_stays_before_the_next_time() {
    let spec: ScheduleSpec =
        serde_json::from_value(json!({"intervals": [{"every": "PT10S"}], "jitter": "PT1H"}))
            .unwrap();
    let of = |id: &str| {
        let times = Times::new(&name(id), &spec).unwrap();
        let from = time("2026-11-27T07:00:00Z");
        times.after(from).take(50).collect::<Vec<_>>()
    };
    let (one, other) = (of("one"), of("other"));
    assert_eq!(one, of("one"));
    assert_ne!(one, other);
    for pair in one.windows(2) {
        assert!(pair[0].actual >= pair[0].nominal && pair[0].actual < pair[1].nominal);
    }
    let moved = one.iter().filter(|time| time.actual != time.nominal);
    assert!(moved.count() > 40);
}

#[test]
fn cron_strings_are_readable_again() {
    let spec: ScheduleSpec = serde_json::from_value(json!({
        "cron": ["CRON_TZ=Europe/Berlin 0 3 * * sun # nightly"],
        "calendars": [{"comment": "0 5 * * *"}],
    }))
    .unwrap();
    let back = spec.canonical().unwrap().readable();
    assert_eq!(back.cron, spec.cron);
    // A comment that only looks like one stays a comment.
    assert_eq!(back.calendars, spec.calendars);
    assert_eq!(back.time_zone.as_deref(), Some("Europe/Berlin"));
}

#[test]
fn a_backfill_has_an_order_and_a_limit() {
    let times = read(json!({"intervals": [{"every": "PT1M"}]})).unwrap();
    let backfill = |from: &str, to: &str| {
        let patch = SchedulePatch::Backfill {
            start_time: time(from),
            end_time: time(to),
            overlap: None,
        };
        patch.check(Some(&times)).map_err(|error| error.to_string())
    };
    let day = "2026-11-27T00:00:00Z";
    assert_eq!(backfill(day, "2026-11-27T16:39:00Z"), Ok(()));
    let refused = backfill(day, "2026-11-27T16:40:00Z").unwrap_err();
    assert!(refused.contains("more than 1000"), "{refused}");
    let refused = backfill(day, "2026-11-26T00:00:00Z").unwrap_err();
    assert!(refused.contains("before it begins"), "{refused}");
}

#[test]
fn a_schedule_that_cannot_be_is_refused() {
    let good = || {
        json!({
            "spec": {}, "action": {"workflow_type": "a.b", "workflow_id": "w", "input": null},
        })
    };
    let check = |id: &str, change: fn(&mut Value)| {
        let mut value = good();
        change(&mut value);
        let schedule: Schedule = serde_json::from_value(value).unwrap();
        let checked = schedule.check(&name(id));
        checked.map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(check("s", |_| ()), Ok(()));
    let long = "x".repeat(ID_LIMIT + 1);
    let refusals = [
        (check("", |_| ()), "schedule's id"),
        (check(&long, |_| ()), "schedule's id"),
        (
            check("s", |s| s["action"]["workflow_id"] = json!("")),
            "workflow id",
        ),
        (
            check("s", |s| s["action"]["workflow_type"] = json!("")),
            "workflow type",
        ),
        (
            check("s", |s| {
                s["action"]["input"] = json!("x".repeat(INLINE_LIMIT))
            }),
            "a schedule's input",
        ),
        (
            check("s", |s| s["policies"]["catchup_window"] = json!("PT9S")),
            "catchup window",
        ),
        (
            check("s", |s| {
                s["state"]["note"] = json!("x".repeat(NOTE_LIMIT + 1))
            }),
            "note",
        ),
    ];
    for (refused, reason) in refusals {
        let refused = refused.unwrap_err();
        assert!(refused.contains(reason), "{refused}");
    }
}
