//! A worker of ours: how soon its first task is done after it starts, and how much memory
//! it has once it has run many plugins; beside it, a worker with one activity on Temporal's
//! Python SDK.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::cluster::WORKFLOW;
use crate::report::{Figure, Goal, Report, Times};
use crate::servers::{Heyday, HeydayWorker};
use crate::temporal::Options;
use crate::usage;

/// Plugins at once.
const PLUGINS: usize = 1_000;
/// Starts of a worker.
const STARTS: usize = 10;

/// Measures all of it.
pub async fn run(
    report: &mut Report,
    probe: &[u8],
    options: &Options,
    quick: bool,
) -> anyhow::Result<()> {
    let cluster = options.cluster().await?;
    let python = options.python(&cluster).await?;
    let mut client = cluster.client().await?;
    println!("starting Heyday");
    let heyday = Heyday::serve(&options.heyday, cluster.address).await?;
    heyday.push(probe).await?;

    // Compiled by the server, which has the same cache: it is warm from the first on.
    let mut starts = Times::default();
    let mut worker = None;
    for _ in 0..if quick { 2 } else { STARTS } {
        // Killed with all that it polls: the next one takes the task.
        drop(worker.take());
        let id = start(&heyday, "probe.echo").await?;
        let begun = Instant::now();
        worker = Some(
            heyday
                .begin_worker(&options.heyday, cluster.address)
                .await?,
        );
        finish(&heyday, &id).await?;
        starts.push(begun.elapsed());
    }
    report.add(Figure {
        name: "workers.start_to_first_task".to_owned(),
        value: starts.percentile(50.0).as_secs_f64(),
        unit: "s",
        peer: None,
        goal: Some(Goal::AtMost(2.0)),
    });
    println!("    {}", starts.text());

    let mut worker = worker.context("no worker was started")?;
    worker.until_ready().await?;
    for _ in 0..10 {
        client.run(WORKFLOW, &python.queue).await?;
    }
    let of_python = settled(python.pid()?).await?;
    let with_one = settled(worker.pid()?).await?;
    let plugins = if quick { 3 } else { PLUGINS };
    let begun = Instant::now();
    for number in 0..plugins {
        heyday.push(&renamed(probe, number)).await?;
    }
    println!(
        "    {plugins} plugins of {} KiB were uploaded in {:.0?}",
        probe.len() >> 10,
        begun.elapsed()
    );
    for number in 0..plugins {
        let id = start(&heyday, &format!("p{number:04}.echo")).await?;
        finish(&heyday, &id).await?;
    }
    let with_all = settled(worker.pid()?).await?;
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    for (name, bytes) in [
        ("workers.memory_1_plugin".to_owned(), with_one),
        (format!("workers.memory_{plugins}_plugins"), with_all),
    ] {
        report.add(Figure {
            name,
            value: mib(bytes),
            unit: "MiB",
            peer: Some(("Temporal's Python SDK, one activity", mib(of_python))),
            goal: None,
        });
    }
    println!("    of them in memory: {}", loaded(&worker).await?);
    Ok(())
}

/// Starts an activity by itself; answers its workflow id.
async fn start(heyday: &Heyday, activity: &str) -> anyhow::Result<String> {
    let path = format!("/api/v1/activities/{activity}");
    let started = heyday.connect().await?.post(&path, "7").await?;
    let started: Value = serde_json::from_slice(&started)?;
    let id = started["workflow_id"].as_str();
    Ok(id.context("an answer without workflow_id")?.to_owned())
}

/// Waits for its end.
async fn finish(heyday: &Heyday, workflow_id: &str) -> anyhow::Result<()> {
    let path = format!("/api/v1/workflows/{workflow_id}/result?wait=30s");
    let ended = heyday.connect().await?.get_json(&path).await?;
    if ended["status"] != "Completed" || ended["result"] != 7 {
        bail!("a workflow ended otherwise: {ended}");
    }
    Ok(())
}

/// How many plugins the worker has in memory.
async fn loaded(worker: &HeydayWorker) -> anyhow::Result<String> {
    let text = worker.connect().await?.get("/metrics").await?;
    let text = String::from_utf8_lossy(&text);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("heyday_sandbox_plugins_loaded "));
    Ok(line.context("no such metric")?.to_owned())
}

/// A process's memory once it no longer grows.
async fn settled(pid: u32) -> anyhow::Result<usize> {
    let mut last = 0;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = usage::memory(pid)?;
        if now.abs_diff(last) < 256 << 10 {
            return Ok(now);
        }
        last = now;
    }
    bail!("the process's memory does not settle")
}

/// The probe under another name of as many letters: another plugin.
fn renamed(probe: &[u8], number: usize) -> Vec<u8> {
    const NAME: &[u8] = b"probe";
    let name = format!("p{number:04}");
    let mut made = Vec::with_capacity(probe.len());
    let mut rest = probe;
    while let Some(at) = rest.windows(NAME.len()).position(|found| found == NAME) {
        made.extend_from_slice(&rest[..at]);
        made.extend_from_slice(name.as_bytes());
        rest = &rest[at + NAME.len()..];
    }
    made.extend_from_slice(rest);
    made
}

#[cfg(test)]
mod tests {
    #[test]
    fn another_plugin_has_another_name_and_as_many_bytes() {
        let made = super::renamed(b"\0probe\x05{\"probe\"}prob", 7);
        assert_eq!(made, b"\0p0007\x05{\"p0007\"}prob");
    }
}
