//! How a capability becomes part of the sandbox: link once, prepare per call.

use std::any::Any;
use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;
use wasmtime::component::Linker;

use crate::state::CallState;

/// A grant: one binding of a capability, for one plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The name under which the plugin asks for it.
    pub binding: String,
    /// Options such as `ro`; which ones there are is the capability's matter.
    pub mode: Option<String>,
}

/// All that one plugin was granted, at one moment.
#[derive(Debug, Default)]
pub struct Grants {
    /// By capability name.
    pub by_capability: BTreeMap<String, Vec<Grant>>,
    /// Cancelled when any of it is taken back: host calls in flight end then with
    /// `capability-denied`.
    pub revoked: CancellationToken,
}

impl Grants {
    /// The grant of that binding, if there is one (and it was not taken back).
    #[must_use]
    pub fn find(&self, capability: &str, binding: &str) -> Option<&Grant> {
        if self.revoked.is_cancelled() {
            return None;
        }
        self.by_capability
            .get(capability)?
            .iter()
            .find(|grant| grant.binding == binding)
    }
}

/// A group of host functions that plugins may import and operators grant.
pub trait Capability: Send + Sync + 'static {
    /// Its name in grants: `sql`, `blob`.
    fn name(&self) -> &'static str;

    /// The interfaces that it provides, without version: `heyday:sql/sql`.
    fn interfaces(&self) -> &'static [&'static str];

    /// Adds its functions to the linker. Called once per engine.
    ///
    /// # Errors
    /// When two capabilities provide the same interface.
    fn link(&self, linker: &mut Linker<CallState>) -> wasmtime::Result<()>;

    /// Makes its state of one call: what [`CallState::capability`] answers to its
    /// functions. Cheap: whatever takes time happens at the first host call.
    fn prepare(&self, plugin: &str, namespace: &str) -> Box<dyn Any + Send>;
}
