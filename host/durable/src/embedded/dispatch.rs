//! Queues: how many activities each runs at once, and who is next.
//!
//! Strictly in the order of arrival. A [`Slot`] is a right to run one attempt; dropping
//! it gives it to whoever waits longest, by calling `grant`. Nothing here is stored: the
//! history says what waits, and recovery queues it again.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use jiff::Timestamp;
use uuid::Uuid;

use super::lock;
use crate::engine::QueueStats;

/// An attempt that waits for a slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Waiting {
    /// The run.
    pub run_id: Uuid,
    /// The activity.
    pub activity_id: String,
    /// The attempt.
    pub attempt: u32,
}

#[derive(Debug, Default)]
struct Queue {
    limit: usize,
    in_flight: usize,
    next_ticket: u64,
    waiting: BTreeMap<u64, (Waiting, Timestamp)>,
    tickets: HashMap<Waiting, u64>,
}

type Grant = Box<dyn Fn(Waiting, Slot) + Send + Sync>;

/// All queues.
pub struct Queues {
    queues: BTreeMap<String, Mutex<Queue>>,
    grant: OnceLock<Grant>,
    closed: AtomicBool,
}

/// The right to run one attempt.
pub struct Slot {
    queues: Arc<Queues>,
    queue: String,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.queues.release(&self.queue);
    }
}

impl Queues {
    /// Queues with these limits.
    pub fn new(limits: &BTreeMap<String, usize>) -> Arc<Self> {
        let queues = limits.iter().map(|(name, limit)| {
            let queue = Queue {
                limit: *limit,
                ..Queue::default()
            };
            (name.clone(), Mutex::new(queue))
        });
        Arc::new(Self {
            queues: queues.collect(),
            grant: OnceLock::new(),
            closed: AtomicBool::new(false),
        })
    }

    /// Who is told of a slot that became free; once.
    pub fn on_grant(&self, grant: impl Fn(Waiting, Slot) + Send + Sync + 'static) {
        // A second call would be a bug of the engine's own, and changes nothing.
        let _ = self.grant.set(Box::new(grant));
    }

    /// Whether there is such a queue.
    pub fn has(&self, queue: &str) -> bool {
        self.queues.contains_key(queue)
    }

    /// Names of all queues, for messages.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.queues.keys().map(String::as_str).collect();
        names.join(", ")
    }

    /// Gives out no slot any more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// A slot, if one is free and nobody waits.
    pub fn try_acquire(self: &Arc<Self>, name: &str) -> Option<Slot> {
        let mut queue = lock(self.queues.get(name)?);
        if self.is_closed() || queue.in_flight >= queue.limit || !queue.waiting.is_empty() {
            return None;
        }
        queue.in_flight += 1;
        Some(self.slot(name))
    }

    fn slot(self: &Arc<Self>, name: &str) -> Slot {
        Slot {
            queues: Arc::clone(self),
            queue: name.to_owned(),
        }
    }

    /// Waits for a slot, since that time.
    pub fn enqueue(self: &Arc<Self>, name: &str, waiting: Waiting, since: Timestamp) {
        if let Some(queue) = self.queues.get(name) {
            let mut queue = lock(queue);
            let ticket = queue.next_ticket;
            queue.next_ticket += 1;
            queue.tickets.insert(waiting.clone(), ticket);
            queue.waiting.insert(ticket, (waiting, since));
        }
        self.serve(name);
    }

    /// Waits no more.
    pub fn withdraw(&self, name: &str, waiting: &Waiting) {
        if let Some(queue) = self.queues.get(name) {
            let mut queue = lock(queue);
            if let Some(ticket) = queue.tickets.remove(waiting) {
                queue.waiting.remove(&ticket);
            }
        }
    }

    fn release(self: &Arc<Self>, name: &str) {
        if let Some(queue) = self.queues.get(name) {
            let mut queue = lock(queue);
            queue.in_flight = queue.in_flight.saturating_sub(1);
        }
        self.serve(name);
    }

    /// Gives free slots to those who wait longest.
    fn serve(self: &Arc<Self>, name: &str) {
        let (Some(queue), Some(grant)) = (self.queues.get(name), self.grant.get()) else {
            return;
        };
        loop {
            let waiting = {
                let mut queue = lock(queue);
                if self.is_closed() || queue.in_flight >= queue.limit {
                    return;
                }
                let Some((_, (waiting, _))) = queue.waiting.pop_first() else {
                    return;
                };
                queue.tickets.remove(&waiting);
                queue.in_flight += 1;
                waiting
            };
            grant(waiting, self.slot(name));
        }
    }

    /// What they are doing.
    pub fn stats(&self, now: Timestamp) -> Vec<QueueStats> {
        let stats = self.queues.iter().map(|(name, queue)| {
            let queue = lock(queue);
            let oldest = queue.waiting.values().next().map(|(_, since)| *since);
            let age = oldest.map_or(0, |since| now.duration_since(since).as_millis());
            QueueStats {
                namespace: None,
                name: name.clone(),
                limit: queue.limit,
                in_flight: queue.in_flight,
                backlog: queue.waiting.len(),
                backlog_age_ms: u64::try_from(age).unwrap_or(0),
                workflow_tasks: None,
            }
        });
        stats.collect()
    }

    /// Attempts that run, over all queues.
    pub fn in_flight(&self) -> usize {
        self.queues
            .values()
            .map(|queue| lock(queue).in_flight)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(number: u128) -> Waiting {
        Waiting {
            run_id: Uuid::from_u128(number),
            activity_id: "1".to_owned(),
            attempt: 1,
        }
    }

    #[test]
    fn slots_are_given_in_the_order_of_arrival_and_never_over_the_limit() {
        let queues = Queues::new(&BTreeMap::from([("q".to_owned(), 2)]));
        let granted = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&granted);
        queues.on_grant(move |waiting, slot| lock(&sink).push((waiting, slot)));
        let first = queues.try_acquire("q").unwrap();
        let _second = queues.try_acquire("q").unwrap();
        assert!(queues.try_acquire("q").is_none());
        for number in 1..=3 {
            queues.enqueue("q", waiting(number), Timestamp::UNIX_EPOCH);
        }
        queues.withdraw("q", &waiting(1));
        drop(first);
        assert_eq!(lock(&granted)[0].0, waiting(2));
        assert_eq!(lock(&granted).len(), 1);
        let slot = lock(&granted).pop();
        drop(slot);
        assert_eq!(lock(&granted)[0].0, waiting(3));
        let stats = queues.stats(Timestamp::UNIX_EPOCH);
        assert_eq!((stats[0].in_flight, stats[0].backlog), (2, 0));
    }
}
