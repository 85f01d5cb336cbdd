//! How the host signs in to Google Cloud: with the metadata server of the machine, with
//! the key of a service account, which signs a token (RFC 7523) that is exchanged for one
//! of Google's, or with what `gcloud auth application-default login` left of a person.
//!
//! A service account also signs addresses: its key here, or IAM for the metadata server,
//! which gives out no key.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::header::CONTENT_TYPE;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::json;
use url::Url;
use zeroize::Zeroizing;

use super::{address, body};
use crate::error::chain;

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// Where a person's token is asked for.
const PERSONS: &str = "https://oauth2.googleapis.com/token";
/// The variable with the path of a credentials file.
const VARIABLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
/// Where gcloud keeps one, below the user's folder.
const WELL_KNOWN: &str = ".config/gcloud/application_default_credentials.json";
/// How long a signed token is for.
const LIFE: Duration = Duration::from_secs(60 * 60);
/// A token is not used for the last of its time.
const MARGIN: Duration = Duration::from_secs(60);
const ANSWER_BYTES: usize = 64 << 10;

/// Who the host is there.
#[derive(Debug)]
pub(crate) enum Identity {
    /// Whom the metadata server at this address says.
    Machine(Url),
    /// Whose credentials are in this file.
    File(PathBuf),
    /// Application default credentials: those of the file that
    /// `GOOGLE_APPLICATION_CREDENTIALS` names, of gcloud's, or the machine's.
    Default(Url),
}

/// Where the credentials are now.
enum Source {
    Machine(Url),
    File(PathBuf),
}

impl Identity {
    fn source(&self) -> Source {
        match self {
            Self::Machine(server) => Source::Machine(server.clone()),
            Self::File(path) => Source::File(path.clone()),
            Self::Default(server) => {
                let named = std::env::var_os(VARIABLE).map(PathBuf::from);
                let well_known = || {
                    let path = Path::new(&std::env::var_os("HOME")?).join(WELL_KNOWN);
                    path.exists().then_some(path)
                };
                match named.or_else(well_known) {
                    Some(path) => Source::File(path),
                    None => Source::Machine(server.clone()),
                }
            }
        }
    }
}

/// Tokens for requests; one is kept until its time is over.
pub(crate) struct Tokens {
    http: reqwest::Client,
    identity: Identity,
    kept: tokio::sync::Mutex<Option<(Zeroizing<String>, Instant)>>,
}

/// What a service account signed.
pub(crate) struct Signature {
    /// The account's address, as of mail.
    pub(crate) account: String,
    /// RSA PKCS #1 v1.5 over SHA-256.
    pub(crate) bytes: Vec<u8>,
}

/// Why nothing was signed.
#[derive(Debug)]
pub(crate) enum SignError {
    /// Whoever the host is there can sign nothing.
    NoAccount,
    /// For the host's log.
    Other(String),
}

/// What a credentials file holds.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Credentials {
    ServiceAccount(Key),
    AuthorizedUser(Person),
}

/// The key of a service account, as Google writes it.
#[derive(Deserialize)]
struct Key {
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

/// What lets a program act for a person.
#[derive(Deserialize)]
struct Person {
    client_id: String,
    client_secret: String,
    refresh_token: String,
}

impl Drop for Person {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.client_secret);
        zeroize::Zeroize::zeroize(&mut self.refresh_token);
    }
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Signed {
    signed_blob: String,
}

impl Tokens {
    pub(crate) fn new(http: reqwest::Client, identity: Identity) -> Self {
        Self {
            http,
            identity,
            kept: tokio::sync::Mutex::new(None),
        }
    }

    /// A token that is good for some time. The error is for the host's log.
    pub(crate) async fn token(&self) -> Result<Zeroizing<String>, String> {
        let mut kept = self.kept.lock().await;
        if let Some((token, until)) = &*kept
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        *kept = None;
        let asked = Instant::now();
        let granted = match self.identity.source() {
            Source::Machine(server) => self.of_machine(&server).await?,
            Source::File(path) => match credentials(&path).await? {
                Credentials::ServiceAccount(key) => self.of_key(&key).await?,
                Credentials::AuthorizedUser(person) => self.of_person(&person).await?,
            },
        };
        let token = Zeroizing::new(granted.access_token);
        let life = Duration::from_secs(granted.expires_in);
        *kept = Some((token.clone(), asked + life.saturating_sub(MARGIN)));
        Ok(token)
    }

    /// Forgets the token that was kept.
    pub(crate) async fn forget(&self) {
        *self.kept.lock().await = None;
    }

    /// The account that signs, and what makes its signature of a text that names it.
    ///
    /// `text` is given the account's address. `iam` is where IAM answers.
    pub(crate) async fn sign(
        &self,
        iam: &Url,
        text: impl FnOnce(&str) -> String + Send,
    ) -> Result<Signature, SignError> {
        match self.identity.source() {
            Source::File(path) => {
                match credentials(&path).await.map_err(SignError::Other)? {
                    Credentials::ServiceAccount(key) => {
                        let text = text(&key.client_email);
                        Ok(Signature {
                            account: key.client_email.clone(),
                            bytes: key.sign(text.as_bytes()).map_err(SignError::Other)?,
                        })
                    }
                    // A person has no key that Google knows of.
                    Credentials::AuthorizedUser(_) => Err(SignError::NoAccount),
                }
            }
            Source::Machine(server) => {
                let account = self.machines(&server).await.map_err(SignError::Other)?;
                let text = text(&account);
                let bytes = self.of_iam(iam, &account, &text).await;
                Ok(Signature {
                    account,
                    bytes: bytes.map_err(SignError::Other)?,
                })
            }
        }
    }

    async fn of_machine(&self, server: &Url) -> Result<Granted, String> {
        let request = self.metadata(server, "token");
        granted(request, "the metadata server").await
    }

    fn metadata(&self, server: &Url, what: &str) -> reqwest::RequestBuilder {
        let url = format!(
            "{}/computeMetadata/v1/instance/service-accounts/default/{what}",
            server.as_str().trim_end_matches('/')
        );
        self.http.get(url).header("metadata-flavor", "Google")
    }

    /// The account of the machine.
    async fn machines(&self, server: &Url) -> Result<String, String> {
        let told = answer(self.metadata(server, "email"), "the metadata server").await?;
        let account = std::str::from_utf8(&told).map_or("", str::trim);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"@.-_".contains(&byte);
        // It becomes a part of an address.
        if account.is_empty() || !account.bytes().all(plain) {
            return Err("the metadata server answered no account".to_owned());
        }
        Ok(account.to_owned())
    }

    async fn of_iam(&self, iam: &Url, account: &str, text: &str) -> Result<Vec<u8>, String> {
        let url = format!(
            "{}/v1/projects/-/serviceAccounts/{account}:signBlob",
            iam.as_str().trim_end_matches('/')
        );
        let token = self.token().await?;
        let request = self.http.post(url).bearer_auth(token.as_str());
        let body = json!({ "payload": STANDARD.encode(text) });
        let signed = answer(request.json(&body), "IAM").await?;
        let signed: Option<Signed> = serde_json::from_slice(&signed).ok();
        let bytes = signed.and_then(|signed| STANDARD.decode(signed.signed_blob).ok());
        bytes.ok_or_else(|| "IAM answered no signature".to_owned())
    }

    async fn of_key(&self, key: &Key) -> Result<Granted, String> {
        address(&key.token_uri, false)
            .map_err(|why| format!("the credentials file: its token_uri is no address: {why}"))?;
        let assertion = key.assertion()?;
        let request = self.form(
            &key.token_uri,
            &[
                ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
                ("assertion", assertion.as_str()),
            ],
        );
        granted(request, "the token's server").await
    }

    async fn of_person(&self, person: &Person) -> Result<Granted, String> {
        let request = self.form(
            PERSONS,
            &[
                ("grant_type", "refresh_token"),
                ("client_id", &person.client_id),
                ("client_secret", &person.client_secret),
                ("refresh_token", &person.refresh_token),
            ],
        );
        granted(request, "the token's server").await
    }

    fn form(&self, url: &str, members: &[(&str, &str)]) -> reqwest::RequestBuilder {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(members)
            .finish();
        self.http
            .post(url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form)
    }
}

async fn credentials(path: &Path) -> Result<Credentials, String> {
    let text = tokio::fs::read(path).await.map(Zeroizing::new);
    let text = text.map_err(|error| format!("the credentials file: {error}"))?;
    // Without serde's words: they may quote the key.
    serde_json::from_slice(&text).map_err(|_| {
        "the credentials file is no key of a service account, nor what gcloud writes of a \
         person; other types are not known"
            .to_owned()
    })
}

impl Key {
    fn sign(&self, text: &[u8]) -> Result<Vec<u8>, String> {
        let unusable = || "the private key of the credentials file cannot be used".to_owned();
        let der = PrivatePkcs8KeyDer::from_pem_slice(self.private_key.as_bytes())
            .map_err(|_| unusable())?;
        let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| unusable())?;
        let mut signature = vec![0; pair.public().modulus_len()];
        let random = ring::rand::SystemRandom::new();
        pair.sign(&RSA_PKCS1_SHA256, &random, text, &mut signature)
            .map_err(|_| unusable())?;
        Ok(signature)
    }

    /// A token that the key signs, to be exchanged.
    fn assertion(&self) -> Result<Zeroizing<String>, String> {
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
        let signature = self.sign(signed.as_bytes())?;
        Ok(Zeroizing::new(format!(
            "{signed}.{}",
            URL_SAFE_NO_PAD.encode(signature)
        )))
    }
}

async fn granted(request: reqwest::RequestBuilder, who: &str) -> Result<Granted, String> {
    let body = answer(request, who).await?;
    serde_json::from_slice(&body).map_err(|_| format!("{who} answered no token"))
}

async fn answer(request: reqwest::RequestBuilder, who: &str) -> Result<Zeroizing<Vec<u8>>, String> {
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
    Ok(body)
}
