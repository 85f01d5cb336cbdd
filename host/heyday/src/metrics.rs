//! What `/metrics` shows: requests, attempts by queue and activity, queues.
//!
//! Names follow OpenTelemetry's semantic conventions as Prometheus writes them. Queue
//! depth, age and attempts in flight are asked from the engine when somebody looks;
//! everything else is counted where it happens.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use heyday_durable::engine::{PhaseStats, QueueStats};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Bounds of a duration's buckets, in seconds: from what an empty call takes to the
/// default timeout.
const SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 300.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    http_request_method: String,
    http_route: String,
    http_response_status_code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    queue: String,
    activity: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    queue: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    phase: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

/// What the process counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Histograms<RequestLabels>,
    attempts: Histograms<AttemptLabels>,
    waits: Histograms<QueueLabels>,
    limit: Family<QueueLabels, Gauge>,
    in_flight: Family<QueueLabels, Gauge>,
    depth: Family<QueueLabels, Gauge>,
    age: Family<QueueLabels, Gauge<f64, AtomicU64>>,
    phases: Family<PhaseLabels, Counter>,
    phase_time: Family<PhaseLabels, Counter<f64, AtomicU64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests: Histograms<RequestLabels> = Family::new_with_constructor(histogram);
        let attempts: Histograms<AttemptLabels> = Family::new_with_constructor(histogram);
        let waits: Histograms<QueueLabels> = Family::new_with_constructor(histogram);
        let (limit, in_flight, depth) = (Family::default(), Family::default(), Family::default());
        let age = Family::default();
        let (phases, phase_time) = (Family::default(), Family::default());
        registry.register_with_unit(
            "http_server_request_duration",
            "How long requests took",
            Unit::Seconds,
            requests.clone(),
        );
        registry.register_with_unit(
            "heyday_activity_attempt_duration",
            "How long attempts of activities ran",
            Unit::Seconds,
            attempts.clone(),
        );
        registry.register_with_unit(
            "heyday_queue_wait_duration",
            "How long attempts waited for a slot of their queue",
            Unit::Seconds,
            waits.clone(),
        );
        registry.register(
            "heyday_queue_limit",
            "Attempts that a queue runs at once",
            limit.clone(),
        );
        registry.register(
            "heyday_queue_in_flight",
            "Attempts that run",
            in_flight.clone(),
        );
        registry.register(
            "heyday_queue_depth",
            "Attempts that wait for a slot",
            depth.clone(),
        );
        registry.register_with_unit(
            "heyday_queue_age",
            "How long the oldest of them has waited",
            Unit::Seconds,
            age.clone(),
        );
        registry.register(
            "heyday_engine_phases",
            "How often the engine was in each phase of a transition's way",
            phases.clone(),
        );
        registry.register_with_unit(
            "heyday_engine_phase_time",
            "How long the engine was in each phase of a transition's way",
            Unit::Seconds,
            phase_time.clone(),
        );
        Self {
            registry,
            requests,
            attempts,
            waits,
            limit,
            in_flight,
            depth,
            age,
            phases,
            phase_time,
        }
    }
}

/// An attempt that runs.
#[derive(Debug)]
#[must_use = "an attempt is counted when it ends"]
pub struct RunningAttempt<'a> {
    metrics: &'a Metrics,
    queue: &'a str,
}

impl RunningAttempt<'_> {
    /// Counts it. `outcome` is one of a few words, not a kind that a plugin chose: each
    /// is a series of its own.
    pub fn ended(self, activity: &str, outcome: &'static str, ran: Duration) {
        let labels = AttemptLabels {
            queue: self.queue.to_owned(),
            activity: activity.to_owned(),
            outcome,
        };
        let attempts = self.metrics.attempts.get_or_create(&labels);
        attempts.observe(ran.as_secs_f64());
    }
}

impl Metrics {
    /// Counts a request. `route` is the template of its path.
    pub fn request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let labels = RequestLabels {
            http_request_method: method.to_owned(),
            http_route: route.to_owned(),
            http_response_status_code: status,
        };
        self.requests
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// An attempt got its slot, after so many microseconds in its queue.
    pub fn attempt_started<'a>(&'a self, queue: &'a str, queued_us: i64) -> RunningAttempt<'a> {
        let labels = QueueLabels {
            queue: queue.to_owned(),
        };
        // Negative where the clock was set back meanwhile.
        let waited = Duration::from_micros(u64::try_from(queued_us).unwrap_or_default());
        self.waits
            .get_or_create(&labels)
            .observe(waited.as_secs_f64());
        RunningAttempt {
            metrics: self,
            queue,
        }
    }

    /// All of it in the text format of OpenMetrics.
    ///
    /// # Errors
    /// When a label cannot be written.
    pub fn render(
        &self,
        queues: &[QueueStats],
        phases: &[PhaseStats],
    ) -> Result<String, fmt::Error> {
        for phase in phases {
            let labels = PhaseLabels { phase: phase.name };
            // The engine counts them; here they are shown.
            let count = self.phases.get_or_create(&labels);
            count.inner().store(phase.count, Ordering::Relaxed);
            let time = self.phase_time.get_or_create(&labels);
            let seconds = phase.total.as_secs_f64();
            time.inner().store(seconds.to_bits(), Ordering::Relaxed);
        }
        for queue in queues {
            let labels = QueueLabels {
                queue: queue.name.clone(),
            };
            let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
            self.limit.get_or_create(&labels).set(count(queue.limit));
            self.in_flight
                .get_or_create(&labels)
                .set(count(queue.in_flight));
            self.depth.get_or_create(&labels).set(count(queue.backlog));
            let age = Duration::from_millis(queue.backlog_age_ms);
            self.age.get_or_create(&labels).set(age.as_secs_f64());
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.request("GET", "/api/v1/queues", 200, Duration::from_millis(3));
        metrics.attempt_started("general-queue", 2_000).ended(
            "greet.hello",
            "timeout",
            Duration::from_secs(2),
        );
        let queue = QueueStats {
            name: "general-queue".to_owned(),
            limit: 50,
            in_flight: 2,
            backlog: 3,
            backlog_age_ms: 1500,
        };
        let phase = PhaseStats {
            name: "commit",
            count: 3,
            total: Duration::from_millis(1500),
        };
        let text = metrics.render(&[queue], &[phase]).expect("text");
        for line in [
            "http_server_request_duration_seconds_count{http_request_method=\"GET\",http_route=\"/api/v1/queues\",http_response_status_code=\"200\"} 1",
            "heyday_activity_attempt_duration_seconds_count{queue=\"general-queue\",activity=\"greet.hello\",outcome=\"timeout\"} 1",
            "heyday_queue_wait_duration_seconds_count{queue=\"general-queue\"} 1",
            "heyday_queue_depth{queue=\"general-queue\"} 3",
            "heyday_queue_age_seconds{queue=\"general-queue\"} 1.5",
            "heyday_engine_phases_total{phase=\"commit\"} 3",
            "heyday_engine_phase_time_seconds_total{phase=\"commit\"} 1.5",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
