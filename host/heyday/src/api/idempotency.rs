//! `Idempotency-Key` on POSTs that are not starts of runs (the engine keeps those keys
//! in its own transaction).
//!
//! The first answer to a key is kept for 24 hours and given again to the same request;
//! another request under the same key is refused, and so is the same one while the
//! first is still being answered ([`crate::state::replies`] knows of each, here and at other
//! servers). Answers that say "not yet" or "not now" are not kept.

use axum::body::{Body as HttpBody, Bytes};
use axum::extract::{FromRequest as _, FromRequestParts as _, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};

use super::App;
use super::extract::{Body, Caller, IdempotencyKey};
use super::problem::{self, Problem};
use crate::state::replies::Reply;

/// Answers over this many bytes are not kept; none of ours is.
const LARGEST_ANSWER: usize = 1 << 20;

/// The key was used for something else.
#[must_use]
pub(super) fn reused() -> Problem {
    Problem::unprocessable(
        "idempotency-key-reused",
        "The Idempotency-Key was used before",
        "another request was made under this Idempotency-Key within 24 hours; use a new key",
    )
}

fn in_progress() -> Problem {
    Problem::conflict(
        "request-in-progress",
        "The same request is being answered",
        "a request under this Idempotency-Key is still being answered; ask again soon",
    )
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// The layer.
pub(super) async fn keep_answers(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if request.method() != axum::http::Method::POST {
        return Ok(next.run(request).await);
    }
    let (mut parts, body) = request.into_parts();
    let IdempotencyKey(key) = IdempotencyKey::from_request_parts(&mut parts, &app).await?;
    let Some(key) = key else {
        return Ok(next.run(Request::from_parts(parts, body)).await);
    };
    let caller = Caller::from_request_parts(&mut parts, &app).await?;
    let route = parts.uri.path().to_owned();
    let whole = Request::from_parts(parts, body);
    let (parts, body) = whole.into_parts();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    // The limit on the body's size is in the extensions, which the copy needs too.
    let mut for_body = Request::new(body);
    *for_body.extensions_mut() = parts.extensions.clone();
    *for_body.headers_mut() = parts.headers.clone();
    let Body(bytes) = Body::from_request(for_body, &app).await?;
    let request_digest = digest(&[query.as_bytes(), &bytes]);
    let namespace = caller.namespace;
    let Some(claim) = app.state.claim(&namespace, &route, &key).await? else {
        // The key may be taken for a while after its answer is there.
        let known = known(&app, &namespace, &route, &key, request_digest).await?;
        return known.ok_or_else(in_progress);
    };
    let answer = answer(&app, &namespace, &route, &key, request_digest, || {
        next.run(Request::from_parts(parts, HttpBody::from(bytes)))
    });
    let answer = answer.await;
    claim.give_back().await;
    answer
}

/// The answer that the key got before, where it got one.
async fn known(
    app: &App,
    namespace: &str,
    route: &str,
    key: &str,
    request_digest: [u8; 32],
) -> Result<Option<Response>, Problem> {
    match app.state.reply(namespace, route, key).await? {
        Some(reply) if reply.request == request_digest => Ok(Some(again(reply))),
        Some(_) => Err(reused()),
        None => Ok(None),
    }
}

/// The answer that the key got before, or one that is kept from now on.
async fn answer<F: Future<Output = Response>>(
    app: &App,
    namespace: &str,
    route: &str,
    key: &str,
    request_digest: [u8; 32],
    run: impl FnOnce() -> F,
) -> Result<Response, Problem> {
    if let Some(known) = known(app, namespace, route, key, request_digest).await? {
        return Ok(known);
    }
    let answer = run().await;
    if !is_final(answer.status()) {
        return Ok(answer);
    }
    let (parts, body) = answer.into_parts();
    let status = parts.status;
    let body = axum::body::to_bytes(body, LARGEST_ANSWER)
        .await
        .map_err(|error| Problem::internal(&error))?;
    let location = parts.headers.get(header::LOCATION);
    let reply = Reply {
        request: request_digest.to_vec(),
        status: status.as_u16(),
        location: location.and_then(|value| value.to_str().ok().map(str::to_owned)),
        body: body.to_vec(),
    };
    if let Err(error) = app.state.keep_reply(namespace, route, key, &reply).await {
        // The work is done: the answer counts more than its copy.
        tracing::warn!(%error, "the answer to an Idempotency-Key is not kept");
    }
    Ok(Response::from_parts(parts, HttpBody::from(body)))
}

/// Whether the same request would be answered the same later: neither "not yet" nor "not now".
fn is_final(status: StatusCode) -> bool {
    let for_now = [StatusCode::ACCEPTED, StatusCode::TOO_MANY_REQUESTS].contains(&status);
    !for_now && !status.is_server_error()
}

fn again(reply: Reply) -> Response {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::OK);
    let kind = if status.is_client_error() {
        problem::MEDIA_TYPE
    } else {
        "application/json"
    };
    let empty = reply.body.is_empty();
    let mut response = (status, Bytes::from(reply.body)).into_response();
    let headers = response.headers_mut();
    if empty {
        headers.remove(header::CONTENT_TYPE);
    } else {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    if let Some(Ok(location)) = reply.location.map(HeaderValue::try_from) {
        headers.insert(header::LOCATION, location);
    }
    headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
    }

    #[test]
    fn what_is_asked_to_come_again_is_not_given_again() {
        for again in [
            StatusCode::ACCEPTED,
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
        ] {
            assert!(!is_final(again), "{again}");
        }
        for once in [StatusCode::CREATED, StatusCode::CONFLICT] {
            assert!(is_final(once), "{once}");
        }
    }
}
