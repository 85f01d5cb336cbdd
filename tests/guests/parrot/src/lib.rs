//! The smallest plugin: one activity that answers its input, and no capability. Benchmarks set it
//! beside an activity of Temporal's SDKs that does as much.
//!
//! Start reading at `echo`: a call is that function's input and output.

use heyday_sdk::prelude::*;
use serde_json::Value;

heyday_sdk::plugin!();

/// Answers its input.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn echo(input: Value) -> Result<Value> {
    Ok(input)
}
