//! The end of an attempt, and what it used until then.

use std::sync::Arc;
use std::time::Instant;

use heyday_capabilities::http::HttpUsage;
use heyday_durable::activity::{ActivityTask, Receipt};
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
}

impl<'e> Ending<'e> {
    pub(super) fn new(
        records: &'e dyn Records,
        attempt: &Arc<AttemptName>,
        task: &ActivityTask,
    ) -> Self {
        Self {
            used: Used::default(),
            records,
            attempt: Arc::clone(attempt),
            started_at: task.started_at,
        }
    }

    /// It ended so; answers what it used.
    pub(super) fn tell(&mut self, outcome: &str) -> Receipt {
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
