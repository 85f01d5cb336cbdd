//! The machine of the state's database vanishes in mid-statement: nobody says that its
//! connections have ended.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use reqwest::{Method, StatusCode};
use serde_json::json;
use sqlx::{Connection as _, Executor as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Empty;
use crate::support::server::{Client, Options, Server};
use crate::support::temporal;
use crate::support::worker::eventually;

/// A way to a server that can be cut so that neither side hears of it. It ends when it is
/// dropped.
struct Way {
    address: SocketAddr,
    /// Cancelled while nothing passes.
    cut: Arc<Mutex<CancellationToken>>,
    _stop: DropGuard,
}

impl Way {
    async fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = Arc::new(Mutex::new(CancellationToken::new()));
        let stop = CancellationToken::new();
        let (at, stopped) = (Arc::clone(&cut), stop.clone());
        let passing = async move {
            while let Ok((client, _)) = listener.accept().await {
                let cut = at.lock().unwrap().clone();
                let passing = pass(client, upstream, cut);
                tokio::spawn(stopped.clone().run_until_cancelled_owned(passing));
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(passing));
        Self {
            address,
            cut,
            _stop: stop.drop_guard(),
        }
    }

    /// From now on nothing passes, and nobody is told.
    fn cut(&self) {
        self.cut.lock().unwrap().cancel();
    }

    /// New connections pass; the old ones stay as dead as they are.
    fn mend(&self) {
        *self.cut.lock().unwrap() = CancellationToken::new();
    }
}

async fn pass(mut client: TcpStream, upstream: SocketAddr, cut: CancellationToken) {
    let passed = async {
        let mut server = TcpStream::connect(upstream).await?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await
    };
    if cut.run_until_cancelled(passed).await.is_none() {
        // The database has lost it; its client has not, and what it says goes nowhere.
        std::future::pending::<()>().await;
    }
}

/// More than the connections that a server takes.
const REQUESTS: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_vanishes_is_given_up_and_found_again() {
    let Some(cluster) = temporal::namespace() else {
        return;
    };
    let Some(state) = Empty::shared() else {
        return;
    };
    let state = state.migrated().await;
    let begin = state.url.find("127.0.0.1:").unwrap();
    let (host, _) = state.url[begin..].split_once('/').unwrap();
    let way = Way::to(host.parse().unwrap()).await;
    let url = state.url.replace(host, &way.address.to_string());
    let mut options = Options::on_temporal(&cluster.0, &cluster.1);
    options.serve = Some(Vec::new());
    options.environment = vec![("HEYDAY_STATE".to_owned(), url)];
    let server = Server::with(options).await.unwrap();
    let client = &server.client;
    let put = |subject: String| {
        let grant = json!({ "subject": subject, "capability": "http",
            "binding": "GET:one.example" });
        client.request(Method::PUT, "/grants").json(&grant).send()
    };
    assert_eq!(
        put("tests.before".to_owned()).await.unwrap().status(),
        StatusCode::OK
    );

    // All of its connections wait for what this one locks when the way is cut.
    let mut locking = sqlx::PgConnection::connect(&state.url).await.unwrap();
    locking.execute("BEGIN").await.unwrap();
    locking.execute("LOCK TABLE grants").await.unwrap();
    let waiting: Vec<_> = (0..REQUESTS)
        .map(|number| tokio::spawn(put(format!("tests.during-{number}"))))
        .collect();
    let looking = sqlx::PgPool::connect(&state.url).await.unwrap();
    eventually(async || {
        let waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'grants'::regclass \
                     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        looking.fetch_optional(waits).await.unwrap()
    })
    .await;
    way.cut();
    // What memory knows is answered, and what needs the database is to be asked again.
    let listed = client.get("/grants?subject=tests.before").await.unwrap();
    assert_eq!(listed["grants"].as_array().unwrap().len(), 1);
    for answer in waiting {
        let answer = answer.await.unwrap().unwrap();
        assert!(answer.headers().contains_key("retry-after"));
        let problem = Client::refused(answer, StatusCode::SERVICE_UNAVAILABLE).await;
        assert_eq!(problem["type"], "urn:heyday:problems:storage-unavailable");
    }
    eventually(async || server.log().contains("the state is away").then_some(())).await;

    locking.close().await.unwrap();
    way.mend();
    // No connection is waited for that died: TCP itself would for a quarter of an hour.
    eventually(async || {
        server
            .log()
            .contains("the state is there again")
            .then_some(())
    })
    .await;
    eventually(async || {
        let answer = put("tests.after".to_owned()).await.unwrap();
        (answer.status() == StatusCode::OK).then_some(())
    })
    .await;
    looking.close().await;
}
