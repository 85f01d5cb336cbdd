//! How much of one plugin runs at once, and how often it begins, in this process. A plugin of
//! the same name in another namespace is another plugin: it has turns of its own.
//!
//! An attempt waits for its turn after its task was taken, so it has a slot of its queue
//! and its start-to-close timeout runs: a plugin that is held back a lot has a queue of
//! its own. Turns come in the order in which they were asked for.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::config::ThrottleConfig;

/// What may begin at once after a time of quiet.
const BURST: Duration = Duration::from_secs(1);

/// Turns of the plugins that are held back.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    config: BTreeMap<String, ThrottleConfig>,
    /// By namespace and name, of those that had an attempt.
    turns: Mutex<HashMap<(String, String), Arc<Turns>>>,
}

#[derive(Debug)]
struct Turns {
    places: Option<Arc<Semaphore>>,
    pace: Option<Pace>,
}

/// An even pace, by when the next turn would be if there had been no quiet.
#[derive(Debug)]
struct Pace {
    interval: Duration,
    next: Mutex<Option<Instant>>,
}

/// A turn, as long as it lives.
#[derive(Debug)]
pub(super) struct Turn {
    _place: Option<OwnedSemaphorePermit>,
}

impl Turns {
    fn new(config: &ThrottleConfig) -> Self {
        Self {
            places: config
                .concurrent
                .map(|places| Arc::new(Semaphore::new(places))),
            pace: config.per_second.map(|rate| Pace {
                interval: Duration::from_secs_f64(1.0 / rate),
                next: Mutex::default(),
            }),
        }
    }
}

impl Throttle {
    /// As configured.
    pub(super) fn new(config: &BTreeMap<String, ThrottleConfig>) -> Self {
        Self {
            config: config.clone(),
            turns: Mutex::default(),
        }
    }

    /// Waits until an attempt of that plugin may go on.
    pub(super) async fn turn(&self, namespace: &str, plugin: &str) -> Turn {
        let Some(turns) = self.turns(namespace, plugin) else {
            return Turn { _place: None };
        };
        let place = match &turns.places {
            // Never closed.
            Some(places) => Arc::clone(places).acquire_owned().await.ok(),
            None => None,
        };
        if let Some(pace) = &turns.pace {
            tokio::time::sleep_until(pace.take(Instant::now())).await;
        }
        Turn { _place: place }
    }

    /// Those of that plugin; none where it is not held back.
    fn turns(&self, namespace: &str, plugin: &str) -> Option<Arc<Turns>> {
        let config = self.config.get(plugin)?;
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let of_plugin = turns
            .entry((namespace.to_owned(), plugin.to_owned()))
            .or_insert_with(|| Arc::new(Turns::new(config)));
        Some(Arc::clone(of_plugin))
    }
}

impl Pace {
    /// When the next turn is. One who does not wait for it has had it.
    fn take(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        // Of a time of quiet so much is made good.
        let saved = BURST.saturating_sub(self.interval);
        let earliest = now.checked_sub(saved).unwrap_or(now);
        let at = next.map_or(earliest, |next| next.max(earliest));
        *next = Some(at + self.interval);
        at.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle(concurrent: Option<usize>, per_second: Option<f64>) -> Throttle {
        let config = ThrottleConfig {
            concurrent,
            per_second,
        };
        Throttle::new(&BTreeMap::from([("slow".to_owned(), config)]))
    }

    /// How long after the first each of so many turns is that are asked for at once.
    fn turns(per_second: f64, count: usize) -> Vec<u128> {
        let throttle = throttle(None, Some(per_second));
        let own = throttle.turns("default", "slow").expect("it is held back");
        let pace = own.pace.as_ref().expect("it has one");
        let now = Instant::now();
        let turns = (0..count).map(|_| pace.take(now).duration_since(now).as_millis());
        turns.collect()
    }

    #[test]
    fn so_many_begin_each_second() {
        let turns = turns(10.0, 30);
        assert!(
            turns[..10].iter().all(|turn| *turn == 0),
            "what quiet saved"
        );
        assert_eq!((turns[10], turns[29]), (100, 2_000));
    }

    #[test]
    fn less_than_one_in_a_second_begin_apart() {
        assert_eq!(turns(0.5, 3), [0, 2_000, 4_000]);
    }

    #[tokio::test]
    async fn only_the_named_plugin_is_held_back() {
        let throttle = throttle(Some(1), Some(0.001));
        let _held = throttle.turn("default", "slow").await;
        throttle.turn("default", "other").await;
    }

    #[tokio::test]
    async fn so_many_run_at_once() {
        let throttle = throttle(Some(2), None);
        let first = throttle.turn("default", "slow").await;
        let _second = throttle.turn("default", "slow").await;
        let mut third = std::pin::pin!(throttle.turn("default", "slow"));
        assert!(
            futures::poll!(&mut third).is_pending(),
            "there is no third place"
        );
        drop(first);
        third.await;
    }

    #[tokio::test]
    async fn a_plugin_of_another_namespace_has_turns_of_its_own() {
        let throttle = throttle(Some(1), Some(0.001));
        let _held = throttle.turn("team-a", "slow").await;
        let mut second = std::pin::pin!(throttle.turn("team-a", "slow"));
        assert!(
            futures::poll!(&mut second).is_pending(),
            "it has had its own"
        );
        throttle.turn("team-b", "slow").await;
    }
}
