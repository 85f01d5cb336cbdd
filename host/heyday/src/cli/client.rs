//! The client of the REST API that every command uses.
//!
//! A request goes through [`Client::send`]: it is sent, and sent again after a lost
//! connection only where that cannot do the work twice (GET, PUT, DELETE, and POST
//! with an Idempotency-Key). A server that was never reached is not waited for: the
//! first refused connection ends the command and says how to start one.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use indicatif::ProgressBar;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};
use url::Url;

use heyday::remote::{self, is_loopback};

use super::error::{CliError, Problem};

/// The header that names the namespace.
const NAMESPACE_HEADER: &str = "heyday-namespace";
/// The header that makes a POST repeatable.
const IDEMPOTENCY_HEADER: &str = "idempotency-key";
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take beyond what the request itself waits for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The slowest line that an upload has the time for, in bytes each second.
const SLOWEST: u64 = 64 << 10;
/// No server reads a body for longer.
const LONGEST_BODY: Duration = Duration::from_secs(300);
/// How long a repeatable request is repeated after its connection was lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same while waiting for a run: long enough for a server to be restarted.
const LONG_PATIENCE: Duration = Duration::from_secs(60);
/// Uploads are sent in pieces of this size, so that progress can be shown.
const UPLOAD_PIECE: usize = 64 * 1024;

/// What a request carries.
#[derive(Debug, Clone, Default)]
enum Body {
    #[default]
    None,
    Bytes {
        content_type: &'static str,
        bytes: Bytes,
        progress: Option<ProgressBar>,
    },
}

/// One request, as a command builds it.
#[derive(Debug, Clone)]
pub struct Request {
    method: Method,
    segments: Vec<String>,
    query: Vec<(&'static str, String)>,
    body: Body,
    idempotency_key: Option<String>,
    wait: Duration,
    patience: Duration,
}

impl Request {
    fn new(method: Method, segments: &[&str]) -> Self {
        Self {
            method,
            segments: segments
                .iter()
                .map(|segment| (*segment).to_owned())
                .collect(),
            query: Vec::new(),
            body: Body::None,
            idempotency_key: None,
            wait: Duration::ZERO,
            patience: PATIENCE,
        }
    }

    /// A GET of `/api/v1/` and these segments, which are percent-encoded.
    pub fn get(segments: &[&str]) -> Self {
        Self::new(Method::GET, segments)
    }

    /// A POST.
    pub fn post(segments: &[&str]) -> Self {
        Self::new(Method::POST, segments)
    }

    /// A PUT.
    pub fn put(segments: &[&str]) -> Self {
        Self::new(Method::PUT, segments)
    }

    /// A DELETE.
    pub fn delete(segments: &[&str]) -> Self {
        Self::new(Method::DELETE, segments)
    }

    /// Adds a query parameter.
    pub fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// Adds a query parameter where there is a value.
    pub fn query_if(self, name: &'static str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// Carries JSON.
    pub fn json(self, value: &impl Serialize) -> Self {
        // Values, raw JSON and maps with string keys cannot fail to be written.
        let text = serde_json::to_vec(value).unwrap_or_default();
        self.bytes("application/json", Bytes::from(text), None)
    }

    /// Carries bytes; the bar, if given, follows what was sent.
    pub fn bytes(
        mut self,
        content_type: &'static str,
        bytes: Bytes,
        progress: Option<ProgressBar>,
    ) -> Self {
        self.body = Body::Bytes {
            content_type,
            bytes,
            progress,
        };
        self
    }

    /// Makes a POST repeatable: with the caller's key, or one of our own.
    pub fn idempotent(mut self, key: Option<&str>) -> Self {
        self.idempotency_key =
            Some(key.map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned));
        self
    }

    /// Asks the server to wait so long for its answer (`?wait=`), and waits with it;
    /// a server that goes away meanwhile is given time to come back.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self.patience = LONG_PATIENCE;
        self.query("wait", super::input::duration_parameter(wait))
    }

    /// How long all of it may take: to be sent, done and answered.
    fn timeout(&self) -> Duration {
        let bytes = match &self.body {
            Body::None => 0,
            Body::Bytes { bytes, .. } => bytes.len() as u64,
        };
        let sent = Duration::from_secs(bytes / SLOWEST).min(LONGEST_BODY);
        ANSWER_TIMEOUT + self.wait + sent
    }

    fn repeatable(&self) -> bool {
        self.method != Method::POST || self.idempotency_key.is_some()
    }
}

/// A successful answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status: 2xx.
    pub status: StatusCode,
    /// Its body as it came.
    pub body: Bytes,
    server: String,
}

impl Answer {
    /// The body as JSON; null where there is none.
    pub fn json(&self) -> Result<Value, CliError> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body).map_err(|error| CliError::BadAnswer {
            server: self.server.clone(),
            cause: format!("{error}; is it a Heyday server?"),
        })
    }
}

/// A connection to one server.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    server: Url,
    token: Option<HeaderValue>,
    namespace: Option<HeaderValue>,
    /// Whether this process has reached the server before.
    reached: AtomicBool,
}

/// Reads `--server`.
pub fn server_url(text: &str) -> Result<Url, String> {
    // `localhost:8000` would parse as a URL of the scheme `localhost`.
    let whole = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let url = Url::parse(&whole)
        .map_err(|error| format!("{error}; give an address such as http://127.0.0.1:8000"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("{} is not http or https", url.scheme()));
    }
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err("the address may have a host, a port and a path, nothing else".to_owned());
    }
    Ok(url)
}

/// Reads a token file: one line.
pub fn read_token(path: &Path) -> std::io::Result<String> {
    Ok(std::fs::read_to_string(path)?.trim().to_owned())
}

/// Chooses the cryptography of TLS for the whole process; the first choice stays.
pub fn install_tls_provider() {
    // Fails only where a provider is installed already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl Client {
    /// A client; nothing is connected yet.
    pub fn new(
        server: Url,
        token: Option<&str>,
        namespace: Option<&str>,
    ) -> Result<Self, CliError> {
        let builder = remote::http(&server).connect_timeout(CONNECT_TIMEOUT);
        let http = builder.build().map_err(|error| {
            CliError::Other(anyhow::Error::new(error).context("no HTTP client can be made"))
        })?;
        let header = |what: &str, text: &str, secret: bool| {
            HeaderValue::from_str(text)
                .map(|mut value| {
                    value.set_sensitive(secret);
                    value
                })
                .map_err(|_| {
                    CliError::usage(format!(
                        "the {what} has characters that no HTTP header may have"
                    ))
                })
        };
        let token = token
            .map(|token| header("token", &format!("Bearer {token}"), true))
            .transpose()?;
        let namespace = namespace
            .map(|name| header("namespace", name, false))
            .transpose()?;
        Ok(Self {
            http,
            server,
            token,
            namespace,
            reached: AtomicBool::new(false),
        })
    }

    /// The server's address as given, for messages.
    pub fn server(&self) -> &str {
        self.server.as_str().trim_end_matches('/')
    }

    fn url(&self, segments: &[String], query: &[(&'static str, String)]) -> Result<Url, CliError> {
        let mut url = self.server.clone();
        for segment in segments {
            // A URL has no way to write these two as a segment.
            if segment == "." || segment == ".." || segment.is_empty() {
                return Err(CliError::usage(format!(
                    "{segment:?} cannot be part of an address; use another name"
                )));
            }
        }
        if let Ok(mut path) = url.path_segments_mut() {
            // http and https URLs always have a path.
            path.pop_if_empty().extend(segments);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    fn build(&self, request: &Request) -> Result<reqwest::RequestBuilder, CliError> {
        let segments: Vec<String> = match request.segments.first().map(String::as_str) {
            // The few resources outside of the versioned API.
            Some("health" | "metrics") => request.segments.clone(),
            _ => ["api", "v1"]
                .iter()
                .map(|part| (*part).to_owned())
                .chain(request.segments.clone())
                .collect(),
        };
        let url = self.url(&segments, &request.query)?;
        tracing::debug!(method = %request.method, %url, "request");
        let mut builder = self.http.request(request.method.clone(), url);
        if let Some(token) = &self.token {
            builder = builder.header(reqwest::header::AUTHORIZATION, token);
        }
        if let Some(namespace) = &self.namespace {
            builder = builder.header(NAMESPACE_HEADER, namespace);
        }
        if let Some(key) = &request.idempotency_key {
            builder = builder.header(IDEMPOTENCY_HEADER, key);
        }
        builder = match &request.body {
            Body::None => builder,
            Body::Bytes {
                content_type,
                bytes,
                progress,
            } => {
                let builder = builder.header(CONTENT_TYPE, *content_type);
                match progress {
                    None => builder.body(bytes.clone()),
                    Some(bar) => builder
                        .header(CONTENT_LENGTH, bytes.len())
                        .body(in_pieces(bytes.clone(), bar.clone())),
                }
            }
        };
        Ok(builder)
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// A problem document, an unreachable server, or a lost connection.
    pub async fn send(&self, request: &Request) -> Result<Answer, CliError> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(100);
        loop {
            let error = match self.send_once(request).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let may_repeat = request.repeatable()
                && self.reached.load(Ordering::Relaxed)
                && begun.elapsed() < request.patience
                && error.is_passing();
            if !may_repeat {
                return Err(error.into_error(self, request));
            }
            tracing::debug!(?error, "the request is repeated");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    async fn send_once(&self, request: &Request) -> Result<Answer, Attempt> {
        let builder = self.build(request).map_err(Attempt::Final)?;
        let response = builder
            .header(ACCEPT, "application/json, application/problem+json")
            .timeout(request.timeout())
            .send()
            .await
            .map_err(|error| self.lost(error))?;
        self.reached.store(true, Ordering::Relaxed);
        let status = response.status();
        let away = status == StatusCode::SERVICE_UNAVAILABLE
            && response.headers().contains_key(RETRY_AFTER);
        let body = response.bytes().await.map_err(Attempt::Lost)?;
        tracing::debug!(%status, bytes = body.len(), "answer");
        if status.is_success() {
            return Ok(Answer {
                status,
                body,
                server: self.server().to_owned(),
            });
        }
        let error = self.problem(status, &body);
        Err(if away {
            Attempt::Away(error)
        } else {
            Attempt::Final(error)
        })
    }

    fn lost(&self, error: reqwest::Error) -> Attempt {
        if error.is_connect() {
            Attempt::Refused(error)
        } else {
            self.reached.store(true, Ordering::Relaxed);
            Attempt::Lost(error)
        }
    }

    fn problem(&self, status: StatusCode, body: &[u8]) -> CliError {
        let document = match serde_json::from_slice::<Value>(body) {
            Ok(document @ Value::Object(_)) if document.get("title").is_some() => document,
            // Something between us and a Heyday server, or no Heyday server at all.
            _ => json!({
                "type": "about:blank",
                "title": format!("{} answered {status}", self.server()),
                "status": status.as_u16(),
                "detail": String::from_utf8_lossy(body).chars().take(500).collect::<String>(),
            }),
        };
        CliError::Problem(Box::new(Problem {
            status: status.as_u16(),
            document,
        }))
    }

    /// Opens a stream of server-sent events that goes on after that event.
    ///
    /// # Errors
    /// As [`send`](Self::send); nothing is repeated.
    pub async fn stream(
        &self,
        request: &Request,
        last_event_id: Option<&str>,
    ) -> Result<reqwest::Response, CliError> {
        let mut builder = self.build(request)?.header(ACCEPT, "text/event-stream");
        if let Some(id) = last_event_id {
            builder = builder.header("last-event-id", id);
        }
        let response = builder
            .send()
            .await
            .map_err(|error| self.lost(error).into_error(self, request))?;
        self.reached.store(true, Ordering::Relaxed);
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response
            .bytes()
            .await
            .map_err(|error| Attempt::Lost(error).into_error(self, request))?;
        Err(self.problem(status, &body))
    }
}

/// How one try of a request failed.
#[derive(Debug)]
enum Attempt {
    /// No connection was made: the server did nothing.
    Refused(reqwest::Error),
    /// The connection ended before the answer: the server may have done it.
    Lost(reqwest::Error),
    /// The server cannot do it now, did nothing, and says when to ask again.
    Away(CliError),
    /// Another try would answer the same.
    Final(CliError),
}

impl Attempt {
    fn is_passing(&self) -> bool {
        !matches!(self, Self::Final(_))
    }

    fn into_error(self, client: &Client, request: &Request) -> CliError {
        match self {
            Self::Final(error) | Self::Away(error) => error,
            Self::Refused(error) => CliError::Unreachable {
                server: client.server().to_owned(),
                cause: innermost(&error),
                help: if is_loopback(&client.server) {
                    "start one with `heyday up`, or give another address with --server URL (or HEYDAY_SERVER)"
                } else {
                    "is the address right (--server URL, HEYDAY_SERVER), and the server up?"
                }
                .to_owned(),
            },
            Self::Lost(error) => CliError::ConnectionLost {
                server: client.server().to_owned(),
                cause: innermost(&error),
                help: if request.repeatable() {
                    "the same command may be given again"
                } else {
                    "the server may have done it: look before you give the same command again"
                }
                .to_owned(),
            },
        }
    }
}

/// What the operating system said, below reqwest's own words.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// A request's body in pieces, each counted as it is handed over.
fn in_pieces(bytes: Bytes, bar: ProgressBar) -> reqwest::Body {
    bar.set_position(0);
    let pieces = (0..bytes.len()).step_by(UPLOAD_PIECE).map(move |from| {
        let piece = bytes.slice(from..bytes.len().min(from + UPLOAD_PIECE));
        bar.inc(piece.len() as u64);
        Ok::<_, std::convert::Infallible>(piece)
    });
    reqwest::Body::wrap_stream(futures::stream::iter(pieces))
}

#[cfg(test)]
mod tests;
