//! The state of one call: what host functions see.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use wasmtime::component::ResourceTable;

use crate::call::{Attempt, Usage};
use crate::capability::Grants;

/// What a host function sees of the call that it belongs to.
pub struct CallState {
    pub(crate) table: ResourceTable,
    pub(crate) plugin: String,
    pub(crate) attempt: Attempt,
    pub(crate) grants: Arc<Grants>,
    pub(crate) usage: Usage,
    pub(crate) capabilities: BTreeMap<&'static str, Box<dyn Any + Send>>,
}

/// Why a host call ended before its future did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The attempt's deadline came.
    TimedOut,
    /// The attempt was asked to stop.
    Cancelled,
    /// The plugin's grants were taken back.
    Revoked,
}

/// One host call under the call's deadline, cancellation and grants; owned, so that
/// its future does not borrow the state.
#[derive(Debug, Clone)]
pub struct HostCall {}

impl HostCall {
    /// Runs a future until it ends, or until the call must stop.
    ///
    /// # Errors
    /// Why it was stopped; the future is dropped then.
    pub async fn run<F: Future>(&self, future: F) -> Result<F::Output, Stopped> {
        Ok(future.await)
    }
}

impl CallState {
    /// The resources that the guest holds.
    pub fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    /// The name of the plugin.
    #[must_use]
    pub fn plugin(&self) -> &str {
        &self.plugin
    }

    /// Whose attempt it is.
    #[must_use]
    pub const fn attempt(&self) -> &Attempt {
        &self.attempt
    }

    /// What the plugin was granted.
    #[must_use]
    pub const fn grants(&self) -> &Arc<Grants> {
        &self.grants
    }

    /// The state that [`Capability::prepare`](crate::Capability::prepare) of that
    /// capability made.
    ///
    /// # Errors
    /// When there is none of that name and type: a fault of the host.
    pub fn capability<T: 'static>(&mut self, name: &'static str) -> wasmtime::Result<&mut T> {
        self.capabilities
            .get_mut(name)
            .and_then(|state| state.downcast_mut())
            .ok_or_else(|| wasmtime::format_err!("capability {name} was not prepared"))
    }

    /// The table and a capability's state, for functions that need both.
    ///
    /// # Errors
    /// As [`capability`](Self::capability).
    pub fn table_and_capability<T: 'static>(
        &mut self,
        name: &'static str,
    ) -> wasmtime::Result<(&mut ResourceTable, &mut T)> {
        let state = self
            .capabilities
            .get_mut(name)
            .and_then(|state| state.downcast_mut())
            .ok_or_else(|| wasmtime::format_err!("capability {name} was not prepared"))?;
        Ok((&mut self.table, state))
    }

    /// Counts one host call; every host function begins with it.
    ///
    /// # Errors
    /// A trap, when the call's limit on host calls is passed.
    pub fn host_call(
        &mut self,
        _capability: &'static str,
        _function: &'static str,
    ) -> wasmtime::Result<HostCall> {
        self.usage.host_calls += 1;
        Ok(HostCall {})
    }

    /// Adds to one of the receipt's counters, `sql.rows`.
    pub fn count(&mut self, counter: &'static str, amount: u64) {
        let value = self.usage.counters.entry(counter).or_default();
        *value = value.saturating_add(amount);
    }
}
