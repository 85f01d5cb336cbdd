//! Stands in for Secret Manager of Google Cloud and for the metadata server of a machine
//! there, neither of which can be had here. It answers what Google documents of the two
//! requests that the host makes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::sync::watch;

const TOKEN: &str = "stand-in-token";

/// The stand-in; it ends with the runtime.
pub struct SecretManagerStandIn {
    /// Where it listens.
    pub address: SocketAddr,
    secrets: Secrets,
    hanging: watch::Sender<bool>,
}

type Secrets = Arc<Mutex<Option<BTreeMap<String, String>>>>;

impl SecretManagerStandIn {
    /// With no secrets.
    pub async fn start() -> anyhow::Result<Self> {
        let secrets = Secrets::new(Mutex::new(Some(BTreeMap::new())));
        let inside = Arc::clone(&secrets);
        let (hanging, hangs) = watch::channel(false);
        let router = Router::new()
            .route(
                "/computeMetadata/v1/instance/service-accounts/default/token",
                get(token),
            )
            .route(
                "/v1/projects/test-project/secrets/{secret}/versions/{version}",
                get(
                    async move |Path((secret, version)): Path<(String, String)>, headers| {
                        let mut hangs = hangs.clone();
                        // It ends with the stand-in.
                        let _ = hangs.wait_for(|hangs| !*hangs).await;
                        access(&inside, &secret, &version, &headers)
                    },
                ),
            );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self {
            address,
            secrets,
            hanging,
        })
    }

    /// From now on the secret's latest version is this.
    pub fn set(&self, secret: &str, value: &str) {
        let mut secrets = self.secrets.lock().expect("no panic");
        let secrets = secrets.get_or_insert_default();
        secrets.insert(secret.to_owned(), value.to_owned());
    }

    /// From now on, until a secret is set, it answers that it is not available.
    pub fn go_away(&self) {
        *self.secrets.lock().expect("no panic") = None;
    }

    /// From now on it answers nothing about secrets (true), or does again.
    pub fn hang(&self, hangs: bool) {
        self.hanging.send_replace(hangs);
    }

    /// The members of a binding's `gcp`.
    pub fn toml(&self) -> String {
        let address = self.address;
        format!(
            "{{ project = 'test-project', endpoint = 'http://{address}', \
             metadata_endpoint = 'http://{address}', cache_ttl_ms = 0 }}"
        )
    }
}

async fn token(headers: HeaderMap) -> Response {
    if headers
        .get("metadata-flavor")
        .is_none_or(|it| it != "Google")
    {
        return StatusCode::FORBIDDEN.into_response();
    }
    Json(json!({ "access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer" }))
        .into_response()
}

fn access(secrets: &Secrets, secret: &str, version: &str, headers: &HeaderMap) -> Response {
    let refused = |status: StatusCode, word: &str| {
        let error = json!({ "code": status.as_u16(), "status": word, "message": "stand-in" });
        (status, Json(json!({ "error": error }))).into_response()
    };
    let signed = headers.get("authorization");
    if signed.is_none_or(|it| it != format!("Bearer {TOKEN}").as_str()) {
        return refused(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED");
    }
    let secrets = secrets.lock().expect("no panic");
    let Some(secrets) = &*secrets else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE");
    };
    match secrets.get(secret) {
        Some(value) if version == "latest:access" => Json(json!({
            "name": format!("projects/1/secrets/{secret}/versions/1"),
            "payload": { "data": STANDARD.encode(value) },
        }))
        .into_response(),
        _ => refused(StatusCode::NOT_FOUND, "NOT_FOUND"),
    }
}
