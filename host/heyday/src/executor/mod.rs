//! Runs attempts: of plugins in the sandbox, of built-in activities in the host.
//!
//! The way of an attempt: its input is checked against the activity's schema before
//! anything runs; the guest gets what its plugin was granted at this moment; what it
//! answers is checked again; its receipt and log lines are handed to
//! [`Records`], which never waits. What it runs it finds in a [`Catalogue`]: so the same
//! executor serves the server and a worker.

pub mod catalogue;
mod ending;
mod http;
mod plugin;
mod sink;
mod throttle;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use heyday_capabilities::http::{HttpClient, HttpPlaces};
use heyday_durable::activity::{
    ActivityExecutor, ActivityTask, AttemptContext, AttemptOutcome, AttemptReceipt,
};
use heyday_durable::driver::HTTP_ACTIVITY_TYPE;
use heyday_durable::failure::{Failure, kind};
use heyday_durable::payload::Payload;
use heyday_sandbox::{Limits, Sandbox};
use tokio::runtime::Handle;
use tracing::Instrument as _;

use self::catalogue::Catalogue;
use self::ending::{Ending, Used};
use self::throttle::Throttle;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::recorder::{AttemptName, Records};
use crate::telemetry;

/// What the executor is made of.
pub struct ExecutorOptions {
    /// Where plugins and grants are.
    pub catalogue: Arc<dyn Catalogue>,
    /// Where guests run.
    pub sandbox: Sandbox,
    /// Where receipts and log lines go.
    pub records: Arc<dyn Records>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Limits of calls.
    pub config: Arc<Config>,
}

/// Runs attempts.
pub struct Executor {
    catalogue: Arc<dyn Catalogue>,
    sandbox: Sandbox,
    records: Arc<dyn Records>,
    metrics: Arc<Metrics>,
    config: Arc<Config>,
    limits: Mutex<HashMap<String, Arc<Limits>>>,
    http: Option<HttpClient>,
    http_places: HttpPlaces,
    throttle: Throttle,
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").finish_non_exhaustive()
    }
}

impl Executor {
    /// Makes an executor.
    #[must_use]
    pub fn new(options: ExecutorOptions) -> Self {
        let http = HttpClient::new()
            .inspect_err(|error| tracing::warn!(%error, "flows cannot call http"))
            .ok();
        Self {
            catalogue: options.catalogue,
            sandbox: options.sandbox,
            records: options.records,
            metrics: options.metrics,
            throttle: Throttle::new(&options.config.limits.throttle),
            http_places: HttpPlaces::new(options.config.limits.http.concurrent_requests),
            config: options.config,
            limits: Mutex::default(),
            http,
        }
    }

    fn limits(&self, plugin: &str) -> Arc<Limits> {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limits) = limits.get(plugin) {
            return Arc::clone(limits);
        }
        let of_plugin = Arc::new(self.config.plugin_limits(plugin).clone());
        limits.insert(plugin.to_owned(), Arc::clone(&of_plugin));
        of_plugin
    }

    async fn run(
        &self,
        task: &ActivityTask,
        name: &Arc<AttemptName>,
        context: AttemptContext,
        used: &mut Used,
    ) -> Result<Payload, Failure> {
        let input = task
            .input
            .json_text()
            .map_err(|error| Failure::permanent(kind::INVALID_INPUT, error.to_string()))?;
        if task.activity_type == HTTP_ACTIVITY_TYPE {
            self.run_http(task, &input, &context, used).await
        } else {
            self.run_plugin(task, name, input, context, used).await
        }
    }
}

#[async_trait]
impl ActivityExecutor for Executor {
    async fn execute(&self, task: ActivityTask, context: AttemptContext) -> AttemptOutcome {
        let span = tracing::info_span!(
            "attempt",
            otel.name = %format_args!("attempt {}", task.activity_type),
            otel.kind = "consumer",
            otel.status_code = tracing::field::Empty,
            messaging.system = "heyday",
            messaging.operation.name = "attempt",
            messaging.operation.type = "process",
            messaging.destination.name = %task.queue,
            heyday.namespace = %task.namespace,
            heyday.workflow_id = %task.workflow_id,
            heyday.run_id = %task.run_id,
            heyday.activity_id = %task.activity_id,
            heyday.activity_type = %task.activity_type,
            heyday.attempt = task.attempt,
            error.type = tracing::field::Empty,
        );
        telemetry::set_parent(&span, task.traceparent.as_deref());
        let name = Arc::new(AttemptName {
            namespace: task.namespace.clone(),
            run_id: task.run_id,
            activity_id: task.activity_id.clone(),
            activity_type: task.activity_type.clone(),
            queue: task.queue.clone(),
            attempt: task.attempt,
        });
        let mut ending = Ending::new(&*self.records, &name, &task, &context);
        let queued = task.started_at.as_microsecond() - task.scheduled_at.as_microsecond();
        let waited = u64::try_from(queued).unwrap_or_default();
        ending.used.receipt.add("queue_us", waited);
        let running = self
            .metrics
            .attempt_started(&task.namespace, &task.queue, queued);
        let begun = std::time::Instant::now();
        let result = self
            .run(&task, &name, context, &mut ending.used)
            .instrument(span.clone())
            .await;
        if result.is_err() {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", outcome_label(&result));
        }
        let outcome = match &result {
            Ok(_) => "completed",
            Err(failure) => failure.kind.as_str(),
        };
        running.ended(&task.activity_type, outcome_label(&result), begun.elapsed());
        let receipt = ending.tell(outcome);
        AttemptOutcome { result, receipt }
    }

    fn runtime(&self) -> Option<Handle> {
        // Whole, so that the sandbox's call stays on its thread.
        Some(self.sandbox.guests().clone())
    }

    fn ended_elsewhere(&self, receipt: AttemptReceipt) {
        self.records.receipt(receipt.into());
    }
}

/// A metric's label: plugins choose their kinds freely, and must not make series.
fn outcome_label(result: &Result<Payload, Failure>) -> &'static str {
    let Err(failure) = result else {
        return "completed";
    };
    match failure.kind.as_str() {
        kind::CANCELLED => "cancelled",
        kind::TIMEOUT => "timeout",
        kind::TRAP => "trap",
        kind::LIMIT_EXCEEDED => "limit-exceeded",
        kind::INVALID_INPUT => "invalid-input",
        kind::INVALID_OUTPUT => "invalid-output",
        kind::CAPABILITY_DENIED => "capability-denied",
        kind::INTERNAL => "internal",
        _ => "failed",
    }
}

#[cfg(test)]
mod tests;
