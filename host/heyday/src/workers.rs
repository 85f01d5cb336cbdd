//! Who works for this server, and with which models. Workers tell it themselves, every few
//! seconds; it is kept in memory, or in the state that several servers share, and forgotten
//! when they fall silent.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use heyday_capabilities::inference::elsewhere::Elsewhere;
use jiff::Timestamp;
use uuid::Uuid;

use crate::state::{HostDb, StateError};
use crate::worker::announce::INTERVAL;
use crate::worker::wire::{AnnouncedModel, AnnouncementBody};

/// A worker that was not heard for so long is gone.
const SILENCE: Duration = INTERVAL.saturating_mul(3);
/// Workers that are known at once.
const MOST: usize = 10_000;

/// A worker that was heard lately.
#[derive(Debug, Clone)]
pub struct Heard {
    /// What it said last.
    pub body: AnnouncementBody,
    /// When it was first heard.
    pub since: Timestamp,
    /// When it was last heard.
    pub heard_at: Timestamp,
}

impl Heard {
    /// What it said of that model, if it has it.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&AnnouncedModel> {
        self.body.models.iter().find(|model| model.name == name)
    }
}

/// What one server alone keeps.
#[derive(Debug, Default)]
struct Memory(Mutex<HashMap<Uuid, (Heard, Instant)>>);

fn is_here(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < SILENCE
}

impl Memory {
    fn hear(&self, body: AnnouncementBody, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (_, at)| is_here(*at, now));
        let since = match all.get(&body.worker) {
            Some((heard, _)) => heard.since,
            // More than there can be are somebody's play.
            None if all.len() >= MOST => return,
            None => Timestamp::now(),
        };
        let heard = Heard {
            since,
            heard_at: Timestamp::now(),
            body,
        };
        all.insert(heard.body.worker, (heard, now));
    }

    fn list(&self, now: Instant) -> Vec<Heard> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = all.values().filter(|(_, at)| is_here(*at, now));
        here.map(|(heard, _)| heard.clone()).collect()
    }
}

/// The workers that were heard lately. Clones are handles of the same.
#[derive(Debug, Clone)]
pub struct Workers {
    memory: Arc<Memory>,
    state: HostDb,
}

impl Workers {
    /// None yet, but for those that another server of this state heard.
    #[must_use]
    pub fn new(state: HostDb) -> Self {
        Self {
            memory: Arc::default(),
            state,
        }
    }

    /// Takes what a worker says.
    ///
    /// # Errors
    /// When the state that servers share cannot be written.
    pub async fn hear(&self, body: AnnouncementBody) -> Result<(), StateError> {
        if !self.state.is_shared() {
            self.memory.hear(body, Instant::now());
            return Ok(());
        }
        // Names, numbers and digests cannot fail to be written.
        let text = serde_json::to_string(&body).unwrap_or_default();
        let hearing = self.state.hear_worker(&body.worker, &text, SILENCE, MOST);
        hearing.await
    }

    /// The workers of a namespace that any of the servers heard lately.
    ///
    /// # Errors
    /// When the state that servers share cannot be read.
    pub async fn of(&self, namespace: &str) -> Result<Vec<Heard>, StateError> {
        let mut all = if self.state.is_shared() {
            let rows = self.state.workers(SILENCE).await?;
            let known = rows.into_iter().filter_map(|row| {
                Some(Heard {
                    // Of a server of another version it may be anything.
                    body: serde_json::from_str(&row.announcement).ok()?,
                    since: row.since,
                    heard_at: row.heard_at,
                })
            });
            known.collect()
        } else {
            self.memory.list(Instant::now())
        };
        all.retain(|it| it.body.namespaces.iter().any(|name| name == namespace));
        Ok(all)
    }

    /// The queues whose workers have that model, of those of a namespace.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub async fn queues_with(
        &self,
        namespace: &str,
        model: &str,
    ) -> Result<Vec<String>, StateError> {
        let all = self.of(namespace).await?;
        let with = all.iter().filter(|it| it.model(model).is_some());
        let queues: BTreeSet<&String> = with.flat_map(|it| it.body.queues.keys()).collect();
        Ok(queues.into_iter().cloned().collect())
    }
}

/// For attempts that run in the server's own process, beside those of workers.
#[async_trait]
impl Elsewhere for Workers {
    async fn queues_with(&self, namespace: &str, model: &str) -> Result<Vec<String>, String> {
        let queues = Self::queues_with(self, namespace, model).await;
        queues.map_err(|error| crate::server::chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(worker: Uuid) -> AnnouncementBody {
        AnnouncementBody {
            worker,
            namespaces: vec!["default".to_owned()],
            queues: Default::default(),
            device: "cpu".to_owned(),
            models: Vec::new(),
        }
    }

    #[test]
    fn who_falls_silent_is_gone() {
        let workers = Memory::default();
        let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
        let begun = Instant::now();
        workers.hear(body(first), begun);
        let later = begun + INTERVAL * 2;
        workers.hear(body(second), later);
        workers.hear(body(second), later);
        assert_eq!(workers.list(later).len(), 2);
        let left = workers.list(later + INTERVAL * 2);
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].body.worker, second);
    }
}
