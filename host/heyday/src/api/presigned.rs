//! `/presigned`: objects in folders, for whoever has an address that a plugin asked for.
//!
//! There is no token: the address itself is what lets in, to one object by one method until
//! its time ([`heyday_capabilities::blob::address`]). Nothing is looked up before its signature
//! was found right, so that a stranger learns nothing. Bytes are streamed both ways, each
//! request in a place of those that wait (`limits.waiting`): whoever is slow must not take
//! the connections of others.
//!
//! What is read is as the reader found it, whatever is written meanwhile; what is written
//! appears whole at the end, or not at all.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use heyday_capabilities::blob::address::{AddressError, Presented};
use heyday_capabilities::blob::{
    BlobCode, BlobError, Condition, Container, ObjectReader, READ_BYTES, check_key,
};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use super::App;
use super::extract::{Path, Query, read_rest};
use super::problem::Problem;

/// How long a client that sends an object may pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What an address has behind its path.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Signed {
    /// Until when the address is good: seconds since the Unix epoch
    #[serde(default)]
    expires: String,
    /// What lets in
    #[serde(default)]
    signature: String,
}

/// The namespace, the binding and the key.
type Place = (String, String, String);

/// Read an object by its presigned address
///
/// Needs no token. `Range` asks for one range; `ETag` with `If-None-Match` or `If-Range` works as usual.
#[utoipa::path(get, path = "/presigned/{namespace}/{binding}/{*key}", tag = "presigned", security(()),
    params(("namespace" = String, Path, description = "Whose binding"), ("binding" = String, Path, description = "The binding"),
        ("key" = String, Path, description = "The object; its `/` stand as they are"), Signed),
    responses((status = 200, description = "The object", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 206, description = "The range of it", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 403, description = "The address does not open this, or not any more", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such object", body = Problem, content_type = "application/problem+json"),
        (status = 416, description = "The range begins at or past the end", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "As many wait or stream as the server lets; ask again soon", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn read(
    State(app): State<App>,
    Path(place): Path<Place>,
    Query(signed): Query<Signed>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let container = allowed(&app, &method, &place, &signed)?;
    let turn = app.waiting_place()?;
    let mut reader = container.read(place.2).await.map_err(refused)?;
    let found = reader.metadata().clone();
    let etag = format!("\"{}\"", found.etag);
    let mut known = vec![
        (header::ETAG, etag.clone()),
        (header::LAST_MODIFIED, date(found.last_modified_ms)),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        // Whoever is asked next must not keep what a signature opened.
        (header::CACHE_CONTROL, "private, no-cache".to_owned()),
    ];
    if text(&headers, header::IF_NONE_MATCH).is_some_and(|tags| names(tags, &etag)) {
        return Ok(answer(StatusCode::NOT_MODIFIED, known, Body::empty()));
    }
    let same = text(&headers, header::IF_RANGE).is_none_or(|tag| tag == etag);
    let range = text(&headers, header::RANGE).filter(|_| same);
    let (status, range) = match range.map_or(Asked::Whole, |range| asked(range, found.size)) {
        Asked::Whole => (StatusCode::OK, 0..found.size),
        Asked::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Asked::Nothing => return Ok(not_satisfiable(found.size)),
    };
    if status == StatusCode::PARTIAL_CONTENT {
        let (first, last) = (range.start, range.end - 1);
        let part = format!("bytes {first}-{last}/{}", found.size);
        known.push((header::CONTENT_RANGE, part));
    }
    let length = range.end - range.start;
    known.push((header::CONTENT_LENGTH, length.to_string()));
    // Never as what a browser would show as a page of this server's.
    known.push((header::CONTENT_TYPE, "application/octet-stream".to_owned()));
    reader.skip(range.start).await.map_err(refused)?;
    let body = Body::from_stream(bytes_of(reader, length, turn));
    Ok(answer(status, known, body))
}

/// Write an object by its presigned address
///
/// Needs no token. The body is the object, over what is there; `If-None-Match: *` and `If-Match` are kept.
#[utoipa::path(put, path = "/presigned/{namespace}/{binding}/{*key}", tag = "presigned", security(()),
    params(("namespace" = String, Path, description = "Whose binding"), ("binding" = String, Path, description = "The binding"),
        ("key" = String, Path, description = "The object; its `/` stand as they are"), Signed),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, description = "Written; `ETag` says what"),
        (status = 403, description = "The address does not open this, or not any more", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not come to its end", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "The object is not as the condition says", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "More bytes than an object of the binding may have", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "As many wait or stream as the server lets; ask again soon", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn write(
    State(app): State<App>,
    Path(place): Path<Place>,
    Query(signed): Query<Signed>,
    request: Request,
) -> Result<Response, Problem> {
    let container = allowed(&app, request.method(), &place, &signed)?;
    let _turn = app.waiting_place()?;
    let condition = condition(request.headers())?;
    let length = text(request.headers(), header::CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|length| length.parse().ok());
    let mut chunks = request.into_body().into_data_stream();
    let most = container.limits().object_bytes;
    let written = if length.is_some_and(|length| length > most) {
        Err(too_large(most))
    } else {
        store(&*container, place.2, condition, &mut chunks).await
    };
    match written {
        Ok(etag) => Ok(answer(
            StatusCode::OK,
            vec![(header::ETAG, format!("\"{etag}\""))],
            Body::empty(),
        )),
        Err(problem) => {
            read_rest(&mut chunks).await;
            Err(problem)
        }
    }
}

/// The container of an address that is good for this request.
fn allowed(
    app: &App,
    method: &Method,
    (namespace, binding, key): &Place,
    signed: &Signed,
) -> Result<Arc<dyn Container>, Problem> {
    let bound = app.registry.bound();
    let presented = Presented {
        method: method.as_str(),
        namespace,
        binding,
        key,
        expires: &signed.expires,
        signature: &signed.signature,
    };
    let addresses = bound.addresses();
    let addresses = addresses.ok_or_else(|| forbidden(AddressError::Signature))?;
    let left = addresses.check(&presented).map_err(forbidden)?;
    let container = bound.container(namespace, binding).ok_or_else(|| {
        Problem::not_found(format!(
            "the binding {binding} of the namespace {namespace} is not configured any more"
        ))
    })?;
    let limits = container.limits();
    limits.check_presigned(left).map_err(forbidden)?;
    check_key(key, container.read_only()).map_err(refused)?;
    Ok(container)
}

/// Writes what comes; answers its etag.
async fn store(
    container: &dyn Container,
    key: String,
    condition: Condition,
    chunks: &mut BodyDataStream,
) -> Result<String, Problem> {
    let mut writer = container.write(key, condition).await.map_err(refused)?;
    loop {
        let next = tokio::time::timeout(LONGEST_PAUSE, chunks.next()).await;
        let next = next.map_err(|_| {
            Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "request-timeout",
                "The request did not come to its end",
                format!(
                    "nothing came for {} s; nothing was written",
                    LONGEST_PAUSE.as_secs()
                ),
            )
        })?;
        match next {
            Some(Ok(chunk)) => writer.write(chunk).await.map_err(refused)?,
            Some(Err(error)) => {
                return Err(Problem::invalid(format!(
                    "the body cannot be read: {error}; nothing was written"
                )));
            }
            None => break,
        }
    }
    let written = writer.finish().await.map_err(refused)?;
    Ok(written.etag)
}

/// So many of a reader's next bytes, as they are asked for.
fn bytes_of(
    reader: Box<dyn ObjectReader>,
    length: u64,
    turn: OwnedSemaphorePermit,
) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> {
    let state = (reader, length, turn);
    futures::stream::try_unfold(state, async |(mut reader, left, turn)| {
        if left == 0 {
            return Ok(None);
        }
        let max = u32::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES);
        let bytes = reader.read(max).await.map_err(std::io::Error::other)?;
        if bytes.is_empty() {
            // Cut by somebody else: an answer that ended here would look whole.
            return Err(std::io::Error::other("the object has become shorter"));
        }
        let left = left.saturating_sub(bytes.len() as u64);
        Ok(Some((bytes, (reader, left, turn))))
    })
}

/// What a `Range` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// All: it names no range that is understood, or several.
    Whole,
    Part(Range<u64>),
    /// Nothing that there is.
    Nothing,
}

/// Reads one range of bytes (RFC 9110, 14.1.2) of an object of so many.
fn asked(range: &str, size: u64) -> Asked {
    let Some((unit, range)) = range.split_once('=') else {
        return Asked::Whole;
    };
    let Some((first, last)) = range.trim().split_once('-') else {
        return Asked::Whole;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    if !unit.eq_ignore_ascii_case("bytes") {
        return Asked::Whole;
    }
    let range = match (number(first), number(last)) {
        (Some(first), None) if last.is_empty() => first..size,
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (None, Some(last)) if first.is_empty() => size.saturating_sub(last)..size,
        _ => return Asked::Whole,
    };
    if range.start < range.end {
        Asked::Part(range)
    } else {
        Asked::Nothing
    }
}

fn not_satisfiable(size: u64) -> Response {
    let problem = Problem::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        "invalid-range",
        "There is nothing in that range",
        format!("the object has {size} bytes"),
    );
    let mut response = problem.into_response();
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}

/// When a write may happen.
fn condition(headers: &HeaderMap) -> Result<Condition, Problem> {
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Problem::invalid(
            "an object is written whole: there is no Content-Range here",
        ));
    }
    let absent = text(headers, header::IF_NONE_MATCH);
    let same = text(headers, header::IF_MATCH);
    let inner = same.and_then(|tag| tag.strip_prefix('"')?.strip_suffix('"'));
    match (absent, same, inner) {
        (None, None, _) => Ok(Condition::Always),
        (Some("*"), None, _) => Ok(Condition::IfAbsent),
        (None, Some(_), Some(etag)) => Ok(Condition::IfMatch(etag.to_owned())),
        _ => Err(Problem::invalid(
            "a write has `If-None-Match: *` or `If-Match` with one ETag in quotes, or neither",
        )),
    }
}

/// Whether a list of entity tags names this one.
fn names(tags: &str, etag: &str) -> bool {
    tags.trim() == "*"
        || tags
            .split(',')
            .any(|tag| tag.trim().trim_start_matches("W/") == etag)
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// A time as headers have it; the epoch where it is none that they can tell.
fn date(ms: u64) -> String {
    let at = i64::try_from(ms).ok();
    let at = at.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let printed = DateTimePrinter::new().timestamp_to_rfc9110_string(&at.unwrap_or_default());
    printed.unwrap_or_default()
}

fn answer(status: StatusCode, headers: Vec<(HeaderName, String)>, body: Body) -> Response {
    let mut response = (status, body).into_response();
    for (name, value) in headers {
        // Numbers, dates, and etags of ours: all are ASCII.
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn forbidden(error: AddressError) -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "address-refused",
        "The address does not open this",
        error.to_string(),
    )
}

fn too_large(most: u64) -> Problem {
    Problem::too_large(format!(
        "an object of this binding has at most {most} bytes"
    ))
}

/// What a container refuses.
fn refused(error: BlobError) -> Problem {
    let detail = error.message.clone();
    match error.code {
        BlobCode::NotFound => Problem::not_found(detail),
        BlobCode::InvalidKey => Problem::invalid(detail),
        BlobCode::LimitExceeded => Problem::too_large(detail),
        BlobCode::PreconditionFailed => Problem::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition-failed",
            "The object is not as the condition says",
            detail,
        ),
        // The binding only reads by now.
        BlobCode::CapabilityDenied => Problem::new(
            StatusCode::FORBIDDEN,
            "address-refused",
            "The address does not open this",
            detail,
        ),
        BlobCode::Unavailable | BlobCode::Timeout => {
            Problem::unavailable("storage-unavailable", detail)
        }
        _ => Problem::internal(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_read() {
        for (text, expected) in [
            ("bytes=0-0", Asked::Part(0..1)),
            ("bytes=2-4", Asked::Part(2..5)),
            ("Bytes=8-99", Asked::Part(8..10)),
            ("bytes=5-", Asked::Part(5..10)),
            ("bytes=-3", Asked::Part(7..10)),
            ("bytes=-99", Asked::Part(0..10)),
            ("bytes=0-99999999999999999999999", Asked::Part(0..10)),
            ("bytes=10-", Asked::Nothing),
            ("bytes=10-11", Asked::Nothing),
            ("bytes=-0", Asked::Nothing),
            ("bytes=99999999999999999999999-", Asked::Nothing),
            ("bytes=4-2", Asked::Whole),
            ("bytes=0-1,4-5", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
            ("bytes", Asked::Whole),
            ("lines=1-2", Asked::Whole),
        ] {
            assert_eq!(asked(text, 10), expected, "{text}");
        }
        assert_eq!(asked("bytes=0-", 0), Asked::Nothing);
    }
}
