//! Removes what is too old or named by nothing, now and then.

use std::sync::Arc;
use std::time::Duration;

use heyday_durable::embedded::EmbeddedEngine;
use heyday_durable::engine::Engine;
use heyday_sandbox::Sandbox;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::content::Content;
use crate::recorder::Recorder;
use crate::registry::Registry;
use crate::server::blocking;
use crate::state::HostDb;

/// How often what is too old is removed.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Seconds of a day.
const DAY: i64 = 24 * 60 * 60;
/// Values that no history names are kept so long: an activity's result is stored before
/// the history names it.
const PAYLOAD_GRACE: Duration = Duration::from_secs(48 * 60 * 60);
/// The oldest time of which receipts and log lines are kept.
pub(crate) fn kept_since(record_days: u32) -> Timestamp {
    let kept = jiff::SignedDuration::from_secs(i64::from(record_days) * DAY);
    // Before that there was no Heyday.
    Timestamp::now()
        .checked_sub(kept)
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Where there is something to remove.
pub(crate) struct Old {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) embedded: Option<Arc<EmbeddedEngine>>,
    pub(crate) registry: Registry,
    pub(crate) sandbox: Sandbox,
    pub(crate) recorder: Recorder,
    pub(crate) state: HostDb,
    /// Of components and of values.
    pub(crate) copies: [Content; 2],
    /// Receipts and log lines are kept for so many days.
    pub(crate) record_days: u32,
}

impl Old {
    /// Removes until `stopping`.
    pub(crate) async fn sweep(self, stopping: CancellationToken) {
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stopping.cancelled() => return,
            }
            self.sweep_own().await;
            // Servers that share a state take turns.
            match self.state.is_turn("swept", SWEEP_INTERVAL / 2).await {
                Ok(true) => self.sweep_shared().await,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "nothing old is removed now");
                }
            }
        }
    }

    /// What only this process has.
    async fn sweep_own(&self) {
        let cache = self.sandbox.clone();
        blocking(move || cache.sweep_cache()).await;
        for copies in &self.copies {
            copies.sweep_copies().await;
        }
        // Which values Temporal's histories name nobody here knows; they are kept.
        if let Some(embedded) = &self.embedded {
            match embedded.sweep_payloads(PAYLOAD_GRACE).await {
                Ok(0) => {}
                Ok(removed) => tracing::info!(removed, "removed values that no history names"),
                Err(error) => tracing::warn!(%error, "values are not swept now"),
            }
        }
    }

    /// What is in the state.
    async fn sweep_shared(&self) {
        if let Err(error) = self.state.forget_claims().await {
            tracing::warn!(error = %error.chain(), "keys of servers that are gone are not removed now");
        }
        if let Err(error) = self.state.forget_replies().await {
            tracing::warn!(error = %error.chain(), "old answers by Idempotency-Key are not removed now");
        }
        self.registry.sweep(self.engine.as_ref()).await;
        if let Err(error) = self.recorder.prune(kept_since(self.record_days)).await {
            tracing::warn!(%error, "old receipts and log lines are not removed now");
        }
    }
}
