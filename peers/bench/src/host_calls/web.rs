//! A plain HTTP/1.1 server on loopback, which answers every request with the same page.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Bytes of the page.
pub const PAGE_BYTES: usize = 1 << 10;
static PAGE: [u8; PAGE_BYTES] = [b'x'; PAGE_BYTES];

/// It. It ends when it is dropped, with its connections.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    _accepting: AbortOnDropHandle<()>,
}

impl Server {
    /// Starts it on this runtime.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        Ok(Self {
            address: listener.local_addr()?,
            _accepting: AbortOnDropHandle::new(tokio::spawn(accept(listener))),
        })
    }
}

async fn accept(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // As its clients do; without it an answer would be late, and no less one.
        let _ = stream.set_nodelay(true);
        let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(page));
        connections.spawn(served);
        while connections.try_join_next().is_some() {}
    }
}

async fn page(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(&PAGE))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Connection;

    #[tokio::test]
    async fn a_connection_is_kept_from_page_to_page() {
        let server = Server::start().await.unwrap();
        let mut connection = Connection::open(server.address, None).await.unwrap();
        for path in ["/", "/again"] {
            let page = connection.get(path).await.unwrap();
            assert_eq!(&*page, PAGE);
        }
    }
}
