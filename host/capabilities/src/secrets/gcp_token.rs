//! How the host signs in to Google Cloud: with the metadata server of the machine, or with
//! the key of a service account, which signs a token (RFC 7523) that is exchanged for one
//! of Google's.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::header::CONTENT_TYPE;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::json;
use url::Url;
use zeroize::Zeroizing;

use super::gcp::{body, check_token_address};
use crate::error::chain;

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// How long a signed token is for.
const LIFE: Duration = Duration::from_secs(60 * 60);
/// A token is not used for the last of its time.
const MARGIN: Duration = Duration::from_secs(60);
const ANSWER_BYTES: usize = 64 << 10;

/// Who the host is there.
enum Identity {
    Metadata(Url),
    Key(PathBuf),
}

/// Tokens for requests; one is kept until its time is over.
pub(super) struct Tokens {
    http: reqwest::Client,
    identity: Identity,
    kept: tokio::sync::Mutex<Option<(Zeroizing<String>, Instant)>>,
}

/// The key of a service account, as Google writes it.
#[derive(Deserialize)]
struct Key {
    #[serde(rename = "type")]
    kind: String,
    client_email: String,
    private_key: String,
    #[serde(default)]
    private_key_id: Option<String>,
    token_uri: String,
}

impl Drop for Key {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.private_key);
    }
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
}

impl Tokens {
    pub(super) fn new(http: reqwest::Client, key: Option<PathBuf>, metadata: &Url) -> Self {
        Self {
            http,
            identity: match key {
                Some(path) => Identity::Key(path),
                None => Identity::Metadata(metadata.clone()),
            },
            kept: tokio::sync::Mutex::new(None),
        }
    }

    /// A token that is good for some time. The error is for the host's log.
    pub(super) async fn token(&self) -> Result<Zeroizing<String>, String> {
        let mut kept = self.kept.lock().await;
        if let Some((token, until)) = &*kept
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        *kept = None;
        let asked = Instant::now();
        let granted = match &self.identity {
            Identity::Metadata(server) => self.of_machine(server).await?,
            Identity::Key(path) => self.of_key(path).await?,
        };
        let token = Zeroizing::new(granted.access_token);
        let life = Duration::from_secs(granted.expires_in);
        *kept = Some((token.clone(), asked + life.saturating_sub(MARGIN)));
        Ok(token)
    }

    /// Forgets the token that was kept.
    pub(super) async fn forget(&self) {
        *self.kept.lock().await = None;
    }

    async fn of_machine(&self, server: &Url) -> Result<Granted, String> {
        let url = format!(
            "{}/computeMetadata/v1/instance/service-accounts/default/token",
            server.as_str().trim_end_matches('/')
        );
        let request = self.http.get(url).header("metadata-flavor", "Google");
        granted(request, "the metadata server").await
    }

    async fn of_key(&self, path: &PathBuf) -> Result<Granted, String> {
        let text = tokio::fs::read(path).await.map(Zeroizing::new);
        let text = text.map_err(|error| format!("the credentials file: {error}"))?;
        // Without serde's words: they may quote the key.
        let key: Key = serde_json::from_slice(&text)
            .map_err(|_| "the credentials file is no key of a service account".to_owned())?;
        if key.kind != "service_account" {
            return Err("the credentials file is of another type than service_account".to_owned());
        }
        check_token_address(&key.token_uri)
            .map_err(|why| format!("the credentials file: its token_uri: {why}"))?;
        let assertion = key.assertion()?;
        let request = self
            .http
            .post(&key.token_uri)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(format!(
                "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={}",
                assertion.as_str()
            ));
        granted(request, "the token's server").await
    }
}

impl Key {
    /// A token that the key signs, to be exchanged.
    fn assertion(&self) -> Result<Zeroizing<String>, String> {
        let unusable = |_| "the private key of the credentials file cannot be used".to_owned();
        let der = PrivatePkcs8KeyDer::from_pem_slice(self.private_key.as_bytes())
            .map_err(|_| unusable(()))?;
        let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| unusable(()))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_err(|_| "the clock is before 1970".to_owned())?;
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": self.private_key_id });
        let claims = json!({
            "iss": self.client_email,
            "scope": SCOPE,
            "aud": self.token_uri,
            "iat": now.as_secs(),
            "exp": (now + LIFE).as_secs(),
        });
        let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let mut signature = vec![0; pair.public().modulus_len()];
        pair.sign(
            &RSA_PKCS1_SHA256,
            &ring::rand::SystemRandom::new(),
            signed.as_bytes(),
            &mut signature,
        )
        .map_err(|_| unusable(()))?;
        Ok(Zeroizing::new(format!(
            "{signed}.{}",
            URL_SAFE_NO_PAD.encode(signature)
        )))
    }
}

async fn granted(request: reqwest::RequestBuilder, who: &str) -> Result<Granted, String> {
    let response = request
        .send()
        .await
        .map_err(|error| format!("{who}: {}", chain(&error.without_url())))?;
    let status = response.status();
    let body = body(response, ANSWER_BYTES)
        .await
        .map_err(|why| format!("{who}: {why}"))?;
    if !status.is_success() {
        return Err(format!("{who} answered {status}"));
    }
    serde_json::from_slice(&body).map_err(|_| format!("{who} answered no token"))
}
