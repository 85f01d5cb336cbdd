//! The one table of backends: a server with a binding of a capability on each that there is
//! here.

use serde_json::Value;

use super::google_storage::GoogleStorage;
use super::neo4j::{self, Shared};
use super::postgres;
use super::probe;
use super::s3::Gateway;
use super::server::{Client, Options, Server};
use super::weaviate;

/// What the bindings need as long as the server runs.
pub struct Held {
    _gateway: Option<Gateway>,
    _google: Option<GoogleStorage>,
    /// Nobody else has it meanwhile.
    _neo4j: Option<Shared>,
}

/// A server with the probe, and with a binding of each of these capabilities on each backend
/// that there is here: `default` is embedded, the other is named after its backend.
pub async fn with_backends(capabilities: &[&str]) -> (Server, Held) {
    let wants = |capability: &str| capabilities.contains(&capability);
    let mut config = "[limits.call]\ncancel_grace_ms = 100\n\
                      [bindings.namespaces.default.sql.default]\npath = 'sql.db'\n\
                      limits = { busy_timeout_ms = 2000 }\n"
        .to_owned();
    let mut granted = Vec::new();
    if (wants("sql") || wants("kv"))
        && let Some(server) = postgres::shared()
    {
        let database = server.database();
        let sql = server.role(&database).toml();
        config += &format!(
            "[bindings.namespaces.default.sql.postgresql]\n{sql}limits = {{ busy_timeout_ms = 2000 }}\n"
        );
        let kv = server.role(&database).toml();
        config += &format!("[bindings.namespaces.default.kv.postgresql]\n{kv}");
        granted.extend([("sql", "postgresql"), ("kv", "postgresql")]);
    }
    let gateway = wants("blob").then(Gateway::start).flatten();
    if let Some(gateway) = &gateway {
        let blob = gateway.toml("contract");
        config += &format!("[bindings.namespaces.default.blob.bucket]\n{blob}");
        granted.push(("blob", "bucket"));
    }
    let google = wants("blob").then(GoogleStorage::start).flatten();
    if let Some(google) = &google {
        let blob = google.toml("contract");
        config += &format!("[bindings.namespaces.default.blob.google]\n{blob}");
        granted.push(("blob", "google"));
    }
    if wants("vector")
        && let Some(server) = weaviate::shared()
    {
        let vector = server.toml();
        config += &format!("[bindings.namespaces.default.vector.weaviate]\n{vector}");
        granted.push(("vector", "weaviate"));
    }
    let neo4j = if wants("graph") {
        neo4j::shared().await
    } else {
        None
    };
    if let Some(neo4j) = &neo4j {
        let graph = neo4j.toml();
        config += &format!("[bindings.namespaces.default.graph.neo4j]\n{graph}");
        granted.push(("graph", "neo4j"));
    }
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    let server = probe::server(options).await.unwrap();
    for (capability, binding) in granted {
        let granted = server.client.grant("probe", capability, binding, None);
        granted.await.unwrap();
    }
    let held = Held {
        _gateway: gateway,
        _google: google,
        _neo4j: neo4j,
    };
    (server, held)
}

/// The bindings of a capability, each with its backend.
pub async fn backends(client: &Client, capability: &str) -> Vec<(String, String)> {
    let listed = client.get("/bindings").await.unwrap();
    let rows = listed["bindings"].as_array().unwrap();
    let text = |row: &Value, member: &str| row[member].as_str().unwrap().to_owned();
    rows.iter()
        .filter(|row| row["capability"] == capability)
        .map(|row| (text(row, "name"), text(row, "backend")))
        .collect()
}
