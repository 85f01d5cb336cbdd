//! What is answered.

use std::io::Read;

use serde::de::DeserializeOwned;

use super::Result;
use crate::error::CapabilityError;
use crate::host::http as host;

/// What is read of a stream at once.
const CHUNK: usize = 64 << 10;

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
    pub(super) fn new(answer: Answer) -> Self {
        Self {
            status: answer.status,
            headers: answer.headers,
            body: answer.body,
            left: Vec::new(),
        }
    }

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
