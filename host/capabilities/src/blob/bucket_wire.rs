//! What the requests that we send to stores ourselves have in common.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, SERVER};
use tokio::time::timeout;

use super::bucket_config::SILENCE;
use super::{BlobCode, BlobError, StoreServer};
use crate::diagnosis::clock_of;
use crate::error::chain;

/// Bytes of the largest answer: 1,000 keys of 1,024 bytes, each as `%XX`, and the rest.
const ANSWER_BYTES: usize = 8 << 20;
/// Waits before a request is sent again, where the store failed.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];

/// The waits of one request that is sent again.
pub(super) struct Pauses(std::array::IntoIter<Duration, 2>);

impl Pauses {
    pub(super) fn new() -> Self {
        Self(PAUSES.into_iter())
    }

    /// Waits, or says that there was enough of it.
    pub(super) async fn pause(&mut self) -> bool {
        match self.0.next() {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                true
            }
            None => false,
        }
    }
}

/// The body of an answer.
pub(super) async fn body(mut response: reqwest::Response) -> Result<Bytes, String> {
    // The address may be signed: whoever has it can do what it says.
    let told = |error: reqwest::Error| chain(&error.without_url());
    let mut body = BytesMut::new();
    loop {
        // Not all clients have a limit of their own.
        let chunk = timeout(SILENCE, response.chunk()).await;
        let chunk = chunk.map_err(|_| "its answer does not end".to_owned())?;
        let Some(chunk) = chunk.map_err(told)? else {
            return Ok(body.freeze());
        };
        if body.len() + chunk.len() > ANSWER_BYTES {
            return Err("its answer is too large".to_owned());
        }
        body.extend_from_slice(&chunk);
    }
}

/// What a server says of itself in any answer.
pub(super) fn server(headers: &HeaderMap) -> StoreServer {
    let header = |name| headers.get(name)?.to_str().ok();
    StoreServer {
        name: header(SERVER).map(str::to_owned),
        clock_ms: clock_of(headers),
    }
}

/// An answer that is not what was asked for.
pub(super) fn fault(status: StatusCode, body: &[u8]) -> BlobError {
    let text = String::from_utf8_lossy(body);
    let cause = format!("{status}: {}", text.get(..500).unwrap_or(&text));
    if matches!(status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) {
        return refused(cause);
    }
    away(cause)
}

/// The store's fault, with its cause in the log.
pub(super) fn away(cause: impl std::fmt::Display) -> BlobError {
    tracing::warn!(%cause, "an object store does not do what it is asked");
    BlobError::new(
        BlobCode::Unavailable,
        "the store cannot be reached, or failed",
    )
}

/// The store does not let the binding in.
pub(super) fn refused(cause: impl std::fmt::Display) -> BlobError {
    tracing::warn!(%cause, "an object store refuses a binding");
    BlobError::new(
        BlobCode::Unavailable,
        "the store refuses the binding's credentials; its operator must look",
    )
}
