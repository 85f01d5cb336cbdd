//! Two plugins with a binding each of one capability on one backend are apart: what one
//! writes the other does not find, and no spelling of a name reaches a binding without its
//! grant. What a statement may not reach has tests of its own (`postgres::isolation`,
//! `graph::`).

use std::path::Path;

use serde_json::{Value, json};

use crate::support::google_storage::GoogleStorage;
use crate::support::postgres;
use crate::support::probe;
use crate::support::s3::Gateway;
use crate::support::secret_manager_stand_in::SecretManagerStandIn;
use crate::support::server::{Client, Options};
use crate::support::weaviate;
use crate::support::{component, renamed};

/// A guest, and the name under which it is pushed again.
struct Guests(&'static str, &'static str);

const PROBE: Guests = Guests("probe", "other");
const VISITOR: Guests = Guests("visitor", "another");

/// What a test makes of a binding.
struct Pair {
    guests: Guests,
    capability: &'static str,
    backend: &'static str,
    /// The two tables' members.
    toml: [String; 2],
    /// None where plugins only read: the operator has written.
    writes: Option<Call>,
    reads: Call,
    /// What reading answers where nothing was written; none where it fails.
    nothing: Option<Value>,
    /// Names that lead out of a binding, or would.
    outside: Vec<String>,
}

/// An activity, and its input for a binding.
struct Call(&'static str, fn(&str) -> Value);

impl Call {
    fn of(&self, plugin: &str) -> String {
        format!("{plugin}.{}", self.0)
    }
}

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

/// A pair of the probe's.
fn pair(
    capability: &'static str,
    backend: &'static str,
    toml: [String; 2],
    [writes, reads]: [Call; 2],
    nothing: Option<Value>,
) -> Pair {
    Pair {
        guests: PROBE,
        capability,
        backend,
        toml,
        writes: Some(writes),
        reads,
        nothing,
        outside: Vec::new(),
    }
}

fn sql(backend: &'static str, toml: [String; 2]) -> Pair {
    let insert = |it: &str| json!({ "binding": it, "statement": "CREATE TABLE apart (n INTEGER)" });
    let select = |it: &str| json!({ "binding": it, "statement": "SELECT * FROM apart" });
    let calls = [Call("sql_run", insert), Call("sql_run", select)];
    pair("sql", backend, toml, calls, None)
}

fn kv(backend: &'static str, toml: [String; 2]) -> Pair {
    let calls = [Call("kv_count", member), Call("kv_get", named)];
    pair("kv", backend, toml, calls, Some(Value::Null))
}

fn blob(backend: &'static str, toml: [String; 2]) -> Pair {
    let calls = [Call("blob_put", member), Call("blob_get", member)];
    pair("blob", backend, toml, calls, None)
}

fn vector(backend: &'static str, toml: [String; 2]) -> Pair {
    let calls = [Call("vector_put", named), Call("vector_count", named)];
    pair("vector", backend, toml, calls, None)
}

fn graph(backend: &'static str, toml: [String; 2]) -> Pair {
    let create = |it: &str| json!({ "binding": it, "statement": "CREATE (n:Apart) RETURN n" });
    let find = |it: &str| json!({ "binding": it, "statement": "MATCH (n) RETURN n" });
    let calls = [Call("graph_run", create), Call("graph_run", find)];
    pair("graph", backend, toml, calls, Some(json!(0)))
}

fn apart(binding: &str) -> Value {
    json!({ "binding": binding, "name": "apart" })
}

/// A pair of `config`: only the other one's has a setting `apart`.
fn config(backend: &'static str, toml: [String; 2], outside: Vec<String>) -> Pair {
    Pair {
        guests: VISITOR,
        capability: "config",
        backend,
        toml,
        writes: None,
        reads: Call("config_get", apart),
        nothing: Some(Value::Null),
        outside,
    }
}

/// A pair of `secrets`: both give out a secret `apart`, and only the other one's is there.
fn secrets(backend: &'static str, toml: [String; 2], outside: Vec<String>) -> Pair {
    Pair {
        capability: "secrets",
        reads: Call("secret_digest", apart),
        nothing: None,
        ..config(backend, toml, outside)
    }
}

/// Two files or folders of the server's own.
fn files(name: &str) -> [String; 2] {
    ["mine", "theirs"].map(|whose| format!("path = '{whose}-{name}'\n"))
}

/// A variable of the server's environment that is a setting and a secret.
const VARIABLE: &str = "APART_THEIRS";

/// Settings and secrets of the operator's, in every place that there is for them. No two
/// bindings share a file.
fn settings(folder: &Path, google: &SecretManagerStandIn) -> Vec<Pair> {
    for capability in ["config", "secrets"] {
        for (whose, key) in [("mine", "own"), ("theirs", "apart")] {
            let below = folder.join(format!("{whose}-{capability}"));
            std::fs::create_dir(&below).unwrap();
            std::fs::write(below.join(key), "kept apart").unwrap();
            let file = below.with_extension("toml");
            std::fs::write(file, format!("{key} = 'kept apart'\n")).unwrap();
        }
    }
    google.set("apart-theirs", "kept apart");
    let place = |kind: &str, capability: &str, ends: &str, further: &str| {
        ["mine", "theirs"].map(|whose| {
            let path = folder.join(format!("{whose}-{capability}{ends}"));
            format!("{kind} = '{}'\n{further}", path.display())
        })
    };
    let variables = ["APART_MINE", VARIABLE]
        .map(|name| format!("environment = true\nnames = {{ apart = '{name}' }}\n"));
    let manager = ["apart-mine", "apart-theirs"].map(|name| {
        let manager = google.toml();
        format!("gcp = {manager}\nnames = {{ apart = '{name}' }}\n")
    });
    let names = "names = { apart = 'apart' }\n";
    let outside = |capability: &str| {
        let theirs = folder.join(format!("theirs-{capability}"));
        vec![
            format!("../theirs-{capability}/apart"),
            format!("../theirs-{capability}.toml"),
            theirs.join("apart").display().to_string(),
            format!("theirs-{capability}.apart"),
            VARIABLE.to_owned(),
            "apart-theirs".to_owned(),
            "PATH".to_owned(),
        ]
    };
    let (of_config, of_secrets) = (outside("config"), outside("secrets"));
    vec![
        config(
            "file",
            place("file", "config", ".toml", ""),
            of_config.clone(),
        ),
        config(
            "folder",
            place("folder", "config", "", ""),
            of_config.clone(),
        ),
        config("environment", variables.clone(), of_config),
        secrets(
            "file",
            place("file", "secrets", ".toml", names),
            of_secrets.clone(),
        ),
        secrets(
            "folder",
            place("folder", "secrets", "", names),
            of_secrets.clone(),
        ),
        secrets("environment", variables, of_secrets.clone()),
        secrets("gcp", manager, of_secrets),
    ]
}

/// What data on servers needs as long as the test runs.
struct Buckets {
    gateway: Option<Gateway>,
    google: Option<GoogleStorage>,
}

/// Every backend of every capability that keeps data and can carry two bindings. A Neo4j
/// server carries one.
fn data(buckets: &Buckets) -> Vec<Pair> {
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
    // One prefix begins with the other's text.
    let prefixes = ["apart", "apart2"];
    if let Some(gateway) = &buckets.gateway {
        pairs.push(blob("s3", prefixes.map(|it| gateway.toml(it))));
    }
    if let Some(google) = &buckets.google {
        pairs.push(blob("gcs", prefixes.map(|it| google.toml(it))));
    }
    if let Some(server) = weaviate::shared() {
        pairs.push(vector("weaviate", [server.toml(), server.toml()]));
    }
    pairs
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_another_plugins_binding_is_not_reached_by_any_name() {
    let buckets = Buckets {
        gateway: Gateway::start(),
        google: GoogleStorage::start(),
    };
    let folder = tempfile::tempdir().unwrap();
    let google = SecretManagerStandIn::start().await.unwrap();
    let mut pairs = data(&buckets);
    pairs.extend(settings(folder.path(), &google));
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
        environment: vec![(VARIABLE.to_owned(), "kept apart".to_owned())],
        ..Options::default()
    };
    let server = probe::server(options).await.unwrap();
    let client = &server.client;
    for bytes in [
        renamed(PROBE.0, PROBE.1),
        component(VISITOR.0),
        renamed(VISITOR.0, VISITOR.1),
    ] {
        client.push(bytes, "&allow_missing=true").await.unwrap();
    }
    for pair in &pairs {
        let Guests(one, other) = pair.guests;
        let theirs = pair.name("theirs");
        for (plugin, binding) in [(one, &pair.name("mine")), (other, &theirs)] {
            let granted = client.grant(plugin, pair.capability, binding, None);
            granted.await.unwrap();
        }
        if let Some(call) = &pair.writes {
            let written = client.succeed(&call.of(other), &call.1(&theirs)).await;
            written.unwrap();
        }
        // Who may read it finds it.
        let kept = own(client, pair).await;
        assert_ne!(Some(&kept), pair.nothing.as_ref(), "{theirs}");
        nothing_in(client, pair).await;
        for name in spellings(&theirs) {
            for call in pair.writes.iter().chain([&pair.reads]) {
                let activity = call.of(one);
                let denied = client.fail(&activity, &call.1(&name)).await;
                let denied = denied.unwrap_or_else(|error| panic!("{activity} {name:?}: {error}"));
                let told = format!("{activity} {name:?}: {denied}");
                assert_eq!(denied["kind"], "capability-denied", "{told}");
            }
        }
        // What was refused has left nothing behind, on either side.
        nothing_in(client, pair).await;
        assert_eq!(own(client, pair).await, kept, "{theirs}");
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

/// What the plugin reads whose binding it is.
async fn own(client: &Client, pair: &Pair) -> Value {
    let activity = pair.reads.of(pair.guests.1);
    let input = pair.reads.1(&pair.name("theirs"));
    client.succeed(&activity, &input).await.unwrap()
}

/// The other one finds nothing in its own.
async fn nothing_in(client: &Client, pair: &Pair) {
    let activity = pair.reads.of(pair.guests.0);
    let mine = pair.name("mine");
    match &pair.nothing {
        Some(nothing) => {
            let found = client.succeed(&activity, &pair.reads.1(&mine)).await;
            assert_eq!(&found.unwrap(), nothing, "{activity} on {mine}");
        }
        None => {
            let failure = client.fail(&activity, &pair.reads.1(&mine)).await.unwrap();
            let kind = failure["kind"].as_str().unwrap();
            assert!(
                !["capability-denied", "unavailable"].contains(&kind),
                "{activity} on {mine}: {failure}"
            );
        }
    }
    for name in &pair.outside {
        let input = json!({ "binding": mine, "name": name });
        let outcome = client.activity(&activity, &input).await.unwrap();
        let found = &outcome.body["result"];
        assert!(found.is_null(), "{activity} on {mine}: {name}: {found}");
    }
}
