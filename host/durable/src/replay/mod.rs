//! Replay of recorded histories, away from their runs: does a definition still command
//! what a history says was commanded?
//!
//! The way of a replay:
//!
//! 1. A [`RecordedHistory`] comes from an engine ([`Engine::recorded`]) or from a file
//!    ([`RecordedHistory::parse`]): Temporal's own JSON, or the embedded engine's bytes in
//!    an envelope of JSON.
//! 2. A [`Replayer`] feeds a fresh driver what the history says resolved, and compares
//!    each command with the recorded one. A history of the embedded engine is fed as that
//!    engine rebuilds a run; one of Temporal is fed by core's own replay worker, so that
//!    its rules hold and not a copy of them.
//! 3. The [`ReplayReport`] says that they agree, or where they first differ.
//!
//! Nothing is executed, recorded or sent, and no engine needs to be there. Activations run
//! on threads of the replayer's own, so a long replay delays other replays and no run.
//!
//! [`Engine::recorded`]: crate::engine::Engine::recorded

mod difference;
mod history;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;

pub(crate) use difference::Strictness;
pub use difference::{Difference, RecordedCommand};
pub(crate) use history::Recorded;
pub use history::{About, FORMAT, HistoryError, MAX_BYTES, MAX_EVENTS, RecordedHistory};

use crate::activity::{ActivityTimeouts, RetryPolicy};
use crate::definition::{GENERAL_QUEUE, PinnedActivity, PinnedDefinition};
use crate::embedded::pool::Pool;
use crate::expressions::Expressions;
use crate::payload::{Digest, PayloadStore};
use crate::trouble::Trouble;

/// How a replay ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayReport {
    /// Events of the history.
    pub events: u64,
    /// Where history and definition first differ; `None` where they agree.
    pub difference: Option<Difference>,
}

/// Why a history could not be replayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// History and definition do not belong together.
    #[error("the history is one of {recorded:?}, and the definition is {given:?}")]
    OtherWorkflow {
        /// The workflow type of the history.
        recorded: String,
        /// That of the definition.
        given: String,
    },
    /// It is not a history that this release can replay.
    #[error("{0}")]
    Unusable(String),
    /// It cannot be told just now.
    #[error("{0}")]
    Unavailable(String),
}

impl From<HistoryError> for ReplayError {
    fn from(error: HistoryError) -> Self {
        Self::Unusable(error.to_string())
    }
}

impl From<Trouble> for ReplayError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Later(message) => Self::Unavailable(message),
            Trouble::Hold(message) | Trouble::Gone(message) => Self::Unusable(message),
        }
    }
}

/// Replays histories. A handle, cheap to clone; its threads end with the last one.
#[derive(Clone)]
pub struct Replayer(Arc<Inner>);

struct Inner {
    expressions: Arc<dyn Expressions>,
    payloads: Arc<dyn PayloadStore>,
    pool: Arc<Pool>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.pool.stop();
    }
}

impl std::fmt::Debug for Replayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replayer").finish_non_exhaustive()
    }
}

impl Replayer {
    /// A replayer with so many threads.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn new(
        expressions: Arc<dyn Expressions>,
        payloads: Arc<dyn PayloadStore>,
        threads: usize,
    ) -> std::io::Result<Self> {
        Ok(Self(Arc::new(Inner {
            expressions,
            payloads,
            pool: Pool::start(threads, Arc::default())?,
        })))
    }

    /// Replays a history against a definition. What the run was pinned to stays; what only
    /// another definition calls is as that is pinned, or as it is called where it is not.
    ///
    /// `exact` compares values too: inputs, queues, timeouts, durations, results. Without
    /// it, what counts is which commands come in which order. A history and the very
    /// definition that it names are compared bit for bit where `exact`.
    ///
    /// Must be called on a multi-threaded tokio runtime. Where the answer is not waited
    /// for, the replay ends at its next activation.
    ///
    /// # Errors
    /// As [`ReplayError`] says; a difference is none.
    pub async fn replay(
        &self,
        history: &RecordedHistory,
        definition: &PinnedDefinition,
        exact: bool,
    ) -> Result<ReplayReport, ReplayError> {
        let about = history.about();
        if about.workflow_type != definition.workflow_type {
            return Err(ReplayError::OtherWorkflow {
                recorded: about.workflow_type,
                given: definition.workflow_type.clone(),
            });
        }
        let strictness = match (exact, about.digest == Some(definition.digest)) {
            (false, _) => Strictness::Commands,
            (true, true) => Strictness::Bits,
            (true, false) => Strictness::Values,
        };
        let payloads: Arc<dyn PayloadStore> = Arc::new(values::Beside {
            values: Arc::clone(&history.values),
            store: Arc::clone(&self.0.payloads),
        });
        let difference = match &history.recorded {
            Recorded::Embedded(recording) => {
                let (inner, recording) = (Arc::clone(&self.0), Arc::clone(recording));
                let definition = definition.clone();
                let runtime = tokio::runtime::Handle::current();
                self.on_thread(move |stopped| {
                    crate::embedded::replay::replay(
                        &recording,
                        &definition,
                        strictness,
                        &inner.expressions,
                        payloads.as_ref(),
                        &runtime,
                        stopped,
                    )
                })
                .await??
            }
            Recorded::Temporal(recording) => {
                let inner = &self.0;
                crate::temporal::replay::replay(
                    recording,
                    definition,
                    strictness,
                    &inner.expressions,
                    &payloads,
                    &inner.pool,
                )
                .await?
            }
        };
        Ok(ReplayReport {
            events: about.events,
            difference,
        })
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> Result<T, ReplayError> {
        let stop = StopOnDrop::default();
        let stopped = Arc::clone(&stop.0);
        let (answer, answered) = oneshot::channel();
        self.0.pool.push(Box::new(move || {
            // Whoever waits for it may have given up.
            let _ = answer.send(work(&stopped));
        }));
        answered
            .await
            .map_err(|_| ReplayError::Unavailable("the server is stopping".to_owned()))
    }
}

/// Tells a job that nobody waits for it any more.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a run that was pinned so to the definition of that digest is pinned to under this
/// one. Under the same, to the same. Under another, what both call is as it was; what only
/// the other calls is as that is pinned; and what no plugin has is named all the same, so
/// that the flow is compared and not what happens to be here.
pub(crate) fn pinned_again(
    digest: Digest,
    recorded: BTreeMap<String, PinnedActivity>,
    definition: &PinnedDefinition,
) -> PinnedDefinition {
    let activities = if digest == definition.digest {
        recorded
    } else {
        let mut activities = (*definition.activities).clone();
        activities.extend(recorded);
        for call in definition.flow.activities() {
            activities
                .entry(call.name.clone())
                .or_insert_with(|| PinnedActivity {
                    activity_type: call.activity_type.clone(),
                    version: call.version.clone(),
                    digest: None,
                    queue: GENERAL_QUEUE.to_owned(),
                    timeouts: ActivityTimeouts::default(),
                    retry: RetryPolicy::default(),
                });
        }
        activities
    };
    PinnedDefinition {
        activities: Arc::new(activities),
        ..definition.clone()
    }
}

#[cfg(test)]
mod tests;
