//! Logs and traces of the process.
//!
//! [`install`] sets one subscriber for the process: log lines on stderr, and, where an
//! OTLP endpoint is configured, spans sent to it in batches. A request's span continues
//! the trace of its `traceparent` header ([`set_parent`]); a run records the span that
//! started it, the span of each of its transitions continues that one, an attempt's
//! continues that of its transition, and host calls are below their attempt: one trace,
//! also over a restart. Names are OpenTelemetry's semantic conventions where there are
//! any; our own begin with `heyday.`. Statements, inputs, results and secrets are in no
//! span.
//!
//! Spans of requests and attempts are INFO and so name the origin of log lines too;
//! those of transitions and host calls are DEBUG and exist only for a collector (or
//! with `-v`). A collector that cannot be reached is said once, and again when it is
//! back; what was to be sent meanwhile is lost, and nobody waits for it.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::Handle;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// How long sending one batch of spans may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// What is logged, and where traces go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TelemetryOptions {
    /// What is logged, in the form of `RUST_LOG`; `warn,heyday=info` where absent.
    pub filter: Option<String>,
    /// Log lines as JSON.
    pub json: bool,
    /// Base address of an OTLP/HTTP collector (`http://127.0.0.1:4318`); without one,
    /// no traces are sent.
    pub otlp_endpoint: Option<String>,
}

/// Why telemetry cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("the log filter {filter:?} is invalid: {message}")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        message: String,
    },
    /// The exporter of traces cannot be made.
    #[error("traces cannot be sent to {endpoint:?}: {message}")]
    Exporter {
        /// Where to.
        endpoint: String,
        /// Why not.
        message: String,
    },
    /// The process has a subscriber already.
    #[error("telemetry is set up already")]
    Twice,
}

/// Sends what is left when it is shut down.
#[derive(Debug, Default)]
#[must_use = "spans that were not sent yet are lost without it"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sends what is left. Blocking; at most a few seconds.
    pub fn shutdown(self) {
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// Sets the process's subscriber.
///
/// # Errors
/// When the filter or the endpoint is unusable, or at a second call.
pub fn install(options: &TelemetryOptions) -> Result<Telemetry, TelemetryError> {
    let text = options
        .filter
        .clone()
        .unwrap_or_else(|| "warn,heyday=info".to_owned());
    let filter = EnvFilter::try_new(&text).map_err(|error| TelemetryError::Filter {
        filter: text,
        message: error.to_string(),
    })?;
    let lines = if options.json {
        tracing_subscriber::fmt::layer()
            .json()
            .with_writer(std::io::stderr)
            .boxed()
    } else {
        let colours = std::io::stderr().is_terminal();
        tracing_subscriber::fmt::layer()
            .with_writer(move || OneLine::new(std::io::stderr(), colours))
            .with_ansi(colours)
            .boxed()
    };
    let provider = options.otlp_endpoint.as_deref().map(exporter).transpose()?;
    let spans = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("heyday"))
            // Our own spans are the trace; those of libraries are noise in it. With a
            // level, so that what a library traces (a compiler does, at each
            // instruction) costs nothing.
            .with_filter(Targets::new().with_target("heyday", LevelFilter::DEBUG))
    });
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(spans)
        .try_init()
        .map_err(|_| TelemetryError::Twice)?;
    Ok(Telemetry { provider })
}

fn exporter(endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let failed = |message: String| TelemetryError::Exporter {
        endpoint: endpoint.to_owned(),
        message,
    };
    let base: url::Url = endpoint
        .parse()
        .map_err(|error: url::ParseError| failed(error.to_string()))?;
    if !matches!(base.scheme(), "http" | "https") {
        return Err(failed("the address is not http or https".to_owned()));
    }
    let runtime = Handle::try_current().map_err(|error| failed(error.to_string()))?;
    let mut client = reqwest::Client::builder()
        .timeout(EXPORT_TIMEOUT)
        // Spans go where they were sent, and nowhere else.
        .redirect(reqwest::redirect::Policy::none());
    if base.scheme() == "http" {
        // No TLS: do without the system's certificates, which a bare machine lacks.
        client = client.tls_certs_only([]);
    }
    let client = client.build().map_err(|error| failed(error.to_string()))?;
    let traces = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(traces)
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let mut resource = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("heyday");
    }
    let resource = resource.build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(OnRuntime {
            exporter: Arc::new(exporter),
            runtime,
            endpoint: endpoint.to_owned(),
            failing: AtomicBool::new(false),
        })
        .with_resource(resource)
        .build())
}

/// Sends from the runtime: the processor's own thread has no reactor.
#[derive(Debug)]
struct OnRuntime {
    exporter: Arc<opentelemetry_otlp::SpanExporter>,
    runtime: Handle,
    endpoint: String,
    failing: AtomicBool,
}

impl SpanExporter for OnRuntime {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exporter = Arc::clone(&self.exporter);
        let sent = self
            .runtime
            .spawn(async move { exporter.export(batch).await })
            .await
            .unwrap_or_else(|error| Err(OTelSdkError::InternalFailure(error.to_string())));
        let endpoint = self.endpoint.as_str();
        match &sent {
            Ok(()) if self.failing.swap(false, Ordering::Relaxed) => {
                tracing::info!(endpoint, "traces are sent again");
            }
            // Said once, not with each batch.
            Err(error) if !self.failing.swap(true, Ordering::Relaxed) => {
                tracing::warn!(
                    endpoint,
                    %error,
                    "traces cannot be sent; those of this time are lost"
                );
            }
            _ => {}
        }
        sent
    }

    fn set_resource(&mut self, resource: &Resource) {
        // Nothing is sent before: nobody else has it yet.
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}

/// Keeps each log line one line: whatever a plugin, a caller or a flow named is written
/// with its control characters as `\n` and `\u{1b}`, so that it can neither add lines of
/// its own nor drive the terminal. The subscriber writes a line at once.
struct OneLine<W> {
    to: W,
    /// Whether escape sequences are the subscriber's own; it escapes those of values.
    colours: bool,
}

impl<W> OneLine<W> {
    const fn new(to: W, colours: bool) -> Self {
        Self { to, colours }
    }
}

impl<W: std::io::Write> std::io::Write for OneLine<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let (line, end) = match text.strip_suffix('\n') {
            Some(line) => (line, "\n"),
            None => (&*text, ""),
        };
        let colours = self.colours;
        let harmful = |c: char| {
            (c.is_control() && c != '\t' && !(colours && c == '\u{1b}'))
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        if line.contains(harmful) {
            let mut clean = String::with_capacity(text.len() + 16);
            for c in line.chars() {
                if harmful(c) {
                    clean.extend(c.escape_default());
                } else {
                    clean.push(c);
                }
            }
            clean.push_str(end);
            self.to.write_all(clean.as_bytes())?;
        } else {
            self.to.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// Makes a span a child of the trace that `traceparent` names; without effect where
/// that is none, or no traces are recorded.
pub fn set_parent(span: &tracing::Span, traceparent: Option<&str>) {
    if let Some(context) = traceparent.and_then(parse) {
        // Fails only where no traces are recorded.
        let _ = span.set_parent(Context::new().with_remote_span_context(context));
    }
}

/// The current span as W3C trace context; none where no traces are recorded.
#[must_use]
pub fn current_traceparent() -> Option<String> {
    traceparent(&tracing::Span::current())
}

/// A span as W3C trace context; none where no traces are recorded.
#[must_use]
pub fn traceparent(span: &tracing::Span) -> Option<String> {
    let context = span.context();
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| {
        format!(
            "00-{}-{}-{:02x}",
            span.trace_id(),
            span.span_id(),
            span.trace_flags().to_u8()
        )
    })
}

/// Whether the text is a W3C `traceparent`.
#[must_use]
pub fn is_traceparent(text: &str) -> bool {
    parse(text).is_some()
}

fn parse(text: &str) -> Option<SpanContext> {
    let lower = |part: &str, length: usize| {
        part.len() == length
            && part
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let mut parts = text.trim().split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // A later version may have more parts; version ff is invalid for ever.
    let further = version == "00" && parts.next().is_some();
    if further
        || version == "ff"
        || !lower(version, 2)
        || !lower(trace, 32)
        || !lower(span, 16)
        || !lower(flags, 2)
    {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::NONE,
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_context_is_read_as_w3c_says() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(good));
        let newer = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(is_traceparent(newer));
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert!(!is_traceparent(wrong), "{wrong}");
        }
    }

    #[test]
    fn without_traces_there_is_no_context() {
        assert_eq!(current_traceparent(), None);
    }

    #[test]
    fn a_log_line_stays_one_line() {
        use std::io::Write as _;
        let written = |text: &str, colours| {
            let mut to = Vec::new();
            OneLine::new(&mut to, colours)
                .write_all(text.as_bytes())
                .expect("written");
            String::from_utf8(to).expect("text")
        };
        assert_eq!(written("plain ä\n", false), "plain ä\n");
        assert_eq!(
            written("a\nINFO forged\r\u{1b}[2J\u{9b}1m\u{202e}\n", false),
            "a\\nINFO forged\\r\\u{1b}[2J\\u{9b}1m\\u{202e}\n"
        );
        assert_eq!(
            written("\u{1b}[32mINFO\u{1b}[0m a\nb\n", true),
            "\u{1b}[32mINFO\u{1b}[0m a\\nb\n"
        );
    }

    #[test]
    fn an_endpoint_must_be_an_address() {
        for wrong in ["localhost:4318", "not an address", "ftp://host"] {
            assert!(
                matches!(exporter(wrong), Err(TelemetryError::Exporter { .. })),
                "{wrong}"
            );
        }
    }
}
