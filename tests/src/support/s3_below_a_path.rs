//! A front of the tests' own that serves a gateway below a path, as Supabase Storage serves
//! its S3 endpoint below `/storage/v1/s3`.
//!
//! A signature is over the whole path, so what comes is signed anew for the gateway, by the
//! same key. The front does not verify what came: that it is signed as the key's, and that it
//! begins with the path, is all that it asks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use heyday_capabilities::blob::s3_config::S3Config;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer as _};
use url::Url;

use super::http_server::serve;
use super::s3::{Gateway, KEY};
use super::server::Client;

/// Where Supabase Storage has it.
pub const BASE: &str = "/storage/v1/s3";
/// What goes on to the gateway.
const HEADERS: [header::HeaderName; 6] = [
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::RANGE,
    header::ACCEPT,
];

/// A front before a gateway. It ends with the runtime.
pub struct Front {
    address: SocketAddr,
    seen: Arc<Seen>,
}

/// Requests that came.
#[derive(Default)]
struct Seen {
    below: AtomicUsize,
    elsewhere: AtomicUsize,
}

struct Behind {
    store: AmazonS3,
    http: reqwest::Client,
    seen: Arc<Seen>,
}

impl Front {
    /// Starts one.
    pub async fn start(gateway: &Gateway) -> Self {
        // Its first client sets up TLS, which the store's own wants.
        let http = Client::new("http://localhost", "").http;
        let config = gateway.config("");
        let store = AmazonS3Builder::new()
            .with_bucket_name(&config.bucket)
            .with_endpoint(config.endpoint.expect("the gateway has one"))
            .with_access_key_id(KEY)
            .with_secret_access_key(&gateway.secret)
            .with_allow_http(true)
            .build()
            .unwrap();
        let seen = Arc::new(Seen::default());
        let behind = Arc::new(Behind {
            store,
            http,
            seen: Arc::clone(&seen),
        });
        let router = Router::new().fallback(move |request: Request| {
            let behind = Arc::clone(&behind);
            async move { forward(&behind, request).await }
        });
        let address = serve(router).await.unwrap();
        Self { address, seen }
    }

    /// A binding's configuration, as the documentation has it for Supabase Storage.
    pub fn config(&self, gateway: &Gateway, prefix: &str) -> S3Config {
        let mut config = gateway.config(prefix);
        config.endpoint = Some(format!("http://{}{BASE}", self.address));
        config.region = Some("eu-central-1".to_owned());
        config
    }

    /// How many requests came below the path, and how many elsewhere.
    pub fn seen(&self) -> (usize, usize) {
        let [below, elsewhere] = [&self.seen.below, &self.seen.elsewhere];
        (
            below.load(Ordering::SeqCst),
            elsewhere.load(Ordering::SeqCst),
        )
    }
}

async fn forward(behind: &Behind, request: Request) -> Response {
    let below = request.uri().path().strip_prefix(BASE);
    let Some(rest) = below.and_then(|rest| rest.strip_prefix("/bucket")) else {
        behind.seen.elsewhere.fetch_add(1, Ordering::SeqCst);
        return StatusCode::NOT_FOUND.into_response();
    };
    behind.seen.below.fetch_add(1, Ordering::SeqCst);
    if !is_signed(&request) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let key = Path::from_url_path(rest).expect("a path");
    let (parts, body) = request.into_parts();
    let query: Vec<(String, String)> =
        url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .filter(|(name, _)| !name.starts_with("X-Amz-"))
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
    let options = SignedUrlOptions::new().with_query(query);
    let lasts = Duration::from_secs(60);
    let signed = behind
        .store
        .signed_url_opts(parts.method.clone(), &key, lasts, &options);
    let url: Url = signed.await.expect("it has a key");
    let mut headers = HeaderMap::new();
    for name in HEADERS {
        if let Some(value) = parts.headers.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    let has_body = headers.contains_key(header::CONTENT_LENGTH);
    let mut sent = behind.http.request(parts.method, url).headers(headers);
    if has_body {
        sent = sent.body(reqwest::Body::wrap_stream(body.into_data_stream()));
    }
    let Ok(answer) = sent.send().await else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    // How this connection has the body is its own matter.
    for name in [header::TRANSFER_ENCODING, header::CONNECTION] {
        response.headers_mut().remove(name);
    }
    *response.body_mut() = Body::from_stream(answer.bytes_stream());
    response
}

/// Whether a request says that the key signed it, in a header or in its address.
fn is_signed(request: &Request) -> bool {
    let credential = format!("{KEY}/");
    let header = request.headers().get(header::AUTHORIZATION);
    let in_header = header.is_some_and(|value| {
        let text = String::from_utf8_lossy(value.as_bytes());
        text.contains(&format!("Credential={credential}")) && text.contains("/eu-central-1/s3/")
    });
    let query = request.uri().query().unwrap_or_default();
    let mut query = url::form_urlencoded::parse(query.as_bytes());
    in_header
        || query.any(|(name, value)| {
            name == "X-Amz-Credential"
                && value.starts_with(&credential)
                && value.contains("/eu-central-1/s3/")
        })
}
