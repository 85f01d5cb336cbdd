//! Calls of a Weaviate: REST for classes, gRPC for everything else.
//!
//! One connection of each is made when it is first needed, and made again when it is lost.
//! So many calls as the binding allows are under way at once, and no more wait for their
//! turn than there are turns: a slow server holds up nothing but what uses it. The stream of a
//! call that nobody waits for is reset.

use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use reqwest::StatusCode;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value as Json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsConnector;
use tonic::codegen::http::uri::{PathAndQuery, Uri};
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::super::{VectorCode, VectorError, VectorLimits, too_large};
use super::calls::class_path;
use super::config::{Address, Server, WeaviateConfig, WeaviateConfigError};
use super::diagnosis::{Looked, nobodys};
use super::proto::Method;
use crate::credential::CredentialSource;
use crate::diagnosis::{Trouble, clock_of};
use crate::error::chain;
use crate::places::Places;
use crate::tls;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection on which nothing comes for so long is asked whether it still is one.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long a key is used before it is read again.
const KEY_AGE: Duration = Duration::from_secs(1);
/// What an answer may have beyond the bytes of its items.
const OVERHEAD: u64 = 4 << 20;
/// Bytes of an answer of REST: the specifications of all collections of the server.
const REST_BYTES: usize = 64 << 20;

/// Why a call was not answered.
#[derive(Debug)]
pub(super) enum Failed {
    /// In the words of the capability.
    Known(VectorError),
    /// The server refused it; why, it says in words only.
    Refused(String),
}

impl From<VectorError> for Failed {
    fn from(error: VectorError) -> Self {
        Self::Known(error)
    }
}

/// The calls of one binding.
pub(super) struct Client {
    server: Server,
    rest: reqwest::Client,
    grpc: Channel,
    places: Places,
    key: Mutex<Option<(Instant, Arc<str>)>>,
    wait: Duration,
    call_bytes: u64,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("server", &self.server.identity())
            .finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(
        config: &WeaviateConfig,
        full: &str,
        limits: &VectorLimits,
        runtime: &Handle,
    ) -> Result<Self, WeaviateConfigError> {
        let server = Server::new(config, full)?;
        let tls = |wanted: bool| {
            let ca = config.tls_server_ca_cert_path.as_deref();
            let config = wanted.then(|| tls_config(ca)).transpose();
            config.map_err(WeaviateConfigError::Certificates)
        };
        let (rest_tls, grpc_tls) = (tls(server.rest.tls)?, tls(server.grpc.tls)?);
        // Connections are served where they are made.
        let _entered = runtime.enter();
        // Fails only where another part of the process chose one, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut rest = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("heyday/", env!("CARGO_PKG_VERSION")));
        if let Some(config) = rest_tls {
            rest = rest.tls_backend_preconfigured(config);
        }
        let rest = rest.build().map_err(|error| {
            // Without the address, which is in the binding.
            WeaviateConfigError::Certificates(chain(&error.without_url()))
        })?;
        let grpc = channel(&server.grpc, grpc_tls)?;
        Ok(Self {
            server,
            rest,
            grpc,
            places: Places::new(limits.concurrent_calls),
            key: Mutex::default(),
            wait: Duration::from_millis(limits.busy_timeout_ms),
            call_bytes: limits.call_bytes,
        })
    }

    pub(super) fn prefix(&self) -> &str {
        &self.server.prefix
    }

    pub(super) fn identity(&self) -> String {
        self.server.identity()
    }

    /// A turn, for as long as it is kept.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, VectorError> {
        self.places.take(self.wait).await.ok_or_else(|| {
            VectorError::new(
                VectorCode::Unavailable,
                "all calls that the binding allows at once are in use",
            )
        })
    }

    /// The API key, if there is one.
    async fn key(&self) -> Result<Option<Arc<str>>, VectorError> {
        let Some(source) = &self.server.key else {
            return Ok(None);
        };
        let kept = self.kept_key().clone();
        if let Some((since, key)) = kept
            && since.elapsed() < KEY_AGE
        {
            return Ok(Some(key));
        }
        let key: Arc<str> = read_key(source).await?.into();
        *self.kept_key() = Some((Instant::now(), Arc::clone(&key)));
        Ok(Some(key))
    }

    fn kept_key(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Arc<str>)>> {
        // A panic while it was held leaves nothing half-done.
        self.key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls a method of gRPC.
    pub(super) async fn call<M: Method>(&self, message: M) -> Result<M::Reply, Failed> {
        let mut request = tonic::Request::new(message);
        if let Some(key) = self.key().await? {
            let mut value = AsciiMetadataValue::from_str(&format!("Bearer {key}"))
                .map_err(|_| not_let_in("the API key is no text of one line"))?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        let most = usize::try_from(self.call_bytes.saturating_mul(2) + OVERHEAD);
        let mut grpc = tonic::client::Grpc::new(self.grpc.clone())
            .max_decoding_message_size(most.unwrap_or(usize::MAX));
        grpc.ready().await.map_err(|error| away(&chain(&error)))?;
        let codec = tonic_prost::ProstCodec::<M, M::Reply>::default();
        let path = PathAndQuery::from_static(M::PATH);
        let answer = grpc.unary(request, path, codec).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.failed(&status))
    }

    fn failed(&self, status: &Status) -> Failed {
        match status.code() {
            Code::Unavailable | Code::Cancelled | Code::Aborted => away(&chain(status)).into(),
            Code::DeadlineExceeded => VectorError::new(
                VectorCode::Timeout,
                "the store took longer than it allows itself",
            )
            .into(),
            // Of ours, where an answer is too large to be read.
            Code::OutOfRange => too_large(self.call_bytes).into(),
            Code::ResourceExhausted => {
                tracing::warn!(cause = %status.message(), "Weaviate is overloaded");
                VectorError::new(VectorCode::Unavailable, "the store is overloaded").into()
            }
            Code::Unauthenticated | Code::PermissionDenied => not_let_in(status.message()).into(),
            // A key that it does not know (1.35): a plain error, which has no code.
            Code::Unknown if status.message().starts_with("extract auth: ") => {
                not_let_in(status.message()).into()
            }
            // Connections that are lost in the middle come so.
            _ if std::error::Error::source(status).is_some() => away(&chain(status)).into(),
            _ => Failed::Refused(status.message().to_owned()),
        }
    }

    /// What the server says of itself; why not, is for an operator.
    pub(super) async fn look(&self) -> Result<Looked, Trouble> {
        let answer = self.ask(reqwest::Method::GET, "/v1/meta").await?;
        let clock_ms = clock_of(answer.headers());
        let meta: Json = answer.json().await.map_err(|error| {
            Trouble::reach(
                chain(&error.without_url()),
                "look whether a Weaviate listens at the binding's `weaviate.url`",
            )
        })?;
        let version = meta["version"].as_str().unwrap_or("of an unknown version");
        Ok(Looked {
            version: version.to_owned(),
            clock_ms,
        })
    }

    /// Whether its key may delete a class of the binding: one that is not there.
    pub(super) async fn may_write(&self) -> Result<(), Trouble> {
        let path = class_path(&nobodys(self));
        self.ask(reqwest::Method::DELETE, &path).await.map(drop)
    }

    /// An answer of REST, also that there is no such thing.
    async fn ask(&self, method: reqwest::Method, path: &str) -> Result<reqwest::Response, Trouble> {
        let mut request = self.rest.request(method, self.server.rest.url(path));
        let key = self.key().await.map_err(|_| Trouble {
            check: "rights",
            found: "the API key cannot be read".to_owned(),
            advice: "correct the binding's `weaviate.api_key_file` or `api_key_env`".to_owned(),
        })?;
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        let answer = request.send().await.map_err(|error| {
            Trouble::reach(
                chain(&error.without_url()),
                "start the server, or correct the binding's `weaviate.url` or its certificates",
            )
        })?;
        match answer.status() {
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(Trouble {
                check: "rights",
                found: format!("it answered {status}"),
                advice: "correct the API key, or give its user the right to the binding's classes"
                    .to_owned(),
            }),
            status if status.is_server_error() => Err(Trouble::reach(
                format!("it answered {status}"),
                "look into the server's log",
            )),
            _ => Ok(answer),
        }
    }

    /// Calls REST: the status, and the JSON that was answered.
    pub(super) async fn rest(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&Json>,
    ) -> Result<(StatusCode, Json), VectorError> {
        let mut request = self.rest.request(method, self.server.rest.url(path));
        if let Some(key) = self.key().await? {
            request = request.bearer_auth(key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let broken = |error: reqwest::Error| away(&chain(&error.without_url()));
        let mut response = request.send().await.map_err(broken)?;
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(not_let_in(status.as_str()));
        }
        if status.is_server_error() {
            return Err(away(&format!("it answered {status}")));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            if bytes.len() + chunk.len() > REST_BYTES {
                return Err(VectorError::internal("an answer of Weaviate is too large"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok((status, serde_json::from_slice(&bytes).unwrap_or_default()))
    }
}

/// The error of a server that cannot be reached; the log has the cause.
pub(super) fn away(cause: &str) -> VectorError {
    tracing::warn!(cause, "Weaviate cannot be reached");
    VectorError::new(VectorCode::Unavailable, "the store cannot be reached")
}

/// The error of a server that does not let the host in.
pub(super) fn not_let_in(cause: &str) -> VectorError {
    tracing::warn!(cause, "Weaviate does not let this host in");
    VectorError::new(
        VectorCode::Unavailable,
        "the store does not let the host in",
    )
}

async fn read_key(source: &CredentialSource) -> Result<String, VectorError> {
    source.read().await.map_err(|cause| not_let_in(&cause))
}

fn tls_config(ca: Option<&Path>) -> Result<ClientConfig, String> {
    tls::client_config(ca)
}

/// What is read and written, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection of gRPC that is made when it is needed.
fn channel(address: &Address, tls: Option<ClientConfig>) -> Result<Channel, WeaviateConfigError> {
    let tls = tls
        .map(|mut config| {
            config.alpn_protocols = vec![b"h2".to_vec()];
            let name = match address.host.parse::<IpAddr>() {
                Ok(ip) => ServerName::from(ip),
                Err(_) => ServerName::try_from(address.host.clone())
                    .map_err(|error| WeaviateConfigError::Certificates(error.to_string()))?,
            };
            Ok((TlsConnector::from(Arc::new(config)), name))
        })
        .transpose()?;
    let (host, port) = (address.host.clone(), address.port);
    let connect = tower::service_fn(move |_| {
        let (tls, host) = (tls.clone(), host.clone());
        async move {
            let plain = TcpStream::connect((host.as_str(), port)).await?;
            plain.set_nodelay(true)?;
            let stream: Box<dyn Stream> = match tls {
                None => Box::new(plain),
                Some((connector, name)) => Box::new(connector.connect(name, plain).await?),
            };
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let wrong = |_| WeaviateConfigError::Url("grpc_url", "it is no address");
    let origin = address.url("").parse::<Uri>().map_err(wrong)?;
    // TLS is the connector's matter: of an https address tonic would make its own.
    let endpoint = Endpoint::from_shared(format!("http://{}", address.authority()))
        .map_err(|_| WeaviateConfigError::Url("grpc_url", "it is no address"))?
        .origin(origin)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(CONNECT_TIMEOUT);
    Ok(endpoint.connect_with_connector_lazy(connect))
}
