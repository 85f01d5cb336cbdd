//! Receipts and log lines, written behind.
//!
//! [`Recorder`] takes them without waiting and one task writes what has gathered, in
//! one transaction. Readers wait for the next batch with [`Recorder::written`]. While the
//! database cannot be written, so many lines and receipts are kept in memory; further
//! ones are dropped and counted.
//!
//! Written behind means that a crash takes the last ones. Log lines are lost then;
//! receipts stand in the history too, and [`rebuild`](crate::rebuild) takes them from
//! there at the next start. What workers send is written before they are answered
//! ([`Recorder::take_batch`]): they delete what they had.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use heyday_durable::activity::{AttemptReceipt, LogLine, Progress, Receipt};
use heyday_sandbox::Denial;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::follower::ToldProgress;
use crate::registry::RegistryError;
use crate::registry::types::{LogRecord, ReceiptPlace, ReceiptRecord};
use crate::state::{HostDb, StateError, timestamp};

/// Lines that wait to be written, at most; further ones are dropped and counted.
const MAX_LINES: usize = 50_000;
/// Receipts that wait to be written, at most.
const MAX_RECEIPTS: usize = 100_000;
/// Attempts whose progress waits to be told to other servers, at most.
const MAX_PROGRESS: usize = 1_000;
/// Rows of one transaction.
const BATCH: usize = 2_000;
/// How long a batch gathers. Whoever reads writes it at once ([`Recorder::flush`]).
const GATHER: Duration = Duration::from_millis(20);
/// How long a failed write waits for the next try.
const PAUSE: Duration = Duration::from_secs(1);
/// The marker of a rebuild that has not come to its end.
const REBUILDING: &str = "receipts-missing-since";
/// Receipts are written nearly in the order of their ends: at most so much apart.
const OUT_OF_ORDER_US: i64 = 10 * 60 * 1_000_000;

/// Whose attempt a record belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptName {
    /// The namespace.
    pub namespace: String,
    /// The run.
    pub run_id: Uuid,
    /// The activity within it.
    pub activity_id: String,
    /// `<plugin>.<activity>`.
    pub activity_type: String,
    /// The queue.
    pub queue: String,
    /// The attempt.
    pub attempt: u32,
}

#[cfg(test)]
impl AttemptName {
    /// Of a run of its own.
    pub(crate) fn for_tests() -> Arc<Self> {
        Arc::new(Self {
            namespace: "default".to_owned(),
            run_id: Uuid::now_v7(),
            activity_id: "1".to_owned(),
            activity_type: "greet.hello".to_owned(),
            queue: "general-queue".to_owned(),
            attempt: 1,
        })
    }
}

/// Host calls of an attempt that were refused alike; an entry of the audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// Who was refused: the plugin, or the flow for its `call: http`.
    pub subject: String,
    /// The capability.
    pub capability: String,
    /// The binding that was asked for; of `http` `METHOD:HOST[:PORT]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<String>,
    /// As the guest was told.
    pub reason: String,
    /// How many calls.
    pub count: u64,
}

impl Denied {
    /// What the sandbox tells of a subject's attempt.
    pub(crate) fn of(subject: &str, denial: Denial) -> Self {
        Self {
            subject: subject.to_owned(),
            capability: denial.capability.to_owned(),
            binding: denial.binding,
            reason: denial.reason,
            count: denial.count,
        }
    }
}

/// A receipt to be written.
#[derive(Debug, Clone)]
pub struct ReceiptRow {
    /// Whose.
    pub attempt: Arc<AttemptName>,
    /// When the attempt started.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// `completed`, or the kind of its failure.
    pub outcome: String,
    /// What it used.
    pub receipt: Receipt,
    /// What it was refused. It stands in no history: of an attempt whose receipt was lost it
    /// is lost too.
    pub denied: Vec<Denied>,
}

impl From<AttemptReceipt> for ReceiptRow {
    fn from(receipt: AttemptReceipt) -> Self {
        Self {
            attempt: Arc::new(AttemptName {
                namespace: receipt.namespace,
                run_id: receipt.run_id,
                activity_id: receipt.activity_id,
                activity_type: receipt.activity_type,
                queue: receipt.queue,
                attempt: receipt.attempt,
            }),
            started_at: receipt.started_at,
            ended_at: receipt.ended_at,
            outcome: receipt.outcome,
            receipt: receipt.receipt,
            denied: Vec::new(),
        }
    }
}

/// Where what attempts say and use goes. Nothing here waits.
pub trait Records: Send + Sync + 'static {
    /// Takes a log line.
    fn log(&self, attempt: &Arc<AttemptName>, line: LogLine);

    /// Takes a receipt.
    fn receipt(&self, row: ReceiptRow);

    /// Takes how far an attempt is, for those who follow its run at another process. Those
    /// who follow it here are told by the engine.
    fn progress(&self, attempt: &Arc<AttemptName>, progress: &Progress) {
        let _ = (attempt, progress);
    }

    /// How many lines and receipts were dropped, ever: too many at once.
    fn dropped_ever(&self) -> u64;
}

#[derive(Default)]
struct Pending {
    lines: Vec<(Arc<AttemptName>, LogLine)>,
    receipts: Vec<ReceiptRow>,
    /// For other servers: how far each attempt is.
    progress: HashMap<(Uuid, String, u32), Progress>,
    dropped: u64,
    dropped_ever: u64,
}

impl Pending {
    const fn drop_one(&mut self) {
        self.dropped += 1;
        self.dropped_ever += 1;
    }
}

struct Inner {
    database: HostDb,
    pending: Mutex<Pending>,
    wake: Notify,
    written: watch::Sender<u64>,
    /// Held while a batch is written, so that who waits for a flush sees all of it.
    writing: tokio::sync::Mutex<()>,
}

/// Takes records, and reads them.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl Recorder {
    /// Takes records for this database; [`run`](Self::run) writes them.
    #[must_use]
    pub fn new(database: HostDb) -> Self {
        Self {
            inner: Arc::new(Inner {
                database,
                pending: Mutex::default(),
                wake: Notify::new(),
                written: watch::channel(0).0,
                writing: tokio::sync::Mutex::new(()),
            }),
        }
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Pending> {
        // A panic while it was held leaves nothing half-done.
        self.inner
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts batches: changes when new records can be read.
    #[must_use]
    pub fn written(&self) -> watch::Receiver<u64> {
        self.inner.written.subscribe()
    }

    /// Writes a batch of a worker, so that what was acknowledged is there whatever becomes
    /// of this server.
    ///
    /// # Errors
    /// When the database cannot be written; the worker keeps the batch.
    pub async fn take_batch(
        &self,
        worker: Uuid,
        sequence: u64,
        lines: &[(Arc<AttemptName>, LogLine)],
        receipts: &[ReceiptRow],
    ) -> Result<(), RegistryError> {
        if lines.is_empty() && receipts.is_empty() {
            // Progress alone is not kept, and may be told twice.
            return Ok(());
        }
        let database = &self.inner.database;
        database
            .take_batch(worker, sequence, lines, receipts)
            .await?;
        self.inner.written.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Another server wrote records.
    pub fn written_elsewhere(&self) {
        self.inner.written.send_modify(|count| *count += 1);
    }

    /// Writes records until `stop` is cancelled, and then what is left.
    pub async fn run(self, stop: tokio_util::sync::CancellationToken) {
        loop {
            tokio::select! {
                () = async {
                    self.inner.wake.notified().await;
                    tokio::time::sleep(GATHER).await;
                } => {}
                () = stop.cancelled() => {
                    if let Err(error) = self.write_all().await {
                        tracing::error!(%error, "receipts and log lines were lost");
                    }
                    return;
                }
            }
            if let Err(error) = self.write_all().await {
                tracing::error!(%error, "receipts and log lines cannot be written; trying again");
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => self.inner.wake.notify_one(),
                    () = stop.cancelled() => {}
                }
            }
        }
    }

    /// Writes all that was taken so far; what cannot be written is kept for later.
    pub async fn flush(&self) {
        if let Err(error) = self.write_all().await {
            tracing::error!(%error, "receipts and log lines cannot be written now");
        }
    }

    async fn write_all(&self) -> Result<(), StateError> {
        let _one = self.inner.writing.lock().await;
        self.tell_progress().await;
        loop {
            let (lines, receipts, dropped) = {
                let mut pending = self.pending();
                let lines = pending.lines.len().min(BATCH);
                let receipts = pending.receipts.len().min(BATCH);
                (
                    pending.lines.drain(..lines).collect::<Vec<_>>(),
                    pending.receipts.drain(..receipts).collect::<Vec<_>>(),
                    std::mem::take(&mut pending.dropped),
                )
            };
            if dropped > 0 {
                tracing::warn!(
                    dropped,
                    "log lines or receipts were dropped: too many at once"
                );
            }
            if lines.is_empty() && receipts.is_empty() {
                return Ok(());
            }
            let written = self.inner.database.write_records(&lines, &receipts);
            if let Err(error) = written.await {
                let mut pending = self.pending();
                pending.lines.splice(0..0, lines);
                pending.receipts.splice(0..0, receipts);
                return Err(error);
            }
            self.inner.written.send_modify(|count| *count += 1);
        }
    }

    /// Tells other servers how far attempts are. It is not told again where it cannot be
    /// told now: the next one comes.
    async fn tell_progress(&self) {
        let progress = std::mem::take(&mut self.pending().progress);
        let database = &self.inner.database;
        let Some(shared) = database.shared() else {
            return;
        };
        for ((run_id, activity_id, attempt), progress) in progress {
            let told = ToldProgress {
                server: shared.id(),
                run_id,
                activity_id,
                attempt,
                progress,
            };
            // Texts and numbers cannot fail to be written.
            let text = serde_json::to_string(&told).unwrap_or_default();
            if let Err(error) = database.tell_progress(&text).await {
                tracing::debug!(error = %error.chain(), "progress is not told");
                return;
            }
        }
    }

    /// Since when receipts may be missing: a little before the last one that was written,
    /// or whenever an earlier [`rebuild`](crate::rebuild) that did not come to its end
    /// began. It is noted until [`rebuilt`](Self::rebuilt). To be called before further
    /// receipts are written.
    ///
    /// # Errors
    /// When the database cannot be read or written.
    pub async fn missing_since(&self) -> Result<Timestamp, StateError> {
        let database = &self.inner.database;
        let last = database.last_receipt(Timestamp::now()).await?;
        let last = last.map_or(0, |last| last.saturating_sub(OUT_OF_ORDER_US));
        timestamp(database.mark_earliest(REBUILDING, last).await?)
    }

    /// Writes receipts that the history has, where they are missing. Answers how many
    /// were.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn restore(&self, rows: &[ReceiptRow]) -> Result<u64, StateError> {
        let missing = self.inner.database.restore_receipts(rows).await?;
        if missing > 0 {
            self.inner.written.send_modify(|count| *count += 1);
        }
        Ok(missing)
    }

    /// No receipts of before this start are missing any more.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn rebuilt(&self) -> Result<(), StateError> {
        self.inner.database.unmark(REBUILDING).await
    }

    /// Log lines of a run after that id, ascending.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn logs(
        &self,
        namespace: &str,
        run_id: Uuid,
        after: u64,
        limit: usize,
    ) -> Result<Vec<LogRecord>, RegistryError> {
        let database = &self.inner.database;
        Ok(database.logs(namespace, run_id, after, limit).await?)
    }

    /// The receipts of a run after that one, by start.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn receipts(
        &self,
        namespace: &str,
        run_id: Uuid,
        after: Option<&ReceiptPlace>,
        limit: usize,
    ) -> Result<Vec<ReceiptRecord>, RegistryError> {
        let database = &self.inner.database;
        Ok(database.receipts(namespace, run_id, after, limit).await?)
    }

    /// Removes records that are older; a few at a time, so that nothing waits long.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn prune(&self, before: Timestamp) -> Result<(), RegistryError> {
        Ok(self.inner.database.prune_records(before).await?)
    }
}

impl Records for Recorder {
    fn log(&self, attempt: &Arc<AttemptName>, line: LogLine) {
        {
            let mut pending = self.pending();
            if pending.lines.len() >= MAX_LINES {
                pending.drop_one();
                return;
            }
            pending.lines.push((Arc::clone(attempt), line));
        }
        self.inner.wake.notify_one();
    }

    fn receipt(&self, row: ReceiptRow) {
        {
            let mut pending = self.pending();
            if pending.receipts.len() >= MAX_RECEIPTS {
                pending.drop_one();
                return;
            }
            pending.receipts.push(row);
        }
        self.inner.wake.notify_one();
    }

    fn progress(&self, attempt: &Arc<AttemptName>, progress: &Progress) {
        if !self.inner.database.is_shared() {
            return;
        }
        {
            let key = (attempt.run_id, attempt.activity_id.clone(), attempt.attempt);
            let mut pending = self.pending();
            if pending.progress.len() >= MAX_PROGRESS && !pending.progress.contains_key(&key) {
                return;
            }
            pending.progress.insert(key, progress.clone());
        }
        self.inner.wake.notify_one();
    }

    fn dropped_ever(&self) -> u64 {
        self.pending().dropped_ever
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateLocation;
    use heyday_durable::activity::LogLevel;

    #[tokio::test]
    async fn records_are_read_back_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let location = StateLocation::File(folder.path().join("host.db"));
        let database = HostDb::open(&location).await.expect("opened");
        let records = Recorder::new(database);
        let attempt = AttemptName::for_tests();
        for number in 0..3 {
            records.log(
                &attempt,
                LogLine {
                    at: Timestamp::now(),
                    level: LogLevel::Info,
                    message: format!("line {number}"),
                    fields: serde_json::Map::new(),
                },
            );
        }
        let mut receipt = Receipt::default();
        receipt.add("cpu_us", 7);
        records.receipt(ReceiptRow {
            attempt: Arc::clone(&attempt),
            started_at: Timestamp::now(),
            ended_at: Timestamp::now(),
            outcome: "completed".to_owned(),
            receipt,
            denied: Vec::new(),
        });
        let mut written = records.written();
        written.mark_unchanged();
        records.flush().await;
        assert!(written.has_changed().expect("open"), "readers are told");
        let run = attempt.run_id;
        let first = records.logs("default", run, 0, 2).await.expect("read");
        assert_eq!(first[1].message, "line 1");
        let rest = records
            .logs("default", run, first[1].id, 10)
            .await
            .expect("read");
        assert_eq!(rest.len(), 1);
        let receipts = async || {
            let receipts = records.receipts("default", run, None, 9).await;
            receipts.expect("read")
        };
        assert_eq!(receipts().await[0].counters["cpu_us"], 7);
        let none = records.logs("default", Uuid::now_v7(), 0, 9).await;
        assert!(none.expect("read").is_empty());
        let none = records.logs("other", run, 0, 9).await;
        assert!(none.expect("read").is_empty(), "of another namespace");
        let second = std::time::Duration::from_secs(1);
        records
            .prune(Timestamp::now() - second)
            .await
            .expect("pruned");
        assert_eq!(receipts().await.len(), 1);
        records
            .prune(Timestamp::now() + second)
            .await
            .expect("pruned");
        assert!(receipts().await.is_empty());
        assert!(
            records
                .logs("default", run, 0, 9)
                .await
                .expect("read")
                .is_empty()
        );
    }
}
