//! What the integration tests do to the host from inside: well-behaved activities, hostile
//! ones, and contracts of the capabilities, which assert here and answer or fail.
//!
//! The way of a call: a test grants what the activity needs, starts it by its name, and looks
//! at its answer, or at the failure, log lines and receipt that are left of it. A contract asks
//! one binding after another for what its WIT promises, and fails at the first that is
//! otherwise (`ensure`, `ensure_code`).
//!
//! Start reading at `ordinary`; of contracts, at `kv_contract`.

mod blob_contract;
mod graph_contract;
mod graph_cypher;
mod hostile;
mod kv_contract;
mod ordinary;
mod outside;
mod sql_contract;
mod timed;
mod vector_contract;

use heyday_sdk::prelude::*;

/// Fails with the kind `contract` where the host did otherwise than its WIT says.
fn ensure(holds: bool, what: impl std::fmt::Display) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::permanent("contract", what.to_string()))
}

/// Fails unless the call failed with that code.
fn ensure_code<T>(
    answer: std::result::Result<T, heyday_sdk::CapabilityError>,
    code: &str,
    what: &str,
) -> Result<heyday_sdk::CapabilityError> {
    match answer {
        Ok(_) => Err(Error::permanent(
            "contract",
            format!("{what} was answered; expected {code}"),
        )),
        Err(error) if error.is(code) => Ok(error),
        Err(error) => Err(Error::permanent(
            "contract",
            format!("{what}: expected {code}, not {error}"),
        )),
    }
}

/// Loses the attempt between its effect and its answer, as often; or spins there on the
/// first one, for the test to kill the server.
fn lose(lost: u32, hang: bool) -> Result<()> {
    if context::attempt() <= lost {
        return Err(Error::retryable("lost", "between effect and answer"));
    }
    if hang && context::attempt() == 1 {
        log::info!("committed");
        loop {
            std::hint::black_box(());
        }
    }
    Ok(())
}

#[derive(Deserialize, JsonSchema)]
struct Once {
    binding: String,
    /// Fail as often between effect and answer, as an attempt that was lost would.
    #[serde(default)]
    lost: u32,
    /// Spin there instead, for the test to kill the server.
    #[serde(default)]
    hang: bool,
}

heyday_sdk::plugin!();
