//! The schedules that stand in flows.
//!
//! The active version of a flow that has a `schedule` owns the engine's schedule
//! `flow:NAME`: activating a version makes or updates it, activating one without removes
//! it, and so does removing the flow. Whether it is paused is the operator's, and stays.
//!
//! The registry changes first, then the engine follows: at once, by [`follow`], and where
//! that failed, or the server stopped in between, by [`keep`], which compares all flows
//! with all schedules at the start and again until both agree.
//!
//! A flow that events start has a listener as well ([`listeners`](crate::listeners)), which
//! follows in the same way. Its schedule has no times: it is there to be paused, and
//! triggered. An event that comes while it is paused passes by, as a time would.
//!
//! No engine has `after`, the wait between the end of a run and the next one: its schedule
//! has no times either, and [`keep`] triggers it. Each run is named after the time at which it
//! was due, so that what two servers ask for at once is one run.
//!
//! [`follow`]: FlowSchedules::follow
//! [`keep`]: FlowSchedules::keep

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use heyday_durable::engine::{Engine, EngineError, RunRef};
use heyday_durable::flow::Flow;
use heyday_durable::flow::model::{EventIndex, EventTrigger, FlowSchedule};
use heyday_durable::payload::Payload;
use heyday_durable::schedule::{
    CreateSchedule, ListSchedules, OverlapPolicy, Schedule, ScheduleAction, SchedulePatch,
    SchedulePolicies, ScheduleRef, ScheduleSpec, ScheduleState,
};
use heyday_durable::signal::Signal;
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::extract::DEFAULT_NAMESPACE;
use crate::listeners::{ListenerError, Listeners};
use crate::registry::Registry;

/// What the ids of flows' schedules begin with; the flow's name follows.
pub const FLOW_PREFIX: &str = "flow:";

/// Until what failed is tried again, and until `after` looks again at a schedule that
/// shows nothing new.
const AGAIN: Duration = Duration::from_secs(1);

/// At most, until what failed again and again is tried again.
const SELDOM: Duration = Duration::from_secs(60);

/// How long the end of a run is waited for in one request.
const LONG: Duration = Duration::from_secs(30);

/// Schedules and flows of a page.
const PAGE: usize = 500;

/// Why flows and schedules do not agree yet.
#[derive(Debug, thiserror::Error)]
pub enum FlowScheduleError {
    /// The engine's answer.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The flow cannot be read.
    #[error("the flow cannot be read: {0}")]
    Flow(String),
}

impl From<ListenerError> for FlowScheduleError {
    fn from(error: ListenerError) -> Self {
        match error {
            ListenerError::Engine(error) => Self::Engine(error),
            ListenerError::Registry(error) => Self::Flow(error.to_string()),
        }
    }
}

/// Keeps the schedules of flows; a handle, cheap to clone.
#[derive(Clone)]
pub struct FlowSchedules {
    engine: Arc<dyn Engine>,
    registry: Registry,
    listeners: Listeners,
    /// The flows of a namespace that events start, as they were last found.
    awaiting: Arc<Mutex<HashMap<String, Arc<Awaiting>>>>,
    /// One change at a time: what is written last is what is active.
    changing: Arc<tokio::sync::Mutex<()>>,
    /// Something failed, or `after` has another flow.
    changed: Arc<Notify>,
}

/// The flows of a namespace that events start.
#[derive(Default)]
struct Awaiting {
    /// Of the registry, when they were found.
    generation: u64,
    flows: Vec<(String, Arc<Flow>)>,
    /// By the type of an event.
    index: EventIndex,
}

/// The events that start a flow, where it has such.
fn trigger(flow: &Flow) -> Option<&EventTrigger> {
    match flow.schedule() {
        Some(FlowSchedule::On(trigger)) => Some(trigger),
        _ => None,
    }
}

impl std::fmt::Debug for FlowSchedules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowSchedules").finish_non_exhaustive()
    }
}

fn reference(namespace: &str, flow: &str) -> ScheduleRef {
    ScheduleRef {
        namespace: namespace.to_owned(),
        schedule_id: format!("{FLOW_PREFIX}{flow}"),
    }
}

impl FlowSchedules {
    /// Over this engine and this registry.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, registry: Registry) -> Self {
        Self {
            listeners: Listeners::new(Arc::clone(&engine), registry.clone()),
            engine,
            registry,
            awaiting: Arc::default(),
            changing: Arc::default(),
            changed: Arc::default(),
        }
    }

    /// Another version of a flow is active, or none is any more. What the engine cannot
    /// follow now it follows later.
    pub async fn follow(&self, namespace: &str, flow: &str) {
        if !self.registry.may_have_schedule(namespace, flow) {
            return;
        }
        match self.agree(namespace, flow).await {
            Ok(false) => {}
            Ok(true) => self.changed.notify_one(),
            Err(error) => {
                tracing::warn!(namespace, flow, %error, "the schedule of a flow does not follow yet");
                self.changed.notify_one();
            }
        }
    }

    /// Other flows may have schedules now: [`keep`](Self::keep) compares all of them.
    pub fn look_again(&self) {
        self.changed.notify_one();
    }

    /// Makes the engine's schedule what the flow says; answers whether [`keep`](Self::keep)
    /// must know of it: `after` begins, ends, or may be another one.
    async fn agree(&self, namespace: &str, flow: &str) -> Result<bool, FlowScheduleError> {
        let _one = self.changing.lock().await;
        let name = reference(namespace, flow);
        let parsed = self.active(namespace, flow).await?;
        let wanted = parsed.as_ref().and_then(|parsed| parsed.schedule());
        let events = parsed.as_ref();
        let events = events.and_then(|parsed| Some((&**parsed, trigger(parsed)?)));
        self.listeners.agree(namespace, flow, events).await?;
        let known = match self.engine.describe_schedule(&name).await {
            Ok(known) => Some(known.schedule),
            Err(EngineError::ScheduleNotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        // What events start has no times either, and does not matter to `after`.
        let was = known
            .as_ref()
            .is_some_and(|known| known.spec == ScheduleSpec::default());
        let concerned = match wanted {
            Some(FlowSchedule::After(_)) => true,
            Some(FlowSchedule::On(_)) => false,
            Some(FlowSchedule::Times(_)) | None => was,
        };
        match (wanted, known) {
            (None, None) => {}
            (None, Some(_)) => self.engine.delete_schedule(&name).await?,
            (Some(wanted), None) => {
                let request = CreateSchedule {
                    reference: name,
                    schedule: schedule(flow, wanted, ScheduleState::default()),
                    trigger_immediately: false,
                };
                self.engine.create_schedule(request).await?;
            }
            (Some(wanted), Some(known)) => {
                let to = schedule(flow, wanted, known.state.clone());
                if to != known {
                    self.engine.update_schedule(&name, to).await?;
                }
            }
        }
        Ok(concerned)
    }

    /// The active version of a flow.
    async fn active(
        &self,
        namespace: &str,
        flow: &str,
    ) -> Result<Option<Arc<Flow>>, FlowScheduleError> {
        let Some(digest) = self.registry.active_flow(namespace, flow) else {
            return Ok(None);
        };
        let parsed = self.registry.parsed(&digest).await;
        let parsed = parsed.map_err(|error| FlowScheduleError::Flow(error.to_string()))?;
        Ok(Some(parsed))
    }

    /// Brings an event to all flows that may be started by it, but for those that are
    /// paused; answers their names. The same id of the same source counts once for each of
    /// them.
    ///
    /// # Errors
    /// When it did not come to all of them. It may be brought again.
    pub async fn publish(
        &self,
        namespace: &str,
        event: &Signal,
    ) -> Result<Vec<String>, FlowScheduleError> {
        let seen = event.event(Timestamp::now());
        let seen = seen.map_err(|error| EngineError::Invalid(error.to_string()))?;
        let awaiting = self.awaiting(namespace).await?;
        let mut told = Vec::new();
        for number in awaiting.index.candidates(&event.name) {
            let (name, flow) = &awaiting.flows[number];
            let Some(trigger) = trigger(flow).filter(|it| it.events.may_take(&seen)) else {
                continue;
            };
            if self.is_paused(namespace, name).await? {
                continue;
            }
            self.listeners
                .tell(namespace, name, (&**flow, trigger), event.clone())
                .await?;
            told.push(name.clone());
        }
        Ok(told)
    }

    /// The flows of a namespace that events start.
    async fn awaiting(&self, namespace: &str) -> Result<Arc<Awaiting>, FlowScheduleError> {
        // Before the flows are read: what changes meanwhile is found the next time.
        let generation = self.registry.generation();
        let known = {
            let known = self.awaiting.lock().unwrap_or_else(PoisonError::into_inner);
            known.get(namespace).cloned()
        };
        if let Some(known) = known.filter(|known| known.generation == generation) {
            return Ok(known);
        }
        let mut flows = Vec::new();
        for (_, name) in self.registry.scheduled_flows_of(namespace) {
            if let Some(flow) = self.active(namespace, &name).await?
                && trigger(&flow).is_some()
            {
                flows.push((name, flow));
            }
        }
        let triggers = flows.iter().filter_map(|(_, flow)| trigger(flow));
        let index = EventIndex::new(triggers.map(|trigger| &trigger.events));
        let found = Arc::new(Awaiting {
            generation,
            flows,
            index,
        });
        let mut known = self.awaiting.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(namespace.to_owned(), Arc::clone(&found));
        Ok(found)
    }

    /// Whether events pass by a flow.
    async fn is_paused(&self, namespace: &str, flow: &str) -> Result<bool, EngineError> {
        let name = reference(namespace, flow);
        match self.engine.describe_schedule(&name).await {
            Ok(known) => Ok(known.schedule.state.paused),
            // Nobody could pause it yet.
            Err(EngineError::ScheduleNotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lets flows and schedules agree, and waits between runs where `after` says so, until
    /// the server stops.
    pub async fn keep(self, stopping: CancellationToken) {
        let mut repeating = JoinSet::new();
        let mut patience = AGAIN;
        loop {
            let (after, agreed) = tokio::select! {
                () = stopping.cancelled() => return,
                compared = self.agree_all() => compared,
            };
            // Begun anew: the pause may be another one.
            repeating.shutdown().await;
            for ((namespace, flow), pause) in after {
                repeating.spawn(self.clone().repeat(namespace, flow, pause));
            }
            let failed = agreed.is_err();
            match agreed {
                Ok(()) => patience = AGAIN,
                Err(error) => {
                    tracing::warn!(%error, "schedules do not follow their flows yet; trying again");
                    patience = (patience * 2).min(SELDOM);
                }
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(patience), if failed => {}
                // Its schedule is gone, though its flow is not.
                Some(_) = repeating.join_next() => {}
            }
        }
    }

    /// Compares all flows with all schedules; answers those with `after`, and the first
    /// thing that failed.
    async fn agree_all(
        &self,
    ) -> (
        BTreeMap<(String, String), Duration>,
        Result<(), FlowScheduleError>,
    ) {
        let mut all: BTreeSet<_> = self.registry.scheduled_flows().into_iter().collect();
        let mut namespaces = self.registry.flow_namespaces();
        namespaces.insert(DEFAULT_NAMESPACE.to_owned());
        let mut agreed = Ok(());
        for namespace in namespaces {
            match self.flows_of_schedules(&namespace).await {
                Ok(flows) => all.extend(flows.into_iter().map(|flow| (namespace.clone(), flow))),
                Err(error) => agreed = agreed.and(Err(error)),
            }
        }
        let mut after = BTreeMap::new();
        for (namespace, flow) in all {
            let one = async {
                self.agree(&namespace, &flow).await?;
                self.active(&namespace, &flow).await
            };
            match one.await {
                Ok(active) => {
                    let schedule = active.as_ref().and_then(|active| active.schedule());
                    if let Some(FlowSchedule::After(pause)) = schedule {
                        after.insert((namespace, flow), *pause);
                    }
                }
                Err(error) => agreed = agreed.and(Err(error)),
            }
        }
        (after, agreed)
    }

    /// The flows that the engine has schedules or listeners of.
    async fn flows_of_schedules(&self, namespace: &str) -> Result<Vec<String>, FlowScheduleError> {
        let mut flows = self.listeners.flows(namespace).await?;
        let mut page_token = None;
        loop {
            let request = ListSchedules {
                namespace: namespace.to_owned(),
                page_size: PAGE,
                page_token,
            };
            let page = self.engine.list_schedules(&request).await?;
            let ids = page.schedules.iter();
            let of_flows = ids.filter_map(|one| one.schedule_id.strip_prefix(FLOW_PREFIX));
            flows.extend(of_flows.map(str::to_owned));
            page_token = page.next_page_token;
            if page_token.is_none() {
                return Ok(flows);
            }
        }
    }

    /// Starts a flow again and again, each time so long after the end of its last run.
    async fn repeat(self, namespace: String, flow: String, pause: Duration) {
        loop {
            match self.once_more(&namespace, &flow, pause).await {
                Ok(()) => {}
                // It is no longer this one's.
                Err(EngineError::ScheduleNotFound { .. }) => return,
                Err(error) => {
                    tracing::warn!(namespace, flow, %error, "a flow is not started again yet");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    async fn once_more(
        &self,
        namespace: &str,
        flow: &str,
        pause: Duration,
    ) -> Result<(), EngineError> {
        let name = reference(namespace, flow);
        let seen = self.engine.describe_schedule(&name).await?;
        let due = match seen.info.recent_actions.last() {
            // The first one comes at once.
            None => seen.info.create_time.unwrap_or_else(Timestamp::now),
            Some(last) => {
                let run = RunRef {
                    namespace: namespace.to_owned(),
                    workflow_id: last.workflow_id.clone(),
                    run_id: Some(last.run_id),
                };
                if self.engine.result(&run, LONG).await?.is_none() {
                    return Ok(());
                }
                let info = self.engine.describe(&run).await?.info;
                let ended = info.closed_at.unwrap_or_else(Timestamp::now);
                let pause = jiff::SignedDuration::try_from(pause).unwrap_or_default();
                ended.checked_add(pause).unwrap_or(Timestamp::MAX)
            }
        };
        let left = Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default();
        tokio::time::sleep(left).await;
        let now = self.engine.describe_schedule(&name).await?;
        if now.schedule.state.paused || now.info.action_count != seen.info.action_count {
            // Somebody else started one, or it rests.
            tokio::time::sleep(AGAIN).await;
            return Ok(());
        }
        let trigger = SchedulePatch::TriggerImmediately {
            overlap: None,
            scheduled_time: Some(due),
        };
        self.engine.patch_schedule(&name, trigger).await?;
        self.until_started(&name, seen.info.action_count).await
    }

    /// Waits for a moment until the schedule has started another run.
    async fn until_started(&self, name: &ScheduleRef, before: u64) -> Result<(), EngineError> {
        for _ in 0..20 {
            let seen = self.engine.describe_schedule(name).await?;
            if seen.info.action_count != before {
                return Ok(());
            }
            tokio::time::sleep(AGAIN / 10).await;
        }
        Ok(())
    }
}

/// The schedule of a flow.
fn schedule(flow: &str, wanted: &FlowSchedule, state: ScheduleState) -> Schedule {
    let spec = match wanted {
        FlowSchedule::Times(spec) => spec.clone(),
        FlowSchedule::After(_) | FlowSchedule::On(_) => ScheduleSpec::default(),
    };
    // The input of what events start is the events: none, where it is triggered. Such runs
    // may overlap, however they were started.
    let (input, overlap) = match wanted {
        FlowSchedule::On(_) => (Payload::json(&json!([])), OverlapPolicy::AllowAll),
        FlowSchedule::Times(_) | FlowSchedule::After(_) => {
            (Payload::null(), OverlapPolicy::default())
        }
    };
    Schedule {
        spec,
        action: ScheduleAction {
            workflow_type: flow.to_owned(),
            version: None,
            workflow_id: flow.to_owned(),
            task_queue: None,
            input,
        },
        policies: SchedulePolicies {
            overlap,
            ..SchedulePolicies::default()
        },
        state,
    }
}
