//! Requests to an endpoint, repeated where they may be.
//!
//! Repeated is what fails as it may not fail again: no connection, silence, 429 and the
//! statuses of servers that are not well; each time after a wait of random length that
//! grows, and not before the endpoint's `Retry-After`. A redirect is not followed: the key
//! and the texts go where the operator said. The key is read for each request and stands in
//! no message: what an endpoint says is masked before it is told.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::Value;
use zeroize::Zeroizing;

use super::config::{RemoteConfig, RemoteConfigError};
use super::wire::{self, Refusal};
use crate::bindings::Bindings;
use crate::credential::CredentialSource;
use crate::diagnosis::clock_of;
use crate::error::chain;
use crate::secrets::Secrets;
use crate::tls::client_config;

/// The first wait is at most so long; each further one twice that.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// An endpoint that wants to be asked later than this is busy.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a refusal that are read, and characters of its words that are told.
const REFUSAL_BYTES: usize = 64 << 10;
const TOLD: usize = 500;
/// Bytes of a list of models.
const LIST_BYTES: usize = 4 << 20;

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// The same may succeed later.
    Again {
        /// For the log.
        why: String,
        /// The endpoint has too much to do.
        busy: bool,
        /// Not before that time.
        after: Option<Duration>,
    },
    /// A text is too long; how many tokens it has, where that was told.
    TooLong(Option<usize>),
    /// The endpoint refuses what was asked, in its words.
    Invalid(String),
    /// The answer cannot be one; for the log.
    Odd(String),
    /// It will not succeed until an operator does something; for the log.
    Never(String),
}

impl Failed {
    pub(super) fn again(why: impl Into<String>) -> Self {
        Self::Again {
            why: why.into(),
            busy: false,
            after: None,
        }
    }
}

/// Where the key is.
enum Key {
    At(CredentialSource),
    Secret { secrets: Arc<Secrets>, name: String },
}

impl Key {
    fn of(config: &RemoteConfig, bindings: &Bindings) -> Result<Option<Self>, RemoteConfigError> {
        let source = CredentialSource::of(config.key_file.as_ref(), config.key_env.as_ref())
            .map_err(|()| RemoteConfigError::Keys)?;
        let Some(secret) = &config.key_secret else {
            return Ok(source.map(Self::At));
        };
        if source.is_some() {
            return Err(RemoteConfigError::Keys);
        }
        let mut parts = secret.splitn(3, '/');
        let (Some(namespace), Some(binding), Some(name)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(RemoteConfigError::Secret(format!("not `{secret}`")));
        };
        let secrets = bindings.secrets(namespace, binding).ok_or_else(|| {
            RemoteConfigError::Secret(format!("{namespace} has no binding {binding} of secrets"))
        })?;
        Ok(Some(Self::Secret {
            secrets,
            name: name.to_owned(),
        }))
    }

    async fn read(&self) -> Result<Zeroizing<String>, String> {
        match self {
            Self::At(source) => source.read().await.map(Zeroizing::new),
            Self::Secret { secrets, name } => {
                let secret = secrets.get(name).await.map_err(|error| error.to_string())?;
                let text = std::str::from_utf8(secret.expose());
                let text = text.map_err(|_| "the secret is no text".to_owned())?;
                Ok(Zeroizing::new(text.trim_end().to_owned()))
            }
        }
    }
}

/// What asks an endpoint.
pub(super) struct Client {
    /// Its name here.
    model: String,
    http: reqwest::Client,
    base: String,
    key: Option<Key>,
    timeout: Duration,
    attempts: u32,
}

impl Client {
    pub(super) fn new(
        model: &str,
        config: &RemoteConfig,
        bindings: &Bindings,
    ) -> Result<Self, RemoteConfigError> {
        let ca = config.tls_server_ca_cert_path.as_deref();
        let tls = client_config(ca).map_err(RemoteConfigError::Certificates)?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .connect_timeout(Duration::from_secs(10))
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("heyday/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| RemoteConfigError::Client(chain(&error)))?;
        Ok(Self {
            model: model.to_owned(),
            http,
            base: config.url.trim_end_matches('/').to_owned(),
            key: Key::of(config, bindings)?,
            timeout: Duration::from_millis(config.timeout_ms),
            attempts: config.attempts,
        })
    }

    /// How long the endpoint may keep silent.
    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Asks until there is an answer of at most so many bytes.
    pub(super) async fn ask(
        &self,
        path: &str,
        body: &Value,
        most: usize,
    ) -> Result<(Vec<u8>, Mask), Failed> {
        let mut attempt = 1;
        loop {
            match self.ask_once(path, body, most).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => self.wait(&mut attempt, failed).await?,
            }
        }
    }

    async fn ask_once(
        &self,
        path: &str,
        body: &Value,
        most: usize,
    ) -> Result<(Vec<u8>, Mask), Failed> {
        let (response, mask) = self.send(path, body).await?;
        let read = tokio::time::timeout(self.timeout, whole(response, most)).await;
        let late = || Failed::again("its answer did not come to its end in time");
        Ok((read.unwrap_or_else(|_| Err(late()))?, mask))
    }

    /// Waits before a request is made again, or fails where it is not to be.
    pub(super) async fn wait(&self, attempt: &mut u32, failed: Failed) -> Result<(), Failed> {
        let Failed::Again { why, after, .. } = &failed else {
            return Err(failed);
        };
        let asked = after.unwrap_or_default();
        if *attempt >= self.attempts || asked > PATIENCE {
            return Err(failed);
        }
        let wait = asked + backoff(*attempt);
        tracing::debug!(model = self.model, attempt, ?wait, why, "asking once more");
        *attempt += 1;
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Sends one request; an answer that is no success is a failure.
    pub(super) async fn send(&self, path: &str, body: &Value) -> Result<(Response, Mask), Failed> {
        let request = self.http.post(format!("{}/{path}", self.base));
        self.send_as(request.json(body)).await
    }

    /// What the endpoint calls its models, and its clock: milliseconds since the Unix epoch.
    pub(super) async fn models(&self) -> Result<(Vec<String>, Option<i64>), Failed> {
        let request = self.http.get(format!("{}/models", self.base));
        let (response, mask) = self.send_as(request).await?;
        let clock_ms = clock_of(response.headers());
        let read = tokio::time::timeout(self.timeout, whole(response, LIST_BYTES)).await;
        let read = read.unwrap_or_else(|_| Err(Failed::again("its answer has no end")))?;
        let models = wire::models(&read).map_err(|why| Failed::Odd(mask.told(&why)))?;
        Ok((models, clock_ms))
    }

    async fn send_as(&self, mut request: RequestBuilder) -> Result<(Response, Mask), Failed> {
        let mut key = None;
        if let Some(source) = &self.key {
            let read = source.read().await;
            let read = read.map_err(|why| Failed::Never(format!("its key: {why}")))?;
            let value = Zeroizing::new(format!("Bearer {}", *read));
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| Failed::Never("its key cannot be sent in a header".to_owned()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
            key = Some(read);
        }
        let sent = tokio::time::timeout(self.timeout, request.send()).await;
        let response = sent
            .map_err(|_| Failed::again("it does not answer in time"))?
            .map_err(|error| Failed::again(chain(&error.without_url())))?;
        let mask = Mask(key);
        let status = response.status();
        if status.is_success() {
            return Ok((response, mask));
        }
        let after = retry_after(response.headers(), Timestamp::now());
        let read = tokio::time::timeout(self.timeout, beginning(response, REFUSAL_BYTES));
        let said = read.await.unwrap_or_default();
        let mut refusal = Refusal::read(&said);
        refusal.message = mask.told(&refusal.message);
        refusal.code = mask.told(&refusal.code);
        Err(classify(status, refusal, after))
    }
}

fn classify(status: StatusCode, refusal: Refusal, after: Option<Duration>) -> Failed {
    let why = format!("it answered {status} {} {}", refusal.code, refusal.message);
    match status.as_u16() {
        429 => Failed::Again {
            why,
            busy: true,
            after,
        },
        408 | 409 | 425 | 500..=599 => Failed::Again {
            why,
            busy: false,
            after,
        },
        400 | 413 | 422 if refusal.is_too_long() => Failed::TooLong(refusal.tokens()),
        400 | 413 | 422 => Failed::Invalid(if refusal.message.is_empty() {
            "the service that runs the model refuses the request".to_owned()
        } else {
            refusal.message
        }),
        300..=399 => Failed::Never(format!("it redirects ({status}), which is not followed")),
        _ => Failed::Never(why),
    }
}

/// The key that a request was made with: whoever has it may say it again.
pub(super) struct Mask(pub(super) Option<Zeroizing<String>>);

impl Mask {
    /// What an endpoint says, short, in one line and without the key.
    pub(super) fn told(&self, text: &str) -> String {
        let masked = match self.0.as_deref() {
            Some(key) if !key.is_empty() => text.replace(key.as_str(), "***"),
            _ => text.to_owned(),
        };
        let line = masked.split_whitespace().collect::<Vec<_>>().join(" ");
        line.chars().take(TOLD).collect()
    }
}

/// A wait of random length, for the attempt after that one.
fn backoff(attempt: u32) -> Duration {
    let most = FIRST_WAIT
        .saturating_mul(1 << (attempt - 1).min(16))
        .min(LONGEST_WAIT);
    // Half of it at least: who is overloaded is not asked at once.
    most.mul_f64(rand::random_range(0.5..1.0))
}

/// How long an endpoint wants to be left alone: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    let until = date.timestamp().duration_since(now);
    Some(Duration::try_from(until).unwrap_or_default())
}

/// A body of at most so many bytes.
async fn whole(mut response: Response, most: usize) -> Result<Vec<u8>, Failed> {
    let too_large = || Failed::Odd(format!("its answer has more than {most} bytes"));
    if response.content_length().is_some_and(|it| it > most as u64) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    loop {
        let chunk = response.chunk().await;
        match chunk.map_err(|error| Failed::again(chain(&error.without_url())))? {
            Some(chunk) if body.len() + chunk.len() > most => return Err(too_large()),
            Some(chunk) => body.extend_from_slice(&chunk),
            None => return Ok(body),
        }
    }
}

/// As much of a body as there is, up to so many bytes.
async fn beginning(mut response: Response, most: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = most - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == most {
            break;
        }
    }
    body
}

/// Whether an answer is a stream of events.
pub(super) fn is_stream(response: &Response) -> bool {
    response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|kind| kind.starts_with("text/event-stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_bounded() {
        for (attempt, most) in [(1, 250), (2, 500), (3, 1_000), (9, 8_000), (40, 8_000)] {
            let most = Duration::from_millis(most);
            for _ in 0..100 {
                let wait = backoff(attempt);
                assert!(wait >= most / 2 && wait <= most, "{attempt}: {wait:?}");
            }
        }
    }

    #[test]
    fn an_endpoints_wish_is_read() {
        let now: Timestamp = "2026-11-24T10:00:00Z".parse().expect("a time");
        for (text, seconds) in [
            ("7", Some(7.0)),
            (" 0.5 ", Some(0.5)),
            ("Tue, 24 Nov 2026 10:00:20 GMT", Some(20.0)),
            ("Tue, 24 Nov 2026 09:00:00 GMT", Some(0.0)),
            ("-1", None),
            ("soon", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            let read = retry_after(&headers, now);
            assert_eq!(read, seconds.map(Duration::from_secs_f64), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn only_what_may_succeed_later_is_asked_again() {
        for (status, code, kind) in [
            (307, "", "never"),
            (400, "invalid_value", "invalid"),
            (400, "context_length_exceeded", "too long"),
            (401, "invalid_api_key", "never"),
            (403, "forbidden", "never"),
            (404, "model_not_found", "never"),
            (408, "", "again"),
            (409, "", "again"),
            (413, "too_large", "invalid"),
            (413, "context_length_exceeded", "too long"),
            (422, "", "invalid"),
            (425, "", "again"),
            (429, "busy", "busy"),
            (500, "internal", "again"),
            (503, "device_lost", "again"),
        ] {
            let refusal = Refusal {
                message: String::new(),
                code: code.to_owned(),
            };
            let status = StatusCode::from_u16(status).expect("a status");
            let found = match classify(status, refusal, None) {
                Failed::Again { busy: true, .. } => "busy",
                Failed::Again { .. } => "again",
                Failed::TooLong(_) => "too long",
                Failed::Invalid(message) if message.is_empty() => "no words",
                Failed::Invalid(_) => "invalid",
                Failed::Odd(_) => "odd",
                Failed::Never(_) => "never",
            };
            assert_eq!(found, kind, "{status} {code}");
        }
    }

    #[test]
    fn words_are_short_and_without_the_key() {
        let said = format!("wrong key:\n sk-secret {}", "x".repeat(10_000));
        let told = Mask(Some(Zeroizing::new("sk-secret".to_owned()))).told(&said);
        assert!(told.starts_with("wrong key: *** x"), "{told}");
        assert!(told.len() <= TOLD);
    }
}
