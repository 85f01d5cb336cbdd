//! Who may ask: the operator's token, and protection against pages in the user's browser.
//! Workers have tokens of their own ([`crate::tokens`]).
//!
//! `heyday up` makes a token at its first start, in a file that only its owner reads. A
//! request passes `Auth`: its `Host` must be one that the server listens as
//! (else a name that an attacker points at 127.0.0.1 would reach it), its `Origin`, if
//! it has one, must be the server's own, and its bearer token must be right. The answer
//! is a [`Principal`], which every handler takes: today there is one, the operator.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};

use crate::secret_file::{self, SecretError};
use crate::server::ServerError;
use crate::state::{HostDb, StateError};

/// The token's file in the data folder.
pub const TOKEN_FILE: &str = "token";
/// The file in the data folder with the key that signs addresses of objects.
const ADDRESS_KEY_FILE: &str = "address-key";

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// A name for the audit and the log.
    pub name: String,
}

/// Why a request may not be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The `Host` header names somebody else.
    #[error(
        "this server does not answer as {0:?}; use its own address, or start it with that \
         address as `--listen`"
    )]
    Host(String),
    /// The request comes from a page of another origin.
    #[error("pages of {0:?} may not use this server")]
    Origin(String),
    /// There is no bearer token.
    #[error("the request has no token; send `Authorization: Bearer TOKEN`")]
    NoToken,
    /// The bearer token is wrong.
    #[error("the token is not this server's")]
    WrongToken,
    /// The token is a worker's, and the route is not for workers.
    #[error("a worker's token opens `/api/v1/worker` only; use the server's own token")]
    WorkerToken,
    /// The token is the operator's, and the route is for workers.
    #[error(
        "this is for workers: make a token for one with `heyday token create`, the server's \
         own token does not open it"
    )]
    OperatorToken,
    /// A worker's token does not open the namespace.
    #[error("this token does not open the namespace {0:?}; make one that does")]
    Namespace(String),
}

/// Checks requests.
#[derive(Debug, Clone)]
pub struct Auth {
    /// Digests of fixed length are compared, so that the time says nothing of the token.
    token: Arc<RwLock<[u8; 32]>>,
    hosts: Vec<String>,
    /// Hosts that another process answers as, before this one.
    fronts: Vec<String>,
}

impl Auth {
    /// Requests need the token of this digest and come to this address, or to one of the
    /// hosts of a load balancer before it.
    #[must_use]
    pub fn new(token: [u8; 32], listen: SocketAddr, fronts: &[String]) -> Self {
        let port = listen.port();
        let mut hosts = vec![listen.to_string()];
        if listen.ip().is_loopback() || listen.ip().is_unspecified() {
            hosts.extend(["127.0.0.1", "[::1]", "localhost"].map(|host| format!("{host}:{port}")));
        }
        if port == 80 {
            // The default port is left out by clients.
            let bare: Vec<String> = hosts
                .iter()
                .filter_map(|host| host.strip_suffix(":80").map(str::to_owned))
                .collect();
            hosts.extend(bare);
        }
        Self {
            token: Arc::new(RwLock::new(token)),
            hosts,
            fronts: fronts.iter().map(|host| host.to_lowercase()).collect(),
        }
    }

    /// From now on another token is the operator's.
    pub fn replace_token(&self, digest: [u8; 32]) {
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = digest;
    }

    /// Whether the request is meant for this server and not sent by a foreign page.
    ///
    /// # Errors
    /// [`AuthError::Host`] or [`AuthError::Origin`].
    pub fn check_host(
        &self,
        headers: &HeaderMap,
        authority: Option<&str>,
    ) -> Result<(), AuthError> {
        let texts = |name| {
            headers
                .get_all(name)
                .iter()
                .map(|value| String::from_utf8_lossy(value.as_bytes()).to_lowercase())
        };
        let front = |host: &str| self.fronts.iter().any(|front| front == host);
        let own = |host: &str| self.hosts.iter().any(|own| own == host) || front(host);
        // An absolute target names the host too. Each that is named must be right: others
        // may read another one than we do.
        let mut named = 0;
        for host in texts(header::HOST).chain(authority.map(str::to_lowercase)) {
            named += 1;
            if !own(&host) {
                return Err(AuthError::Host(host.chars().take(200).collect()));
            }
        }
        if named == 0 {
            return Err(AuthError::Host(String::new()));
        }
        for origin in texts(header::ORIGIN) {
            // Only a load balancer has TLS.
            let by_tls = origin.strip_prefix("https://").is_some_and(front);
            if !by_tls && !origin.strip_prefix("http://").is_some_and(own) {
                return Err(AuthError::Origin(origin.chars().take(200).collect()));
            }
        }
        Ok(())
    }

    /// Whether the request has the operator's token.
    ///
    /// # Errors
    /// [`AuthError::NoToken`] or [`AuthError::WrongToken`].
    pub fn check_token(&self, headers: &HeaderMap) -> Result<Principal, AuthError> {
        let given = bearer(headers)?;
        let digest = digest(given);
        let token = *self.token.read().unwrap_or_else(PoisonError::into_inner);
        let different = digest
            .iter()
            .zip(&token)
            .fold(0_u8, |different, (a, b)| different | (a ^ b));
        if different == 0 {
            Ok(Principal {
                name: "operator".to_owned(),
            })
        } else {
            Err(AuthError::WrongToken)
        }
    }
}

/// What is compared, and stored, of a token.
#[must_use]
pub fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The bearer token of a request.
///
/// # Errors
/// [`AuthError::NoToken`] where it has none.
pub fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or(AuthError::NoToken)
}

/// The token of a data folder; made where there is none.
///
/// # Errors
/// When the file cannot be used or made.
pub fn load_or_create_token(data: &Path) -> Result<String, SecretError> {
    secret_file::load_or_create(&data.join(TOKEN_FILE))
}

/// The digest of the token that all servers of a state take, and whether this data folder
/// has the token itself. The first server makes it; another one has it only where it was
/// put there.
///
/// # Errors
/// When a file cannot be used, the state cannot be asked, or the folder has another token.
pub async fn shared_token(data: &Path, state: &HostDb) -> Result<([u8; 32], bool), ServerError> {
    if let Some(token) = secret_file::load(&data.join(TOKEN_FILE))? {
        let own = digest(&token);
        return if state.operator_token(&own).await? == own {
            Ok((own, true))
        } else {
            Err(StateError::OtherToken.into())
        };
    }
    if let Some(known) = state.known_operator_token().await? {
        return Ok((known, false));
    }
    let own = digest(&load_or_create_token(data)?);
    let known = state.operator_token(&own).await?;
    if known != own {
        // Another server was quicker: this one opens nothing.
        fs::remove_file(data.join(TOKEN_FILE)).map_err(SecretError::from)?;
    }
    Ok((known, known == own))
}

/// The key that signs addresses of objects, the same at all servers of a state. The state
/// keeps it where several servers share one, and a file of the data folder where not.
///
/// # Errors
/// When the file cannot be used, or the state cannot be asked.
pub async fn address_key(data: &Path, state: &HostDb) -> Result<String, ServerError> {
    if state.is_shared() {
        let offered = secret_file::random().map_err(ServerError::AddressKey)?;
        return Ok(state.address_key(&offered).await?);
    }
    secret_file::load_or_create(&data.join(ADDRESS_KEY_FILE)).map_err(ServerError::AddressKey)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.clone(), value.parse().expect("a value"));
        }
        headers
    }

    fn auth() -> Auth {
        Auth::new(
            digest("secret-secret-secret"),
            "127.0.0.1:8000".parse().expect("an address"),
            &["Heyday.Example".to_owned()],
        )
    }

    #[test]
    fn only_the_token_lets_in() {
        let check = |value: &str| auth().check_token(&headers(&[(header::AUTHORIZATION, value)]));
        assert!(check("Bearer secret-secret-secret").is_ok());
        assert!(check("bearer  secret-secret-secret ").is_ok());
        assert_eq!(
            check("Bearer secret-secret-secre"),
            Err(AuthError::WrongToken)
        );
        assert_eq!(check("Bearer "), Err(AuthError::WrongToken));
        assert_eq!(check("Basic secret-secret-secret"), Err(AuthError::NoToken));
        assert_eq!(
            auth().check_token(&HeaderMap::new()),
            Err(AuthError::NoToken)
        );
    }

    #[test]
    fn foreign_hosts_and_origins_are_refused() {
        let check = |host: &str, origin: Option<&str>| {
            let mut pairs = vec![(header::HOST, host)];
            pairs.extend(origin.map(|origin| (header::ORIGIN, origin)));
            auth().check_host(&headers(&pairs), None)
        };
        for host in [
            "127.0.0.1:8000",
            "localhost:8000",
            "LOCALHOST:8000",
            "[::1]:8000",
        ] {
            assert_eq!(check(host, None), Ok(()), "{host}");
        }
        for host in [
            "evil.example:8000",
            "127.0.0.1",
            "127.0.0.1:8001",
            "127.0.0.1:8000:8000",
            "127.0.0.1:08000",
            "127.1:8000",
            "2130706433:8000",
            "0x7f000001:8000",
            "0.0.0.0:8000",
            "localhost.:8000",
            "localhost.evil.example:8000",
            "user@localhost:8000",
            "::1:8000",
            "[::1]",
            "[0:0:0:0:0:0:0:1]:8000",
            "[::ffff:127.0.0.1]:8000",
            "",
        ] {
            assert!(
                matches!(check(host, None), Err(AuthError::Host(_))),
                "{host}"
            );
        }
        assert_eq!(
            check("localhost:8000", Some("http://localhost:8000")),
            Ok(())
        );
        for origin in [
            "http://evil.example",
            "null",
            "https://localhost:8000",
            "http://localhost",
            "http://localhost:8000.evil.example",
            "http://localhost:8000@evil.example",
            "http://localhost:8000/",
            "http://[::1]",
            "file://",
            "chrome-extension://localhost:8000",
            "",
        ] {
            assert!(
                matches!(
                    check("localhost:8000", Some(origin)),
                    Err(AuthError::Origin(_))
                ),
                "{origin}"
            );
        }
        // A load balancer's host, which may have TLS.
        for origin in [
            None,
            Some("https://heyday.example"),
            Some("http://heyday.example"),
        ] {
            assert_eq!(check("heyday.example", origin), Ok(()), "{origin:?}");
        }
        assert!(check("heyday.example", Some("https://localhost:8000")).is_err());
        assert_eq!(
            auth().check_host(&HeaderMap::new(), Some("localhost:8000")),
            Ok(())
        );
        assert!(auth().check_host(&HeaderMap::new(), None).is_err());
        // Whichever of two is read.
        let mut twice = headers(&[
            (header::HOST, "localhost:8000"),
            (header::HOST, "evil.example:8000"),
        ]);
        assert_eq!(twice.get_all(header::HOST).iter().count(), 2);
        assert!(auth().check_host(&twice, None).is_err());
        twice.insert(header::HOST, "localhost:8000".parse().expect("a value"));
        assert!(
            auth()
                .check_host(&twice, Some("evil.example:8000"))
                .is_err()
        );
        twice.append(
            header::ORIGIN,
            "http://localhost:8000".parse().expect("a value"),
        );
        twice.append(
            header::ORIGIN,
            "http://evil.example".parse().expect("a value"),
        );
        assert!(auth().check_host(&twice, None).is_err());
    }
}
