//! Errors as clients see them: problem documents (RFC 9457).
//!
//! A handler answers `Result<_, Problem>`. What a client may know stands in the document;
//! what only the operator may know is logged by [`Problem::internal`] and never leaves
//! the process. The request's id is not known here: [`Problem`] rides in the response's
//! extensions, and the outermost layer ([`super::layers`]) writes the document with it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};

/// The media type of a problem document.
pub const MEDIA_TYPE: &str = "application/problem+json";
/// What every `type` begins with; the rest is stable.
const TYPE_PREFIX: &str = "urn:heyday:problems:";
/// After so many seconds a client may ask again, where the server cannot answer now.
const RETRY_AFTER: &str = "1";

/// One of several errors of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ProblemError {
    /// What is wrong.
    pub message: String,
    /// Where in the request, as JSON pointer (RFC 6901).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// The line in the uploaded text, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The column in that line, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u64>,
    /// What it is about: an import, an activity, a grant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A problem document (RFC 9457). Further members: `request_id` (the server's log has it
/// too), `instance` (the path that was asked for), and some by type, such as `run_id`.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Problem {
    /// What kind of problem it is: `urn:heyday:problems:` and a stable name.
    #[serde(rename = "type", serialize_with = "type_uri")]
    #[schema(value_type = String, example = "urn:heyday:problems:not-found")]
    pub name: &'static str,
    /// The same for every problem of this type.
    pub title: &'static str,
    /// The HTTP status.
    #[serde(serialize_with = "status_code")]
    #[schema(value_type = u16, example = 404)]
    pub status: StatusCode,
    /// What is wrong with this request, and what to do.
    pub detail: String,
    /// Each error, where there may be several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<ProblemError>,
    /// Further members.
    #[serde(flatten)]
    #[schema(additional_properties, value_type = Object)]
    pub further: Map<String, Value>,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form that serde asks for"
)]
fn status_code<S: serde::Serializer>(
    status: &StatusCode,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form that serde asks for"
)]
fn type_uri<S: serde::Serializer>(name: &&'static str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{TYPE_PREFIX}{name}"))
}

impl Problem {
    /// A problem of the stable type `name`.
    #[must_use]
    pub fn new(
        status: StatusCode,
        name: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            name,
            title,
            status,
            detail: detail.into(),
            errors: Vec::new(),
            further: Map::new(),
        }
    }

    /// 400: the request cannot be understood.
    #[must_use]
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid-request",
            "The request is malformed",
            detail,
        )
    }

    /// 401: no token, or a wrong one.
    #[must_use]
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "A valid token is needed",
            detail,
        )
    }

    /// 404: what was named does not exist.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "There is no such thing",
            detail,
        )
    }

    /// 409: it cannot be done in the state that things are in.
    #[must_use]
    pub fn conflict(name: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, name, title, detail)
    }

    /// 413: over a limit on size.
    #[must_use]
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "The request is too large",
            detail,
        )
    }

    /// 422: understood, and refused for what it says.
    #[must_use]
    pub fn unprocessable(
        name: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, name, title, detail)
    }

    /// 503: the same request may succeed later.
    #[must_use]
    pub fn unavailable(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            name,
            "The server cannot do it now",
            detail,
        )
    }

    /// 500: a fault of the server. `cause` goes to the log, under the request's span.
    #[must_use]
    pub fn internal(cause: &(dyn std::fmt::Display + '_)) -> Self {
        tracing::error!(error = %cause, "a request failed by a fault of the server");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The server failed",
            "The server's log has the cause under the request's id.",
        )
    }

    /// The same with errors.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<ProblemError>) -> Self {
        self.errors = errors;
        self
    }

    /// The same with a further member.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.further.insert(member.to_owned(), value.into());
        self
    }

    /// The document as a response, without the rider that the outer layer looks for.
    pub(super) fn render(&self) -> Response {
        // Strings, numbers and maps with string keys cannot fail to be written.
        let body = serde_json::to_vec(self).unwrap_or_default();
        self.respond(MEDIA_TYPE, body)
    }

    /// A response that says it in this body.
    pub(super) fn respond(&self, media_type: &'static str, body: Vec<u8>) -> Response {
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
            }
            _ => {}
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.render();
        response.extensions_mut().insert(self);
        response
    }
}
