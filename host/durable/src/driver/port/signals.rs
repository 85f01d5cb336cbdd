//! Signals and updates in the port: where they wait, who listens, and what is sent to
//! other runs.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Inner, Keys, Port, Random, Refused, WaitingSignal};
use crate::driver::command::{Command, Listening, SignalExternal};
use crate::driver::data::Held;
use crate::driver::resume::Resumed;
use crate::failure::Failure;
use crate::payload::Payload;

/// A signal that nobody has taken yet.
#[derive(Debug, Clone)]
pub(in crate::driver) struct Arrived {
    /// Counted from 1.
    pub(in crate::driver) number: u64,
    /// The signal's key.
    id: String,
    /// The whole event.
    pub(in crate::driver) event: Held,
    /// Its id, where it is an update.
    pub(in crate::driver) update: Option<String>,
}

/// What the tasks that listen say of an update that was shown to them.
#[derive(Debug, Clone)]
pub(in crate::driver) enum Verdict {
    /// One of them takes it.
    Taken,
    /// The evaluator could not run.
    Unavailable(String),
}

/// Shows a task among those that listen or run, until it is dropped.
#[derive(Debug)]
pub(in crate::driver) struct Shown<'p> {
    port: &'p Port,
    number: u64,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        let mut inner = self.port.lock();
        inner.listening.remove(&self.number);
        inner.running.remove(&self.number);
    }
}

impl Port {
    /// An id for the run's next event.
    pub(in crate::driver) fn event_id(&self, run_id: Uuid) -> String {
        let mut inner = self.lock();
        inner.events += 1;
        format!("{run_id}-{}", inner.events)
    }

    /// Sends a signal to another run; the id in `signal` is set here.
    pub(in crate::driver) fn signal_external(&self, mut signal: SignalExternal) -> u64 {
        let mut inner = self.lock();
        let id = inner.externals.issue();
        signal.signal_id = id.to_string();
        inner
            .commands
            .push(Command::SignalExternal(Box::new(signal)));
        id
    }

    /// Waits until a signal reached its run. It does not take long, so a cancel waits too.
    pub(in crate::driver) async fn external_signaled(&self, id: u64) -> Result<(), Failure> {
        poll_fn(|_| match self.lock().externals.take(id) {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        })
        .await
    }

    /// Shows a task that listens for these signals.
    pub(in crate::driver) fn listens(&self, listening: Listening) -> Shown<'_> {
        let mut inner = self.lock();
        inner.shown += 1;
        let number = inner.shown;
        inner.listening.insert(number, listening);
        drop(inner);
        Shown { port: self, number }
    }

    /// Shows a task that runs.
    pub(in crate::driver) fn runs(&self, reference: &str) -> Shown<'_> {
        let mut inner = self.lock();
        inner.shown += 1;
        let number = inner.shown;
        inner.running.insert(number, reference.to_owned());
        drop(inner);
        Shown { port: self, number }
    }

    /// The tasks that run, the outer ones first.
    pub(in crate::driver) fn running(&self) -> Vec<String> {
        self.lock().running.values().cloned().collect()
    }

    /// Name and id of each signal that nobody has taken.
    pub(in crate::driver) fn waiting(&self) -> Vec<Value> {
        let inner = self.lock();
        let signals = inner.signals.iter().filter(|one| one.update.is_none());
        signals
            .map(|one| json!({ "name": one.event["type"], "id": one.event["id"], "time": one.event["time"] }))
            .collect()
    }

    /// Bytes of the signals that nobody has taken.
    pub(in crate::driver) fn waiting_bytes(&self) -> u64 {
        let inner = self.lock();
        let signals = inner.signals.iter().filter(|one| one.update.is_none());
        signals.map(|one| one.event.size()).sum()
    }

    /// Shows an update to the tasks that listen, when they are polled next.
    pub(in crate::driver) fn show(&self, event: Value) {
        let mut inner = self.lock();
        inner.offered = Some(Arc::new(event));
        inner.verdict = None;
    }

    /// The update that is shown.
    pub(in crate::driver) fn offered(&self) -> Option<Arc<Value>> {
        self.lock().offered.clone()
    }

    /// What a task says of it.
    pub(in crate::driver) fn judge(&self, verdict: Verdict) {
        self.lock().verdict.get_or_insert(verdict);
    }

    /// Shows it no more; answers what was said of it.
    pub(in crate::driver) fn verdict(&self) -> Option<Verdict> {
        let mut inner = self.lock();
        inner.offered = None;
        inner.verdict.take()
    }

    /// How many commands there are that nobody has taken.
    pub(in crate::driver) fn command_count(&self) -> usize {
        self.lock().commands.len()
    }

    /// Takes an update that nobody took; answers whether there was one.
    pub(in crate::driver) fn drop_update(&self, update_id: &str) -> bool {
        let mut inner = self.lock();
        let before = inner.signals.len();
        inner
            .signals
            .retain(|one| one.update.as_deref() != Some(update_id));
        inner.signals.len() < before
    }

    /// The tasks that listen.
    pub(in crate::driver) fn listening(&self) -> Vec<Listening> {
        self.lock().listening.values().cloned().collect()
    }

    /// The oldest signal after that number that nobody has taken.
    pub(in crate::driver) fn signal_after(&self, number: u64) -> Option<Arrived> {
        let inner = self.lock();
        let at = inner
            .signals
            .partition_point(|arrived| arrived.number <= number);
        inner.signals.get(at).cloned()
    }

    /// Takes a signal, so that nobody else does.
    pub(in crate::driver) fn take_signal(&self, number: u64) {
        let mut inner = self.lock();
        let at = inner
            .signals
            .partition_point(|arrived| arrived.number < number);
        if inner
            .signals
            .get(at)
            .is_some_and(|arrived| arrived.number == number)
            && let Some(arrived) = inner.signals.remove(at)
            && arrived.update.is_none()
        {
            inner.consumed.push(arrived.id);
        }
    }

    /// The ids of the signals that were taken since the last call.
    pub(in crate::driver) fn take_consumed(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().consumed)
    }

    /// Whether an update of that id ended in an earlier run.
    pub(in crate::driver) fn ended_before(&self, update_id: &str) -> bool {
        self.lock().ended_updates.is_of_before(update_id)
    }

    /// An update has ended.
    pub(in crate::driver) fn complete_update(
        &self,
        update_id: String,
        outcome: Result<Payload, Failure>,
    ) {
        let mut inner = self.lock();
        inner.ended_updates.add(update_id.clone());
        inner
            .commands
            .push(Command::CompleteUpdate { update_id, outcome });
    }

    /// What the next run needs of all this: it is over here.
    pub(in crate::driver) fn carry(&self, resumed: &mut Resumed) {
        let mut inner = self.lock();
        resumed.random = inner.random.state();
        resumed.arrived = inner.arrived;
        let signals = std::mem::take(&mut inner.signals).into_iter();
        resumed.signals = signals
            .map(|one| WaitingSignal {
                number: one.number,
                key: one.id,
                event: one.event,
            })
            .collect();
        resumed.keys = inner.keys.all();
        resumed.updates = inner.ended_updates.all();
    }

    /// Begins with what an earlier run carried.
    pub(in crate::driver) fn restore(&self, resumed: &mut Resumed) {
        let mut inner = self.lock();
        inner.random = Random::new(resumed.random);
        inner.arrived = resumed.arrived;
        inner.keys = Keys::of(std::mem::take(&mut resumed.keys));
        inner.ended_updates = Keys::of(std::mem::take(&mut resumed.updates));
        let signals = std::mem::take(&mut resumed.signals).into_iter();
        inner.signals = signals
            .map(|one| Arrived {
                number: one.number,
                id: one.key,
                event: one.event,
                update: None,
            })
            .collect();
    }

    /// A signal or update came.
    pub(super) fn arrive(
        &self,
        inner: &mut Inner,
        id: String,
        event: Value,
        update: Option<String>,
    ) -> Result<(), Refused> {
        let event = Held::new(event, &self.meter).map_err(Refused::Full)?;
        inner.arrived += 1;
        inner.signals.push_back(Arrived {
            number: inner.arrived,
            id,
            event,
            update,
        });
        Ok(())
    }
}
