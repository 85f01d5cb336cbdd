//! Plugins whose code is in memory, and the preparations that are under way.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};

use wasmtime::component::Component;

use super::{Inner, misfit};
use crate::capability::Capability;
use crate::engine;
use crate::options::{PrepareError, PrepareState};
use crate::plugin::PluginPre;
use crate::state::CallState;

/// A plugin's compiled code, ready to be called.
pub struct Plugin {
    digest: String,
    pub(crate) pre: PluginPre<CallState>,
    pub(crate) capabilities: Vec<Arc<dyn Capability>>,
}

impl Plugin {
    /// The component's sha-256 digest: 64 hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// A preparation under way.
#[derive(Default)]
pub(super) struct Flight {
    pub(super) state: AtomicU8,
    /// One of those who wait for it goes on at a time.
    pub(super) one: tokio::sync::Mutex<()>,
}

impl Flight {
    pub(super) fn set(&self, state: PrepareState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }
}

/// What is in memory, and what is being prepared, by digest.
#[derive(Default)]
pub(super) struct Plugins {
    /// With the number of its last use.
    pub(super) loaded: HashMap<String, (Arc<Plugin>, u64)>,
    uses: u64,
    pub(super) flights: HashMap<String, Arc<Flight>>,
}

/// Joins the preparation of a component and leaves it when dropped.
pub(super) struct Landing<'a> {
    inner: &'a Inner,
    digest: &'a str,
    pub(super) flight: Arc<Flight>,
}

impl<'a> Landing<'a> {
    pub(super) fn join(inner: &'a Inner, digest: &'a str) -> Self {
        let flight = Arc::clone(
            inner
                .plugins()
                .flights
                .entry(digest.to_owned())
                .or_default(),
        );
        Self {
            inner,
            digest,
            flight,
        }
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut plugins = self.inner.plugins();
        // The map's and ours: nobody else is left.
        if Arc::strong_count(&self.flight) == 2 {
            plugins.flights.remove(self.digest);
        }
    }
}

impl Inner {
    pub(super) fn plugins(&self) -> MutexGuard<'_, Plugins> {
        // A panic while it was held leaves nothing half-done.
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn loaded(&self, digest: &str) -> Option<Arc<Plugin>> {
        let mut plugins = self.plugins();
        plugins.uses += 1;
        let now = plugins.uses;
        let (plugin, used) = plugins.loaded.get_mut(digest)?;
        *used = now;
        Some(Arc::clone(plugin))
    }

    pub(super) async fn load(
        &self,
        digest: &str,
        path: PathBuf,
    ) -> Result<Arc<Plugin>, PrepareError> {
        let engine = self.runner.engine.clone();
        let component = tokio::task::spawn_blocking(move || {
            // SAFETY: the file is in the folder that only the host writes, and its
            // checksum says that it is what this host's compiler wrote there.
            unsafe { Component::deserialize_file(&engine, &path) }
        })
        .await
        .map_err(|error| PrepareError::Storage(error.to_string()))?
        .map_err(|error| PrepareError::Storage(format!("{error:#}")))?;
        needs(&component)?;
        let pre = self.linker.instantiate_pre(&component).map_err(|error| {
            PrepareError::Incompatible(misfit::why(&self.linker, &component, &error))
        })?;
        let pre = PluginPre::new(pre)
            .map_err(|error| PrepareError::Incompatible(format!("{error:#}")))?;
        let imported: Vec<&str> = component
            .component_type()
            .imports(&self.runner.engine)
            .filter_map(|(name, _)| name.split('@').next())
            .filter_map(|name| self.interfaces.get(name).copied())
            .collect();
        let capabilities = self.capabilities.iter();
        let plugin = Arc::new(Plugin {
            digest: digest.to_owned(),
            capabilities: capabilities
                .filter(|capability| imported.contains(&capability.name()))
                .cloned()
                .collect(),
            pre,
        });
        self.keep(&plugin);
        Ok(plugin)
    }

    fn keep(&self, plugin: &Arc<Plugin>) {
        let mut plugins = self.plugins();
        plugins.uses += 1;
        let entry = (Arc::clone(plugin), plugins.uses);
        plugins.loaded.insert(plugin.digest.clone(), entry);
        while plugins.loaded.len() > self.options.max_loaded.max(1) {
            let oldest = plugins
                .loaded
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(digest, _)| digest.clone());
            let Some(oldest) = oldest else { break };
            plugins.loaded.remove(&oldest);
        }
    }
}

/// Refuses a component that no slot of the pool fits.
fn needs(component: &Component) -> Result<(), PrepareError> {
    let refuse = |what: &str, has: u32, most: u32| {
        Err(PrepareError::Incompatible(format!(
            "it has {has} {what}, more than the {most} allowed"
        )))
    };
    let Some(needed) = component.resources_required() else {
        return Err(PrepareError::Incompatible(
            "it instantiates a module that it imports".to_owned(),
        ));
    };
    if needed.num_memories > engine::MEMORIES_PER_COMPONENT {
        return refuse(
            "linear memories",
            needed.num_memories,
            engine::MEMORIES_PER_COMPONENT,
        );
    }
    if needed.num_tables > engine::TABLES_PER_COMPONENT {
        return refuse("tables", needed.num_tables, engine::TABLES_PER_COMPONENT);
    }
    Ok(())
}
