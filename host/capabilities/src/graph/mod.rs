//! `heyday:graph`: property graphs. openCypher statements pass through with bound
//! parameters.
//!
//! The way of a call: `host.rs` takes the guest's call, looks the connection up and runs
//! the operation of [`Graph`] under the attempt's deadline, cancellation and grants.
//! `check.rs` refuses what no plugin may run, `value.rs` turns JSON into Bolt's values and
//! back, and `bolt` speaks with the server: Neo4j ([`neo4j`]), or a process of this same
//! program with an embedded graph in it ([`embedded`] starts it, `engine` is what it
//! runs), so that whatever a guest's query does to memory or stack, the host is untouched.
//! Both speak the same protocol, so that there is one client, and one set of answers.
//!
//! Dropping the future of an operation resets its connection, at which the server ends the
//! statement and rolls the transaction back: this is how deadline, cancel and revocation
//! reach it. One server belongs to one binding: whatever a query finds there is its own.

pub(crate) mod bolt;
mod check;
mod diagnosis;
pub mod embedded;
pub mod engine;
mod error;
pub(crate) mod host;
pub mod neo4j;
mod session;
mod temporal;
mod value;

use serde::{Deserialize, Serialize};

pub use embedded::EngineCommand;
pub use host::GraphCapability;
pub use host::bindings::heyday::graph::graph::{Changes, RowSet};
pub use session::{Cursor, Graph, Transaction};

use crate::error::{CapabilityError, codes};

codes! {
    /// The codes of `heyday:graph`; see `wit/graph`.
    GraphCode {
        /// Not granted, or what no plugin may do.
        CapabilityDenied = "capability-denied",
        /// Granted but not configured.
        UnknownBinding = "unknown-binding",
        /// Not parsed, planned or evaluated.
        InvalidStatement = "invalid-statement",
        /// Parameters do not fit.
        InvalidParameter = "invalid-parameter",
        /// A constraint was violated.
        Constraint = "constraint",
        /// Lost against another transaction.
        Conflict = "conflict",
        /// Past the statement's limit or the deadline.
        Timeout = "timeout",
        /// The attempt was asked to stop.
        Cancelled = "cancelled",
        /// Over a limit of the binding.
        LimitExceeded = "limit-exceeded",
        /// The database cannot be reached.
        Unavailable = "unavailable",
        /// Committed or rolled back before.
        TransactionClosed = "transaction-closed",
        /// A fault of the host.
        Internal = "internal",
    }
    retryable: Conflict, Unavailable, Timeout
}

/// An error of `heyday:graph`.
pub type GraphError = CapabilityError<GraphCode>;

/// Limits of a binding; each has a safe default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GraphLimits {
    /// Rows of one `query`.
    pub result_rows: u64,
    /// Bytes of one `query`'s rows; also the largest single row.
    pub result_bytes: u64,
    /// Bytes that one attempt may read in all, streams included.
    pub attempt_bytes: u64,
    /// Cursors and transactions that one attempt may hold open together.
    pub open_handles: u32,
    /// How long one statement (of a cursor: one batch) may run, in milliseconds.
    pub statement_timeout_ms: u64,
    /// How long a statement that writes waits for others that do, in milliseconds; of an
    /// embedded graph.
    pub busy_timeout_ms: u64,
    /// Connections for all plugins together.
    pub connections: u32,
    /// Bytes of memory that an embedded graph may take, its data included; 1 GiB where
    /// absent.
    pub memory_bytes: Option<u64>,
}

impl Default for GraphLimits {
    fn default() -> Self {
        Self {
            result_rows: 100_000,
            result_bytes: 16 << 20,
            attempt_bytes: 4 << 30,
            open_handles: 8,
            statement_timeout_ms: 60_000,
            busy_timeout_ms: 30_000,
            connections: 16,
            memory_bytes: None,
        }
    }
}

#[cfg(test)]
mod tests;
