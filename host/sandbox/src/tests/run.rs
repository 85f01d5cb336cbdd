//! One call: its answer, its receipt, and each way in which it can end.

use std::time::Duration;

use super::guests::{
    plugin, plugin_of_parts, plugin_that_prints, plugin_that_tells, plugin_with_host,
};
use super::support::{Fixture, context, request};
use crate::call::LogLevel;
use crate::{CallError, Limits};

/// Answers JSON null.
const OK: &str = "(call $ok (i32.const 16) (i32.const 4))";

#[tokio::test]
async fn a_guest_answers_and_leaves_a_receipt() {
    let fixture = Fixture::new();
    let outcome = fixture.call(&plugin("", OK), Limits::default()).await;
    assert_eq!(outcome.result, Ok("null".to_owned()));
    assert_eq!(outcome.usage.output_bytes, 4);
    assert_eq!(outcome.usage.peak_memory_bytes, 65_536);
    assert!(outcome.usage.cpu_us > 0, "{:?}", outcome.usage);
    assert!(
        outcome.usage.wall_us >= outcome.usage.cpu_us / 2,
        "{:?}",
        outcome.usage
    );
}

#[tokio::test]
async fn the_input_arrives() {
    let fixture = Fixture::new();
    let echo = plugin("", "(call $ok (local.get $input) (local.get $input_len))");
    let plugin = fixture.prepare(&echo).await;
    let (context, _) = context(Duration::from_secs(10));
    let mut request = request(Limits::default());
    request.input = r#"{"text":"grüezi"}"#.to_owned();
    let outcome = fixture.sandbox.call(&plugin, request, context).await;
    assert_eq!(outcome.result.unwrap(), r#"{"text":"grüezi"}"#);
}

#[tokio::test]
async fn a_failure_is_passed_on_whole() {
    let fixture = Fixture::new();
    for retryable in [false, true] {
        let fails = plugin(
            "",
            &format!("(call $err (i32.const {}))", u8::from(retryable)),
        );
        let outcome = fixture.call(&fails, Limits::default()).await;
        assert_eq!(
            outcome.result,
            Err(CallError::Failed {
                kind: "too-bad".to_owned(),
                message: "it did not work".to_owned(),
                retryable,
                details: Some(r#"{"a":1}"#.to_owned()),
            })
        );
    }
}

#[tokio::test]
async fn a_trap_names_the_guests_functions() {
    let fixture = Fixture::new();
    let traps = plugin(
        "(func $divide_by_nothing (result i32) (i32.div_u (i32.const 1) (i32.const 0)))",
        "(call $divide_by_nothing)",
    );
    let outcome = fixture.call(&traps, Limits::default()).await;
    let Err(CallError::Trap { message, backtrace }) = outcome.result else {
        panic!("{:?}", outcome.result);
    };
    assert_eq!(message, "wasm trap: integer divide by zero");
    let names: Vec<&str> = backtrace.lines().collect();
    assert_eq!(names, ["divide_by_nothing", "run"]);
    assert!(outcome.usage.cpu_us > 0);
}

#[tokio::test]
async fn memory_is_limited_over_the_whole_instance() {
    let fixture = Fixture::new();
    // Two memories: 60 pages in the second one, and then more of the first.
    let bomb = plugin(
        "(memory $second 60)",
        "(loop $more
            (br_if $more (i32.ne (i32.const -1) (memory.grow 0 (i32.const 1)))))
         unreachable",
    );
    let limits = Limits {
        memory_bytes: 100 * 65_536,
        ..Limits::default()
    };
    let outcome = fixture.call(&bomb, limits).await;
    let Err(CallError::LimitExceeded { limit, message }) = outcome.result else {
        panic!("{:?}", outcome.result);
    };
    assert_eq!(limit, "memory_bytes");
    assert!(message.contains("6619136 bytes"), "{message}");
    assert_eq!(outcome.usage.peak_memory_bytes, 100 * 65_536);
}

#[tokio::test]
async fn memory_that_is_refused_and_not_needed_is_no_failure() {
    let fixture = Fixture::new();
    let asks = plugin("", &format!("(drop (memory.grow (i32.const 60000))) {OK}"));
    let outcome = fixture.call(&asks, Limits::default()).await;
    assert_eq!(outcome.result, Ok("null".to_owned()));
}

#[tokio::test]
async fn an_instance_that_begins_over_the_limit_does_not_begin() {
    let fixture = Fixture::new();
    let large = plugin("(memory $large 1000)", OK);
    let limits = Limits {
        memory_bytes: 10 << 20,
        ..Limits::default()
    };
    let outcome = fixture.call(&large, limits).await;
    assert!(
        matches!(
            outcome.result,
            Err(CallError::LimitExceeded {
                limit: "memory_bytes",
                ..
            })
        ),
        "{:?}",
        outcome.result
    );
}

#[tokio::test]
async fn tables_are_limited() {
    let fixture = Fixture::new();
    let bomb = plugin(
        "(table $t 10 funcref) (table $u 10 funcref)",
        "(loop $more (br_if $more (i32.ne (i32.const -1)
            (table.grow $t (ref.null func) (i32.const 100)))))
         unreachable",
    );
    let limits = Limits {
        table_elements: 1_000,
        ..Limits::default()
    };
    let outcome = fixture.call(&bomb, limits).await;
    let Err(CallError::LimitExceeded { limit, message }) = outcome.result else {
        panic!("{:?}", outcome.result);
    };
    assert_eq!(limit, "table_elements");
    assert!(message.contains("1020 table elements"), "{message}");
}

#[tokio::test]
async fn components_of_many_parts_fit_the_usual_limits() {
    let fixture = Fixture::new();
    // As Python's and JavaScript's are made: a core instance for each native library, and an
    // engine with more than 20,000 functions in its table.
    let large = plugin_of_parts(
        100,
        "(table $engine 25000 funcref)",
        &format!(
            "(if (i32.ne (global.get $parts) (i32.const 100)) (then unreachable))
             (drop (table.get $engine (i32.const 24999)))
             {OK}"
        ),
    );
    let outcome = fixture.call(&large, Limits::default()).await;
    assert_eq!(outcome.result, Ok("null".to_owned()));
}

#[tokio::test]
async fn deep_recursion_is_a_limit_and_not_a_crash() {
    let fixture = Fixture::new();
    let deep = plugin(
        "(func $deeper (param i64) (result i64)
            (i64.add (call $deeper (i64.add (local.get 0) (i64.const 1))) (local.get 0)))",
        "(drop (call $deeper (i64.const 0))) unreachable",
    );
    let outcome = fixture.call(&deep, Limits::default()).await;
    assert!(
        matches!(
            outcome.result,
            Err(CallError::LimitExceeded { limit: "stack", .. })
        ),
        "{:?}",
        outcome.result
    );
}

#[tokio::test]
async fn an_answer_must_be_json_of_allowed_size() {
    let fixture = Fixture::new();
    let outcome = fixture
        .call(
            &plugin("", "(call $ok (i32.const 16) (i32.const 3))"),
            Limits::default(),
        )
        .await;
    assert!(
        matches!(outcome.result, Err(CallError::InvalidOutput(_))),
        "{:?}",
        outcome.result
    );

    // 40,000 zero bytes are no JSON either, but are too many first.
    let long = plugin("", "(call $ok (i32.const 20000) (i32.const 40000))");
    let limits = Limits {
        output_bytes: 39_999,
        ..Limits::default()
    };
    let outcome = fixture.call(&long, limits).await;
    let Err(CallError::LimitExceeded { limit, message }) = outcome.result else {
        panic!("{:?}", outcome.result);
    };
    assert_eq!(limit, "output_bytes");
    assert!(message.contains("40000 bytes"), "{message}");
}

#[tokio::test]
async fn an_answer_of_many_megabytes_is_refused_without_being_copied() {
    let fixture = Fixture::new();
    let huge = plugin(
        "(memory $mine 1)",
        "(drop (memory.grow 0 (i32.const 3000)))
         (call $ok (i32.const 0) (i32.const 190000000))",
    );
    let outcome = fixture.call(&huge, Limits::default()).await;
    assert!(
        matches!(
            outcome.result,
            Err(CallError::LimitExceeded {
                limit: "output_bytes",
                ..
            })
        ),
        "{:?}",
        outcome.result
    );
}

#[tokio::test]
async fn an_answer_that_is_no_text_is_a_trap() {
    let fixture = Fixture::new();
    let wrong = plugin(
        "(data (i32.const 2000) \"\\ff\\fe\")",
        "(call $ok (i32.const 2000) (i32.const 2))",
    );
    let outcome = fixture.call(&wrong, Limits::default()).await;
    let Err(CallError::Trap { message, .. }) = outcome.result else {
        panic!("{:?}", outcome.result);
    };
    assert!(message.contains("utf-8"), "{message}");
}

#[tokio::test]
async fn what_a_guest_hands_to_the_host_at_once_is_limited() {
    let fixture = Fixture::new();
    // A line of 70 MB, which lies within the guest's own memory.
    let huge = plugin_with_host(
        "",
        &format!(
            "(drop (memory.grow 0 (i32.const 1100)))
             (call $log (i32.const 3) (i32.const 0) (i32.const 70000000)
                (i32.const 0) (i32.const 0) (i32.const 0))
             {OK}"
        ),
    );
    let plugin = fixture.prepare(&huge).await;
    let (context, heard) = context(Duration::from_secs(10));
    let request = request(Limits::default());
    let outcome = fixture.sandbox.call(&plugin, request, context).await;
    let Err(CallError::LimitExceeded { message, .. }) = outcome.result else {
        panic!("{:?}", outcome.result);
    };
    assert!(message.contains("handed the host more bytes"), "{message}");
    assert!(heard.lines.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_a_guest_holds_of_the_host_at_once_is_limited() {
    let fixture = Fixture::new();
    let takes = |count: u32| {
        plugin_that_prints(
            &format!("(global $left (mut i32) (i32.const {count}))"),
            &format!(
                "(loop $more
                    (drop (call $get_stdout))
                    (global.set $left (i32.sub (global.get $left) (i32.const 1)))
                    (br_if $more (global.get $left)))
                 {OK}"
            ),
        )
    };
    let outcome = fixture.call(&takes(9_000), Limits::default()).await;
    assert_eq!(outcome.result, Ok("null".to_owned()));
    let outcome = fixture.call(&takes(10_001), Limits::default()).await;
    let Err(CallError::LimitExceeded { limit, message }) = outcome.result else {
        panic!("{:?}", outcome.result);
    };
    assert_eq!(limit, "resources");
    assert!(message.contains("10000 resources"), "{message}");
}

#[tokio::test]
async fn calls_of_host_functions_are_limited() {
    let fixture = Fixture::new();
    let flood = plugin_with_host(
        "",
        "(loop $more (drop (call $is_cancelled)) (br $more)) unreachable",
    );
    let limits = Limits {
        host_calls: 1_000,
        ..Limits::default()
    };
    let outcome = fixture.call(&flood, limits).await;
    let Err(CallError::LimitExceeded { limit, message }) = outcome.result else {
        panic!("{:?}", outcome.result);
    };
    assert_eq!(limit, "host_calls");
    assert!(message.contains("context.is-cancelled"), "{message}");
    assert_eq!(outcome.usage.host_calls, 1_000);
}

#[tokio::test]
async fn log_volume_is_limited_and_says_so_once() {
    let fixture = Fixture::new();
    let flood = plugin_with_host(
        "(global $left (mut i32) (i32.const 100))",
        &format!(
            "(loop $more
                (call $log (i32.const 3) (i32.const 519) (i32.const 15)
                    (i32.const 0) (i32.const 0) (i32.const 0))
                (global.set $left (i32.sub (global.get $left) (i32.const 1)))
                (br_if $more (global.get $left)))
             {OK}"
        ),
    );
    let plugin = fixture.prepare(&flood).await;
    let (context, heard) = context(Duration::from_secs(10));
    let line = 15 + Limits::LOG_LINE_BYTES;
    let limits = Limits {
        log_bytes: 3 * line + 5,
        ..Limits::default()
    };
    let outcome = fixture
        .sandbox
        .call(&plugin, request(limits), context)
        .await;
    assert_eq!(outcome.result, Ok("null".to_owned()));
    assert_eq!(outcome.usage.log_bytes, 3 * line as u64);
    let lines = heard.lines.lock().unwrap();
    let line = (LogLevel::Warn, "it did not work".to_owned(), None);
    assert_eq!(lines[..3], [line.clone(), line.clone(), line]);
    assert!(lines[3].1.contains("limit of log volume"), "{lines:?}");
    assert_eq!(lines.len(), 4);
}

#[tokio::test]
async fn lines_without_text_are_limited_too() {
    let fixture = Fixture::new();
    let often = |line: &str| {
        format!(
            "(loop $more
                {line}
                (global.set $left (i32.sub (global.get $left) (i32.const 1)))
                (br_if $more (global.get $left)))
             {OK}"
        )
    };
    let left = "(global $left (mut i32) (i32.const 20000))";
    let logs = often(
        "(call $log (i32.const 3) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 0) (i32.const 0))",
    );
    let prints = often("(call $print (i32.const 3000) (i32.const 2))");
    let printed = format!("{left} (data (i32.const 3000) \"a\\n\")");
    for (flood, text) in [
        (plugin_with_host(left, &logs), ""),
        (plugin_that_prints(&printed, &prints), "a"),
    ] {
        let plugin = fixture.prepare(&flood).await;
        let (context, heard) = context(Duration::from_secs(60));
        let limits = Limits::default();
        let line = Limits::LOG_LINE_BYTES + text.len();
        let fit = limits.log_bytes / line;
        let outcome = fixture
            .sandbox
            .call(&plugin, request(limits), context)
            .await;
        assert_eq!(outcome.result, Ok("null".to_owned()), "{text:?}");
        assert_eq!(outcome.usage.log_bytes, (fit * line) as u64, "{text:?}");
        let lines = heard.lines.lock().unwrap();
        assert_eq!(lines.len(), fit + 1, "{text:?}");
        assert!(lines[..fit].iter().all(|(_, told, _)| told == text));
        assert!(lines[fit].1.contains("limit of log volume"), "{text:?}");
    }
}

#[tokio::test]
async fn fields_of_a_log_line_are_an_object_always() {
    let fixture = Fixture::new();
    let logs = plugin_with_host(
        "",
        &format!(
            "(call $log (i32.const 0) (i32.const 519) (i32.const 2)
                (i32.const 1) (i32.const 534) (i32.const 7))
             (call $log (i32.const 4) (i32.const 519) (i32.const 2)
                (i32.const 1) (i32.const 16) (i32.const 4))
             {OK}"
        ),
    );
    let plugin = fixture.prepare(&logs).await;
    let (context, heard) = context(Duration::from_secs(10));
    let outcome = fixture
        .sandbox
        .call(&plugin, request(Limits::default()), context)
        .await;
    assert_eq!(outcome.usage.host_calls, 2);
    let lines = heard.lines.lock().unwrap();
    assert_eq!(lines[0].2.as_deref(), Some(r#"{"a":1}"#));
    assert_eq!(lines[1].2.as_deref(), Some(r#"{"fields":"null"}"#));
}

#[tokio::test]
async fn a_heartbeats_details_are_json_of_at_most_64_kib() {
    let fixture = Fixture::new();
    // Answers the discriminants of three heartbeats as digits, `0` for good.
    let beats = plugin_with_host(
        "(data (i32.const 3000) \"000\")
         (func $beat (param i32 i32 i32)
            (call $heartbeat (i32.const 1) (local.get 0) (local.get 1) (i32.const 2000))
            (i32.store8 (local.get 2)
                (i32.add (i32.const 48) (i32.load8_u (i32.const 2000)))))",
        "(i32.store8 (i32.const 2999) (i32.const 34)) (i32.store8 (i32.const 3003) (i32.const 34))
         (call $beat (i32.const 534) (i32.const 7) (i32.const 3000))
         (call $beat (i32.const 512) (i32.const 7) (i32.const 3001))
         (drop (memory.grow (i32.const 1)))
         (call $beat (i32.const 0) (i32.const 65537) (i32.const 3002))
         (call $ok (i32.const 2999) (i32.const 5))",
    );
    let plugin = fixture.prepare(&beats).await;
    let (context, heard) = context(Duration::from_secs(10));
    let outcome = fixture
        .sandbox
        .call(&plugin, request(Limits::default()), context)
        .await;
    assert_eq!(outcome.result.unwrap(), r#""011""#);
    let heartbeats = heard.heartbeats.lock().unwrap();
    assert_eq!(*heartbeats, [Some(r#"{"a":1}"#.to_owned())]);
}

#[tokio::test]
async fn nothing_leaks_from_one_call_to_the_next() {
    let fixture = Fixture::new();
    // Answers how often this instance was called: always once.
    let counts = plugin(
        "(global $calls (mut i32) (i32.const 0)) (data (i32.const 3000) \"0\")",
        "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
         (i32.store8 (i32.const 3000)
            (i32.add (i32.load8_u (i32.const 3000)) (global.get $calls)))
         (call $ok (i32.const 3000) (i32.const 1))",
    );
    for _ in 0..20 {
        let outcome = fixture.call(&counts, Limits::default()).await;
        assert_eq!(outcome.result, Ok("1".to_owned()));
    }
}

#[tokio::test]
async fn describe_answers_json() {
    let fixture = Fixture::new();
    let plugin = fixture.prepare(&plugin("", OK)).await;
    let description = fixture.sandbox.describe(&plugin).await.unwrap();
    let description: serde_json::Value = serde_json::from_str(&description).unwrap();
    assert_eq!(description["name"], "guest");
}

#[tokio::test]
async fn describe_sees_a_fixed_clock_and_seed() {
    let fixture = Fixture::new();
    let plugin = fixture.prepare(&plugin_that_tells()).await;
    // No time since the start, and the first second of 2020.
    let fixed = format!("\"{:016x}{:016x}", 0, 1_577_836_800);
    let first = fixture.sandbox.describe(&plugin).await.unwrap();
    assert!(first.starts_with(&fixed), "{first}");
    let second = fixture.sandbox.describe(&plugin).await.unwrap();
    assert_eq!(first, second);
    // A run has both as they are.
    let mut told = vec![first];
    for _ in 0..2 {
        let (context, _) = context(Duration::from_secs(10));
        let request = request(Limits::default());
        let outcome = fixture.sandbox.call(&plugin, request, context).await;
        told.push(outcome.result.unwrap());
    }
    let seconds = |text: &String| u64::from_str_radix(&text[17..33], 16).unwrap();
    assert!(seconds(&told[1]) > 1_577_836_800, "{told:?}");
    let mut random: Vec<&str> = told.iter().map(|text| &text[33..49]).collect();
    random.sort_unstable();
    random.dedup();
    assert_eq!(random.len(), 3, "{told:?}");
}
