//! What a worker and its server say to each other, below `/api/v1/worker`.
//!
//! | request | answer |
//! |---|---|
//! | `GET stream?namespaces=a,b&keep_alive_ms=N` | server-sent events: `snapshot` or `changes` ([`NewsBody`], the event's id is the revision), and a comment at least each `N` ms |
//! | `GET revision` | [`RevisionBody`] |
//! | `GET plugins/DIGEST` | [`PluginBody`] |
//! | `GET content/DIGEST` | the bytes of a component or a flow |
//! | `GET`, `PUT payloads/DIGEST` | the bytes of a value that goes by reference |
//! | `GET models/NAME` | [`QueuesBody`] |
//! | `POST pins` with a `WorkflowReference` | [`PinsBody`] |
//! | `POST records` with [`RecordsBody`] | 204 |
//! | `POST announcements` with [`AnnouncementBody`] | 204 |

use std::collections::{BTreeMap, BTreeSet};

use heyday_durable::activity::{LogLine, Progress, Receipt};
use heyday_durable::definition::PinnedActivity;
use heyday_durable::failure::Failure;
use heyday_durable::payload::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::recorder::{AttemptName, Denied, ReceiptRow};
use crate::registry::feed::Change;
use crate::state::versions::{Kind, VersionRow};

/// What a follower is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewsBody {
    /// The revision that it leads to; the event's id too.
    pub revision: String,
    /// What is so now, in the order of the changes.
    pub changes: Vec<Change>,
}

/// Where the sequence of changes is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionBody {
    /// A [`Revision`](crate::registry::feed::Revision) as text.
    pub revision: String,
}

/// Whose workers have a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuesBody {
    /// Queues, in order: some worker that takes tasks of the queue in the namespace has it.
    pub queues: Vec<String>,
}

/// A plugin version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginBody {
    /// The plugin's name.
    pub name: String,
    /// The version.
    pub version: semver::Version,
    /// The digest of its bytes.
    pub digest: Digest,
    /// The number of its bytes.
    pub size: u64,
    /// What it says of itself.
    pub description: Value,
    /// The capabilities that it needs.
    pub capabilities: BTreeSet<String>,
    /// All imports.
    pub imports: BTreeSet<String>,
    /// When it was uploaded.
    pub created_at: Timestamp,
}

impl From<VersionRow> for PluginBody {
    fn from(row: VersionRow) -> Self {
        Self {
            name: row.name,
            version: row.version,
            digest: row.digest,
            size: row.size,
            description: row.description,
            capabilities: row.capabilities,
            imports: row.imports,
            created_at: row.created_at,
        }
    }
}

impl PluginBody {
    /// As the server stores it.
    #[must_use]
    pub fn row(self, namespace: &str) -> VersionRow {
        VersionRow {
            kind: Kind::Plugin,
            namespace: namespace.to_owned(),
            name: self.name,
            version: self.version,
            digest: self.digest,
            size: self.size,
            description: self.description,
            capabilities: self.capabilities,
            imports: self.imports,
            created_at: self.created_at,
        }
    }
}

/// What a run is to be pinned to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinsBody {
    /// These.
    Pinned {
        /// The workflow type.
        workflow_type: String,
        /// The definition's version.
        version: semver::Version,
        /// The digest of the definition's bytes.
        digest: Digest,
        /// The activities, by the name under which the flow calls them.
        activities: BTreeMap<String, PinnedActivity>,
    },
    /// It cannot be.
    Failed(Failure),
}

/// Whose attempt a record belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptBody {
    /// The namespace.
    pub namespace: String,
    /// The run.
    pub run_id: Uuid,
    /// The activity within it.
    pub activity_id: String,
    /// `<plugin>.<activity>`.
    pub activity_type: String,
    /// The queue.
    pub queue: String,
    /// The attempt.
    pub attempt: u32,
}

impl From<&AttemptName> for AttemptBody {
    fn from(name: &AttemptName) -> Self {
        Self {
            namespace: name.namespace.clone(),
            run_id: name.run_id,
            activity_id: name.activity_id.clone(),
            activity_type: name.activity_type.clone(),
            queue: name.queue.clone(),
            attempt: name.attempt,
        }
    }
}

impl From<AttemptBody> for AttemptName {
    fn from(body: AttemptBody) -> Self {
        Self {
            namespace: body.namespace,
            run_id: body.run_id,
            activity_id: body.activity_id,
            activity_type: body.activity_type,
            queue: body.queue,
            attempt: body.attempt,
        }
    }
}

/// What an attempt said or used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// A log line.
    Log(LogLine),
    /// How far it is.
    Progress(Progress),
    /// How it ended.
    Ended {
        /// When it started.
        started_at: Timestamp,
        /// When it ended.
        ended_at: Timestamp,
        /// `completed`, or the kind of its failure.
        outcome: String,
        /// What it used.
        receipt: Receipt,
        /// What it was refused.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        denied: Vec<Denied>,
    },
}

/// One record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordBody {
    /// Whose.
    pub attempt: AttemptBody,
    /// What.
    pub said: Said,
}

impl From<ReceiptRow> for RecordBody {
    fn from(row: ReceiptRow) -> Self {
        Self {
            attempt: row.attempt.as_ref().into(),
            said: Said::Ended {
                started_at: row.started_at,
                ended_at: row.ended_at,
                outcome: row.outcome,
                receipt: row.receipt,
                denied: row.denied,
            },
        }
    }
}

/// A batch of records. One that was sent before is not taken twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordsBody {
    /// The process that sends it.
    pub worker: Uuid,
    /// Its number, ascending from 1 within the process.
    pub sequence: u64,
    /// The records, in the order in which they were made.
    pub records: Vec<RecordBody>,
}

/// That a worker is there, and what it can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnnouncementBody {
    /// The process that sends it.
    pub worker: Uuid,
    /// The namespaces whose tasks it takes.
    pub namespaces: Vec<String>,
    /// Its queues, with their limits in each namespace.
    pub queues: BTreeMap<String, usize>,
    /// Where its models run: `cpu`, or a GPU's name.
    pub device: String,
    /// The models that it can serve.
    pub models: Vec<AnnouncedModel>,
}

/// A model that a worker can serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncedModel {
    /// Its name.
    pub name: String,
    /// What it does.
    pub task: heyday_inference::Task,
    /// The digest of an imported one; none where it runs elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Whether it is in memory.
    pub loaded: bool,
}
