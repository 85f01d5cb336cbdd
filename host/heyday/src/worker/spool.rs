//! What attempts say and use, on its way to the server.
//!
//! [`Spool`] takes records without waiting. One task saves what has gathered in segments,
//! in memory and in files beside it ([`disk`]); another sends them, each as a numbered
//! batch: one whose answer was lost is sent again and taken once. While the server is away
//! they wait, within bounds; further records are dropped and counted. Of each attempt's
//! progress only the last is sent, and it is not saved.
//!
//! A worker that is killed loses at most what was said in its last moment: the next one on
//! the same data folder sends the rest, but for what its token does not open, which stays.
//! Nothing depends on the folder; where it cannot be written, the records are in memory
//! alone.

mod disk;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use heyday_durable::activity::{LogLine, Progress};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::disk::{Journal, Kept};
use super::client::ServerClient;
use super::wire::{AttemptBody, RecordBody, RecordsBody, Said};
use crate::recorder::{AttemptName, ReceiptRow, Records};
use crate::server;

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
/// How long records gather before they are saved: an attempt that has just ended is being
/// told to the cluster, and needs the processor more.
const SETTLE: Duration = Duration::from_millis(20);
/// How long a batch gathers.
const GATHER: Duration = Duration::from_millis(50);
/// How long a failed batch waits for the next try.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a worker that stops goes on sending.
const LAST_TRIES: Duration = Duration::from_secs(5);

/// Records that are sent together.
struct Segment {
    body: RecordsBody,
    bytes: usize,
    /// Its file; none where it could not be written.
    kept: Option<Kept>,
}

impl Segment {
    const fn new(worker: Uuid, sequence: u64, kept: Option<Kept>) -> Self {
        Self {
            body: RecordsBody {
                worker,
                sequence,
                records: Vec::new(),
            },
            bytes: 0,
            kept,
        }
    }

    fn is_full(&self) -> bool {
        self.body.records.len() >= BATCH || self.bytes >= BATCH_BYTES
    }

    fn push(&mut self, record: RecordBody) {
        self.bytes += size(&record);
        self.body.records.push(record);
    }
}

#[derive(Default)]
struct Pending {
    /// Log lines and receipts that are in no segment yet.
    unsaved: Vec<RecordBody>,
    /// The last one may get more.
    segments: VecDeque<Segment>,
    /// Of all log lines that wait, wherever.
    line_bytes: usize,
    /// All receipts that wait.
    receipts: usize,
    progress: HashMap<(Uuid, String, u32), RecordBody>,
    dropped: u64,
}

impl Pending {
    /// Counts a record that waits; answers whether there is room for it.
    fn admit(&mut self, record: &RecordBody) -> bool {
        match &record.said {
            Said::Log(_) => {
                let size = size(record);
                let fits = size <= LONGEST_LINE && self.line_bytes + size <= MAX_LINE_BYTES;
                self.line_bytes += if fits { size } else { 0 };
                fits
            }
            Said::Ended { .. } => {
                let fits = self.receipts < MAX_RECEIPTS;
                self.receipts += usize::from(fits);
                fits
            }
            Said::Progress(_) => true,
        }
    }

    /// These wait no more.
    fn forget(&mut self, records: &[RecordBody]) {
        for record in records {
            match record.said {
                Said::Log(_) => self.line_bytes = self.line_bytes.saturating_sub(size(record)),
                Said::Ended { .. } => self.receipts = self.receipts.saturating_sub(1),
                Said::Progress(_) => {}
            }
        }
    }

    /// These are sent later, where nothing newer came.
    fn keep_progress(&mut self, records: Vec<RecordBody>) {
        for record in records {
            let attempt = &record.attempt;
            let key = (attempt.run_id, attempt.activity_id.clone(), attempt.attempt);
            self.progress.entry(key).or_insert(record);
        }
    }

    fn waiting(&self) -> usize {
        let saved = self
            .segments
            .iter()
            .map(|segment| segment.body.records.len());
        self.unsaved.len() + saved.sum::<usize>()
    }
}

struct Inner {
    client: ServerClient,
    /// Any of the worker's namespaces: a batch may be of several.
    namespace: String,
    /// This process, to the server.
    worker: Uuid,
    pending: Mutex<Pending>,
    /// Held while files are written, and while a segment is taken to be sent, so that none
    /// gets more meanwhile.
    journal: Mutex<Journal>,
    unsaved: Notify,
    saved: Notify,
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

fn size(record: &RecordBody) -> usize {
    let line = match &record.said {
        Said::Log(line) => line,
        Said::Ended { denied, .. } => {
            let words = denied.iter().map(|denied| denied.reason.len() + FRAME);
            return FRAME + words.sum::<usize>();
        }
        Said::Progress(_) => return FRAME,
    };
    // Close enough: what JSON adds is in the frame, and most lines have no fields.
    let fields = serde_json::to_string(&line.fields).map_or(0, |text| text.len());
    line.message.len() + fields + FRAME
}

/// A panic while it was held leaves nothing half-done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Spool {
    /// Takes records for this server, and what workers that are gone have left in that
    /// folder; [`run`](Self::run) sends all of it. Blocking.
    #[must_use]
    pub fn open(client: ServerClient, namespace: String, folder: &Path) -> Self {
        let worker = Uuid::new_v4();
        let (journal, left) = Journal::open(folder, worker);
        let mut pending = Pending::default();
        let mut found = 0;
        for left in left {
            let mut segment = Segment::new(left.worker, left.sequence, Some(left.kept));
            for record in left.records {
                if pending.admit(&record) {
                    segment.push(record);
                    found += 1;
                } else {
                    pending.dropped += 1;
                }
            }
            pending.segments.push_back(segment);
        }
        if found > 0 {
            tracing::info!(
                found,
                "a worker before this one left log lines and receipts"
            );
        }
        Self(Arc::new(Inner {
            client,
            namespace,
            worker,
            pending: Mutex::new(pending),
            journal: Mutex::new(journal),
            unsaved: Notify::new(),
            saved: Notify::new(),
        }))
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        lock(&self.0.pending)
    }

    /// How many log lines and receipts wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.pending().waiting()
    }

    fn push(&self, record: RecordBody) {
        {
            let mut pending = self.pending();
            if !pending.admit(&record) {
                pending.dropped += 1;
                return;
            }
            pending.unsaved.push(record);
        }
        self.0.unsaved.notify_one();
    }

    /// Puts what has gathered into segments and their files. Blocking.
    fn save(&self) {
        let mut journal = lock(&self.0.journal);
        let records = std::mem::take(&mut self.pending().unsaved);
        let mut records = records.into_iter().peekable();
        while records.peek().is_some() {
            let open = {
                let mut pending = self.pending();
                let last = pending.segments.back();
                let ours = last.is_some_and(|last| last.body.worker == self.0.worker);
                if ours && last.is_some_and(|last| !last.is_full()) {
                    pending.segments.pop_back()
                } else {
                    None
                }
            };
            let mut segment = open.unwrap_or_else(|| {
                let (sequence, kept) = journal.begin();
                Segment::new(self.0.worker, sequence, kept)
            });
            let from = segment.body.records.len();
            while !segment.is_full()
                && let Some(record) = records.next()
            {
                segment.push(record);
            }
            if let Some(kept) = &mut segment.kept
                && let Err(error) = kept.append(&segment.body.records[from..])
            {
                journal.failed(&error);
            }
            self.pending().segments.push_back(segment);
        }
        drop(journal);
        self.0.saved.notify_one();
    }

    /// The next batch; none where nothing waits.
    fn take(&self) -> Option<Segment> {
        let mut journal = lock(&self.0.journal);
        let mut pending = self.pending();
        let mut segment = pending.segments.pop_front();
        let progress: Vec<_> = pending.progress.drain().map(|(_, record)| record).collect();
        drop(pending);
        if !progress.is_empty() {
            // One that was left keeps what it had: it may have been taken.
            match &mut segment {
                Some(segment) if segment.body.worker == self.0.worker => {
                    segment.body.records.extend(progress);
                }
                Some(_) => self.pending().keep_progress(progress),
                None => {
                    let mut own = Segment::new(self.0.worker, journal.skip(), None);
                    own.body.records = progress;
                    segment = Some(own);
                }
            }
        }
        segment
    }

    /// Leaves on disk what another worker had left, from this segment on: it is of namespaces
    /// that this one's token does not open. With it all that comes after, since the server
    /// takes none any more once it took a later one. Answers how many records.
    fn leave(&self, first: Segment) -> usize {
        let mut pending = self.pending();
        let (left, rest) = std::mem::take(&mut pending.segments)
            .into_iter()
            .partition::<VecDeque<_>, _>(|segment| segment.body.worker == first.body.worker);
        pending.segments = rest;
        let left = std::iter::once(first).chain(left);
        left.map(|segment| {
            pending.forget(&segment.body.records);
            segment.body.records.len()
        })
        .sum()
    }

    /// Sends records until `stop` is cancelled, and then, for a while, what is left.
    pub async fn run(self, stop: CancellationToken) {
        let saving = async {
            loop {
                self.0.unsaved.notified().await;
                tokio::time::sleep(SETTLE).await;
                let spool = self.clone();
                server::blocking(move || spool.save()).await;
            }
        };
        let mut batch = None;
        let sending = async {
            loop {
                self.send_all(&mut batch).await;
                self.0.saved.notified().await;
                tokio::time::sleep(GATHER).await;
            }
        };
        tokio::select! {
            () = async { tokio::join!(saving, sending); } => {}
            () = stop.cancelled() => {}
        }
        let spool = self.clone();
        server::blocking(move || spool.save()).await;
        let last = self.send_all(&mut batch);
        if tokio::time::timeout(LAST_TRIES, last).await.is_err() {
            let left = self.waiting() + batch.map_or(0, |batch| batch.body.records.len());
            tracing::error!(
                left,
                "the server is away: log lines and receipts are left for the next worker here"
            );
        }
    }

    /// Sends all that waits. A batch stays in `batch` until it was taken.
    async fn send_all(&self, batch: &mut Option<Segment>) {
        loop {
            if batch.is_none() {
                // Not on a thread of its own: what was taken there would be lost where this
                // is given up meanwhile. It waits for a short write at most.
                *batch = self.take();
            }
            let Some(segment) = batch else {
                return;
            };
            let client = self.0.client.impatient();
            let sent = client.post::<()>(&self.0.namespace, &["records"], &segment.body);
            match sent.await {
                Ok(()) => {}
                Err(error) if error.is_for_what_was_sent() => {
                    // It would be refused for ever.
                    let dropped = segment.body.records.len();
                    tracing::error!(%error, dropped, "log lines and receipts were refused");
                    self.pending().dropped += dropped as u64;
                }
                Err(error) if error.is_not_opened() && segment.body.worker != self.0.worker => {
                    if let Some(segment) = batch.take() {
                        let left = self.leave(segment);
                        tracing::warn!(
                            %error, left,
                            "what an earlier worker left stays for one whose token opens it"
                        );
                    }
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "log lines and receipts wait for the server");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            }
            self.pending().forget(&segment.body.records);
            if let Some(kept) = batch.take().and_then(|segment| segment.kept) {
                server::blocking(move || kept.remove()).await;
            }
        }
    }
}

impl Records for Spool {
    fn log(&self, attempt: &Arc<AttemptName>, line: LogLine) {
        self.push(RecordBody {
            attempt: AttemptBody::from(attempt.as_ref()),
            said: Said::Log(line),
        });
    }

    fn receipt(&self, row: ReceiptRow) {
        self.push(row.into());
    }

    fn progress(&self, attempt: &Arc<AttemptName>, progress: &Progress) {
        let key = (attempt.run_id, attempt.activity_id.clone(), attempt.attempt);
        let record = RecordBody {
            attempt: AttemptBody::from(attempt.as_ref()),
            said: Said::Progress(progress.clone()),
        };
        {
            let mut pending = self.pending();
            if pending.progress.len() >= MAX_PROGRESS && !pending.progress.contains_key(&key) {
                // The next one says more: none is missed.
                return;
            }
            pending.progress.insert(key, record);
        }
        self.0.saved.notify_one();
    }

    fn dropped_ever(&self) -> u64 {
        self.pending().dropped
    }
}

#[cfg(test)]
mod tests;
