//! `wasi:http`.

use std::time::Duration;

use wasip2::http::outgoing_handler;
use wasip2::http::types::{self as wit, ErrorCode};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

use crate::error::CapabilityError;
use crate::http::{Answer, Body, Outgoing, invalid};

type Result<T> = std::result::Result<T, CapabilityError>;

/// What is written at once.
const CHUNK: usize = 64 << 10;

fn method(name: &str) -> wit::Method {
    match name {
        "GET" => wit::Method::Get,
        "HEAD" => wit::Method::Head,
        "POST" => wit::Method::Post,
        "PUT" => wit::Method::Put,
        "DELETE" => wit::Method::Delete,
        "CONNECT" => wit::Method::Connect,
        "OPTIONS" => wit::Method::Options,
        "TRACE" => wit::Method::Trace,
        "PATCH" => wit::Method::Patch,
        other => wit::Method::Other(other.to_owned()),
    }
}

fn retryable(code: &str, message: &str) -> CapabilityError {
    CapabilityError {
        retryable: true,
        ..CapabilityError::new(code, message)
    }
}

fn error(code: &ErrorCode, denied: &CapabilityError) -> CapabilityError {
    let limit = |what: &str, limit: &Option<u64>| {
        let limit = limit.map_or_else(String::new, |limit| format!(" of {limit} bytes"));
        CapabilityError::new("limit-exceeded", format!("{what} passed the limit{limit}"))
    };
    match code {
        ErrorCode::HttpRequestDenied => denied.clone(),
        ErrorCode::DestinationIpProhibited => CapabilityError::new(
            "capability-denied",
            "the address is not a public one: a grant must name the address itself",
        ),
        ErrorCode::DnsTimeout | ErrorCode::DnsError(_) => {
            retryable("unavailable", "the name has no address")
        }
        ErrorCode::DestinationUnavailable => retryable(
            "unavailable",
            "there is no connection, or too many requests to there are under way",
        ),
        ErrorCode::DestinationNotFound
        | ErrorCode::DestinationIpUnroutable
        | ErrorCode::ConnectionRefused
        | ErrorCode::ConnectionTerminated
        | ErrorCode::HttpResponseIncomplete => {
            retryable("unavailable", "the connection failed, or was lost")
        }
        ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseTimeout => {
            retryable("timeout", "the other side said nothing for too long")
        }
        ErrorCode::ConnectionLimitReached => CapabilityError::new(
            "limit-exceeded",
            "the attempt has too many requests open: drop some responses first",
        ),
        ErrorCode::HttpRequestBodySize(bytes) => limit("the request's body", bytes),
        ErrorCode::HttpResponseBodySize(bytes) => limit("the response's body", bytes),
        ErrorCode::HttpRequestMethodInvalid
        | ErrorCode::HttpRequestUriInvalid
        | ErrorCode::HttpRequestUriTooLong => invalid("the host takes no such URL or method"),
        ErrorCode::InternalError(_) if crate::host::is_cancelled() => {
            CapabilityError::new("cancelled", "the attempt was asked to stop")
        }
        other => CapabilityError::new("internal", format!("the request failed: {other:?}")),
    }
}

/// Why a stream ended early.
fn stream_error(failed: &wasip2::io::error::Error, denied: &CapabilityError) -> CapabilityError {
    match wit::http_error_code(failed) {
        Some(code) => error(&code, denied),
        None => retryable("unavailable", "the connection was lost"),
    }
}

/// A response's body. The stream goes before what it is a part of.
#[derive(Debug)]
pub(crate) struct Incoming {
    stream: Option<InputStream>,
    _body: wit::IncomingBody,
    _response: wit::IncomingResponse,
    denied: CapabilityError,
}

impl Incoming {
    /// The next bytes, at most so many; none at the end.
    pub(crate) fn read(&mut self, max: usize) -> Result<Vec<u8>> {
        let Some(stream) = &self.stream else {
            return Ok(Vec::new());
        };
        loop {
            match stream.blocking_read(max as u64) {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Ok(bytes),
                Err(StreamError::Closed) => {
                    self.stream = None;
                    return Ok(Vec::new());
                }
                Err(StreamError::LastOperationFailed(failed)) => {
                    self.stream = None;
                    return Err(stream_error(&failed, &self.denied));
                }
            }
        }
    }
}

/// Writes a piece; answers whether the host still takes any.
fn write(stream: &OutputStream, mut bytes: &[u8], denied: &CapabilityError) -> Result<bool> {
    while !bytes.is_empty() {
        let room = match stream.check_write() {
            Ok(0) => {
                stream.subscribe().block();
                continue;
            }
            Ok(room) => usize::try_from(room).unwrap_or(usize::MAX),
            // The answer, or why there is none, is there before the body was sent.
            Err(StreamError::Closed) => return Ok(false),
            Err(StreamError::LastOperationFailed(failed)) => {
                return Err(stream_error(&failed, denied));
            }
        };
        let (piece, rest) = bytes.split_at(bytes.len().min(room).min(CHUNK));
        match stream.write(piece) {
            Ok(()) => bytes = rest,
            Err(StreamError::Closed) => return Ok(false),
            Err(StreamError::LastOperationFailed(failed)) => {
                return Err(stream_error(&failed, denied));
            }
        }
    }
    Ok(true)
}

/// Writes the whole body, and says that it is whole.
fn send_body(outgoing: wit::OutgoingBody, body: Body, denied: &CapabilityError) -> Result<()> {
    let stream = outgoing
        .write()
        .map_err(|()| invalid("the body is written already"))?;
    let taken = match body {
        Body::Bytes(bytes) => write(&stream, &bytes, denied)?,
        Body::Stream(mut source) => {
            let mut piece = vec![0; CHUNK];
            loop {
                let count = match source.read(&mut piece) {
                    Ok(0) => break true,
                    Ok(count) => count,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(error) => {
                        return Err(invalid(format!("the body cannot be read: {error}")));
                    }
                };
                if !write(&stream, &piece[..count], denied)? {
                    break false;
                }
            }
        }
    };
    drop(stream);
    if taken {
        wit::OutgoingBody::finish(outgoing, None).map_err(|code| error(&code, denied))?;
    }
    Ok(())
}

fn fields(headers: &[(String, Vec<u8>)], body: &Body) -> Result<wit::Fields> {
    let fields = wit::Fields::new();
    for (name, value) in headers {
        fields.append(name, value).map_err(|error| match error {
            wit::HeaderError::Forbidden => invalid(format!("the header {name} is the host's")),
            _ => invalid(format!("the header {name} is none")),
        })?;
    }
    let has_length = headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if let Body::Bytes(bytes) = body
        && !bytes.is_empty()
        && !has_length
    {
        let length = bytes.len().to_string();
        fields
            .append("content-length", length.as_bytes())
            .map_err(|_| invalid("the body's length cannot be said"))?;
    }
    Ok(fields)
}

pub(crate) fn send(request: Outgoing) -> Result<Answer> {
    let denied = request.denied();
    let outgoing = wit::OutgoingRequest::new(fields(&request.headers, &request.body)?);
    let (scheme, url) = match request.url.secure {
        true => (wit::Scheme::Https, &request.url),
        false => (wit::Scheme::Http, &request.url),
    };
    let set = outgoing
        .set_method(&method(&request.method))
        .and_then(|()| outgoing.set_scheme(Some(&scheme)))
        .and_then(|()| outgoing.set_authority(Some(&url.authority)))
        .and_then(|()| outgoing.set_path_with_query(Some(&url.path_with_query)));
    set.map_err(|()| invalid("the host takes no such URL or method"))?;
    let options = wit::RequestOptions::new();
    if let Some(timeout) = request.timeout {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let set = options
            .set_first_byte_timeout(Some(nanoseconds(timeout)))
            .and_then(|()| options.set_between_bytes_timeout(Some(nanoseconds(timeout))));
        set.map_err(|()| invalid("the host takes no timeout"))?;
    }
    let has_body = match &request.body {
        Body::Bytes(bytes) => !bytes.is_empty(),
        Body::Stream(_) => true,
    };
    let body = match has_body {
        true => {
            let body = outgoing.body();
            Some(body.map_err(|()| invalid("the body's length is none"))?)
        }
        false => None,
    };
    let response =
        outgoing_handler::handle(outgoing, Some(options)).map_err(|code| error(&code, &denied))?;
    if let Some(body) = body {
        send_body(body, request.body, &denied)?;
    }
    response.subscribe().block();
    let answered = match response.get() {
        Some(Ok(answered)) => answered.map_err(|code| error(&code, &denied))?,
        _ => {
            return Err(CapabilityError::new(
                "internal",
                "the host answered nothing",
            ));
        }
    };
    let body = answered
        .consume()
        .map_err(|()| CapabilityError::new("internal", "the response has no body"))?;
    let stream = body
        .stream()
        .map_err(|()| CapabilityError::new("internal", "the body has no stream"))?;
    Ok(Answer {
        status: answered.status(),
        headers: answered.headers().entries(),
        body: Incoming {
            stream: Some(stream),
            _body: body,
            _response: answered,
            denied,
        },
    })
}
