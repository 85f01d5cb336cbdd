//! The real Temporal server on PostgreSQL: four shards, and clients with certificates
//! only.
//!
//! `cargo xtask test` installs both, and names the server's folder in
//! `HEYDAY_TEMPORAL_SERVER` and the one of PostgreSQL's programs in `HEYDAY_POSTGRES`.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use heyday_durable::temporal::{Access, Source};
use prost::Message as _;
use uuid::Uuid;

use super::certificates::{Authority, Files};
use super::keeper::Keeper;
use super::ports::free_ports;
use super::postgres::{self, Postgres, USER, run, until};
use super::server::{PATIENCE, end_with_parent};
use super::temporal;

/// The folder of the server's programs. Without it, or without PostgreSQL, the caller leaves out
/// its tests, and they are [listed](super::not_run).
fn programs() -> Option<PathBuf> {
    let server = super::folder("HEYDAY_TEMPORAL_SERVER");
    // Both are asked for, so that both are told.
    let postgres = postgres::programs();
    server.filter(|_| postgres.is_some())
}

/// The Temporal server and its database. Stopped when it is dropped.
pub struct Cluster {
    /// Before the database, which outlives it.
    server: Child,
    program: PathBuf,
    port: u16,
    files: Files,
    folder: tempfile::TempDir,
    _postgres: Postgres,
}

impl Cluster {
    /// Starts one, and waits until it answers; `None` where there is none to start.
    pub fn start() -> Option<Self> {
        let server = programs()?;
        // Each of its four services has connections of its own to both databases.
        let postgres = Postgres::start(&["max_connections=200"])?;
        let sql = server.join("sql");
        create(&postgres, &sql, "temporal", "postgresql/v12/temporal");
        create(
            &postgres,
            &sql,
            "temporal_visibility",
            "postgresql/v12/visibility",
        );

        let authority = Authority::new("cluster");
        let files = Files::new(&authority);
        files.identify(&authority.issue("client"));
        let folder = tempfile::tempdir().unwrap();
        certify(folder.path(), &authority);
        let ports = free_ports();
        let config = configuration(folder.path(), &files, &postgres, &ports);
        std::fs::write(folder.path().join("test.yaml"), config).unwrap();
        std::fs::write(folder.path().join("dynamic.yaml"), dynamic()).unwrap();

        let program = server.join("server");
        let mut cluster = Self {
            server: launch(&program, folder.path()),
            program,
            port: ports[0],
            files,
            folder,
            _postgres: postgres,
        };
        cluster.wait_until_ready();
        Some(cluster)
    }

    /// Kills the server (-9); its database stays.
    pub fn kill(&mut self) {
        self.server.kill().expect("it is ours");
        self.server.wait().expect("it is ours");
    }

    /// Starts the server again on the same database.
    pub fn launch(&mut self) {
        self.server = launch(&self.program, self.folder.path());
        self.wait_until_ready();
    }

    /// Gives the server and its clients certificates of another authority: the old ones are
    /// refused once the server was [launched](Self::launch) again, which reads them then.
    pub fn renew(&self) {
        let authority = Authority::new("renewed");
        certify(self.folder.path(), &authority);
        self.files.trust(&authority);
        self.files.identify(&authority.issue("renewed-client"));
    }

    fn wait_until_ready(&mut self) {
        let mut server = None;
        until("Temporal answers", || {
            server = self.server.try_wait().expect("it is ours");
            // The tool is asked only once there is somebody to ask: its start takes longer than
            // the look here.
            let listens = || TcpStream::connect(("127.0.0.1", self.port)).is_ok();
            server.is_some() || (listens() && self.operator(&["cluster", "health"]))
        });
        assert!(
            server.is_none(),
            "Temporal ended: {}",
            std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
        );
    }

    /// Asks the server's operator; answers whether it did.
    fn operator(&self, arguments: &[&str]) -> bool {
        let asked = Command::new(temporal::binary().expect("`cargo xtask test` installs it"))
            .arg("operator")
            .args(arguments)
            .args(["--address", &self.address()])
            .arg("--tls-cert-path")
            .arg(self.files.cert())
            .arg("--tls-key-path")
            .arg(self.files.key())
            .arg("--tls-ca-path")
            .arg(self.files.ca())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        asked.expect("temporal starts").success()
    }

    /// A new namespace, where a schedule never starts anything.
    pub fn namespace(&self) -> String {
        self.make(format!("test-{}", Uuid::now_v7()))
    }

    /// Makes a namespace; answers its name.
    fn make(&self, name: String) -> String {
        until("the namespace is known", || {
            // It may have been made although that was not answered in time.
            self.register(&name) || self.operator(&["namespace", "describe", "--namespace", &name])
        });
        name
    }

    /// Asks the server for a new namespace; answers whether it is made. The tool would take
    /// longer to start than the server for its answer.
    fn register(&self, name: &str) -> bool {
        let message = RegisterNamespace {
            namespace: name.to_owned(),
            retention: Some(Seconds { seconds: 86_400 }),
        };
        // As gRPC frames a message: that it is not compressed, and its length.
        let length = u32::try_from(message.encoded_len()).expect("it is short");
        let mut body = vec![0];
        body.extend(length.to_be_bytes());
        body.extend(message.encode_to_vec());
        let read = |path: PathBuf| std::fs::read(path).expect("its files are there");
        let identity = [read(self.files.cert()), read(self.files.key())].concat();
        let trusted = read(self.files.ca());
        let url = format!(
            "https://{}/temporal.api.workflowservice.v1.WorkflowService/RegisterNamespace",
            self.address()
        );
        let _ = rustls::crypto::ring::default_provider().install_default();
        let asked = async move {
            let client = reqwest::Client::builder()
                .tls_certs_only([reqwest::Certificate::from_pem(&trusted)?])
                .identity(reqwest::Identity::from_pem(&identity)?)
                .timeout(PATIENCE)
                .no_proxy()
                .build()?;
            let request = client
                .post(url)
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(body);
            request.send().await?.bytes().await
        };
        // The caller may be within a runtime of its own.
        let answer = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                runtime.enable_all().build().unwrap().block_on(asked)
            });
            asking.join().unwrap()
        });
        // A refusal has no message, not even an empty one.
        answer.is_ok_and(|frame| !frame.is_empty())
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How a client reaches it.
    pub fn access(&self) -> Access {
        Access {
            client_cert: Some(Source::File(self.files.cert())),
            client_key: Some(Source::File(self.files.key())),
            server_ca_cert: Some(Source::File(self.files.ca())),
            ..Access::default()
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Makes a database with a schema that the tool has.
fn create(postgres: &Postgres, sql: &Path, database: &str, schema: &str) {
    for arguments in [
        &["create-database"][..],
        &["setup-schema", "-v", "0.0"],
        &["update-schema", "--schema-name", schema],
    ] {
        run(Command::new(sql)
            .args(["--db", database])
            .args(arguments)
            .env("SQL_PLUGIN", "postgres12")
            .env("SQL_HOST", "127.0.0.1")
            .env("SQL_PORT", postgres.port.to_string())
            .env("SQL_USER", USER)
            .env("SQL_PASSWORD", &postgres.password));
    }
}

/// Writes the server's own certificate.
fn certify(folder: &Path, authority: &Authority) {
    let own = authority.issue("server");
    std::fs::write(folder.join("server.pem"), &own.pem).unwrap();
    std::fs::write(folder.join("server.key"), &own.key).unwrap();
}

fn launch(program: &Path, folder: &Path) -> Child {
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let mut command = Command::new(program);
    command
        .arg("--root")
        .arg(folder)
        .args(["--config", ".", "--env", "test", "--allow-no-auth", "start"])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    end_with_parent(&mut command);
    command.spawn().expect("the server starts")
}

/// `temporal.api.workflowservice.v1.RegisterNamespaceRequest`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct RegisterNamespace {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(message, optional, tag = "4")]
    retention: Option<Seconds>,
}

/// `google.protobuf.Duration`, whole.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct Seconds {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

/// Namespaces that may have schedules.
const WITH_SCHEDULES: usize = 20;

fn with_schedules(number: usize) -> String {
    format!("scheduling-{number}")
}

/// What a large installation would not want, and a test does. What changes of a namespace is seen
/// within a second; one that is new is looked up.
const DYNAMIC: &str = "
system.namespaceCacheRefreshInterval: [{value: 1s}]
system.forceSearchAttributesCacheRefreshOnRead: [{value: true}]
history.transferProcessorMaxPollRPS: [{value: 2000}]
history.timerProcessorMaxPollRPS: [{value: 2000}]
history.visibilityProcessorMaxPollRPS: [{value: 2000}]
history.timerProcessorMaxTimeShift: [{value: 10ms}]
worker.perNamespaceWorkerCount:
- {value: 0}
";

/// Updates that a run takes in all in the [namespace](namespace_with_few_updates) where they are
/// few.
pub const FEW_UPDATES: usize = 3;

const WITH_FEW_UPDATES: &str = "few-updates";

/// The same, and that some namespaces have a worker for schedules. All would otherwise, and their
/// polls keep a core busy. And that one takes few updates.
fn dynamic() -> String {
    let of = |number| {
        let namespace = with_schedules(number);
        format!("- {{value: 1, constraints: {{namespace: {namespace}}}}}\n")
    };
    let some: String = (0..WITH_SCHEDULES).map(of).collect();
    let few = format!(
        "history.maxTotalUpdates:\n\
         - {{value: {FEW_UPDATES}, constraints: {{namespace: {WITH_FEW_UPDATES}}}}}\n"
    );
    format!("{DYNAMIC}{some}{few}")
}

fn configuration(folder: &Path, files: &Files, postgres: &Postgres, ports: &[u16; 8]) -> String {
    let folder = folder.display();
    let store = |name: &str, database: &str| {
        format!(
            "    {name}: {{sql: {{user: {USER}, password: {password}, pluginName: postgres12, \
             databaseName: {database}, connectAddr: '127.0.0.1:{port}', connectProtocol: tcp, \
             maxConns: 20, maxIdleConns: 20, maxConnLifetime: 1h}}}}",
            password = postgres.password,
            port = postgres.port,
        )
    };
    let service = |name: &str, at: usize| {
        format!(
            "  {name}: {{rpc: {{grpcPort: {}, membershipPort: {}, bindOnLocalHost: true}}}}",
            ports[at],
            ports[at + 1]
        )
    };
    let client = format!(
        "serverName: localhost, rootCaFiles: ['{}']",
        files.ca().display()
    );
    format!(
        "log: {{stdout: true, level: warn}}
persistence:
  defaultStore: main
  visibilityStore: visibility
  numHistoryShards: 4
  datastores:
{main}
{visibility}
global:
  membership: {{maxJoinDuration: 30s, broadcastAddress: 127.0.0.1}}
  tls:
    frontend:
      server:
        certFile: '{folder}/server.pem'
        keyFile: '{folder}/server.key'
        requireClientAuth: true
        clientCaFiles: ['{ca}']
      client: {{{client}}}
    systemWorker:
      certFile: '{cert}'
      keyFile: '{key}'
      client: {{{client}}}
services:
{frontend}
{history}
{matching}
{worker}
clusterMetadata:
  enableGlobalNamespace: false
  failoverVersionIncrement: 10
  masterClusterName: active
  currentClusterName: active
  clusterInformation:
    active:
      enabled: true
      initialFailoverVersion: 1
      rpcName: frontend
      rpcAddress: '127.0.0.1:{port}'
dcRedirectionPolicy: {{policy: noop}}
dynamicConfigClient: {{filepath: '{folder}/dynamic.yaml', pollInterval: 1m}}
",
        main = store("main", "temporal"),
        visibility = store("visibility", "temporal_visibility"),
        ca = files.ca().display(),
        cert = files.cert().display(),
        key = files.key().display(),
        frontend = service("frontend", 0),
        history = service("history", 2),
        matching = service("matching", 4),
        worker = service("worker", 6),
        port = ports[0],
    )
}

/// The one that tests share.
static SHARED: Keeper<Cluster> = Keeper::new();

extern "C" fn stop_shared() {
    SHARED.stop();
}

/// The address of the shared one, a namespace of it that nobody else has, and how it is
/// reached; `None` where there is none.
pub fn namespace() -> Option<(String, String, Access)> {
    programs()?;
    let cluster = SHARED.get(Cluster::start, stop_shared)?;
    Some((cluster.address(), cluster.namespace(), cluster.access()))
}

/// The same with a namespace that has schedules.
pub fn namespace_with_schedules() -> Option<(String, String, Access)> {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    programs()?;
    let cluster = SHARED.get(Cluster::start, stop_shared)?;
    let number = TAKEN.fetch_add(1, Ordering::Relaxed);
    assert!(
        number < WITH_SCHEDULES,
        "there are more tests than namespaces"
    );
    let namespace = cluster.make(with_schedules(number));
    Some((cluster.address(), namespace, cluster.access()))
}

/// The same with the namespace whose runs take no more than [`FEW_UPDATES`]; there is one, for one
/// test.
pub fn namespace_with_few_updates() -> Option<(String, String, Access)> {
    programs()?;
    let cluster = SHARED.get(Cluster::start, stop_shared)?;
    let namespace = cluster.make(WITH_FEW_UPDATES.to_owned());
    Some((cluster.address(), namespace, cluster.access()))
}
