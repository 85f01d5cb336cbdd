//! What the history of a completed run must say, and those of the runs that it continued.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::STEPS;

/// Checks the histories of a run that completed and of those that it continued, the first one
/// first, and answers how many attempts each of its steps had.
///
/// Each attempt but the last of a step was lost with its process, nothing follows the
/// completion of a step, and each timer fired once, not early.
pub fn attempts(chain: &[Value]) -> anyhow::Result<[u32; STEPS.len()]> {
    let history = json!(chain);
    let mut all = Vec::new();
    for (run, history) in chain.iter().enumerate() {
        let events = history["events"].as_array().context("no events")?;
        ensure!(
            history["complete"] == true,
            "the end is missing: {history:#}"
        );
        all.extend(events.iter().map(|event| (run, event)));
    }
    // Each run counts anew.
    let mut steps: BTreeMap<(usize, String), Step> = BTreeMap::new();
    let mut timers: BTreeMap<(usize, String), (jiff::Timestamp, u32)> = BTreeMap::new();
    for (run, event) in all {
        let attributes = &event["attributes"];
        let text = |name: &str| attributes[name].as_str().unwrap_or_default().to_owned();
        let id = |name: &str| (run, text(name));
        let time = |value: &Value| -> anyhow::Result<jiff::Timestamp> {
            let text = value
                .as_str()
                .with_context(|| format!("no time in {event}"))?;
            Ok(text.parse()?)
        };
        let kind = event["event_type"].as_str().context("no type")?;
        match kind {
            "ActivityTaskScheduled" => {
                let step = Step {
                    task: text("task"),
                    ..Step::default()
                };
                let before = steps.insert(id("activity_id"), step);
                ensure!(before.is_none(), "a step was scheduled twice: {history:#}");
            }
            "ActivityTaskStarted" | "ActivityTaskCompleted" | "ActivityTaskFailed" => {
                let step = steps
                    .get_mut(&id("activity_id"))
                    .with_context(|| format!("{event} is of no step"))?;
                step.event(kind, attributes)
                    .with_context(|| format!("{event} in {history:#}"))?;
            }
            "TimerStarted" => {
                let due = time(&attributes["fire_time"])?;
                timers.insert(id("timer_id"), (due, 0));
            }
            "TimerFired" => {
                let (due, fired) = timers
                    .get_mut(&id("timer_id"))
                    .with_context(|| format!("{event} is of no timer"))?;
                *fired += 1;
                let at = time(&event["event_time"])?;
                ensure!(at >= *due, "{event} is before {due}");
            }
            _ => {}
        }
    }
    ensure!(
        timers.len() == STEPS.len() - 1 && timers.values().all(|(_, fired)| *fired == 1),
        "not each timer fired once: {history:#}"
    );
    ensure!(
        steps.len() == STEPS.len() && steps.values().all(|step| step.completed),
        "not each step completed once: {history:#}"
    );
    let mut attempts = [0; STEPS.len()];
    for (name, attempts) in STEPS.iter().zip(&mut attempts) {
        let step = steps
            .values()
            .find(|step| step.task.ends_with(&format!("/{name}")))
            .with_context(|| format!("no step {name}: {history:#}"))?;
        *attempts = step.attempts;
    }
    Ok(attempts)
}

/// A step, as far as the history was read.
#[derive(Default)]
struct Step {
    task: String,
    attempts: u32,
    running: bool,
    completed: bool,
}

impl Step {
    fn event(&mut self, kind: &str, attributes: &Value) -> anyhow::Result<()> {
        ensure!(!self.completed, "the step had completed before");
        if kind == "ActivityTaskStarted" {
            ensure!(!self.running, "two attempts at once");
            self.attempts += 1;
            self.running = true;
            ensure!(
                attributes["attempt"] == self.attempts,
                "this is attempt {}",
                self.attempts
            );
            return Ok(());
        }
        ensure!(self.running, "no attempt was running");
        self.running = false;
        if kind == "ActivityTaskCompleted" {
            self.completed = true;
        } else {
            // All else works, so an attempt can only be lost.
            ensure!(
                attributes["failure"]["kind"] == "worker-lost",
                "an attempt failed otherwise"
            );
        }
        Ok(())
    }
}
