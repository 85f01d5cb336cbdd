//! What `/metrics` shows: requests, attempts by queue and activity, queues.
//!
//! Names follow OpenTelemetry's semantic conventions as Prometheus writes them. What
//! queues, sandbox, writer and process are doing is asked when somebody looks
//! ([`Sources`]); requests and attempts are counted where they happen. Labels are of
//! bounded sets: routes are templates, methods and outcomes a few words, and of
//! activities the first [`ACTIVITIES`] have a name of their own.

mod asked;
mod process;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use asked::Sources;

/// So many activities are told apart; all further ones are [`OTHER`]. Each has up to a
/// histogram for each outcome, and who may upload may make names without end.
pub const ACTIVITIES: usize = 500;
/// So many namespaces are told apart, for the same reason.
pub const NAMESPACES: usize = 100;
/// So many models are told apart.
const MODELS: usize = 100;
/// The name of what has none of its own.
const OTHER: &str = "_OTHER";
/// What the server itself speaks; TLS is for what stands before it.
pub(crate) const URL_SCHEME: &str = "http";

/// Bounds of a duration's buckets, in seconds: from what an empty call takes to the
/// default timeout.
const SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 300.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    http_request_method: &'static str,
    url_scheme: &'static str,
    http_route: String,
    http_response_status_code: u16,
    #[prometheus(flatten)]
    failed: Failed,
}

/// `error_type` of a request that the server failed, and no label of any other.
type Failed = Vec<(&'static str, u16)>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActiveLabels {
    http_request_method: &'static str,
    url_scheme: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    namespace: String,
    queue: String,
    activity: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    namespace: String,
    queue: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    model: String,
    direction: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

/// The first so many names of a kind.
#[derive(Debug, Default)]
struct Known<const MOST: usize>(Mutex<HashSet<String>>);

impl<const MOST: usize> Known<MOST> {
    /// The name, or [`OTHER`] where there are too many.
    fn name(&self, name: &str) -> String {
        // A panic elsewhere leaves a set, which is never half changed.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(name) {
            return name.to_owned();
        }
        if known.len() >= MOST {
            return OTHER.to_owned();
        }
        known.insert(name.to_owned());
        name.to_owned()
    }
}

/// What the process counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Histograms<RequestLabels>,
    attempts: Histograms<AttemptLabels>,
    waits: Histograms<QueueLabels>,
    active: Family<ActiveLabels, Gauge>,
    tokens: Family<TokenLabels, Counter>,
    models: Known<MODELS>,
    activities: Known<ACTIVITIES>,
    namespaces: Known<NAMESPACES>,
    asked: asked::Asked,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests: Histograms<RequestLabels> = Family::new_with_constructor(histogram);
        let attempts: Histograms<AttemptLabels> = Family::new_with_constructor(histogram);
        let waits: Histograms<QueueLabels> = Family::new_with_constructor(histogram);
        let active = Family::<ActiveLabels, Gauge>::default();
        let tokens = Family::<TokenLabels, Counter>::default();
        let asked = asked::Asked::default();
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
            "http_server_active_requests",
            "Requests that are being answered",
            active.clone(),
        );
        registry.register(
            "heyday_api_model_tokens",
            "Tokens that models read and wrote for clients of the API",
            tokens.clone(),
        );
        registry.register(
            "heyday_build",
            "The version of this server",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register_collector(Box::new(asked.clone()));
        Self {
            registry,
            requests,
            attempts,
            waits,
            active,
            tokens,
            models: Known::default(),
            activities: Known::default(),
            namespaces: Known::default(),
            asked,
        }
    }
}

/// An attempt that runs.
#[derive(Debug)]
#[must_use = "an attempt is counted when it ends"]
pub struct RunningAttempt<'a> {
    metrics: &'a Metrics,
    namespace: String,
    queue: &'a str,
}

impl RunningAttempt<'_> {
    /// Counts it. `outcome` is one of a few words, not a kind that a plugin chose: each
    /// is a series of its own.
    pub fn ended(self, activity: &str, outcome: &'static str, ran: Duration) {
        let labels = AttemptLabels {
            namespace: self.namespace,
            queue: self.queue.to_owned(),
            activity: self.metrics.activities.name(activity),
            outcome,
        };
        let attempts = self.metrics.attempts.get_or_create(&labels);
        attempts.observe(ran.as_secs_f64());
    }
}

/// A request that is being answered.
#[derive(Debug)]
#[must_use = "a request is active as long as this lives"]
pub struct ActiveRequest(Gauge);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Asks these from now on; the first ones stay.
    pub fn ask(&self, sources: Sources) {
        // A second call would be a fault of the server's own, and changes nothing.
        let _ = self.asked.0.set(sources);
    }

    /// Counts a request as active. `method` is one of the known ones, or `_OTHER`.
    pub fn request_began(&self, method: &'static str) -> ActiveRequest {
        let active = self.active.get_or_create_owned(&ActiveLabels {
            http_request_method: method,
            url_scheme: URL_SCHEME,
        });
        active.inc();
        ActiveRequest(active)
    }

    /// Counts a request. `method` is one of the known ones, or `_OTHER`; `route` is the
    /// template of its path. What is a client's fault is none of the server's, as the
    /// semantic conventions say, and so has no `error_type`.
    pub fn request(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let failed = (500..600).contains(&status);
        let labels = RequestLabels {
            http_request_method: method,
            url_scheme: URL_SCHEME,
            http_route: route.to_owned(),
            http_response_status_code: status,
            failed: failed
                .then_some(("error_type", status))
                .into_iter()
                .collect(),
        };
        self.requests
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// A model read (`input`) or wrote (`output`) tokens for a client of the API.
    pub fn model_tokens(&self, model: &str, direction: &'static str, tokens: u64) {
        let labels = TokenLabels {
            model: self.models.name(model),
            direction,
        };
        self.tokens.get_or_create(&labels).inc_by(tokens);
    }

    /// An attempt of a namespace got its slot, after so many microseconds in its queue.
    pub fn attempt_started<'a>(
        &'a self,
        namespace: &str,
        queue: &'a str,
        queued_us: i64,
    ) -> RunningAttempt<'a> {
        let namespace = self.namespaces.name(namespace);
        let labels = QueueLabels {
            namespace: namespace.clone(),
            queue: queue.to_owned(),
        };
        // Negative where the clock was set back meanwhile.
        let waited = Duration::from_micros(u64::try_from(queued_us).unwrap_or_default());
        self.waits
            .get_or_create(&labels)
            .observe(waited.as_secs_f64());
        RunningAttempt {
            metrics: self,
            namespace,
            queue,
        }
    }

    /// All of it in the text format of OpenMetrics.
    ///
    /// # Errors
    /// When a label cannot be written.
    pub fn render(&self) -> Result<String, fmt::Error> {
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
        let running = metrics.attempt_started("default", "general-queue", 2_000);
        running.ended("greet.hello", "timeout", Duration::from_secs(2));
        metrics.model_tokens("minilm", "input", 7);
        let active = metrics.request_began("GET");
        let text = metrics.render().expect("text");
        drop(active);
        for line in [
            "http_server_request_duration_seconds_count{http_request_method=\"GET\",url_scheme=\"http\",http_route=\"/api/v1/queues\",http_response_status_code=\"200\"} 1",
            "heyday_activity_attempt_duration_seconds_count{namespace=\"default\",queue=\"general-queue\",activity=\"greet.hello\",outcome=\"timeout\"} 1",
            "heyday_queue_wait_duration_seconds_count{namespace=\"default\",queue=\"general-queue\"} 1",
            "heyday_api_model_tokens_total{model=\"minilm\",direction=\"input\"} 7",
            "http_server_active_requests{http_request_method=\"GET\",url_scheme=\"http\"} 1",
            concat!(
                "heyday_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        let text = metrics.render().expect("text");
        assert!(!text.contains("error_type"), "{text}");
        let idle = "http_server_active_requests{http_request_method=\"GET\",url_scheme=\"http\"} 0";
        assert!(text.contains(idle), "{text}");
    }

    #[test]
    fn a_request_that_the_server_failed_says_so() {
        let metrics = Metrics::default();
        for status in [404, 503] {
            metrics.request("POST", "/api/v1/flows", status, Duration::from_millis(3));
        }
        let text = metrics.render().expect("text");
        for labels in [
            "http_response_status_code=\"404\"} 1",
            "http_response_status_code=\"503\",error_type=\"503\"} 1",
        ] {
            let line = format!(
                "http_server_request_duration_seconds_count{{http_request_method=\"POST\",url_scheme=\"http\",http_route=\"/api/v1/flows\",{labels}"
            );
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn names_without_end_make_no_series_without_end() {
        let metrics = Metrics::default();
        for number in 0..ACTIVITIES + 100 {
            let running = metrics.attempt_started("default", "general-queue", 0);
            running.ended(&format!("p{number}.a"), "completed", Duration::ZERO);
        }
        let text = metrics.render().expect("text");
        let series = text
            .lines()
            .filter(|line| line.starts_with("heyday_activity_attempt_duration_seconds_count"));
        assert_eq!(series.count(), ACTIVITIES + 1);
        let other = "heyday_activity_attempt_duration_seconds_count{namespace=\"default\",queue=\"general-queue\",activity=\"_OTHER\",outcome=\"completed\"} 100";
        assert!(text.contains(other), "{text}");
        // The first ones keep their names.
        let running = metrics.attempt_started("default", "general-queue", 0);
        running.ended("p0.a", "completed", Duration::ZERO);
        let first = "activity=\"p0.a\",outcome=\"completed\"} 2";
        assert!(metrics.render().expect("text").contains(first));
    }
}
