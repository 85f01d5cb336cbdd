//! PostgreSQL, for every capability that has it as a backend.
//!
//! A client of our own on the protocol's codec (`postgres-protocol`), because what guests
//! send is hostile and must end when they do: a message is refused before it is in
//! memory (`wire.rs`), a statement that nobody waits for is cancelled on the server, what
//! a connection was left with is thrown away before anyone else has it (`pool.rs`), and
//! whether a transaction is still open is what the server says, not what we believe.
//! Ready-made clients (sqlx, tokio-postgres) keep these to themselves.
//!
//! What a guest's statements may reach is decided by PostgreSQL's own rights: each
//! binding signs in as a role of its own, that owns nothing else and is a member of
//! nothing ([`setup`] makes it; `isolation.rs` looks whether it is so at each connection).

mod connect;
mod diagnosis;
mod error;
mod isolation;
mod pool;
pub mod setup;
mod wire;

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::credential::CredentialSource;
use crate::tls::{Tls, TlsError};

pub use diagnosis::{PLACE, Place};
pub(crate) use diagnosis::{diagnose, location};
pub(crate) use error::{PgError, ServerError};
pub(crate) use pool::{Lease, Pool, PoolOptions};
pub(crate) use wire::{Event, Field, Param, Status, Wire};

/// A PostgreSQL database, the role that signs in to it, and its schema.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// `postgres://ROLE@HOST[:PORT]/DATABASE`, without a password.
    pub url: String,
    /// A file with the role's password; read at each connection.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The environment variable that has the role's password.
    #[serde(default)]
    pub password_env: Option<String>,
    /// The schema that unqualified names mean; the role's name where absent.
    #[serde(default)]
    pub schema: Option<String>,
    /// Whether by TLS, with the server's certificate verified; where absent, unless the
    /// host is this machine.
    #[serde(default)]
    pub tls: Option<bool>,
    /// Certificates that the server's must descend from, PEM; the operating system's
    /// where absent.
    #[serde(default)]
    pub tls_server_ca_cert_path: Option<PathBuf>,
}

impl PostgresConfig {
    /// Every path that it names.
    pub fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let password = self.password_file.as_mut();
        password
            .into_iter()
            .chain(self.tls_server_ca_cert_path.as_mut())
    }
}

/// Why a configuration of PostgreSQL cannot be used. Never holds a password.
#[derive(Debug, thiserror::Error)]
pub enum PostgresConfigError {
    /// Not the form of an address.
    #[error("its url is not postgres://ROLE@HOST[:PORT]/DATABASE: {0}")]
    Url(&'static str),
    /// Two passwords.
    #[error("it has a password_file and a password_env: say one")]
    TwoPasswords,
    /// The certificates cannot be used.
    #[error("its tls_server_ca_cert_path cannot be used: {0}")]
    Certificates(String),
    /// Certificates without TLS.
    #[error("it has a tls_server_ca_cert_path, but tls is off")]
    NoTls,
}

/// A configuration that was checked.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    host: String,
    port: u16,
    role: String,
    database: String,
    schema: String,
    password: Option<CredentialSource>,
    tls: Option<Tls>,
}

impl Server {
    pub(crate) fn new(config: &PostgresConfig) -> Result<Self, PostgresConfigError> {
        let wrong = PostgresConfigError::Url;
        let url = Url::parse(&config.url).map_err(|_| wrong("it is no address"))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(wrong("it begins with postgres://"));
        }
        if url.password().is_some() {
            return Err(wrong(
                "a password does not belong there; say a password_file or a password_env",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("it has no options; they are settings of the binding"));
        }
        let decode = |text: &str, what| {
            let text = percent_decode_str(text).decode_utf8();
            let text = text.map_err(|_| wrong("its names are UTF-8"))?.into_owned();
            if text.is_empty() || text.contains('\0') || text.contains('/') {
                return Err(wrong(what));
            }
            Ok(text)
        };
        let host = match url.host() {
            Some(Host::Ipv6(address)) => address.to_string(),
            Some(host) => decode(&host.to_string(), "it has a host")?,
            None => return Err(wrong("it has a host")),
        };
        let role = decode(url.username(), "it has a role")?;
        let database = decode(url.path().trim_start_matches('/'), "it has a database")?;
        let schema = config.schema.clone().unwrap_or_else(|| role.clone());
        let (file, variable) = (config.password_file.as_ref(), config.password_env.as_ref());
        let password =
            CredentialSource::of(file, variable).map_err(|()| PostgresConfigError::TwoPasswords)?;
        let ca = config.tls_server_ca_cert_path.as_deref();
        let tls = Tls::of(&host, config.tls, ca).map_err(|error| match error {
            TlsError::Certificates(why) => PostgresConfigError::Certificates(why),
            TlsError::Off => PostgresConfigError::NoTls,
        })?;
        Ok(Self {
            host,
            port: url.port().unwrap_or(5432),
            role,
            database,
            schema,
            password,
            tls,
        })
    }

    /// What no two bindings may share: a role on a server. Two databases are no
    /// difference, as a role may end its own statements in all of them.
    pub(crate) fn identity(&self) -> String {
        format!("postgres://{}@{}:{}", self.role, self.host, self.port)
    }

    /// The address, `HOST:PORT`, the role and the database.
    pub(crate) fn parts(&self) -> (String, &str, &str) {
        let address = format!("{}:{}", self.host, self.port);
        (address, &self.role, &self.database)
    }
}

/// A name as SQL writes it, whatever it is.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Bytes as the server writes them: `\\x`, and two digits each.
pub(crate) fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.strip_prefix(b"\\x")?;
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|it| u8::try_from(it).ok())
    };
    digits
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

/// An array of texts as a parameter.
pub(crate) fn text_array(texts: &[String]) -> Param {
    let mut array = String::from("{");
    for (index, text) in texts.iter().enumerate() {
        if index > 0 {
            array.push(',');
        }
        array_element(text, &mut array);
    }
    array.push('}');
    Param::text(&array)
}

/// Writes a text as an element of an array's text form.
pub(crate) fn array_element(text: &str, array: &mut String) {
    array.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            array.push('\\');
        }
        array.push(character);
    }
    array.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(json: serde_json::Value) -> Result<Server, PostgresConfigError> {
        Server::new(&serde_json::from_value(json).expect("a configuration"))
    }

    #[test]
    fn an_address_has_all_its_parts_and_no_password() {
        let url = |url: &str| server(serde_json::json!({ "url": url }));
        let found = url("postgres://a%20b@localhost/main").expect("an address");
        assert_eq!(found.role, "a b");
        assert_eq!(found.schema, "a b");
        assert_eq!(found.database, "main");
        assert_eq!(found.port, 5432);
        assert!(found.tls.is_none());
        let found = url("postgresql://r@[::1]:5433/d").expect("an address");
        assert_eq!(found.identity(), "postgres://r@::1:5433");
        assert!(
            url("postgres://r@db.example.com/d")
                .expect("TLS")
                .tls
                .is_some()
        );
        for (text, told) in [
            ("nowhere", "no address"),
            ("mysql://r@localhost/d", "postgres://"),
            ("postgres://r:secret@localhost/d", "password_file"),
            ("postgres://localhost/d", "a role"),
            ("postgres://r@localhost", "a database"),
            ("postgres://r@localhost/a/b", "a database"),
            ("postgres://r@localhost/d?sslmode=disable", "options"),
            ("postgres:///d", "a host"),
        ] {
            let error = url(text).expect_err(text).to_string();
            assert!(error.contains(told), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let both = serde_json::json!({ "url": "postgres://r@localhost/d",
            "password_file": "f", "password_env": "E" });
        assert!(matches!(
            server(both),
            Err(PostgresConfigError::TwoPasswords)
        ));
        let ca = |tls: bool| {
            serde_json::json!({ "url": "postgres://r@localhost/d", "tls": tls,
                "tls_server_ca_cert_path": "/no/such/file" })
        };
        assert!(matches!(server(ca(false)), Err(PostgresConfigError::NoTls)));
        let error = server(ca(true)).expect_err("no certificates");
        assert!(
            matches!(error, PostgresConfigError::Certificates(_)),
            "{error}"
        );
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
