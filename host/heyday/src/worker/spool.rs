//! What attempts say and use, on its way to the server.
//!
//! [`Spool`] takes records without waiting, and one task sends what has gathered, in
//! numbered batches: one whose answer was lost is sent again and taken once. While the
//! server is away the records wait in memory, within bounds; further ones are dropped and
//! counted. Of each attempt's progress only the last is sent. A worker that is killed
//! takes what it had not sent with it; the receipt of an activity's last attempt stands in
//! the history too.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use heyday_durable::activity::{LogLine, Progress};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::client::{ServerClient, ServerError};
use super::wire::{AttemptBody, RecordBody, RecordsBody, Said};
use crate::recorder::{AttemptName, ReceiptRow, Records};

/// Bytes of log lines that wait, at most; further ones are dropped and counted.
const MAX_LINE_BYTES: usize = 64 << 20;
/// Receipts that wait, at most.
const MAX_RECEIPTS: usize = 100_000;
/// Attempts whose progress waits, at most.
const MAX_PROGRESS: usize = 10_000;
/// Records of one batch, and about how many bytes; one record more may go over it.
const BATCH: usize = 1_000;
const BATCH_BYTES: usize = 2 << 20;
/// What a record has beside its text.
const FRAME: usize = 400;
/// A line with more bytes would not be taken.
const LONGEST_LINE: usize = 5 << 20;
/// How long a batch gathers.
const GATHER: Duration = Duration::from_millis(50);
/// How long a failed batch waits for the next try.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a worker that stops goes on sending.
const LAST_TRIES: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Pending {
    lines: VecDeque<RecordBody>,
    line_bytes: usize,
    receipts: VecDeque<RecordBody>,
    progress: HashMap<(Uuid, String, u32), RecordBody>,
    dropped: u64,
}

struct Inner {
    client: ServerClient,
    /// Any of the worker's namespaces: a batch may be of several.
    namespace: String,
    pending: Mutex<Pending>,
    wake: Notify,
}

/// Takes records, and sends them. Clones are handles of the same.
#[derive(Clone)]
pub struct Spool(Arc<Inner>);

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool")
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

fn size(line: &RecordBody) -> usize {
    let Said::Log(line) = &line.said else {
        return FRAME;
    };
    // Close enough: what JSON adds is in the frame, and most lines have no fields.
    let fields = serde_json::to_string(&line.fields).map_or(0, |text| text.len());
    line.message.len() + fields + FRAME
}

impl Pending {
    fn batch(&mut self) -> Vec<RecordBody> {
        let mut bytes = 0;
        let mut records: Vec<RecordBody> = Vec::new();
        while records.len() < BATCH
            && bytes < BATCH_BYTES
            && let Some(line) = self.lines.pop_front()
        {
            let size = size(&line);
            self.line_bytes = self.line_bytes.saturating_sub(size);
            bytes += size;
            records.push(line);
        }
        let rest = BATCH.saturating_sub(records.len()).min(self.receipts.len());
        records.extend(self.receipts.drain(..rest));
        records.extend(self.progress.drain().map(|(_, record)| record));
        records
    }
}

impl Spool {
    /// Takes records for this server; [`run`](Self::run) sends them.
    #[must_use]
    pub fn new(client: ServerClient, namespace: String) -> Self {
        Self(Arc::new(Inner {
            client,
            namespace,
            pending: Mutex::default(),
            wake: Notify::new(),
        }))
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // A panic while it was held leaves nothing half-done.
        self.0
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// How many log lines and receipts wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let pending = self.pending();
        pending.lines.len() + pending.receipts.len()
    }

    fn push(&self, push: impl FnOnce(&mut Pending) -> bool) {
        {
            let mut pending = self.pending();
            if !push(&mut pending) {
                pending.dropped += 1;
                return;
            }
        }
        self.0.wake.notify_one();
    }

    /// Sends records until `stop` is cancelled, and then, for a while, what is left.
    pub async fn run(self, stop: CancellationToken) {
        let worker = Uuid::new_v4();
        let mut batch = RecordsBody {
            worker,
            sequence: 1,
            records: Vec::new(),
        };
        loop {
            tokio::select! {
                () = async {
                    self.0.wake.notified().await;
                    tokio::time::sleep(GATHER).await;
                } => {}
                () = stop.cancelled() => break,
            }
            tokio::select! {
                () = self.send_all(&mut batch) => {}
                () = stop.cancelled() => break,
            }
        }
        let last = self.send_all(&mut batch);
        if tokio::time::timeout(LAST_TRIES, last).await.is_err() {
            let lost = self.waiting() + batch.records.len();
            tracing::error!(lost, "log lines and receipts were lost: the server is away");
        }
    }

    /// Sends all that waits. A batch stays in `batch` until it was taken.
    async fn send_all(&self, batch: &mut RecordsBody) {
        loop {
            if batch.records.is_empty() {
                batch.records = self.pending().batch();
            }
            if batch.records.is_empty() {
                return;
            }
            let client = self.0.client.impatient();
            let sent = client.post::<()>(&self.0.namespace, &["records"], batch);
            match sent.await {
                Ok(()) => {}
                Err(error @ (ServerError::Away { .. } | ServerError::Token { .. })) => {
                    tracing::warn!(%error, "log lines and receipts wait for the server");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(error) => {
                    // It would be refused for ever.
                    let dropped = batch.records.len();
                    tracing::error!(%error, dropped, "log lines and receipts were refused");
                    self.pending().dropped += dropped as u64;
                }
            }
            batch.records.clear();
            batch.sequence += 1;
        }
    }
}

impl Records for Spool {
    fn log(&self, attempt: &Arc<AttemptName>, line: LogLine) {
        let record = RecordBody {
            attempt: AttemptBody::from(attempt.as_ref()),
            said: Said::Log(line),
        };
        let size = size(&record);
        self.push(|pending| {
            if size > LONGEST_LINE || pending.line_bytes + size > MAX_LINE_BYTES {
                return false;
            }
            pending.line_bytes += size;
            pending.lines.push_back(record);
            true
        });
    }

    fn receipt(&self, row: ReceiptRow) {
        self.push(|pending| {
            if pending.receipts.len() >= MAX_RECEIPTS {
                return false;
            }
            pending.receipts.push_back(row.into());
            true
        });
    }

    fn progress(&self, attempt: &Arc<AttemptName>, progress: &Progress) {
        let key = (attempt.run_id, attempt.activity_id.clone(), attempt.attempt);
        let record = RecordBody {
            attempt: AttemptBody::from(attempt.as_ref()),
            said: Said::Progress(progress.clone()),
        };
        self.push(|pending| {
            if pending.progress.len() < MAX_PROGRESS || pending.progress.contains_key(&key) {
                pending.progress.insert(key, record);
            }
            // The next one says more: none is missed.
            true
        });
    }

    fn dropped_ever(&self) -> u64 {
        self.pending().dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heyday_durable::activity::{LogLevel, Receipt};
    use jiff::Timestamp;

    fn spool() -> Spool {
        let server = "http://127.0.0.1:1".parse().expect("a URL");
        let client = ServerClient::new(server, "t").expect("a client");
        Spool::new(client, "default".to_owned())
    }

    fn attempt() -> Arc<AttemptName> {
        Arc::new(AttemptName {
            namespace: "default".to_owned(),
            run_id: Uuid::now_v7(),
            activity_id: "1".to_owned(),
            activity_type: "greet.hello".to_owned(),
            queue: "general-queue".to_owned(),
            attempt: 1,
        })
    }

    fn line(bytes: usize) -> LogLine {
        LogLine {
            at: Timestamp::now(),
            level: LogLevel::Info,
            message: "x".repeat(bytes),
            fields: serde_json::Map::new(),
        }
    }

    #[test]
    fn a_batch_is_bounded_and_keeps_the_order() {
        let (spool, attempt) = (spool(), attempt());
        for _ in 0..3 {
            spool.log(&attempt, line(1 << 20));
        }
        for completed in 0..5 {
            let progress = Progress {
                completed,
                total: 5,
                message: String::new(),
            };
            spool.progress(&attempt, &progress);
        }
        spool.receipt(ReceiptRow {
            attempt: Arc::clone(&attempt),
            started_at: Timestamp::now(),
            ended_at: Timestamp::now(),
            outcome: "completed".to_owned(),
            receipt: Receipt::default(),
        });
        let first = spool.pending().batch();
        let kinds: Vec<_> = first.iter().map(|record| &record.said).collect();
        assert!(
            matches!(
                kinds[..],
                [
                    Said::Log(_),
                    Said::Log(_),
                    Said::Ended { .. },
                    Said::Progress(Progress { completed: 4, .. })
                ]
            ),
            "{}",
            kinds.len()
        );
        assert_eq!(spool.pending().batch().len(), 1);
        assert!(spool.pending().batch().is_empty());
        assert_eq!(spool.pending().line_bytes, 0);
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let (spool, attempt) = (spool(), attempt());
        for _ in 0..63 {
            spool.log(&attempt, line(1 << 20));
        }
        assert_eq!(spool.dropped_ever(), 0);
        spool.log(&attempt, line(1 << 20));
        spool.log(&attempt, line(LONGEST_LINE));
        assert_eq!((spool.dropped_ever(), spool.waiting()), (2, 63));
    }
}
