//! Small HTTP servers of the tests' own, in place of the public hosts that the kit
//! names, and for what a test wants to decide itself. They end with the runtime.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::extract::{Path, Query, Request};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::IntoResponse;
use axum::routing::{any, get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// Serves what the kit's scenarios ask of their two hosts.
pub async fn pets() -> anyhow::Result<SocketAddr> {
    let router = Router::new()
        .route("/v2/pet/findByStatus", get(find_by_status))
        .route("/v2/pet/{id}", get(pet_by_id))
        .route("/v2/pet/getPetByName/{name}", get(|| async { not_found() }))
        .route("/basic-auth/{username}/{password}", get(basic_auth));
    serve(router).await
}

fn pet(id: u64) -> Value {
    json!({ "id": id, "name": format!("pet {id}"), "status": "available" })
}

fn not_found() -> (StatusCode, Json<Value>) {
    (
        StatusCode::NOT_FOUND,
        Json(json!({ "message": "Pet not found" })),
    )
}

async fn find_by_status(Query(query): Query<Vec<(String, String)>>) -> impl IntoResponse {
    let available = query
        .iter()
        .any(|(name, value)| name == "status" && value == "available");
    Json(if available {
        json!([pet(1), pet(2)])
    } else {
        json!([])
    })
}

async fn pet_by_id(Path(id): Path<String>) -> impl IntoResponse {
    match id.parse() {
        Ok(id) => Json(pet(id)).into_response(),
        Err(_) => not_found().into_response(),
    }
}

async fn basic_auth(
    Path((username, password)): Path<(String, String)>,
    headers: HeaderMap,
) -> impl IntoResponse {
    use axum::http::header::AUTHORIZATION;
    let expected = format!("Basic {}", base64(&format!("{username}:{password}")));
    let given = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    if given == Some(&expected) {
        Json(json!({ "authenticated": true, "user": username })).into_response()
    } else {
        StatusCode::UNAUTHORIZED.into_response()
    }
}

/// Written out here, so that the server does not share an encoder with what it tests.
fn base64(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    text.as_bytes()
        .chunks(3)
        .flat_map(|chunk| {
            let bits = chunk
                .iter()
                .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
                << (8 * (3 - chunk.len()));
            (0..4).map(move |index| {
                if index > chunk.len() {
                    '='
                } else {
                    ALPHABET[(bits >> (18 - 6 * index) & 63) as usize] as char
                }
            })
        })
        .collect()
}

/// Serves `/gate`, which answers once for each permit that the test adds.
pub async fn gate() -> anyhow::Result<(SocketAddr, Arc<Semaphore>)> {
    let gate = Arc::new(Semaphore::new(0));
    let inside = Arc::clone(&gate);
    let router = Router::new().route(
        "/gate",
        get(async move || {
            // Never closed.
            inside.acquire().await.expect("an open gate").forget();
            Json(true)
        }),
    );
    Ok((serve(router).await?, gate))
}

/// Never answers, whatever it is asked; the semaphore has a permit for each request that came.
pub async fn held() -> anyhow::Result<(SocketAddr, Arc<Semaphore>)> {
    let came = Arc::new(Semaphore::new(0));
    let inside = Arc::clone(&came);
    let router = Router::new().fallback(async move || {
        inside.add_permits(1);
        std::future::pending::<StatusCode>().await
    });
    Ok((serve(router).await?, came))
}

/// Serves what shows how a request was sent, and what is made of its answer.
pub async fn echo() -> anyhow::Result<SocketAddr> {
    let calls = Arc::new(AtomicU64::new(0));
    let router = Router::new()
        .route("/echo/{*path}", any(echoed))
        .route(
            "/status/{status}",
            any(async |Path(status): Path<u16>| {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
                (status, "as you wish")
            }),
        )
        .route(
            "/moved",
            any(async || (StatusCode::FOUND, [("location", "/text")], "moved")),
        )
        .route("/text", get(async || "Grüße"))
        .route("/bytes", get(async || [0_u8, 255, 254].as_slice()))
        .route(
            "/broken",
            get(async || ([("content-type", "application/json")], "{\"cut\":")),
        )
        .route("/empty", get(async || StatusCode::NO_CONTENT))
        .route("/count", post(counted))
        .route(
            "/length",
            post(async |headers: HeaderMap| {
                let length = headers.get("content-length");
                length.map_or_else(Vec::new, |length| length.as_bytes().to_vec())
            }),
        )
        .route(
            "/stream/{bytes}",
            get(async |Path(bytes): Path<usize>| {
                let piece = Bytes::from(vec![b'x'; 10_000]);
                let pieces = bytes.div_ceil(piece.len());
                let last = bytes - (pieces.max(1) - 1) * piece.len();
                Body::from_stream(stream::iter((0..pieces).map(move |number| {
                    let whole = number + 1 < pieces;
                    let length = if whole { piece.len() } else { last };
                    Ok::<_, Infallible>(piece.slice(..length))
                })))
            }),
        )
        .route(
            "/third-time",
            get(async move || {
                let call = calls.fetch_add(1, Ordering::Relaxed) + 1;
                if call.is_multiple_of(3) {
                    Json(json!({ "call": call })).into_response()
                } else {
                    StatusCode::SERVICE_UNAVAILABLE.into_response()
                }
            }),
        );
    serve(router).await
}

async fn echoed(method: Method, uri: Uri, headers: HeaderMap, body: String) -> impl IntoResponse {
    let header = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.map(ToOwned::to_owned)
    };
    Json(json!({
        "method": method.as_str(),
        "uri": uri.to_string(),
        "body": body,
        "content_type": header("content-type"),
        "authorization": header("authorization"),
        "custom": header("x-custom"),
    }))
}

/// Bytes of a body, as they come.
async fn counted(body: Body) -> Json<usize> {
    let mut pieces = body.into_data_stream();
    let mut count = 0;
    while let Some(Ok(piece)) = pieces.next().await {
        count += piece.len();
    }
    Json(count)
}

/// Serves what a client must not put up with; the counter has the requests that came.
pub async fn hostile() -> anyhow::Result<(SocketAddr, Arc<AtomicU64>)> {
    let came = Arc::new(AtomicU64::new(0));
    let inside = Arc::clone(&came);
    let piece = || Ok::<_, Infallible>(Bytes::from(vec![b'x'; 10_000]));
    let router = Router::new()
        .route(
            "/endless",
            get(async move || Body::from_stream(stream::repeat_with(piece))),
        )
        .route(
            "/huge",
            get(async || {
                (
                    [("content-length", "1000000000")],
                    Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()),
                )
            }),
        )
        .route(
            "/drip",
            get(async move || {
                let one = stream::once(async move { piece() });
                Body::from_stream(one.chain(stream::pending()))
            }),
        )
        .route("/silent", get(std::future::pending::<StatusCode>))
        .route("/take", post(counted))
        .route(
            "/headers",
            get(async || {
                let mut headers = HeaderMap::new();
                for number in 0..1_000_u16 {
                    let name = axum::http::HeaderName::try_from(format!("x-{number}"));
                    headers.insert(name.expect("a name"), number.into());
                }
                headers
            }),
        )
        .route(
            "/to",
            get(async |Query(to): Query<Vec<(String, String)>>| {
                let location = to.into_iter().next().unwrap_or_default().1;
                (StatusCode::FOUND, [("location", location)])
            }),
        )
        .layer(axum::middleware::map_request(move |request: Request| {
            inside.fetch_add(1, Ordering::SeqCst);
            std::future::ready(request)
        }));
    Ok((serve(router).await?, came))
}

/// The end of a body whose connection is cut. What was sent before has left by then.
pub fn cut<T>() -> impl Stream<Item = std::io::Result<T>> + Send {
    stream::once(async {
        tokio::task::yield_now().await;
        Err(std::io::Error::other("the connection is cut"))
    })
}

/// Serves these routes.
pub async fn serve(router: Router) -> anyhow::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}
