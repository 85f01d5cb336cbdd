//! What is asked.

use std::io::Read;
use std::time::Duration;

use serde::Serialize;

use super::{Error, Response, Result, invalid};
use crate::error::CapabilityError;
use crate::host::http as host;

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
        Ok(Response::new(answer))
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
