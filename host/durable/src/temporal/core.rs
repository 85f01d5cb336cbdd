//! What all parts of a Temporal engine share.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use uuid::Uuid;

use super::history::Cursors;
use super::options::TemporalOptions;
use super::sdk;
use crate::activity::{CancelReason, Progress};
use crate::embedded::{Host, lock, pool::Pool};
use crate::engine::{EngineError, LiveEvent, QueueStats, WorkflowTasks};
use crate::live::LiveEvents;
use crate::search::SearchTypes;

/// An attempt that runs in this process.
pub struct Running {
    /// The workflow.
    pub workflow_id: String,
    /// The run.
    pub run_id: Uuid,
    /// The activity.
    pub activity_id: String,
    /// Its number.
    pub attempt: u32,
    /// Asks it to stop.
    pub stop: Arc<dyn Fn(CancelReason) + Send + Sync>,
    /// How far it is.
    pub progress: Arc<Mutex<Option<Progress>>>,
}

/// A run, an activity, and the attempt.
pub type AttemptKey = (Uuid, String, u32);

/// Attempts in other processes whose progress is kept.
const ELSEWHERE: usize = 10_000;

/// How long ago the cluster may have answered last. The queues are asked about every 5 seconds
/// and each question has the engine's patience, so that one that fails changes nothing.
const AWAY: Duration = Duration::from_secs(15);

/// What waits on the cluster.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backlog {
    /// How much.
    pub count: usize,
    /// How long the oldest has waited.
    pub age: Duration,
}

impl Backlog {
    fn age_ms(self) -> u64 {
        u64::try_from(self.age.as_millis()).unwrap_or(u64::MAX)
    }
}

/// What a queue is doing in this process, and what waits for it on the cluster.
#[derive(Debug, Default)]
pub struct Queue {
    /// Attempts that run here.
    pub in_flight: AtomicUsize,
    /// Attempts that wait there, as last heard.
    pub attempts: Mutex<Backlog>,
    /// Workflow tasks that do.
    pub workflow_tasks: Mutex<Backlog>,
}

/// What all parts share.
pub struct Core {
    /// What the host provides.
    pub host: Host,
    /// How it was opened.
    pub options: TemporalOptions,
    /// Runs activations.
    pub pool: Arc<Pool>,
    /// The connection, once there is one.
    pub connection: watch::Sender<Option<sdk::Connection>>,
    /// Why there is none.
    pub away: Mutex<String>,
    /// When the cluster last answered.
    pub answered: Mutex<Option<Instant>>,
    /// Attempts that run here, by task token.
    pub running: Mutex<HashMap<Vec<u8>, Running>>,
    /// Queues by namespace and name.
    pub queues: HashMap<String, HashMap<String, Queue>>,
    /// Those who follow a run.
    pub live: LiveEvents,
    /// How far attempts are that run in other processes, as last told.
    pub elsewhere: Mutex<BTreeMap<AttemptKey, Progress>>,
    /// How far histories were read.
    pub cursors: Cursors,
    /// Types of search attributes as last heard, by the cluster's name of the namespace.
    pub search_types: Mutex<HashMap<String, SearchTypes>>,
    /// Whether no new work is taken.
    pub draining: AtomicBool,
}

impl Core {
    /// Temporal's name of a namespace.
    pub fn namespace(&self, name: &str) -> String {
        let known = self.options.namespaces.get(name);
        known.cloned().unwrap_or_else(|| name.to_owned())
    }

    /// The connection.
    pub fn connection(&self) -> Result<sdk::Connection, EngineError> {
        if self.is_draining() {
            return Err(EngineError::ShuttingDown);
        }
        let connection = self.connection.borrow().clone();
        connection.ok_or_else(|| {
            let (address, away) = (&self.options.address, lock(&self.away));
            let message = format!("Temporal at {address} cannot be reached: {away}");
            EngineError::unavailable(message, None)
        })
    }

    /// Notes that the cluster answered just now.
    pub fn note_answer(&self) {
        *lock(&self.answered) = Some(Instant::now());
    }

    /// Whether the cluster answered a short while ago.
    pub fn is_cluster_there(&self) -> bool {
        lock(&self.answered).is_some_and(|answered| answered.elapsed() < AWAY)
    }

    /// Whether no new work is taken.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// How far an attempt is, where it runs here or was told of.
    pub fn progress(&self, run_id: Uuid, activity_id: &str, attempt: u32) -> Option<Progress> {
        let here = {
            let running = lock(&self.running);
            let found = running.values().find(|one| {
                one.run_id == run_id && one.activity_id == activity_id && one.attempt == attempt
            });
            found.map(|one| Arc::clone(&one.progress))
        };
        match here {
            Some(progress) => lock(&progress).clone(),
            None => {
                let key = (run_id, activity_id.to_owned(), attempt);
                lock(&self.elsewhere).get(&key).cloned()
            }
        }
    }

    /// Takes how far an attempt in another process is.
    pub fn tell(&self, run_id: Uuid, event: LiveEvent) {
        let LiveEvent::Progress {
            activity_id,
            attempt,
            progress,
        } = &event;
        {
            let mut elsewhere = lock(&self.elsewhere);
            let key = (run_id, activity_id.clone(), *attempt);
            if elsewhere.len() >= ELSEWHERE && !elsewhere.contains_key(&key) {
                // Those that go on are told again.
                elsewhere.clear();
            }
            elsewhere.insert(key, progress.clone());
        }
        self.live.tell(run_id, event);
    }

    /// How far the attempts of a run are that run here or were told of, by activity id.
    pub fn progress_of(&self, run_id: Uuid) -> BTreeMap<String, Progress> {
        // Of several attempts the last one's, which may not have said anything yet.
        let mut last: BTreeMap<String, (u32, Option<Progress>)> = {
            let elsewhere = lock(&self.elsewhere);
            let told = elsewhere.range((run_id, String::new(), 0)..);
            told.take_while(|((of, ..), _)| *of == run_id)
                .map(|((_, activity_id, attempt), progress)| {
                    (activity_id.clone(), (*attempt, Some(progress.clone())))
                })
                .collect()
        };
        let running = lock(&self.running);
        for one in running.values().filter(|one| one.run_id == run_id) {
            // An earlier one may still be on its way to its end.
            let known = last.get(&one.activity_id);
            if known.is_none_or(|(attempt, _)| *attempt <= one.attempt) {
                let here = lock(&one.progress).clone();
                last.insert(one.activity_id.clone(), (one.attempt, here));
            }
        }
        last.into_iter()
            .filter_map(|(activity_id, (_, progress))| Some((activity_id, progress?)))
            .collect()
    }

    /// Stops what runs of an activity in this process.
    pub fn stop_attempt(&self, run_id: &str, activity_id: &str, reason: CancelReason) {
        let Ok(run_id) = run_id.parse::<Uuid>() else {
            return;
        };
        let running = lock(&self.running);
        let ours = running
            .values()
            .filter(|one| one.run_id == run_id && one.activity_id == activity_id);
        for attempt in ours {
            (attempt.stop)(reason);
        }
    }

    /// A queue of a namespace, if it is served here.
    pub fn queue(&self, namespace: &str, name: &str) -> Option<&Queue> {
        self.queues.get(namespace)?.get(name)
    }

    /// What the queues are doing, by name and then by namespace.
    pub fn stats(&self) -> Vec<QueueStats> {
        let mut stats: Vec<QueueStats> = Vec::new();
        for (namespace, queues) in &self.queues {
            for (name, queue) in queues {
                let attempts = *lock(&queue.attempts);
                let workflow_tasks = *lock(&queue.workflow_tasks);
                stats.push(QueueStats {
                    namespace: Some(namespace.clone()),
                    name: name.clone(),
                    limit: self.options.queues.get(name).copied().unwrap_or_default(),
                    in_flight: queue.in_flight.load(Ordering::Relaxed),
                    backlog: attempts.count,
                    backlog_age_ms: attempts.age_ms(),
                    workflow_tasks: Some(WorkflowTasks {
                        backlog: workflow_tasks.count,
                        backlog_age_ms: workflow_tasks.age_ms(),
                    }),
                });
            }
        }
        stats.sort_by(|a, b| (&a.name, &a.namespace).cmp(&(&b.name, &b.namespace)));
        stats
    }
}
