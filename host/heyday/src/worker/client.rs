//! Requests to the server. Each may be made again: reads, values by their digest, and
//! batches that are numbered.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::api::extract::NAMESPACE_HEADER;
use crate::remote;

/// How long a connection may take to be made.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// A request is made again for so long while the server is away: an attempt that needs it
/// has a timeout of its own.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Why the server did not answer what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// It cannot be reached, or cannot do it now.
    #[error("the server {server} cannot be reached: {cause}")]
    Away {
        /// Its address.
        server: String,
        /// Why.
        cause: String,
    },
    /// The token is not good, or not for this.
    #[error("the server {server} does not take the token: {detail}")]
    Token {
        /// Its address.
        server: String,
        /// The HTTP status: 401, or 403 where the token does not open a namespace.
        status: u16,
        /// What it says.
        detail: String,
    },
    /// What was asked for does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The request was refused for another reason.
    #[error("the server {server} refused a request ({status}): {detail}")]
    Refused {
        /// Its address.
        server: String,
        /// The HTTP status.
        status: u16,
        /// What it says.
        detail: String,
    },
    /// The answer is not what was asked for.
    #[error("the server {server} answered something else: {cause}; is it a Heyday server?")]
    Answer {
        /// Its address.
        server: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The client cannot be made.
    #[error("no HTTP client can be made: {0}")]
    Client(String),
}

impl ServerError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Away { .. })
    }

    /// Whether what was sent would be refused whenever and by whichever server: it is wrong
    /// itself, or too much.
    #[must_use]
    pub const fn is_for_what_was_sent(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                status: 400 | 413 | 415 | 422,
                ..
            }
        )
    }

    /// Whether the token is good, but does not open what was asked for.
    #[must_use]
    pub const fn is_not_opened(&self) -> bool {
        matches!(self, Self::Token { status: 403, .. })
    }
}

/// A client of one server, with a worker's token.
#[derive(Debug, Clone)]
pub struct ServerClient {
    http: reqwest::Client,
    server: Url,
    token: HeaderValue,
    patience: Duration,
}

impl ServerClient {
    /// A client; nothing is connected yet.
    ///
    /// # Errors
    /// When the token has characters that no header may have, or TLS cannot be set up.
    pub fn new(server: Url, token: &str) -> Result<Self, ServerError> {
        let http = remote::http(&server)
            .connect_timeout(CONNECT_TIME)
            .build()
            .map_err(|error| ServerError::Client(cause(&error)))?;
        let mut token = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
            ServerError::Client("the token has characters that no HTTP header may have".to_owned())
        })?;
        token.set_sensitive(true);
        Ok(Self {
            http,
            server,
            token,
            patience: PATIENCE,
        })
    }

    /// The server's address, for messages.
    #[must_use]
    pub fn server(&self) -> &str {
        self.server.as_str().trim_end_matches('/')
    }

    /// The same, which asks once.
    #[must_use]
    pub fn impatient(&self) -> Self {
        Self {
            patience: Duration::ZERO,
            ..self.clone()
        }
    }

    fn request(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
    ) -> reqwest::RequestBuilder {
        let mut url = self.server.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            // http and https URLs always have a path.
            segments.pop_if_empty().extend(["api", "v1", "worker"]);
            segments.extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.http
            .request(method, url)
            .header(AUTHORIZATION, self.token.clone())
    }

    /// Opens the stream of news, after that revision.
    ///
    /// # Errors
    /// As [`ServerError`] says; nothing is tried again.
    pub async fn stream(
        &self,
        namespaces: &[String],
        keep_alive: Duration,
        after: Option<&str>,
    ) -> Result<reqwest::Response, ServerError> {
        let query = [
            ("namespaces", namespaces.join(",")),
            ("keep_alive_ms", keep_alive.as_millis().to_string()),
        ];
        let mut request = self
            .request(Method::GET, &["stream"], &query)
            .header(ACCEPT, "text/event-stream");
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        // Until the answer begins; the stream itself has no end.
        let answer = tokio::time::timeout(ANSWER_TIME, request.send()).await;
        let answer = answer.map_err(|_| self.away("it does not answer"))?;
        let answer = answer.map_err(|error| self.away(&cause(&error)))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body = answer.bytes().await.unwrap_or_default();
        Err(self.refused(status, &body))
    }

    /// Sends a request until it is answered, as long as the server is patiently waited for.
    async fn send(
        &self,
        request: impl Fn() -> reqwest::RequestBuilder,
    ) -> Result<Bytes, ServerError> {
        let begun = Instant::now();
        let mut wait = Duration::from_millis(50);
        loop {
            let error = match self.send_once(request()).await {
                Err(error) if error.is_passing() => error,
                other => return other,
            };
            if begun.elapsed() + wait > self.patience {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn send_once(&self, request: reqwest::RequestBuilder) -> Result<Bytes, ServerError> {
        let answer = request
            .timeout(ANSWER_TIME)
            .send()
            .await
            .map_err(|error| self.away(&cause(&error)))?;
        let status = answer.status();
        let body = answer
            .bytes()
            .await
            .map_err(|error| self.away(&cause(&error)))?;
        if status.is_success() {
            Ok(body)
        } else {
            Err(self.refused(status, &body))
        }
    }

    /// GET of bytes.
    ///
    /// # Errors
    /// As [`ServerError`] says; so for all functions here.
    pub async fn get(&self, namespace: &str, path: &[&str]) -> Result<Bytes, ServerError> {
        self.send(|| {
            self.request(Method::GET, path, &[])
                .header(NAMESPACE_HEADER, namespace)
        })
        .await
    }

    /// GET of JSON.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_json<T: DeserializeOwned>(
        &self,
        namespace: &str,
        path: &[&str],
    ) -> Result<T, ServerError> {
        self.read(&self.get(namespace, path).await?)
    }

    /// POST of JSON, answered with JSON.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn post<T: DeserializeOwned>(
        &self,
        namespace: &str,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<T, ServerError> {
        let text = serde_json::to_vec(body).map_err(|error| self.answer(&error.to_string()))?;
        let text = Bytes::from(text);
        let answer = self
            .send(|| {
                self.request(Method::POST, path, &[])
                    .header(NAMESPACE_HEADER, namespace)
                    .header(CONTENT_TYPE, "application/json")
                    .body(text.clone())
            })
            .await?;
        self.read(if answer.is_empty() { b"null" } else { &answer })
    }

    /// PUT of bytes.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn put(
        &self,
        namespace: &str,
        path: &[&str],
        bytes: Bytes,
    ) -> Result<(), ServerError> {
        self.send(|| {
            self.request(Method::PUT, path, &[])
                .header(NAMESPACE_HEADER, namespace)
                .header(CONTENT_TYPE, "application/octet-stream")
                .body(bytes.clone())
        })
        .await
        .map(drop)
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ServerError> {
        serde_json::from_slice(body).map_err(|error| self.answer(&error.to_string()))
    }

    fn away(&self, cause: &str) -> ServerError {
        ServerError::Away {
            server: self.server().to_owned(),
            cause: cause.to_owned(),
        }
    }

    /// An answer that is not what was asked for.
    pub(super) fn answer(&self, cause: &str) -> ServerError {
        ServerError::Answer {
            server: self.server().to_owned(),
            cause: cause.to_owned(),
        }
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> ServerError {
        let problem: Option<serde_json::Value> = serde_json::from_slice(body).ok();
        let detail = problem
            .as_ref()
            .and_then(|problem| problem.get("detail")?.as_str())
            .unwrap_or("it says nothing")
            .to_owned();
        let server = self.server().to_owned();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ServerError::Token {
                server,
                status: status.as_u16(),
                detail,
            },
            StatusCode::NOT_FOUND if problem.is_some() => ServerError::NotFound(detail),
            // What is between the two says so too while the server is away.
            StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::BAD_GATEWAY
            | StatusCode::GATEWAY_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS => ServerError::Away {
                server,
                cause: detail,
            },
            status => ServerError::Refused {
                server,
                status: status.as_u16(),
                detail,
            },
        }
    }
}

/// What the operating system said, below reqwest's own words.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
