//! Where the time of an empty call goes: bare wasmtime's own stages, then what each layer
//! of the sandbox adds, measured by adding one at a time and taking turns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bare::{Bare, Layers, Stages};
use crate::ours::Ours;
use crate::report::{median, shown};
use crate::sandbox::Kind;

/// Prints the parts.
pub async fn print(
    component: &[u8],
    ours: &Arc<Ours>,
    bare: &Arc<Bare>,
    kind: &Kind,
    turns: usize,
) -> anyhow::Result<()> {
    let layer = |epochs, limits| Bare::new(component, Layers { epochs, limits });
    let bares = [Arc::clone(bare), layer(true, false)?, layer(true, true)?];
    let inside = {
        let (ours, kind) = (Arc::clone(ours), kind.clone());
        ours.guests().spawn(async move {
            let mut totals = [const { Vec::new() }; 4];
            let mut stages = Vec::new();
            for turn in 0..turns * kind.calls {
                // Each comes after each: whoever comes first finds colder caches.
                for place in 0..totals.len() {
                    let layer = (place + turn) % totals.len();
                    let begun = Instant::now();
                    let stage = match bares.get(layer) {
                        Some(bare) => Some(bare.call(kind.activity, &kind.input).await?),
                        None => {
                            ours.call(kind.activity, &kind.input).await?;
                            None
                        }
                    };
                    totals[layer].push(begun.elapsed().as_secs_f64());
                    if layer == 0 {
                        stages.extend(stage);
                    }
                }
            }
            anyhow::Ok((totals.map(median), stages))
        })
    };
    let (totals, stages) = inside.await??;
    let mut outside = Vec::new();
    for _ in 0..turns * kind.calls {
        let begun = Instant::now();
        ours.call(kind.activity, &kind.input).await?;
        outside.push(begun.elapsed().as_secs_f64());
    }
    let outside = median(outside);

    println!("where the time of an empty call goes (medians):");
    let stage = |name: &str, of: fn(&Stages) -> Duration| {
        let seconds = median(
            stages
                .iter()
                .map(|stages| of(stages).as_secs_f64())
                .collect(),
        );
        line(name, seconds);
    };
    stage("bare: make the store", |stages| stages.store);
    stage("bare: instantiate", |stages| stages.instantiate);
    stage("bare: run the guest's function", |stages| stages.run);
    stage("bare: take it down", |stages| stages.drop);
    line("epochs", totals[1] - totals[0]);
    line(
        "limits on memory, tables and host calls",
        totals[2] - totals[1],
    );
    line(
        "slot, clock, turns, metering, capabilities, checks",
        totals[3] - totals[2],
    );
    line("all, on the guest runtime", totals[3]);
    line(
        "changing threads, where the caller is elsewhere",
        outside - totals[3],
    );
    Ok(())
}

fn line(name: &str, seconds: f64) {
    let sign = if seconds < 0.0 { "-" } else { "" };
    let time = shown(Duration::from_secs_f64(seconds.abs()));
    println!("    {name:<52} {sign}{time}");
}
