//! A TLS front of a server. Of a Temporal server, as clusters have one: it terminates TLS, may
//! ask for client certificates, and lets only requests through that have the right API key.
//! What becomes of requests of one name a test may say: they wait, or are refused. Of any other
//! server: it passes on what is inside.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::certificates::{Authority, Certificate};

/// A front on a loopback port. It ends when it is dropped.
pub struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    /// The server behind, `HOST:PORT`.
    upstream: String,
    /// Whether what is said is not looked at.
    bytes: bool,
    rules: Mutex<Rules>,
    /// What becomes of requests, by their names; the others pass.
    fates: watch::Sender<HashMap<String, Fate>>,
    /// The certificates of the clients that connected, in turn.
    clients: Mutex<Vec<Vec<u8>>>,
    stop: CancellationToken,
}

struct Rules {
    tls: Arc<ServerConfig>,
    api_key: Option<String>,
    /// Cancelled to cut the connections that were made under these rules.
    cut: CancellationToken,
}

/// What becomes of a request.
#[derive(Clone, Copy)]
enum Fate {
    /// It waits until it may pass.
    Held,
    /// It waits for so long.
    Slow(Duration),
    /// It is refused with that code of gRPC.
    Refused(&'static str),
}

/// TLS with that certificate; clients have one of that authority, where there is any.
fn tls(own: &Certificate, clients: Option<&Authority>, bytes: bool) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            let root = CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap();
            roots.add(root).unwrap();
            let roots = Arc::new(roots);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
        None => builder.with_no_client_auth(),
    };
    let chain = vec![CertificateDer::from(own.der.clone())];
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    if !bytes {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    Arc::new(config)
}

impl Front {
    /// Starts one before the server at that address, with that certificate.
    pub async fn start(upstream: &str, own: &Certificate, clients: Option<&Authority>) -> Self {
        Self::launch(upstream, false, own, clients).await
    }

    /// As [`start`](Self::start), whatever protocol is spoken there.
    pub async fn of_bytes(upstream: &str, own: &Certificate) -> Self {
        Self::launch(upstream, true, own, None).await
    }

    async fn launch(
        upstream: &str,
        bytes: bool,
        own: &Certificate,
        clients: Option<&Authority>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            bytes,
            rules: Mutex::new(Rules {
                tls: tls(own, clients, bytes),
                api_key: None,
                cut: stop.child_token(),
            }),
            fates: watch::Sender::new(HashMap::new()),
            clients: Mutex::default(),
            stop: stop.clone(),
        });
        tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            _stop: stop.drop_guard(),
        }
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on each request must have that API key.
    pub fn require_api_key(&self, key: &str) {
        self.shared.rules.lock().unwrap().api_key = Some(key.to_owned());
    }

    /// Cuts all connections, and takes new ones with that certificate only.
    pub fn replace_tls(&self, own: &Certificate, clients: Option<&Authority>) {
        let mut rules = self.shared.rules.lock().unwrap();
        rules.tls = tls(own, clients, self.shared.bytes);
        rules.cut.cancel();
        rules.cut = self.shared.stop.child_token();
    }

    /// From now on requests of that name, the last part of their path, wait until they may
    /// [`pass`](Self::pass). The server does not see those that their clients give up meanwhile.
    pub fn hold(&self, name: &str) {
        self.treat(name, Fate::Held);
    }

    /// From now on requests of that name come to the server so much later, or not at all where
    /// their clients give them up meanwhile.
    pub fn slow(&self, name: &str, by: Duration) {
        self.treat(name, Fate::Slow(by));
    }

    /// From now on requests of that name are refused with that code of gRPC.
    pub fn refuse(&self, name: &str, code: &'static str) {
        self.treat(name, Fate::Refused(code));
    }

    fn treat(&self, name: &str, fate: Fate) {
        self.shared.fates.send_modify(|fates| {
            fates.insert(name.to_owned(), fate);
        });
    }

    /// From now on requests of that name pass, also those that were held.
    pub fn pass(&self, name: &str) {
        self.shared.fates.send_modify(|fates| {
            fates.remove(name);
        });
    }

    /// Whether the last client to connect had that certificate.
    pub fn last_client_is(&self, certificate: &Certificate) -> bool {
        let clients = self.shared.clients.lock().unwrap();
        clients.last() == Some(&certificate.der)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let tcp = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => tcp,
                Err(_) => continue,
            },
            () = shared.stop.cancelled() => return,
        };
        let (tls, cut) = {
            let rules = shared.rules.lock().unwrap();
            (Arc::clone(&rules.tls), rules.cut.clone())
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(cut.run_until_cancelled_owned(async move {
            // A client that is refused, or goes away, is no failure of the front.
            let _ = serve(tcp, tls, shared).await;
        }));
    }
}

async fn serve(tcp: TcpStream, tls: Arc<ServerConfig>, shared: Arc<Shared>) -> anyhow::Result<()> {
    let stream = TlsAcceptor::from(tls).accept(tcp).await?;
    if let Some([client, ..]) = stream.get_ref().1.peer_certificates() {
        shared.clients.lock().unwrap().push(client.to_vec());
    }
    let mut behind = TcpStream::connect(&shared.upstream).await?;
    if shared.bytes {
        let mut stream = stream;
        tokio::io::copy_bidirectional(&mut stream, &mut behind).await?;
        return Ok(());
    }
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(behind)).await?;
    // It ends with the last sender.
    tokio::spawn(connection);
    let service = service_fn(move |request| forward(request, sender.clone(), Arc::clone(&shared)));
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

async fn forward(
    request: Request<Incoming>,
    mut behind: SendRequest<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, Infallible> {
    let authorization = request.headers().get("authorization").cloned();
    let required = shared.rules.lock().unwrap().api_key.clone();
    if let Some(key) = required
        && authorization.is_none_or(|value| value != format!("Bearer {key}"))
    {
        return Ok(refusal("16", "Request unauthorized."));
    }
    let path = request.uri().path();
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    let mut fates = shared.fates.subscribe();
    let fate = fates.borrow().get(&name).copied();
    // All of this is dropped where the client gives the request up.
    match fate {
        None => {}
        Some(Fate::Held) => {
            // It cannot fail: who tells it is shared.
            let _ = fates.wait_for(|fates| !fates.contains_key(&name)).await;
        }
        Some(Fate::Slow(by)) => tokio::time::sleep(by).await,
        Some(Fate::Refused(code)) => return Ok(refusal(code, "The front refuses it.")),
    }
    Ok(match behind.send_request(request).await {
        Ok(response) => response.map(Body::new),
        Err(_) => refusal("14", "The server behind is away."),
    })
}

/// How gRPC refuses: by a status in the headers of an answer without a body.
fn refusal(code: &str, message: &str) -> Response<Body> {
    Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", code)
        .header("grpc-message", message)
        .body(Body::empty())
        .unwrap()
}
