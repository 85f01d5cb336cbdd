//! How the requests to a bucket's store are sent, and when a store that keeps silent is left.
//!
//! Silent is one that takes no bytes and answers nothing. The client's own limit for that runs
//! from the begin of a request, while its body is sent too, and would end every large one on a
//! slow way. So those go by a client without it, in pieces; the time begins again with each
//! that is taken.

use std::convert::Infallible;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use object_store::client::{HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService};
use reqwest::{Client, ClientBuilder, RequestBuilder, Response};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::bucket_config::BucketConfigError;
use super::bucket_wire;
use crate::error::chain;
use crate::tls::client_config;

/// Bytes of a piece of a body, and of the largest body that is sent whole.
const PIECE: usize = 64 << 10;

/// What sends the requests of a binding.
#[derive(Debug, Clone)]
pub(super) struct Http {
    /// For those without a body, or with a small one; it makes the others too.
    pub(super) client: Client,
    /// Sends those with a large one.
    uploads: Client,
    silence: Duration,
    moves: Moves,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub(super) struct Failed {
    pub(super) cause: String,
    /// Whether the store cannot have done it.
    pub(super) undone: bool,
}

impl Failed {
    fn of(error: reqwest::Error) -> Self {
        Self {
            undone: error.is_connect(),
            // The address may be signed: whoever has it can do what it says.
            cause: chain(&error.without_url()),
        }
    }
}

impl Http {
    /// With the certificates of that file. `silence`: how long the store may keep silent.
    pub(super) fn new(ca: Option<&Path>, silence: Duration) -> Result<Self, BucketConfigError> {
        let tls = client_config(ca).map_err(BucketConfigError::Certificates)?;
        let client = |builder: ClientBuilder| {
            builder
                .tls_backend_preconfigured(tls.clone())
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .connect_timeout(Duration::from_secs(5))
                .pool_idle_timeout(Duration::from_secs(30))
                .user_agent(concat!("heyday/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(|error| BucketConfigError::Client(chain(&error)))
        };
        Ok(Self {
            client: client(Client::builder().read_timeout(silence))?,
            uploads: client(Client::builder())?,
            silence,
            moves: Moves::default(),
        })
    }

    /// What tells that bytes of any of its uploads move.
    pub(super) fn moves(&self) -> &Moves {
        &self.moves
    }

    /// Sends a request of `client` with these bytes, until its answer begins.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        bytes: Bytes,
    ) -> Result<Response, Failed> {
        if bytes.len() <= PIECE {
            return request.body(bytes).send().await.map_err(Failed::of);
        }
        let moves = Moves::default();
        let pieces = Pieces {
            rest: bytes,
            moves: [moves.clone(), self.moves.clone()],
        };
        let request = request.body(reqwest::Body::wrap(pieces)).build();
        let sent = self.uploads.execute(request.map_err(Failed::of)?);
        match moves.wait(self.silence, sent).await {
            Some(sent) => sent.map_err(Failed::of),
            None => Err(Failed {
                cause: format!(
                    "for {:?} it took no bytes of a request, nor answered it",
                    self.silence
                ),
                undone: false,
            }),
        }
    }
}

/// For the requests of `object_store`.
#[async_trait]
impl HttpService for Http {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if request.body().content_length() <= PIECE {
            return HttpService::call(&self.client, request).await;
        }
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await?.to_bytes();
        let request = self.client.request(parts.method, parts.uri.to_string());
        let sent = self.send(request.headers(parts.headers), bytes).await;
        let response = sent.map_err(|failed| {
            let kind = if failed.undone {
                HttpErrorKind::Connect
            } else {
                HttpErrorKind::Interrupted
            };
            HttpError::new(kind, failed)
        })?;
        let (status, headers) = (response.status(), response.headers().clone());
        // What is said of an upload is short.
        let body = bucket_wire::body(response).await.map_err(|cause| {
            let undone = false;
            HttpError::new(HttpErrorKind::Interrupted, Failed { cause, undone })
        })?;
        let mut answer = HttpResponse::new(body.into());
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }
}

/// Tells that bytes move.
#[derive(Debug, Clone, Default)]
pub struct Moves(Arc<Notify>);

impl Moves {
    /// What comes of some work, unless nothing moves for so long before.
    pub(super) async fn wait<F: Future>(&self, still: Duration, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                () = self.0.notified() => {}
                () = sleep(still) => return None,
            }
        }
    }
}

/// A body that is handed over piece by piece: the next is asked for when there is room, which
/// is when those before it were taken.
struct Pieces {
    rest: Bytes,
    /// Who is told.
    moves: [Moves; 2],
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            return Poll::Ready(None);
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE));
        for moves in &this.moves {
            moves.0.notify_waiters();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
#[path = "slow_store_tests.rs"]
mod tests;
