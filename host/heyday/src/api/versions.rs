//! What `/plugins` and `/flows` have in common: immutable versions, one of them active.
//!
//! [`version_handlers!`] makes the handlers of one kind with their documentation, which
//! is read from annotations and therefore wants each handler written out; what differs
//! is what one version looks like. It is used in modules that import what they all use.
//! Uploads, the bytes of a version and what makes one active are with the kind.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::registry::Kind;

/// Which version new runs should use.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActivateBody {
    /// The version.
    pub version: String,
    /// Although grants are missing; what lacks one is denied when called. A flow never
    /// needs it.
    #[serde(default)]
    pub allow_missing: bool,
}

/// The answer to an upload that became a version.
pub(super) fn created(
    kind: Kind,
    name: &str,
    version: &semver::Version,
    body: &impl Serialize,
) -> Response {
    let location = format!("/api/v1/{}/{name}/versions/{version}", kind.segment());
    let headers = [(header::LOCATION, location)];
    (StatusCode::CREATED, headers, Json(body)).into_response()
}

/// For members that are `true` where absent.
pub(super) const fn yes() -> bool {
    true
}

/// The handlers of one kind: its resource, what one is called, what a version of it
/// looks like, and what a page of them is called.
macro_rules! version_handlers {
    ($rows:ident, $one:literal, $version:ident, $page:ident) => {
        /// A page, by name.
        #[derive(Debug, Serialize, ToSchema)]
        pub struct $page {
            /// The rows.
            pub $rows: Vec<NameSummary>,
            /// For the next page; absent at the end.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub next_page_token: Option<String>,
        }

        #[utoipa::path(get, path = concat!("/", stringify!($rows)), tag = stringify!($rows),
            summary = concat!("List ", stringify!($rows)),
            params(PageQuery),
            responses((status = 200, body = $page)))]
        pub(super) async fn list(
            State(app): State<App>,
            caller: Caller,
            Query(query): Query<PageQuery>,
        ) -> Result<JsonAnswer<$page>, Problem> {
            let limit = page_size(query.page_size)?;
            let kind = <$version as VersionView>::KIND;
            let after = query.page_token.as_deref();
            let page = app.registry.list(kind, &caller.namespace, after, limit);
            Ok(JsonAnswer($page {
                $rows: page.rows,
                next_page_token: page.next,
            }))
        }

        #[utoipa::path(get, path = concat!("/", stringify!($rows), "/{name}"), tag = stringify!($rows),
            summary = concat!("Show a ", $one, " with its versions"),
            description = "Its versions come page by page, newest upload first.",
            params(PageQuery, ("name" = String, Path, description = concat!("The ", $one))),
            responses((status = 200, body = Versions),
                (status = 400, description = "A malformed page token", body = Problem, content_type = "application/problem+json"),
                (status = 404, description = concat!("No such ", $one), body = Problem, content_type = "application/problem+json")))]
        pub(super) async fn show(
            State(app): State<App>,
            caller: Caller,
            Path(name): Path<String>,
            Query(query): Query<PageQuery>,
        ) -> Result<JsonAnswer<Versions>, Problem> {
            let limit = page_size(query.page_size)?;
            let kind = <$version as VersionView>::KIND;
            let after = query.page_token.as_deref();
            let versions = app
                .registry
                .versions(kind, &caller.namespace, &name, after, limit)?;
            Ok(JsonAnswer(versions))
        }

        #[utoipa::path(get, path = concat!("/", stringify!($rows), "/{name}/versions/{version}"), tag = stringify!($rows),
            summary = concat!("Show a version of a ", $one),
            params(("name" = String, Path, description = concat!("The ", $one)), ("version" = String, Path, description = "The version")),
            responses((status = 200, body = $version),
                (status = 404, description = "No such version", body = Problem, content_type = "application/problem+json")))]
        pub(super) async fn version(
            State(app): State<App>,
            caller: Caller,
            Path((name, version)): Path<(String, String)>,
        ) -> Result<JsonAnswer<$version>, Problem> {
            let version = app.registry.version(&caller.namespace, &name, &version)?;
            Ok(JsonAnswer(version))
        }

        #[utoipa::path(delete, path = concat!("/", stringify!($rows), "/{name}/versions/{version}"), tag = stringify!($rows),
            summary = "Remove a version",
            description = "Refused while an open run needs it, or it is active and not the only version.",
            params(("name" = String, Path, description = concat!("The ", $one)), ("version" = String, Path, description = "The version")),
            responses((status = 204, description = "Removed"),
                (status = 404, description = "No such version", body = Problem, content_type = "application/problem+json"),
                (status = 409, description = "It is needed", body = Problem, content_type = "application/problem+json")))]
        pub(super) async fn remove(
            State(app): State<App>,
            caller: Caller,
            Path((name, version)): Path<(String, String)>,
        ) -> Result<StatusCode, Problem> {
            let kind = <$version as VersionView>::KIND;
            let engine = std::sync::Arc::clone(&app.engine);
            app.registry
                .remove(kind, caller.actor(), &name, &version, engine)
                .await?;
            app.follow(kind, &caller.namespace, &name).await;
            Ok(StatusCode::NO_CONTENT)
        }
    };
}
pub(super) use version_handlers;
