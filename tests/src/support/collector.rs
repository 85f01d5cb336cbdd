//! A collector of traces: OTLP over HTTP, protobuf, on a real socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::sync::watch;

use super::server::PATIENCE;

/// A collector; ends with the runtime.
pub struct Collector {
    address: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    spans: watch::Sender<Vec<Span>>,
    /// Refuses what comes.
    closed: AtomicBool,
    refused: watch::Sender<usize>,
}

impl Collector {
    /// Starts one.
    pub async fn start() -> anyhow::Result<Self> {
        let inner = Arc::new(Inner {
            spans: watch::Sender::new(Vec::new()),
            closed: AtomicBool::new(false),
            refused: watch::Sender::new(0),
        });
        let router = Router::new()
            .route("/v1/traces", post(collect))
            .with_state(Arc::clone(&inner));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, inner })
    }

    /// Refuses what comes, or takes it again.
    pub fn close(&self, closed: bool) {
        self.inner.closed.store(closed, Ordering::SeqCst);
    }

    /// Waits until it has refused so many batches.
    pub async fn refused(&self, batches: usize) -> anyhow::Result<()> {
        let mut refused = self.inner.refused.subscribe();
        let enough = refused.wait_for(|refused| *refused >= batches);
        tokio::time::timeout(PATIENCE, enough).await??;
        Ok(())
    }

    /// The settings of a server that sends its traces here, soon.
    pub fn environment(&self) -> Vec<(String, String)> {
        vec![
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(),
                format!("http://{}", self.address),
            ),
            ("OTEL_BSP_SCHEDULE_DELAY".to_owned(), "50".to_owned()),
            // More host calls than these in one batch's time are lost otherwise.
            ("OTEL_BSP_MAX_QUEUE_SIZE".to_owned(), "100000".to_owned()),
        ]
    }

    /// Waits until what came so far is enough, and answers it.
    pub async fn wait_for(&self, enough: impl Fn(&[Span]) -> bool) -> anyhow::Result<Vec<Span>> {
        let mut spans = self.inner.spans.subscribe();
        let waited = tokio::time::timeout(PATIENCE, spans.wait_for(|spans| enough(spans))).await;
        match waited {
            Ok(spans) => Ok(spans.context("the collector has ended")?.clone()),
            Err(_) => {
                let spans = self.inner.spans.borrow();
                let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
                anyhow::bail!("these spans are not enough: {names:#?}")
            }
        }
    }
}

async fn collect(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if inner.closed.load(Ordering::SeqCst) {
        inner.refused.send_modify(|refused| *refused += 1);
        // For good: the same batch is not sent again.
        return StatusCode::BAD_REQUEST;
    }
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let request = ExportTraceServiceRequest::decode(body).expect("protobuf of OTLP");
    inner.spans.send_modify(|spans| {
        for resource in request.resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let service = attributes.iter().find(|a| a.key == "service.name");
            let value = service.and_then(|a| a.value.clone()?.value);
            assert_eq!(value, Some(Value::StringValue("heyday".to_owned())));
            spans.extend(
                resource
                    .scope_spans
                    .into_iter()
                    .flat_map(|scope| scope.spans),
            );
        }
    });
    StatusCode::OK
}

/// An attribute of a span, as text.
pub fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|a| a.key == key)?;
    Some(match found.value.clone()?.value? {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(value) => value.to_string(),
        other => format!("{other:?}"),
    })
}
