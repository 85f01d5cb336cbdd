//! How late a guest that computes for ever is stopped: after its deadline, and after the
//! end of its cancel grace; with as many of them as cores and with many more, and with
//! neighbours that compute and neighbours that are called for nothing, whose latency
//! meanwhile is told, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use heyday_sandbox::{CallError, Limits};
use tokio::task::JoinSet;

use crate::ours::Ours;
use crate::report::{Figure, Goal, Report, Times};

/// More spinning guests than any small machine has cores.
const MANY: usize = 32;
/// Neighbours that compute, and neighbours that are called for nothing.
const NEIGHBOURS: usize = 4;
/// Samples of one figure.
const SAMPLES: usize = 320;
const GRACE_MS: u64 = 200;
/// Rounds of `compute`: some milliseconds.
const COMPUTE: &str = "{\"rounds\":5000}";

/// What stops a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Deadline,
    Cancel,
}

/// Measures all of it.
pub async fn run(report: &mut Report, component: &[u8], quick: bool) -> anyhow::Result<()> {
    let limits = Limits {
        cancel_grace_ms: GRACE_MS,
        ..Limits::default()
    };
    let ours = Ours::new(component, limits).await?;
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    for spinning in [cores, MANY] {
        let stop = Arc::new(AtomicBool::new(false));
        let mut load = neighbours(&ours, &stop);
        let mut figures = Vec::new();
        for by in [By::Deadline, By::Cancel] {
            let rounds = if quick { 1 } else { SAMPLES.div_ceil(spinning) };
            let mut late = Times::default();
            for round in 0..rounds {
                late.extend(spin(&ours, spinning, round, by).await?);
            }
            figures.push((by, late));
        }
        stop.store(true, Ordering::Relaxed);
        let mut empty = Times::default();
        while let Some(times) = load.join_next().await {
            empty.extend(times.context("a neighbour failed")??);
        }
        for (by, mut late) in figures {
            let name = match by {
                By::Deadline => "deadline",
                By::Cancel => "cancel",
            };
            report.add(Figure {
                name: format!("interrupt.{name}.{spinning}_spinning"),
                value: late.percentile(99.0).as_secs_f64() * 1e3,
                unit: "ms",
                peer: None,
                goal: Some(Goal::AtMost(100.0)),
            });
            println!("    late by {}", late.text());
        }
        report.add(Figure {
            name: format!("interrupt.neighbour.{spinning}_spinning"),
            value: empty.percentile(50.0).as_secs_f64() * 1e3,
            unit: "ms",
            peer: None,
            goal: None,
        });
        println!("    an empty call beside them: {}", empty.text());
    }
    Ok(())
}

/// Guests beside the spinning ones; they answer the times of the empty calls.
fn neighbours(ours: &Arc<Ours>, stop: &Arc<AtomicBool>) -> JoinSet<anyhow::Result<Times>> {
    let mut load = JoinSet::new();
    for _ in 0..NEIGHBOURS {
        let (computing, stopped) = (Arc::clone(ours), Arc::clone(stop));
        load.spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                computing.call("compute", COMPUTE).await?;
            }
            Ok(Times::default())
        });
        let (empty, stopped) = (Arc::clone(ours), Arc::clone(stop));
        load.spawn(async move {
            let mut times = Times::default();
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                empty.call("echo", "null").await?;
                times.push(begun.elapsed());
                // A neighbour, not another load.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(times)
        });
    }
    load
}

/// Lets so many guests spin at once; answers how late each was stopped.
async fn spin(ours: &Arc<Ours>, spinning: usize, round: usize, by: By) -> anyhow::Result<Times> {
    let guests = (0..spinning).map(|guest| {
        let ours = Arc::clone(ours);
        // Spread over time, and over the phase of the sandbox's clock.
        let after =
            Duration::from_micros(100_000 + (guest * 7_919 + round * 1_543) as u64 % 200_000);
        tokio::spawn(async move {
            let (outcome, due, expected) = match by {
                By::Deadline => {
                    let context = ours.context(after);
                    let due = context.deadline;
                    let outcome = ours.call_in("spin_long", "null", context).await;
                    (outcome, due, CallError::TimedOut)
                }
                By::Cancel => {
                    let context = ours.context(Duration::from_secs(60));
                    let cancellation = context.cancellation.clone();
                    let cancel = async {
                        tokio::time::sleep(after).await;
                        cancellation.cancel();
                        Instant::now() + Duration::from_millis(GRACE_MS)
                    };
                    let call = ours.call_in("spin_long", "null", context);
                    let (outcome, due) = tokio::join!(call, cancel);
                    (outcome, due, CallError::Cancelled)
                }
            };
            let late = due.elapsed();
            if outcome.result != Err(expected) {
                bail!("a guest ended with {:?}", outcome.result);
            }
            Ok(late)
        })
    });
    let mut times = Times::default();
    for guest in futures::future::join_all(guests).await {
        times.push(guest.context("a call failed")??);
    }
    Ok(times)
}
