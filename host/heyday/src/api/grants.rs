//! `/grants`, `/bindings` and `/audit`: what plugins and flows may reach, who said so, and
//! what was refused.

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{Caller, Json, Query};
use super::pages::{PageQuery, first_of, page, page_size};
use super::problem::Problem;
use super::{App, models};
use crate::registry::types::{
    AuditEntry, AuditFilter, BindingInfo, GrantInfo, GrantRequest, TextFilter,
};
use crate::registry::view::binding;

/// Whose grants.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct GrantsQuery {
    /// Only of this plugin or flow.
    subject: Option<String>,
    /// Rows, 1 to 1,000; 50 where absent.
    page_size: Option<usize>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// A page of grants.
#[derive(Debug, Serialize, ToSchema)]
pub struct GrantsBody {
    /// By subject, capability and binding.
    pub grants: Vec<GrantInfo>,
    /// For the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// List grants
#[utoipa::path(get, path = "/grants", tag = "grants", params(GrantsQuery),
    responses((status = 200, body = GrantsBody)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<GrantsQuery>,
) -> Result<JsonAnswer<GrantsBody>, Problem> {
    let grants = app
        .registry
        .grants(&caller.namespace, query.subject.as_deref());
    let (size, token) = (query.page_size, query.page_token.as_deref());
    let (grants, next_page_token) = page(grants, size, token, |grant| {
        format!("{} {} {}", grant.subject, grant.capability, grant.binding)
    })?;
    Ok(JsonAnswer(GrantsBody {
        grants,
        next_page_token,
    }))
}

/// A grant that was made.
#[derive(Debug, Serialize, ToSchema)]
pub struct GrantAnswer {
    /// The grant.
    #[serde(flatten)]
    pub grant: GrantInfo,
    /// What would fail if it were used now: a model that no worker has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Grant a binding
///
/// The same grant again changes its mode. Where workers run the activities, a model may be
/// granted before any of them has it.
#[utoipa::path(put, path = "/grants", tag = "grants", request_body = GrantRequest,
    responses((status = 200, body = GrantAnswer),
        (status = 400, description = "No such capability, binding or mode", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The binding is of a dialect that the plugin cannot use", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn put(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<GrantRequest>,
) -> Result<JsonAnswer<GrantAnswer>, Problem> {
    let grant = app.registry.put_grant(caller.actor(), body).await?;
    let mut warnings = Vec::new();
    if grant.capability == heyday_capabilities::inference::NAME
        && !models::is_served(&app, &caller.namespace, &grant.binding).await
    {
        warnings.push(format!(
            "no worker that was heard in the last 30 s has the model {}: calls fail as \
             `unknown-binding` until one announces it; `heyday model list` shows who has which",
            grant.binding
        ));
    }
    Ok(JsonAnswer(GrantAnswer { grant, warnings }))
}

/// Which grant.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RevokeQuery {
    /// The plugin or flow.
    subject: String,
    /// The capability.
    capability: String,
    /// The binding; all of the capability where absent.
    binding: Option<String>,
}

/// Take a grant back
///
/// Host calls that are using it end as denied.
#[utoipa::path(delete, path = "/grants", tag = "grants", params(RevokeQuery),
    responses((status = 204, description = "Taken back"),
        (status = 404, description = "No such grant", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<RevokeQuery>,
) -> Result<StatusCode, Problem> {
    app.registry
        .delete_grant(
            caller.actor(),
            &query.subject,
            &query.capability,
            query.binding.as_deref(),
        )
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A page of bindings.
#[derive(Debug, Serialize, ToSchema)]
pub struct BindingsBody {
    /// By capability and name.
    pub bindings: Vec<BindingInfo>,
    /// For the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// List what can be granted
#[utoipa::path(get, path = "/bindings", tag = "grants", params(PageQuery),
    responses((status = 200, body = BindingsBody)))]
pub(super) async fn bindings(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<JsonAnswer<BindingsBody>, Problem> {
    let mut bindings = app.registry.bindings(&caller.namespace);
    let of_workers = models::of_workers(&app, &caller.namespace).await?;
    let inference = heyday_capabilities::inference::NAME;
    let of_workers = of_workers.into_iter();
    bindings.extend(of_workers.map(|name| binding(inference, name, "workers")));
    let (size, token) = (query.page_size, query.page_token.as_deref());
    let (bindings, next_page_token) = page(bindings, size, token, |binding| {
        format!("{} {}", binding.capability, binding.name)
    })?;
    Ok(JsonAnswer(BindingsBody {
        bindings,
        next_page_token,
    }))
}

/// A page of the audit, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditBody {
    /// What was done, and what was refused.
    pub audit: Vec<AuditEntry>,
    /// For the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// Bytes of an action and of a resource that are asked for, at most.
const LONGEST_ACTION: usize = 64;
const LONGEST_RESOURCE: usize = 1_000;

/// Which entries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// Only this action, `grant.put`; `grant.*` is all that begin with `grant.`.
    action: Option<String>,
    /// Only on this resource: `index`; `index*` is all that begin with `index`.
    resource: Option<String>,
    /// Rows, 1 to 1,000; 50 where absent.
    page_size: Option<usize>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

impl AuditQuery {
    fn filter(&self) -> Result<AuditFilter, Problem> {
        let action = self.action.as_deref().map(TextFilter::parse);
        let known = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'.' | b'-' | b'_');
        if let Some(said) = action.as_ref().map(TextFilter::said)
            && !((1..=LONGEST_ACTION).contains(&said.len()) && said.bytes().all(known))
        {
            return Err(Problem::invalid(
                "an action is one such as `grant.put`, or the beginning of several and a `*`, \
                 `grant.*`",
            ));
        }
        let resource = self.resource.as_deref().map(TextFilter::parse);
        if let Some(said) = resource.as_ref().map(TextFilter::said)
            && (!(1..=LONGEST_RESOURCE).contains(&said.len()) || said.contains('\0'))
        {
            return Err(Problem::invalid(format!(
                "a resource is a name of 1 to {LONGEST_RESOURCE} bytes, or the beginning of \
                 several and a `*`"
            )));
        }
        Ok(AuditFilter { action, resource })
    }
}

/// List what was done and what was refused
///
/// Newest first. Changes that operators made, requests for grants and uploads that were
/// refused, and host calls of plugins and flows that were refused (`capability.deny`, once
/// for all of an attempt that were alike, when the attempt has ended).
#[utoipa::path(get, path = "/audit", tag = "grants", params(AuditQuery),
    responses((status = 200, body = AuditBody),
        (status = 400, description = "No such action or page", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn audit(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<AuditQuery>,
) -> Result<JsonAnswer<AuditBody>, Problem> {
    let limit = page_size(query.page_size)?;
    let filter = query.filter()?;
    let before = query
        .page_token
        .map(|token| token.parse())
        .transpose()
        .map_err(|_| Problem::invalid("the page_token is none that a page answered"))?;
    app.recorder.flush().await;
    let audit = app
        .registry
        .audit(&caller.namespace, before, limit + 1, &filter);
    let (audit, next_page_token) = first_of(audit.await?, limit, |entry| entry.id.to_string());
    Ok(JsonAnswer(AuditBody {
        audit,
        next_page_token,
    }))
}
