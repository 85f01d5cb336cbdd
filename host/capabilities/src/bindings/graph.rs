//! A binding of `graph`: an embedded graph in a folder, or a Neo4j server.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::config::Backend;
use super::{Binding, BindingError, Declared, Opening};
use crate::graph::embedded::{self, EngineCommand, OpenError};
use crate::graph::neo4j::{self, Neo4jConfig};
use crate::graph::{Graph, GraphLimits};

/// A graph: in a folder of this machine, or on a Neo4j server; one of both is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphBinding {
    /// The folder of an embedded graph; it is made when it is missing. One process has it
    /// open.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// The Neo4j server, which is this binding's alone.
    #[serde(default)]
    pub neo4j: Option<Neo4jConfig>,
    /// Whether nobody may write to it; then a folder must exist.
    #[serde(default)]
    pub read_only: bool,
    /// Its limits.
    #[serde(default)]
    pub limits: GraphLimits,
}

impl Declared for GraphBinding {
    fn place(&self) -> Option<(&PathBuf, bool)> {
        Some((self.path.as_ref()?, self.read_only))
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let neo4j = self.neo4j.iter_mut().flat_map(Neo4jConfig::paths);
        self.path.iter_mut().chain(neo4j).collect()
    }

    fn limits(&self) -> Vec<(&'static str, u64)> {
        let limits = &self.limits;
        vec![
            ("result_rows", limits.result_rows),
            ("result_bytes", limits.result_bytes),
            ("attempt_bytes", limits.attempt_bytes),
            ("open_handles", u64::from(limits.open_handles)),
            ("statement_timeout_ms", limits.statement_timeout_ms),
            ("connections", u64::from(limits.connections)),
            ("memory_bytes", limits.memory_bytes.unwrap_or(1)),
        ]
    }
}

impl Binding for GraphBinding {
    const CAPABILITY: &'static str = "graph";
    type Opened = Graph;

    fn open(&self, opening: Opening<'_>) -> Result<Arc<Self::Opened>, BindingError> {
        let Opening {
            full,
            claims,
            runtime,
            ..
        } = opening;
        let (read_only, limits) = (self.read_only, self.limits.clone());
        let (path, neo4j) = (self.path.as_ref(), self.neo4j.as_ref());
        let graph = match Backend::of(full, path, neo4j, "`path` and `neo4j`")? {
            Backend::Here(path) => {
                let command = EngineCommand::own().map_err(OpenError::Program);
                let opened = command
                    .and_then(|it| embedded::open(path, read_only, limits, it, runtime.clone()));
                opened.map_err(|source| BindingError::Graph {
                    binding: full.to_owned(),
                    source,
                })?
            }
            Backend::Server(config) => {
                if limits.memory_bytes.is_some() {
                    return Err(BindingError::ForeignLimit {
                        binding: full.to_owned(),
                        limit: "memory_bytes",
                    });
                }
                let cannot = |source| BindingError::Neo4j {
                    binding: full.to_owned(),
                    source,
                };
                let identity = neo4j::identity(config).map_err(cannot)?;
                claims.claim(full, identity, read_only)?;
                neo4j::open(config, read_only, limits, runtime.clone()).map_err(cannot)?
            }
        };
        Ok(Arc::new(graph))
    }
}
