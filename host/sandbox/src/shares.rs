//! How many slots of a queue may wait for one binding.
//!
//! An attempt keeps its slot of the queue while it waits for a database, so a database that
//! does not answer would in time have all slots of the queue, and whatever else the queue is
//! for would wait with it. So three quarters of a queue's slots, and one less than there are,
//! is the most that attempts have which wait for one binding, or hold something open there (a
//! transaction, a cursor, a response); a queue of one slot has nothing to share. An attempt
//! has one place, however many of its calls wait.
//!
//! A call for which there is no place waits for one as long as places come back soon, within
//! [`PATIENCE`]. Where none did for so long, the binding is taken to hang: that call is refused,
//! and every further one that finds no place at once, until one comes back soon. What only
//! comes back when it has waited for long does not count: that is how calls of a backend that
//! hangs end, too.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// A binding that answers nothing for so long hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many places never come back soon.
const NEVER: u64 = u64::MAX;

/// What the attempts of a process share.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    /// The slots of each queue.
    queues: BTreeMap<String, usize>,
    known: Mutex<HashMap<Key, Weak<Share>>>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    queue: String,
    namespace: String,
    capability: &'static str,
    binding: String,
}

impl Shares {
    /// Of these queues, each with its slots.
    pub(crate) fn new(queues: BTreeMap<String, usize>) -> Self {
        Self {
            queues,
            known: Mutex::default(),
        }
    }

    /// None where the queue is not known.
    fn find(&self, key: Key) -> Option<Arc<Share>> {
        let slots = *self.queues.get(&key.queue)?;
        let mut known = lock(&self.known);
        if let Some(share) = known.get(&key).and_then(Weak::upgrade) {
            return Some(share);
        }
        known.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Share::of(slots));
        known.insert(key, Arc::downgrade(&share));
        Some(share)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held leaves nothing half-done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one binding may have of one queue.
#[derive(Debug)]
struct Share {
    free: Arc<Semaphore>,
    /// Places that came back soon.
    returned: AtomicU64,
    /// How many had come back so when a call gave up last.
    gave_up: AtomicU64,
}

/// How many of so many slots may wait for one binding.
fn share(slots: usize) -> usize {
    slots
        .saturating_mul(3)
        .div_ceil(4)
        .min(slots.saturating_sub(1))
        .max(1)
}

impl Share {
    fn of(slots: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(share(slots))),
            returned: AtomicU64::new(0),
            gave_up: AtomicU64::new(NEVER),
        }
    }

    fn try_take(self: &Arc<Self>) -> Option<HeldShare> {
        let place = Arc::clone(&self.free).try_acquire_owned().ok()?;
        Some(self.held(place))
    }

    /// Waits for a place as long as places come back soon.
    async fn take(self: &Arc<Self>) -> Option<HeldShare> {
        // It keeps its turn among those who wait.
        let mut place = pin!(Arc::clone(&self.free).acquire_owned());
        loop {
            let returned = self.returned.load(Ordering::Acquire);
            if self.gave_up.load(Ordering::Acquire) == returned {
                return None;
            }
            match timeout(PATIENCE, place.as_mut()).await {
                // It is never closed.
                Ok(place) => return Some(self.held(place.ok()?)),
                Err(_) if self.returned.load(Ordering::Acquire) == returned => {
                    self.gave_up.store(returned, Ordering::Release);
                    return None;
                }
                Err(_) => {}
            }
        }
    }

    fn held(self: &Arc<Self>, place: OwnedSemaphorePermit) -> HeldShare {
        HeldShare {
            share: Arc::clone(self),
            since: Instant::now(),
            _place: place,
        }
    }
}

/// An attempt's place among those that wait for a binding, or hold something open there; it
/// comes back when it is dropped.
#[derive(Debug)]
pub struct HeldShare {
    share: Arc<Share>,
    since: Instant,
    _place: OwnedSemaphorePermit,
}

impl Drop for HeldShare {
    fn drop(&mut self) {
        if self.since.elapsed() < PATIENCE {
            self.share.returned.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// The bindings that one attempt waits for.
#[derive(Debug)]
pub(crate) struct Seats {
    shares: Arc<Shares>,
    queue: String,
    namespace: String,
    known: Mutex<Vec<Arc<Seat>>>,
}

impl Seats {
    pub(crate) fn new(shares: &Arc<Shares>, queue: &str, namespace: &str) -> Self {
        Self {
            shares: Arc::clone(shares),
            queue: queue.to_owned(),
            namespace: namespace.to_owned(),
            known: Mutex::default(),
        }
    }

    /// The attempt's seat at a binding that it was granted; none where its queue is not
    /// known.
    pub(crate) fn find(&self, capability: &'static str, binding: &str) -> Option<Arc<Seat>> {
        let mut known = lock(&self.known);
        let found = known
            .iter()
            .find(|seat| seat.capability == capability && seat.binding == binding);
        if let Some(seat) = found {
            return Some(Arc::clone(seat));
        }
        let share = self.shares.find(Key {
            queue: self.queue.clone(),
            namespace: self.namespace.clone(),
            capability,
            binding: binding.to_owned(),
        })?;
        let seat = Arc::new(Seat {
            capability,
            binding: binding.to_owned(),
            share,
            held: Mutex::default(),
        });
        known.push(Arc::clone(&seat));
        Some(seat)
    }
}

/// One attempt and one binding.
#[derive(Debug)]
pub(crate) struct Seat {
    capability: &'static str,
    binding: String,
    share: Arc<Share>,
    /// What all calls of the attempt have together, while any does.
    held: Mutex<Weak<HeldShare>>,
}

impl Seat {
    /// The place that the attempt has, or one that is free.
    pub(crate) fn try_take(&self) -> Option<Arc<HeldShare>> {
        let mut held = lock(&self.held);
        if let Some(place) = held.upgrade() {
            return Some(place);
        }
        let place = Arc::new(self.share.try_take()?);
        *held = Arc::downgrade(&place);
        Some(place)
    }

    /// Waits for a place; none where the binding hangs.
    pub(crate) async fn take(&self) -> Option<Arc<HeldShare>> {
        let place = Arc::new(self.share.take().await?);
        *lock(&self.held) = Arc::downgrade(&place);
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(queues: &[(&str, usize)]) -> Arc<Shares> {
        let queues = queues
            .iter()
            .map(|(name, slots)| ((*name).to_owned(), *slots));
        Arc::new(Shares::new(queues.collect()))
    }

    fn seat(shares: &Arc<Shares>, queue: &str, binding: &str) -> Option<Arc<Seat>> {
        Seats::new(shares, queue, "default").find("sql", binding)
    }

    #[test]
    fn one_binding_leaves_a_slot_of_every_queue_but_of_one() {
        for (slots, share) in [(1, 1), (2, 1), (3, 2), (4, 3), (5, 4), (20, 15), (50, 38)] {
            let shares = shares(&[("queue", slots)]);
            let held: Vec<_> = (0..slots)
                .map_while(|_| seat(&shares, "queue", "main").unwrap().try_take())
                .collect();
            assert_eq!(held.len(), share, "{slots}");
        }
        assert!(seat(&shares(&[]), "queue", "main").is_none());
    }

    #[test]
    fn an_attempt_has_one_place_at_each_binding_of_each_queue() {
        let shares = shares(&[("queue", 2), ("other", 2)]);
        let seats = Seats::new(&shares, "queue", "default");
        let first = seats.find("sql", "main").unwrap();
        let place = first.try_take().unwrap();
        let again = seats.find("sql", "main").unwrap().try_take().unwrap();
        assert!(Arc::ptr_eq(&place, &again));
        let second = seat(&shares, "queue", "main").unwrap();
        assert!(second.try_take().is_none());
        seat(&shares, "queue", "further")
            .unwrap()
            .try_take()
            .unwrap();
        seat(&shares, "other", "main").unwrap().try_take().unwrap();
        let elsewhere = Seats::new(&shares, "queue", "elsewhere");
        elsewhere.find("sql", "main").unwrap().try_take().unwrap();
        drop(place);
        assert!(second.try_take().is_none(), "the attempt has it still");
        drop(again);
        second.try_take().unwrap();
        // What nobody has any more is forgotten.
        drop((first, second, seats, elsewhere));
        seat(&shares, "queue", "new").unwrap();
        assert_eq!(lock(&shares.known).len(), 1);
    }

    #[tokio::test]
    async fn who_waits_is_served_while_places_come_back_and_refused_when_none_does() {
        let shares = shares(&[("queue", 2)]);
        let seats = [(); 4].map(|()| seat(&shares, "queue", "main").unwrap());
        let refused_at_once = async |seat: &Seat| {
            let mut waits = pin!(seat.take());
            matches!(futures::poll!(waits.as_mut()), std::task::Poll::Ready(None))
        };
        let place = seats[0].try_take().unwrap();
        let mut waits = pin!(seats[1].take());
        assert!(futures::poll!(waits.as_mut()).is_pending());
        drop(place);
        let place = waits.await.expect("it came back");
        assert!(seats[2].take().await.is_none(), "none came back");
        assert!(refused_at_once(&seats[3]).await);
        // It was waited for long: the next may be, too.
        drop(place);
        let place = seats[3].try_take().expect("free");
        assert!(refused_at_once(&seats[2]).await);
        // It is answered again.
        drop(place);
        let _place = seats[0].try_take().expect("free");
        assert!(!refused_at_once(&seats[2]).await);
    }
}
