//! Metrics that are asked for when somebody looks: what queues, sandbox, writer and
//! process are doing. Nothing is counted for them on the way of a request.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use heyday_durable::embedded::EmbeddedEngine;
use heyday_durable::engine::{BATCH_BOUNDS, Engine, PhaseStats, QueueStats, WriterStats};
use heyday_sandbox::Sandbox;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::process;
use crate::recorder::Records;

/// What is asked.
pub struct Sources {
    /// Queues. The engine has the executor, which counts here.
    pub engine: Weak<dyn Engine>,
    /// Runs and the writer, where the engine is the embedded one.
    pub embedded: Option<Weak<EmbeddedEngine>>,
    /// The pool.
    pub sandbox: Sandbox,
    /// What was dropped.
    pub records: Arc<dyn Records>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// Asks its sources, once they are there.
#[derive(Debug, Default, Clone)]
pub(super) struct Asked(pub(super) Arc<OnceLock<Sources>>);

/// One metric without labels.
fn one(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    metric: &dyn EncodeMetric,
) -> fmt::Result {
    let metric_encoder = encoder.encode_descriptor(name, help, unit, metric.metric_type())?;
    metric.encode(metric_encoder)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: usize) -> fmt::Result {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    one(encoder, name, help, None, &ConstGauge::new(value))
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    one(encoder, name, help, None, &ConstCounter::new(value))
}

impl Collector for Asked {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        process::encode(&mut encoder)?;
        let Some(sources) = self.0.get() else {
            return Ok(());
        };
        let Some(engine) = sources.engine.upgrade() else {
            return Ok(());
        };
        queues(&mut encoder, &engine.queues())?;
        let pool = sources.sandbox.stats();
        let encoder = &mut encoder;
        gauge(
            encoder,
            "heyday_sandbox_slots",
            "Calls of guests that may run at once",
            pool.slots,
        )?;
        gauge(
            encoder,
            "heyday_sandbox_slots_in_use",
            "Calls of guests that run",
            pool.slots_in_use,
        )?;
        gauge(
            encoder,
            "heyday_sandbox_plugins_loaded",
            "Compiled plugins in memory",
            pool.plugins_loaded,
        )?;
        if let Some(engine) = sources.embedded.as_ref().and_then(Weak::upgrade) {
            gauge(
                encoder,
                "heyday_runs_in_memory",
                "Open runs that are in memory; those that only wait may not be",
                engine.runs_in_memory(),
            )?;
            writer(encoder, &engine.writer_stats())?;
            phases(encoder, &engine.phases())?;
        }
        counter(
            encoder,
            "heyday_records_dropped",
            "Log lines and receipts that were dropped: too many at once",
            sources.records.dropped_ever(),
        )
    }
}

fn queues(encoder: &mut DescriptorEncoder<'_>, queues: &[QueueStats]) -> fmt::Result {
    type Values<'v> = &'v dyn Fn(&QueueStats) -> Vec<(Option<&'static str>, f64)>;
    let mut family = |name: &str, help: &str, unit: Option<&Unit>, values: Values<'_>| {
        let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for queue in queues {
            for (task_type, value) in values(queue) {
                let labels = [
                    ("namespace", queue.namespace.as_deref()),
                    ("queue", Some(queue.name.as_str())),
                    ("task_type", task_type),
                ];
                let labels = labels.map(|(name, value)| Some((name, value?)));
                let labels: Vec<(&str, &str)> = labels.into_iter().flatten().collect();
                ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok::<_, fmt::Error>(())
    };
    // Counts of attempts: far below what a float holds exactly.
    #[allow(clippy::cast_precision_loss, reason = "they are small")]
    let count = |count: usize| count as f64;
    let seconds = |ms: u64| std::time::Duration::from_millis(ms).as_secs_f64();
    // Only on a cluster do workflow tasks wait as well: elsewhere there is nothing to tell apart.
    let waiting = |attempts: f64, workflow_tasks: Option<f64>| match workflow_tasks {
        Some(tasks) => vec![(Some("activity"), attempts), (Some("workflow"), tasks)],
        None => vec![(None, attempts)],
    };
    family(
        "heyday_queue_limit",
        "Attempts that a queue runs at once",
        None,
        &|queue: &QueueStats| vec![(None, count(queue.limit))],
    )?;
    family(
        "heyday_queue_in_flight",
        "Attempts that run",
        None,
        &|queue: &QueueStats| vec![(None, count(queue.in_flight))],
    )?;
    family(
        "heyday_queue_depth",
        "Attempts that wait for a slot, and workflow tasks that wait for a worker",
        None,
        &|queue: &QueueStats| {
            let tasks = queue.workflow_tasks.as_ref();
            waiting(
                count(queue.backlog),
                tasks.map(|tasks| count(tasks.backlog)),
            )
        },
    )?;
    family(
        "heyday_queue_age",
        "How long the oldest of them has waited",
        Some(&Unit::Seconds),
        &|queue: &QueueStats| {
            let tasks = queue.workflow_tasks.as_ref();
            waiting(
                seconds(queue.backlog_age_ms),
                tasks.map(|tasks| seconds(tasks.backlog_age_ms)),
            )
        },
    )
}

fn writer(encoder: &mut DescriptorEncoder<'_>, stats: &WriterStats) -> fmt::Result {
    counter(
        encoder,
        "heyday_history_commits",
        "Transactions of the history that were committed, each synced once",
        stats.commits,
    )?;
    counter(
        encoder,
        "heyday_history_commit_failures",
        "Transactions of the history that failed",
        stats.failures,
    )?;
    gauge(
        encoder,
        "heyday_history_queued_writes",
        "Writes that wait for the next commit",
        stats.queued,
    )?;
    #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    let buckets: Vec<(f64, u64)> = BATCH_BOUNDS
        .iter()
        .zip(stats.batches)
        .map(|(bound, count)| (*bound as f64, count))
        .chain([(f64::INFINITY, 0)])
        .collect();
    let mut metric = encoder.encode_descriptor(
        "heyday_history_batch_writes",
        "Starts, transitions and other writes in one commit",
        None,
        MetricType::Histogram,
    )?;
    #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    let sum = stats.writes as f64;
    metric.encode_histogram::<NoLabelSet>(sum, stats.commits, &buckets, None)
}

fn phases(encoder: &mut DescriptorEncoder<'_>, phases: &[PhaseStats]) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(
        "heyday_engine_phases",
        "How often the engine was in each phase of a transition's way",
        None,
        MetricType::Counter,
    )?;
    for phase in phases {
        let labels = [("phase", phase.name)];
        ConstCounter::new(phase.count).encode(metric.encode_family(&labels)?)?;
    }
    let mut metric = encoder.encode_descriptor(
        "heyday_engine_phase_time",
        "How long the engine was in each phase of a transition's way",
        Some(&Unit::Seconds),
        MetricType::Counter,
    )?;
    for phase in phases {
        let labels = [("phase", phase.name)];
        let seconds = phase.total.as_secs_f64();
        ConstCounter::new(seconds).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}
