//! How the configuration writes bindings, and why it may be refused.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    BlobBinding, ConfigBinding, Declared, GraphBinding, KvBinding, SecretsBinding, SqlBinding,
    VectorBinding,
};
use crate::postgres::PostgresConfigError;
use crate::secrets::SecretsConfigError;
use crate::source::SourceError;
use crate::vector::weaviate::WeaviateConfigError;

/// All bindings of a process, as its configuration writes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BindingsConfig {
    /// By namespace.
    pub namespaces: BTreeMap<String, NamespaceBindings>,
}

/// The bindings of one namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NamespaceBindings {
    /// Databases, by name.
    pub sql: BTreeMap<String, SqlBinding>,
    /// Containers, by name.
    pub blob: BTreeMap<String, BlobBinding>,
    /// Key-value stores, by name.
    pub kv: BTreeMap<String, KvBinding>,
    /// Settings, by name.
    pub config: BTreeMap<String, ConfigBinding>,
    /// Secrets, by name.
    pub secrets: BTreeMap<String, SecretsBinding>,
    /// Graphs, by name.
    pub graph: BTreeMap<String, GraphBinding>,
    /// Vector stores, by name.
    pub vector: BTreeMap<String, VectorBinding>,
}

/// A capability's bindings as all of them are looked at: what it is called, and they.
type Of<'a> = (&'static str, Vec<(&'a String, &'a dyn Declared)>);

impl NamespaceBindings {
    /// Every binding: capability, name, and what the configuration says of it.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &String, &dyn Declared)> {
        fn of<B: super::Binding>(bindings: &BTreeMap<String, B>) -> Of<'_> {
            let declared = bindings
                .iter()
                .map(|(name, it)| (name, it as &dyn Declared));
            (B::CAPABILITY, declared.collect())
        }
        let data = [of(&self.sql), of(&self.blob), of(&self.kv)];
        let found = [of(&self.graph), of(&self.vector)];
        let settings = [of(&self.config), of(&self.secrets)];
        data.into_iter()
            .chain(found)
            .chain(settings)
            .flat_map(|(capability, all)| {
                all.into_iter()
                    .map(move |(name, binding)| (capability, name, binding))
            })
    }

    /// Every path that they name.
    pub fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let sql = self.sql.values_mut().flat_map(Declared::paths);
        let blob = self.blob.values_mut().flat_map(Declared::paths);
        let kv = self.kv.values_mut().flat_map(Declared::paths);
        let vector = self.vector.values_mut().flat_map(Declared::paths);
        let graph = self.graph.values_mut().flat_map(Declared::paths);
        let config = self.config.values_mut().flat_map(Declared::paths);
        let secrets = self.secrets.values_mut().flat_map(Declared::paths);
        let data = sql.chain(blob).chain(kv).chain(graph).chain(vector);
        data.chain(config).chain(secrets)
    }
}

/// Why a configuration of bindings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BindingError {
    /// A name that no binding or namespace may have.
    #[error(
        "{what} `{name}` is not a name: names have 1 to 63 of a-z, 0-9 and -, and begin \
         with a letter"
    )]
    InvalidName {
        /// What it is the name of.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Two bindings of one file, or one within another's folder.
    #[error(
        "the bindings {first} and {second} overlap at {}: give each a path of its own",
        .path.display()
    )]
    Overlap {
        /// The first, `namespace/capability/name`.
        first: String,
        /// The second.
        second: String,
        /// Where.
        path: PathBuf,
    },
    /// Two bindings that sign in to one server as the same one, or have one place in a
    /// bucket.
    #[error(
        "the bindings {first} and {second} are both {identity}: give each a role, a server or a \
         prefix of its own, because who signs in reaches all that is there"
    )]
    Shared {
        /// The first, `namespace/capability/name`.
        first: String,
        /// The second.
        second: String,
        /// The role and the server, or the bucket.
        identity: String,
    },
    /// A binding that would give out what is the host's or another's alone.
    #[error(
        "the binding {binding} would give out {}, {whose}: give it a place that neither holds it \
         nor lies in it",
        .path.display()
    )]
    Reserved {
        /// The binding, `namespace/capability/name`.
        binding: String,
        /// What it would give out.
        path: PathBuf,
        /// Whose that is.
        whose: String,
    },
    /// A binding that has the role or the database of the server's own state.
    #[error(
        "the binding {binding} has the {what} of the server's own state on {address}: give it a \
         role and a database of its own"
    )]
    OfState {
        /// The binding, `namespace/capability/name`.
        binding: String,
        /// `role` or `database`.
        what: &'static str,
        /// The PostgreSQL server.
        address: String,
    },
    /// No backend, or two.
    #[error("the binding {binding} says {said}: say one of {known}")]
    Backend {
        /// The binding.
        binding: String,
        /// What it says.
        said: &'static str,
        /// What there is.
        known: &'static str,
    },
    /// A PostgreSQL database that cannot be one.
    #[error("the binding {binding} cannot be used")]
    Postgres {
        /// The binding.
        binding: String,
        /// Why.
        source: PostgresConfigError,
    },
    /// A Neo4j server that cannot be one.
    #[error("the binding {binding} cannot be used")]
    Neo4j {
        /// The binding.
        binding: String,
        /// Why.
        source: crate::graph::neo4j::Neo4jConfigError,
    },
    /// A graph that cannot be opened.
    #[error("the binding {binding} cannot be opened")]
    Graph {
        /// The binding.
        binding: String,
        /// Why.
        source: crate::graph::embedded::OpenError,
    },
    /// A Weaviate that cannot be one.
    #[error("the binding {binding} cannot be used")]
    Weaviate {
        /// The binding.
        binding: String,
        /// Why.
        source: WeaviateConfigError,
    },
    /// A limit of another backend.
    #[error("the binding {binding} has the limit {limit}, which only embedded backends have")]
    ForeignLimit {
        /// The binding.
        binding: String,
        /// The limit.
        limit: &'static str,
    },
    /// A limit that makes no sense.
    #[error("the binding {binding} has {limit} = 0: it could never be used")]
    ZeroLimit {
        /// The binding.
        binding: String,
        /// The limit.
        limit: &'static str,
    },
    /// A database that cannot be opened.
    #[error("the binding {binding} cannot be opened")]
    Database {
        /// The binding.
        binding: String,
        /// Why.
        source: crate::sqlite_file::OpenError,
    },
    /// A bucket that cannot be one.
    #[error("the binding {binding} cannot be used")]
    Bucket {
        /// The binding.
        binding: String,
        /// Why.
        source: crate::blob::bucket_config::BucketConfigError,
    },
    /// A folder that cannot be opened.
    #[error("the binding {binding} cannot be opened")]
    Blob {
        /// The binding.
        binding: String,
        /// Why.
        source: crate::blob::files::OpenError,
    },
    /// Settings that cannot be given out.
    #[error("the binding {binding} cannot be used")]
    Config {
        /// The binding.
        binding: String,
        /// Why.
        source: SourceError,
    },
    /// Secrets that cannot be given out.
    #[error("the binding {binding} cannot be used")]
    Secrets {
        /// The binding.
        binding: String,
        /// Why.
        source: SecretsConfigError,
    },
}

/// The one backend that a binding says.
pub(super) enum Backend<'a, A, B> {
    /// A path of this machine.
    Here(&'a A),
    /// A server.
    Server(&'a B),
}

impl<'a, A, B> Backend<'a, A, B> {
    pub(super) fn of(
        binding: &str,
        here: Option<&'a A>,
        server: Option<&'a B>,
        known: &'static str,
    ) -> Result<Self, BindingError> {
        one_of(
            binding,
            [here.map(Self::Here), server.map(Self::Server)],
            known,
        )
    }
}

/// The one of all that may be said.
pub(super) fn one_of<T>(
    binding: &str,
    all: impl IntoIterator<Item = Option<T>>,
    known: &'static str,
) -> Result<T, BindingError> {
    let mut said = all.into_iter().flatten();
    let said = match (said.next(), said.next()) {
        (Some(one), None) => return Ok(one),
        (None, _) => "no backend",
        (Some(_), Some(_)) => "two backends",
    };
    Err(BindingError::Backend {
        binding: binding.to_owned(),
        said,
        known,
    })
}
