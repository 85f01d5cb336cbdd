//! The server's own state: the same on SQLite and on PostgreSQL, its migrations, and two
//! servers on one database behind a load balancer.

mod announced;
mod away;
mod backends;
mod deaths;
mod keys;
mod migrations;
mod older;
mod records;
mod refusals;
mod servers;
mod through;
mod vanished;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use heyday::registry::types::Actor;
use heyday::state::{HostDb, StateLocation, StateUrl};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::support::ports::free_ports;
use crate::support::postgres::{self, Postgres};
use crate::support::server::{Client, Options, PATIENCE, Server};
use crate::support::temporal;
use crate::support::worker::{Place, Worker};

/// Who changes what is tested, in a namespace.
const fn operator(namespace: &str) -> Actor<'_> {
    Actor {
        namespace,
        principal: "operator",
    }
}

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
    balancer: Balancer,
    cluster: (String, String),
    state: Empty,
    folder: tempfile::TempDir,
}

impl Pair {
    /// Starts them, and leaves the work to workers; none where there is no cluster or no
    /// PostgreSQL.
    async fn start() -> Option<Self> {
        let cluster = temporal::namespace()?;
        let state = Empty::shared()?;
        Some(Self::on(cluster, state, Some(Vec::new()), |_| String::new()).await)
    }

    /// Starts two that do all themselves, on a cluster that has schedules, with a further
    /// configuration, which may name a folder that both have.
    async fn of_all(config: impl Fn(&Path) -> String) -> Option<Self> {
        let cluster = temporal::namespace_with_schedules()?;
        let state = Empty::shared()?;
        Some(Self::on(cluster, state, None, config).await)
    }

    /// Starts them on that cluster and that database.
    async fn on(
        cluster: (String, String),
        state: Empty,
        serve: Option<Vec<String>>,
        config: impl Fn(&Path) -> String,
    ) -> Self {
        let state = state.migrated().await;
        let folder = tempfile::tempdir().unwrap();
        let ports = free_ports();
        let balancer = Balancer::start(ports).await;
        let place = Options::on_temporal(&cluster.0, &cluster.1);
        let address = balancer.address;
        let config = format!(
            "public_url = 'http://{address}'\n{}{}",
            place.config.unwrap_or_default(),
            config(folder.path())
        );
        let options = ports.map(|port| Options {
            serve: serve.clone(),
            port: Some(port),
            config: Some(config.clone()),
            environment: vec![("HEYDAY_STATE".to_owned(), state.url.clone())],
        });
        let mut servers: Vec<Server> = Vec::new();
        for (number, options) in options.into_iter().enumerate() {
            let data = folder.path().join(format!("data-{number}"));
            std::fs::create_dir_all(&data).unwrap();
            if let Some(first) = servers.first() {
                // Only who made it has it; the test asks both by it.
                std::fs::copy(first.data().join("token"), data.join("token")).unwrap();
            }
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
        Self {
            servers,
            client,
            balancer,
            cluster,
            state,
            folder,
        }
    }

    fn of(&self, number: usize) -> &Client {
        &self.servers[number].client
    }

    /// A worker of one of the servers, ready.
    async fn worker(&self, number: usize) -> Worker {
        self.worker_at(&self.servers[number].url, &[]).await
    }

    /// A worker that asks the load balancer, ready.
    async fn worker_behind(&self, arguments: &[&str]) -> Worker {
        let url = format!("http://{}", self.balancer.address);
        self.worker_at(&url, arguments).await
    }

    async fn worker_at(&self, url: &str, arguments: &[&str]) -> Worker {
        // Made at one of both.
        let body = serde_json::json!({ "kind": "worker" });
        let made = self.client.post("/tokens", &body).await.unwrap();
        let place = Place {
            server: url,
            address: &self.cluster.0,
            namespace: &self.cluster.1,
            folder: self.folder.path(),
        };
        let mut worker = place.begin(made["token"].as_str().unwrap(), arguments);
        worker.until_ready().await.unwrap();
        worker
    }

    /// Kills a server (-9).
    fn kill(&mut self, number: usize) {
        self.servers[number].kill();
    }

    /// Starts a server again that was killed, on its data and port.
    async fn start_again(&mut self, number: usize) {
        self.servers[number].start_again().await.unwrap();
        self.servers[number].wait_for_engine().await.unwrap();
    }
}
