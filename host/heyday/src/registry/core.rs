//! What is registered, in memory and in the state.
//!
//! Everything is read at the start. A change is written first, in one transaction, and
//! then shown in memory; one change at a time. Readers never wait for the disk. What other
//! servers changed is read before each change, and when they tell ([`super::follow`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use heyday_capabilities::Bindings;
use heyday_durable::engine::Engine;
use heyday_durable::expressions::Expressions;
use heyday_durable::flow::Flow;
use heyday_durable::payload::Digest;
use heyday_sandbox::Sandbox;
use tokio::sync::MutexGuard;
use uuid::Uuid;

use super::RegistryError;
use super::definitions;
use super::feed::Feed;
use super::follow::{Moved, Whole};
use super::grants::GrantTable;
use super::plugins;
use super::types::{Actor, UploadOptions, VersionState};
use super::versions::{Entry, Stored, parse_version};
use crate::content::Content;
use crate::state::HostDb;
use crate::state::changes::{Change, Head};
use crate::state::versions::{Kind, UploadRow};

/// Parsed flows that are kept.
pub(super) const MAX_PARSED: usize = 4_096;

/// Bytes of a version that is removed are kept so long at least.
const KEPT_AFTER: std::time::Duration = std::time::Duration::from_secs(3_600);
/// Why an upload failed is kept so long after it was sent.
const FAILED_KEPT: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

pub(super) type Name = (String, String);

pub(super) struct Memory {
    /// Where the stored sequence of changes was when this was so.
    pub(super) head: Head,
    pub(super) plugins: BTreeMap<Name, Entry>,
    pub(super) flows: BTreeMap<Name, Entry>,
    pub(super) uploads: HashMap<(String, Digest), UploadRow>,
    /// Also versions that were removed since the start: an attempt may just begin.
    pub(super) by_digest: HashMap<Digest, Arc<Stored>>,
    pub(super) grants: GrantTable,
    /// What workers are told of all this.
    pub(super) feed: Feed,
    /// Raised by every change of plugins: what was pinned before may be old.
    pub(super) generation: u64,
}

impl Memory {
    pub(super) fn of(&self, kind: Kind) -> &BTreeMap<Name, Entry> {
        match kind {
            Kind::Plugin => &self.plugins,
            Kind::Flow => &self.flows,
        }
    }

    pub(super) fn of_mut(&mut self, kind: Kind) -> &mut BTreeMap<Name, Entry> {
        self.generation += 1;
        match kind {
            Kind::Plugin => &mut self.plugins,
            Kind::Flow => &mut self.flows,
        }
    }

    /// The stored sequence of changes is so far; what it is about is told next.
    pub(super) fn step(&mut self, head: Head) {
        self.head = head;
        self.feed.reach(head.revision);
    }
}

/// A change under way. Nobody else changes anything, here or at another server, and memory
/// is what is stored.
pub(super) struct Changing<'c> {
    pub(super) change: Change,
    guards: Guards<'c>,
}

type Guards<'c> = (MutexGuard<'c, ()>, MutexGuard<'c, ()>);

/// A change that is durable, and is to be shown in memory now.
pub(super) struct Changed<'c> {
    pub(super) head: Head,
    _guards: Guards<'c>,
}

impl<'c> Changing<'c> {
    /// Makes it durable together with its entry of the audit: neither is without the other.
    pub(super) async fn commit_noted(
        mut self,
        actor: Actor<'_>,
        action: &str,
        resource: &str,
        details: &serde_json::Value,
    ) -> Result<Changed<'c>, RegistryError> {
        self.change.audit(actor, action, resource, details).await?;
        self.commit().await
    }

    /// Makes it durable.
    pub(super) async fn commit(self) -> Result<Changed<'c>, RegistryError> {
        Ok(Changed {
            head: self.change.commit().await?,
            _guards: self.guards,
        })
    }
}

/// What a registry is made of.
pub struct RegistryOptions {
    /// Where it is kept.
    pub database: HostDb,
    /// Where the bytes of versions are kept.
    pub files: Content,
    /// Compiles and describes plugins.
    pub sandbox: Sandbox,
    /// Compiles the expressions of flows.
    pub expressions: Arc<dyn Expressions>,
    /// The bindings that may be granted.
    pub bindings: Arc<Bindings>,
    /// The queues that there are.
    pub queues: BTreeSet<String>,
    /// Queues of activities that name none, by plugin, over what it imports.
    pub default_queues: BTreeMap<String, String>,
    /// Whether the engine reaches workers outside of this process, Heyday's and others.
    pub foreign_workers: bool,
}

/// Plugins, flows and grants.
pub struct Core {
    pub(super) database: HostDb,
    pub(super) files: Content,
    pub(super) sandbox: Sandbox,
    pub(super) expressions: Arc<dyn Expressions>,
    pub(super) bindings: Arc<Bindings>,
    pub(super) queues: BTreeSet<String>,
    pub(super) default_queues: BTreeMap<String, String>,
    pub(super) foreign_workers: bool,
    pub(super) memory: RwLock<Memory>,
    /// Held while something changes.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// Held from the beginning of a change in the database until memory shows it: so long
    /// nobody else brings memory up to date.
    pub(super) stepping: tokio::sync::Mutex<()>,
    /// What others changed, and who follows that was not told yet.
    pub(super) moved: Mutex<Moved>,
    pub(super) flights: Mutex<plugins::Flights>,
    pub(super) parsed: Mutex<HashMap<Digest, Arc<Flow>>>,
    pub(super) pins: Mutex<definitions::Pins>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}

impl Core {
    /// Reads everything that is stored, and goes on with uploads that a stop
    /// interrupted.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn open(options: RegistryOptions) -> Result<Arc<Self>, RegistryError> {
        let mut reading = options.database.read().await?;
        let head = reading.head().await?;
        let process = match options.database.is_shared() {
            true => head.lineage,
            false => Uuid::new_v4(),
        };
        let mut memory = Memory {
            head,
            plugins: BTreeMap::new(),
            flows: BTreeMap::new(),
            uploads: HashMap::new(),
            by_digest: HashMap::new(),
            grants: GrantTable::default(),
            feed: Feed::new(process, head.revision),
            generation: 0,
        };
        let whole = Whole::read(&mut reading).await?;
        drop(reading);
        memory.take(whole)?;
        // Where others may be at work, only what they left is gone on with.
        let under_way = match options.database.is_shared() {
            true => Vec::new(),
            false => memory.uploads.values().cloned().collect(),
        };
        let registry = Arc::new(Self {
            database: options.database,
            files: options.files,
            sandbox: options.sandbox,
            expressions: options.expressions,
            bindings: options.bindings,
            queues: options.queues,
            default_queues: options.default_queues,
            foreign_workers: options.foreign_workers,
            memory: RwLock::new(memory),
            changing: tokio::sync::Mutex::new(()),
            stepping: tokio::sync::Mutex::new(()),
            moved: Mutex::default(),
            flights: Mutex::default(),
            parsed: Mutex::default(),
            pins: Mutex::default(),
        });
        registry.resume_uploads(under_way);
        Ok(registry)
    }

    /// Begins a change, when those before it are done.
    ///
    /// # Errors
    /// When the state cannot be read or written.
    pub(super) async fn change(&self) -> Result<Changing<'_>, RegistryError> {
        let one = self.changing.lock().await;
        self.change_after(one).await
    }

    /// The same for who has `changing` already.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    pub(super) async fn change_after<'c>(
        &'c self,
        one: MutexGuard<'c, ()>,
    ) -> Result<Changing<'c>, RegistryError> {
        let step = self.stepping.lock().await;
        let mut change = self.database.change().await?;
        let head = change.before();
        self.read_on(change.reading(), head).await?;
        Ok(Changing {
            change,
            guards: (one, step),
        })
    }

    pub(super) fn memory(&self) -> RwLockReadGuard<'_, Memory> {
        // Changes in memory do not panic half-way.
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn memory_mut(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names that there are, after `after`, each with its versions.
    #[must_use]
    pub fn list(
        &self,
        kind: Kind,
        namespace: &str,
        after: &str,
        limit: usize,
    ) -> Vec<(String, Entry)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = Excluded((namespace.to_owned(), after.to_owned()));
        self.memory()
            .of(kind)
            .range((from, Unbounded))
            .take_while(|((owner, _), _)| owner == namespace)
            .take(limit)
            .map(|((_, name), entry)| (name.clone(), entry.clone()))
            .collect()
    }

    /// All versions of a name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn entry(&self, kind: Kind, namespace: &str, name: &str) -> Result<Entry, RegistryError> {
        self.memory()
            .of(kind)
            .get(&(namespace.to_owned(), name.to_owned()))
            .cloned()
            .ok_or_else(|| RegistryError::not_found(kind.word(), name, namespace))
    }

    /// One version.
    ///
    /// # Errors
    /// When there is no such name or version.
    pub fn version(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        version: &str,
    ) -> Result<Arc<Stored>, RegistryError> {
        let entry = self.entry(kind, namespace, name)?;
        let number = parse_version(version)?;
        entry.versions.get(&number).cloned().ok_or_else(|| {
            RegistryError::not_found(kind.version(), format!("{name} {version}"), namespace)
        })
    }

    /// Whether a version is the active one.
    #[must_use]
    pub fn is_active(&self, stored: &Stored) -> bool {
        let row = &stored.row;
        self.memory()
            .of(row.kind)
            .get(&(row.namespace.clone(), row.name.clone()))
            .and_then(|entry| entry.activations.last())
            == Some(&row.version)
    }

    /// The plugin version of that digest.
    #[must_use]
    pub fn by_digest(&self, digest: &Digest) -> Option<Arc<Stored>> {
        self.memory().by_digest.get(digest).cloned()
    }

    /// Writes to the audit what changed nothing in the state, or changed something that is
    /// kept elsewhere and is durable already: a fault here is logged and not answered. A
    /// change of the state has its entry with it ([`Changing::commit_noted`]).
    pub async fn note(
        &self,
        actor: Actor<'_>,
        action: &str,
        resource: &str,
        details: &serde_json::Value,
    ) {
        let noted = self.database.audit(actor, action, resource, details);
        if let Err(error) = noted.await {
            let principal = actor.principal;
            tracing::error!(
                error = %error.chain(), principal, action, resource, %details,
                "an entry of the audit cannot be written"
            );
        }
    }

    /// A plugin version that is no longer registered and that an open run still needs:
    /// its start and the removal crossed. Made again of its bytes, which are kept as
    /// long as such a run is open.
    pub async fn revive(
        &self,
        namespace: &str,
        digest: &Digest,
    ) -> Result<Arc<Stored>, RegistryError> {
        let upload = UploadRow {
            namespace: namespace.to_owned(),
            digest: *digest,
            size: 0,
            state: VersionState::Compiling,
            reason: None,
            capabilities: BTreeSet::new(),
            imports: BTreeSet::new(),
            options: UploadOptions::default(),
            principal: String::new(),
            created_at: crate::state::now(),
        };
        let stored = Arc::new(self.describe(&upload).await?);
        self.memory_mut()
            .by_digest
            .insert(*digest, Arc::clone(&stored));
        Ok(stored)
    }

    /// The database.
    pub(super) const fn database(&self) -> &HostDb {
        &self.database
    }

    /// The bytes of a version.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn bytes(&self, digest: &Digest) -> Result<bytes::Bytes, RegistryError> {
        Ok(self.files.read(digest).await?)
    }

    /// Forgets uploads that failed long ago: nobody asks about them any more.
    async fn forget_failed(&self) -> Result<(), RegistryError> {
        let now = crate::state::now();
        let old = |memory: &Memory| -> Vec<(String, Digest)> {
            let uploads = memory.uploads.iter().filter(|(_, row)| {
                row.state == VersionState::Failed
                    && now.duration_since(row.created_at) > FAILED_KEPT
            });
            uploads.map(|(key, _)| key.clone()).collect()
        };
        if old(&self.memory()).is_empty() {
            return Ok(());
        }
        let mut changing = self.change().await?;
        // They may have been sent again meanwhile.
        let old = old(&self.memory());
        for (namespace, digest) in &old {
            changing.change.forget_upload(namespace, digest).await?;
        }
        let done = changing.commit().await?;
        let mut memory = self.memory_mut();
        memory.step(done.head);
        for key in &old {
            memory.uploads.remove(key);
        }
        Ok(())
    }

    /// Forgets uploads that failed long ago, and removes files that no version names and no
    /// open run needs. What was removed or parsed since the start stays until the next one: a
    /// run may be about to need it.
    pub async fn sweep(&self, engine: &dyn Engine) {
        use heyday_durable::payload::PayloadStore as _;
        if let Err(error) = self.forget_failed().await {
            tracing::warn!(%error, "uploads that failed long ago are not forgotten now");
        }
        let mut live: std::collections::HashSet<Digest> = {
            let memory = self.memory();
            let uploads = memory.uploads.keys().map(|(_, digest)| *digest);
            memory.by_digest.keys().copied().chain(uploads).collect()
        };
        // A run may be about to start with what is parsed.
        live.extend(
            self.parsed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .keys(),
        );
        let files = match self.files.old(KEPT_AFTER).await {
            Ok(files) => files,
            Err(error) => {
                tracing::warn!(%error, "files of removed versions cannot be listed");
                return;
            }
        };
        for digest in files {
            if live.contains(&digest) {
                continue;
            }
            if !matches!(engine.open_runs_using(&digest).await, Ok(0)) {
                live.insert(digest);
            } else if let Err(error) = self.sandbox.forget(&digest.hex()) {
                tracing::warn!(%error, %digest, "compiled code cannot be removed");
            }
        }
        match self.files.sweep(&live, KEPT_AFTER).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "removed files of removed versions"),
            Err(error) => tracing::warn!(%error, "files of removed versions cannot be removed"),
        }
    }
}
