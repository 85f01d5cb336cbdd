//! Two bindings of one capability on one backend are apart: what is written through one is not
//! found through the other, and no spelling of a name reaches one without its grant. What a
//! statement may not reach has tests of its own (`postgres::isolation`, `graph::`).

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::postgres;
use crate::support::probe;
use crate::support::s3::Gateway;
use crate::support::server::{Client, Options};
use crate::support::weaviate;

/// What a test makes of a binding.
struct Pair {
    capability: &'static str,
    backend: &'static str,
    /// The two tables' members.
    toml: [String; 2],
    writes: Call,
    reads: Call,
    /// What reading answers where nothing was written; none where it fails.
    nothing: Option<Value>,
}

/// An activity, and its input for a binding.
struct Call(&'static str, fn(&str) -> Value);

impl Pair {
    fn name(&self, whose: &str) -> String {
        format!("{whose}-{}", self.backend)
    }
}

fn named(binding: &str) -> Value {
    json!(binding)
}

fn member(binding: &str) -> Value {
    json!({ "binding": binding })
}

fn sql(backend: &'static str, toml: [String; 2]) -> Pair {
    let insert = |it: &str| json!({ "binding": it, "statement": "CREATE TABLE apart (n INTEGER)" });
    let select = |it: &str| json!({ "binding": it, "statement": "SELECT * FROM apart" });
    Pair {
        capability: "sql",
        backend,
        toml,
        writes: Call("probe.sql_run", insert),
        reads: Call("probe.sql_run", select),
        nothing: None,
    }
}

fn kv(backend: &'static str, toml: [String; 2]) -> Pair {
    Pair {
        capability: "kv",
        backend,
        toml,
        writes: Call("probe.kv_count", member),
        reads: Call("probe.kv_get", named),
        nothing: Some(Value::Null),
    }
}

fn blob(backend: &'static str, toml: [String; 2]) -> Pair {
    Pair {
        capability: "blob",
        backend,
        toml,
        writes: Call("probe.blob_put", member),
        reads: Call("probe.blob_get", member),
        nothing: None,
    }
}

fn vector(backend: &'static str, toml: [String; 2]) -> Pair {
    Pair {
        capability: "vector",
        backend,
        toml,
        writes: Call("probe.vector_put", named),
        reads: Call("probe.vector_count", named),
        nothing: None,
    }
}

fn graph(backend: &'static str, toml: [String; 2]) -> Pair {
    let create = |it: &str| json!({ "binding": it, "statement": "CREATE (n:Apart) RETURN n" });
    let find = |it: &str| json!({ "binding": it, "statement": "MATCH (n) RETURN n" });
    Pair {
        capability: "graph",
        backend,
        toml,
        writes: Call("probe.graph_run", create),
        reads: Call("probe.graph_run", find),
        nothing: Some(json!(0)),
    }
}

/// Two files or folders of the server's own.
fn files(name: &str) -> [String; 2] {
    ["mine", "theirs"].map(|whose| format!("path = '{whose}-{name}'\n"))
}

/// Every backend of every capability that can carry two bindings. A Neo4j server carries one.
fn pairs(gateway: Option<&Gateway>) -> Vec<Pair> {
    let mut pairs = vec![
        sql("sqlite", files("sql.db")),
        kv("sqlite", files("kv.db")),
        blob("files", files("blob")),
        vector("sqlite", files("vector.db")),
        graph("embedded", files("graph")),
    ];
    if let Some(server) = postgres::shared() {
        // In one database, where only roles and schemas keep them apart.
        let database = server.database();
        let roles = || [(); 2].map(|()| server.role(&database).toml());
        pairs.push(sql("postgresql", roles()));
        pairs.push(kv("postgresql", roles()));
    }
    if let Some(gateway) = gateway {
        // One prefix begins with the other's text.
        pairs.push(blob("s3", ["apart", "apart2"].map(|it| gateway.toml(it))));
    }
    if let Some(server) = weaviate::shared() {
        pairs.push(vector("weaviate", [server.toml(), server.toml()]));
    }
    pairs
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_another_binding_is_not_reached_by_any_name() {
    let gateway = Gateway::start();
    let pairs = pairs(gateway.as_ref());
    let mut config = String::new();
    for pair in &pairs {
        let capability = pair.capability;
        for (whose, toml) in ["mine", "theirs"].into_iter().zip(&pair.toml) {
            let name = pair.name(whose);
            config += &format!("[bindings.namespaces.default.{capability}.{name}]\n{toml}");
        }
    }
    for capability in ["sql", "kv", "blob", "vector", "graph"] {
        config += &format!(
            "[bindings.namespaces.elsewhere.{capability}.far]\npath = 'far-{capability}'\n"
        );
    }
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    let server = probe::server(options).await.unwrap();
    let client = &server.client;
    for pair in &pairs {
        for whose in ["mine", "theirs"] {
            let name = pair.name(whose);
            let granted = client.grant("probe", pair.capability, &name, None);
            granted.await.unwrap();
        }
        // The same plugin may write there now; what it finds afterwards is a matter of
        // bindings, not of plugins.
        let theirs = pair.name("theirs");
        let Call(writes, input) = &pair.writes;
        client.succeed(writes, &input(&theirs)).await.unwrap();
        nothing_in(client, pair).await;
        revoke(client, pair.capability, &theirs).await;
        for name in spellings(&theirs) {
            for Call(activity, input) in [&pair.writes, &pair.reads] {
                let denied = client.fail(activity, &input(&name)).await;
                let denied = denied.unwrap_or_else(|error| panic!("{activity} {name:?}: {error}"));
                let told = format!("{activity} {name:?}: {denied}");
                assert_eq!(denied["kind"], "capability-denied", "{told}");
            }
        }
        // What was refused has left nothing behind either.
        nothing_in(client, pair).await;
    }
}

/// Ways to name a binding, or one beside it, without having it.
fn spellings(theirs: &str) -> Vec<String> {
    vec![
        theirs.to_owned(),
        theirs.to_uppercase(),
        format!(" {theirs}"),
        format!("{theirs}\0"),
        format!("../{theirs}"),
        format!("default/../{theirs}"),
        format!("default/{theirs}"),
        format!("default.{theirs}"),
        format!("{theirs}:rw"),
        "*".to_owned(),
        String::new(),
        "far".to_owned(),
        "elsewhere/far".to_owned(),
        "../elsewhere/far".to_owned(),
    ]
}

async fn nothing_in(client: &Client, pair: &Pair) {
    let Call(reads, input) = &pair.reads;
    let input = input(&pair.name("mine"));
    let backend = pair.backend;
    match &pair.nothing {
        Some(nothing) => {
            let found = client.succeed(reads, &input).await.unwrap();
            assert_eq!(&found, nothing, "{reads} on {backend}");
        }
        None => {
            let failure = client.fail(reads, &input).await.unwrap();
            let kind = failure["kind"].as_str().unwrap();
            let told = format!("{reads} on {backend}: {failure}");
            assert!(
                !["capability-denied", "unavailable"].contains(&kind),
                "{told}"
            );
        }
    }
}

async fn revoke(client: &Client, capability: &str, binding: &str) {
    let path = format!("/grants?subject=probe&capability={capability}&binding={binding}");
    let revoked = client.request(Method::DELETE, &path).send().await.unwrap();
    assert_eq!(revoked.status(), StatusCode::NO_CONTENT);
}
