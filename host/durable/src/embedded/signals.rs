//! Signals that come to a run.
//!
//! A signal is recorded as it comes, whoever listens; the driver has it from the same
//! transition on. How many may wait for somebody to listen is limited here, where the
//! sender can still be told: to the driver a signal is a fact.

use std::sync::Arc;

use tokio::sync::oneshot;
use uuid::Uuid;

use super::convert::signaled;
use super::core::Core;
use super::run::{Answer, Message};
use super::step::Step;
use crate::engine::EngineError;
use crate::signal::Signal;

/// Signals that one run takes in all; Temporal's limit.
const SIGNALS: usize = 10_000;

/// Signals that may wait for a task that listens.
const WAITING: usize = 1_000;

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
    Ok(run.is_some_and(|(_, state)| state.signals.contains(&signal.id)))
}

impl Step<'_> {
    /// A signal came.
    pub fn signaled(&mut self, signal: Signal, answer: Option<Answer>) {
        if self.working.state.signals.contains(&signal.id) {
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
