//! A worker of ours: how soon its first task is done after it starts, and how much memory
//! it has once it has run many plugins, small or large ones; beside it, a worker with one
//! activity on Temporal's Python SDK.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::{TryStreamExt as _, stream};
use serde_json::Value;

use crate::cluster::{Client, WORKFLOW, told};
use crate::report::{Figure, Goal, Report, Times, compared, shown};
use crate::servers::{Heyday, HeydayWorker};
use crate::temporal::Options;
use crate::usage;

const PEER: &str = "Temporal's Python SDK, one activity";
/// How many plugins a worker runs: of the smallest, and of one that is as large as a plugin
/// with all that the SDK has.
const SMALL: usize = 1_000;
const LARGE: usize = 50;
/// Starts of a worker.
const STARTS: usize = 10;
/// How many plugins are uploaded at once: while one is stored another is compiled.
const UPLOADS: usize = 4;
/// Seconds that a start may take; what a longer one waited for is printed.
const START_SECONDS: f64 = 2.0;

/// Measures all of it.
pub async fn run(
    report: &mut Report,
    probe: &[u8],
    options: &Options,
    quick: bool,
) -> anyhow::Result<()> {
    let cluster = options.cluster().await?;
    let python = compared(PEER, options.python(&cluster).await);
    let mut client = cluster.client().await?;
    println!("starting Heyday");
    let heyday = Heyday::serve(&options.heyday, cluster.address).await?;
    let parrot = options.component()?;
    heyday.push(&parrot).await?;

    // Compiled by the server, which has the same cache: it is warm from the first on.
    let mut starts = Times::default();
    let mut worker: Option<HeydayWorker> = None;
    for _ in 0..if quick { 2 } else { STARTS } {
        // Nobody polls any more: the next one takes the task.
        if let Some(before) = worker.take() {
            before.stop().await?;
        }
        let asked = Instant::now();
        let id = start(&heyday, "parrot.echo").await?;
        let next = heyday
            .begin_worker(&options.heyday, cluster.address)
            .await?;
        finish(&heyday, &id).await?;
        let took = next.begun.elapsed();
        starts.push(took);
        if took.as_secs_f64() > START_SECONDS {
            let before = shown(next.begun.duration_since(asked));
            println!(
                "    a start took {}; its task had been started up to {before} before",
                shown(took)
            );
            explain(&mut client, &id, &next).await?;
        }
        worker = Some(next);
    }
    // The goal is each start's: a median would hide one that waits for something.
    for (name, percent, goal) in [
        ("workers.start_to_first_task", 50.0, None),
        (
            "workers.start_to_first_task_slowest",
            100.0,
            Some(Goal::AtMost(START_SECONDS)),
        ),
    ] {
        report.add(Figure {
            name: name.to_owned(),
            value: starts.percentile(percent).as_secs_f64(),
            unit: "s",
            peer: None,
            goal,
        });
    }
    println!("    {}", starts.text());

    let mut worker = worker.context("no worker was started")?;
    worker.until_ready().await?;
    let mut peer = None;
    if let Some(python) = &python {
        for _ in 0..10 {
            client.run(WORKFLOW, &python.queue).await?;
        }
        peer = Some((PEER, mib(settled(python.pid()?).await?)));
    }
    let with_one = settled(worker.pid()?).await?;
    report.add(memory("workers.memory_1_plugin".to_owned(), with_one, peer));
    for (name, component, many) in [("parrot", &*parrot, SMALL), ("probe", probe, LARGE)] {
        let many = if quick { 3 } else { many };
        // Another one, which has seen nothing yet.
        worker.stop().await?;
        worker = heyday
            .begin_worker(&options.heyday, cluster.address)
            .await?;
        worker.until_ready().await?;
        run_all(&heyday, name, component, many).await?;
        let figure = match name {
            "probe" => format!("workers.memory_{many}_large_plugins"),
            _ => format!("workers.memory_{many}_plugins"),
        };
        report.add(memory(figure, settled(worker.pid()?).await?, peer));
        println!("    in memory at once: {}", loaded(&worker).await?);
    }
    Ok(())
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn memory(name: String, bytes: usize, peer: Option<(&'static str, f64)>) -> Figure {
    Figure {
        name,
        value: mib(bytes),
        unit: "MiB",
        peer,
        goal: None,
    }
}

/// Uploads a component under so many names, and lets the worker run each of them once.
async fn run_all(heyday: &Heyday, name: &str, component: &[u8], many: usize) -> anyhow::Result<()> {
    let begun = Instant::now();
    let numbers = stream::iter((0..many).map(anyhow::Ok));
    numbers
        .try_for_each_concurrent(UPLOADS, |number| async move {
            heyday.push(&renamed(component, name, number)).await
        })
        .await?;
    println!(
        "    {many} plugins of {} KiB were uploaded and compiled in {:.0?}",
        component.len() >> 10,
        begun.elapsed()
    );
    for number in 0..many {
        let id = start(heyday, &format!("{}.echo", numbered(name, number))).await?;
        finish(heyday, &id).await?;
    }
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

/// Prints what the cluster wrote down of a run, and what its worker said meanwhile.
async fn explain(
    client: &mut Client,
    workflow_id: &str,
    worker: &HeydayWorker,
) -> anyhow::Result<()> {
    println!("    its run, by the cluster's history:");
    for event in told(&client.history(workflow_id).await?) {
        println!("        {event}");
    }
    println!("    its worker, process {}:", worker.pid()?);
    for line in worker.said()?.lines() {
        println!("        {line}");
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

/// Another name of as many letters.
fn numbered(name: &str, number: usize) -> String {
    format!("{}{number:0width$}", &name[..1], width = name.len() - 1)
}

/// A plugin under another name of as many letters: another plugin.
fn renamed(component: &[u8], name: &str, number: usize) -> Vec<u8> {
    let other = numbered(name, number);
    let mut made = Vec::with_capacity(component.len());
    let mut rest = component;
    while let Some(at) = rest
        .windows(name.len())
        .position(|found| found == name.as_bytes())
    {
        made.extend_from_slice(&rest[..at]);
        made.extend_from_slice(other.as_bytes());
        rest = &rest[at + name.len()..];
    }
    made.extend_from_slice(rest);
    made
}

#[cfg(test)]
mod tests {
    #[test]
    fn another_plugin_has_another_name_and_as_many_bytes() {
        let made = super::renamed(b"\0probe\x05{\"probe\"}prob", "probe", 7);
        assert_eq!(made, b"\0p0007\x05{\"p0007\"}prob");
    }
}
