//! Sends requests that a policy allows.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, redirect};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::HttpError;
use super::address::is_public;
use super::policy::{HttpPolicy, Reach, literal};
use crate::error::chain;

/// Limits of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the response's body.
    pub response_bytes: u64,
    /// From the call to the last byte of the response, redirects included.
    pub timeout: Duration,
    /// Redirects that are followed; the response of the next is the answer of the
    /// caller who allows none.
    pub redirects: u32,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            request_bytes: 16 << 20,
            response_bytes: 16 << 20,
            timeout: Duration::from_secs(60),
            redirects: 10,
        }
    }
}

/// A request with a body that may still be in the making, as [`HttpClient::send`] takes it.
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: reqwest::Body,
}

/// A request.
#[derive(Debug, Clone)]
pub struct HttpRequest {
    /// Its method, in upper case.
    pub method: String,
    /// An absolute URL, `http` or `https`.
    pub url: String,
    /// Headers, in order; `host`, `content-length` and those of a connection are set
    /// by the host and refused here.
    pub headers: Vec<(String, String)>,
    /// Its body; empty for none.
    pub body: Bytes,
}

/// A response, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    /// The status.
    pub status: u16,
    /// The URL that answered, after redirects.
    pub url: String,
    /// Headers, in order; bytes that are no text are replaced.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// Counters of a receipt: `http.calls`, `http.bytes_read`, `http.bytes_written`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HttpUsage {
    /// Requests that the policy allows, redirects included, whatever came of them.
    pub calls: u64,
    /// Bytes of the response's body that came.
    pub bytes_read: u64,
    /// Bytes of the bodies of requests. Of a call that was given up while it sent one, all of
    /// it; of a request for which there was no connection, none.
    pub bytes_written: u64,
}

impl HttpUsage {
    /// By the names that receipts use.
    #[must_use]
    pub const fn counters(&self) -> [(&'static str, u64); 3] {
        [
            ("http.calls", self.calls),
            ("http.bytes_read", self.bytes_read),
            ("http.bytes_written", self.bytes_written),
        ]
    }
}

/// Sends requests; one for the whole process keeps connections alive.
#[derive(Debug, Clone)]
pub struct HttpClient {
    public: reqwest::Client,
    named: reqwest::Client,
}

impl HttpClient {
    /// Makes a client. It takes the process's TLS provider, or else sets it to ring's.
    ///
    /// # Errors
    /// When TLS cannot be set up: no certificates of authorities on this machine.
    pub fn new() -> Result<Self, HttpError> {
        Self::with_lookup(Arc::new(|name| {
            Box::pin(async move {
                let found = tokio::net::lookup_host((name.as_str(), 0)).await;
                found
                    .map(Iterator::collect)
                    .map_err(|_| ResolveError::Unknown)
            })
        }))
    }

    fn with_lookup(lookup: Lookup) -> Result<Self, HttpError> {
        // Fails only where another part of the process chose one, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let build = |reach| {
            reqwest::Client::builder()
                .dns_resolver(CheckedResolver {
                    reach,
                    lookup: Arc::clone(&lookup),
                })
                .redirect(redirect::Policy::none())
                .referer(false)
                // A proxy would be the one that resolves.
                .no_proxy()
                .connect_timeout(Duration::from_secs(10))
                .pool_idle_timeout(Duration::from_secs(30))
                .user_agent(concat!("heyday/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(|error| HttpError::Connect(chain(&error)))
        };
        Ok(Self {
            public: build(Reach::Public)?,
            named: build(Reach::Named)?,
        })
    }

    /// Sends a request and reads its response. `usage` grows while it does so: it is true
    /// also of a call that fails, or whose future is dropped.
    ///
    /// # Errors
    /// Why there is no response; a status is none.
    pub async fn call(
        &self,
        request: HttpRequest,
        policy: &HttpPolicy,
        limits: &HttpLimits,
        deadline: Instant,
        cancellation: &CancellationToken,
        usage: &mut HttpUsage,
    ) -> Result<HttpResponse, HttpError> {
        let until = deadline.min(Instant::now() + limits.timeout);
        tokio::select! {
            biased;
            () = cancellation.cancelled() => Err(HttpError::Cancelled),
            outcome = tokio::time::timeout_at(
                until.into(),
                self.follow(request, policy, limits, usage),
            ) => {
                outcome.unwrap_or(Err(HttpError::Timeout))
            }
        }
    }

    async fn follow(
        &self,
        request: HttpRequest,
        policy: &HttpPolicy,
        limits: &HttpLimits,
        usage: &mut HttpUsage,
    ) -> Result<HttpResponse, HttpError> {
        let mut url = parse_url(&request.url)?;
        let mut method = request
            .method
            .parse::<Method>()
            .map_err(|_| HttpError::InvalidRequest(format!("the method {}", request.method)))?;
        let mut headers = parse_headers(&request.headers)?;
        let mut body = request.body;
        if body.len() as u64 > limits.request_bytes {
            return Err(HttpError::TooLarge(limits.request_bytes));
        }
        let mut redirects = 0;
        loop {
            let request = self
                .client(policy, &method, &url)?
                .request(method.clone(), url.clone())
                .headers(headers.clone())
                .body(body.clone());
            usage.calls += 1;
            usage.bytes_written += body.len() as u64;
            let response = request.send().await.map_err(|error| {
                if error.is_connect() {
                    // Nothing of it left.
                    usage.bytes_written -= body.len() as u64;
                }
                translate(&error, &url)
            })?;
            let status = response.status();
            let target = match redirect_target(&response, &url)? {
                Some(target) if limits.redirects > 0 => target,
                _ => return read(response, url, limits, usage).await,
            };
            redirects += 1;
            if redirects > limits.redirects {
                return Err(HttpError::Redirect(format!(
                    "there were more than {}",
                    limits.redirects
                )));
            }
            if url.origin() != target.origin() {
                headers = for_another_origin(&headers);
            }
            let becomes_get = status == StatusCode::SEE_OTHER
                || (matches!(status, StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND)
                    && method == Method::POST);
            if becomes_get && method != Method::HEAD {
                method = Method::GET;
                body = Bytes::new();
                headers.remove(header::CONTENT_TYPE);
            }
            url = target;
        }
    }

    /// Sends one request, if the policy allows it; a redirect is an answer. How long it may
    /// take is the caller's matter.
    pub(super) async fn send(
        &self,
        request: Outgoing,
        policy: &HttpPolicy,
    ) -> Result<reqwest::Response, HttpError> {
        let Outgoing {
            method,
            url,
            headers,
            body,
        } = request;
        let client = self.client(policy, &method, &url)?;
        let request = client.request(method, url.clone());
        let sent = request.headers(headers).body(body).send();
        sent.await.map_err(|error| translate(&error, &url))
    }

    fn client(
        &self,
        policy: &HttpPolicy,
        method: &Method,
        url: &Url,
    ) -> Result<&reqwest::Client, HttpError> {
        let host = url.host_str().unwrap_or_default();
        let reach = policy.reach(method, url).ok_or_else(|| {
            HttpError::Denied(format!(
                "no grant allows {method} on {host}: grant http={method}:{}",
                url.port()
                    .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
            ))
        })?;
        match (reach, literal(url)) {
            (Reach::Public, Some(address)) if !is_public(address) => Err(denied_address(host)),
            (Reach::Public, _) => Ok(&self.public),
            (Reach::Named, _) => Ok(&self.named),
        }
    }
}

fn denied_address(host: &str) -> HttpError {
    HttpError::NotPublic(format!(
        "{host} is no public address: a grant must name the address itself"
    ))
}

fn parse_url(text: &str) -> Result<Url, HttpError> {
    let url =
        Url::parse(text).map_err(|error| HttpError::InvalidRequest(format!("the URL: {error}")))?;
    check_url(&url)?;
    Ok(url)
}

/// Checks that a URL is one of HTTP, and names no user.
pub(super) fn check_url(url: &Url) -> Result<(), HttpError> {
    let why = if !matches!(url.scheme(), "http" | "https") {
        "a URL begins with http:// or https://"
    } else if url.host().is_none() {
        "the URL has no host"
    } else if !url.username().is_empty() || url.password().is_some() {
        "a URL holds no user and password: use the header `authorization`"
    } else {
        return Ok(());
    };
    Err(HttpError::InvalidRequest(why.into()))
}

fn parse_headers(headers: &[(String, String)]) -> Result<HeaderMap, HttpError> {
    let mut parsed = HeaderMap::new();
    for (name, value) in headers {
        let invalid = || HttpError::InvalidRequest(format!("the header {name}"));
        let name = HeaderName::try_from(name.as_str()).map_err(|_| invalid())?;
        let value = HeaderValue::try_from(value.as_str()).map_err(|_| invalid())?;
        let of_the_host = matches!(
            name.as_str(),
            "host"
                | "content-length"
                | "connection"
                | "keep-alive"
                | "proxy-connection"
                | "proxy-authorization"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
        );
        if of_the_host {
            return Err(HttpError::InvalidRequest(format!(
                "the header {name} is set by the host"
            )));
        }
        parsed.append(name, value);
    }
    Ok(parsed)
}

/// Of a request's headers those that go with a redirect to another origin, which its caller did
/// not address: what describes the answer and the body. Any other may hold a secret, whatever its
/// name is.
fn for_another_origin(headers: &HeaderMap) -> HeaderMap {
    let known = [
        header::ACCEPT,
        header::ACCEPT_ENCODING,
        header::ACCEPT_LANGUAGE,
        header::CONTENT_ENCODING,
        header::CONTENT_LANGUAGE,
        header::CONTENT_TYPE,
        header::USER_AGENT,
    ];
    let mut kept = HeaderMap::new();
    for (name, value) in headers {
        if known.contains(name) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

fn redirect_target(response: &reqwest::Response, url: &Url) -> Result<Option<Url>, HttpError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = response.headers().get(header::LOCATION) else {
        return Ok(None);
    };
    let target = location
        .to_str()
        .ok()
        .and_then(|location| url.join(location).ok())
        .ok_or_else(|| HttpError::Redirect("its location is no URL".into()))?;
    check_url(&target).map_err(|_| HttpError::Redirect("its location is no http URL".into()))?;
    if url.scheme() == "https" && target.scheme() == "http" {
        return Err(HttpError::Redirect("it leads from https to http".into()));
    }
    Ok(Some(target))
}

async fn read(
    response: reqwest::Response,
    url: Url,
    limits: &HttpLimits,
    usage: &mut HttpUsage,
) -> Result<HttpResponse, HttpError> {
    let limit = limits.response_bytes;
    if response
        .content_length()
        .is_some_and(|length| length > limit)
    {
        return Err(HttpError::TooLarge(limit));
    }
    let status = response.status().as_u16();
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect();
    let mut body = BytesMut::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| translate(&error, &url))?;
        usage.bytes_read += chunk.len() as u64;
        if (body.len() + chunk.len()) as u64 > limit {
            return Err(HttpError::TooLarge(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(HttpResponse {
        status,
        url: url.into(),
        headers,
        body: body.freeze(),
    })
}

/// The body of a request is larger than allowed; see [`HttpError::TooLarge`].
#[derive(Debug, thiserror::Error)]
#[error("the body has more than {0} bytes")]
pub(super) struct BodyTooLarge(pub(super) u64);

pub(super) fn translate(error: &reqwest::Error, url: &Url) -> HttpError {
    let host = url.host_str().unwrap_or_default().to_owned();
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(BodyTooLarge(limit)) = cause.downcast_ref() {
            return HttpError::TooLarge(*limit);
        }
        match cause.downcast_ref::<ResolveError>() {
            Some(ResolveError::NotPublic) => return denied_address(&host),
            Some(ResolveError::Unknown) => return HttpError::Dns(host),
            None => source = cause.source(),
        }
    }
    if error.is_timeout() {
        return HttpError::Timeout;
    }
    if error.is_builder() {
        return HttpError::InvalidRequest(error.to_string());
    }
    tracing::debug!(cause = %chain(error), "an HTTP request failed");
    HttpError::Connect(host)
}

/// Why a name has no address that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResolveError {
    Unknown,
    NotPublic,
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "the name has no address",
            Self::NotPublic => "the name has no public address",
        })
    }
}

impl std::error::Error for ResolveError {}

/// Finds the addresses of a name: the system's resolver.
type Lookup =
    Arc<dyn Fn(String) -> BoxFuture<'static, Result<Vec<SocketAddr>, ResolveError>> + Send + Sync>;

/// What a lookup finds, less the addresses that may not be connected to. A connection is made
/// to what is answered here and nothing is looked up again for it, so a name that changes its
/// answer between the check and the connection changes nothing.
struct CheckedResolver {
    reach: Reach,
    lookup: Lookup,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.reach;
        let found = (self.lookup)(name.as_str().to_owned());
        Box::pin(async move { Ok(select(reach, &found.await?)?) })
    }
}

fn select(reach: Reach, found: &[SocketAddr]) -> Result<Addrs, ResolveError> {
    let allowed = |address: IpAddr| match reach {
        Reach::Public => is_public(address),
        // The only name that reaches here is `localhost`, which means this machine.
        Reach::Named => address.is_loopback(),
    };
    if found.is_empty() {
        return Err(ResolveError::Unknown);
    }
    let kept: Vec<_> = found
        .iter()
        .copied()
        .filter(|address| allowed(address.ip()))
        .collect();
    if kept.is_empty() {
        return Err(ResolveError::NotPublic);
    }
    Ok(Box::new(kept.into_iter()))
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
