//! What is registered, in memory and in `host.db`.
//!
//! Everything is read at the start. A change is written first, in one transaction, and
//! then shown in memory; one change at a time. Readers never wait for the disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use heyday_capabilities::Bindings;
use heyday_durable::engine::Engine;
use heyday_durable::expressions::Expressions;
use heyday_durable::flow::Flow;
use heyday_durable::payload::Digest;
use heyday_sandbox::Sandbox;

use super::RegistryError;
use super::definitions;
use super::feed::Feed;
use super::grants::GrantTable;
use super::plugins;
use super::types::{UploadOptions, VersionState};
use super::versions::{Entry, Stored, parse_version};
use crate::files::ContentFiles;
use crate::state::HostDb;
use crate::state::versions::{Kind, UploadRow};

/// Parsed flows that are kept.
pub(super) const MAX_PARSED: usize = 4_096;

type Name = (String, String);

#[derive(Default)]
pub(super) struct Memory {
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
}

/// What a registry is made of.
pub struct RegistryOptions {
    /// Where it is kept.
    pub database: HostDb,
    /// Where the bytes of versions are kept.
    pub files: ContentFiles,
    /// Compiles and describes plugins.
    pub sandbox: Sandbox,
    /// Compiles the expressions of flows.
    pub expressions: Arc<dyn Expressions>,
    /// The bindings that may be granted.
    pub bindings: Arc<Bindings>,
    /// The queues that there are.
    pub queues: BTreeSet<String>,
    /// Whether the engine reaches workers that are not Heyday's.
    pub foreign_workers: bool,
}

/// Plugins, flows and grants.
pub struct Core {
    pub(super) database: HostDb,
    pub(super) files: ContentFiles,
    pub(super) sandbox: Sandbox,
    pub(super) expressions: Arc<dyn Expressions>,
    pub(super) bindings: Arc<Bindings>,
    pub(super) queues: BTreeSet<String>,
    pub(super) foreign_workers: bool,
    pub(super) memory: RwLock<Memory>,
    /// Held while something changes.
    pub(super) changing: tokio::sync::Mutex<()>,
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
        let mut memory = Memory::default();
        for row in options.database.versions().await? {
            let stored = Arc::new(Stored::read(row)?);
            let row = &stored.row;
            memory.by_digest.insert(row.digest, Arc::clone(&stored));
            memory
                .of_mut(row.kind)
                .entry((row.namespace.clone(), row.name.clone()))
                .or_default()
                .versions
                .insert(row.version.clone(), Arc::clone(&stored));
        }
        for (kind, namespace, name, version) in options.database.activations().await? {
            if let Some(entry) = memory.of_mut(kind).get_mut(&(namespace, name)) {
                entry.activations.push(version);
            }
        }
        for row in options.database.uploads().await? {
            memory
                .uploads
                .insert((row.namespace.clone(), row.digest), row);
        }
        memory.grants = GrantTable::new(options.database.grants().await?);
        let registry = Arc::new(Self {
            database: options.database,
            files: options.files,
            sandbox: options.sandbox,
            expressions: options.expressions,
            bindings: options.bindings,
            queues: options.queues,
            foreign_workers: options.foreign_workers,
            memory: RwLock::new(memory),
            changing: tokio::sync::Mutex::new(()),
            flights: Mutex::default(),
            parsed: Mutex::default(),
            pins: Mutex::default(),
        });
        registry.resume_uploads();
        Ok(registry)
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

    /// Writes to the audit. The change itself is durable already: a fault here is
    /// logged and not answered.
    pub async fn note(
        &self,
        namespace: &str,
        principal: &str,
        action: &str,
        resource: &str,
        details: &serde_json::Value,
    ) {
        let database = &self.database;
        let noted = database
            .audit(namespace, principal, action, resource, details)
            .await;
        if let Err(error) = noted {
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
            created_at: jiff::Timestamp::now(),
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

    /// Removes files that no version names and no open run needs. What was removed or
    /// parsed since the start stays until the next one: a run may be about to need it.
    pub async fn sweep(&self, engine: &dyn Engine) {
        use heyday_durable::payload::PayloadStore as _;
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
        let files = match self.files.list().await {
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
        match self
            .files
            .sweep(&live, std::time::Duration::from_secs(3_600))
            .await
        {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "removed files of removed versions"),
            Err(error) => tracing::warn!(%error, "files of removed versions cannot be removed"),
        }
    }
}
