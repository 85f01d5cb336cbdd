//! Copies of vectors in memory, beside a store in SQLite.
//!
//! The file is the truth. Of a collection, or of each tenant of it, that is searched there is
//! a copy of its vectors (`quantized`), made behind the first search, which is answered
//! without it. A copy is that of one version (`sqlite_changes`). A search takes its turn at
//! the copy before its transaction reads anything, so that it never sees an older state than
//! the copy's; it looks which version its own transaction sees, and brings the copy there by
//! reading the rows that changed. Who wrote them, here or in another process, does not matter.
//! Where too much changed, or the copy is of a state that is no more, it is made anew.
//!
//! All copies of a store keep to a limit. What does not fit takes the place of what was not
//! asked for of late, or is searched without a copy.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use sqlx::Row as _;
use tokio::sync::OwnedMutexGuard;

use super::Target;
use super::quantized::{MOST_DIMENSIONS, Quantized};
use super::sqlite_changes::{between, version};
use super::sqlite_error::Failed;
use super::sqlite_filter::{Param, Statement};
use super::sqlite_search::Reading;
use super::sqlite_tables::vector;

/// A copy that was not asked for so long makes room, and what did not fit is not tried again.
const IDLE: Duration = Duration::from_secs(60);
/// Rows that a search reads again to bring a copy up to date, and bytes of their vectors.
const AGAIN: u64 = 8_192;
const AGAIN_BYTES: u64 = 16 << 20;
/// Vectors of which the middle is taken.
const SAMPLE: i64 = 256;
/// Four times as many vectors as there were, and so many more, have another middle.
const GROWN: usize = 1_000;
/// So many targets have a place for a copy.
const SLOTS: usize = 10_000;
/// What a copy takes besides its vectors.
const OVERHEAD: u64 = 1_024;

/// The copies of a store.
#[derive(Debug)]
pub(super) struct Copies {
    limit: u64,
    /// That are in use.
    bytes: Arc<AtomicU64>,
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    /// One is made after the other, so that others can read meanwhile.
    making: tokio::sync::Mutex<()>,
    closed: AtomicBool,
    /// Searches that were given a copy.
    #[cfg(test)]
    pub(super) answered: AtomicU64,
}

/// A collection's key, and a tenant's name.
type Key = (String, Option<String>);

/// Rows that changed, with the vectors that they have now.
type Changes = Vec<(i64, Option<Vec<f32>>)>;

/// The place of a copy.
#[derive(Debug)]
struct Slot {
    state: Arc<tokio::sync::Mutex<State>>,
    used: Mutex<Instant>,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            used: Mutex::new(Instant::now()),
        }
    }
}

impl Slot {
    fn use_now(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether it was asked for of late.
    fn is_used(&self) -> bool {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.elapsed() < IDLE
    }
}

#[derive(Debug, Default)]
struct State {
    copy: Option<Copy>,
    making: bool,
    not_before: Option<Instant>,
}

/// The vectors of one version.
#[derive(Debug)]
pub(super) struct Copy {
    version: i64,
    vectors: Arc<Quantized>,
    /// How many there were when their middle was taken.
    made_of: usize,
    taken: Taken,
}

/// Bytes that are in use until this is dropped.
#[derive(Debug)]
struct Taken {
    all: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Copies {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            bytes: Arc::default(),
            slots: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            closed: AtomicBool::new(false),
            #[cfg(test)]
            answered: AtomicU64::new(0),
        }
    }

    /// No more copies, also of what is being made.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Frees what there is of a dropped tenant, or of a dropped collection.
    pub(super) fn forget(&self, collection: &str, tenant: Option<&str>) {
        self.slots().retain(|(of, name), _| {
            of != collection || tenant.is_some() && name.as_deref() != tenant
        });
    }

    /// The turn at a target's copy; for a transaction that has not read anything yet.
    pub(super) async fn turn(self: &Arc<Self>, target: &Target) -> Option<Turn> {
        if self.limit == 0
            || self.closed.load(Ordering::Acquire)
            || target.collection.specification.dimensions > MOST_DIMENSIONS
        {
            return None;
        }
        let key = (target.collection.key.clone(), target.tenant.clone());
        let slot = {
            let mut slots = self.slots();
            if slots.len() >= SLOTS && !slots.contains_key(&key) {
                slots.retain(|_, slot| slot.is_used());
                if slots.len() >= SLOTS {
                    return None;
                }
            }
            Arc::clone(slots.entry(key).or_default())
        };
        slot.use_now();
        let state = Arc::clone(&slot.state).lock_owned().await;
        Some(Turn {
            copies: Arc::clone(self),
            slot,
            state,
        })
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing yet.
    fn nothing(&self) -> Taken {
        Taken {
            all: Arc::clone(&self.bytes),
            bytes: 0,
        }
    }

    /// Takes so many bytes in all, if need be those of what nobody asked for of late; answers
    /// whether there is room.
    fn resize(&self, taken: &mut Taken, bytes: u64) -> bool {
        let change = |all: u64| {
            let all = all.saturating_sub(taken.bytes).saturating_add(bytes);
            (bytes <= taken.bytes || all <= self.limit).then_some(all)
        };
        let try_take = || {
            let changed = self
                .bytes
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
            changed.is_ok()
        };
        let mut has_room = try_take();
        if !has_room && bytes <= self.limit {
            self.slots().retain(|_, slot| slot.is_used());
            has_room = try_take();
        }
        if has_room {
            taken.bytes = bytes;
        }
        has_room
    }

    /// Waits until nothing is being made.
    #[cfg(test)]
    pub(super) async fn settled(&self) {
        loop {
            drop(self.making.lock().await);
            let slots: Vec<Arc<Slot>> = self.slots().values().cloned().collect();
            let mut making = false;
            for slot in slots {
                making |= slot.state.lock().await.making;
            }
            if !making {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Bytes that are in use.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }
}

/// A copy's place that is to be filled.
#[derive(Debug)]
pub(super) struct Due {
    copies: Arc<Copies>,
    slot: Arc<Slot>,
}

impl Due {
    /// All copies of the store.
    pub(super) fn copies(&self) -> Arc<Copies> {
        Arc::clone(&self.copies)
    }

    /// Fills it by what `made` makes, after what is made already.
    pub(super) async fn fill(self, made: impl Future<Output = Option<Copy>>) {
        let _one = self.copies.making.lock().await;
        let made = made.await;
        let mut state = self.slot.state.lock().await;
        state.making = false;
        match made {
            Some(made) => state.copy = Some(made),
            // Not at once: it may never fit.
            None => state.not_before = Some(Instant::now() + IDLE),
        }
    }
}

/// A search's turn at a copy.
#[derive(Debug)]
pub(super) struct Turn {
    copies: Arc<Copies>,
    slot: Arc<Slot>,
    state: OwnedMutexGuard<State>,
}

impl Turn {
    /// The vectors that the transaction sees, if there is a copy; and what is to be filled
    /// for the next search.
    pub(super) async fn vectors(
        mut self,
        reading: &mut Reading<'_>,
    ) -> Result<(Option<Arc<Quantized>>, Option<Due>), Failed> {
        let seen = version(reading.connection, reading.tables, reading.tenant).await?;
        let version = self.state.copy.as_ref().map(|copy| copy.version);
        if let Some(version) = version.filter(|version| *version != seen) {
            let changes = changes(reading, version, seen).await?;
            let copy = self.state.copy.take();
            self.state.copy = copy.and_then(|copy| copy.with(changes?, seen, &self.copies));
        }
        let state = &mut *self.state;
        let fits = state
            .copy
            .as_ref()
            .is_some_and(|copy| copy.vectors.len() <= 4 * copy.made_of + GROWN);
        let now = Instant::now();
        let may = state.not_before.is_none_or(|then| then <= now);
        let due = !fits && may && !state.making;
        state.making |= due;
        let vectors = state.copy.as_ref().map(|copy| Arc::clone(&copy.vectors));
        #[cfg(test)]
        self.copies
            .answered
            .fetch_add(vectors.is_some().into(), Ordering::Relaxed);
        let due = due.then_some(Due {
            copies: self.copies,
            slot: self.slot,
        });
        Ok((vectors, due))
    }
}

impl Copy {
    /// With what changed; none where it does not fit any more.
    fn with(mut self, changes: Changes, version: i64, copies: &Copies) -> Option<Self> {
        self.version = version;
        let vectors = Arc::make_mut(&mut self.vectors);
        for (row, vector) in changes {
            match vector {
                Some(vector) => vectors.set(row, &vector),
                None => vectors.remove(row),
            }
        }
        self.fitted(copies)
    }

    /// With the bytes that it takes; none where there is no room.
    fn fitted(mut self, copies: &Copies) -> Option<Self> {
        let bytes = self.vectors.bytes() + OVERHEAD;
        copies.resize(&mut self.taken, bytes).then_some(self)
    }
}

/// The rows that changed between two versions, with the vectors that they have now; none
/// where that is not known, or too much.
async fn changes(reading: &mut Reading<'_>, from: i64, to: i64) -> Result<Option<Changes>, Failed> {
    let most = AGAIN.min(AGAIN_BYTES / (4 * u64::from(reading.specification.dimensions)));
    let (tables, tenant) = (reading.tables, reading.tenant);
    let changed = between(reading.connection, tables, tenant, (from, to), most).await?;
    let Some(changed) = changed else {
        return Ok(None);
    };
    let mut now: HashMap<i64, Vec<f32>> =
        vectors_of(reading, &changed).await?.into_iter().collect();
    let with_vectors = changed.into_iter().map(|row| (row, now.remove(&row)));
    Ok(Some(with_vectors.collect()))
}

/// The vectors that some rows have.
async fn vectors_of(
    reading: &mut Reading<'_>,
    rows: &[i64],
) -> Result<Vec<(i64, Vec<f32>)>, Failed> {
    let mut statement = Statement::new(format!(
        "SELECT row, vector FROM {} WHERE row IN (SELECT value FROM json_each(",
        reading.tables.table("vectors")
    ));
    statement.param(Param::rows(rows)).push("))");
    let found = statement
        .query(true)
        .fetch_all(&mut *reading.connection)
        .await?;
    let each = found
        .iter()
        .map(|row| Ok((row.try_get(0)?, vector(row.try_get(1)?))));
    each.collect()
}

/// A copy of what the transaction sees; none where there is no room, or the store closes.
pub(super) async fn make(
    mut reading: Reading<'_>,
    copies: Arc<Copies>,
) -> Result<Option<Copy>, Failed> {
    let version = version(reading.connection, reading.tables, reading.tenant).await?;
    let count = reading.count(None).await?;
    let specification = reading.specification;
    let mut taken = copies.nothing();
    let bytes = Quantized::estimate(specification.dimensions, count) + OVERHEAD;
    if !copies.resize(&mut taken, bytes) {
        return Ok(None);
    }
    let sample = sample(&mut reading).await?;
    let mut vectors = Quantized::new(specification.distance, specification.dimensions, &sample);
    let mut statement = Statement::new(format!(
        "SELECT row, vector FROM {} WHERE ",
        reading.tables.table("vectors")
    ));
    reading.in_range(&mut statement, "row");
    statement.push(" ORDER BY row");
    let mut rows = statement.query(true).fetch(&mut *reading.connection);
    while let Some(row) = rows.try_next().await? {
        if copies.closed.load(Ordering::Acquire) {
            return Ok(None);
        }
        vectors.set(row.try_get(0)?, &vector(row.try_get(1)?));
    }
    drop(rows);
    vectors.shrink();
    let made = Copy {
        version,
        made_of: vectors.len(),
        vectors: Arc::new(vectors),
        taken,
    };
    Ok(made.fitted(&copies))
}

/// Vectors from all over the target.
async fn sample(reading: &mut Reading<'_>) -> Result<Vec<Vec<f32>>, Failed> {
    let (first, last) = (reading.end("min").await?, reading.end("max").await?);
    let (Some(first), Some(last)) = (first, last) else {
        return Ok(Vec::new());
    };
    let step = ((last - first) / SAMPLE).max(1) as usize;
    let rows: Vec<i64> = (first..=last).step_by(step).collect();
    let found = vectors_of(reading, &rows).await?;
    Ok(found.into_iter().map(|(_, vector)| vector).collect())
}
