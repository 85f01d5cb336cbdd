//! The service around a model: what it gains that the calls of many guests are computed
//! together, what it costs a guest to call it, and how much memory one model for all plugins
//! takes against one for each.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use clap::ValueEnum;
use heyday_capabilities::{Bindings, BindingsConfig};
use heyday_inference::{Caller, Inference, LongText};
use heyday_sandbox::{Grant, Grants, Limits};
use serde_json::json;
use tokio::runtime::Handle;

use super::{MODEL, service, store};
use crate::clustered::Numbers;
use crate::ours::Ours;
use crate::report::{Figure, Goal, Report, Sides, Times, shown};
use crate::usage;

/// Guests that call at once.
const CALLERS: usize = 32;
/// Plugins that use one model.
const PLUGINS: usize = 8;
/// Words that are one token each.
const WORDS: [&str; 16] = [
    "water", "house", "light", "river", "stone", "paper", "green", "music", "winter", "street",
    "bridge", "garden", "window", "summer", "engine", "island",
];

/// Whose memory.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Models {
    /// One for all.
    Shared,
    /// One for each.
    Apart,
}

/// A text of so many tokens, with the two around it.
fn text(numbers: &mut Numbers, tokens: usize) -> String {
    let words = (2..tokens).map(|_| WORDS[numbers.below(WORDS.len())]);
    words.collect::<Vec<_>>().join(" ")
}

/// Measures all of it.
pub async fn run(
    report: &mut Report,
    guest: &[u8],
    minilm: &Path,
    quick: bool,
) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let store = store(folder.path(), minilm)?;
    let together = service(&store, |_| ())?;
    together.warm_up(MODEL).await?;
    let ours = sandbox(guest, &together).await?;
    overhead(report, &ours, &together, quick).await?;
    let one_by_one = service(&store, |options| {
        options.batch.sequences = Some(1);
        options.batch.delay = Some(Duration::ZERO);
    })?;
    one_by_one.warm_up(MODEL).await?;
    let alone = sandbox(guest, &one_by_one).await?;
    for tokens in [16, 64] {
        batching(report, &ours, &alone, tokens, quick).await?;
    }
    memory(report, minilm, quick).await
}

/// A sandbox whose guest may ask that model.
async fn sandbox(guest: &[u8], inference: &Inference) -> anyhow::Result<Arc<Ours>> {
    let bindings = Bindings::open(&BindingsConfig::default(), &Handle::current())?;
    let bindings = Arc::new(bindings.with_inference(inference.clone()));
    let grant = Grant {
        binding: MODEL.to_owned(),
        mode: None,
    };
    let grants = Grants {
        by_capability: [("inference".to_owned(), vec![grant])].into(),
        ..Grants::default()
    };
    Ours::with("thinker", guest, Limits::default(), bindings, grants).await
}

/// A guest's calls, timed by itself.
async fn guest(ours: &Arc<Ours>, texts: Vec<String>, count: usize) -> anyhow::Result<Times> {
    let input = json!({ "model": MODEL, "texts": texts, "count": count });
    let ours = Arc::clone(ours);
    let calling = ours.guests().spawn(async move {
        let context = ours.context(Duration::from_secs(300));
        ours.call_in("time_embeds", &input.to_string(), context)
            .await
    });
    let answer = calling.await?.result;
    let answer = answer.map_err(|error| anyhow!("time_embeds: {error}"))?;
    let nanoseconds: Vec<u64> = serde_json::from_str(&answer)?;
    let mut times = Times::default();
    for time in nanoseconds {
        times.push(Duration::from_nanos(time));
    }
    Ok(times)
}

/// The same calls by native code, on that runtime.
async fn native(
    runtime: &Handle,
    inference: &Inference,
    texts: Vec<String>,
    count: usize,
) -> anyhow::Result<Times> {
    let inference = inference.clone();
    let calling = runtime.spawn(async move {
        let mut times = Times::default();
        for _ in 0..count {
            let begun = Instant::now();
            let caller = Caller {
                namespace: "default".to_owned(),
                plugin: "thinker".to_owned(),
            };
            let texts = texts.clone();
            let embedded = inference.embed(caller, MODEL, texts, LongText::Refuse);
            embedded.await?;
            times.push(begun.elapsed());
        }
        anyhow::Ok(times)
    });
    calling.await?
}

async fn overhead(
    report: &mut Report,
    ours: &Arc<Ours>,
    inference: &Inference,
    quick: bool,
) -> anyhow::Result<()> {
    let (turns, calls) = if quick { (1, 2) } else { (15, 20) };
    let mut numbers = Numbers::new(0x5eed);
    for (texts, tokens) in [(1, 16), (32, 64)] {
        let asked: Vec<String> = (0..texts).map(|_| text(&mut numbers, tokens)).collect();
        let calls = if texts == 1 { calls } else { calls.min(5) };
        let mut sides = Sides::default();
        let mut moved = Times::default();
        for turn in 0..=turns {
            let mut called = guest(ours, asked.clone(), calls).await?;
            let from = ours.guests();
            let from_there = native(&from, inference, asked.clone(), calls).await?;
            let here = Handle::current();
            let mut directly = native(&here, inference, asked.clone(), calls).await?;
            if turn > 0 {
                let us = |times: &mut Times| times.percentile(50.0).as_secs_f64() * 1e6;
                sides.push(us(&mut called), us(&mut directly));
                moved.extend(from_there);
            }
        }
        let (value, natively) = sides.medians();
        report.add(Figure {
            name: format!("inference.host_call.{texts}_texts_{tokens}_tokens"),
            value,
            unit: "us",
            peer: Some(("the service natively", natively)),
            goal: Some(Goal::RatioAtMost(1.3)),
        });
        let moved = moved.percentile(50.0);
        println!(
            "    {} by turns; natively from the guests' threads {}",
            sides.spread(),
            shown(moved)
        );
    }
    Ok(())
}

/// Texts per second of guests that each ask for one after another.
async fn throughput(ours: &Arc<Ours>, tokens: usize, count: usize) -> anyhow::Result<f64> {
    let mut numbers = Numbers::new(0x5eed);
    let begun = Instant::now();
    let calls = (0..CALLERS).map(|_| guest(ours, vec![text(&mut numbers, tokens)], count));
    futures::future::try_join_all(calls).await?;
    Ok((CALLERS * count) as f64 / begun.elapsed().as_secs_f64())
}

async fn batching(
    report: &mut Report,
    ours: &Arc<Ours>,
    alone: &Arc<Ours>,
    tokens: usize,
    quick: bool,
) -> anyhow::Result<()> {
    let (turns, count) = if quick { (1, 1) } else { (5, 512 / tokens) };
    let mut sides = Sides::default();
    for turn in 0..=turns {
        let together = throughput(ours, tokens, count).await?;
        let one_by_one = throughput(alone, tokens, count).await?;
        if turn > 0 {
            sides.push(together, one_by_one);
        }
    }
    let (value, one_by_one) = sides.medians();
    report.add(Figure {
        name: format!("inference.batched.{CALLERS}_callers_{tokens}_tokens"),
        value,
        unit: "per s",
        peer: Some(("without batches", one_by_one)),
        goal: None,
    });
    println!("    {} by turns", sides.spread());
    Ok(())
}

/// Measures in this process, and prints bytes.
pub async fn measure(models: Models, minilm: &Path) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let store = store(folder.path(), minilm)?;
    let mut services = Vec::new();
    for number in 0..PLUGINS {
        let shared = matches!(models, Models::Shared);
        let inference = match services.first() {
            Some(first) if shared => Inference::clone(first),
            _ => service(&store, |_| ())?,
        };
        let caller = Caller {
            namespace: "default".to_owned(),
            plugin: format!("plugin-{number}"),
        };
        let texts = vec![text(&mut Numbers::new(number as u64), 64)];
        let embedded = inference.embed(caller, MODEL, texts, LongText::Refuse);
        embedded.await?;
        services.push(inference);
    }
    println!("{}", usage::memory(std::process::id())?);
    Ok(())
}

async fn memory(report: &mut Report, minilm: &Path, quick: bool) -> anyhow::Result<()> {
    let mut sides = Sides::default();
    for _ in 0..if quick { 1 } else { 3 } {
        let mut mib = [0.0; 2];
        for (models, mib) in ["shared", "apart"].iter().zip(&mut mib) {
            let output = tokio::process::Command::new(std::env::current_exe()?)
                .args(["models-memory", models])
                .arg(minilm)
                .kill_on_drop(true)
                .output()
                .await?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                bail!("measuring memory ended with {}: {said}", output.status);
            }
            let bytes: f64 = String::from_utf8_lossy(&output.stdout).trim().parse()?;
            *mib = bytes / f64::from(1 << 20);
        }
        sides.push(mib[0], mib[1]);
    }
    let (value, apart) = sides.medians();
    report.add(Figure {
        name: format!("inference.memory.{PLUGINS}_plugins"),
        value,
        unit: "MiB",
        peer: Some(("a model for each", apart)),
        goal: None,
    });
    Ok(())
}
