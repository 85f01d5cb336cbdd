//! Stands in for what is before Google Cloud Storage and what its emulator has not. The
//! emulator (fake-gcs-server) keeps the objects and decides all conditions, but:
//!
//! - it asks for no token and knows no signature. Here are the sign-in (the metadata server,
//!   the exchange of a token that a key signed, IAM's `signBlob`) and the check of every
//!   request's token or V4 signature, as Google documents them;
//! - it takes the question what it has of an upload for the upload's end, keeps what was
//!   given up, and takes parts of any size. Here sessions are as Google documents them;
//! - it never fails. Here a token can be taken back, and the next answer of a kind be lost.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures::StreamExt as _;
use ring::digest::{SHA256, digest};
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
};
use serde_json::{Value, json};
use url::Url;

use super::server::Client;

/// The only account.
pub const ACCOUNT: &str = "tests@test-project.iam.gserviceaccount.com";
/// Its key, which was made for tests and opens nothing.
const KEY: &str = include_str!("../../../host/capabilities/src/secrets/gcp_tests_key.txt");
/// What parts of an upload are a multiple of.
const STEP: u64 = 256 << 10;

/// What goes wrong with the next request that it can go wrong with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Less is kept of a part than was sent.
    Half,
    /// A part, or the end of an upload, is done and not answered.
    Lost,
    /// A part is not done.
    Busy,
    /// Bytes of an object end before their end.
    Cut,
    /// Bytes of an object stop in their middle, and nothing more comes.
    Held,
    /// A deletion is done and not answered.
    Deleted,
    /// A write at once is done and not answered.
    Written,
}

#[derive(Default)]
struct Upload {
    /// Bytes that it has.
    kept: u64,
    /// What was answered at its end.
    object: Option<Bytes>,
}

#[derive(Default)]
struct Inside {
    /// The number of the token that is good.
    token: u32,
    troubles: VecDeque<Trouble>,
    uploads: HashMap<String, Upload>,
    /// The requests of the store so far.
    requests: Vec<String>,
}

struct Shared {
    inside: Mutex<Inside>,
    http: reqwest::Client,
    /// The emulator, `http://HOST:PORT`.
    behind: String,
}

/// The stand-in, on a thread of its own. It ends when it is dropped.
pub struct GoogleStandIn {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for GoogleStandIn {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl GoogleStandIn {
    /// Listens, before an emulator on that port.
    pub fn start(behind: u16) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            inside: Mutex::default(),
            http: Client::new("http://localhost", "").http,
            behind: format!("http://127.0.0.1:{behind}"),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await
        });
        Self {
            address,
            shared,
            runtime: Some(runtime),
        }
    }

    /// A credentials file, as Google writes it.
    pub fn credentials(&self) -> Value {
        let (head, foot) = ("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----");
        json!({
            "type": "service_account",
            "client_email": ACCOUNT,
            "private_key_id": "k1",
            "private_key": format!("{head}\n{KEY}{foot}\n"),
            "token_uri": format!("http://{}/token", self.address),
        })
    }

    /// From now on no token is good that was given out before.
    pub fn take_tokens_back(&self) {
        self.shared.inside.lock().unwrap().token += 1;
    }

    /// Goes wrong, in this order.
    pub fn trouble(&self, troubles: &[Trouble]) {
        self.shared.inside.lock().unwrap().troubles.extend(troubles);
    }

    /// Whether all went wrong that should.
    pub fn is_calm(&self) -> bool {
        self.shared.inside.lock().unwrap().troubles.is_empty()
    }

    /// Uploads that have not ended.
    pub fn uploads(&self) -> usize {
        let inside = self.shared.inside.lock().unwrap();
        let open = |upload: &&Upload| upload.object.is_none();
        inside.uploads.values().filter(open).count()
    }

    /// The requests of the store since the last time, `METHOD PATH?QUERY` each.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.inside.lock().unwrap().requests)
    }
}

/// How Google's JSON API refuses.
fn refused(status: u16, message: &str) -> Response {
    let error = json!({ "error": { "code": status, "message": message } });
    let status = StatusCode::from_u16(status).unwrap();
    (status, axum::Json(error)).into_response()
}

/// How its XML API does.
fn refused_address(status: StatusCode, code: &str) -> Response {
    let error = format!("<?xml version='1.0'?><Error><Code>{code}</Code></Error>");
    (status, error).into_response()
}

fn option(uri: &Uri, name: &str) -> Option<String> {
    let query = uri.query().unwrap_or_default().as_bytes();
    let mut options = url::form_urlencoded::parse(query);
    options.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
}

fn number(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl Shared {
    /// Whether it goes wrong in this way now.
    fn goes_wrong(&self, ways: &[Trouble]) -> Option<Trouble> {
        let mut inside = self.inside.lock().unwrap();
        let next = inside.troubles.front().copied();
        let next = next.filter(|trouble| ways.contains(trouble))?;
        inside.troubles.pop_front();
        Some(next)
    }

    fn token(&self) -> String {
        format!("stand-in-token-{}", self.inside.lock().unwrap().token)
    }

    fn granted(&self) -> Response {
        let token = self.token();
        axum::Json(json!({ "access_token": token, "expires_in": 3599, "token_type": "Bearer" }))
            .into_response()
    }

    fn is_signed_in(&self, headers: &HeaderMap) -> bool {
        let header = headers.get("authorization");
        header.is_some_and(|it| it == format!("Bearer {}", self.token()).as_str())
    }

    /// Passes a request on.
    async fn pass(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<reqwest::Response, Response> {
        let path = uri.path_and_query().map_or("/", |it| it.as_str());
        let mut request = self
            .http
            .request(method.clone(), format!("{}{path}", self.behind));
        for name in ["host", "range", "content-type", "content-range"] {
            if let Some(value) = headers.get(name) {
                request = request.header(name, value);
            }
        }
        let passed = request.body(body).send().await;
        passed.map_err(|error| refused(502, &error.to_string()))
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let (method, uri, headers) = (parts.method, parts.uri, parts.headers);
    let path = uri.path();
    if let Some(what) = path.strip_prefix("/computeMetadata/v1/instance/service-accounts/default/")
    {
        let asks = headers.get("metadata-flavor");
        return match what {
            _ if asks.is_none_or(|it| it != "Google") => StatusCode::FORBIDDEN.into_response(),
            "token" => shared.granted(),
            "email" => ACCOUNT.into_response(),
            _ => StatusCode::NOT_FOUND.into_response(),
        };
    }
    if path == "/token" {
        return if is_assertion(&body, &headers) {
            shared.granted()
        } else {
            refused(400, "invalid_grant")
        };
    }
    let line = format!("{method} {uri}");
    shared.inside.lock().unwrap().requests.push(line);
    if let Some(id) = option(&uri, "upload_id") {
        return upload(&shared, &id, &method, &uri, &headers, body).await;
    }
    if option(&uri, "X-Goog-Algorithm").is_some() {
        if let Err(refusal) = check_address(&method, &uri, &headers) {
            return refusal;
        }
    } else if !shared.is_signed_in(&headers) {
        return refused(401, "Invalid Credentials");
    }
    if path == format!("/v1/projects/-/serviceAccounts/{ACCOUNT}:signBlob") {
        return sign_blob(&body);
    }
    let passed = match shared.pass(&method, &uri, &headers, body).await {
        Ok(passed) => passed,
        Err(refusal) => return refusal,
    };
    let media = option(&uri, "alt").is_some_and(|it| it == "media");
    let at_once = option(&uri, "uploadType").is_some_and(|it| it == "media");
    let wrong = match method {
        Method::DELETE => shared.goes_wrong(&[Trouble::Deleted]),
        Method::POST if at_once => shared.goes_wrong(&[Trouble::Written]),
        Method::GET if media => shared.goes_wrong(&[Trouble::Cut, Trouble::Held]),
        _ => None,
    };
    if matches!(wrong, Some(Trouble::Deleted | Trouble::Written)) {
        return refused(503, "backendError");
    }
    begun(&shared, passed.headers());
    copy(passed, wrong)
}

/// Remembers an upload that begins.
fn begun(shared: &Shared, headers: &HeaderMap) {
    let location = headers.get("location").and_then(|it| it.to_str().ok());
    let location = location.and_then(|it| Url::parse(it).ok());
    let id = location.and_then(|url| {
        let mut options = url.query_pairs();
        options.find_map(|(name, value)| (name == "upload_id").then(|| value.into_owned()))
    });
    if let Some(id) = id {
        let mut inside = shared.inside.lock().unwrap();
        inside.uploads.insert(id, Upload::default());
    }
}

/// An answer of the emulator's, perhaps cut or held.
fn copy(passed: reqwest::Response, wrong: Option<Trouble>) -> Response {
    let mut response = Response::builder().status(passed.status());
    for (name, value) in passed.headers() {
        if name != "transfer-encoding" && name != "connection" {
            response = response.header(name, value);
        }
    }
    let mut left = if wrong.is_some() {
        passed.content_length().unwrap_or(0) / 2
    } else {
        u64::MAX
    };
    let body = passed.bytes_stream().then(move |chunk| {
        let chunk = chunk.map_err(std::io::Error::other);
        let length = chunk.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let ends = length > left;
        left = left.saturating_sub(length);
        async move {
            match wrong {
                Some(Trouble::Held) if ends => std::future::pending().await,
                _ if ends => Err(std::io::Error::other("cut")),
                _ => chunk,
            }
        }
    });
    response.body(Body::from_stream(body)).unwrap()
}

/// What is done with an upload: its address is all that it needs.
async fn upload(
    shared: &Shared,
    id: &str,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    mut body: Bytes,
) -> Response {
    let (kept, object) = {
        let mut inside = shared.inside.lock().unwrap();
        if method == Method::DELETE {
            inside.uploads.remove(id);
            return StatusCode::from_u16(499).unwrap().into_response();
        }
        match inside.uploads.get(id) {
            Some(upload) => (upload.kept, upload.object.clone()),
            None => return refused(410, "it was given up"),
        }
    };
    if let Some(object) = object {
        return object.into_response();
    }
    let wrong = shared.goes_wrong(&[Trouble::Half, Trouble::Lost, Trouble::Busy]);
    if wrong == Some(Trouble::Busy) {
        return refused(503, "backendError");
    }
    let range = headers.get("content-range").and_then(|it| it.to_str().ok());
    let range = range.and_then(|it| it.strip_prefix("bytes ")?.split_once('/'));
    let Some((range, size)) = range else {
        return refused(400, "no range");
    };
    let (first, last) = range.split_once('-').unwrap_or_default();
    let (first, end) = (number(Some(first)), number(Some(last)) + 1);
    let size = size.parse::<u64>().ok();
    let mut headers = headers.clone();
    if range == "*" {
        if size != Some(kept) {
            return resume(kept);
        }
    } else if first != kept || end - first != body.len() as u64 {
        return refused(400, "not the next bytes");
    } else if wrong == Some(Trouble::Half) {
        let half = (body.len() as u64 / 2 / STEP).max(1) * STEP;
        body.truncate(usize::try_from(half).unwrap());
        let range = format!("bytes {first}-{}/*", first + half - 1);
        headers.insert("content-range", range.parse().unwrap());
    } else if size != Some(end) && (end - first) % STEP != 0 {
        return refused(400, "a part has a multiple of 256 KiB");
    }
    let length = body.len() as u64;
    let passed = match shared.pass(method, uri, &headers, body).await {
        Ok(passed) => passed,
        Err(refusal) => return refusal,
    };
    let status = passed.status();
    let answer = passed.bytes().await.unwrap_or_default();
    {
        let mut inside = shared.inside.lock().unwrap();
        if let Some(upload) = inside.uploads.get_mut(id) {
            upload.kept += length;
            if status.is_success() {
                upload.object = Some(answer.clone());
            } else if status != StatusCode::PERMANENT_REDIRECT {
                inside.uploads.remove(id);
            }
        }
    }
    if wrong == Some(Trouble::Lost) {
        return refused(503, "backendError");
    }
    if status == StatusCode::PERMANENT_REDIRECT {
        return resume(kept + length);
    }
    (status, answer).into_response()
}

fn resume(kept: u64) -> Response {
    let mut response = StatusCode::PERMANENT_REDIRECT.into_response();
    if kept > 0 {
        let range = format!("bytes=0-{}", kept - 1);
        response
            .headers_mut()
            .insert("range", range.parse().unwrap());
    }
    response
}

fn pair() -> RsaKeyPair {
    let der = STANDARD.decode(KEY.replace('\n', "")).unwrap();
    RsaKeyPair::from_pkcs8(&der).unwrap()
}

fn is_signed(text: &[u8], signature: &[u8]) -> bool {
    let pair = pair();
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public());
    key.verify(text, signature).is_ok()
}

/// Whether a form has a token that the account's key signed.
fn is_assertion(form: &[u8], headers: &HeaderMap) -> bool {
    let form: HashMap<_, _> = url::form_urlencoded::parse(form).collect();
    let parts = form
        .get("assertion")
        .and_then(|token| token.rsplit_once('.'));
    let Some((text, signature)) = parts else {
        return false;
    };
    let claims = text
        .split_once('.')
        .and_then(|(_, it)| URL_SAFE_NO_PAD.decode(it).ok());
    let claims: Value = serde_json::from_slice(&claims.unwrap_or_default()).unwrap_or_default();
    let host = headers.get("host").and_then(|it| it.to_str().ok());
    form.get("grant_type")
        .is_some_and(|it| it == "urn:ietf:params:oauth:grant-type:jwt-bearer")
        && claims["iss"] == ACCOUNT
        && claims["aud"] == format!("http://{}/token", host.unwrap_or_default())
        && URL_SAFE_NO_PAD
            .decode(signature)
            .is_ok_and(|signature| is_signed(text.as_bytes(), &signature))
}

fn sign_blob(body: &[u8]) -> Response {
    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = STANDARD.decode(asked["payload"].as_str().unwrap_or_default());
    let pair = pair();
    let mut signature = vec![0; pair.public().modulus_len()];
    let random = ring::rand::SystemRandom::new();
    pair.sign(
        &RSA_PKCS1_SHA256,
        &random,
        &text.unwrap_or_default(),
        &mut signature,
    )
    .unwrap();
    axum::Json(json!({ "keyId": "k1", "signedBlob": STANDARD.encode(signature) })).into_response()
}

/// Checks a V4 signature of what was sent.
#[expect(clippy::result_large_err, reason = "it is the answer")]
fn check_address(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Response> {
    let forged = || refused_address(StatusCode::FORBIDDEN, "SignatureDoesNotMatch");
    let option = |name: &str| option(uri, name).ok_or_else(forged);
    let (time, credential) = (option("X-Goog-Date")?, option("X-Goog-Credential")?);
    let (account, scope) = credential.split_once('/').ok_or_else(forged)?;
    let mut query: Vec<_> = uri.query().unwrap_or_default().split('&').collect();
    query.retain(|pair| !pair.starts_with("X-Goog-Signature="));
    query.sort_unstable();
    let host = headers.get("host").and_then(|it| it.to_str().ok());
    let request = format!(
        "{method}\n{}\n{}\nhost:{}\n\nhost\nUNSIGNED-PAYLOAD",
        uri.path(),
        query.join("&"),
        host.unwrap_or_default(),
    );
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|it| format!("{it:02x}"))
            .collect::<String>()
    };
    let request = hex(digest(&SHA256, request.as_bytes()).as_ref());
    let text = format!("GOOG4-RSA-SHA256\n{time}\n{scope}\n{request}");
    let signature = option("X-Goog-Signature")?;
    let signature: Option<Vec<u8>> = (0..signature.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(signature.get(at..at + 2)?, 16).ok())
        .collect();
    let day = time.get(..8).unwrap_or_default();
    let right = account == ACCOUNT
        && scope == format!("{day}/auto/storage/goog4_request")
        && option("X-Goog-SignedHeaders")? == "host"
        && signature.is_some_and(|it| is_signed(text.as_bytes(), &it));
    if !right {
        return Err(forged());
    }
    let begun = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", &time).map_err(|_| forged())?;
    let begun = jiff::tz::TimeZone::UTC.to_timestamp(begun);
    let seconds = option("X-Goog-Expires")?.parse::<i64>();
    let (begun, seconds) = (begun.map_err(|_| forged())?, seconds.map_err(|_| forged())?);
    if jiff::Timestamp::now().as_second() >= begun.as_second() + seconds {
        return Err(refused_address(StatusCode::BAD_REQUEST, "ExpiredToken"));
    }
    Ok(())
}
