//! Bodies of plugins' requests and responses: counted, limited, and ended with their call.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use heyday_sandbox::HostCall;
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use url::Url;
use wasmtime_wasi_http::{Error, WasiBody};

use super::HttpPlace;
use super::client::{BodyTooLarge, translate};
use super::host::{error_of, stopped};
use crate::call::Place;

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a guest's request. A guest that writes slowly is held up by its own
/// deadline, and by the silence that the other side allows.
pub(super) fn outgoing(body: WasiBody, limit: u64, written: Arc<AtomicU64>) -> reqwest::Body {
    if body.size_hint().exact() == Some(0) {
        return reqwest::Body::default();
    }
    let mut sent = 0_u64;
    let frames = BodyStream::new(body);
    reqwest::Body::wrap_stream(frames.map(move |frame| -> Result<Bytes, BoxedError> {
        // Trailers are not sent on: HTTP/1.1 has them only where both sides said so.
        let bytes = frame?.into_data().unwrap_or_default();
        sent += bytes.len() as u64;
        if sent > limit {
            return Err(BodyTooLarge(limit).into());
        }
        written.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        Ok(bytes)
    }))
}

/// A response's body while it is read.
pub(super) struct Incoming {
    pub(super) bytes: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    pub(super) url: Url,
    /// Its method and host, as [`asked_for`](super::asked_for) writes them.
    pub(super) asked: String,
    /// The call that the body belongs to: it ends with it.
    pub(super) call: HostCall,
    /// Its place among the attempt's requests.
    pub(super) _place: Place,
    /// And among all that go there.
    pub(super) _turn: Option<HttpPlace>,
    pub(super) limit: u64,
    pub(super) silence: Duration,
    pub(super) read: Arc<AtomicU64>,
}

impl Incoming {
    /// The body as the guest reads it.
    pub(super) fn body(self) -> WasiBody {
        let frames = stream::unfold(Some((self, 0)), |state| async move {
            let (mut incoming, before) = state?;
            match incoming.next(before).await {
                Ok(None) => None,
                Ok(Some((bytes, read))) => Some((Ok(Frame::data(bytes)), Some((incoming, read)))),
                // Nothing comes after an error; the connection is closed.
                Err(error) => Some((Err(error), None)),
            }
        });
        StreamBody::new(frames).boxed_unsync()
    }

    /// The next bytes, and how many there were with them.
    async fn next(&mut self, before: u64) -> Result<Option<(Bytes, u64)>, Error> {
        let next = tokio::time::timeout(self.silence, self.bytes.next());
        let next = self.call.run(next).await;
        let next = next.map_err(|why| stopped(why, &self.call, &self.asked))?;
        let Some(bytes) = next.map_err(|_| Error::ConnectionReadTimeout)? else {
            return Ok(None);
        };
        let bytes = bytes.map_err(|error| error_of(&translate(&error, &self.url)))?;
        let read = before + bytes.len() as u64;
        if read > self.limit {
            self.call.failed("too-large");
            return Err(Error::HttpResponseBodySize(Some(self.limit)));
        }
        self.read.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        Ok(Some((bytes, read)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use reqwest::Method;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::http::client::Outgoing;
    use crate::http::{HttpClient, HttpError, HttpPolicy};

    /// A body of so many pieces of 1,000 bytes.
    fn pieces(count: usize) -> WasiBody {
        let piece = || Ok(Frame::data(Bytes::from(vec![7; 1_000])));
        let pieces = stream::iter(std::iter::repeat_with(piece).take(count));
        StreamBody::new(pieces).boxed_unsync()
    }

    #[tokio::test]
    async fn a_body_that_is_too_large_ends_its_request() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        // Takes whatever comes, and never answers.
        let taken = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut taken = Vec::new();
            let _ = stream.read_to_end(&mut taken).await;
            taken.len()
        });
        let policy = HttpPolicy::parse([format!("POST:{address}").as_str()]).expect("a rule");
        let written = Arc::new(AtomicU64::new(0));
        let begun = Instant::now();
        let request = Outgoing {
            method: Method::POST,
            url: format!("http://{address}/").parse().expect("a URL"),
            headers: reqwest::header::HeaderMap::new(),
            body: outgoing(pieces(1_000_000), 5_500, Arc::clone(&written)),
        };
        let client = HttpClient::new().expect("a client");
        let answer = client.send(request, &policy).await;
        assert_eq!(answer.err(), Some(HttpError::TooLarge(5_500)));
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert_eq!(written.load(Ordering::Acquire), 5_000);
        let taken = taken.await.expect("it ended");
        assert!(taken < 7_000, "{taken}");
    }
}
