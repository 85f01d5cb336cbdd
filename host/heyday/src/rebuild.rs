//! Receipts that a crash took, made again from the history.
//!
//! Receipts are written behind ([`crate::recorder`]), so a process that dies leaves the
//! last ones unwritten. The history has them with each attempt's end. At the start this
//! looks, in the background, at the runs that are open or ended since receipts may be
//! missing, and writes those that are; one that is there stays as it is, so that doing
//! it again changes nothing. Attempts that were running are told by the engine itself
//! (`ended_elsewhere`), as soon as their loss is in the history.

use heyday_durable::embedded::EmbeddedEngine;
use heyday_durable::engine::EngineError;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::recorder::{ReceiptRow, Recorder};
use crate::state::StateError;

/// Runs that are looked up at once.
const PAGE: usize = 200;

/// Why receipts are still missing.
#[derive(Debug, thiserror::Error)]
enum RebuildError {
    #[error("the history cannot be read: {0}")]
    Engine(#[from] EngineError),
    #[error("{}", .0.chain())]
    State(#[from] StateError),
}

/// Writes the receipts of attempts that ended since then and are missing. What cannot
/// be done now is done at the next start.
pub async fn receipts(
    engine: &EmbeddedEngine,
    recorder: &Recorder,
    since: Timestamp,
    stopping: &CancellationToken,
) {
    tokio::select! {
        rebuilt = rebuild(engine, recorder, since) => match rebuilt {
            Ok(0) => {}
            Ok(missing) => tracing::info!(missing, "receipts were taken from the history"),
            Err(error) => tracing::warn!(
                %error,
                "receipts may be missing until the next start"
            ),
        },
        () = stopping.cancelled() => {}
    }
}

async fn rebuild(
    engine: &EmbeddedEngine,
    recorder: &Recorder,
    since: Timestamp,
) -> Result<u64, RebuildError> {
    let mut after = None;
    let mut missing = 0;
    loop {
        let runs = engine.runs_since(since, after, PAGE).await?;
        let Some(last) = runs.last() else {
            recorder.rebuilt().await?;
            return Ok(missing);
        };
        after = last.run_id;
        for run in &runs {
            let receipts = match engine.receipts(run).await {
                Ok(receipts) => receipts,
                // It was removed meanwhile.
                Err(EngineError::NotFound { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let rows: Vec<ReceiptRow> = receipts
                .into_iter()
                .filter(|receipt| receipt.ended_at >= since)
                .map(ReceiptRow::from)
                .collect();
            if !rows.is_empty() {
                missing += recorder.restore(&rows).await?;
            }
        }
    }
}
