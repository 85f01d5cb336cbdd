//! Who follows a run's live events, whichever engine runs it.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::broadcast;
use uuid::Uuid;

use crate::embedded::lock;
use crate::engine::LiveEvent;

/// Events that a slow receiver may be behind before it misses some.
const BEHIND: usize = 64;

/// The followers, by run.
#[derive(Debug, Default)]
pub(crate) struct LiveEvents(Mutex<HashMap<Uuid, broadcast::Sender<LiveEvent>>>);

impl LiveEvents {
    /// Follows a run. Forgets those whom nobody follows any more.
    pub fn follow(&self, run_id: Uuid) -> broadcast::Receiver<LiveEvent> {
        let mut live = lock(&self.0);
        live.retain(|_, sender| sender.receiver_count() > 0);
        live.entry(run_id)
            .or_insert_with(|| broadcast::channel(BEHIND).0)
            .subscribe()
    }

    /// Tells those who follow a run.
    pub fn tell(&self, run_id: Uuid, event: LiveEvent) {
        if let Some(live) = lock(&self.0).get(&run_id) {
            // Nobody may be listening.
            let _ = live.send(event);
        }
    }

    /// The run has ended: its followers are told no more.
    pub fn end(&self, run_id: Uuid) {
        lock(&self.0).remove(&run_id);
    }
}
