//! Which database or folder stands behind a binding's name, per namespace.
//!
//! Plugins see names; addresses and paths come only from here. A binding belongs to one
//! namespace, and no two bindings share a file, a folder or a role on a server, so that
//! what plugins of one namespace store is out of reach for those of another.
//!
//! How a capability's bindings are written stands in a file of its own here, as a type
//! that is `Declared` (what is checked of all alike) and a `Binding` (what it opens).
//! To add one: that type, a field in [`NamespaceBindings`], and one in [`Bindings`].

mod blob;
mod check;
mod claims;
mod config;
mod database;
mod graph;
mod neighbours;
mod reserved;
mod settings;
mod vector;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use heyday_inference::Inference;
use tokio::runtime::Handle;

pub use blob::BlobBinding;
pub use config::{BindingError, BindingsConfig, NamespaceBindings};
pub use database::{DatabaseBinding, KvBinding, SqlBinding};
pub use graph::GraphBinding;
pub use reserved::{Reserved, StateDatabase};
pub use settings::{ConfigBinding, SecretsBinding};
pub use vector::VectorBinding;

use crate::blob::Container;
use crate::blob::address::{Addresses, ContainerAddresses};
use crate::config::Settings;
use crate::diagnosis::{Diagnosis, Finding};
use crate::graph::Graph;
use crate::inference::elsewhere::Elsewhere;
use crate::kv::Store;
use crate::postgres::Place;
use crate::secrets::Secrets;
use crate::sql::Database;
use crate::vector as vector_store;
use check::check;
use claims::Claims;
use neighbours::{Neighbours, usable};

/// What is checked of every binding before any is opened.
pub(crate) trait Declared: SignsIn {
    /// The file or folder of this machine where it keeps its data, if it has one, and
    /// whether nobody writes there.
    fn place(&self) -> Option<(&PathBuf, bool)>;

    /// Every path that it names.
    fn paths(&mut self) -> Vec<&mut PathBuf>;

    /// What its plugins reach of this machine: files, and folders with all that is in them.
    fn reached(&self) -> Vec<PathBuf> {
        let place = self.place().map(|(path, _)| path.clone());
        place.into_iter().collect()
    }

    /// Its limits that cannot be zero.
    fn limits(&self) -> Vec<(&'static str, u64)>;
}

/// What a binding signs in with.
pub(crate) trait SignsIn {
    /// The files that only the host may read and nobody else write.
    fn credentials(&self) -> Vec<PathBuf>;
}

impl<B: Declared + Clone> SignsIn for B {
    /// Every path of a binding but its place.
    fn credentials(&self) -> Vec<PathBuf> {
        let place = self.place().map(|(path, _)| path.clone());
        let mut copy = self.clone();
        let all = copy.paths().into_iter().map(std::mem::take);
        all.filter(|path| Some(path) != place.as_ref()).collect()
    }
}

/// A binding as the configuration writes it.
pub(crate) trait Binding: Declared {
    /// The capability.
    const CAPABILITY: &'static str;
    /// What stands behind it.
    type Opened: ?Sized;

    /// Opens it.
    fn open(&self, opening: Opening<'_>) -> Result<Arc<Self::Opened>, BindingError>;
}

/// What a binding is opened with.
pub(crate) struct Opening<'a> {
    /// Its name for people.
    full: &'a str,
    /// Who signs in where.
    claims: &'a mut Claims,
    /// Where its work is done.
    runtime: &'a Handle,
    /// Where its objects can be had from this process's server, which has one.
    addresses: Option<ContainerAddresses>,
}

/// What all bindings of a process are opened with.
struct Common<'a> {
    claims: Claims,
    runtime: &'a Handle,
    addresses: Option<&'a Addresses>,
}

/// What is opened of one capability, by namespace and name.
struct Table<T: ?Sized>(BTreeMap<Key, Arc<T>>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    namespace: String,
    name: String,
}

impl Key {
    fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    fn full_name(&self, capability: &str) -> String {
        full_name(&self.namespace, capability, &self.name)
    }

    fn diagnosis(
        &self,
        capability: &'static str,
        backend: &'static str,
        findings: Vec<Finding>,
    ) -> Diagnosis {
        Diagnosis {
            namespace: self.namespace.clone(),
            capability,
            name: self.name.clone(),
            backend,
            findings,
        }
    }
}

impl<T: ?Sized> Default for Table<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: ?Sized> Table<T> {
    fn get(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.0.get(&Key::new(namespace, name)).cloned()
    }

    fn open<B: Binding<Opened = T>>(
        &mut self,
        namespace: &str,
        declared: &BTreeMap<String, B>,
        common: &mut Common<'_>,
    ) -> Result<(), BindingError> {
        for (name, binding) in declared {
            let opened = binding.open(Opening {
                full: &full_name(namespace, B::CAPABILITY, name),
                claims: &mut common.claims,
                runtime: common.runtime,
                addresses: common.addresses.map(|it| it.of(namespace, name)),
            })?;
            self.0.insert(Key::new(namespace, name), opened);
        }
        Ok(())
    }

    /// Those of a namespace: the capability, the name, and what stands behind it.
    fn list<'a>(
        &'a self,
        capability: &'static str,
        namespace: &'a str,
        backend: fn(&T) -> &'static str,
    ) -> impl Iterator<Item = (&'static str, String, &'static str)> + 'a {
        let all = self.0.iter();
        let of_namespace = all.filter(move |(key, _)| key.namespace == namespace);
        of_namespace.map(move |(key, it)| (capability, key.name.clone(), backend(it)))
    }
}

/// The opened bindings of a process.
#[derive(Default)]
pub struct Bindings {
    sql: Table<dyn Database>,
    blob: Table<dyn Container>,
    kv: Table<dyn Store>,
    config: Table<Settings>,
    secrets: Table<Secrets>,
    graph: Table<Graph>,
    vector: Table<dyn vector_store::Store>,
    inference: Option<Inference>,
    elsewhere: Option<Arc<dyn Elsewhere>>,
    addresses: Option<Addresses>,
}

impl std::fmt::Debug for Bindings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bindings")
            .field("sql", &self.sql.0.keys())
            .field("blob", &self.blob.0.keys())
            .field("kv", &self.kv.0.keys())
            .field("config", &self.config.0.keys())
            .field("secrets", &self.secrets.0.keys())
            .field("graph", &self.graph.0.keys())
            .field("vector", &self.vector.0.keys())
            .finish_non_exhaustive()
    }
}

impl Bindings {
    /// Checks a configuration and opens its bindings. Databases are connected to at
    /// their first use, so that one that is away holds up nothing else. The work of
    /// bindings is done on `runtime`.
    ///
    /// # Errors
    /// The first that cannot be used, by name.
    pub fn open(config: &BindingsConfig, runtime: &Handle) -> Result<Self, BindingError> {
        Self::open_with(config, runtime, None, &Reserved::default())
    }

    /// As [`open`](Self::open), in a process whose server answers under these addresses for
    /// objects that have none of their own, and has places that no binding may reach.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        config: &BindingsConfig,
        runtime: &Handle,
        addresses: Option<Addresses>,
        reserved: &Reserved,
    ) -> Result<Self, BindingError> {
        check(config, reserved)?;
        let mut bindings = Self::default();
        let mut common = Common {
            claims: Claims::beside(reserved.state.clone()),
            runtime,
            addresses: addresses.as_ref(),
        };
        for (namespace, of) in &config.namespaces {
            let (sql, blob, kv) = (&mut bindings.sql, &mut bindings.blob, &mut bindings.kv);
            sql.open(namespace, &of.sql, &mut common)?;
            blob.open(namespace, &of.blob, &mut common)?;
            kv.open(namespace, &of.kv, &mut common)?;
            let (config, secrets) = (&mut bindings.config, &mut bindings.secrets);
            config.open(namespace, &of.config, &mut common)?;
            secrets.open(namespace, &of.secrets, &mut common)?;
            let graph = &mut bindings.graph;
            graph.open(namespace, &of.graph, &mut common)?;
            let vector = &mut bindings.vector;
            vector.open(namespace, &of.vector, &mut common)?;
        }
        bindings.addresses = addresses;
        Ok(bindings)
    }

    /// The addresses under which this process's server answers for objects that have none
    /// of their own.
    #[must_use]
    pub const fn addresses(&self) -> Option<&Addresses> {
        self.addresses.as_ref()
    }

    /// The database of that name.
    #[must_use]
    pub fn database(&self, namespace: &str, name: &str) -> Option<Arc<dyn Database>> {
        self.sql.get(namespace, name)
    }

    /// The container of that name.
    #[must_use]
    pub fn container(&self, namespace: &str, name: &str) -> Option<Arc<dyn Container>> {
        self.blob.get(namespace, name)
    }

    /// The key-value store of that name.
    #[must_use]
    pub fn store(&self, namespace: &str, name: &str) -> Option<Arc<dyn Store>> {
        self.kv.get(namespace, name)
    }

    /// The settings of that name.
    #[must_use]
    pub fn settings(&self, namespace: &str, name: &str) -> Option<Arc<Settings>> {
        self.config.get(namespace, name)
    }

    /// The secrets of that name.
    #[must_use]
    pub fn secrets(&self, namespace: &str, name: &str) -> Option<Arc<Secrets>> {
        self.secrets.get(namespace, name)
    }

    /// The graph of that name.
    #[must_use]
    pub fn graph(&self, namespace: &str, name: &str) -> Option<Arc<Graph>> {
        self.graph.get(namespace, name)
    }

    /// The vector store of that name.
    #[must_use]
    pub fn vector(&self, namespace: &str, name: &str) -> Option<Arc<dyn vector_store::Store>> {
        self.vector.get(namespace, name)
    }

    /// Serves models too, the same in every namespace: each is a binding of `inference`.
    #[must_use]
    pub fn with_inference(mut self, inference: Inference) -> Self {
        self.inference = Some(inference);
        self
    }

    /// Knows whom to ask for the models of other processes, where there are any that take the
    /// same tasks.
    #[must_use]
    pub fn with_elsewhere(mut self, elsewhere: Arc<dyn Elsewhere>) -> Self {
        self.elsewhere = Some(elsewhere);
        self
    }

    /// Who knows the models of other processes.
    #[must_use]
    pub fn elsewhere(&self) -> Option<&Arc<dyn Elsewhere>> {
        self.elsewhere.as_ref()
    }

    /// What serves models.
    #[must_use]
    pub const fn inference(&self) -> Option<&Inference> {
        self.inference.as_ref()
    }

    /// The bindings of a namespace in order: capability, name, and what stands behind it.
    #[must_use]
    pub fn list(&self, namespace: &str) -> Vec<(&'static str, String, &'static str)> {
        let sql = self.sql.list("sql", namespace, |it| it.dialect());
        let blob = self.blob.list("blob", namespace, |it| it.backend());
        let kv = self.kv.list("kv", namespace, |it| it.backend());
        let vector = self.vector.list("vector", namespace, |it| it.backend());
        let graph = self.graph.list("graph", namespace, Graph::dialect);
        let config = self
            .config
            .list(crate::config::NAME, namespace, Settings::backend);
        let secrets = self
            .secrets
            .list(crate::secrets::NAME, namespace, Secrets::backend);
        let mut all: Vec<_> = sql
            .chain(blob)
            .chain(kv)
            .chain(graph)
            .chain(vector)
            .collect();
        all.extend(config.chain(secrets));
        let models = self.inference.iter().flat_map(Inference::models);
        all.extend(models.map(|model| {
            let backend = model.stored().map_or("remote", |_| "models");
            (crate::inference::NAME, model.name().to_owned(), backend)
        }));
        all.sort();
        all
    }

    /// Looks whether each binding can be used, one after the other, and tells `each` what
    /// was found. Of two in one place, the later one says so, as does who is where the host's
    /// own `state` is.
    pub async fn diagnose(&self, state: Option<Place>, mut each: impl FnMut(Diagnosis)) {
        let mut neighbours = Neighbours::of(state);
        for (key, it) in &self.sql.0 {
            let mut found = it.diagnose().await;
            if usable(&found)
                && let Some(location) = it.location().await
            {
                found.extend(neighbours.in_database(key.full_name("sql"), location));
            }
            each(key.diagnosis("sql", it.dialect(), found));
        }
        for (key, it) in &self.blob.0 {
            each(key.diagnosis("blob", it.backend(), it.diagnose().await));
        }
        for (key, it) in &self.kv.0 {
            let mut found = it.diagnose().await;
            if usable(&found)
                && let Some(location) = it.location().await
            {
                found.extend(neighbours.in_database(key.full_name("kv"), location));
            }
            each(key.diagnosis("kv", it.backend(), found));
        }
        for (key, it) in &self.graph.0 {
            let mut found = it.diagnose().await;
            if usable(&found)
                && let Some(location) = it.location().await
            {
                let (name, read_only) = (key.full_name("graph"), it.read_only());
                found.extend(neighbours.on_server(name, location, read_only));
            }
            each(key.diagnosis("graph", it.dialect(), found));
        }
        for (key, it) in &self.vector.0 {
            each(key.diagnosis("vector", it.backend(), it.diagnose().await));
        }
        for (key, it) in &self.config.0 {
            each(key.diagnosis(crate::config::NAME, it.backend(), it.diagnose().await));
        }
        for (key, it) in &self.secrets.0 {
            each(key.diagnosis(crate::secrets::NAME, it.backend(), it.diagnose().await));
        }
    }

    /// Closes the databases, when no more calls come.
    pub async fn close(&self) {
        for database in self.sql.0.values() {
            database.close().await;
        }
        for store in self.kv.0.values() {
            store.close().await;
        }
        for graph in self.graph.0.values() {
            graph.close().await;
        }
        for store in self.vector.0.values() {
            store.close().await;
        }
    }
}

fn full_name(namespace: &str, capability: &str, name: &str) -> String {
    format!("{namespace}/{capability}/{name}")
}

#[cfg(test)]
mod tests;
