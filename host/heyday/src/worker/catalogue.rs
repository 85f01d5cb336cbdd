//! What a worker knows of its server's registry, and how it gets what it does not know.
//!
//! Active versions and grants come by the stream ([`super::follow`]) and are replaced as
//! told. Versions, components, flows and values are asked for by their digest when they
//! are first needed; bytes with another digest are refused. What is known may be a moment
//! behind: where something is missing, the server is asked how far it is, and the stream
//! waited for, before the answer is no.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use heyday_durable::activity::ActivityTask;
use heyday_durable::definition::{Definitions, PinnedDefinition, WorkflowReference};
use heyday_durable::failure::{Failure, kind};
use heyday_durable::flow::Flow;
use heyday_durable::payload::{Digest, PayloadStore, PayloadStoreError};
use heyday_sandbox::Grants;
use tokio::sync::{mpsc, watch};

use super::client::{ServerClient, ServerError};
use super::wire::{PinsBody, PluginBody, RevisionBody};
use crate::executor::catalogue::{Catalogue, FetchError, removed};
use crate::registry::Stored;
use crate::registry::feed::{Change, Revision};
use crate::registry::grants::GrantTable;
use crate::state::versions::GrantRow;

/// How long the stream may take to tell what the server knows already.
const CATCH_UP: Duration = Duration::from_secs(5);
/// Versions that wait to be prepared.
const FRESH: usize = 1_024;
/// Versions, and parsed flows, that are kept in memory.
const KEPT: usize = 4_096;

/// What was told.
#[derive(Default)]
struct Told {
    /// Digests of active plugin versions, by namespace and name.
    active: HashMap<(String, String), Digest>,
    grants: GrantTable,
}

/// The server's registry, from afar. Clones are handles of the same.
#[derive(Clone)]
pub struct RemoteRegistry(Arc<Inner>);

struct Inner {
    client: ServerClient,
    told: RwLock<Told>,
    seen: watch::Sender<Option<Revision>>,
    /// How often the server was asked how far it is.
    asked: AtomicU64,
    /// Held while it is asked.
    asking: tokio::sync::Mutex<()>,
    /// Versions that just became active: a run may name them soon.
    fresh: mpsc::Sender<(String, Digest)>,
    versions: Mutex<HashMap<(String, Digest), Arc<Stored>>>,
    flows: Mutex<HashMap<Digest, Arc<Flow>>>,
    /// Any of the worker's namespaces, for what is of none.
    namespace: String,
}

impl std::fmt::Debug for RemoteRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteRegistry")
            .field("server", &self.0.client.server())
            .finish_non_exhaustive()
    }
}

/// A panic while it was held leaves nothing half-done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps a value; all others are asked for again once there are too many.
fn keep<K: std::hash::Hash + Eq, V>(kept: &Mutex<HashMap<K, V>>, key: K, value: V) {
    let mut kept = lock(kept);
    if kept.len() >= KEPT {
        kept.clear();
    }
    kept.insert(key, value);
}

impl RemoteRegistry {
    /// Knows nothing yet. Tells which versions become active; nobody needs to listen.
    #[must_use]
    pub fn new(
        client: ServerClient,
        namespace: String,
    ) -> (Self, mpsc::Receiver<(String, Digest)>) {
        let (fresh, becoming) = mpsc::channel(FRESH);
        let registry = Self(Arc::new(Inner {
            fresh,
            client,
            told: RwLock::default(),
            seen: watch::channel(None).0,
            asked: AtomicU64::new(0),
            asking: tokio::sync::Mutex::default(),
            versions: Mutex::default(),
            flows: Mutex::default(),
            namespace,
        }));
        (registry, becoming)
    }

    /// Takes what the stream told, at that revision.
    pub(super) fn take(&self, whole: bool, changes: Vec<Change>, revision: Revision) {
        {
            let mut told = self.0.told.write().unwrap_or_else(PoisonError::into_inner);
            if whole {
                told.active.clear();
                let named: HashSet<(String, String)> = changes
                    .iter()
                    .filter_map(|change| match change {
                        Change::Granted {
                            namespace, subject, ..
                        } => Some((namespace.clone(), subject.clone())),
                        Change::Active { .. } => None,
                    })
                    .collect();
                let gone: Vec<_> = told.grants.subjects().cloned().collect();
                for (namespace, subject) in gone {
                    if !named.contains(&(namespace.clone(), subject.clone())) {
                        told.grants.replace(&namespace, &subject, Vec::new());
                    }
                }
            }
            for change in changes {
                if !whole
                    && let Change::Active {
                        namespace,
                        digest: Some(digest),
                        ..
                    } = &change
                {
                    // Where too many wait, they are had when they are first needed.
                    let _ = self.0.fresh.try_send((namespace.clone(), *digest));
                }
                told.take(change);
            }
        }
        self.0.seen.send_replace(Some(revision));
    }

    /// The revision that was told last.
    pub(super) fn seen(&self) -> watch::Receiver<Option<Revision>> {
        self.0.seen.subscribe()
    }

    /// Waits until the stream has told what the server knows now. Where it cannot be asked
    /// or is too slow, what is known has to do. Many who wait at once share the next
    /// question: one that is under way may have been answered too early for them.
    async fn catch_up(&self) {
        let before = self.0.asked.load(Ordering::Acquire);
        let _one = self.0.asking.lock().await;
        if self.0.asked.load(Ordering::Acquire) > before {
            return;
        }
        self.0.asked.fetch_add(1, Ordering::AcqRel);
        let asked = self.0.client.impatient();
        let asked = asked.get_json::<RevisionBody>(&self.0.namespace, &["revision"]);
        let waited = async {
            let Ok(wanted) = asked.await else { return };
            let Ok(wanted) = wanted.revision.parse::<Revision>() else {
                return;
            };
            let mut seen = self.seen();
            let there = |seen: &Option<Revision>| {
                seen.is_some_and(|seen| {
                    seen.process == wanted.process && seen.number >= wanted.number
                })
            };
            // The sender lives as long as `self`.
            let _ = seen.wait_for(there).await;
        };
        if tokio::time::timeout(CATCH_UP, waited).await.is_err() {
            tracing::warn!("the server's stream is slow");
        }
    }

    fn active(&self, namespace: &str, plugin: &str) -> Option<Digest> {
        let told = self.0.told.read().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), plugin.to_owned());
        told.active.get(&key).copied()
    }

    fn granted(&self, namespace: &str, subject: &str) -> Arc<Grants> {
        let told = self.0.told.read().unwrap_or_else(PoisonError::into_inner);
        told.grants.of(namespace, subject)
    }

    /// A plugin version, by digest.
    async fn version(&self, namespace: &str, digest: &Digest) -> Result<Arc<Stored>, ServerError> {
        let key = (namespace.to_owned(), *digest);
        if let Some(stored) = lock(&self.0.versions).get(&key) {
            return Ok(Arc::clone(stored));
        }
        let client = &self.0.client;
        let body: PluginBody = client
            .get_json(namespace, &["plugins", &digest.to_string()])
            .await?;
        if body.digest != *digest {
            return Err(client.answer(&format!("{} instead of {digest}", body.digest)));
        }
        let stored = Stored::read(body.row(namespace));
        let stored = Arc::new(stored.map_err(|error| client.answer(&error.to_string()))?);
        keep(&self.0.versions, key, Arc::clone(&stored));
        Ok(stored)
    }

    /// The bytes of that digest, and no others.
    async fn bytes(
        &self,
        namespace: &str,
        what: &str,
        digest: &Digest,
    ) -> Result<Bytes, ServerError> {
        let client = &self.0.client;
        let bytes = client.get(namespace, &[what, &digest.to_string()]).await?;
        let found = Digest::of(&bytes);
        if found == *digest {
            Ok(bytes)
        } else {
            Err(client.answer(&format!("bytes of {found} instead of {digest}")))
        }
    }

    async fn find(&self, task: &ActivityTask) -> Result<Option<Arc<Stored>>, ServerError> {
        if let Some(digest) = &task.plugin_digest {
            return self.version(&task.namespace, digest).await.map(Some);
        }
        let Some((plugin, activity)) = task.activity_type.split_once('.') else {
            return Ok(None);
        };
        for behind in [true, false] {
            if let Some(digest) = self.active(&task.namespace, plugin) {
                let stored = self.version(&task.namespace, &digest).await?;
                let described = stored.description.as_ref();
                if described.is_some_and(|it| it.activities.contains_key(activity)) {
                    return Ok(Some(stored));
                }
            }
            if behind {
                self.catch_up().await;
            }
        }
        Ok(None)
    }
}

impl Told {
    fn take(&mut self, change: Change) {
        match change {
            Change::Active {
                namespace,
                plugin,
                digest: Some(digest),
            } => {
                self.active.insert((namespace, plugin), digest);
            }
            Change::Active {
                namespace,
                plugin,
                digest: None,
            } => {
                self.active.remove(&(namespace, plugin));
            }
            Change::Granted {
                namespace,
                subject,
                grants,
            } => {
                let rows = grants.into_iter().map(|grant| GrantRow {
                    namespace: namespace.clone(),
                    subject: grant.subject,
                    capability: grant.capability,
                    binding: grant.binding,
                    mode: grant.mode,
                    granted_at: grant.granted_at,
                });
                self.grants.replace(&namespace, &subject, rows.collect());
            }
        }
    }
}

/// What an attempt or a run is told where the server did not answer.
fn unanswered(error: &ServerError, unknown: &'static str) -> Failure {
    match error {
        ServerError::NotFound(detail) => Failure::permanent(unknown, detail.clone()),
        error => {
            tracing::error!(%error, "what a task needs cannot be had from the server");
            Failure::transient(
                kind::INTERNAL,
                "what the task needs cannot be had from Heyday's server now",
            )
        }
    }
}

#[async_trait]
impl Catalogue for RemoteRegistry {
    async fn plugin(&self, task: &ActivityTask) -> Result<Arc<Stored>, Failure> {
        match self.find(task).await {
            Ok(Some(stored)) => Ok(stored),
            Ok(None) => Err(Failure::permanent(
                kind::UNKNOWN_ACTIVITY,
                format!(
                    "no active plugin version in namespace {:?} has the activity {}",
                    task.namespace, task.activity_type
                ),
            )),
            Err(ServerError::NotFound(_)) => {
                // Only what is asked for by a digest can be missing.
                let digest = task.plugin_digest.unwrap_or_else(|| Digest::of(b""));
                Err(removed(&digest, &task.activity_type))
            }
            Err(error) => Err(unanswered(&error, kind::UNKNOWN_ACTIVITY)),
        }
    }

    async fn component(&self, namespace: &str, digest: &Digest) -> Result<Bytes, FetchError> {
        Ok(self.bytes(namespace, "content", digest).await?)
    }

    async fn grants(
        &self,
        namespace: &str,
        subject: &str,
        needs: &BTreeSet<String>,
    ) -> Arc<Grants> {
        let grants = self.granted(namespace, subject);
        let complete = |need: &String| grants.by_capability.contains_key(need);
        if needs.iter().all(complete) {
            return grants;
        }
        self.catch_up().await;
        self.granted(namespace, subject)
    }
}

#[async_trait]
impl Definitions for RemoteRegistry {
    async fn pin(
        &self,
        namespace: &str,
        reference: &WorkflowReference,
    ) -> Result<PinnedDefinition, Failure> {
        let asked = self.0.client.post(namespace, &["pins"], reference).await;
        match asked.map_err(|error| unanswered(&error, kind::UNKNOWN_WORKFLOW))? {
            PinsBody::Failed(failure) => Err(failure),
            PinsBody::Pinned {
                workflow_type,
                version,
                digest,
                activities,
            } => Ok(PinnedDefinition {
                flow: self.load(namespace, &digest).await?,
                workflow_type,
                version,
                digest,
                activities: Arc::new(activities),
            }),
        }
    }

    async fn load(&self, namespace: &str, digest: &Digest) -> Result<Arc<Flow>, Failure> {
        if let Some(flow) = lock(&self.0.flows).get(digest) {
            return Ok(Arc::clone(flow));
        }
        let bytes = self.bytes(namespace, "content", digest).await;
        let bytes = bytes.map_err(|error| unanswered(&error, kind::UNKNOWN_WORKFLOW))?;
        let parsed = tokio::task::spawn_blocking(move || Flow::parse(&bytes)).await;
        let flow = match parsed {
            Ok(Ok(flow)) => Arc::new(flow),
            Ok(Err(error)) => {
                return Err(Failure::permanent(kind::INVALID_INPUT, error.to_string()));
            }
            Err(error) => return Err(Failure::transient(kind::INTERNAL, error.to_string())),
        };
        keep(&self.0.flows, *digest, Arc::clone(&flow));
        Ok(flow)
    }
}

#[async_trait]
impl PayloadStore for RemoteRegistry {
    async fn put(&self, bytes: Bytes) -> Result<Digest, PayloadStoreError> {
        let digest = Digest::of(&bytes);
        let path = ["payloads", &digest.to_string()];
        let put = self.0.client.put(&self.0.namespace, &path, bytes).await;
        put.map_err(|error| PayloadStoreError::Unavailable(error.into()))?;
        Ok(digest)
    }

    async fn get(&self, digest: &Digest) -> Result<Bytes, PayloadStoreError> {
        let bytes = self.bytes(&self.0.namespace, "payloads", digest).await;
        bytes.map_err(|error| match error {
            ServerError::NotFound(_) => PayloadStoreError::NotFound(*digest),
            error => PayloadStoreError::Unavailable(error.into()),
        })
    }

    async fn sweep(&self, _: &HashSet<Digest>, _: Duration) -> Result<u64, PayloadStoreError> {
        // The server's business.
        Ok(0)
    }
}
