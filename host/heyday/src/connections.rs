//! The API's connections: accepted, limited, ended.
//!
//! HTTP/1.1, one task a connection. What a stranger may do before the token is looked
//! at is bounded here: how many connections there are (further ones wait in the
//! system's backlog), how long a request's head may take, which is also how long a
//! connection may be idle, and how large the head may be.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

/// Bytes of a request's head, and of what is buffered of a connection.
const HEAD_BYTES: usize = 128 << 10;
/// After an error of accepting (no file descriptor is left) it is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// What a connection may take.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Connections at once, at least 1.
    pub connections: usize,
    /// From a connection's opening, or the end of its last answer, to the end of a
    /// request's head.
    pub head_time: Duration,
}

/// Serves connections until `stop` is cancelled, and then those that are open until
/// they have their answers.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    let places = std::sync::Arc::new(Semaphore::new(limits.connections));
    let open = TaskTracker::new();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, place) = match accepted {
            Ok(accepted) => {
                failing = false;
                accepted
            }
            Err(error) => {
                // Not with each try: a log that fills does not help.
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "connections cannot be accepted; trying again");
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (router, stop) = (router.clone(), stop.clone());
        open.spawn(async move {
            connection(stream, router, limits.head_time, stop).await;
            drop(place);
        });
    }
    drop(listener);
    open.close();
    open.wait().await;
}

async fn accept(
    listener: &TcpListener,
    places: &std::sync::Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = std::sync::Arc::clone(places)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Ok((stream, place)),
            // The client has gone while it waited.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::ConnectionRefused
                ) => {}
            Err(error) => return Err(error),
        }
    }
}

async fn connection(
    stream: TcpStream,
    router: Router,
    head_time: Duration,
    stop: CancellationToken,
) {
    // Answers are small and awaited: they must not wait to be joined with others.
    let _ = stream.set_nodelay(true);
    let service = router.map_request(|request: Request<Incoming>| request.map(Body::new));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(head_time)
        .max_buf_size(HEAD_BYTES);
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        // A client's doing, most often: it went away, or was too slow.
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Longer than anything takes; only a failing test waits for it.
    const PATIENCE: Duration = Duration::from_secs(30);

    async fn server(limits: ConnectionLimits) -> (std::net::SocketAddr, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let router = Router::new().route("/", get(async || "here"));
        tokio::spawn(serve(listener, router, limits, stop.clone()));
        (address, stop)
    }

    /// All that the server says until it closes the connection.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        tokio::time::timeout(PATIENCE, read)
            .await
            .expect("the server closes it")
            .expect("read");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[tokio::test]
    async fn a_head_that_does_not_end_is_not_waited_for() {
        let limits = ConnectionLimits {
            connections: 1,
            head_time: Duration::from_millis(50),
        };
        let (address, stop) = server(limits).await;
        let mut slow = TcpStream::connect(address).await.expect("connected");
        slow.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nx-slow: ")
            .await
            .expect("written");
        // Its place is the only one: this one is served when it was closed.
        let mut next = TcpStream::connect(address).await.expect("connected");
        next.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .await
            .expect("written");
        assert!(!rest(&mut slow).await.contains("here"));
        assert!(rest(&mut next).await.ends_with("here"));
        stop.cancel();
    }

    #[tokio::test]
    async fn further_connections_wait_for_a_place() {
        let limits = ConnectionLimits {
            connections: 1,
            head_time: PATIENCE,
        };
        let (address, stop) = server(limits).await;
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let mut first = TcpStream::connect(address).await.expect("connected");
        first.write_all(request).await.expect("written");
        let mut answer = [0; 12];
        first.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200");
        let mut second = TcpStream::connect(address).await.expect("connected");
        second.write_all(request).await.expect("written");
        let mut answer = [0; 12];
        {
            let early = second.read_exact(&mut answer);
            let waited = tokio::time::timeout(Duration::from_millis(100), early).await;
            waited.expect_err("it has no place yet");
        }
        drop(first);
        tokio::time::timeout(PATIENCE, second.read_exact(&mut answer))
            .await
            .expect("it has the place now")
            .expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200");
        stop.cancel();
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let limits = ConnectionLimits {
            connections: 2,
            head_time: PATIENCE,
        };
        let (address, stop) = server(limits).await;
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let head = format!(
            "GET / HTTP/1.1\r\nhost: a\r\nx-large: {}\r\n\r\n",
            "a".repeat(2 * HEAD_BYTES)
        );
        // The server may close it before all of it is sent.
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = [0; 12];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer))
            .await
            .expect("answered")
            .expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 431");
        stop.cancel();
    }
}
