//! HTTP on behalf of flows and plugins: deny by default.
//!
//! The way of a call: [`HttpClient::call`] finds the rule of the [`HttpPolicy`] that
//! allows the request, and sends it through one of two clients. The first connects to
//! public addresses only: its resolver drops every other address *before* it connects,
//! so the address that was checked is the one that is used, and a name that changes
//! its answer in between gains nothing. The second is for rules that name an address
//! (`127.0.0.1:8080`) or `localhost`: what was named may be reached. Redirects are
//! followed here, each as a request of its own with the same checks.
//!
//! Plugins have `wasi:http`: `host.rs` links wasmtime's implementation of its types, and
//! sends every request itself, by [`HttpClient`] under the plugin's grants. Each request
//! of a guest is one request here: a redirect is an answer, and where the guest follows it,
//! that is another request with the same checks.
//!
//! Of all attempts of a namespace so many requests at once go to what one rule allows
//! ([`HttpPlaces`]), so that a site that does not answer holds up nothing else.
//!
//! A status is an answer, not an error. [`sse`] reads event streams, ours and others.

mod address;
mod body;
mod client;
mod host;
mod places;
mod policy;
pub mod sse;

pub use address::is_public;
pub use client::{HttpClient, HttpLimits, HttpRequest, HttpResponse, HttpUsage};
pub use host::{HttpCapability, PluginHttpLimits};
pub use places::{HttpPlace, HttpPlaces};
pub use policy::{HttpPolicy, HttpRule, RuleError};

/// Why a request has no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// No rule allows it. Not retryable.
    #[error("not allowed: {0}")]
    Denied(String),
    /// The address is not a public one, and no rule names it. Not retryable.
    #[error("not allowed: {0}")]
    NotPublic(String),
    /// The name has no address.
    #[error("the name {0} cannot be resolved")]
    Dns(String),
    /// No connection, or it was lost.
    #[error("the connection to {0} failed")]
    Connect(String),
    /// As many requests as may be are under way by that rule, or wait.
    #[error("too many requests by the rule {0} are under way: try again")]
    Busy(String),
    /// The limit on time or the deadline came first.
    #[error("no response in time")]
    Timeout,
    /// The response, or the request, has more bytes than allowed.
    #[error("the body has more than {0} bytes")]
    TooLarge(u64),
    /// More redirects than allowed, or one to nowhere.
    #[error("a redirect cannot be followed: {0}")]
    Redirect(String),
    /// It is no HTTP request.
    #[error("invalid request: {0}")]
    InvalidRequest(String),
    /// The caller was asked to stop.
    #[error("the call was cancelled")]
    Cancelled,
}

/// What a request asked for, as the rule that would allow it: `METHOD:HOST[:PORT]`. Neither
/// its path nor its query: they may hold values.
#[must_use]
pub fn asked_for(method: &impl std::fmt::Display, url: &url::Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{method}:{host}:{port}"),
        None => format!("{method}:{host}"),
    }
}

impl HttpError {
    /// A stable name: `denied`, `dns`, `connect`, `busy`, `timeout`, `too-large`, `redirect`,
    /// `invalid-request` or `cancelled`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Denied(_) | Self::NotPublic(_) => "denied",
            Self::Dns(_) => "dns",
            Self::Connect(_) => "connect",
            Self::Busy(_) => "busy",
            Self::Timeout => "timeout",
            Self::TooLarge(_) => "too-large",
            Self::Redirect(_) => "redirect",
            Self::InvalidRequest(_) => "invalid-request",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        matches!(
            self,
            Self::Dns(_) | Self::Connect(_) | Self::Busy(_) | Self::Timeout
        )
    }
}
