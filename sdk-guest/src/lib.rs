//! Write Heyday plugins: typed Rust functions that become durable activities.
//!
//! Start reading at [`macro@activity`]; of how the SDK works, at `activity::call`.
//!
//! An activity is a function with a doc comment and one attribute. Its input and output are
//! types that derive serde's and schemars' traits; `?` makes a failure of any error; a
//! `plugin!()` at the end of the crate exports every activity in it.
//!
//! ```
//! use heyday_sdk::prelude::*;
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Greet {
//!     name: String,
//! }
//!
//! #[derive(Serialize, JsonSchema)]
//! struct Greeting {
//!     text: String,
//! }
//!
//! /// Greets a person.
//! #[activity(queue = "general-queue", start_to_close = "30s", retry(maximum_attempts = 3))]
//! fn greet(input: Greet) -> Result<Greeting> {
//!     Ok(Greeting { text: format!("Hello {}", input.name) })
//! }
//!
//! heyday_sdk::plugin!();
//!
//! # fn main() {
//! // The function stays what it was, so that a unit test calls it.
//! assert_eq!(greet(Greet { name: "Ada".into() }).unwrap().text, "Hello Ada");
//! # }
//! ```
//!
//! The plugin's name, version and documentation are `name`, `version` and `description` of
//! its Cargo.toml, which also needs `crate-type = ["cdylib"]` and the crates `serde` and
//! `schemars`, whose derives name them. `heyday plugin new` writes all of it.
//!
//! | what | where |
//! |---|---|
//! | the attribute and its arguments | [`macro@activity`] |
//! | failing with a kind that a workflow can catch | [`Error`] |
//! | attempt, deadline, cancellation, heartbeat, progress | [`context`] |
//! | log lines | [`log`] |
//! | files and objects | [`blob`] |
//! | small values under keys | [`kv`] |
//! | items found by vectors and words | [`vector`] |
//! | databases | [`sql`] |
//! | settings | [`config`] |
//! | passwords, keys, tokens | [`secrets`] |
//! | requests by HTTP | [`http`] |
//! | property graphs | [`graph`] |
//! | embeddings, scores and text by models | [`inference`] |
//! | unit tests with plain `cargo test` | [`mod@test`] |
//!
//! *How a call flows:* the host calls the exported `run` with an activity's name and JSON;
//! `activity::call` finds the function, reads its input, calls it and writes what it
//! answers; a capability's handle calls the host through `host`. The generated bindings are
//! hidden in `bindings`.

// What the macros write names this crate, also inside it.
#[allow(unused_extern_crates)]
extern crate self as heyday_sdk;

mod activity;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod bindings;
pub mod blob;
pub mod config;
pub mod context;
mod error;
pub mod graph;
mod host;
pub mod http;
pub mod inference;
pub mod kv;
pub mod log;
pub mod secrets;
pub mod sql;
#[cfg(not(target_arch = "wasm32"))]
pub mod test;
pub mod vector;

pub use activity::{Outcome, Plugin};
pub use error::{CapabilityError, Error, Result};
/// Registers a function, which [`plugin!`] exports:
///
/// ```
/// use heyday_sdk::prelude::*;
///
/// /// Halves a number.
/// #[activity(name = "halve", start_to_close = "10s", retry(maximum_attempts = 2))]
/// fn half(number: u32) -> Result<u32> {
///     if number % 2 == 1 {
///         return Err(Error::permanent("odd-number", format!("{number} has no half")));
///     }
///     Ok(number / 2)
/// }
/// assert_eq!(half(8).unwrap(), 4);
/// assert_eq!(half(7).unwrap_err().kind(), "odd-number");
/// ```
pub use heyday_sdk_macros::activity;

/// What most plugins use.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new().config("default", [("name", "Ada")]).enter();
/// use heyday_sdk::prelude::*;
///
/// fn name() -> Result<Option<String>> {
///     Ok(config::Config::open("default")?.get("name")?)
/// }
/// assert_eq!(name()?.as_deref(), Some("Ada"));
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
pub mod prelude {
    pub use crate::{
        Error, Result, activity, blob, config, context, graph, http, inference, kv, log, params,
        secrets, sql, vector,
    };
    pub use schemars::JsonSchema;
    pub use serde::{Deserialize, Serialize};
}

/// Exports every [`macro@activity`] of the crate. Stands once, in `lib.rs`, and makes a type
/// `HeydayPlugin` there that implements [`Plugin`].
///
/// ```
/// use heyday_sdk::{Plugin as _, prelude::*};
///
/// #[activity]
/// fn count_on(number: i64) -> Result<i64> {
///     Ok(number + 1)
/// }
///
/// heyday_sdk::plugin!();
///
/// # fn main() {
/// assert_eq!(HeydayPlugin::run("count_on", "41").unwrap(), "42");
/// # }
/// ```
///
/// `requires` names the dialects that the plugin can use, as [`sql::Connection::dialect`] and
/// [`graph::Connection::dialect`] answer them: a grant of another one is refused. Without
/// it the plugin may be granted any.
///
/// ```
/// # use heyday_sdk::{Plugin as _, activity};
/// # #[activity]
/// # fn ping() {}
/// heyday_sdk::plugin!(requires(sql = "postgresql", graph = ["kglite", "neo4j"]));
/// # fn main() {
/// assert!(HeydayPlugin::describe().contains("postgresql"));
/// # }
/// ```
#[macro_export]
macro_rules! plugin {
    ($($options:tt)*) => {
        /// What this crate exports to Heyday.
        pub struct HeydayPlugin;

        const _: () = ::core::assert!(
            $crate::__private::is_plugin_name(::core::env!("CARGO_PKG_NAME")),
            "the package's name in Cargo.toml is the plugin's: it begins with a-z and has at \
             most 63 characters of a-z, 0-9 and -"
        );

        impl $crate::Plugin for HeydayPlugin {
            fn describe() -> ::std::string::String {
                $crate::__private::describe(
                    ::core::env!("CARGO_PKG_NAME"),
                    ::core::env!("CARGO_PKG_VERSION"),
                    ::core::env!("CARGO_PKG_DESCRIPTION"),
                    $crate::__private::plugin_options!($($options)*),
                )
            }

            fn run(
                activity: &str,
                input: &str,
            ) -> ::core::result::Result<::std::string::String, $crate::Error> {
                $crate::__private::call(activity, input)
            }
        }

        #[cfg(target_arch = "wasm32")]
        $crate::__private::export!(HeydayPlugin);
    };
}

/// For what the macros expand to; not part of the API.
#[doc(hidden)]
pub mod __private {
    pub use heyday_sdk_macros::plugin_options;
    pub use inventory;
    pub use schemars::Schema;
    pub use serde_json::{Map, to_value};

    pub use crate::activity::{
        Registered, call, describe, input_schema, is_plugin_name, no_input_schema, output_schema,
        run, run_without_input,
    };

    #[cfg(target_arch = "wasm32")]
    pub use crate::bindings::{self, plugin::export};
    #[cfg(target_arch = "wasm32")]
    pub use wit_bindgen;
}
