//! A grant that is taken back ends the host calls in flight, whatever they wait for, and soon.
//! `sql` on PostgreSQL, `graph`, `http` and models here have tests of their own (`capabilities::`,
//! `graph::`, `visiting::`, `inference::`); `config` waits for nobody. A statement on SQLite
//! computes here, in the server's own process, so that its attempt's cancel and its deadline must
//! end it as well. What runs at a worker is in `workers::`.

use std::path::Path;

use bytes::Bytes;
use heyday_capabilities::blob::gcs::GcsContainer;
use heyday_capabilities::blob::{BlobLimits, Condition, Container as _};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::openai::stand_in::{DIMENSIONS, Fault, StandIn, WINDOW};
use crate::support::component;
use crate::support::google_stand_in::Trouble;
use crate::support::google_storage::GoogleStorage;
use crate::support::held::Held;
use crate::support::http_server;
use crate::support::postgres::{Postgres, until};
use crate::support::probe;
use crate::support::secret_manager_stand_in::SecretManagerStandIn;
use crate::support::server::{Client, Options, PATIENCE, Server};
use crate::support::weaviate::Weaviate;
use crate::support::worker::eventually;

/// A server with the probe and with that configuration.
async fn server(config: String) -> Server {
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    probe::server(options).await.unwrap()
}

/// The same with a binding `held`, which the probe was granted.
async fn server_with(capability: &str, binding: &str) -> Server {
    let table = format!("[bindings.namespaces.default.{capability}.held]\n{binding}");
    let server = server(table).await;
    let granted = server.client.grant("probe", capability, "held", None);
    granted.await.unwrap();
    server
}

/// A statement on SQLite without an end, which writes as it runs.
pub(crate) const ENDLESS: &str = "INSERT INTO t WITH RECURSIVE r(n) AS \
                                  (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r";

/// Whether that has run on a database in this file: there was more of it than is kept in memory.
pub(crate) fn has_run(file: &Path) -> bool {
    let log = file.with_extension("db-wal");
    std::fs::metadata(log).is_ok_and(|found| found.len() > 4 << 20)
}

/// Takes a grant back that a run waits with; it ends by that. Answers the kind of its failure.
pub(crate) async fn ends(client: &Client, grant: (&str, &str, &str), id: &str) -> Value {
    let (plugin, capability, binding) = grant;
    let revoked = client.revoke(plugin, capability, binding);
    revoked.await.unwrap();
    let outcome = client.result(id).await.unwrap();
    assert_eq!(outcome.status, "Failed", "{}", outcome.body);
    let failure = &outcome.body["failure"]["cause"];
    let message = failure["message"].as_str().unwrap();
    assert!(message.contains("taken back during the call"), "{failure}");
    assert_eq!(failure["retryable"], false, "{failure}");
    failure["kind"].clone()
}

/// A server whose SQLite binding lies where the test sees its files, with an empty table there.
struct Sqlite {
    server: Server,
    folder: tempfile::TempDir,
}

impl Sqlite {
    /// With more of a configuration.
    async fn start(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sql.db");
        let server = server(format!(
            "{more}[bindings.namespaces.default.sql.default]\npath = '{}'\n",
            file.display()
        ))
        .await;
        let it = Self { server, folder };
        it.run("CREATE TABLE t (n INTEGER)").await;
        it
    }

    /// The number of a statement's rows.
    async fn run(&self, statement: &str) -> Value {
        let input = json!({ "binding": "default", "statement": statement });
        let client = &self.server.client;
        client.succeed("probe.sql_run", &input).await.unwrap()
    }

    /// Starts a statement without an end, and answers its run.
    async fn endless(&self, activity: &str) -> String {
        let input = json!({ "binding": "default", "statement": ENDLESS });
        let id = self.server.client.start_activity(activity, &input).await;
        id.unwrap()
    }

    /// Whether it has run.
    fn has_run(&self) -> bool {
        has_run(&self.folder.path().join("sql.db"))
    }

    /// Starts it and answers its run once it runs.
    async fn runs(&self) -> String {
        let id = self.endless("probe.sql_long").await;
        eventually(async || self.has_run().then_some(())).await;
        id
    }

    /// Nobody has its lock any more, and nothing of it is there.
    async fn is_left_as_it_was(&self) {
        self.run("INSERT INTO t VALUES (1)").await;
        assert_eq!(self.run("SELECT n FROM t").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_on_sqlite_ends_with_its_grant_and_leaves_nothing() {
    let it = Sqlite::start("").await;
    let client = &it.server.client;
    let id = it.runs().await;
    let kind = ends(client, ("probe", "sql", "default"), &id).await;
    assert_eq!(kind, "capability-denied");
    let granted = client.grant("probe", "sql", "default", None);
    granted.await.unwrap();
    it.is_left_as_it_was().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_on_sqlite_ends_with_its_attempts_cancel_and_leaves_nothing() {
    // Only the end of the statement lets the guest end so soon.
    let it = Sqlite::start("[limits.plugins.probe]\ncancel_grace_ms = 600000\n").await;
    let client = &it.server.client;
    let id = it.runs().await;
    client.cancel(&id).await.unwrap();
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Canceled", "{}", outcome.body);
    it.is_left_as_it_was().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_on_sqlite_ends_at_its_attempts_deadline_and_leaves_nothing() {
    let it = Sqlite::start("").await;
    let client = &it.server.client;
    // On a busy machine it may not have run when its time is over: then it gets more.
    for seconds in [1, 2, 4, 8, 16, 32] {
        let activity = format!("probe.sql_long?start_to_close={seconds}s");
        let id = it.endless(&activity).await;
        let outcome = client.result(&id).await.unwrap();
        let failure = &outcome.body["failure"]["cause"];
        assert_eq!(failure["kind"], "timeout", "{}", outcome.body);
        assert_eq!(failure["details"]["timeout"], "start_to_close", "{failure}");
        if it.has_run() {
            break;
        }
    }
    assert!(it.has_run(), "it never ran");
    it.is_left_as_it_was().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_of_an_entry_ends_with_its_grant() {
    let Some(postgres) = Postgres::start(&[]) else {
        return;
    };
    let database = postgres.database();
    let role = postgres.role(&database);
    let server = server_with("kv", &role.toml()).await;
    let client = &server.client;
    // Its tables are made at its first use.
    let nothing = client.succeed("probe.kv_get", &json!("held")).await;
    assert_eq!(nothing.unwrap(), Value::Null);
    let name = &role.name;
    let lock = format!("BEGIN; LOCK TABLE {name}.heyday_kv_entries IN ACCESS EXCLUSIVE MODE;");
    let session = postgres.session(&database, &lock);
    let waiting = || {
        let count = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = '{name}' \
             AND state = 'active' AND wait_event_type = 'Lock'"
        );
        postgres.psql("postgres", &count)
    };
    let id = client.start_activity("probe.kv_get", &json!("held")).await;
    let id = id.unwrap();
    tokio::task::block_in_place(|| until("it waits for the lock", || waiting() == "1"));
    let kind = ends(client, ("probe", "kv", "held"), &id).await;
    assert_eq!(kind, "capability-denied");
    tokio::task::block_in_place(|| until("it was cancelled there", || waiting() == "0"));
    drop(session);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_read_in_pieces_ends_with_its_grant() {
    let Some(storage) = GoogleStorage::start() else {
        return;
    };
    let limits = BlobLimits::default();
    let config = storage.config("held");
    let container = GcsContainer::new(&config, false, limits, Handle::current());
    let container = container.expect("a configuration");
    let bytes = Bytes::from(vec![7; 1 << 20]);
    let put = container.put("pieces".to_owned(), bytes, Condition::Always);
    put.await.unwrap();
    let server = server_with("blob", &storage.toml("held")).await;
    let client = &server.client;
    storage.google.trouble(&[Trouble::Held]);
    let input = json!({
        "operation": "blob_read", "binding": "held", "what": "pieces", "count": 1,
    });
    let id = client.start_activity("probe.time_calls", &input).await;
    let id = id.unwrap();
    eventually(async || storage.google.is_calm().then_some(())).await;
    // The guest's own word for it.
    let kind = ends(client, ("probe", "blob", "held"), &id).await;
    assert_eq!(kind, "read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_to_a_vector_store_ends_with_its_grant() {
    let Some(weaviate) = Weaviate::start() else {
        return;
    };
    let server = server_with("vector", &weaviate.toml()).await;
    let client = &server.client;
    let input = json!("held");
    client.succeed("probe.vector_put", &input).await.unwrap();
    weaviate.freeze();
    let id = client.start_activity("probe.vector_count", &input).await;
    let id = id.unwrap();
    client.wait_for_line(&id, "asking").await.unwrap();
    let kind = ends(client, ("probe", "vector", "held"), &id).await;
    assert_eq!(kind, "capability-denied");
    // The others are served again when it goes on.
    weaviate.thaw();
    let granted = client.grant("probe", "vector", "held", None);
    granted.await.unwrap();
    eventually(async || {
        let outcome = client.activity("probe.vector_count", &input).await.unwrap();
        let failure = &outcome.body["failure"]["cause"];
        let done = outcome.status == "Completed";
        assert!(done || failure["retryable"] == true, "{}", outcome.body);
        done.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_and_a_model_that_never_answer_end_with_their_grants() {
    let google = SecretManagerStandIn::start().await.unwrap();
    let (silent, came) = http_server::held().await.unwrap();
    let endpoint = StandIn::start().await;
    let config = format!(
        "[bindings.namespaces.default.secrets.held]\nnames = {{ password = 'smtp' }}\n\
         gcp = {{ project = 'test-project', endpoint = 'http://{silent}', \
         metadata_endpoint = 'http://{}', timeout_ms = 600000 }}\n\
         [inference]\ndevice = 'cpu'\n\
         [inference.remote.held]\nurl = '{}'\nmodel = 'theirs'\ntask = 'embed'\n\
         dimensions = {DIMENSIONS}\nwindow = {WINDOW}\ntimeout_ms = 600000\n",
        google.address, endpoint.url,
    );
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    let server = Server::with(options).await.unwrap();
    let client = &server.client;
    for (plugin, capability) in [("visitor", "secrets"), ("thinker", "inference")] {
        let granted = client.grant(plugin, capability, "held", None);
        granted.await.unwrap();
        let pushed = client.push(component(plugin), "&allow_missing=true");
        pushed.await.unwrap();
    }
    let input = json!({ "binding": "held", "name": "password" });
    let id = client.start_activity("visitor.secret_digest", &input).await;
    let id = id.unwrap();
    let asked = tokio::time::timeout(PATIENCE, came.acquire());
    asked.await.expect("the request came").unwrap().forget();
    let kind = ends(client, ("visitor", "secrets", "held"), &id).await;
    assert_eq!(kind, "capability-denied");

    endpoint.fail([Fault::Silence]);
    let input = json!({ "model": "held", "texts": ["a"] });
    let id = client.start_activity("thinker.embed", &input).await;
    let id = id.unwrap();
    eventually(async || (!endpoint.seen().is_empty()).then_some(())).await;
    let kind = ends(client, ("thinker", "inference", "held"), &id).await;
    assert_eq!(kind, "capability-denied");
    // Nor does the host wait for it.
    let left = tokio::time::timeout(PATIENCE, endpoint.left.acquire());
    left.await.expect("its connection ends").unwrap().forget();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_in_the_server_feels_a_change_within_a_second() {
    let server = Server::start().await.unwrap();
    let client = &server.client;
    let held = Held::push(client).await;
    held.feels(client, client).await;
}
