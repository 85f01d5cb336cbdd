//! `/tokens`: tokens of workers. Each is shown once, when it is made; so no answer here is
//! kept by an Idempotency-Key, and a request that has one is refused: its sender counts on it.

use std::collections::BTreeSet;

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::extract::{Caller, IdempotencyKey, Json, Path, Query};
use super::pages::{PageQuery, page};
use super::problem::Problem;
use crate::names;
use crate::registry::RegistryError;
use crate::state::tokens::TokenRow;
use crate::tokens::MakeError;

/// No name is longer, in characters.
const LONGEST_NAME: usize = 100;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenKind {
    /// A worker.
    Worker,
}

/// A token, without its text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TokenInfo {
    /// Its id.
    pub id: Uuid,
    /// What it is for.
    pub kind: TokenKind,
    /// For a person.
    pub name: String,
    /// The namespaces that it opens; empty where it opens all.
    pub namespaces: BTreeSet<String>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

impl From<TokenRow> for TokenInfo {
    fn from(row: TokenRow) -> Self {
        Self {
            id: row.id,
            kind: TokenKind::Worker,
            name: row.name,
            namespaces: row.namespaces,
            created_at: row.created_at,
        }
    }
}

/// A token that is to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// What it is for.
    pub kind: TokenKind,
    /// For a person, 1 to 100 characters; `worker` where absent.
    #[serde(default = "worker")]
    pub name: String,
    /// The namespaces that it opens; all where it names none.
    #[serde(default)]
    pub namespaces: BTreeSet<String>,
}

fn worker() -> String {
    "worker".to_owned()
}

/// A new token, with its text: it is not shown again.
#[derive(Debug, Serialize, ToSchema)]
pub struct NewToken {
    /// What it is.
    #[serde(flatten)]
    pub info: TokenInfo,
    /// The token.
    pub token: String,
}

/// A page of tokens.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokensBody {
    /// Oldest first.
    pub tokens: Vec<TokenInfo>,
    /// For the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// Make a token for workers
///
/// The answer is the only one that has the token itself.
#[utoipa::path(post, path = "/tokens", tag = "workers", request_body = TokenRequest,
    responses((status = 201, body = NewToken),
        (status = 400, description = "No such kind, a wrong name, or an Idempotency-Key", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    IdempotencyKey(key): IdempotencyKey,
    Json(body): Json<TokenRequest>,
) -> Result<(StatusCode, JsonAnswer<NewToken>), Problem> {
    if key.is_some() {
        return Err(Problem::invalid(
            "a token is made without the header Idempotency-Key: the answer has a secret and is \
             not kept, so it cannot be given again; where it is not known whether a token was \
             made, look its name up in GET /tokens (`heyday token list`), take it back, and make \
             another one",
        ));
    }
    let length = body.name.chars().count();
    if !(1..=LONGEST_NAME).contains(&length) || body.name.chars().any(char::is_control) {
        return Err(Problem::invalid(format!(
            "a token's name has 1 to {LONGEST_NAME} characters, none of them a control character"
        )));
    }
    if let Some(wrong) = body.namespaces.iter().find(|name| !names::is_name(name)) {
        return Err(Problem::invalid(format!(
            "{:?} is no namespace: {}",
            wrong.chars().take(100).collect::<String>(),
            names::NAME_RULE
        )));
    }
    let made = app
        .tokens
        .make(caller.actor(), body.name, body.namespaces)
        .await;
    let (row, token) = made.map_err(|error| match error {
        MakeError::State(error) => RegistryError::from(error).into(),
        MakeError::NoRandomness(_) => Problem::internal(&error),
    })?;
    let info = row.into();
    Ok((StatusCode::CREATED, JsonAnswer(NewToken { info, token })))
}

/// List the tokens of workers
#[utoipa::path(get, path = "/tokens", tag = "workers", params(PageQuery),
    responses((status = 200, body = TokensBody)))]
pub(super) async fn list(
    State(app): State<App>,
    _: Caller,
    Query(query): Query<PageQuery>,
) -> Result<JsonAnswer<TokensBody>, Problem> {
    let (size, token) = (query.page_size, query.page_token.as_deref());
    // Ids of our own begin with the time.
    let name = |token: &TokenRow| token.id.to_string();
    let (tokens, next_page_token) = page(app.tokens.list(), size, token, name)?;
    Ok(JsonAnswer(TokensBody {
        tokens: tokens.into_iter().map(Into::into).collect(),
        next_page_token,
    }))
}

/// Take a token back
///
/// Workers that use it are cut off at once, and take no new tasks when their lease is
/// over.
#[utoipa::path(delete, path = "/tokens/{id}", tag = "workers",
    params(("id" = Uuid, Path, description = "The token's id")),
    responses((status = 204, description = "Taken back"),
        (status = 404, description = "No such token", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, Problem> {
    let revoked = app.tokens.revoke(caller.actor(), id).await;
    if revoked.map_err(RegistryError::from)?.is_none() {
        return Err(Problem::not_found(format!(
            "there is no token {id}; `heyday token list` shows those that there are"
        )));
    }
    Ok(StatusCode::NO_CONTENT)
}
