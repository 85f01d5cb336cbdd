//! Memory per live instance: how much more a process has with twice as many guests that
//! wait. What the first ones cost besides (code that is read for the first time, arenas of
//! allocators) is no instance's. Each side in a process of its own, since pools keep what
//! they had.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;
use heyday_sandbox::Limits;

use crate::bare::{Bare, Layers};
use crate::ours::Ours;
use crate::report::{Figure, Report, Sides};
use crate::usage;

/// Guests that wait at first, and guests that are added.
const INSTANCES: usize = 32;
/// An activity that waits until it is cancelled.
const WAITS: &str = "wait_for_cancel";

/// Whose memory.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Side {
    /// The sandbox.
    Ours,
    /// Wasmtime alone.
    Bare,
}

/// Measures one side in this process and prints bytes per instance.
pub async fn measure(side: Side, component: &[u8]) -> anyhow::Result<()> {
    let per_instance = match side {
        Side::Ours => ours(component).await?,
        Side::Bare => bare(component).await?,
    };
    println!("{per_instance}");
    Ok(())
}

async fn ours(component: &[u8]) -> anyhow::Result<usize> {
    let ours = Ours::new(component, Limits::default()).await?;
    let contexts: Vec<_> = (0..2 * INSTANCES)
        .map(|_| ours.context(Duration::from_secs(60)))
        .collect();
    let (mut calls, mut settled_at) = (Vec::new(), Vec::new());
    for contexts in contexts.chunks(INSTANCES) {
        for context in contexts {
            let (ours, context) = (Arc::clone(&ours), context.clone());
            calls.push(tokio::spawn(async move {
                ours.call_in(WAITS, "null", context).await
            }));
        }
        settled_at.push(settled().await?);
    }
    for context in &contexts {
        context.cancellation.cancel();
    }
    for call in calls {
        call.await?;
    }
    Ok(per_instance(&settled_at))
}

async fn bare(component: &[u8]) -> anyhow::Result<usize> {
    let bare = Bare::new(component, Layers::default())?;
    let (mut calls, mut settled_at) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        for _ in 0..INSTANCES {
            let bare = Arc::clone(&bare);
            calls.push(tokio::spawn(async move { bare.call(WAITS, "null").await }));
        }
        settled_at.push(settled().await?);
    }
    bare.cancelled.store(true, Ordering::Release);
    for call in calls {
        // It answers the failure `cancelled`, as it should.
        match call.await? {
            Err(error) if error.to_string().starts_with("cancelled: ") => {}
            other => bail!("a guest did not wait: {other:?}"),
        }
    }
    Ok(per_instance(&settled_at))
}

/// What each of the guests that were added costs.
fn per_instance(settled_at: &[usize]) -> usize {
    match settled_at {
        [first, .., all] => all.saturating_sub(*first) / INSTANCES,
        _ => 0,
    }
}

/// The process's memory once it no longer grows.
async fn settled() -> anyhow::Result<usize> {
    let mut last = 0;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = resident()?;
        if now.abs_diff(last) < 64 << 10 {
            return Ok(now);
        }
        last = now;
    }
    bail!("the process's memory does not settle")
}

fn resident() -> anyhow::Result<usize> {
    usage::memory(std::process::id())
}

/// Measures both sides in turns.
pub async fn compare(report: &mut Report, probe: &Path, quick: bool) -> anyhow::Result<()> {
    let mut sides = Sides::default();
    for _ in 0..if quick { 1 } else { 3 } {
        let mut kib = [0.0; 2];
        for (side, kib) in ["ours", "bare"].iter().zip(&mut kib) {
            let output = tokio::process::Command::new(std::env::current_exe()?)
                .arg("--probe")
                .arg(probe)
                .args(["memory", side])
                .kill_on_drop(true)
                .output()
                .await?;
            let text = String::from_utf8_lossy(&output.stdout);
            if !output.status.success() {
                bail!(
                    "measuring {side}'s memory ended with {}: {}",
                    output.status,
                    String::from_utf8_lossy(&output.stderr)
                );
            }
            *kib = text.trim().parse::<f64>()? / 1024.0;
        }
        sides.push(kib[0], kib[1]);
    }
    let (value, peer) = sides.medians();
    report.add(Figure {
        name: "sandbox.memory_per_instance".to_owned(),
        value,
        unit: "KiB",
        peer: Some(("bare wasmtime", peer)),
        goal: None,
    });
    Ok(())
}
