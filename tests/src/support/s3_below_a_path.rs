//! A front of a store that speaks S3, below a path as Supabase Storage has its own
//! (`/storage/v1/s3`). It checks the signature (AWS SigV4, in a header or in the address)
//! over the whole path that it was sent to, and signs what it passes on for the path
//! behind. As there, the end of an upload has its signature in a header, or is refused; and
//! it may leave out what a write says of conditions, as there too, and lose an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use ring::digest::{SHA256, digest};
use ring::hmac;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::server::Client;

/// Where it answers.
const BASE: &str = "/storage/v1/s3";
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// What says under which condition a write is to happen.
const CONDITIONS: [&str; 2] = ["if-match", "if-none-match"];

/// A front on a loopback port. It ends when it is dropped.
pub struct BelowAPath {
    /// Its endpoint.
    pub endpoint: String,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    /// `http://HOST:PORT`.
    behind: String,
    secret: String,
    http: reqwest::Client,
    keeps_conditions: bool,
    /// Of how many ends of uploads to come the answer is lost.
    losing: AtomicU32,
    /// Requests that are under way, and the most there were at once.
    under_way: AtomicUsize,
    most: AtomicUsize,
}

/// Counts a request for as long as it is there.
struct UnderWay<'a>(&'a Shared);

impl<'a> UnderWay<'a> {
    fn new(shared: &'a Shared) -> Self {
        let before = shared.under_way.fetch_add(1, Ordering::SeqCst);
        shared.most.fetch_max(before + 1, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl BelowAPath {
    /// Starts one before the store at that address, with that secret of its only key.
    pub async fn start(behind: &str, secret: &str) -> Self {
        Self::start_with(behind, secret, true).await
    }

    /// As [`start`](Self::start), but it writes whatever the condition is.
    pub async fn start_without_conditions(behind: &str, secret: &str) -> Self {
        Self::start_with(behind, secret, false).await
    }

    async fn start_with(behind: &str, secret: &str, keeps_conditions: bool) -> Self {
        let shared = Arc::new(Shared {
            behind: behind.trim_end_matches('/').to_owned(),
            secret: secret.to_owned(),
            http: Client::new("http://localhost", "").http,
            keeps_conditions,
            losing: AtomicU32::new(0),
            under_way: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = CancellationToken::new();
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        let server = axum::serve(listener, router);
        let stopped = stop.clone();
        tokio::spawn(async move {
            stopped
                .run_until_cancelled_owned(server.into_future())
                .await
        });
        Self {
            endpoint: format!("http://localhost:{port}{BASE}"),
            shared,
            _stop: stop.drop_guard(),
        }
    }

    /// The next so many ends of uploads are passed on, and their answers lost.
    pub fn lose(&self, ends: u32) {
        self.shared.losing.store(ends, Ordering::SeqCst);
    }

    /// The most requests that were under way at once.
    pub fn most(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }

    /// How many answers are to be lost yet.
    pub fn losing(&self) -> u32 {
        self.shared.losing.load(Ordering::SeqCst)
    }
}

/// How S3 refuses.
fn refused(status: StatusCode, code: &str) -> Response {
    (status, format!("<Error><Code>{code}</Code></Error>")).into_response()
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes
        .as_ref()
        .iter()
        .map(|it| format!("{it:02x}"))
        .collect()
}

/// As the signed text has it.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let byte = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// What a request says of its signature.
struct Signed {
    scope: String,
    headers: Vec<String>,
    time: String,
    payload: String,
    signature: String,
    in_header: bool,
}

impl Signed {
    fn of(uri: &Uri, headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
        let names = |names: &str| names.split(';').map(str::to_owned).collect();
        let scope = |credential: &str| Some(credential.split_once('/')?.1.to_owned());
        if let Some(header) = text("authorization") {
            let rest = header.strip_prefix(ALGORITHM)?;
            let part = |name: &str| {
                let mut parts = rest.split(',').map(str::trim);
                parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
            };
            return Some(Self {
                scope: scope(part("Credential")?)?,
                headers: names(part("SignedHeaders")?),
                time: text("x-amz-date")?,
                payload: text("x-amz-content-sha256")?,
                signature: part("Signature")?.to_owned(),
                in_header: true,
            });
        }
        let options = options(uri);
        let option = |name: &str| {
            let found = options.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_str())
        };
        Some(Self {
            scope: scope(option("X-Amz-Credential")?)?,
            headers: names(option("X-Amz-SignedHeaders")?),
            time: option("X-Amz-Date")?.to_owned(),
            payload: "UNSIGNED-PAYLOAD".to_owned(),
            signature: option("X-Amz-Signature")?.to_owned(),
            in_header: false,
        })
    }

    /// The signature of the same request at a path.
    fn at(
        &self,
        secret: &str,
        method: &Method,
        path: &str,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> String {
        let mut query: Vec<_> = options(uri)
            .into_iter()
            .filter(|(name, _)| name != "X-Amz-Signature")
            .map(|(name, value)| format!("{}={}", encoded(&name), encoded(&value)))
            .collect();
        query.sort_unstable();
        let line = |name: &String| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            let words: Vec<_> = value.unwrap_or_default().split_whitespace().collect();
            format!("{name}:{}\n", words.join(" "))
        };
        let request = format!(
            "{method}\n{path}\n{}\n{}\n{}\n{}",
            query.join("&"),
            self.headers.iter().map(line).collect::<String>(),
            self.headers.join(";"),
            self.payload,
        );
        let text = format!(
            "{ALGORITHM}\n{}\n{}\n{}",
            self.time,
            self.scope,
            hex(digest(&SHA256, request.as_bytes()))
        );
        let sign = |key: &[u8], text: &str| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, key);
            hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
        };
        let first = format!("AWS4{secret}").into_bytes();
        let key = self
            .scope
            .split('/')
            .fold(first, |key, part| sign(&key, part));
        hex(sign(&key, &text))
    }
}

fn options(uri: &Uri) -> Vec<(String, String)> {
    let query = uri.query().unwrap_or_default().as_bytes();
    url::form_urlencoded::parse(query).into_owned().collect()
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let _under_way = UnderWay::new(&shared);
    let (parts, body) = request.into_parts();
    let body: Bytes = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let (method, uri, mut headers) = (parts.method, parts.uri, parts.headers);
    let Some(path) = uri.path().strip_prefix(BASE) else {
        return refused(StatusCode::NOT_FOUND, "NoSuchPath");
    };
    let Some(mut signed) = Signed::of(&uri, &headers) else {
        return refused(StatusCode::FORBIDDEN, "AccessDenied");
    };
    let secret = &shared.secret;
    let right = signed.at(secret, &method, uri.path(), &uri, &headers);
    let whole =
        signed.payload == "UNSIGNED-PAYLOAD" || signed.payload == hex(digest(&SHA256, &body));
    if right != signed.signature || !whole {
        return refused(StatusCode::FORBIDDEN, "SignatureDoesNotMatch");
    }
    let ends = options(&uri).iter().any(|(name, _)| name == "uploadId");
    let ends = ends && method == Method::POST;
    if ends && !signed.in_header {
        return refused(StatusCode::BAD_REQUEST, "InvalidRequest");
    }
    let said = signed.headers.join(";");
    if !shared.keeps_conditions && matches!(method, Method::PUT | Method::POST) {
        for name in CONDITIONS {
            headers.remove(name);
        }
        let left = |name: &String| !CONDITIONS.contains(&name.as_str());
        signed.headers.retain(left);
    }
    let anew = signed.at(secret, &method, path, &uri, &headers);
    let mut query = uri.query().unwrap_or_default().to_owned();
    if signed.in_header {
        let old = headers["authorization"].to_str().unwrap_or_default();
        let of = |names: &str| format!("SignedHeaders={names}");
        let new = old
            .replace(&signed.signature, &anew)
            .replace(&of(&said), &of(&signed.headers.join(";")));
        headers.insert("authorization", HeaderValue::from_str(&new).unwrap());
    } else {
        query = query.replace(&signed.signature, &anew);
    }
    let url = format!("{}{path}?{query}", shared.behind);
    let passed = shared.http.request(method, url.trim_end_matches('?'));
    let passed = match passed.headers(headers).body(body).send().await {
        Ok(passed) => passed,
        Err(error) => return refused(StatusCode::BAD_GATEWAY, &error.to_string()),
    };
    let less = |left: u32| left.checked_sub(1);
    let losing = &shared.losing;
    if ends
        && losing
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
            .is_ok()
    {
        // All of it comes here, so that the store has done it.
        let _ = passed.bytes().await;
        let cut = futures::stream::once(async { Err::<Bytes, _>(std::io::Error::other("cut")) });
        return Body::from_stream(cut).into_response();
    }
    let mut response = Response::builder().status(passed.status());
    for (name, value) in passed.headers() {
        if name != "transfer-encoding" && name != "connection" {
            response = response.header(name, value);
        }
    }
    let body = Body::from_stream(passed.bytes_stream());
    response.body(body).unwrap()
}
