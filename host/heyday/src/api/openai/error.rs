//! Errors as OpenAI's clients read them: one object `error`.

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::{BASE, PARAM};
use crate::api::problem::Problem;

/// An error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// What is wrong with this request, and what to do.
    pub message: String,
    /// `invalid_request_error`, `permission_error`, `rate_limit_error` or `server_error`.
    pub r#type: &'static str,
    /// The member of the request that it is about.
    pub param: Option<String>,
    /// What kind of error it is: a stable name.
    pub code: String,
}

/// Whether a path's errors have this form.
pub(in crate::api) fn is_here(path: &str) -> bool {
    path.strip_prefix(BASE)
        .is_some_and(|rest| rest.starts_with('/'))
}

/// What a problem is in OpenAI's words.
pub(super) fn body(problem: &Problem) -> ErrorBody {
    let kind = match problem.status {
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    };
    let code = match problem.name {
        "unauthorized" => "invalid_api_key".to_owned(),
        name => name.replace('-', "_"),
    };
    let param = problem.further.get(PARAM).and_then(|name| name.as_str());
    ErrorBody {
        error: ErrorDetail {
            message: problem.detail.clone(),
            r#type: kind,
            param: param.map(str::to_owned),
            code,
        },
    }
}

/// A problem in that form.
pub(in crate::api) fn render(problem: &Problem) -> Response {
    // Strings cannot fail to be written.
    let body = serde_json::to_vec(&body(problem)).unwrap_or_default();
    problem.respond("application/json", body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_the_base_have_it() {
        for (path, here) in [
            ("/v1/models", true),
            ("/v1/", true),
            ("/v1", false),
            ("/v10/models", false),
            ("/api/v1/models", false),
        ] {
            assert_eq!(is_here(path), here, "{path}");
        }
    }

    #[test]
    fn a_problem_becomes_an_error() {
        let problem = Problem::unauthorized("the request has no token");
        let error = body(&problem).error;
        assert_eq!(
            (error.r#type, &*error.code),
            ("invalid_request_error", "invalid_api_key")
        );
        let problem = Problem::unavailable("device-lost", "x").with(PARAM, "input");
        let error = body(&problem).error;
        assert_eq!(
            (error.r#type, &*error.code, error.param.as_deref()),
            ("server_error", "device_lost", Some("input"))
        );
    }
}
