//! Requests by HTTP to what the plugin was granted: `heyday grant PLUGIN
//! http=METHOD:HOST[/PATH]`. On the wire of components it is `wasi:http`.
//!
//! ```
//! use heyday_sdk::prelude::*;
//!
//! #[derive(Deserialize)]
//! struct Item {
//!     title: String,
//! }
//!
//! fn title(id: u64) -> Result<String> {
//!     let item: Item = http::Request::get(format!("https://api.example.com/items/{id}"))
//!         .header("accept", "application/json")
//!         .send()?
//!         .error_for_status()?
//!         .json()?;
//!     Ok(item.title)
//! }
//!
//! let _test = heyday_sdk::test::Context::new()
//!     .http(|call| {
//!         assert_eq!(call.url, "https://api.example.com/items/7");
//!         Ok(heyday_sdk::test::HttpReply::new(200).json(&serde_json::json!({ "title": "x" })))
//!     })
//!     .enter();
//! assert_eq!(title(7).unwrap(), "x");
//! ```
//!
//! A redirect is an answer: whoever follows it sends another request, which needs a grant as
//! the first did. What can go wrong has one of these codes:
//!
//! | code | when | retryable |
//! |---|---|---|
//! | `capability-denied` | no grant allows the request, or its address is not a public one | no |
//! | `invalid-request` | it is no HTTP request: its URL, its method, a header | no |
//! | `unavailable` | the name has no address, there is no connection, or too many requests to there are under way | yes |
//! | `timeout` | the other side said nothing for too long | yes |
//! | `limit-exceeded` | a body is too large, or too many requests are open | no |
//! | `cancelled` | the attempt was asked to stop | no |
//! | `status` | [`Response::error_for_status`]; `details` have the `status` | 408, 425, 429, 5xx |
//! | `invalid-response` | the body is not what was asked for | no |
//! | `internal` | anything else; the host's log has the cause | no |

mod request;
mod response;
#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests;

pub use request::Request;
pub(crate) use request::{Body, Outgoing};
pub(crate) use response::Answer;
pub use response::Response;

use crate::error::CapabilityError;

/// Why a request has no answer.
///
/// ```
/// use heyday_sdk::http::{Error, Request};
///
/// fn advice(error: &Error) -> String {
///     match error.code.as_str() {
///         "capability-denied" => "grant http=GET:example.com".to_owned(),
///         "unavailable" | "timeout" => "try again later".to_owned(),
///         _ => error.to_string(),
///     }
/// }
/// let error = Request::get("https://example.com/").send().unwrap_err();
/// assert_eq!(advice(&error), "grant http=GET:example.com");
/// ```
pub type Error = CapabilityError;

type Result<T> = std::result::Result<T, Error>;

pub(crate) fn invalid(why: impl Into<String>) -> Error {
    CapabilityError::new("invalid-request", why)
}
