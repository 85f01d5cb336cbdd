//! `heyday:graph` on the embedded graph and on a real Neo4j: what the WIT promises, what no
//! plugin may do, limits, and servers that stop in the middle.

mod away;
mod limits;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::backends::{Held, backends, with_backends};
use crate::support::server::{Options, Server};

/// A server with the probe, and with a graph on each backend that there is here, where there
/// is nothing in them.
struct Backends {
    server: Server,
    /// Each with its dialect.
    bindings: Vec<(String, String)>,
    _held: Held,
}

impl Backends {
    async fn new() -> Self {
        let (server, held) = with_backends(&["graph"]).await;
        let bindings = backends(&server.client, "graph").await;
        let this = Self {
            server,
            bindings,
            _held: held,
        };
        for (binding, _) in &this.bindings {
            this.run(binding, "MATCH (n) DETACH DELETE n").await;
        }
        this
    }

    async fn grant(&self, binding: &str, mode: Option<&str>) {
        let client = &self.server.client;
        client.grant("probe", "graph", binding, mode).await.unwrap();
    }

    /// Runs a statement that must succeed; answers its rows' number.
    async fn run(&self, binding: &str, statement: &str) -> Value {
        let (client, input) = (&self.server.client, on(binding, statement));
        client.succeed("probe.graph_run", &input).await.unwrap()
    }

    async fn fail(&self, binding: &str, statement: &str) -> Value {
        let (client, input) = (&self.server.client, on(binding, statement));
        client.fail("probe.graph_run", &input).await.unwrap()
    }
}

fn on(binding: &str, statement: &str) -> Value {
    json!({ "binding": binding, "statement": statement })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_is_reached_with_a_grant_and_written_with_more() {
    let backends = Backends::new().await;
    let client = &backends.server.client;
    for (binding, dialect) in &backends.bindings {
        backends.run(binding, "CREATE (:A {x: 1})-[:R]->(:B)").await;
        backends.grant(binding, Some("ro")).await;
        let rows = backends.run(binding, "MATCH (a:A)-->(b) RETURN a, b").await;
        assert_eq!(rows, 1);
        for statement in [
            "CREATE (:A)",
            "MERGE (:A {x: 2})",
            "MATCH (a:A) SET a.x = 2",
            "MATCH (a:A) SET a:C",
            "MATCH (a:A) REMOVE a.x",
            "MATCH (a) DETACH DELETE a",
            "MATCH ()-[r]->() DELETE r",
            "UNWIND [1] AS x FOREACH (y IN [x] | CREATE (:A))",
            "MATCH (a:A) RETURN a UNION CREATE (a:A) RETURN a",
            "CREATE INDEX i FOR (a:A) ON (a.x)",
            "CREATE CONSTRAINT c FOR (a:A) REQUIRE a.x IS UNIQUE",
        ] {
            let denied = backends.fail(binding, statement).await;
            assert_eq!(
                denied["kind"], "capability-denied",
                "{binding}: {statement}: {denied}"
            );
            assert_eq!(denied["retryable"], false);
        }
        // A subquery that writes is of one dialect only.
        let subquery = "MATCH (a:A) CALL { WITH a CREATE (:C) } RETURN a";
        let denied = backends.fail(binding, subquery).await;
        let code = match dialect.as_str() {
            "neo4j" => "capability-denied",
            _ => "invalid-statement",
        };
        assert_eq!(denied["kind"], code, "{binding}: {denied}");
        let rows = backends
            .run(binding, "MATCH (a:A {x: 1})-->(:B) RETURN a")
            .await;
        assert_eq!(rows, 1, "{binding}");
        let path = format!("/grants?subject=probe&capability=graph&binding={binding}");
        let revoked = client.request(Method::DELETE, &path).send().await.unwrap();
        assert_eq!(revoked.status(), StatusCode::NO_CONTENT);
        let denied = backends.fail(binding, "RETURN 1").await;
        assert_eq!(denied["kind"], "capability-denied", "{denied}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_under_the_idempotency_key_happens_once_and_survives_a_kill() {
    let backends = Backends::new().await;
    let client = &backends.server.client;
    for (binding, _) in &backends.bindings {
        let count = json!({ "binding": binding, "lost": 2 });
        let id = client
            .start_activity("probe.graph_count", &count)
            .await
            .unwrap();
        let outcome = client.result(&id).await.unwrap();
        assert_eq!(outcome.body["result"], 1, "{binding}: {}", outcome.body);
        assert_eq!(client.receipts(&id).await.unwrap().len(), 3);
        let once = json!({ "binding": binding });
        let again = client.succeed("probe.graph_count", &once).await.unwrap();
        assert_eq!(again, 2, "{binding}");
        let constraint = "CREATE CONSTRAINT k FOR (c:Counted) REQUIRE c.key IS UNIQUE";
        backends.run(binding, constraint).await;
        backends.run(binding, "CREATE (:Counted {key: 'a'})").await;
    }
    // The process is killed between effect and answer.
    let mut killed = Vec::new();
    for (binding, _) in &backends.bindings {
        let hang = json!({ "binding": binding, "hang": true });
        let id = client.start_activity("probe.graph_count", &hang).await;
        let id = id.unwrap();
        client.wait_for_line(&id, "committed").await.unwrap();
        killed.push(id);
    }
    let config = std::fs::read_to_string(backends.server.data().join("test-config.toml")).unwrap();
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    let backends = Backends {
        server: backends.server.kill_and_restart(options).await.unwrap(),
        ..backends
    };
    for ((binding, _), id) in backends.bindings.iter().zip(killed) {
        let outcome = backends.server.client.result(&id).await.unwrap();
        assert_eq!(outcome.body["result"], 4, "{binding}: {}", outcome.body);
        let all = backends.run(binding, "MATCH (c:Counted) RETURN c").await;
        assert_eq!(all, 4, "{binding}");
        let twice = backends.fail(binding, "CREATE (:Counted {key: 'a'})").await;
        assert_eq!(twice["kind"], "constraint", "{binding}: {twice}");
        backends.run(binding, "DROP CONSTRAINT k").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_on_a_graph_ends_with_its_attempt() {
    let backends = Backends::new().await;
    let client = &backends.server.client;
    for (binding, _) in &backends.bindings {
        for (end, status) in [
            ("fail", "Failed"),
            ("panic", "Failed"),
            ("forget", "Completed"),
        ] {
            let input = json!({ "binding": binding, "end": end });
            let outcome = client
                .activity("probe.graph_abandon", &input)
                .await
                .unwrap();
            assert_eq!(outcome.status, status, "{}", outcome.body);
            let rows = backends.run(binding, "MATCH (a:Abandoned) RETURN a").await;
            assert_eq!(rows, 0, "after {end} on {binding}");
            // Nobody keeps others from writing any more.
            backends.run(binding, "CREATE (:Other)").await;
        }
    }
}

/// Writes to a node, whose lock it then holds for longer than any test waits.
pub(crate) const LONG: &str = "MATCH (l:Lock) SET l.x = 1 WITH l UNWIND range(1, 3000) AS a \
                    UNWIND range(1, 3000) AS b UNWIND range(1, 3000) AS c \
                    WITH l, a, b, c WHERE a * b * c = 0 RETURN count(*)";

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_on_a_graph_ends_with_its_attempt() {
    let backends = Backends::new().await;
    let client = &backends.server.client;
    for (binding, _) in &backends.bindings {
        backends.run(binding, "CREATE (:Lock {x: 0})").await;
        let start = async || {
            let id = client
                .start_activity("probe.graph_long", &on(binding, LONG))
                .await;
            let id = id.unwrap();
            client.wait_for_line(&id, "asking").await.unwrap();
            id
        };
        let write = "MATCH (l:Lock) SET l.x = l.x + 1 RETURN l";
        let id = start().await;
        client.cancel(&id).await.unwrap();
        assert_eq!(client.result(&id).await.unwrap().status, "Canceled");
        assert_eq!(backends.run(binding, write).await, 1, "{binding}");
        // And with its grant.
        let id = start().await;
        let path = format!("/grants?subject=probe&capability=graph&binding={binding}");
        let revoked = client.request(Method::DELETE, &path).send().await.unwrap();
        assert_eq!(revoked.status(), StatusCode::NO_CONTENT);
        let outcome = client.result(&id).await.unwrap();
        let kind = &outcome.body["failure"]["cause"]["kind"];
        assert_eq!(kind, "capability-denied", "{binding}: {}", outcome.body);
        backends.grant(binding, None).await;
        assert_eq!(backends.run(binding, write).await, 1, "{binding}");
        // What it wrote was rolled back.
        assert_eq!(
            backends
                .run(binding, "MATCH (l:Lock {x: 2}) RETURN l")
                .await,
            1
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_bindings_do_not_share_a_neo4j() {
    let folder = tempfile::tempdir().unwrap();
    let binding = |name: &str, user: &str| {
        format!(
            "[bindings.namespaces.default.graph.{name}]\n\
             neo4j = {{ url = 'neo4j://{user}@localhost:7687', password_env = 'NONE' }}\n"
        )
    };
    let refused = async |config: String| {
        let options = Options {
            config: Some(config),
            ..Options::default()
        };
        let error = Server::on(folder.path(), options).await.err().unwrap();
        format!("{error:#}")
    };
    let told = refused(binding("a", "x") + &binding("b", "y")).await;
    assert!(
        told.contains("default/graph/a and default/graph/b"),
        "{told}"
    );
    let secret = "[bindings.namespaces.default.graph.a]\n\
                  neo4j = { url = 'neo4j://neo4j:hunter2@localhost' }\n";
    let told = refused(secret.to_owned()).await;
    assert!(told.contains("password_file"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
    let two = "[bindings.namespaces.default.graph.a]\npath = 'g'\n\
               neo4j = { url = 'neo4j://neo4j@localhost', password_env = 'NONE' }\n";
    let told = refused(two.to_owned()).await;
    assert!(told.contains("two backends"), "{told}");
}
