//! Where the state is: a file in the data folder, or a database of PostgreSQL.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use heyday_capabilities::bindings::StateDatabase;
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

use super::StateError;

/// What the state of many servers is in, for messages.
pub(super) const POSTGRES: &str = "the state in PostgreSQL";
/// The file in the data folder.
pub const FILE: &str = "host.db";
/// How long one statement may run.
const STATEMENT_TIME: Duration = Duration::from_secs(20);
/// How long one statement waits for others' locks.
const LOCK_TIME: Duration = Duration::from_secs(10);
/// How long a transaction may wait for its server's next statement: a server that hangs
/// must not hold up the others.
const IDLE_TIME: Duration = Duration::from_secs(15);

/// Where the state is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateLocation {
    /// A file of SQLite, for one server.
    File(PathBuf),
    /// A database of PostgreSQL, for many.
    Postgres(StateUrl),
}

impl StateLocation {
    /// As the configuration says it, or the file of that data folder.
    #[must_use]
    pub fn of(url: Option<&StateUrl>, data: &Path) -> Self {
        match url {
            Some(url) => Self::Postgres(url.clone()),
            None => Self::File(data.join(FILE)),
        }
    }
}

impl fmt::Display for StateLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

/// Why a text does not say where the state is. Never has a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the state's address is not postgres://ROLE@HOST[:PORT]/DATABASE[?sslmode=MODE]: {0}")]
pub struct NotALocation(&'static str);

/// `postgres://ROLE[:PASSWORD]@HOST[:PORT]/DATABASE`, with the parameters `sslmode`,
/// `sslrootcert`, `sslcert`, `sslkey` and `options` as PostgreSQL's own clients know
/// them. Without `sslmode` the server's certificate is verified, unless it is on this
/// machine. What is shown of it has no password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StateUrl {
    url: Url,
    /// Instead of the address's own: one without a host, for a socket, has no place for it.
    password: Option<String>,
}

/// Parameters that are known; others are refused, as a typing error in `sslmode` must
/// not turn TLS off.
const PARAMETERS: [&str; 6] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "options",
    "host",
];

impl FromStr for StateUrl {
    type Err = NotALocation;

    fn from_str(text: &str) -> Result<Self, NotALocation> {
        let url = Url::parse(text).map_err(|_| NotALocation("it is no address"))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(NotALocation("it begins with postgres://"));
        }
        if url.path().trim_start_matches('/').is_empty() {
            return Err(NotALocation("it names no database"));
        }
        let mut named = url.host_str().is_some_and(|host| !host.is_empty());
        for (name, value) in url.query_pairs() {
            if !PARAMETERS.contains(&&*name) {
                return Err(NotALocation(
                    "of parameters it has sslmode, sslrootcert, sslcert, sslkey, options and host",
                ));
            }
            if name == "sslmode" && value.parse::<PgSslMode>().is_err() {
                return Err(NotALocation(
                    "sslmode is disable, prefer, require, verify-ca or verify-full",
                ));
            }
            named |= name == "host";
        }
        if !named {
            return Err(NotALocation("it names no host"));
        }
        Ok(Self {
            url,
            password: None,
        })
    }
}

impl TryFrom<String> for StateUrl {
    type Error = NotALocation;

    fn try_from(text: String) -> Result<Self, NotALocation> {
        text.parse()
    }
}

impl From<StateUrl> for String {
    fn from(url: StateUrl) -> Self {
        url.to_string()
    }
}

impl fmt::Display for StateUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.url.clone();
        if self.has_password() {
            // Where there is no place for one, none is shown.
            let _ = shown.set_password(Some("***"));
        }
        shown.as_str().fmt(f)
    }
}

impl fmt::Debug for StateUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StateUrl {
    /// Whether it has a password.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.password.is_some() || self.url.password().is_some()
    }

    /// The same with that password.
    #[must_use]
    pub fn with_password(&self, password: &str) -> Self {
        Self {
            url: self.url.clone(),
            password: Some(password.to_owned()),
        }
    }

    /// What of its PostgreSQL server is the state's alone; none where the address cannot be
    /// used, which is told when it is.
    #[must_use]
    pub fn reserved(&self) -> Option<StateDatabase> {
        let options = self.options().ok()?;
        let host = match options.get_socket() {
            // Bindings know no sockets: such a server is here.
            Some(_) => "127.0.0.1",
            None => options.get_host(),
        };
        Some(StateDatabase {
            host: host.to_owned(),
            port: options.get_port(),
            role: options.get_username().to_owned(),
            database: options.get_database()?.to_owned(),
        })
    }

    /// How it is connected to.
    pub(super) fn options(&self) -> Result<PgConnectOptions, StateError> {
        let mut options: PgConnectOptions = self.url.as_str().parse()?;
        if let Some(password) = &self.password {
            options = options.password(password);
        }
        let said = self.url.query_pairs().any(|(name, _)| name == "sslmode");
        if !said && options.get_socket().is_none() && !is_here(options.get_host()) {
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }
        let limit = |time: Duration| time.as_millis().to_string();
        Ok(options.application_name("heyday").options([
            ("statement_timeout", limit(STATEMENT_TIME)),
            ("lock_timeout", limit(LOCK_TIME)),
            ("idle_in_transaction_session_timeout", limit(IDLE_TIME)),
        ]))
    }
}

/// Whether a host is this machine.
fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|host| host.is_loopback())
}

#[cfg(test)]
mod tests {
    use sqlx::ConnectOptions as _;

    use super::*;

    #[test]
    fn what_is_shown_has_no_password() {
        let url: StateUrl = "postgres://heyday:hunter2@db.example/state?sslmode=require"
            .parse()
            .expect("an address");
        for shown in [
            url.to_string(),
            format!("{url:?}"),
            format!("{:?}", StateLocation::Postgres(url.clone())),
            serde_json::to_string(&url).expect("JSON"),
        ] {
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(shown.contains("db.example/state"), "{shown}");
        }
        assert!(url.has_password());
        for bare in [
            "postgres://heyday@localhost/state",
            "postgres:///state?host=/run/postgresql",
        ] {
            let bare: StateUrl = bare.parse().expect("an address");
            let with = bare.with_password("p@ss/w");
            assert!(!bare.has_password() && with.has_password(), "{bare}");
            for shown in [
                format!("{with:?}"),
                serde_json::to_string(&with).expect("JSON"),
            ] {
                assert!(!shown.contains("p@ss"), "{shown}");
            }
            let options = with.options().expect("options").to_url_lossy();
            assert_eq!(options.password(), Some("p%40ss%2Fw"), "{bare}");
        }
    }

    #[test]
    fn a_wrong_address_says_why_and_not_the_password() {
        for (text, told) in [
            ("nowhere", "no address"),
            ("mysql://r:hunter2@localhost/d", "postgres://"),
            ("postgres://r:hunter2@localhost", "no database"),
            ("postgres:///d", "no host"),
            ("postgres://r:hunter2@h/d?ssl_mode=require", "parameters"),
            ("postgres://r:hunter2@h/d?sslmode=yes", "verify-full"),
        ] {
            let error = text.parse::<StateUrl>().expect_err(text).to_string();
            assert!(error.contains(told), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn tls_is_verified_unless_it_is_said_or_here() {
        let mode = |text: &str| {
            let url: StateUrl = text.parse().expect("an address");
            url.options().expect("options").get_ssl_mode()
        };
        assert!(matches!(
            mode("postgres://r@db.example/d"),
            PgSslMode::VerifyFull
        ));
        assert!(matches!(
            mode("postgres://r@127.0.0.1/d"),
            PgSslMode::Prefer
        ));
        assert!(matches!(
            mode("postgres://r@db.example/d?sslmode=require"),
            PgSslMode::Require
        ));
    }
}
