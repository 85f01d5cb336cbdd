//! What the integration tests read and reach outside: settings, secrets and the web. The contracts
//! assert here and answer or fail; they run natively too, against the SDK's stand-ins.
//!
//! The way of a call: an activity opens the binding, or asks the address, that its input names
//! and the test granted, and answers what came of it. Start reading at `settings`, whose
//! contracts are the shortest; `web` has those of HTTP.

mod settings;
mod timed;
mod web;

use heyday_sdk::prelude::*;

/// Fails with the kind `contract` where the host did otherwise than its WIT says.
fn ensure(holds: bool, what: impl std::fmt::Display) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::permanent("contract", what.to_string()))
}

fn ensure_code<T>(
    answer: std::result::Result<T, heyday_sdk::CapabilityError>,
    code: &str,
    what: &str,
) -> Result<heyday_sdk::CapabilityError> {
    match answer {
        Err(error) if error.is(code) => Ok(error),
        Err(error) => Err(Error::permanent(
            "contract",
            format!("{what}: expected {code}, not {error}"),
        )),
        Ok(_) => Err(Error::permanent(
            "contract",
            format!("{what} was answered; expected {code}"),
        )),
    }
}

heyday_sdk::plugin!();
