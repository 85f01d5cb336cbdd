//! How a model of an endpoint is configured.

use std::path::PathBuf;

use heyday_inference::{Properties, Task};
use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// A model that an endpoint runs which speaks OpenAI's protocol.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteConfig {
    /// The endpoint's address, up to what comes before `/embeddings`:
    /// `https://HOST[:PORT]/v1`.
    pub url: String,
    /// What the endpoint calls the model.
    pub model: String,
    /// What it does.
    pub task: Task,
    /// The most tokens that it reads at once; of a model that generates, prompt and answer
    /// together.
    pub window: usize,
    /// Numbers of an embedding, where it makes any.
    #[serde(default)]
    pub dimensions: Option<usize>,
    /// Whether embeddings have the length 1.
    #[serde(default)]
    pub normalized: bool,
    /// A file with the key; read at each request.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// The environment variable that has it.
    #[serde(default)]
    pub key_env: Option<String>,
    /// The secret that is it: `NAMESPACE/BINDING/NAME` of a binding of secrets.
    #[serde(default)]
    pub key_secret: Option<String>,
    /// Whether a key may go to another machine without TLS.
    #[serde(default)]
    pub plain_http: bool,
    /// Certificates that the endpoint's must descend from, PEM; the operating system's
    /// where absent.
    #[serde(default)]
    pub tls_server_ca_cert_path: Option<PathBuf>,
    /// How long the endpoint may keep silent before its answer begins, and within it, and how
    /// long who reads a text may be far behind it, in milliseconds.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// How often a request is made at most, where it fails as it may not fail again.
    #[serde(default = "attempts")]
    pub attempts: u32,
    /// Requests at once.
    #[serde(default = "concurrent")]
    pub concurrent: usize,
    /// Calls that wait for one of those; further ones are `busy`.
    #[serde(default = "queue")]
    pub queue: usize,
    /// Texts of one request.
    #[serde(default = "batch_texts")]
    pub batch_texts: usize,
    /// By which name the endpoint takes the most tokens of an answer.
    #[serde(default)]
    pub token_limit: TokenLimit,
}

/// By which name an endpoint takes the most tokens of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenLimit {
    /// The older, which most take.
    #[default]
    MaxTokens,
    /// The newer.
    MaxCompletionTokens,
}

impl TokenLimit {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

const fn timeout_ms() -> u64 {
    60_000
}

const fn attempts() -> u32 {
    4
}

const fn concurrent() -> usize {
    8
}

const fn queue() -> usize {
    64
}

const fn batch_texts() -> usize {
    64
}

/// Why a model of an endpoint cannot be used. Never holds a key.
#[derive(Debug, thiserror::Error)]
pub enum RemoteConfigError {
    /// Not the form of an address.
    #[error("its url {0}")]
    Url(&'static str),
    /// Several keys.
    #[error("it has one of key_file, key_env and key_secret")]
    Keys,
    /// A secret that no binding has.
    #[error("its key_secret is NAMESPACE/BINDING/NAME of a binding of secrets; {0}")]
    Secret(String),
    /// A number out of its range.
    #[error("its {0} is {1}")]
    Range(&'static str, &'static str),
    /// The certificates cannot be used.
    #[error("its tls_server_ca_cert_path cannot be used: {0}")]
    Certificates(String),
    /// The client cannot be made.
    #[error("it cannot be used: {0}")]
    Client(String),
}

impl RemoteConfig {
    /// Every path that it names.
    pub fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let key = self.key_file.as_mut();
        key.into_iter().chain(self.tls_server_ca_cert_path.as_mut())
    }

    /// Finds what cannot work.
    ///
    /// # Errors
    /// The first such thing.
    pub fn check(&self) -> Result<(), RemoteConfigError> {
        let has_key =
            self.key_file.is_some() || self.key_env.is_some() || self.key_secret.is_some();
        check_url(&self.url, has_key && !self.plain_http).map_err(RemoteConfigError::Url)?;
        let dimensions = 1..=65_536;
        for (name, holds, range) in [
            (
                "model",
                (1..=256).contains(&self.model.len()),
                "1 to 256 bytes",
            ),
            (
                "window",
                (16..=16 << 20).contains(&self.window),
                "16 to 16,777,216",
            ),
            (
                "dimensions",
                match (self.task, self.dimensions) {
                    (Task::Embed, Some(wanted)) => dimensions.contains(&wanted),
                    (Task::Embed, None) | (_, Some(_)) => false,
                    (_, None) => true,
                },
                "1 to 65,536 where it embeds, and absent where it does not",
            ),
            (
                "timeout_ms",
                (1..=3_600_000).contains(&self.timeout_ms),
                "1 to 3,600,000",
            ),
            ("attempts", (1..=10).contains(&self.attempts), "1 to 10"),
            (
                "concurrent",
                (1..=1_024).contains(&self.concurrent),
                "1 to 1,024",
            ),
            ("queue", self.queue <= 100_000, "0 to 100,000"),
            (
                "batch_texts",
                (1..=2_048).contains(&self.batch_texts),
                "1 to 2,048",
            ),
        ] {
            if !holds {
                return Err(RemoteConfigError::Range(name, range));
            }
        }
        Ok(())
    }

    /// What callers are told of it.
    pub(super) fn properties(&self) -> Properties {
        Properties {
            task: self.task,
            architecture: "unknown".to_owned(),
            dimensions: self.dimensions,
            pooling: None,
            normalized: self.normalized,
            window: self.window,
            // Which template it is, is the endpoint's.
            chat: (self.task == Task::Generate).then_some(true),
            parameters: 0,
            memory_bytes: 0,
            prompts: Default::default(),
        }
    }
}

/// Checks an address. `secret`: whether it must be by TLS, unless it is this machine.
fn check_url(text: &str, secret: bool) -> Result<(), &'static str> {
    let url = Url::parse(text).map_err(|_| "is no address: it begins with https:// and a host")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user or password: say key_file, key_env or key_secret");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has options: it ends with a path such as /v1");
    }
    let here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return Err("has no host"),
    };
    match url.scheme() {
        "https" => Ok(()),
        "http" if here || !secret => Ok(()),
        "http" => Err("begins with https://, for a key goes there; or say plain_http = true"),
        _ => Err("begins with https:// or http://"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_cannot_work_is_named() {
        let base = json!({
            "url": "https://models.example/v1", "model": "m", "task": "embed", "window": 512,
            "dimensions": 384,
        });
        let with = |member: &str, value: Value| {
            let mut config = base.clone();
            config[member] = value;
            serde_json::from_value::<RemoteConfig>(config).expect("a configuration")
        };
        with("model", json!("x")).check().expect("good");
        for (member, value, told) in [
            ("url", json!("models.example"), "https://"),
            ("url", json!("ftp://models.example"), "https://"),
            (
                "url",
                json!("https://u:topsecret@models.example"),
                "password",
            ),
            ("url", json!("https://models.example/?a=b"), "options"),
            ("model", json!(""), "model"),
            ("window", json!(0), "window"),
            ("dimensions", Value::Null, "dimensions"),
            ("dimensions", json!(0), "dimensions"),
            ("task", json!("generate"), "dimensions"),
            ("timeout_ms", json!(0), "timeout_ms"),
            ("attempts", json!(0), "attempts"),
            ("concurrent", json!(0), "concurrent"),
            ("queue", json!(1_000_000), "queue"),
            ("batch_texts", json!(0), "batch_texts"),
        ] {
            let error = with(member, value).check().expect_err(member);
            assert!(error.to_string().contains(told), "{error}");
            assert!(!format!("{error:?}").contains("topsecret"), "{error:?}");
        }
        let mut keyed = with("key_env", json!("KEY"));
        keyed.url = "http://models.example/v1".to_owned();
        let error = keyed.check().expect_err("a key in the open").to_string();
        assert!(error.contains("plain_http"), "{error}");
        keyed.plain_http = true;
        keyed.check().expect("the operator says so");
        keyed.plain_http = false;
        keyed.url = "http://127.0.0.1:9/v1".to_owned();
        keyed.check().expect("it does not leave the machine");
    }
}
