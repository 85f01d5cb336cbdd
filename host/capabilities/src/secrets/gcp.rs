//! Secrets in Secret Manager of Google Cloud, by its REST API (v1).
//!
//! One request accesses one version, `latest` unless another is named. What it answered is
//! kept for `cache_ttl_ms`, so that a rotated secret is seen after that time at the latest,
//! and never longer: where Secret Manager cannot be reached then, the call fails as
//! `unavailable`. Callers that ask for the same secret wait for one request and share what
//! comes of it, also a failure; and so many callers wait at most.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::time::timeout;
use url::Url;
use zeroize::Zeroizing;

use super::{Secret, SecretsCode, SecretsError, unavailable};
use crate::diagnosis::clock_of;
use crate::error::chain;
use crate::google::{self, Identity, METADATA, Tokens, body};
use crate::places::Places;
use crate::source::VALUE_BYTES;
use crate::task::run_on;

const ENDPOINT: &str = "https://secretmanager.googleapis.com";
/// Bytes of the largest answer: a secret of 64 KiB in base64, and what is around it.
const ANSWER_BYTES: usize = 256 << 10;
/// Callers of one binding that wait for requests; as many again wait for a place among them.
/// They cost Secret Manager nothing.
const WAITING: u32 = 32;
/// Where it did not answer, it is not asked again for so long.
const AWAY: Duration = Duration::from_millis(500);

/// What its answers are checked with.
const CRC32C: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// Secret Manager, and how the host signs in to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GcpConfig {
    /// The project's id or number.
    pub project: String,
    /// The region of regional secrets, such as `europe-west3`.
    #[serde(default)]
    pub location: Option<String>,
    /// The key of a service account, JSON; read at each sign-in. Where absent, the metadata
    /// server of the machine says who it is.
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
    /// Secret Manager's address, where it is not the public one.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The metadata server's address, where it is not the usual one.
    #[serde(default)]
    pub metadata_endpoint: Option<String>,
    /// How long a secret is kept, in milliseconds; 0 asks each time.
    #[serde(default = "cache_ttl_ms")]
    pub cache_ttl_ms: u64,
    /// How long it may take to have a secret, the sign-in included, in milliseconds.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
}

const fn cache_ttl_ms() -> u64 {
    60_000
}

const fn timeout_ms() -> u64 {
    10_000
}

impl GcpConfig {
    /// Every path that it names.
    pub fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.credentials_file.iter_mut()
    }
}

/// Why a configuration of Secret Manager cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GcpConfigError {
    /// Not the form of a project or a region.
    #[error("its gcp.{0} has letters, digits and hyphens (a project also . and :)")]
    Name(&'static str),
    /// Not an address that may be used.
    #[error("its gcp.{0} is no address: {1}")]
    Endpoint(&'static str, &'static str),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// Checks what a name stands for: `SECRET` or `SECRET/versions/VERSION`.
pub(super) fn check_name(entry: &str) -> Result<(), &'static str> {
    let (secret, version) = split(entry);
    let valid = |text: &str| {
        (1..=255).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if valid(secret) && valid(version) {
        Ok(())
    } else {
        Err("it stands for SECRET or SECRET/versions/VERSION, without the project")
    }
}

fn split(entry: &str) -> (&str, &str) {
    entry.split_once("/versions/").unwrap_or((entry, "latest"))
}

/// Checks an address of the configuration.
fn address(member: &'static str, text: &str, plain: bool) -> Result<Url, GcpConfigError> {
    google::address(text, plain).map_err(|why| GcpConfigError::Endpoint(member, why))
}

/// What callers are answered.
type Answered = Result<Option<Secret>, SecretsError>;

/// What became of a request.
struct Outcome {
    answered: Answered,
    /// Whether nothing was answered at all.
    away: bool,
    asked: Instant,
    ended: Instant,
}

/// One secret: what became of the last request, and the right to make the next.
#[derive(Default)]
struct Asking {
    last: Mutex<Option<Outcome>>,
    turn: tokio::sync::Mutex<()>,
}

impl Asking {
    /// What a caller is answered that came at `since`, where a further request would tell
    /// it nothing that it does not know.
    fn known(&self, since: Instant, ttl: Duration) -> Option<Answered> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let last = last.as_ref()?;
        let holds = match &last.answered {
            Ok(Some(_)) => last.asked >= since || last.asked.elapsed() < ttl,
            Ok(None) => last.asked >= since,
            // It was waited for.
            Err(_) => last.ended >= since || (last.away && last.ended.elapsed() < AWAY),
        };
        holds.then(|| last.answered.clone())
    }

    fn keep(&self, outcome: Outcome) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(outcome);
    }
}

/// Secret Manager, and what it answered lately.
pub(super) struct SecretManager {
    inner: Arc<Inner>,
    runtime: Handle,
}

struct Inner {
    http: reqwest::Client,
    tokens: Tokens,
    /// Up to and with `secrets/`.
    base: String,
    ttl: Duration,
    timeout: Duration,
    places: Places,
    /// By what a name stands for: of these there are as many as the configuration names.
    secrets: Mutex<HashMap<String, Arc<Asking>>>,
}

/// Why there is no secret. For the host's log: neither a token nor a secret is in it.
#[derive(Debug)]
enum AccessError {
    /// What it answered: the HTTP status and its own word for it.
    Status(StatusCode, String),
    /// Nothing.
    Away(String),
    Other(String),
}

impl SecretManager {
    pub(super) fn new(config: &GcpConfig, runtime: Handle) -> Result<Self, GcpConfigError> {
        let is_name = |text: &str, further: &[u8]| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || further.contains(&byte))
        };
        if !is_name(&config.project, b"-.:") {
            return Err(GcpConfigError::Name("project"));
        }
        if config
            .location
            .as_ref()
            .is_some_and(|it| !is_name(it, b"-"))
        {
            return Err(GcpConfigError::Name("location"));
        }
        let endpoint = match (&config.endpoint, &config.location) {
            (Some(endpoint), _) => endpoint.clone(),
            (None, Some(location)) => {
                format!("https://secretmanager.{location}.rep.googleapis.com")
            }
            (None, None) => ENDPOINT.to_owned(),
        };
        let endpoint = address("endpoint", &endpoint, false)?;
        let metadata = config.metadata_endpoint.as_deref().unwrap_or(METADATA);
        let metadata = address("metadata_endpoint", metadata, true)?;
        let mut base = format!(
            "{}/v1/projects/{}",
            endpoint.as_str().trim_end_matches('/'),
            config.project
        );
        if let Some(location) = &config.location {
            base += &format!("/locations/{location}");
        }
        let timeout = Duration::from_millis(config.timeout_ms);
        let http = google::client(timeout).map_err(GcpConfigError::Tls)?;
        let identity = match &config.credentials_file {
            Some(path) => Identity::File(path.clone()),
            None => Identity::Machine(metadata),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                tokens: Tokens::new(http.clone(), identity),
                http,
                base: base + "/secrets/",
                ttl: Duration::from_millis(config.cache_ttl_ms),
                timeout,
                places: Places::new(WAITING),
                secrets: Mutex::default(),
            }),
            runtime,
        })
    }

    /// The secret that a name stands for; none where there is none, or its version is
    /// disabled.
    pub(super) async fn access(&self, entry: &str) -> Result<Option<Secret>, SecretsError> {
        let (inner, entry) = (Arc::clone(&self.inner), entry.to_owned());
        let asked = run_on(&self.runtime, async move { inner.get(&entry).await });
        asked.await.map_err(SecretsError::internal)?
    }

    /// Asks for a secret whether or not it is kept; answers what the server's clock says.
    pub(super) async fn look(&self, entry: &str) -> Result<Option<i64>, SecretsError> {
        let (inner, entry) = (Arc::clone(&self.inner), entry.to_owned());
        let asked = run_on(&self.runtime, async move {
            let Accessed { clock_ms, .. } = inner.ask(&entry).await.map_err(|error| {
                error.log(&entry);
                unavailable()
            })?;
            Ok(clock_ms)
        });
        asked.await.map_err(SecretsError::internal)?
    }
}

impl AccessError {
    fn log(self, entry: &str) {
        let cause = match self {
            Self::Status(status, word) => format!("it answered {status} {word}"),
            Self::Away(cause) | Self::Other(cause) => cause,
        };
        tracing::warn!(secret = entry, cause, "Secret Manager cannot be used");
    }
}

/// A secret, and what the clock of the server said.
struct Accessed {
    secret: Secret,
    clock_ms: Option<i64>,
}

impl Inner {
    async fn get(&self, entry: &str) -> Answered {
        let since = Instant::now();
        let asking = {
            let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(secrets.entry(entry.to_owned()).or_default())
        };
        if let Some(answered) = asking.known(since, self.ttl) {
            return answered;
        }
        let place = self.places.take(self.timeout).await;
        let _place = place.ok_or_else(|| {
            SecretsError::new(
                SecretsCode::Unavailable,
                "the secrets are busy: too many others wait for them",
            )
        })?;
        let _turn = asking.turn.lock().await;
        if let Some(answered) = asking.known(since, self.ttl) {
            return answered;
        }
        let asked = Instant::now();
        let accessed = timeout(self.timeout, self.signed_in(entry)).await;
        let accessed = accessed
            .unwrap_or_else(|_| Err(AccessError::Away("it did not answer in time".to_owned())));
        let away = matches!(accessed, Err(AccessError::Away(_)));
        let answered = answer_of(entry, accessed);
        asking.keep(Outcome {
            answered: answered.clone(),
            away,
            asked,
            ended: Instant::now(),
        });
        answered
    }

    /// Asks, and signs in again where that is what is missing.
    async fn signed_in(&self, entry: &str) -> Result<Accessed, AccessError> {
        let answer = self.ask(entry).await;
        if matches!(
            &answer,
            Err(AccessError::Status(StatusCode::UNAUTHORIZED, _))
        ) {
            // A token may be taken back before its time.
            self.tokens.forget().await;
            return self.ask(entry).await;
        }
        answer
    }

    async fn ask(&self, entry: &str) -> Result<Accessed, AccessError> {
        let away = |error: reqwest::Error| AccessError::Away(chain(&error.without_url()));
        let token = self.tokens.token().await.map_err(AccessError::Other)?;
        let (secret, version) = split(entry);
        let url = format!("{}{secret}/versions/{version}:access", self.base);
        let request = self.http.get(url).bearer_auth(token.as_str());
        let response = request.send().await.map_err(away)?;
        let status = response.status();
        let clock_ms = clock_of(response.headers());
        let body = body(response, ANSWER_BYTES)
            .await
            .map_err(AccessError::Other)?;
        if !status.is_success() {
            let refused: Refused = serde_json::from_slice(&body).unwrap_or_default();
            let mut word = refused.error.status;
            word.retain(|letter| letter.is_ascii_uppercase() || letter == '_');
            return Err(AccessError::Status(status, word));
        }
        let malformed = |what: &str| AccessError::Other(format!("its answer has {what}"));
        // Without serde's words: they may quote the secret.
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| malformed("no payload"))?;
        let data = Zeroizing::new(answer.payload.data);
        let bytes = STANDARD
            .decode(data.as_bytes())
            .map_err(|_| malformed("no base64"))?;
        let secret = Secret::new(bytes);
        if let Some(expected) = answer.payload.checksum
            && expected.parse() != Ok(i64::from(CRC32C.checksum(secret.expose())))
        {
            return Err(malformed("another checksum than its payload"));
        }
        Ok(Accessed { secret, clock_ms })
    }
}

/// What callers are answered of a request.
fn answer_of(entry: &str, accessed: Result<Accessed, AccessError>) -> Answered {
    match accessed {
        Ok(Accessed { secret, .. }) if secret.expose().len() as u64 > VALUE_BYTES => {
            Err(SecretsError::new(
                SecretsCode::LimitExceeded,
                "the secret is larger than may be read",
            ))
        }
        Ok(Accessed { secret, .. }) => Ok(Some(secret)),
        Err(AccessError::Status(StatusCode::NOT_FOUND, _)) => Ok(None),
        // Disabled, or destroyed.
        Err(AccessError::Status(_, word)) if word == "FAILED_PRECONDITION" => Ok(None),
        Err(error) => {
            error.log(entry);
            Err(unavailable())
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    payload: Payload,
}

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    data: String,
    /// Of 64 bits, as Google writes such numbers: as a text.
    #[serde(default, rename = "dataCrc32c")]
    checksum: Option<String>,
}

#[derive(Deserialize, Default)]
struct Refused {
    #[serde(default)]
    error: RefusedError,
}

#[derive(Deserialize, Default)]
struct RefusedError {
    #[serde(default)]
    status: String,
}

#[cfg(test)]
#[path = "gcp_tests.rs"]
mod tests;
