//! Measurements, run by hand: `cargo test -p heyday-sandbox --release -- --ignored measure
//! --nocapture`. The benchmarks hold the same figures to their goals.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::guests::plugin;
use super::support::{Fixture, context, request};
use crate::{CallError, Limits};

const OK: &str = "(call $ok (i32.const 16) (i32.const 4))";
const SPIN: &str = "(loop $on (br $on)) unreachable";

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let line = format!(
        "{what}: p50 {:?} p99 {:?} max {:?}\n",
        at(50),
        at(99),
        at(100)
    );
    std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
}

#[test]
#[ignore = "measures; run by hand"]
fn measure_an_empty_call_beside_bare_wasmtime() {
    let fixture = Fixture::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let plugin = runtime.block_on(fixture.prepare(&plugin("", OK)));
    let empty = Arc::new(Limits::default());
    let sandbox = fixture.sandbox.clone();
    let one = {
        let plugin = Arc::clone(&plugin);
        move || {
            let (plugin, sandbox, limits) =
                (Arc::clone(&plugin), sandbox.clone(), Arc::clone(&empty));
            async move {
                let (context, _) = context(Duration::from_secs(30));
                let mut request = request((*limits).clone());
                request.limits = limits;
                let began = Instant::now();
                let outcome = sandbox.call(&plugin, request, context).await;
                assert!(outcome.result.is_ok());
                began.elapsed()
            }
        }
    };
    let many = |one: Arc<
        dyn Fn() -> futures::future::BoxFuture<'static, Duration> + Send + Sync,
    >| async move {
        let mut times = Vec::new();
        for _ in 0..3_000 {
            times.push(one().await);
        }
        times
    };
    let one: Arc<dyn Fn() -> futures::future::BoxFuture<'static, Duration> + Send + Sync> =
        Arc::new(move || Box::pin(one()));
    for _ in 0..2 {
        let inside = fixture.sandbox.guests().spawn(many(Arc::clone(&one)));
        show(
            "call from the guest runtime",
            runtime.block_on(inside).unwrap(),
        );
        let outside = runtime.spawn(many(Arc::clone(&one)));
        show(
            "call from another runtime",
            runtime.block_on(outside).unwrap(),
        );
        let bare = runtime.spawn(super::bare::calls(plugin_bytes(), 3_000));
        show("bare wasmtime", runtime.block_on(bare).unwrap());
    }
}

fn plugin_bytes() -> Vec<u8> {
    plugin("", OK)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; run by hand"]
async fn measure_how_late_a_deadline_is_among_spinning_guests() {
    let fixture = Fixture::with(
        |options| {
            options.max_calls = 64;
            options.guest_threads = 2;
        },
        Vec::new(),
    );
    let spins = fixture.prepare(&plugin("", SPIN)).await;
    let mut late = Vec::new();
    for _ in 0..4 {
        let spinners = (0..32).map(|n| {
            let (sandbox, spins) = (fixture.sandbox.clone(), Arc::clone(&spins));
            tokio::spawn(async move {
                let (context, _) = context(Duration::from_millis(500 + 30 * n));
                let deadline = context.deadline;
                let outcome = sandbox
                    .call(&spins, request(Limits::default()), context)
                    .await;
                assert_eq!(outcome.result, Err(CallError::TimedOut));
                deadline.elapsed()
            })
        });
        for one in futures::future::join_all(spinners).await {
            late.push(one.unwrap());
        }
    }
    show("late after the deadline, 32 spinning on 2 threads", late);
}
