//! How a run's transitions belong to the trace of the request that started it.
//!
//! An engine makes a `tracing` span of each transition, at the level DEBUG, so that one
//! which nobody records costs no more than a look at a static. What makes a span part
//! of a distributed trace is the host's matter: it gives the engine these two functions.
//! The span continues the `traceparent` that the run was started with, which stands in
//! the history, so that a run goes on in its trace after a restart; attempts continue
//! the span of the transition that started them.

use tracing::Span;

/// What the host does with spans.
#[derive(Debug, Clone, Copy)]
pub struct Traces {
    /// Makes a span the child of the one that a W3C `traceparent` names. Called before
    /// the span is entered.
    pub join: fn(&Span, &str),
    /// A span as W3C trace context; `None` where it is not recorded.
    pub traceparent: fn(&Span) -> Option<String>,
}

impl Default for Traces {
    /// Spans belong to no distributed trace.
    fn default() -> Self {
        Self {
            join: |_, _| (),
            traceparent: |_| None,
        }
    }
}
