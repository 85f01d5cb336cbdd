//! An activity call in a fresh sandbox against bare wasmtime: the same component, called
//! for nothing, for about 10 ms of computing, and for ten host calls.
//!
//! One at a time: both sides are called in turns by one task on the guest runtime.
//! Sixteen at once: sixteen callers on a runtime of their own hand each call to the
//! side's runtime and wait for it, as a server does; the time includes waiting for a
//! thread, so that it does not matter how a side orders its work.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use heyday_sandbox::Limits;
use tokio::runtime::Handle;

use crate::bare::{Bare, Layers};
use crate::ours::Ours;
use crate::report::{Figure, Goal, Report, Sides, Times, shown};
use crate::{memory, parts};

/// Callers at once.
const CALLERS: usize = 16;
/// What one call computes.
const COMPUTING: Duration = Duration::from_millis(10);
/// The goal of every kind.
const GOAL: Goal = Goal::RatioAtMost(1.2);

/// What is called.
#[derive(Debug, Clone)]
pub struct Kind {
    name: &'static str,
    /// The activity.
    pub activity: &'static str,
    /// Its input.
    pub input: String,
    /// Calls of one turn, one at a time.
    pub calls: usize,
    /// Calls of each caller in one turn.
    each: usize,
}

/// How many turns.
fn turns(quick: bool) -> usize {
    if quick { 2 } else { 30 }
}

/// Measures all of it.
pub async fn run(
    report: &mut Report,
    component: &[u8],
    probe: &Path,
    quick: bool,
) -> anyhow::Result<()> {
    let ours = Ours::new(component, Limits::default()).await?;
    let bare = Bare::new(component, Layers::default())?;
    let rounds = calibrate(&bare).await?;
    println!("computing: {rounds} rounds for about {}", shown(COMPUTING));
    let kind = |name, activity, input: String, calls: usize, each: usize| Kind {
        name,
        activity,
        input,
        calls: if quick { calls.min(4) } else { calls },
        each: if quick { 2 } else { each },
    };
    let empty = kind("empty", "echo", "null".to_owned(), 500, 100);
    let kinds = [
        empty.clone(),
        kind(
            "compute",
            "compute",
            format!("{{\"rounds\":{rounds}}}"),
            12,
            4,
        ),
        kind(
            "host_calls",
            "call_host",
            "{\"count\":10}".to_owned(),
            500,
            100,
        ),
    ];
    let bare_runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    for kind in &kinds {
        one_at_a_time(report, &ours, &bare, kind, turns(quick)).await?;
        at_once(
            report,
            &ours,
            &bare,
            bare_runtime.handle(),
            kind,
            turns(quick),
        )
        .await?;
    }
    // Its threads wait for nothing.
    bare_runtime.shutdown_background();
    parts::print(component, &ours, &bare, &empty, turns(quick)).await?;
    memory::compare(report, probe, quick).await
}

/// How many rounds of `compute` take [`COMPUTING`] on bare wasmtime.
async fn calibrate(bare: &Bare) -> anyhow::Result<u64> {
    const TRIED: u64 = 2_000;
    let mut times = Times::default();
    for _ in 0..15 {
        let stages = bare
            .call("compute", &format!("{{\"rounds\":{TRIED}}}"))
            .await?;
        times.push(stages.run);
    }
    let one = times.percentile(50.0).as_secs_f64() / TRIED as f64;
    Ok(((COMPUTING.as_secs_f64() / one) as u64).max(1))
}

async fn one_at_a_time(
    report: &mut Report,
    ours: &Arc<Ours>,
    bare: &Arc<Bare>,
    kind: &Kind,
    turns: usize,
) -> anyhow::Result<()> {
    let task = {
        let (ours, bare, kind) = (Arc::clone(ours), Arc::clone(bare), kind.clone());
        async move {
            let mut sides = Sides::default();
            let mut all = (Times::default(), Times::default());
            for _ in 0..turns {
                let mut turn = (Times::default(), Times::default());
                for call in 0..kind.calls {
                    // Which one comes first alternates, too: it finds warmer caches.
                    for side in [call % 2, (call + 1) % 2] {
                        let begun = Instant::now();
                        if side == 0 {
                            ours.call(kind.activity, &kind.input).await?;
                            turn.0.push(begun.elapsed());
                        } else {
                            bare.call(kind.activity, &kind.input).await?;
                            turn.1.push(begun.elapsed());
                        }
                    }
                }
                sides.push(us(&mut turn.0), us(&mut turn.1));
                all.0.extend(turn.0);
                all.1.extend(turn.1);
            }
            anyhow::Ok((sides, all))
        }
    };
    let (sides, all) = ours.guests().spawn(task).await??;
    add(report, kind, 1, &sides, all);
    Ok(())
}

async fn at_once(
    report: &mut Report,
    ours: &Arc<Ours>,
    bare: &Arc<Bare>,
    bare_runtime: &Handle,
    kind: &Kind,
    turns: usize,
) -> anyhow::Result<()> {
    let mut sides = Sides::default();
    let mut all = (Times::default(), Times::default());
    let call_ours = {
        let ours = Arc::clone(ours);
        move |kind: &Kind| {
            let (ours, kind) = (Arc::clone(&ours), kind.clone());
            async move { ours.call(kind.activity, &kind.input).await }
        }
    };
    let call_bare = {
        let bare = Arc::clone(bare);
        move |kind: &Kind| {
            let (bare, kind) = (Arc::clone(&bare), kind.clone());
            async move { bare.call(kind.activity, &kind.input).await.map(drop) }
        }
    };
    for _ in 0..turns {
        let mut mine = callers(&ours.guests(), kind, call_ours.clone()).await?;
        let mut theirs = callers(bare_runtime, kind, call_bare.clone()).await?;
        sides.push(us(&mut mine), us(&mut theirs));
        all.0.extend(mine);
        all.1.extend(theirs);
    }
    add(report, kind, CALLERS, &sides, all);
    Ok(())
}

/// The times of one turn of all callers, of one side.
async fn callers<F>(
    runtime: &Handle,
    kind: &Kind,
    call: impl Fn(&Kind) -> F + Clone + Send + 'static,
) -> anyhow::Result<Times>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let callers = (0..CALLERS).map(|_| {
        let (runtime, kind, call) = (runtime.clone(), kind.clone(), call.clone());
        tokio::spawn(async move {
            let mut times = Times::default();
            for _ in 0..kind.each {
                let begun = Instant::now();
                runtime.spawn(call(&kind)).await??;
                times.push(begun.elapsed());
            }
            anyhow::Ok(times)
        })
    });
    let mut times = Times::default();
    for caller in futures::future::join_all(callers).await {
        times.extend(caller.context("a caller failed")??);
    }
    Ok(times)
}

fn us(times: &mut Times) -> f64 {
    times.percentile(50.0).as_secs_f64() * 1e6
}

fn add(report: &mut Report, kind: &Kind, at_once: usize, sides: &Sides, all: (Times, Times)) {
    let (value, peer) = sides.medians();
    report.add(Figure {
        name: format!("sandbox.{}.{at_once}", kind.name),
        value,
        unit: "us",
        peer: Some(("bare wasmtime", peer)),
        goal: Some(GOAL),
    });
    let (mut ours, mut bare) = all;
    println!(
        "    ours {}; bare {}; {}",
        ours.text(),
        bare.text(),
        sides.spread()
    );
}
