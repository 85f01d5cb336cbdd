//! One kept connection to a server on loopback: as little client as there can be, so that
//! the server is what is measured.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// A connection.
pub struct Connection {
    address: SocketAddr,
    token: Option<String>,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr, token: Option<&str>) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // An error shows at the request that meets it.
            let _ = connection.await;
        });
        Ok(Self {
            address,
            token: token.map(str::to_owned),
            sender,
        })
    }

    /// Sends a request; answers the body of a successful answer.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> anyhow::Result<Bytes> {
        let mut request = Request::builder()
            .method(&method)
            .uri(path)
            .header(header::HOST, self.address.to_string());
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.sender.ready().await?;
        let response = self
            .sender
            .send_request(request.body(Full::new(body))?)
            .await
            .with_context(|| format!("{method} {path}"))?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            bail!(
                "{method} {path}: {status}: {}",
                String::from_utf8_lossy(&body)
            );
        }
        Ok(body)
    }

    /// Sends JSON.
    pub async fn post(&mut self, path: &str, body: &'static str) -> anyhow::Result<Bytes> {
        let body = Bytes::from_static(body.as_bytes());
        self.send(Method::POST, path, "application/json", body)
            .await
    }

    /// Asks for something.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Bytes> {
        self.send(Method::GET, path, "", Bytes::new()).await
    }

    /// Asks for JSON.
    pub async fn get_json(&mut self, path: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&self.get(path).await?)?)
    }
}
