//! Where models are pulled from.
//!
//! `hub:NAME/ORG/MODEL[@REVISION]` is a repository of a hub that the configuration names
//! (`inference.hubs.NAME`), by the layout that model hubs share: `URL/ORG/MODEL/resolve/
//! REVISION/FILE`. `blob:BINDING[/PREFIX]` is a container of the namespace of who asks.
//! A hub may answer with the address of a store of its own: that is followed, by TLS, and
//! without the key.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use heyday_capabilities::blob::{BlobCode, Container};
use heyday_capabilities::credential::CredentialSource;
use heyday_capabilities::{Bindings, ErrorCode as _};
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, ETAG, HeaderMap, HeaderValue, LOCATION, RANGE,
};
use reqwest::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::server::chain;

/// How long a hub may keep silent.
const SILENCE: Duration = Duration::from_secs(60);
/// Addresses that a hub may send us on to, for one file.
const REDIRECTS: usize = 5;
/// Bytes of one piece of an object.
const PIECE: u64 = 8 << 20;
/// Bytes of a part of a source's name.
const PART: usize = 96;

/// A hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubConfig {
    /// Its address, up to what comes before a repository's name.
    pub url: String,
    /// A file with the key that it wants; read at each request.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// The environment variable that has it.
    #[serde(default)]
    pub key_env: Option<String>,
}

impl HubConfig {
    /// Finds what cannot work.
    ///
    /// # Errors
    /// In words for the configuration's reader.
    pub fn check(&self) -> Result<(), String> {
        let url = Url::parse(&self.url)
            .map_err(|_| "`url` begins with https:// and a host".to_owned())?;
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(
                "`url` has no user, password or options: say key_file or key_env".to_owned(),
            );
        }
        if !is_safe(&url) {
            return Err("`url` begins with https://, unless it is this machine".to_owned());
        }
        self.key().map(|_| ())
    }

    fn key(&self) -> Result<Option<CredentialSource>, String> {
        CredentialSource::of(self.key_file.as_ref(), self.key_env.as_ref())
            .map_err(|()| "it has one of key_file and key_env".to_owned())
    }
}

/// By TLS, or on this machine.
fn is_safe(url: &Url) -> bool {
    url.scheme() == "https" || url.scheme() == "http" && is_here(url)
}

fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Why a source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Not the form of one.
    #[error(
        "`{0}` is no source of models: say hub:NAME/ORG/MODEL[@REVISION] or blob:BINDING[/PREFIX]"
    )]
    Form(String),
    /// No such hub.
    #[error("the configuration has no hub {0}: say `[inference.hubs.{0}] url = ...`")]
    NoHub(String),
    /// No such container.
    #[error("the namespace has no binding {0} of blob")]
    NoContainer(String),
    /// It does not answer as it should; it may later. Without keys.
    #[error("{0}")]
    Answer(String),
    /// It refuses.
    #[error("{0}")]
    Refused(String),
}

/// Where files come from.
pub enum Source {
    /// A repository of a hub.
    Hub(Hub),
    /// A container, and what the keys of the files begin with.
    Container(Arc<dyn Container>, String),
}

/// A repository of a hub.
pub struct Hub {
    http: reqwest::Client,
    key: Option<CredentialSource>,
    /// Up to and with `resolve/REVISION/`.
    base: Url,
}

/// A file that can be read.
pub struct Opened {
    /// Its bytes.
    pub size: u64,
    /// Tells it from what it was before; what was read of it is good as long as that is so.
    pub tag: Option<String>,
    /// The SHA-256 that it should have, in hexadecimal, where the source says that.
    pub sha256: Option<String>,
    /// Where the bytes begin: what was asked for, or 0 where that is not to be had.
    pub from: u64,
    rest: Rest,
}

enum Rest {
    Response(Box<Response>),
    Object {
        container: Arc<dyn Container>,
        key: String,
        at: u64,
        size: u64,
    },
}

impl Source {
    /// The source of that text, for who asks in that namespace.
    ///
    /// # Errors
    /// As [`SourceError`] says.
    pub fn find(
        text: &str,
        hubs: &std::collections::BTreeMap<String, HubConfig>,
        bindings: &Bindings,
        namespace: &str,
    ) -> Result<Self, SourceError> {
        let form = || SourceError::Form(text.chars().take(200).collect());
        if let Some(rest) = text.strip_prefix("blob:") {
            let (binding, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let container = bindings
                .container(namespace, binding)
                .ok_or_else(|| SourceError::NoContainer(binding.chars().take(63).collect()))?;
            let prefix = prefix.trim_matches('/');
            let prefix = if prefix.is_empty() {
                String::new()
            } else {
                format!("{prefix}/")
            };
            return Ok(Self::Container(container, prefix));
        }
        let rest = text.strip_prefix("hub:").ok_or_else(form)?;
        let (path, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        let parts: Vec<&str> = path.split('/').collect();
        let plain = parts.iter().chain([&revision]).all(|part| is_part(part));
        let ([hub, repository @ ..], true) = (parts.as_slice(), plain) else {
            return Err(form());
        };
        if !(1..=2).contains(&repository.len()) {
            return Err(form());
        }
        let config = hubs
            .get(*hub)
            .ok_or_else(|| SourceError::NoHub((*hub).to_owned()))?;
        Hub::new(config, &repository.join("/"), revision)
            .map(Self::Hub)
            .map_err(SourceError::Refused)
    }

    /// Opens a file, from that byte on where it still has that tag; none where there is no
    /// such file.
    ///
    /// # Errors
    /// Why it cannot be had, for the operator.
    pub async fn open(
        &self,
        file: &str,
        from: u64,
        tag: Option<&str>,
    ) -> Result<Option<Opened>, SourceError> {
        match self {
            Self::Hub(hub) => hub.open(file, from, tag).await,
            Self::Container(container, prefix) => {
                let key = format!("{prefix}{file}");
                let found = match container.head(key.clone()).await {
                    Ok(found) => found,
                    Err(error) if error.code == BlobCode::NotFound => return Ok(None),
                    Err(error) if error.code.retryable() => {
                        return Err(SourceError::Answer(error.to_string()));
                    }
                    Err(error) => return Err(refused(&error)),
                };
                let same = tag == Some(&found.etag);
                let at = if same { from.min(found.size) } else { 0 };
                Ok(Some(Opened {
                    size: found.size,
                    tag: Some(found.etag),
                    sha256: None,
                    from: at,
                    rest: Rest::Object {
                        container: Arc::clone(container),
                        key,
                        at,
                        size: found.size,
                    },
                }))
            }
        }
    }
}

/// Whether a text is one part of a path, and no way out.
fn is_part(text: &str) -> bool {
    (1..=PART).contains(&text.len())
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

impl Opened {
    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// Why there are no more.
    pub async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        match &mut self.rest {
            Rest::Response(response) => response
                .chunk()
                .await
                .map_err(|error| SourceError::Answer(chain(&error.without_url()))),
            Rest::Object {
                container,
                key,
                at,
                size,
            } => {
                if at >= size {
                    return Ok(None);
                }
                let length = PIECE.min(*size - *at);
                let piece = container.get(key.clone(), *at, length).await;
                let piece = piece.map_err(|error| SourceError::Answer(error.to_string()))?;
                if piece.is_empty() {
                    return Err(SourceError::Answer(
                        "it became shorter meanwhile".to_owned(),
                    ));
                }
                *at += piece.len() as u64;
                Ok(Some(piece))
            }
        }
    }
}

impl Hub {
    fn new(config: &HubConfig, repository: &str, revision: &str) -> Result<Self, String> {
        let base = format!(
            "{}/{repository}/resolve/{revision}/",
            config.url.trim_end_matches('/')
        );
        // Fails only where another part of the process chose one, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(SILENCE)
            .user_agent(concat!("heyday/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| chain(&error))?;
        Ok(Self {
            http,
            key: config.key()?,
            base: Url::parse(&base).map_err(|error| error.to_string())?,
        })
    }

    async fn open(
        &self,
        file: &str,
        from: u64,
        tag: Option<&str>,
    ) -> Result<Option<Opened>, SourceError> {
        let first = self.base.join(file).map_err(|error| refused(&error))?;
        let (mut url, mut from, mut tag) = (first.clone(), from, tag);
        // What is stored elsewhere has its tag and digest in the hub's own answer.
        let (mut known_tag, mut sha256) = (None, None);
        for _ in 0..=REDIRECTS {
            let mut request = self.http.get(url.clone());
            // Compressed, it would have other bytes.
            request = request.header(ACCEPT_ENCODING, "identity");
            if url.origin() == first.origin()
                && let Some(key) = &self.key
            {
                let key = key
                    .read()
                    .await
                    .map_err(|why| refused(&format!("its key: {why}")))?;
                let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
                    .map_err(|_| refused(&"its key cannot be sent in a header"))?;
                value.set_sensitive(true);
                request = request.header(AUTHORIZATION, value);
            }
            if from > 0 && tag.is_some() {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let response = request.send().await;
            let response =
                response.map_err(|error| SourceError::Answer(chain(&error.without_url())))?;
            let headers = response.headers();
            if known_tag.is_none() {
                known_tag = text(headers, "x-linked-etag").or_else(|| text(headers, ETAG.as_str()));
            }
            if sha256.is_none() {
                sha256 = known_tag.as_deref().and_then(digest);
            }
            match response.status() {
                StatusCode::NOT_FOUND => return Ok(None),
                status if status.is_redirection() => {
                    let target = text(headers, LOCATION.as_str());
                    let target = target.and_then(|target| url.join(&target).ok());
                    let target = target.ok_or_else(|| refused(&"it redirects to nowhere"))?;
                    if !(target.scheme() == "https" || is_here(&url) && is_safe(&target)) {
                        return Err(refused(&"it redirects to an address without TLS"));
                    }
                    url = target;
                }
                StatusCode::PARTIAL_CONTENT if known_tag.as_deref() == tag => {
                    let size = text(headers, "content-range")
                        .and_then(|range| range.rsplit('/').next()?.parse().ok())
                        .ok_or_else(|| refused(&"its answer does not say how long the file is"))?;
                    return Ok(Some(opened(response, size, from, known_tag, sha256)));
                }
                // Another file has the name now: from its beginning.
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                    (url, from, tag) = (first.clone(), 0, None);
                    (known_tag, sha256) = (None, None);
                }
                StatusCode::OK => {
                    let size = response
                        .content_length()
                        .ok_or_else(|| refused(&"its answer does not say how long the file is"))?;
                    return Ok(Some(opened(response, size, 0, known_tag, sha256)));
                }
                status => {
                    let told = format!("it answered {status}");
                    let passing = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
                    return Err(if passing {
                        SourceError::Answer(told)
                    } else {
                        SourceError::Refused(told)
                    });
                }
            }
        }
        Err(refused(&format!(
            "it redirects more than {REDIRECTS} times"
        )))
    }
}

fn refused(why: &(dyn std::fmt::Display + '_)) -> SourceError {
    SourceError::Refused(why.to_string())
}

fn opened(
    response: Response,
    size: u64,
    from: u64,
    tag: Option<String>,
    sha256: Option<String>,
) -> Opened {
    Opened {
        size,
        tag,
        sha256,
        from,
        rest: Rest::Response(Box::new(response)),
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

/// The SHA-256 that a tag is, where it is one.
fn digest(tag: &str) -> Option<String> {
    let text = tag.trim_start_matches("W/").trim_matches('"');
    let is_one = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_one.then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn only_what_the_configuration_names_is_a_source() {
        let hub = HubConfig {
            url: "https://hub.example/models/".to_owned(),
            key_file: None,
            key_env: None,
        };
        hub.check().expect("good");
        let hubs = BTreeMap::from([("main".to_owned(), hub)]);
        let find = |text: &str| Source::find(text, &hubs, &Bindings::default(), "default");
        for (text, base) in [
            (
                "hub:main/org/model",
                "https://hub.example/models/org/model/resolve/main/",
            ),
            (
                "hub:main/model@v1.0",
                "https://hub.example/models/model/resolve/v1.0/",
            ),
        ] {
            match find(text) {
                Ok(Source::Hub(hub)) => assert_eq!(hub.base.as_str(), base),
                _ => panic!("{text}"),
            }
        }
        for (text, told) in [
            ("https://elsewhere.example/x", "no source"),
            ("/etc", "no source"),
            ("hub:main", "no source"),
            ("hub:main/a/b/c", "no source"),
            ("hub:main/../x", "no source"),
            ("hub:main/a/b@../x", "no source"),
            ("hub:main/a/b@", "no source"),
            ("hub:main/a?b/c", "no source"),
            ("hub:other/a/b", "no hub other"),
            ("blob:none/x", "no binding none"),
        ] {
            let error = find(text).err().expect(text).to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
        for url in [
            "http://hub.example",
            "hub.example",
            "https://a:b@hub.example",
        ] {
            let hub = HubConfig {
                url: url.to_owned(),
                key_file: None,
                key_env: None,
            };
            hub.check().expect_err(url);
        }
    }

    #[test]
    fn a_tag_may_be_a_digest() {
        let hex = "AB".repeat(32);
        assert_eq!(digest(&format!("\"{hex}\"")), Some("ab".repeat(32)));
        assert_eq!(digest("\"0123\""), None);
    }
}
