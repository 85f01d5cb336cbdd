//! What every request passes on its way in and out.
//!
//! From the outside in: [`describe`] gives it an id and a span, counts it and writes
//! problem documents with that id (below `/v1` OpenAI's errors); `guard` checks `Host`, `Origin` and, where the
//! route needs one, the token.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tracing::Instrument as _;
use uuid::Uuid;

use super::problem::Problem;
use super::{App, openai};
use crate::auth::{self, AuthError};
use crate::metrics::URL_SCHEME;
use crate::telemetry;
use crate::tokens::{self, WorkerToken};

/// The header with the request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Bytes of a path in a span.
const LONGEST_PATH: usize = 512;

/// Gives the request an id and a span, and its problem the id.
pub(super) async fn describe(State(app): State<App>, request: Request, next: Next) -> Response {
    let id = Uuid::now_v7().to_string();
    let begun = Instant::now();
    let method = known_method(request.method());
    let _active = app.metrics.request_began(method);
    let path = request.uri().path().to_owned();
    // The template, not the path: ids in it would make a name of each request.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unknown", |matched| matched.as_str())
        .to_owned();
    let span = tracing::info_span!(
        "request",
        otel.name = %format!("{method} {route}"),
        otel.kind = "server",
        http.request.method = %method,
        http.route = %route,
        url.path = cut(&path),
        url.scheme = URL_SCHEME,
        heyday.request_id = %id,
        http.response.status_code = tracing::field::Empty,
        otel.status_code = tracing::field::Empty,
        error.type = tracing::field::Empty,
    );
    telemetry::set_parent(&span, text(request.headers(), "traceparent"));
    let response = next.run(request).instrument(span.clone()).await;
    let mut response = with_id(response, &id, &path);
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", tracing::field::display(status.as_u16()));
    }
    span.in_scope(|| tracing::debug!(%status, elapsed = ?begun.elapsed(), "answered"));
    app.metrics
        .request(method, &route, status.as_u16(), begun.elapsed());
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// The method, or `_OTHER` as the semantic conventions say: anybody can make up names,
/// and each would be a series of its own.
fn known_method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "CONNECT" => "CONNECT",
        "OPTIONS" => "OPTIONS",
        "TRACE" => "TRACE",
        "PATCH" => "PATCH",
        _ => "_OTHER",
    }
}

/// As much of a path as a span needs.
fn cut(path: &str) -> &str {
    &path[..path.floor_char_boundary(LONGEST_PATH)]
}

/// Makes every error a problem document with the request's id.
fn with_id(mut response: Response, id: &str, path: &str) -> Response {
    let status = response.status();
    let problem = response.extensions_mut().remove::<Problem>();
    let problem = match problem {
        Some(problem) => problem,
        None if !status.is_client_error() && !status.is_server_error() => return response,
        // A kept answer of an Idempotency-Key, which has the id of its own request.
        None if is_problem(response.headers()) => return response,
        // What a library answered on its own.
        None => Problem::new(
            status,
            "refused",
            "The request was refused",
            status.canonical_reason().unwrap_or("refused"),
        ),
    };
    let mut rendered = if openai::error::is_here(path) {
        openai::error::render(&problem)
    } else {
        problem
            .with("request_id", id)
            .with("instance", path)
            .render()
    };
    for (name, value) in response.headers() {
        if name == header::ALLOW || name == header::CONTENT_RANGE {
            rendered.headers_mut().insert(name, value.clone());
        }
    }
    rendered
}

fn is_problem(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .starts_with(super::problem::MEDIA_TYPE.as_bytes())
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Lets in only who may: every route.
pub(super) async fn guard_host(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    app.auth
        .check_host(request.headers(), authority)
        .map_err(refusal)?;
    Ok(next.run(request).await)
}

/// Lets in only who has the operator's token: all routes but `/health`, the documentation,
/// presigned addresses and those of workers.
pub(super) async fn guard_token(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let principal = match app.auth.check_token(request.headers()) {
        Err(AuthError::WrongToken) if worker(&app, request.headers()).is_ok() => {
            return Err(refusal(AuthError::WorkerToken));
        }
        other => other.map_err(refusal)?,
    };
    app.catch_up().await;
    request.extensions_mut().insert(principal);
    Ok(next.run(request).await)
}

/// Lets in only who has a worker's token.
pub(super) async fn guard_worker(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let headers = request.headers();
    // One that was just made, or taken back, at another server.
    if worker(&app, headers).is_ok() || auth::bearer(headers).is_ok_and(tokens::is_one) {
        app.catch_up().await;
    }
    let token = match worker(&app, request.headers()) {
        Err(AuthError::WrongToken) if app.auth.check_token(request.headers()).is_ok() => {
            return Err(refusal(AuthError::OperatorToken));
        }
        other => other.map_err(refusal)?,
    };
    request.extensions_mut().insert(token);
    Ok(next.run(request).await)
}

fn worker(app: &App, headers: &HeaderMap) -> Result<Arc<WorkerToken>, AuthError> {
    let token = auth::bearer(headers)?;
    app.tokens.find(token).ok_or(AuthError::WrongToken)
}

/// Why who asks is not let in.
pub(super) fn refusal(error: AuthError) -> Problem {
    let detail = error.to_string();
    match error {
        AuthError::NoToken | AuthError::WrongToken => Problem::unauthorized(detail),
        AuthError::WorkerToken | AuthError::OperatorToken | AuthError::Namespace(_) => {
            Problem::new(
                StatusCode::FORBIDDEN,
                "forbidden",
                "The token does not open this",
                detail,
            )
        }
        AuthError::Host(_) => Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "unknown-host",
            "The request is meant for another server",
            detail,
        ),
        AuthError::Origin(_) => Problem::new(
            StatusCode::FORBIDDEN,
            "foreign-origin",
            "Pages of other origins are refused",
            detail,
        ),
    }
}

/// A handler's panic: the request fails, the server lives.
pub(super) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    Problem::internal(&format!("a handler panicked: {message}")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use tower::ServiceExt as _;
    use tower_http::catch_panic::CatchPanicLayer;

    #[tokio::test]
    async fn a_panic_is_answered_without_its_message() {
        let handler = async || -> &'static str { panic!("the password is secret") };
        let router = axum::Router::new()
            .route("/", axum::routing::get(handler))
            .layer(CatchPanicLayer::custom(panicked));
        for _ in 0..2 {
            let request = Request::get("/").body(Body::empty()).expect("a request");
            let response = router.clone().oneshot(request).await.expect("never fails");
            let response = with_id(response, "the-id", "/");
            assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
            assert!(is_problem(response.headers()));
            let body = axum::body::to_bytes(response.into_body(), 1 << 20).await;
            let text = String::from_utf8(body.expect("a body").to_vec()).expect("text");
            assert!(text.contains("the-id"), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn made_up_methods_are_one() {
        let method = |name: &str| Method::from_bytes(name.as_bytes()).expect("a method");
        assert_eq!(known_method(&Method::GET), "GET");
        assert_eq!(known_method(&method("get")), "_OTHER");
        assert_eq!(known_method(&method("ANYTHING-ELSE")), "_OTHER");
    }

    #[test]
    fn a_path_is_cut_between_characters() {
        assert_eq!(cut("/short"), "/short");
        let long = format!("/{}", "ä".repeat(LONGEST_PATH));
        assert!(cut(&long).len() <= LONGEST_PATH);
    }
}
