//! What one call of a guest may use.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limits of one call. The defaults are safe for a plugin nobody has looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of all linear memories of the instance together.
    pub memory_bytes: usize,
    /// Elements of all tables of the instance together.
    pub table_elements: usize,
    /// Bytes of the answer (the JSON text, or the failure's texts together).
    pub output_bytes: usize,
    /// Bytes of log lines, each with [`LOG_LINE_BYTES`](Self::LOG_LINE_BYTES) more; further
    /// lines are dropped.
    pub log_bytes: usize,
    /// Calls of functions of Heyday's interfaces, and requests by `wasi:http`.
    ///
    /// Other calls of WASI are not counted, and need not be: nothing outside is behind them.
    /// They take the call's own time and end with it; what a guest gets from them lies in its
    /// own memory, it holds at most 10,000 resources at once, and hands over at most 65 MiB at
    /// once, or as much as its answer may have. What it prints are log lines.
    pub host_calls: u64,
    /// How long a call may take once it has its slot, in milliseconds, whatever deadline its
    /// caller gives it: a plugin names its own timeouts, and may name years.
    pub time_ms: u64,
    /// How long a guest may go on after it was asked to stop, in milliseconds.
    pub cancel_grace_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            table_elements: 100_000,
            output_bytes: 16 << 20,
            log_bytes: 1 << 20,
            host_calls: 1_000_000,
            time_ms: 24 * 60 * 60 * 1_000,
            cancel_grace_ms: 5_000,
        }
    }
}

impl Limits {
    /// What a log line counts of [`log_bytes`](Self::log_bytes) besides its text, in bytes:
    /// about what its row takes. The lines of all attempts wait together to be written, up to
    /// a number of them: without this, a flood of empty ones would cost others theirs.
    pub const LOG_LINE_BYTES: usize = 128;

    /// [`cancel_grace_ms`](Self::cancel_grace_ms) as a duration.
    #[must_use]
    pub const fn cancel_grace(&self) -> Duration {
        Duration::from_millis(self.cancel_grace_ms)
    }
}
