//! `http`, answered by a test's closure.

use std::io::Read as _;
use std::time::Duration;

use serde::Serialize;

use crate::error::CapabilityError;
use crate::http::{Answer, Body, Outgoing, invalid};
use crate::test::state;

/// A request that a plugin sent, as the stand-in of a test sees it.
///
/// ```
/// use heyday_sdk::{CapabilityError, http::Request, test::{Context, HttpCall, HttpReply}};
///
/// fn service(call: &HttpCall) -> Result<HttpReply, CapabilityError> {
///     match (call.method.as_str(), call.url.as_str()) {
///         ("GET", "https://example.com/") => Ok(HttpReply::new(200).body("hello")),
///         _ => Ok(HttpReply::new(404)),
///     }
/// }
/// let _test = Context::new().http(service).enter();
/// assert_eq!(Request::get("https://example.com/").send()?.text()?, "hello");
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct HttpCall {
    /// Its method.
    pub method: String,
    /// Its URL, without a fragment.
    pub url: String,
    /// Its headers, in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Its body.
    pub body: Vec<u8>,
    /// How long the other side may say nothing, where the plugin said so.
    pub timeout: Option<Duration>,
}

impl HttpCall {
    /// The first header of that name, where it is a text.
    ///
    /// ```
    /// use heyday_sdk::{http::Request, test::{Context, HttpReply}};
    ///
    /// let _test = Context::new()
    ///     .http(|call| Ok(HttpReply::new(200).body(call.header("Accept").unwrap_or("anything"))))
    ///     .enter();
    /// let request = Request::get("https://example.com/").header("accept", "text/csv");
    /// assert_eq!(request.send()?.text()?, "text/csv");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let (_, value) = headers.find(|(own, _)| own.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok()
    }
}

/// What the stand-in of a test answers a request.
///
/// ```
/// use heyday_sdk::{http::Request, test::{Context, HttpReply}};
///
/// let reply: HttpReply = HttpReply::new(429).header("retry-after", "30");
/// let _test = Context::new().http(move |_| Ok(reply.clone())).enter();
/// let answer = Request::get("https://example.com/").send()?;
/// assert!(answer.error_for_status().unwrap_err().retryable);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct HttpReply {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl HttpReply {
    /// That status, without headers and body.
    ///
    /// ```
    /// use heyday_sdk::{http::Request, test::{Context, HttpReply}};
    ///
    /// let _test = Context::new().http(|_| Ok(HttpReply::new(204))).enter();
    /// let answer = Request::get("https://example.com/").send()?;
    /// assert_eq!((answer.status(), answer.text()?.as_str()), (204, ""));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// One header more.
    ///
    /// ```
    /// use heyday_sdk::{http::Request, test::{Context, HttpReply}};
    ///
    /// let reply = HttpReply::new(302).header("location", "/login");
    /// let _test = Context::new().http(move |_| Ok(reply.clone())).enter();
    /// let answer = Request::get("https://example.com/").send()?;
    /// assert_eq!(answer.header("location"), Some("/login"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// That body.
    ///
    /// ```
    /// use heyday_sdk::{http::Request, test::{Context, HttpReply}};
    ///
    /// // An echo.
    /// let _test = Context::new().http(|call| Ok(HttpReply::new(200).body(&call.body))).enter();
    /// assert_eq!(Request::post("https://example.com/").body("hi").send()?.text()?, "hi");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    /// That value as JSON.
    ///
    /// ```
    /// use heyday_sdk::{http::Request, test::{Context, HttpReply}};
    ///
    /// let _test = Context::new().http(|_| Ok(HttpReply::new(200).json(&["a", "b"]))).enter();
    /// let tags: Vec<String> = Request::get("https://example.com/tags").send()?.json()?;
    /// assert_eq!(tags, ["a", "b"]);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Panics
    /// Where it cannot be written as JSON.
    pub fn json(self, value: &impl Serialize) -> Self {
        let body = serde_json::to_vec(value).expect("a value that is JSON");
        self.header("content-type", "application/json").body(body)
    }
}

/// Headers that are the host's.
const FORBIDDEN: [&str; 11] = [
    "connection",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What HTTP calls a token: a method, or the name of a header.
fn is_token(text: &str) -> bool {
    let of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(of_token)
}

/// Refuses what the host refuses whatever is granted.
fn check(request: &Outgoing) -> Result<(), CapabilityError> {
    if !is_token(&request.method)
        || request.method == "CONNECT"
        || request.url.authority.contains('@')
    {
        return Err(invalid("the host takes no such URL or method"));
    }
    for (name, value) in &request.headers {
        let lower = name.to_ascii_lowercase();
        if FORBIDDEN.contains(&lower.as_str()) {
            return Err(invalid(format!("the header {name} is the host's")));
        }
        let of_value = |byte: &u8| *byte == b'\t' || !byte.is_ascii_control();
        if !is_token(name) || !value.iter().all(of_value) {
            return Err(invalid(format!("the header {name} is none")));
        }
    }
    Ok(())
}

/// Says the length of a body of bytes, as the host does; one that was said must be right.
fn tell_length(
    headers: &mut Vec<(String, Vec<u8>)>,
    known: bool,
    body: &[u8],
) -> Result<(), CapabilityError> {
    let length = body.len().to_string().into_bytes();
    let mut named = headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    match named.next() {
        Some((_, said)) if *said != length => {
            return Err(invalid("the body has another length than its header says"));
        }
        None if known && !body.is_empty() => headers.push(("content-length".to_owned(), length)),
        _ => {}
    }
    Ok(())
}

#[derive(Debug)]
pub(crate) struct Incoming(std::io::Cursor<Vec<u8>>);

impl Incoming {
    #[allow(clippy::unnecessary_wraps)] // the host's can fail
    pub(crate) fn read(&mut self, max: usize) -> Result<Vec<u8>, CapabilityError> {
        let mut piece = Vec::new();
        let _ = self.0.by_ref().take(max as u64).read_to_end(&mut piece);
        Ok(piece)
    }
}

pub(crate) fn send(request: Outgoing) -> Result<Answer, CapabilityError> {
    let Some(handler) = state::with(|state| state.http.clone()) else {
        return Err(request.denied());
    };
    check(&request)?;
    let url = &request.url;
    let scheme = if url.secure { "https" } else { "http" };
    let url = format!("{scheme}://{}{}", url.authority, url.path_with_query);
    let known = matches!(request.body, Body::Bytes(_));
    let body = match request.body {
        Body::Bytes(bytes) => bytes,
        Body::Stream(mut stream) => {
            let mut bytes = Vec::new();
            let read = stream.read_to_end(&mut bytes);
            read.map_err(|error| invalid(format!("the body cannot be read: {error}")))?;
            bytes
        }
    };
    let mut headers = request.headers;
    tell_length(&mut headers, known, &body)?;
    let call = HttpCall {
        method: request.method,
        url,
        headers,
        body,
        timeout: request.timeout,
    };
    // The state is not borrowed here: the closure may use the SDK itself.
    let reply = (handler.borrow_mut())(&call)?;
    let bodiless = call.method == "HEAD" || matches!(reply.status, 204 | 304);
    let body = if bodiless { Vec::new() } else { reply.body };
    Ok(Answer {
        status: reply.status,
        headers: reply.headers,
        body: Incoming(std::io::Cursor::new(body)),
    })
}
