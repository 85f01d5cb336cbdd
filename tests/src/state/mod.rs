//! The server's own state: the same on SQLite and on PostgreSQL, its migrations, and two
//! servers on one database behind a load balancer.

mod away;
mod backends;
mod migrations;
mod servers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use heyday::state::{HostDb, StateLocation, StateUrl};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::support::postgres::{self, Postgres};
use crate::support::server::{Client, Options, PATIENCE, Server, free_port};
use crate::support::temporal;
use crate::support::worker::{Place, Worker};

/// A database with nothing in it, of a role that owns it.
struct Empty {
    /// With the password.
    url: String,
    password: String,
}

impl Empty {
    fn on(server: &Postgres) -> Self {
        let database = server.database();
        let role = format!("s{}", Uuid::new_v4().simple());
        let password = Uuid::new_v4().to_string();
        server.psql(
            "postgres",
            &format!(
                "CREATE ROLE {role} LOGIN PASSWORD '{password}'; \
                 ALTER DATABASE {database} OWNER TO {role}"
            ),
        );
        let port = server.port;
        let url = format!("postgres://{role}:{password}@127.0.0.1:{port}/{database}");
        Self { url, password }
    }

    /// On the server that tests share; none where there is none.
    fn shared() -> Option<Self> {
        postgres::shared().map(|server| Self::on(&server))
    }

    fn location(&self) -> StateLocation {
        StateLocation::Postgres(self.url.parse::<StateUrl>().unwrap())
    }

    async fn migrated(self) -> Self {
        assert_eq!(HostDb::migrate(&self.location()).await.unwrap(), 0);
        self
    }
}

/// Lets each connection go to the next of two servers, or to the other where that one is
/// away.
struct Balancer {
    address: SocketAddr,
    _stop: DropGuard,
}

impl Balancer {
    async fn start(ports: [u16; 2]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let next = Arc::new(AtomicUsize::new(0));
        let balancing = async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let next = Arc::clone(&next);
                tokio::spawn(async move {
                    let first = next.fetch_add(1, Ordering::Relaxed);
                    for port in [ports[first % 2], ports[(first + 1) % 2]] {
                        if let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await {
                            // Whoever ends it, it has ended.
                            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                            return;
                        }
                    }
                });
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(balancing));
        Self {
            address,
            _stop: stop.drop_guard(),
        }
    }
}

/// Two servers on one state and one cluster, behind a load balancer.
struct Pair {
    servers: Vec<Server>,
    /// Each request goes to the next server.
    client: Client,
    _balancer: Balancer,
    cluster: (String, String),
    state: Empty,
    folder: tempfile::TempDir,
}

impl Pair {
    /// Starts them; none where there is no cluster or no PostgreSQL.
    async fn start() -> Option<Self> {
        let cluster = temporal::namespace()?;
        let state = Empty::shared()?.migrated().await;
        let folder = tempfile::tempdir().unwrap();
        let ports = [free_port().unwrap(), free_port().unwrap()];
        let balancer = Balancer::start(ports).await;
        let mut servers: Vec<Server> = Vec::new();
        for (number, port) in ports.into_iter().enumerate() {
            let data = folder.path().join(format!("data-{number}"));
            std::fs::create_dir_all(&data).unwrap();
            if let Some(first) = servers.first() {
                // Only who made it has it; the test asks both by it.
                std::fs::copy(first.data().join("token"), data.join("token")).unwrap();
            }
            let mut options = Options::on_temporal(&cluster.0, &cluster.1);
            options.config = options
                .config
                .map(|text| format!("hosts = ['{}']\n{text}", balancer.address));
            options.serve = Some(Vec::new());
            options.port = Some(port);
            options.environment = vec![("HEYDAY_STATE".to_owned(), state.url.clone())];
            servers.push(Server::on(&data, options).await.unwrap());
        }
        for server in &servers {
            server.wait_for_engine().await.unwrap();
        }
        let token = std::fs::read_to_string(servers[0].data().join("token")).unwrap();
        let mut client = Client::new(&format!("http://{}", balancer.address), token.trim());
        client.http = reqwest::Client::builder()
            .read_timeout(PATIENCE * 2)
            // Each request makes a connection, which goes to the next server.
            .pool_max_idle_per_host(0)
            .build()
            .unwrap();
        Some(Self {
            servers,
            client,
            _balancer: balancer,
            cluster,
            state,
            folder,
        })
    }

    fn of(&self, number: usize) -> &Client {
        &self.servers[number].client
    }

    /// A worker of one of the servers, ready.
    async fn worker(&self, number: usize) -> Worker {
        // Made at the other one.
        let body = serde_json::json!({ "kind": "worker" });
        let made = self.of(1 - number).post("/tokens", &body).await.unwrap();
        let place = Place {
            server: &self.servers[number],
            address: &self.cluster.0,
            namespace: &self.cluster.1,
            folder: self.folder.path(),
        };
        let mut worker = place.begin(made["token"].as_str().unwrap(), &[]);
        worker.until_ready().await.unwrap();
        worker
    }
}
