//! Neo4j: one server per binding.
//!
//! Its Community Edition has one database and no rights, so that whoever signs in reaches
//! all that the server has: no two bindings share a server, and what leads out of its data
//! is refused before it is sent (`check.rs`). The server is tried, once, for the settings by
//! which it refuses the worst of it too; where they are not set, the log and `heyday doctor`
//! say so.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use url::{Host, Url};

use super::GraphLimits;
use super::bolt::{BoltError, Connector, SignIn, Value, Wire};
use super::session::Graph;
use crate::credential::CredentialSource;
use crate::tls::{Tls, TlsError, is_away};

/// How long a connection may take to be made.
const CONNECTING: Duration = Duration::from_secs(5);
/// What a message has beside a row.
const MESSAGE_BYTES: u64 = 1 << 20;

/// The settings that a server should have, as `neo4j.conf` writes them: it opens no files
/// and no addresses, whatever a statement says.
pub const SETTINGS: [(&str, &str); 2] = [
    ("dbms.security.allow_csv_import_from_file_urls", "false"),
    ("internal.dbms.cypher_ip_blocklist", "0.0.0.0/0,::/0"),
];

/// The setting for a server with functions that are not Neo4j's own: they may run statements
/// of a text (APOC's do), and nobody looks at such a text.
const NO_FUNCTIONS: (&str, &str) = ("dbms.security.procedures.allowlist", "db.*,dbms.*");

/// What the names of Neo4j's own functions begin with that it lists among the others.
const OWN_FUNCTIONS: [&str; 3] = ["db.", "dbms.", "graph."];

/// A Neo4j server, and who signs in to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neo4jConfig {
    /// `neo4j://USER@HOST[:PORT]`, without a password.
    pub url: String,
    /// A file with the user's password; read at each connection.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The environment variable that has the user's password.
    #[serde(default)]
    pub password_env: Option<String>,
    /// The database; the server's default one where absent.
    #[serde(default)]
    pub database: Option<String>,
    /// Whether by TLS, with the server's certificate verified; where absent, unless the
    /// host is this machine.
    #[serde(default)]
    pub tls: Option<bool>,
    /// Certificates that the server's must descend from, PEM; the operating system's
    /// where absent.
    #[serde(default)]
    pub tls_server_ca_cert_path: Option<PathBuf>,
}

impl Neo4jConfig {
    /// Every path that it names.
    pub fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let password = self.password_file.as_mut();
        password
            .into_iter()
            .chain(self.tls_server_ca_cert_path.as_mut())
    }
}

/// Why a configuration of Neo4j cannot be used. Never holds a password.
#[derive(Debug, thiserror::Error)]
pub enum Neo4jConfigError {
    /// Not the form of an address.
    #[error("its url is not neo4j://USER@HOST[:PORT]: {0}")]
    Url(&'static str),
    /// Two passwords, or none.
    #[error("it has no password: say one of password_file and password_env")]
    Password,
    /// The database that guests must not see.
    #[error("the database `system` is the server's own")]
    System,
    /// The certificates cannot be used.
    #[error("its tls_server_ca_cert_path cannot be used: {0}")]
    Certificates(String),
    /// Certificates without TLS.
    #[error("it has a tls_server_ca_cert_path, but tls is off")]
    NoTls,
}

/// A configuration that was checked.
struct Server {
    host: String,
    port: u16,
    user: String,
    password: CredentialSource,
    database: Option<String>,
    tls: Option<Tls>,
    message_bytes: usize,
    /// What the server should have set, once it was tried; the log has it too.
    lacking: OnceCell<Vec<String>>,
}

/// What no two bindings may share.
///
/// # Errors
/// When the configuration cannot be used.
pub fn identity(config: &Neo4jConfig) -> Result<String, Neo4jConfigError> {
    Server::new(config, 0).map(|server| server.identity())
}

/// Names a graph on a server; it is connected to at its first use.
///
/// # Errors
/// When the configuration cannot be used.
pub fn open(
    config: &Neo4jConfig,
    read_only: bool,
    limits: GraphLimits,
    runtime: Handle,
) -> Result<Graph, Neo4jConfigError> {
    let server = Server::new(config, limits.result_bytes)?;
    Ok(Graph::new(
        Box::new(server),
        "neo4j",
        read_only,
        limits,
        runtime,
    ))
}

impl Server {
    fn new(config: &Neo4jConfig, result_bytes: u64) -> Result<Self, Neo4jConfigError> {
        let wrong = Neo4jConfigError::Url;
        let url = Url::parse(&config.url).map_err(|_| wrong("it is no address"))?;
        if !matches!(url.scheme(), "neo4j" | "bolt") {
            return Err(wrong("it begins with neo4j:// or bolt://"));
        }
        if url.password().is_some() {
            return Err(wrong(
                "a password does not belong there; say a password_file or a password_env",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() || !matches!(url.path(), "" | "/") {
            return Err(wrong(
                "it has no path and no options; they are settings of the binding",
            ));
        }
        let host = match url.host() {
            Some(Host::Ipv6(address)) => address.to_string(),
            Some(host) if !host.to_string().is_empty() => host.to_string(),
            _ => return Err(wrong("it has a host")),
        };
        let user = percent_encoding::percent_decode_str(url.username()).decode_utf8();
        let user = user
            .map_err(|_| wrong("a user's name is UTF-8"))?
            .into_owned();
        if user.is_empty() {
            return Err(wrong("it has a user"));
        }
        if config
            .database
            .as_deref()
            .is_some_and(|name| name.eq_ignore_ascii_case("system"))
        {
            return Err(Neo4jConfigError::System);
        }
        let password =
            CredentialSource::of(config.password_file.as_ref(), config.password_env.as_ref());
        let Ok(Some(password)) = password else {
            return Err(Neo4jConfigError::Password);
        };
        let ca = config.tls_server_ca_cert_path.as_deref();
        let tls = Tls::of(&host, config.tls, ca).map_err(|error| match error {
            TlsError::Certificates(why) => Neo4jConfigError::Certificates(why),
            TlsError::Off => Neo4jConfigError::NoTls,
        })?;
        Ok(Self {
            host,
            port: url.port().unwrap_or(7687),
            user,
            password,
            database: config.database.clone(),
            tls,
            message_bytes: usize::try_from(result_bytes.saturating_add(MESSAGE_BYTES))
                .unwrap_or(usize::MAX),
            lacking: OnceCell::new(),
        })
    }

    /// Which settings the server lacks: by statements that it refuses where it has them.
    async fn try_settings(&self, wire: &mut Wire) -> Result<Vec<String>, BoltError> {
        let mut lacking = Vec::new();
        // Neither is anywhere; a server that is open tries to.
        let opened = ["file:///heyday", "http://127.0.0.1:1/heyday"];
        for ((setting, value), address) in SETTINGS.into_iter().zip(opened) {
            let statement = format!("LOAD CSV FROM '{address}' AS line RETURN line");
            match wire.column(&statement, CONNECTING).await {
                Err(BoltError::Server(failure)) if failure.message.contains(setting) => {}
                Err(BoltError::Server(_)) | Ok(_) => lacking.push(format!("{setting}={value}")),
                Err(error) => return Err(error),
            }
            wire.reset().await?;
        }
        let statement = "SHOW USER DEFINED FUNCTIONS YIELD name";
        match wire.column(statement, CONNECTING).await {
            Ok(functions) if functions.iter().filter_map(Value::as_str).all(is_own) => {}
            Ok(_) => lacking.push(format!("{}={}", NO_FUNCTIONS.0, NO_FUNCTIONS.1)),
            // It does not tell.
            Err(BoltError::Server(_)) => {}
            Err(error) => return Err(error),
        }
        wire.reset().await?;
        if !lacking.is_empty() {
            tracing::warn!(
                server = self.identity(),
                lacking = lacking.join(" "),
                "Neo4j would do what plugins may not ask it to; see docs/graph.md"
            );
        }
        Ok(lacking)
    }
}

fn is_own(function: &str) -> bool {
    OWN_FUNCTIONS.iter().any(|own| function.starts_with(own))
}

#[async_trait]
impl Connector for Server {
    fn identity(&self) -> String {
        format!("neo4j://{}:{}", self.host, self.port)
    }

    fn patience(&self) -> Duration {
        CONNECTING
    }

    async fn connect(&self) -> Result<Wire, BoltError> {
        let away = |error: std::io::Error| BoltError::Away(error.to_string());
        let password = self.password.read().await.map_err(BoltError::Refused)?;
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(away)?;
        stream.set_nodelay(true).map_err(away)?;
        let sign_in = SignIn {
            user: self.user.clone(),
            password,
        };
        let database = self.database.clone();
        let limit = self.message_bytes;
        let mut wire = match &self.tls {
            None => Wire::open(Box::new(stream), sign_in, database, limit).await?,
            Some(tls) => {
                let connected = tls.connector.connect(tls.name.clone(), stream).await;
                let stream = connected.map_err(|error| {
                    let cause = format!("TLS: {error}");
                    if is_away(&error) {
                        BoltError::Away(cause)
                    } else {
                        BoltError::Refused(cause)
                    }
                })?;
                Wire::open(Box::new(stream), sign_in, database, limit).await?
            }
        };
        if !wire.agent.starts_with("Neo4j/") {
            return Err(BoltError::Refused(format!("it is {}", wire.agent)));
        }
        wire.set_deadline(Some(Instant::now() + CONNECTING));
        let asked = &mut wire;
        let trying = || async move { self.try_settings(asked).await };
        self.lacking.get_or_try_init(trying).await?;
        Ok(wire)
    }

    fn lacking(&self) -> Vec<String> {
        self.lacking.get().cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(json: serde_json::Value) -> Result<Server, Neo4jConfigError> {
        Server::new(&serde_json::from_value(json).expect("a configuration"), 1)
    }

    #[test]
    fn an_address_has_a_user_and_no_password() {
        let url = |url: &str| server(serde_json::json!({ "url": url, "password_env": "P" }));
        let found = url("neo4j://a%20b@localhost").expect("an address");
        assert_eq!((found.user.as_str(), found.port), ("a b", 7687));
        assert!(found.tls.is_none());
        let found = url("bolt://neo4j@[::1]:1234").expect("an address");
        assert_eq!(found.identity(), "neo4j://::1:1234");
        let found = url("neo4j://neo4j@graph.example.com").expect("an address");
        assert!(found.tls.is_some());
        for (text, told) in [
            ("nowhere", "no address"),
            ("http://u@localhost", "neo4j://"),
            ("neo4j://u:secret@localhost", "password_file"),
            ("neo4j://localhost", "a user"),
            ("neo4j://u@localhost/neo4j", "no path"),
            ("neo4j://u@localhost?x=1", "options"),
            ("neo4j:///", "a host"),
        ] {
            let error = url(text).err().expect(text).to_string();
            assert!(error.contains(told), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn functions_that_are_not_neo4js_own_are_told() {
        for own in ["db.nameFromElementId", "graph.names"] {
            assert!(is_own(own), "{own}");
        }
        for other in ["apoc.cypher.runFirstColumnMany", "dbx.run"] {
            assert!(!is_own(other), "{other}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (more, told) in [
            (serde_json::json!({}), "password"),
            (
                serde_json::json!({ "password_env": "P", "password_file": "f" }),
                "password",
            ),
            (
                serde_json::json!({ "password_env": "P", "database": "System" }),
                "system",
            ),
            (
                serde_json::json!({ "password_env": "P", "tls": false,
                    "tls_server_ca_cert_path": "f" }),
                "tls is off",
            ),
            (
                serde_json::json!({ "password_env": "P", "tls_server_ca_cert_path": "/no/file" }),
                "cannot be used",
            ),
        ] {
            let mut config = more;
            config["url"] = "neo4j://u@localhost".into();
            let error = server(config).err().expect(told).to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
