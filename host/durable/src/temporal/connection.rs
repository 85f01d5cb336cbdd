//! How a connection to the cluster is made, and what it shows of the cluster.

use std::time::{Duration, Instant};

use super::access::Credentials;
use super::client::describe_status;
use super::options::TemporalOptions;
use super::sdk::{self, WorkflowService as _};

/// How long a cluster that is busy, or a process that is, may leave a ping without an answer.
/// With the connection all polls end, and tasks that are on their way in answers to them are
/// given out again only when their time is over. Where a cluster is gone without a word, the
/// connection stays for this time and half as long again, and what is asked on it fails by
/// the patience of requests; so `worker::follow` makes another one beside it before.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Reads what a connection is made of; says why it cannot.
pub(super) async fn read(options: &TemporalOptions) -> Result<Credentials, String> {
    let options = options.clone();
    let read = tokio::task::spawn_blocking(move || options.read_credentials());
    match read.await {
        Ok(credentials) => credentials.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Makes a connection; says why it cannot.
pub(super) async fn make(
    options: &TemporalOptions,
    credentials: &Credentials,
) -> Result<sdk::Connection, String> {
    let headers = &options.access.headers;
    let connecting = sdk::ConnectionOptions::new(options.url().map_err(|error| error.to_string())?)
        .identity(format!(
            "heyday-{}@{}",
            env!("CARGO_PKG_VERSION"),
            std::process::id()
        ))
        .connect_timeout(options.patience)
        .keep_alive(Some(
            sdk::ClientKeepAliveOptions::builder()
                .timeout(KEEP_ALIVE)
                .build(),
        ))
        .maybe_tls_options(options.access.tls_options(credentials))
        .maybe_api_key(credentials.api_key().map(str::to_owned))
        .headers(headers.clone().into_iter().collect())
        // Large values go by reference: what is left is too small to be worth the time that
        // both ends take to pack it.
        .grpc_compression(sdk::GrpcCompression::None)
        .build();
    sdk::Connection::connect(connecting)
        .await
        .map_err(|error| reason(&error))
}

/// A cluster as it looks from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The server's version.
    pub version: String,
    /// How long it took until it answered first, the connection included.
    pub connected_in: Duration,
    /// How long each of some further questions took.
    pub answered_in: Vec<Duration>,
    /// How long each namespace keeps runs that ended, by Temporal's names; `None` where
    /// it does not say.
    pub retention: Vec<(String, Option<Duration>)>,
}

/// How many times the cluster is asked for its latency.
const ASKED: usize = 5;

/// Connects to the cluster and looks at the namespaces; takes no tasks.
///
/// # Errors
/// Why not, in words for an operator; never a credential.
pub async fn look(options: &TemporalOptions) -> Result<Cluster, String> {
    let looking = async {
        let begun = Instant::now();
        let credentials = read(options).await?;
        let mut connection = make(options, &credentials).await?;
        let info = connection.get_system_info(sdk::Request::new(sdk::GetSystemInfoRequest {}));
        let info = info.await.map_err(|status| refused(&status))?.into_inner();
        let connected_in = begun.elapsed();
        let mut answered_in = Vec::with_capacity(ASKED);
        for _ in 0..ASKED {
            let begun = Instant::now();
            let info = connection.get_system_info(sdk::Request::new(sdk::GetSystemInfoRequest {}));
            info.await.map_err(|status| refused(&status))?;
            answered_in.push(begun.elapsed());
        }
        let mut retention = Vec::new();
        for namespace in options.namespaces.values() {
            let request = sdk::Request::new(sdk::DescribeNamespaceRequest {
                namespace: namespace.clone(),
                ..sdk::DescribeNamespaceRequest::default()
            });
            let described = connection.describe_namespace(request).await;
            let described = described
                .map_err(|status| format!("the namespace {namespace}: {}", refused(&status)))?;
            let config = described.into_inner().config.unwrap_or_default();
            let kept = config.workflow_execution_retention_ttl;
            let kept = kept.and_then(|kept| Duration::try_from(kept).ok());
            retention.push((namespace.clone(), kept));
        }
        Ok(Cluster {
            version: info.server_version,
            connected_in,
            answered_in,
            retention,
        })
    };
    tokio::time::timeout(options.patience * 2, looking)
        .await
        .unwrap_or_else(|_| Err("no answer came in time".to_owned()))
}

/// An error with its causes, in one line.
fn reason(error: &sdk::ClientConnectError) -> String {
    if let sdk::ClientConnectError::SystemInfoCallError(status) = error {
        return refused(status);
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = next.to_string();
        cause = next.source();
    }
    text
}

/// What a refusal says, and whether it is about who asks.
pub(super) fn refused(status: &sdk::Status) -> String {
    let said = describe_status(status);
    match status.code() {
        sdk::Code::PermissionDenied | sdk::Code::Unauthenticated => {
            format!("it refuses this server's credentials: {said}")
        }
        _ => said,
    }
}
