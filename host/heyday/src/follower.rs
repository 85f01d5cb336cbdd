//! What a server does to stay one of several on one state: says that it is there, follows
//! what the others change, and goes on with what one of them left.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use heyday_durable::activity::Progress;
use heyday_durable::engine::{Engine, LiveEvent};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::auth::Auth;
use crate::recorder::Recorder;
use crate::registry::follow::Moved;
use crate::registry::{Registry, RegistryError};
use crate::schedules::FlowSchedules;
use crate::state::backend::ACQUIRE_TIME;
use crate::state::changes::Head;
use crate::state::shared::{Ear, Heard, LOOK, Shared, UNSURE};
use crate::state::{HostDb, StateError};
use crate::tokens::WorkerTokens;

/// How long a request waits to learn what other servers changed, before it is answered by
/// what is known. A state that is busy is waited for: what another server acknowledged must be
/// found here, as long as for a connection. One that does not answer for so long is taken to be
/// away, and then no further request waits.
const REQUEST_PATIENCE: Duration = ACQUIRE_TIME;
/// How long a single row may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Until a lost connection is made again.
const AGAIN: Duration = Duration::from_millis(200);

/// Follows the other servers; a handle, cheap to clone.
#[derive(Clone)]
pub struct Follower(Arc<Inner>);

struct Inner {
    parts: Parts,
    /// Held while what was learnt is passed on: who asks meanwhile waits for it.
    following: tokio::sync::Mutex<()>,
    /// All up to there is passed on.
    passed_on: Mutex<Option<Head>>,
    /// How often the head was asked for.
    asked: AtomicU64,
    /// Where it was when it was last read, and how often it had been asked for before.
    looked: tokio::sync::Mutex<(u64, Option<Head>)>,
    /// The state was lost: who listens there may listen to nothing.
    lost: Notify,
}

/// What follows.
pub struct Parts {
    /// The state that they share.
    pub state: HostDb,
    /// Plugins, flows, grants.
    pub registry: Registry,
    /// Tokens of workers.
    pub tokens: WorkerTokens,
    /// The operator's token.
    pub auth: Auth,
    /// Schedules that stand in flows.
    pub schedules: FlowSchedules,
    /// Who waits for receipts and log lines.
    pub recorder: Recorder,
    /// Who follows runs.
    pub engine: Arc<dyn Engine>,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").finish_non_exhaustive()
    }
}

/// How far an attempt is, as servers tell each other.
#[derive(Debug, Serialize, Deserialize)]
pub struct ToldProgress {
    /// The server that was told.
    pub server: Uuid,
    /// The run.
    pub run_id: Uuid,
    /// The activity.
    pub activity_id: String,
    /// The attempt.
    pub attempt: u32,
    /// How far it is.
    pub progress: Progress,
}

/// What was learnt and is not passed on yet. Dropped with something in it, it is learnt
/// again the next time: a request that waited for it may have ended.
struct Unfinished<'r> {
    moved: Moved,
    registry: &'r Registry,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.registry.note_moved(self.moved);
    }
}

impl Follower {
    /// Of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            parts,
            following: tokio::sync::Mutex::new(()),
            passed_on: Mutex::default(),
            asked: AtomicU64::new(0),
            looked: tokio::sync::Mutex::default(),
            lost: Notify::new(),
        }))
    }

    /// Learns what other servers changed before a request is answered. Where the state is
    /// away, what is known has to do.
    pub async fn catch_up(&self) {
        let Some(shared) = self.0.parts.state.shared() else {
            return;
        };
        if shared.is_away() {
            return;
        }
        match tokio::time::timeout(REQUEST_PATIENCE, self.follow()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                shared.saw(false);
                tracing::warn!(%error, "the state cannot be asked now");
            }
            Err(_) => {
                shared.saw(false);
                tracing::warn!("the state does not answer now");
            }
        }
    }

    /// Where the state's changes are, now or later. One look serves all who asked before it
    /// began: of many requests at once each would wait for a connection else.
    async fn head(&self) -> Result<Head, StateError> {
        let number = self.0.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut looked = self.0.looked.lock().await;
        if let (before, Some(head)) = *looked
            && number <= before
        {
            return Ok(head);
        }
        let before = self.0.asked.load(Ordering::SeqCst);
        let head = self.0.parts.state.head().await?;
        *looked = (before, Some(head));
        Ok(head)
    }

    /// Learns what other servers changed.
    async fn follow(&self) -> Result<(), RegistryError> {
        let parts = &self.0.parts;
        let head = self.head().await?;
        let known = || {
            let passed_on = &self.0.passed_on;
            passed_on.lock().unwrap_or_else(PoisonError::into_inner)
        };
        if *known() == Some(head) {
            return Ok(());
        }
        let _one = self.0.following.lock().await;
        let mut unfinished = Unfinished {
            moved: parts.registry.catch_up().await?,
            registry: &parts.registry,
        };
        if unfinished.moved.flows {
            parts.schedules.look_again();
        }
        if unfinished.moved.tokens {
            parts.tokens.read_again().await?;
            if let Some(digest) = parts.state.known_operator_token().await? {
                parts.auth.replace_token(digest);
            }
        }
        unfinished.moved = Moved::default();
        *known() = Some(head);
        Ok(())
    }

    /// Follows until `stop`, and says then that this server is gone.
    pub async fn run(self, stop: CancellationToken) {
        let Some(shared) = self.0.parts.state.shared().cloned() else {
            return;
        };
        tokio::select! {
            () = self.look(&shared) => {}
            () = self.hear() => {}
            () = stop.cancelled() => {}
        }
        let leaving = tokio::time::timeout(PATIENCE, self.0.parts.state.leave());
        if let Ok(Err(error)) = leaving.await {
            tracing::debug!(error = %error.chain(), "the other servers are not told of the end");
        }
    }

    /// Looks again and again, whatever is told.
    async fn look(&self, shared: &Shared) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = false;
        loop {
            ticks.tick().await;
            let began = Instant::now();
            match self.look_once(shared).await {
                Ok(()) => {
                    if std::mem::take(&mut told) {
                        tracing::info!("the state is there again");
                    }
                }
                Err(error) => {
                    shared.saw(false);
                    self.0.lost.notify_one();
                    if !std::mem::replace(&mut told, true) {
                        tracing::error!(%error, waited = ?began.elapsed(), "the state is away");
                    }
                }
            }
        }
    }

    async fn look_once(&self, shared: &Shared) -> Result<(), RegistryError> {
        let parts = &self.0.parts;
        let silent = |_| RegistryError::from(StateError::silent());
        // A single row: where that takes so long, nothing else is answered either.
        let shown = tokio::time::timeout(PATIENCE, parts.state.show());
        shown.await.map_err(silent)??;
        // What took longer says nothing of what is so now.
        let followed = tokio::time::timeout(UNSURE, self.follow());
        followed.await.map_err(silent)??;
        // What comes now says nothing of what others changed, and may take longer.
        shared.saw(true);
        // Not for long: who does not show itself meanwhile is taken for gone.
        let _ = tokio::time::timeout(LOOK, parts.state.release_again()).await;
        // Waited for as long as its statement may run: what was taken over must not be forgotten.
        let left = parts.state.take_over().await?;
        if !left.is_empty() {
            tracing::info!(
                uploads = left.len(),
                "uploads of a server that is gone go on here"
            );
            parts.registry.resume_uploads(left);
        }
        Ok(())
    }

    /// Hears what other servers tell.
    async fn hear(&self) {
        loop {
            match self.0.parts.state.listen().await {
                Ok(Some(ear)) => {
                    // Something may have been told before it was heard.
                    self.learn_all().await;
                    self.hear_by(ear).await;
                }
                Ok(None) => return std::future::pending().await,
                Err(error) => {
                    tracing::debug!(error = %error.chain(), "other servers cannot be heard now");
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Learns what may have been told and was not heard.
    async fn learn_all(&self) {
        self.catch_up().await;
        self.0.parts.recorder.written_elsewhere();
    }

    async fn hear_by(&self, mut ear: Ear) {
        let parts = &self.0.parts;
        let own = parts.state.shared().map(|shared| shared.id());
        loop {
            let heard = tokio::select! {
                heard = ear.hear() => heard,
                // It is made again: what is told meanwhile would never come here.
                () = self.0.lost.notified() => return,
            };
            match heard {
                Ok(Heard::Change) => self.catch_up().await,
                Ok(Heard::Records(server)) => {
                    if own.is_none_or(|own| own.to_string() != server) {
                        parts.recorder.written_elsewhere();
                    }
                }
                Ok(Heard::Progress(said)) => self.take_progress(own, &said),
                Ok(Heard::Missed) => self.learn_all().await,
                Err(error) => {
                    tracing::debug!(error = %error.chain(), "other servers are not heard now");
                    return;
                }
            }
        }
    }

    fn take_progress(&self, own: Option<Uuid>, said: &str) {
        let Ok(told) = serde_json::from_str::<ToldProgress>(said) else {
            // Of a newer server.
            return;
        };
        if own != Some(told.server) {
            let event = LiveEvent::Progress {
                activity_id: told.activity_id,
                attempt: told.attempt,
                progress: told.progress,
            };
            self.0.parts.engine.tell(told.run_id, event);
        }
    }
}
