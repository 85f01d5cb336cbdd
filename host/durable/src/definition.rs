//! Definitions: what a run executes, pinned to digests when it starts.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::activity::{ActivityTimeouts, RetryPolicy};
use crate::failure::Failure;
use crate::flow::Flow;
use crate::payload::Digest;

/// The queue where neither task nor plugin names one, and the plugin uses neither of those below.
pub const GENERAL_QUEUE: &str = "general-queue";

/// The queue of activities that use databases and stores and name none.
pub const STORAGE_QUEUE: &str = "storage-queue";
/// The queue of activities that use models and name none.
pub const AI_QUEUE: &str = "ai-processing-queue";

/// Which workflow definition a start asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowReference {
    /// The workflow type, `<document.namespace>.<document.name>`.
    pub workflow_type: String,
    /// A version; the active one where absent.
    pub version: Option<semver::Version>,
}

/// What happens to a child when its parent ends before it; Temporal's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParentClosePolicy {
    /// It ends by force.
    Terminate,
    /// It goes on.
    Abandon,
    /// It is asked to cancel.
    RequestCancel,
}

impl ParentClosePolicy {
    /// Where the flow says nothing: a child that the parent waits for is asked to cancel,
    /// another one goes on.
    #[must_use]
    pub const fn default_for(detached: bool) -> Self {
        if detached {
            Self::Abandon
        } else {
            Self::RequestCancel
        }
    }

    /// Temporal's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Terminate => "Terminate",
            Self::Abandon => "Abandon",
            Self::RequestCancel => "RequestCancel",
        }
    }
}

/// An activity as a flow names it, pinned to a plugin version. What the task's
/// `metadata.heyday` says goes over these values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PinnedActivity {
    /// `<plugin>.<activity>`.
    pub activity_type: String,
    /// The plugin's version; `None` for a built-in.
    pub version: Option<semver::Version>,
    /// The plugin version's digest; `None` for a built-in.
    pub digest: Option<Digest>,
    /// Its default queue.
    pub queue: String,
    /// Its timeouts.
    #[serde(default)]
    pub timeouts: ActivityTimeouts,
    /// Its retry policy.
    #[serde(default)]
    pub retry: RetryPolicy,
}

/// A definition with everything that a run of it is pinned to. It is recorded in
/// the run's first event.
#[derive(Debug, Clone)]
pub struct PinnedDefinition {
    /// The workflow type, `<document.namespace>.<document.name>`.
    pub workflow_type: String,
    /// The definition's version.
    pub version: semver::Version,
    /// The digest of the definition's bytes as uploaded.
    pub digest: Digest,
    /// The parsed definition.
    pub flow: Arc<Flow>,
    /// Every activity that the flow calls, under the name by which it calls it
    /// (`plugin.activity`, `plugin.activity:1.2.0@default`, `http`). A name that
    /// could not be resolved is absent; calling it fails the task as
    /// `unknown-activity`.
    pub activities: Arc<BTreeMap<String, PinnedActivity>>,
}

/// Where an engine asks for definitions. The host implements it over its registry.
#[async_trait]
pub trait Definitions: Send + Sync + 'static {
    /// Finds and pins a definition for a new run (a child, or a start that gave
    /// only a name). A failure is permanent unless it says `retryable`.
    async fn pin(
        &self,
        namespace: &str,
        reference: &WorkflowReference,
    ) -> Result<PinnedDefinition, Failure>;

    /// The definition of a recorded run. Definitions that an open run needs are
    /// never removed.
    async fn load(&self, namespace: &str, digest: &Digest) -> Result<Arc<Flow>, Failure>;
}
