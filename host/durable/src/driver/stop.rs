//! Why a task stops without an output.

use serde_json::json;

use super::data::{DataLimit, MAX_DEPTH};
use super::port::Cancelled;
use super::resume::Left;
use crate::failure::{Failure, kind};
use crate::flow::error::Fault;
use crate::payload::FOREIGN_LIMIT;

/// Why a task stops without an output.
#[derive(Debug)]
pub(super) enum Stop {
    /// An error of the DSL; a `try` may catch it.
    Fault(Box<Fault>),
    /// The run fails at once; nothing catches it.
    Fatal(Box<Failure>),
    /// The evaluator could not run; the activation is given up.
    Unavailable(String),
    /// The run ends here, and another one goes on.
    Continue(Box<Left>),
}

impl Stop {
    /// Whether nothing in the flow stands in its way.
    pub(super) const fn is_final(&self) -> bool {
        !matches!(self, Self::Fault(_))
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Fatal(Box::new(failure))
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(Box::new(fault))
    }
}

impl Cancelled {
    /// The error at the task that waited.
    pub(super) fn at(self, reference: &str) -> Stop {
        Fault::cancelled(self.0).at(reference).into()
    }
}

/// A limit of the run that was passed.
pub(super) fn limit(name: &str, reference: &str, message: String) -> Stop {
    Stop::Fatal(Box::new(limit_failure(name, reference, message)))
}

/// How a run fails that passed a limit.
pub(super) fn limit_failure(name: &str, reference: &str, message: String) -> Failure {
    Failure::permanent(kind::LIMIT_EXCEEDED, message)
        .with_details(json!({ "limit": name, "task": reference }))
}

/// The limit on data, or on how deep it nests.
pub(super) fn data_limit(passed: DataLimit, reference: &str) -> Stop {
    match passed {
        DataLimit::Bytes { held, limit: bytes } => limit(
            "data_bytes",
            reference,
            format!(
                "at {reference}, the run would hold {held} bytes of data, more than the {bytes} allowed; write large values to a blob and pass their keys"
            ),
        ),
        DataLimit::Depth => limit(
            "data_depth",
            reference,
            format!("at {reference}, a value nests deeper than {MAX_DEPTH} levels"),
        ),
    }
}

/// A failure that fits a history: what is over the limit on inline data is left out.
pub(super) fn bounded(failure: Failure) -> Failure {
    let size = serde_json::to_vec(&failure).map_or(usize::MAX, |text| text.len());
    if size <= FOREIGN_LIMIT {
        return failure;
    }
    let cut = |text: &str| text.chars().take(1_000).collect::<String>();
    Failure::permanent(cut(&failure.kind), cut(&failure.message)).with_details(json!({
        "omitted": format!("the error has {size} bytes, more than the {FOREIGN_LIMIT} allowed"),
    }))
}
