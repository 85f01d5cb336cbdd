//! A small HTTP server of the tests' own, in place of the public hosts that the kit
//! names.

use std::net::SocketAddr;

use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

/// Serves what the kit's scenarios ask of their two hosts; ends with the runtime.
pub async fn pets() -> anyhow::Result<SocketAddr> {
    let router = Router::new()
        .route("/v2/pet/findByStatus", get(find_by_status))
        .route("/v2/pet/{id}", get(pet_by_id))
        .route("/v2/pet/getPetByName/{name}", get(|| async { not_found() }))
        .route("/basic-auth/{username}/{password}", get(basic_auth));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
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
