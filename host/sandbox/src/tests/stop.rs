//! Stopping guests: deadlines, cancels and their grace, and what neighbours notice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::guests::{plugin, plugin_with_host};
use super::support::{Fixture, context, request};
use crate::{CallError, Limits};

const OK: &str = "(call $ok (i32.const 16) (i32.const 4))";
const SPIN: &str = "(loop $on (br $on)) unreachable";
/// Says that it began, waits for the cancel, and answers.
const WAIT_FOR_CANCEL: &str = "
    (call $log (i32.const 2) (i32.const 519) (i32.const 2)
        (i32.const 0) (i32.const 0) (i32.const 0))
    (loop $on (br_if $on (i32.eqz (call $is_cancelled))))";

/// Says that it began, and computes without end.
fn spins_heard() -> Vec<u8> {
    plugin_with_host(
        "",
        &format!(
            "(call $log (i32.const 2) (i32.const 519) (i32.const 2)
                (i32.const 0) (i32.const 0) (i32.const 0)) {SPIN}"
        ),
    )
}

/// How late a stop may be in a test: an interrupt takes a tick or two, but these
/// machines are busy and unoptimized. The benchmark holds it to 100 ms; a guest that nothing
/// stops goes on for longer than this.
const LATE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_spinning_guest_ends_at_its_deadline() {
    let fixture = Fixture::new();
    let plugin = fixture.prepare(&plugin("", SPIN)).await;
    let (context, _) = context(Duration::from_secs(1));
    let deadline = context.deadline;
    let outcome = fixture
        .sandbox
        .call(&plugin, request(Limits::default()), context)
        .await;
    assert_eq!(outcome.result, Err(CallError::TimedOut));
    let late = Instant::now().checked_duration_since(deadline).unwrap();
    assert!(late < LATE, "{late:?}");
    // It had a core to itself for most of the time, or at least some of it.
    assert!(outcome.usage.cpu_us > 10_000, "{:?}", outcome.usage);
}

#[tokio::test]
async fn a_spinning_guest_ends_at_its_limit_of_time() {
    let fixture = Fixture::new();
    let plugin = fixture.prepare(&plugin("", SPIN)).await;
    let limits = |time_ms| Limits {
        time_ms,
        ..Limits::default()
    };
    let (far, _) = context(Duration::from_secs(3_600));
    let begun = Instant::now();
    let outcome = fixture.sandbox.call(&plugin, request(limits(200)), far);
    let Err(CallError::LimitExceeded { limit, message }) = outcome.await.result else {
        panic!("it went on");
    };
    assert_eq!(limit, "time_ms");
    assert!(message.contains("200 ms"), "{message}");
    let took = begun.elapsed();
    assert!(
        (Duration::from_millis(200)..Duration::from_millis(200) + LATE).contains(&took),
        "{took:?}"
    );
    // The deadline counts where it comes first.
    let (near, _) = context(Duration::from_millis(200));
    let outcome = fixture
        .sandbox
        .call(&plugin, request(limits(3_600_000)), near);
    assert_eq!(outcome.await.result, Err(CallError::TimedOut));
}

#[tokio::test]
async fn a_deadline_in_the_past_runs_nothing() {
    let fixture = Fixture::new();
    let plugin = fixture.prepare(&plugin("", OK)).await;
    let (context, _) = context(Duration::ZERO);
    let outcome = fixture
        .sandbox
        .call(&plugin, request(Limits::default()), context)
        .await;
    assert_eq!(outcome.result, Err(CallError::TimedOut));
    assert_eq!(outcome.usage.peak_memory_bytes, 0);
}

#[tokio::test]
async fn a_cancelled_guest_sees_it_and_may_still_answer() {
    let fixture = Fixture::new();
    let waits = plugin_with_host("", &format!("{WAIT_FOR_CANCEL} {OK}"));
    let plugin = fixture.prepare(&waits).await;
    let (context, heard) = context(Duration::from_secs(30));
    let cancellation = context.cancellation.clone();
    let call = fixture
        .sandbox
        .call(&plugin, request(Limits::default()), context);
    let cancel = async {
        heard.heard.notified().await;
        cancellation.cancel();
    };
    let limits_host_calls = Limits::default().host_calls;
    let (outcome, ()) = tokio::join!(call, cancel);
    // A guest that asks in a loop may run out of host calls first on a slow machine;
    // both ends come from the guest, and neither is the interrupt.
    match outcome.result {
        Ok(answer) => assert_eq!(answer, "null"),
        Err(CallError::LimitExceeded { limit, .. }) => {
            assert_eq!(
                (limit, outcome.usage.host_calls),
                ("host_calls", limits_host_calls)
            );
        }
        other => panic!("{other:?}"),
    }
}

/// Traps where there is a reason before the cancel, and logs the one after it.
const TELL_WHY: &str = "
    (call $cancellation_reason (i32.const 3072))
    (if (i32.load8_u (i32.const 3072)) (then unreachable))
    (call $log (i32.const 2) (i32.const 519) (i32.const 2)
        (i32.const 0) (i32.const 0) (i32.const 0))
    (loop $on (br_if $on (i32.eqz (call $is_cancelled))))
    (call $cancellation_reason (i32.const 3072))
    (if (i32.eqz (i32.load8_u (i32.const 3072))) (then unreachable))
    (call $log (i32.const 2) (i32.load (i32.const 3076)) (i32.load (i32.const 3080))
        (i32.const 0) (i32.const 0) (i32.const 0))";

#[tokio::test]
async fn a_cancelled_guest_reads_why() {
    let fixture = Fixture::new();
    let tells = plugin_with_host("", &format!("{TELL_WHY} {OK}"));
    let plugin = fixture.prepare(&tells).await;
    for (given, read) in [(Some("paused"), "paused"), (None, "cancel-requested")] {
        let (context, heard) = context(Duration::from_secs(30));
        let (reason, cancellation) = (Arc::clone(&context.reason), context.cancellation.clone());
        // It asks in a loop, and a slow machine is no reason to end that.
        let limits = Limits {
            host_calls: u64::MAX,
            ..Limits::default()
        };
        let call = fixture.sandbox.call(&plugin, request(limits), context);
        let cancel = async {
            heard.heard.notified().await;
            if let Some(given) = given {
                reason.set(given).unwrap();
            }
            cancellation.cancel();
        };
        let (outcome, ()) = tokio::join!(call, cancel);
        assert_eq!(outcome.result, Ok("null".to_owned()));
        let lines = heard.lines.lock().unwrap();
        assert_eq!(lines.last().unwrap().1, read);
    }
}

#[tokio::test]
async fn a_guest_that_ignores_a_cancel_has_its_grace_and_no_more() {
    let fixture = Fixture::new();
    let plugin = fixture.prepare(&spins_heard()).await;
    let (context, heard) = context(Duration::from_secs(30));
    let cancellation = context.cancellation.clone();
    let limits = Limits {
        cancel_grace_ms: 300,
        ..Limits::default()
    };
    let call = fixture.sandbox.call(&plugin, request(limits), context);
    let cancel = async {
        heard.heard.notified().await;
        cancellation.cancel();
        Instant::now()
    };
    let (outcome, cancelled) = tokio::join!(call, cancel);
    let took = cancelled.elapsed();
    assert_eq!(outcome.result, Err(CallError::Cancelled));
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(took < Duration::from_millis(300) + LATE, "{took:?}");
}

#[tokio::test]
async fn an_interrupt_has_no_grace() {
    let fixture = Fixture::new();
    let plugin = fixture.prepare(&spins_heard()).await;
    let (context, heard) = context(Duration::from_secs(30));
    let interrupt = context.interrupt.clone();
    let call = fixture
        .sandbox
        .call(&plugin, request(Limits::default()), context);
    let stop = async {
        heard.heard.notified().await;
        interrupt.cancel();
        Instant::now()
    };
    let (outcome, stopped) = tokio::join!(call, stop);
    assert_eq!(outcome.result, Err(CallError::Cancelled));
    assert!(stopped.elapsed() < LATE);
}

#[tokio::test]
async fn more_spinning_guests_than_cores_leave_room_for_a_neighbour() {
    let fixture = Fixture::with(|options| options.guest_threads = 2, Vec::new());
    let spins = fixture.prepare(&plugin("", SPIN)).await;
    let answers = fixture.prepare(&plugin("", OK)).await;
    let end = Duration::from_secs(4);
    let mut spinners = Vec::new();
    for _ in 0..12 {
        let (sandbox, spins) = (fixture.sandbox.clone(), Arc::clone(&spins));
        spinners.push(tokio::spawn(async move {
            let (context, _) = context(end);
            let deadline = context.deadline;
            let outcome = sandbox
                .call(&spins, request(Limits::default()), context)
                .await;
            (outcome, Instant::now().checked_duration_since(deadline))
        }));
    }
    // While they spin, a neighbour is answered again and again.
    let mut answered = 0;
    while !spinners.iter().any(tokio::task::JoinHandle::is_finished) {
        let (context, _) = context(Duration::from_secs(30));
        let outcome = fixture
            .sandbox
            .call(&answers, request(Limits::default()), context)
            .await;
        assert_eq!(outcome.result, Ok("null".to_owned()));
        answered += 1;
    }
    // A neighbour that waited for them would have been answered once.
    assert!(answered >= 3, "{answered} calls in {end:?}");
    let mut cpu = Vec::new();
    for spinner in spinners {
        let (outcome, late) = spinner.await.unwrap();
        assert_eq!(outcome.result, Err(CallError::TimedOut));
        let late = late.unwrap();
        assert!(late < LATE, "{late:?}");
        cpu.push(outcome.usage.cpu_us);
    }
    // Each had its turns.
    assert!(cpu.iter().all(|us| *us > 0), "{cpu:?}");
}

#[tokio::test]
async fn waiting_for_a_slot_is_queue_time_and_can_be_given_up() {
    let fixture = Fixture::with(|options| options.max_calls = 1, Vec::new());
    let spins = fixture.prepare(&spins_heard()).await;
    let answers = fixture.prepare(&plugin("", OK)).await;
    let (first, heard) = context(Duration::from_secs(30));
    let interrupt = first.interrupt.clone();
    let sandbox = &fixture.sandbox;
    let limits = Limits::default;
    let others = async {
        // It has the slot.
        heard.heard.notified().await;
        let (second, _) = context(Duration::from_secs(30));
        let (third, _) = context(Duration::from_secs(30));
        let (fourth, _) = context(Duration::from_millis(50));
        third.cancellation.cancel();
        tokio::join!(
            sandbox.call(&answers, request(limits()), second),
            sandbox.call(&answers, request(limits()), third),
            async {
                let late = sandbox.call(&answers, request(limits()), fourth).await;
                interrupt.cancel();
                late
            },
        )
    };
    let (spun, (waited, cancelled, late)) =
        tokio::join!(sandbox.call(&spins, request(limits()), first), others);
    assert_eq!(spun.result, Err(CallError::Cancelled));
    assert_eq!(waited.result, Ok("null".to_owned()));
    assert!(waited.usage.queue_us > 0, "{:?}", waited.usage);
    assert_eq!(cancelled.result, Err(CallError::Cancelled));
    assert_eq!(late.result, Err(CallError::TimedOut));
    assert_eq!(late.usage.wall_us, 0);
}

#[tokio::test]
async fn a_dropped_call_frees_its_slot() {
    let fixture = Fixture::with(|options| options.max_calls = 1, Vec::new());
    let spins = fixture.prepare(&spins_heard()).await;
    let (given_up, heard) = context(Duration::from_secs(60));
    tokio::select! {
        outcome = fixture.sandbox.call(&spins, request(Limits::default()), given_up) => {
            panic!("{outcome:?}");
        }
        () = heard.heard.notified() => {}
    }
    let outcome = fixture.call(&plugin("", OK), Limits::default()).await;
    assert_eq!(outcome.result, Ok("null".to_owned()));
}
