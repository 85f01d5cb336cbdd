//! What handlers take from a request. Each refusal is a problem document.

use std::time::Duration;

use axum::body::BodyDataStream;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::{self, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use serde::de::DeserializeOwned;

use super::problem::{Problem, ProblemError};
use crate::auth::Principal;
use crate::names;
use crate::registry::types::Actor;

/// The header that names the namespace.
pub const NAMESPACE_HEADER: HeaderName = HeaderName::from_static("heyday-namespace");
/// The header that makes a POST repeatable.
pub const IDEMPOTENCY_HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// The header of W3C trace context.
const TRACEPARENT: &str = "traceparent";
/// The namespace of a request that names none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// No request waits longer; a client that wants more asks again.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// No body takes longer to be sent.
const LONGEST_BODY: Duration = Duration::from_secs(300);
/// No idempotency key is longer, in bytes.
const LONGEST_KEY: usize = 255;
/// How long the rest of a body that is too large is read, to be answered.
const LONGEST_REST: Duration = Duration::from_secs(5);
/// JSON is not nested deeper; what reads it later recurses.
const DEEPEST_JSON: usize = 100;

/// Who asks, and about whose things. The outer layers have checked both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who.
    pub principal: Principal,
    /// Whose things.
    pub namespace: String,
}

impl Caller {
    /// For the registry, which writes the audit.
    #[must_use]
    pub fn actor(&self) -> Actor<'_> {
        Actor {
            namespace: &self.namespace,
            principal: &self.principal.name,
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // Absent only if a route was mounted outside of the layer that checks tokens.
        let principal = parts
            .extensions
            .get::<Principal>()
            .cloned()
            .ok_or_else(|| Problem::unauthorized("the request has no token"))?;
        let namespace = namespace(&parts.headers)?;
        Ok(Self {
            principal,
            namespace,
        })
    }
}

/// The namespace that a request names, or `default`.
pub(super) fn namespace(headers: &HeaderMap) -> Result<String, Problem> {
    let Some(value) = headers.get(NAMESPACE_HEADER) else {
        return Ok(DEFAULT_NAMESPACE.to_owned());
    };
    let name = value.to_str().ok().filter(|name| names::is_name(name));
    name.map(str::to_owned).ok_or_else(|| {
        Problem::invalid(
            "the header Heyday-Namespace has no namespace: 1 to 63 lower-case letters, digits \
             and hyphens, beginning with a letter",
        )
    })
}

/// The request's Idempotency-Key, if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(IDEMPOTENCY_HEADER) else {
            return Ok(Self(None));
        };
        value
            .to_str()
            .ok()
            .filter(|key| (1..=LONGEST_KEY).contains(&key.len()))
            .map(|key| Self(Some(key.to_owned())))
            .ok_or_else(|| {
                Problem::invalid(format!(
                    "the header Idempotency-Key has 1 to {LONGEST_KEY} printable ASCII characters"
                ))
            })
    }
}

/// The W3C trace context that the request was sent with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceParent(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for TraceParent {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let own = crate::telemetry::current_traceparent();
        let given = || {
            parts
                .headers
                .get(TRACEPARENT)
                .and_then(|value| value.to_str().ok())
                .filter(|text| crate::telemetry::is_traceparent(text))
                .map(str::to_owned)
        };
        // The request's own span continues the given trace, if traces are recorded.
        Ok(Self(own.or_else(given)))
    }
}

/// The query string.
#[derive(Debug, Clone, Copy)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Query::<T>::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|rejection| {
                let text = rejection.body_text();
                // What axum puts before serde's words is about Rust, not the request.
                let words = text.strip_prefix("Failed to deserialize query string: ");
                Problem::invalid(format!(
                    "the query of the address is wrong: {}",
                    words.unwrap_or(&text)
                ))
            })
    }
}

/// The parameters of the path.
#[derive(Debug, Clone, Copy)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Path::<T>::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(|rejection| Problem::invalid(rejection.body_text()))
    }
}

/// How many bytes a body may have, and what to do about one that has more. Routes have it
/// as an extension of the request.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimit {
    pub(super) bytes: usize,
    pub(super) advice: &'static str,
}

/// Of a body whose route says nothing else.
pub(super) const SMALL_BODY: BodyLimit = BodyLimit {
    bytes: 256 << 10,
    advice: "nothing that this resource knows needs as much",
};

/// The body's bytes.
#[derive(Debug, Clone)]
pub struct Body(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let limit = request.extensions().get::<BodyLimit>().copied();
        let limit = limit.unwrap_or(SMALL_BODY);
        body_within(LONGEST_BODY, request, limit).await.map(Self)
    }
}

async fn body_within(
    longest: Duration,
    request: Request,
    limit: BodyLimit,
) -> Result<Bytes, Problem> {
    let read = tokio::time::timeout(longest, read_body(request, limit)).await;
    read.map_err(|_| {
        Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "request-timeout",
            "The request did not come to its end",
            format!(
                "a body is sent within {} s; send it faster, or again",
                longest.as_secs()
            ),
        )
    })?
}

async fn read_body(request: Request, limit: BodyLimit) -> Result<Bytes, Problem> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|value| value.to_str().ok()?.parse().ok());
    let mut chunks = request.into_body().into_data_stream();
    let mut fits = length.is_none_or(|length| length <= limit.bytes as u64);
    let mut bytes = BytesMut::new();
    while fits && let Some(chunk) = chunks.next().await {
        let chunk =
            chunk.map_err(|error| Problem::invalid(format!("the body cannot be read: {error}")))?;
        fits = bytes.len() + chunk.len() <= limit.bytes;
        bytes.extend_from_slice(&chunk);
    }
    if fits {
        return Ok(bytes.freeze());
    }
    read_rest(&mut chunks).await;
    Err(too_large(limit, length))
}

/// Reads on for a while what is not wanted: who is still sending does not read the answer,
/// and loses it where the connection is closed before.
pub(super) async fn read_rest(chunks: &mut BodyDataStream) {
    let rest = async { while let Some(Ok(_)) = chunks.next().await {} };
    let _ = tokio::time::timeout(LONGEST_REST, rest).await;
}

/// A body over its limit; `length` is what the request says of it.
fn too_large(limit: BodyLimit, length: Option<u64>) -> Problem {
    let has = match length {
        Some(length) => format!("has {length} bytes, more"),
        None => "is larger".to_owned(),
    };
    Problem::too_large(format!(
        "the body {has} than the {} bytes allowed here; {}",
        limit.bytes, limit.advice
    ))
}

/// The body as JSON. An empty one reads as an empty object.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Body(bytes) = Body::from_request(request, state).await?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        check_json(text)?;
        serde_json::from_slice(text).map(Self).map_err(json_problem)
    }
}

/// A body that is not the JSON that was asked for.
pub fn json_problem(error: serde_json::Error) -> Problem {
    let place = ProblemError {
        message: error.to_string(),
        line: Some(error.line() as u64).filter(|line| *line > 0),
        column: Some(error.column() as u64).filter(|column| *column > 0),
        ..ProblemError::default()
    };
    let what = match error.classify() {
        serde_json::error::Category::Data => {
            "the body does not have the members that are asked for"
        }
        _ => "the body is not JSON",
    };
    Problem::invalid(format!("{what}: {error}")).with_errors(vec![place])
}

/// Refuses JSON that is nested deeper than what reads it later can follow.
///
/// # Errors
/// A problem that names the limit.
pub fn check_json(text: &[u8]) -> Result<(), Problem> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST_JSON {
            return Err(Problem::invalid(format!(
                "the JSON is nested deeper than {DEEPEST_JSON} levels"
            )));
        }
    }
    Ok(())
}

/// Reads `?wait=`: a number with `ms`, `s` or `m`. Longer waits are cut to
/// [`LONGEST_WAIT`].
///
/// # Errors
/// A problem that shows the form.
pub fn wait(text: Option<&str>) -> Result<Option<Duration>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        _ => None,
    };
    let (Ok(number), Some(unit)) = (number.parse::<u64>(), milliseconds) else {
        return Err(Problem::invalid(format!(
            "wait is a time such as 30s, 500ms or 1m, not {:?}",
            text.chars().take(50).collect::<String>()
        )));
    };
    let wait = Duration::from_millis(number.saturating_mul(unit));
    Ok(Some(wait.min(LONGEST_WAIT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_read_and_cut() {
        let read = |text| wait(Some(text)).ok().flatten();
        assert_eq!(read("30s"), Some(Duration::from_secs(30)));
        assert_eq!(read("1500ms"), Some(Duration::from_millis(1500)));
        assert_eq!(read("1m"), Some(LONGEST_WAIT));
        assert_eq!(read("9h"), None);
        assert_eq!(read("99999999999999999m"), Some(LONGEST_WAIT));
        for wrong in [
            "",
            "s",
            "30",
            "-1s",
            "1.5s",
            "30 s",
            "99999999999999999999s",
        ] {
            assert!(wait(Some(wrong)).is_err(), "{wrong:?}");
        }
        assert_eq!(wait(None).expect("none"), None);
    }

    #[tokio::test]
    async fn a_body_that_does_not_end_is_given_up() {
        let (mut sender, body) = tokio::io::duplex(64);
        let stream = tokio_util::io::ReaderStream::new(body);
        let request = Request::new(axum::body::Body::from_stream(stream));
        let sent = tokio::io::AsyncWriteExt::write_all(&mut sender, b"{\"half\":");
        sent.await.expect("there is room");
        let problem = body_within(Duration::from_millis(10), request, SMALL_BODY)
            .await
            .expect_err("it has no end");
        assert_eq!(problem.status, StatusCode::REQUEST_TIMEOUT);
        drop(sender);
    }

    #[test]
    fn json_may_not_be_deep() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(check_json(nested(DEEPEST_JSON).as_bytes()).is_ok());
        assert!(check_json(nested(DEEPEST_JSON + 1).as_bytes()).is_err());
        let brackets_in_text = format!("{{\"a\": \"\\\"{}\"}}", "[".repeat(1000));
        assert!(check_json(brackets_in_text.as_bytes()).is_ok());
        assert!(check_json("[[],".repeat(90).as_bytes()).is_ok());
    }
}
