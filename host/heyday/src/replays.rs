//! Replays for operators: of a history against a definition, and of open runs against a
//! version that is about to be the active one (the replay gate).
//!
//! A run keeps the version that it was started with, so nothing of this decides about a
//! run. It says what a new version would have done otherwise, before somebody relies on
//! the two being alike, and lets a pipeline refuse to activate one that is not.
//!
//! Replays run on threads of their own and one after the other; each has a limit on its
//! time, and so has the gate as a whole. What the gate does not come to is said.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use heyday_durable::definition::{PinnedDefinition, WorkflowReference};
use heyday_durable::engine::{Engine, EngineError, ListRuns, RunInfo, RunRef};
use heyday_durable::expressions::Expressions;
use heyday_durable::payload::PayloadStore;
use heyday_durable::replay::{Difference, RecordedHistory, ReplayError, ReplayReport, Replayer};
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::names::RESERVED;
use crate::registry::{Registry, RegistryError};

/// Activations of replays that run at once.
const THREADS: usize = 2;
/// Replays, and gates, that wait for those threads.
const WAITING: usize = 16;
/// One replay takes no longer.
const ONE_REPLAY: Duration = Duration::from_secs(30);
/// Open runs are listed by so many.
const PAGE: usize = 100;

/// Replays histories. A handle, cheap to clone.
#[derive(Clone, Debug)]
pub struct Replays {
    replayer: Replayer,
    registry: Registry,
    places: Arc<Semaphore>,
}

/// Why nothing was replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplaysError {
    /// The history and the definition say why.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// There is no such definition.
    #[error(transparent)]
    Definition(#[from] RegistryError),
    /// The runs cannot be listed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The version that the run was started with is not here.
    #[error(
        "the run was started with {definition}, which is not in namespace {namespace:?}; give the flow itself, or name a version"
    )]
    NotHere {
        /// The flow, its version and its digest.
        definition: String,
        /// Where it was looked for.
        namespace: String,
    },
    /// The history is another namespace's.
    #[error("the history is one of namespace {recorded:?}; replay it there, not in {asked:?}")]
    OtherNamespace {
        /// The history's.
        recorded: String,
        /// The caller's.
        asked: String,
    },
    /// As many are replayed and wait as may.
    #[error("as many histories are replayed as the server lets; ask again soon")]
    Busy,
    /// It takes too long.
    #[error("the replay takes longer than the {} s that it may", ONE_REPLAY.as_secs())]
    TooLong,
}

/// What a history is replayed against.
#[derive(Debug, Clone)]
pub enum Against {
    /// The definition that the run is pinned to.
    Own,
    /// A version of a flow, or the active one.
    Version(WorkflowReference),
    /// A document, which is stored nowhere.
    Document(bytes::Bytes),
}

/// A history that was replayed.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// What it was replayed against.
    pub definition: PinnedDefinition,
    /// Whether values were compared too.
    pub exact: bool,
    /// How it ended.
    pub report: ReplayReport,
}

/// How much a gate may do.
#[derive(Debug, Clone, Copy)]
pub struct GateLimits {
    /// Runs that are replayed at most.
    pub runs: usize,
    /// How long all of them may take.
    pub time: Duration,
}

impl GateLimits {
    /// Of a gate that only informs.
    pub const INFORM: Self = Self {
        runs: 100,
        time: Duration::from_secs(5),
    };
    /// Of a gate that refuses: somebody waits for its word.
    pub const REFUSE: Self = Self {
        runs: 1_000,
        time: Duration::from_secs(45),
    };
}

/// What open runs of the version that was active until now would have done under the new
/// one. They keep their version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct ReplayGate {
    /// The version whose open runs were replayed.
    pub version: String,
    /// Runs that were replayed.
    pub replayed: u64,
    /// Those that the new version would have led elsewhere.
    pub diverging: Vec<ReplayedRun>,
    /// Those of which it could not be told.
    pub unknown: Vec<ReplayedRun>,
    /// Whether every open run of that version that was listed was looked at. Where not, the
    /// rest can be asked for: `GET /flows/{name}/versions/{version}/replays`.
    pub complete: bool,
    /// Whether runs that were started a moment before may not have been listed yet: always so
    /// on a Temporal cluster, never on the embedded engine. They can be asked for a moment
    /// later, in the same way. It does not make a gate refuse: it would refuse always.
    pub newest_may_be_missing: bool,
}

impl ReplayGate {
    /// Whether all open runs agree with the new version.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.complete && self.diverging.is_empty() && self.unknown.is_empty()
    }
}

/// How one run's replay ended.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ReplayedRun {
    /// Its workflow id.
    pub workflow_id: String,
    /// The execution.
    pub run_id: Uuid,
    /// The version that it is pinned to.
    pub version: String,
    /// `agrees`, `diverges` or `unknown`.
    pub outcome: &'static str,
    /// Where they first differ, where it diverges.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub difference: Option<Difference>,
    /// Why it cannot be told, where it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A page of open runs that were replayed.
#[derive(Debug, Clone, PartialEq)]
pub struct RunsReplayed {
    /// How each ended.
    pub runs: Vec<ReplayedRun>,
    /// For the next page.
    pub next_page_token: Option<String>,
}

impl Replays {
    /// Starts its threads.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn new(
        registry: Registry,
        expressions: Arc<dyn Expressions>,
        payloads: Arc<dyn PayloadStore>,
    ) -> io::Result<Self> {
        Ok(Self {
            replayer: Replayer::new(expressions, payloads, THREADS)?,
            registry,
            places: Arc::new(Semaphore::new(WAITING)),
        })
    }

    /// Replays a history.
    ///
    /// # Errors
    /// As [`ReplaysError`] says; a difference is none.
    pub async fn history(
        &self,
        namespace: &str,
        history: &RecordedHistory,
        against: Against,
        exact: Option<bool>,
    ) -> Result<Replayed, ReplaysError> {
        let _place = self.place()?;
        let about = history.about();
        if let Some(recorded) = about.namespace.filter(|recorded| recorded != namespace) {
            return Err(ReplaysError::OtherNamespace {
                recorded,
                asked: namespace.to_owned(),
            });
        }
        let definition = match against {
            Against::Document(text) => self.registry.flow_of(namespace, &text, false).await?,
            Against::Version(reference) => self.registry.pin_flow(namespace, &reference).await?,
            Against::Own => self.own(namespace, history).await?,
        };
        let exact = exact.unwrap_or(about.digest == Some(definition.digest));
        let replaying = self.replayer.replay(history, &definition, exact);
        let report = tokio::time::timeout(ONE_REPLAY, replaying)
            .await
            .map_err(|_| ReplaysError::TooLong)??;
        Ok(Replayed {
            definition,
            exact,
            report,
        })
    }

    /// The definition that a run is pinned to, by its very digest.
    async fn own(
        &self,
        namespace: &str,
        history: &RecordedHistory,
    ) -> Result<PinnedDefinition, ReplaysError> {
        let about = history.about();
        // The host makes the flow of one activity itself, and no version stands for it.
        if let Some(digest) = about.digest
            && about.workflow_type.split('.').next() == Some(RESERVED)
            && let Ok(flow) = self.registry.parsed(&digest).await
            && flow.workflow_type() == about.workflow_type
        {
            return Ok(PinnedDefinition {
                workflow_type: about.workflow_type,
                version: about.version,
                digest,
                flow,
                activities: Arc::new(BTreeMap::new()),
            });
        }
        let reference = WorkflowReference {
            workflow_type: about.workflow_type.clone(),
            version: Some(about.version.clone()),
        };
        match self.registry.pin_flow(namespace, &reference).await {
            Ok(definition) if Some(definition.digest) == about.digest => Ok(definition),
            Ok(_) | Err(RegistryError::NotFound { .. }) => Err(ReplaysError::NotHere {
                definition: format!(
                    "{} {} ({})",
                    about.workflow_type,
                    about.version,
                    about
                        .digest
                        .map(|digest| digest.to_string())
                        .unwrap_or_default()
                ),
                namespace: namespace.to_owned(),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Replays the open runs of a flow's active version against another definition of it.
    /// `None` where no version is active, or this one is.
    pub async fn gate(
        &self,
        engine: &dyn Engine,
        namespace: &str,
        definition: &PinnedDefinition,
        limits: GateLimits,
    ) -> Option<ReplayGate> {
        let name = &definition.workflow_type;
        let (version, digest) = self.registry.active_version(namespace, name)?;
        if digest == definition.digest {
            return None;
        }
        let mut gate = ReplayGate {
            version: version.to_string(),
            newest_may_be_missing: engine.lists_lag(),
            ..ReplayGate::default()
        };
        let end = Instant::now() + limits.time;
        let Ok(_place) = self.place() else {
            return Some(gate);
        };
        let mut token = None;
        loop {
            let page = list(engine, namespace, name, PAGE, token);
            let page = match tokio::time::timeout_at(end, page).await {
                Ok(Ok(page)) => page,
                Ok(Err(error)) => {
                    tracing::warn!(flow = name, %error, "open runs cannot be listed; they are not replayed");
                    return Some(gate);
                }
                Err(_) => return Some(gate),
            };
            for run in page.runs.iter().filter(|run| run.digest == Some(digest)) {
                if gate.replayed as usize >= limits.runs || Instant::now() >= end {
                    return Some(gate);
                }
                let replayed = self.run(engine, run, definition, end).await;
                gate.replayed += 1;
                match replayed.outcome {
                    AGREES => {}
                    DIVERGES => gate.diverging.push(replayed),
                    _ => gate.unknown.push(replayed),
                }
            }
            token = page.next_page_token;
            if token.is_none() {
                gate.complete = true;
                return Some(gate);
            }
        }
    }

    /// Replays a page of the open runs of a flow that are not pinned to this version of it.
    ///
    /// # Errors
    /// When there is no such version, or the runs cannot be listed.
    pub async fn open_runs(
        &self,
        engine: &dyn Engine,
        namespace: &str,
        reference: &WorkflowReference,
        page_size: usize,
        page_token: Option<String>,
    ) -> Result<RunsReplayed, ReplaysError> {
        let _place = self.place()?;
        let definition = self.registry.pin_flow(namespace, reference).await?;
        let end = Instant::now() + ONE_REPLAY;
        let name = &definition.workflow_type;
        let page = list(engine, namespace, name, page_size, page_token).await?;
        let mut runs = Vec::new();
        // One that is not pinned yet will be to the active version.
        for run in page
            .runs
            .iter()
            .filter(|run| run.digest.is_some_and(|digest| digest != definition.digest))
        {
            runs.push(self.run(engine, run, &definition, end).await);
        }
        Ok(RunsReplayed {
            runs,
            next_page_token: page.next_page_token,
        })
    }

    /// Replays one open run.
    async fn run(
        &self,
        engine: &dyn Engine,
        run: &RunInfo,
        definition: &PinnedDefinition,
        end: Instant,
    ) -> ReplayedRun {
        let reference = RunRef {
            namespace: run.namespace.clone(),
            workflow_id: run.workflow_id.clone(),
            run_id: Some(run.run_id),
        };
        let replaying = async {
            let history = engine.recorded(&reference).await;
            let history = history.map_err(|error| error.to_string())?;
            let replayed = self.replayer.replay(&history, definition, false).await;
            replayed.map_err(|error| error.to_string())
        };
        let end = end.min(Instant::now() + ONE_REPLAY);
        let replayed = match tokio::time::timeout_at(end, replaying).await {
            Ok(replayed) => replayed.map(|report| report.difference),
            Err(_) => Err("there was no time left to replay it".to_owned()),
        };
        let (outcome, difference, reason) = match replayed {
            Ok(None) => (AGREES, None, None),
            Ok(difference) => (DIVERGES, difference, None),
            Err(reason) => (UNKNOWN, None, Some(reason)),
        };
        ReplayedRun {
            workflow_id: run.workflow_id.clone(),
            run_id: run.run_id,
            version: run
                .version
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            outcome,
            difference,
            reason,
        }
    }

    fn place(&self) -> Result<SemaphorePermit<'_>, ReplaysError> {
        self.places.try_acquire().map_err(|_| ReplaysError::Busy)
    }
}

const AGREES: &str = "agrees";
const DIVERGES: &str = "diverges";
const UNKNOWN: &str = "unknown";

/// A page of a flow's open runs.
async fn list(
    engine: &dyn Engine,
    namespace: &str,
    name: &str,
    page_size: usize,
    page_token: Option<String>,
) -> Result<heyday_durable::engine::RunPage, EngineError> {
    let request = ListRuns {
        namespace: namespace.to_owned(),
        // A flow's name has no quotes.
        query: Some(format!(
            "WorkflowType = '{name}' AND ExecutionStatus = 'Running'"
        )),
        page_size,
        page_token,
    };
    engine.list(&request).await
}
