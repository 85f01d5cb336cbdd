//! Signals that come to a run.
//!
//! A signal is recorded as it comes, whoever listens; the driver has it from the same
//! transition on. How many may wait for somebody to listen is limited here, where the
//! sender can still be told: to the driver a signal is a fact.
//!
//! A signal to another run is sent after it was recorded here, until the other run has it
//! or cannot; after a crash it is sent again, and the other run knows its key.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use uuid::Uuid;

use super::convert::{external_of, signaled};
use super::core::Core;
use super::events::{Event, EventType};
use super::run::{Answer, Message, RunCell};
use super::step::Step;
use super::store::unreadable;
use crate::engine::EngineError;
use crate::failure::{Failure, kind};
use crate::signal::Signal;

/// Signals that one run takes in all; Temporal's limit.
pub const SIGNALS: usize = 10_000;

/// Signals that may wait for a task that listens.
const WAITING: usize = 1_000;

/// Sends a signal to another run, and tells the one that sends it.
pub fn send(core: &Arc<Core>, cell: &Arc<RunCell>, initiated: Event) {
    let core = Arc::clone(core);
    let cell = Arc::clone(cell);
    let runtime = core.runtime.clone();
    runtime.spawn(async move {
        let outcome = loop {
            match try_send(&core, &cell.beginning.namespace, &initiated).await {
                Ok(outcome) => break outcome,
                Err(EngineError::ShuttingDown) => return,
                Err(error) => {
                    tracing::warn!(run_id = %cell.run_id, %error, "a signal cannot be sent; trying again");
                }
            }
            tokio::select! {
                () = core.clock.sleep_until(core.after(Duration::from_secs(1))) => {}
                () = core.dead.cancelled() => return,
            }
        };
        core.post(
            cell.run_id,
            Message::ExternalSignaled {
                signal_id: initiated.id,
                outcome,
            },
        );
    });
}

/// `Err` where another try may do it.
async fn try_send(
    core: &Arc<Core>,
    namespace: &str,
    initiated: &Event,
) -> Result<Result<(), Failure>, EngineError> {
    let workflow_id = &initiated.workflow_id;
    let nobody = || {
        let message = format!("no run of workflow {workflow_id:?} is open");
        Ok(Err(Failure::permanent(kind::UNKNOWN_WORKFLOW, message)))
    };
    let latest = async || {
        let latest = core.store.latest(namespace, workflow_id).await;
        latest.map_err(unreadable)
    };
    let Some(mut run_id) = latest().await? else {
        return nobody();
    };
    let delivered = loop {
        match deliver(core, run_id, &external_of(initiated)).await {
            // It may have gone on as a new run just now.
            Ok(false) => match latest().await? {
                Some(now) if now != run_id => run_id = now,
                _ => return nobody(),
            },
            delivered => break delivered,
        }
    };
    match delivered {
        Ok(_) => Ok(Ok(())),
        Err(EngineError::LimitReached(message)) => {
            let message = format!("workflow {workflow_id:?}: {message}");
            Ok(Err(Failure::permanent(kind::LIMIT_EXCEEDED, message)))
        }
        Err(error) => Err(error),
    }
}

/// Gives an open run a signal. Answers whether the run has it; not where it ended before.
pub async fn deliver(core: &Arc<Core>, run_id: Uuid, signal: &Signal) -> Result<bool, EngineError> {
    let (answer, answered) = oneshot::channel();
    let message = Message::Signal {
        signal: Box::new(signal.clone()),
        answer: Some(answer),
    };
    let taken = match core.send(run_id, message).await? {
        Err(_) => false,
        Ok(()) => match answered.await {
            Ok(Ok(())) => true,
            Ok(Err(EngineError::Closed { .. })) => false,
            Ok(Err(error)) => return Err(error),
            Err(_) if core.is_draining() => return Err(EngineError::ShuttingDown),
            Err(_) => false,
        },
    };
    if taken {
        return Ok(true);
    }
    // One that has ended may have had it.
    let run = core.fold(run_id).await?;
    Ok(run.is_some_and(|(_, state)| state.signals.contains(&signal.key())))
}

impl Step<'_> {
    /// A signal reached another run, or could not.
    pub fn external_signaled(&mut self, signal_id: &str, outcome: Result<(), Failure>) {
        if !self.working.state.externals.contains_key(signal_id) {
            return;
        }
        let event = match outcome {
            Ok(()) => Event::new(
                EventType::ExternalWorkflowExecutionSignaled,
                self.now,
                signal_id,
            ),
            Err(failure) => Event {
                failure: Some(failure.into()),
                ..Event::new(
                    EventType::SignalExternalWorkflowExecutionFailed,
                    self.now,
                    signal_id,
                )
            },
        };
        self.record(event);
    }

    /// A signal came.
    pub fn signaled(&mut self, signal: Signal, answer: Option<Answer>) {
        if self.working.state.signals.contains(&signal.key()) {
            self.effects.answers.extend(answer);
            return;
        }
        if let Some(message) = self.too_much(&signal) {
            if let Some(answer) = answer {
                // Somebody who no longer waits needs no answer.
                let _ = answer.send(Err(EngineError::LimitReached(message)));
            }
            return;
        }
        self.effects.answers.extend(answer);
        let event = signaled(signal, self.now);
        self.record(event);
    }

    /// Why the run takes no more signals.
    fn too_much(&self, signal: &Signal) -> Option<String> {
        let state = &self.working.state;
        if state.signals.len() >= SIGNALS {
            return Some(format!(
                "the run has had {SIGNALS} signals, and takes no more; start another one"
            ));
        }
        if state.waiting_signals.len() >= WAITING {
            return Some(format!(
                "{WAITING} signals wait for the run to listen for them, and it takes no more; send it when they are read"
            ));
        }
        // Half of what the run may hold, so that there is room for what it does with them.
        let limit = self.cell.beginning.stored().data_bytes / 2;
        let waiting: u64 = state
            .waiting_signals
            .iter()
            .map(|waiting| waiting.size)
            .sum();
        (waiting + signal.size() > limit).then(|| {
            format!(
                "signals of {waiting} bytes wait for the run to listen for them, and it takes {limit} at most; send it when they are read"
            )
        })
    }
}
