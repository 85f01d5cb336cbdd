//! Requests by HTTP to what the plugin was granted: `heyday grant PLUGIN
//! http=METHOD:HOST[/PATH]`. On the wire of components it is `wasi:http`.
//!
//! ```
//! use heyday_sdk::prelude::*;
//!
//! #[derive(Deserialize)]
//! struct Item {
//!     title: String,
//! }
//!
//! fn title(id: u64) -> Result<String> {
//!     let item: Item = http::Request::get(format!("https://api.example.com/items/{id}"))
//!         .header("accept", "application/json")
//!         .send()?
//!         .error_for_status()?
//!         .json()?;
//!     Ok(item.title)
//! }
//!
//! let _test = heyday_sdk::test::Context::new()
//!     .http(|call| {
//!         assert_eq!(call.url, "https://api.example.com/items/7");
//!         Ok(heyday_sdk::test::HttpReply::new(200).json(&serde_json::json!({ "title": "x" })))
//!     })
//!     .enter();
//! assert_eq!(title(7).unwrap(), "x");
//! ```
//!
//! A redirect is an answer: whoever follows it sends another request, which needs a grant as
//! the first did. What can go wrong has one of these codes:
//!
//! | code | when | retryable |
//! |---|---|---|
//! | `capability-denied` | no grant allows the request, or its address is not a public one | no |
//! | `invalid-request` | it is no HTTP request: its URL, its method, a header | no |
//! | `unavailable` | the name has no address, or there is no connection | yes |
//! | `timeout` | the other side said nothing for too long | yes |
//! | `limit-exceeded` | a body is too large, or too many requests are open | no |
//! | `cancelled` | the attempt was asked to stop | no |
//! | `status` | [`Response::error_for_status`]; `details` have the `status` | 408, 425, 429, 5xx |
//! | `invalid-response` | the body is not what was asked for | no |
//! | `internal` | anything else; the host's log has the cause | no |

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests;

use std::io::Read;
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use crate::error::CapabilityError;
use crate::host::http as host;

/// Why a request has no answer.
///
/// ```
/// use heyday_sdk::http::{Error, Request};
///
/// fn advice(error: &Error) -> String {
///     match error.code.as_str() {
///         "capability-denied" => "grant http=GET:example.com".to_owned(),
///         "unavailable" | "timeout" => "try again later".to_owned(),
///         _ => error.to_string(),
///     }
/// }
/// let error = Request::get("https://example.com/").send().unwrap_err();
/// assert_eq!(advice(&error), "grant http=GET:example.com");
/// ```
pub type Error = CapabilityError;

type Result<T> = std::result::Result<T, Error>;

/// What is read of a stream at once.
const CHUNK: usize = 64 << 10;

pub(crate) fn invalid(why: impl Into<String>) -> Error {
    CapabilityError::new("invalid-request", why)
}

/// A URL in the parts that the host takes.
pub(crate) struct Url {
    pub(crate) secure: bool,
    pub(crate) authority: String,
    pub(crate) path_with_query: String,
}

impl Url {
    /// The host reads it again, and decides; here it is only taken apart.
    fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            invalid(format!(
                "{text:?} is no URL: it begins with https:// and a host"
            ))
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(wrong()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.is_empty() || rest.contains(|c: char| c.is_control() || c == ' ') {
            return Err(wrong());
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self {
            secure,
            authority: authority.to_owned(),
            path_with_query: format!("{slash}{path}"),
        })
    }
}

/// What a request sends.
pub(crate) enum Body {
    Bytes(Vec<u8>),
    Stream(Box<dyn Read>),
}

/// A request as the host takes it.
pub(crate) struct Outgoing {
    pub(crate) method: String,
    pub(crate) url: Url,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Body,
    pub(crate) timeout: Option<Duration>,
}

impl Outgoing {
    /// What an operator must grant for it.
    pub(crate) fn denied(&self) -> Error {
        let (method, host) = (&self.method, &self.url.authority);
        CapabilityError::new(
            "capability-denied",
            format!("no grant allows {method} on {host}: the operator grants http={method}:{host}"),
        )
    }
}

/// A request in the making.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new()
/// #     .http(|call| Ok(heyday_sdk::test::HttpReply::new(200).body(&call.url)))
/// #     .enter();
/// use heyday_sdk::http::Request;
///
/// /// What all requests to one service have in common.
/// fn api(path: &str) -> Request {
///     Request::get(format!("https://api.example.com/v1/{path}")).header("accept", "text/plain")
/// }
/// assert_eq!(api("items").send()?.text()?, "https://api.example.com/v1/items");
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[must_use = "a request does nothing before it is sent"]
pub struct Request {
    method: String,
    url: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Body,
    timeout: Option<Duration>,
    failed: Option<Error>,
}

impl std::fmt::Debug for Request {
    /// Neither the query nor headers: they may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let url = self.url.split(['?', '#']).next();
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("url", &url)
            .finish_non_exhaustive()
    }
}

impl Request {
    /// A request with that method, such as `PROPFIND`.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .http(|call| Ok(heyday_sdk::test::HttpReply::new(207).body(&call.method)))
    /// #     .enter();
    /// use heyday_sdk::http::Request;
    ///
    /// let listing = Request::new("PROPFIND", "https://dav.example.com/").header("depth", "1");
    /// assert_eq!(listing.send()?.text()?, "PROPFIND");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            method: method.into(),
            url: url.into(),
            headers: Vec::new(),
            body: Body::Bytes(Vec::new()),
            timeout: None,
            failed: None,
        }
    }

    /// `GET`.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .http(|_| Ok(heyday_sdk::test::HttpReply::new(200).body("hello")))
    /// #     .enter();
    /// use heyday_sdk::http::Request;
    ///
    /// let answer = Request::get("https://example.com/greeting").send()?;
    /// assert_eq!(answer.text()?, "hello");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// `HEAD`.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .http(|_| Ok(heyday_sdk::test::HttpReply::new(200).header("content-length", "4096")))
    /// #     .enter();
    /// use heyday_sdk::http::Request;
    ///
    /// let answer = Request::head("https://example.com/large.iso").send()?;
    /// assert_eq!(answer.header("content-length"), Some("4096"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn head(url: impl Into<String>) -> Self {
        Self::new("HEAD", url)
    }

    /// `POST`.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .http(|_| Ok(heyday_sdk::test::HttpReply::new(201).header("location", "/orders/7")))
    /// #     .enter();
    /// use heyday_sdk::{context, http::Request};
    ///
    /// let order = Request::post("https://shop.example.com/orders")
    ///     .header("idempotency-key", context::idempotency_key())
    ///     .body("one rotor");
    /// assert_eq!(order.send()?.header("location"), Some("/orders/7"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn post(url: impl Into<String>) -> Self {
        Self::new("POST", url)
    }

    /// `PUT`.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .http(|_| Ok(heyday_sdk::test::HttpReply::new(204)))
    /// #     .enter();
    /// use heyday_sdk::http::Request;
    ///
    /// let stored = Request::put("https://files.example.com/note.txt").body("remember").send()?;
    /// assert_eq!(stored.status(), 204);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn put(url: impl Into<String>) -> Self {
        Self::new("PUT", url)
    }

    /// `PATCH`.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .http(|call| Ok(heyday_sdk::test::HttpReply::new(200).body(&call.body)))
    /// #     .enter();
    /// use heyday_sdk::http::Request;
    /// use std::collections::BTreeMap;
    ///
    /// let change = BTreeMap::from([("state", "closed")]);
    /// let answer = Request::patch("https://api.example.com/issues/7").json(&change).send()?;
    /// assert_eq!(answer.text()?, r#"{"state":"closed"}"#);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn patch(url: impl Into<String>) -> Self {
        Self::new("PATCH", url)
    }

    /// `DELETE`.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .http(|_| Ok(heyday_sdk::test::HttpReply::new(404)))
    /// #     .enter();
    /// use heyday_sdk::http::Request;
    ///
    /// let answer = Request::delete("https://api.example.com/sessions/7").send()?;
    /// // Gone is gone, whoever did it.
    /// assert!(answer.is_success() || answer.status() == 404);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn delete(url: impl Into<String>) -> Self {
        Self::new("DELETE", url)
    }

    /// One header more. Those of the connection (`host`, `connection`, `transfer-encoding` and
    /// others) are the host's: with one of them the request is an `invalid-request`.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .http(|_| Ok(heyday_sdk::test::HttpReply::new(304)))
    /// #     .enter();
    /// use heyday_sdk::http::Request;
    ///
    /// let feed = Request::get("https://example.com/feed").header("if-none-match", "\"33a64\"");
    /// assert_eq!(feed.send()?.status(), 304); // It is as it was.
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn header(mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.into(), value.as_ref().to_vec()));
        self
    }

    /// The header `authorization` with a token.
    ///
    /// ```
    /// use heyday_sdk::{http::Request, secrets::Secrets, test::{Context, HttpReply}};
    ///
    /// let _test = Context::new()
    ///     .secrets("default", [("token", "swordfish")])
    ///     .http(|call| {
    ///         assert_eq!(call.header("authorization"), Some("Bearer swordfish"));
    ///         Ok(HttpReply::new(200))
    ///     })
    ///     .enter();
    /// let token = Secrets::open("default")?.get("token")?;
    /// let request = Request::get("https://api.example.com/").bearer(token.text()?);
    /// assert!(request.send()?.is_success());
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// One pair more in the URL's query, encoded.
    ///
    /// ```
    /// use heyday_sdk::http::Request;
    ///
    /// let _test = heyday_sdk::test::Context::new()
    ///     .http(|call| Ok(heyday_sdk::test::HttpReply::new(200).body(&call.url)))
    ///     .enter();
    /// let asked = Request::get("https://example.com/?a=1").query("q", "x&y z").send()?;
    /// assert_eq!(asked.text()?, "https://example.com/?a=1&q=x%26y%20z");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn query(mut self, name: &str, value: &str) -> Self {
        let url = self.url.split('#').next().unwrap_or_default();
        let separator = if url.contains('?') { '&' } else { '?' };
        self.url = format!("{url}{separator}{}={}", encode(name), encode(value));
        self
    }

    /// Sends these bytes.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .http(|call| Ok(heyday_sdk::test::HttpReply::new(200).body(&call.body)))
    /// #     .enter();
    /// use heyday_sdk::http::Request;
    ///
    /// let request = Request::put("https://example.com/7").header("content-type", "image/png");
    /// let kept = request.body(*b"\x89PNG").send()?.bytes()?;
    /// assert_eq!(kept, b"\x89PNG");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.body = Body::Bytes(bytes.into());
        self
    }

    /// Sends a value as JSON.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .http(|call| Ok(heyday_sdk::test::HttpReply::new(200).body(&call.body)))
    /// #     .enter();
    /// use heyday_sdk::{http::Request, prelude::*};
    ///
    /// #[derive(Serialize)]
    /// struct Order {
    ///     article: &'static str,
    ///     pieces: u32,
    /// }
    /// let order = Order { article: "rotor", pieces: 2 };
    /// let answer = Request::post("https://shop.example.com/orders").json(&order).send()?;
    /// assert_eq!(answer.text()?, r#"{"article":"rotor","pieces":2}"#);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn json(mut self, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(bytes) => self.header("content-type", "application/json").body(bytes),
            Err(error) => {
                self.failed = Some(invalid(format!("the body cannot be written: {error}")));
                self
            }
        }
    }

    /// Sends what is read, piece by piece, so that it need not fit into memory.
    ///
    /// ```
    /// use heyday_sdk::prelude::*;
    ///
    /// fn upload(key: &str) -> Result<()> {
    ///     let object = blob::Container::open("documents")?.read(key)?;
    ///     http::Request::put("https://files.example.com/x").stream(object).send()?;
    ///     Ok(())
    /// }
    ///
    /// let _test = heyday_sdk::test::Context::new()
    ///     .blob("documents", [("a", "content")])
    ///     .http(|call| {
    ///         assert_eq!(call.body, b"content");
    ///         Ok(heyday_sdk::test::HttpReply::new(204))
    ///     })
    ///     .enter();
    /// upload("a").unwrap();
    /// ```
    pub fn stream(mut self, body: impl Read + 'static) -> Self {
        self.body = Body::Stream(Box::new(body));
        self
    }

    /// How long the other side may say nothing; the operator's limit holds as well.
    ///
    /// ```
    /// use heyday_sdk::{http::Request, test::{Context, HttpReply}};
    /// use std::time::Duration;
    ///
    /// let soon = Duration::from_secs(5);
    /// let _test = Context::new()
    ///     .http(move |call| {
    ///         assert_eq!(call.timeout, Some(soon));
    ///         Ok(HttpReply::new(204))
    ///     })
    ///     .enter();
    /// assert!(Request::get("https://slow.example.com/").timeout(soon).send()?.is_success());
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends it, and waits for the response's head. A status is an answer, not an error.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .http(|_| Ok(heyday_sdk::test::HttpReply::new(404)))
    /// #     .enter();
    /// use heyday_sdk::http::Request;
    ///
    /// // An answer, though not a pleasant one.
    /// assert_eq!(Request::get("https://example.com/absent").send()?.status(), 404);
    /// // No answer.
    /// assert!(Request::get("no url").send().unwrap_err().is("invalid-request"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the module's table says.
    pub fn send(self) -> Result<Response> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let answer = host::send(Outgoing {
            url: Url::parse(&self.url)?,
            method: self.method,
            headers: self.headers,
            body: self.body,
            timeout: self.timeout,
        })?;
        Ok(Response {
            status: answer.status,
            headers: answer.headers,
            body: answer.body,
            left: Vec::new(),
        })
    }
}

/// Percent-encodes what is not unreserved in a URL.
fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// What the host answers.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: host::Incoming,
}

/// A response. Its body is read from it, piece by piece ([`std::io::Read`]) or whole. While
/// it lives, it is one of the requests that an attempt may have open.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new()
/// #     .http(|_| Ok(heyday_sdk::test::HttpReply::new(200).body("id,name\n7,Ada\n")))
/// #     .enter();
/// use heyday_sdk::http::{Request, Response};
/// use std::io::{BufRead as _, BufReader};
///
/// // Line by line, so that the body need not fit into memory.
/// let table: Response = Request::get("https://example.com/people.csv").send()?;
/// assert_eq!(BufReader::new(table).lines().count(), 2);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug)]
pub struct Response {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: host::Incoming,
    /// What was received and not read yet.
    left: Vec<u8>,
}

impl Response {
    /// The status.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .http(|_| Ok(heyday_sdk::test::HttpReply::new(301)))
    /// #     .enter();
    /// use heyday_sdk::http::Request;
    ///
    /// let answer = Request::get("https://example.com/old").send()?;
    /// assert!(matches!(answer.status(), 301 | 308)); // Nobody follows it by itself.
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the status is one of 200 to 299.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .http(|_| Ok(heyday_sdk::test::HttpReply::new(503)))
    /// #     .enter();
    /// use heyday_sdk::http::Request;
    ///
    /// let is_up = |url: &str| Request::get(url).send().is_ok_and(|answer| answer.is_success());
    /// assert!(!is_up("https://example.com/health"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first header of that name, where it is a text; case does not matter.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .http(|_| Ok(heyday_sdk::test::HttpReply::new(429).header("Retry-After", "30")))
    /// #     .enter();
    /// use heyday_sdk::http::Request;
    ///
    /// let answer = Request::get("https://api.example.com/").send()?;
    /// let wait: Option<u64> = answer.header("retry-after").and_then(|text| text.parse().ok());
    /// assert_eq!(wait, Some(30));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut named = self
            .headers()
            .filter(|(own, _)| own.eq_ignore_ascii_case(name));
        let (_, value) = named.next()?;
        std::str::from_utf8(value).ok()
    }

    /// All headers, in order.
    ///
    /// ```
    /// # use heyday_sdk::test::HttpReply;
    /// # let reply = HttpReply::new(200).header("link", "</1>").header("link", "</2>");
    /// # let _test = heyday_sdk::test::Context::new().http(move |_| Ok(reply.clone())).enter();
    /// use heyday_sdk::http::Request;
    ///
    /// let answer = Request::get("https://example.com/").send()?;
    /// // One that comes more than once.
    /// assert_eq!(answer.headers().filter(|(name, _)| *name == "link").count(), 2);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let headers = self.headers.iter();
        headers.map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// The same response, where its status is one of success.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .http(|_| Ok(heyday_sdk::test::HttpReply::new(503)))
    /// #     .enter();
    /// use heyday_sdk::http::Request;
    ///
    /// let answer = Request::get("https://example.com/").send()?;
    /// let error = answer.error_for_status().unwrap_err();
    /// assert!(error.is("status") && error.retryable);
    /// assert_eq!(error.details.unwrap()["status"], 503);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `status` where it is none: retryable for 408, 425, 429 and 5xx.
    pub fn error_for_status(self) -> Result<Self> {
        if self.is_success() {
            return Ok(self);
        }
        let status = self.status;
        Err(CapabilityError {
            code: "status".to_owned(),
            message: format!("the answer has the status {status}"),
            retryable: matches!(status, 408 | 425 | 429 | 500..=599),
            details: Some(serde_json::json!({ "status": status })),
        })
    }

    /// The whole body.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .http(|_| Ok(heyday_sdk::test::HttpReply::new(200).body(b"\x89PNG")))
    /// #     .enter();
    /// use heyday_sdk::http::Request;
    ///
    /// let image = Request::get("https://example.com/logo.png").send()?.bytes()?;
    /// assert!(image.starts_with(b"\x89PNG"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the module's table says.
    pub fn bytes(mut self) -> Result<Vec<u8>> {
        let mut bytes = std::mem::take(&mut self.left);
        loop {
            let more = self.body.read(CHUNK)?;
            if more.is_empty() {
                return Ok(bytes);
            }
            bytes.extend_from_slice(&more);
        }
    }

    /// The whole body as text.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .http(|_| Ok(heyday_sdk::test::HttpReply::new(200).body(b"caf\xe9")))
    /// #     .enter();
    /// use heyday_sdk::http::Request;
    ///
    /// // Latin-1: told rather than guessed.
    /// let answer = Request::get("https://example.com/menu.txt").send()?;
    /// assert!(answer.text().unwrap_err().is("invalid-response"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `invalid-response` where it is no UTF-8, and others.
    pub fn text(self) -> Result<String> {
        String::from_utf8(self.bytes()?)
            .map_err(|_| CapabilityError::new("invalid-response", "the body is no text in UTF-8"))
    }

    /// The whole body, read as JSON.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .http(|_| Ok(heyday_sdk::test::HttpReply::new(200).body(r#"{"city":"Oslo"}"#)))
    /// #     .enter();
    /// use heyday_sdk::{http::Request, prelude::*};
    ///
    /// #[derive(Deserialize)]
    /// struct Place {
    ///     city: String,
    /// }
    /// let place: Place = Request::get("https://geo.example.com/").send()?.json()?;
    /// assert_eq!(place.city, "Oslo");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `invalid-response` where it is no JSON, or another one, and others.
    pub fn json<T: DeserializeOwned>(self) -> Result<T> {
        serde_json::from_slice(&self.bytes()?).map_err(|error| {
            CapabilityError::new(
                "invalid-response",
                format!("the body is not the JSON that was expected: {error}"),
            )
        })
    }
}

impl Read for Response {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.left.is_empty() {
            self.left = self.body.read(buffer.len().min(CHUNK))?;
        }
        let count = buffer.len().min(self.left.len());
        buffer[..count].copy_from_slice(&self.left[..count]);
        self.left.drain(..count);
        Ok(count)
    }
}
