//! The host functions of `heyday:config`: from the guest's handles to [`Settings`].

use std::any::Any;
use std::sync::Arc;

use heyday_sandbox::{CallState, Capability, HostCall};
use wasmtime::component::{HasSelf, Linker, Resource};

use super::{ConfigCode, ConfigError, PAGE_SETTINGS, Settings};
use crate::bindings::Bindings;
use crate::call::{Scope, bound, bound_by, open};
use crate::error::{Fault, answer, run};
use crate::source::check_key;

/// Generated from `wit/config`.
pub mod bindings {
    #![allow(missing_docs, clippy::all)]

    wasmtime::component::bindgen!({
        path: "../../wit/config",
        world: "imports",
        imports: { default: async | trappable },
        trappable_error_type: { "heyday:config/config.error" => super::ConfigFault },
        with: { "heyday:config/config.config": super::ConfigHandle },
        additional_derives: [PartialEq],
    });
}

use bindings::heyday::config::config;

type ConfigFault = Fault<ConfigCode>;

pub(crate) const NAME: &str = "config";

/// The capability `config`.
pub struct ConfigCapability {
    bindings: Arc<Bindings>,
}

impl ConfigCapability {
    /// Serves these bindings.
    #[must_use]
    pub fn new(bindings: Arc<Bindings>) -> Self {
        Self { bindings }
    }
}

impl Capability for ConfigCapability {
    fn name(&self) -> &'static str {
        NAME
    }

    fn interfaces(&self) -> &'static [&'static str] {
        &["heyday:config/config"]
    }

    fn link(&self, linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
        config::add_to_linker::<_, HasSelf<CallState>>(linker, |state| state)
    }

    fn prepare(&self, _plugin: &str, namespace: &str) -> Box<dyn Any + Send> {
        Box::new(Scope::new(&self.bindings, namespace))
    }
}

/// What stands behind a guest's `config`.
#[derive(Clone)]
pub struct ConfigHandle {
    /// The binding's.
    name: Arc<str>,
    settings: Arc<Settings>,
}

bound_by!(ConfigHandle: name);

fn begin(state: &mut CallState, function: &'static str) -> Result<HostCall, ConfigFault> {
    let call = state.host_call(NAME, function)?;
    state.count("config.calls", 1);
    Ok(call)
}

impl config::Host for CallState {
    fn convert_error(&mut self, fault: ConfigFault) -> wasmtime::Result<config::Error> {
        answer!(self, NAME, fault, config::Error)
    }
}

impl config::HostConfig for CallState {
    async fn open(&mut self, binding: String) -> Result<Resource<ConfigHandle>, ConfigFault> {
        let call = begin(self, "config.open")?;
        let opened = open(self, &call, NAME, "settings", &binding, Bindings::settings)?;
        let handle = ConfigHandle {
            name: opened.name,
            settings: opened.binding,
        };
        Ok(self.table().push(handle)?)
    }

    async fn get(
        &mut self,
        this: Resource<ConfigHandle>,
        key: String,
    ) -> Result<Option<String>, ConfigFault> {
        let call = begin(self, "config.get")?;
        let settings = Arc::clone(&bound(self, &this)?.settings);
        check_key(&key).map_err(|why| ConfigError::new(ConfigCode::InvalidKey, why))?;
        run(&call, settings.get(&key)).await
    }

    async fn list(
        &mut self,
        this: Resource<ConfigHandle>,
        prefix: String,
        limit: u32,
        after: Option<String>,
    ) -> Result<config::Page, ConfigFault> {
        let call = begin(self, "config.list")?;
        let settings = Arc::clone(&bound(self, &this)?.settings);
        let limit = limit.clamp(1, PAGE_SETTINGS);
        run(&call, settings.list(&prefix, limit, after.as_deref())).await
    }

    async fn drop(&mut self, this: Resource<ConfigHandle>) -> wasmtime::Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}
