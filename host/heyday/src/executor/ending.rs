//! The end of an attempt. Its receipt is written once, whatever becomes of its future.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use heyday_capabilities::http::HttpUsage;
use heyday_durable::activity::{ActivityTask, AttemptContext, CancelReason, Receipt};
use heyday_durable::failure::kind;
use jiff::Timestamp;

use crate::recorder::{AttemptName, Denied, ReceiptRow, Records};

/// What an attempt used, and what it was refused.
#[derive(Debug, Default)]
pub(super) struct Used {
    pub(super) receipt: Receipt,
    pub(super) denied: Vec<Denied>,
    /// A flow's own call.
    pub(super) http: Option<FlowCall>,
}

/// A flow's `call: http` while it runs. It is here, and not in the call's future, so that
/// what a call used that was cut off is known.
#[derive(Debug)]
pub(super) struct FlowCall {
    begun: Instant,
    pub(super) usage: HttpUsage,
}

impl FlowCall {
    pub(super) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            usage: HttpUsage::default(),
        }
    }

    fn count(&self, receipt: &mut Receipt) {
        let wall = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        receipt.add("wall_us", wall);
        // What was refused was not sent.
        if self.usage.calls > 0 {
            for (name, amount) in self.usage.counters() {
                receipt.add(name, amount);
            }
        }
    }
}

/// An attempt that has not told its end.
pub(super) struct Ending<'e> {
    pub(super) used: Used,
    records: &'e dyn Records,
    attempt: Arc<AttemptName>,
    started_at: Timestamp,
    reason: Arc<OnceLock<CancelReason>>,
    told: bool,
}

impl<'e> Ending<'e> {
    pub(super) fn new(
        records: &'e dyn Records,
        attempt: &Arc<AttemptName>,
        task: &ActivityTask,
        context: &AttemptContext,
    ) -> Self {
        Self {
            used: Used::default(),
            records,
            attempt: Arc::clone(attempt),
            started_at: task.started_at,
            reason: Arc::clone(&context.reason),
            told: false,
        }
    }

    /// It ended so; answers what it used.
    pub(super) fn tell(&mut self, outcome: &str) -> Receipt {
        self.told = true;
        let Used {
            mut receipt,
            denied,
            http,
        } = std::mem::take(&mut self.used);
        if let Some(call) = http {
            call.count(&mut receipt);
        }
        self.records.receipt(ReceiptRow {
            attempt: Arc::clone(&self.attempt),
            started_at: self.started_at,
            ended_at: Timestamp::now(),
            outcome: outcome.to_owned(),
            receipt: receipt.clone(),
            denied,
        });
        receipt
    }
}

impl Drop for Ending<'_> {
    /// It did not stop in time, so that nobody waits for it any more, or the host panicked.
    /// Where its run has closed, the history says nothing further of it.
    fn drop(&mut self) {
        if self.told {
            return;
        }
        let panicked = std::thread::panicking();
        let outcome = match self.reason.get() {
            // As the engine records it, whatever happened while it stopped.
            Some(CancelReason::TimedOut) => kind::TIMEOUT,
            _ if panicked => kind::INTERNAL,
            _ => kind::WORKER_LOST,
        };
        if !panicked {
            self.used.receipt.add("lost", 1);
        }
        self.tell(outcome);
    }
}
