//! Flows that events start: `schedule.on`.
//!
//! For each such flow one run of a flow of the host's own is open, the *listener*
//! `events:NAME`. It listens as `schedule.on` says, starts the flow with each set of events
//! that it took, and listens again; it continues as new by itself. So what it took, what
//! still waits for its counterpart and which ids came before survive as everything of a
//! run does, and are the same on every engine.
//!
//! An event of a namespace goes as a signal to each listener that may take it, in one step
//! with the listener's start where none is open: nothing comes between the two, and a
//! listener that somebody ended comes back with the next event.

use std::collections::BTreeMap;
use std::sync::Arc;

use heyday_durable::engine::{
    Engine, EngineError, ExecutionStatus, IdConflictPolicy, IdReusePolicy, ListRuns, RunRef,
    StartWorkflow,
};
use heyday_durable::flow::Flow;
use heyday_durable::flow::model::EventTrigger;
use heyday_durable::payload::Payload;
use heyday_durable::signal::Signal;

use crate::names::{LISTENER, RESERVED};
use crate::registry::{Registry, RegistryError};

/// What the workflow ids of listeners begin with; the flow's name follows. No other run may
/// be started under such an id.
pub const LISTENER_PREFIX: &str = "events:";

/// Runs of a page.
const PAGE: usize = 500;

/// Why an event did not come to all flows, or a listener is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The engine's answer.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The listener's flow cannot be made.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Keeps the listeners; a handle, cheap to clone.
#[derive(Clone)]
pub struct Listeners {
    engine: Arc<dyn Engine>,
    registry: Registry,
}

impl std::fmt::Debug for Listeners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listeners").finish_non_exhaustive()
    }
}

fn reference(namespace: &str, flow: &str) -> RunRef {
    RunRef {
        namespace: namespace.to_owned(),
        workflow_id: format!("{LISTENER_PREFIX}{flow}"),
        run_id: None,
    }
}

impl Listeners {
    /// Over this engine and this registry.
    #[must_use]
    pub const fn new(engine: Arc<dyn Engine>, registry: Registry) -> Self {
        Self { engine, registry }
    }

    /// Makes the open listener of a flow the one that its active version wants, or none.
    ///
    /// # Errors
    /// When the engine or the registry cannot answer.
    pub async fn agree(
        &self,
        namespace: &str,
        name: &str,
        wanted: Option<(&Flow, &EventTrigger)>,
    ) -> Result<(), ListenerError> {
        let run = reference(namespace, name);
        let open = match self.engine.describe(&run).await {
            Ok(described) => Some(described.info),
            Err(EngineError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let open = open.filter(|info| info.status == ExecutionStatus::Running);
        let definition = match wanted {
            None => None,
            Some((flow, trigger)) => {
                Some(self.registry.pin_listener(namespace, flow, trigger).await?)
            }
        };
        let digest = definition.as_ref().map(|definition| definition.digest);
        if let Some(open) = open {
            if digest.is_some() && open.digest == digest {
                return Ok(());
            }
            let reason = "the flow waits for other events, or for none";
            match self.engine.terminate(&run, reason).await {
                Ok(()) | Err(EngineError::Closed { .. } | EngineError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(definition) = definition {
            self.start(run, definition, None).await?;
        }
        Ok(())
    }

    /// The flows that have an open listener.
    ///
    /// # Errors
    /// When the engine cannot answer.
    pub async fn flows(&self, namespace: &str) -> Result<Vec<String>, EngineError> {
        let mut flows = Vec::new();
        let mut request = ListRuns {
            namespace: namespace.to_owned(),
            query: Some(format!(
                "WorkflowType = '{RESERVED}.{LISTENER}' AND ExecutionStatus = 'Running'"
            )),
            page_size: PAGE,
            page_token: None,
        };
        loop {
            let page = self.engine.list(&request).await?;
            let ids = page.runs.iter();
            let of_flows = ids.filter_map(|run| run.workflow_id.strip_prefix(LISTENER_PREFIX));
            flows.extend(of_flows.map(str::to_owned));
            request.page_token = page.next_page_token;
            if request.page_token.is_none() {
                return Ok(flows);
            }
        }
    }

    /// Brings an event to a flow's listener, once for each id of a source.
    ///
    /// # Errors
    /// When the engine or the registry cannot answer; it may be brought again.
    pub async fn tell(
        &self,
        namespace: &str,
        name: &str,
        (flow, trigger): (&Flow, &EventTrigger),
        event: Signal,
    ) -> Result<(), ListenerError> {
        let definition = self.registry.pin_listener(namespace, flow, trigger).await?;
        let run = reference(namespace, name);
        self.start(run, definition, Some(event)).await
    }

    async fn start(
        &self,
        run: RunRef,
        definition: heyday_durable::definition::PinnedDefinition,
        signal: Option<Signal>,
    ) -> Result<(), ListenerError> {
        let start = StartWorkflow {
            namespace: run.namespace,
            workflow_id: run.workflow_id,
            definition,
            task_queue: None,
            input: Payload::null(),
            id_reuse_policy: IdReusePolicy::AllowDuplicate,
            id_conflict_policy: IdConflictPolicy::UseExisting,
            idempotency_key: None,
            memo: BTreeMap::new(),
            search_attributes: BTreeMap::new(),
            traceparent: None,
            signal,
        };
        self.engine.start(start).await?;
        Ok(())
    }
}
