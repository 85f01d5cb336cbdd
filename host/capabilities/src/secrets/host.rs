//! The host functions of `heyday:secrets`: from the guest's handles to [`Secrets`].

use std::any::Any;
use std::sync::Arc;

use heyday_sandbox::{CallState, Capability, HostCall};
use wasmtime::component::{HasSelf, Linker, Resource};

use super::{Secrets, SecretsCode};
use crate::bindings::Bindings;
use crate::call::{Scope, bound, bound_by, open};
use crate::error::{Fault, answer, run};

/// Generated from `wit/secrets`.
pub mod bindings {
    #![allow(missing_docs, clippy::all)]

    wasmtime::component::bindgen!({
        path: "../../wit/secrets",
        world: "imports",
        imports: { default: async | trappable },
        trappable_error_type: { "heyday:secrets/secrets.error" => super::SecretsFault },
        with: { "heyday:secrets/secrets.secrets": super::SecretsHandle },
        additional_derives: [PartialEq],
    });
}

use bindings::heyday::secrets::secrets;

type SecretsFault = Fault<SecretsCode>;

pub(crate) const NAME: &str = "secrets";

/// The capability `secrets`.
pub struct SecretsCapability {
    bindings: Arc<Bindings>,
}

impl SecretsCapability {
    /// Serves these bindings.
    #[must_use]
    pub fn new(bindings: Arc<Bindings>) -> Self {
        Self { bindings }
    }
}

impl Capability for SecretsCapability {
    fn name(&self) -> &'static str {
        NAME
    }

    fn interfaces(&self) -> &'static [&'static str] {
        &["heyday:secrets/secrets"]
    }

    fn link(&self, linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
        secrets::add_to_linker::<_, HasSelf<CallState>>(linker, |state| state)
    }

    fn prepare(&self, _plugin: &str, namespace: &str) -> Box<dyn Any + Send> {
        Box::new(Scope::new(&self.bindings, namespace))
    }
}

/// What stands behind a guest's `secrets`.
#[derive(Clone)]
pub struct SecretsHandle {
    /// The binding's.
    name: Arc<str>,
    secrets: Arc<Secrets>,
}

bound_by!(SecretsHandle: name);

fn begin(state: &mut CallState, function: &'static str) -> Result<HostCall, SecretsFault> {
    let call = state.host_call(NAME, function)?;
    state.count("secrets.calls", 1);
    Ok(call)
}

impl secrets::Host for CallState {
    fn convert_error(&mut self, fault: SecretsFault) -> wasmtime::Result<secrets::Error> {
        answer!(self, NAME, fault, secrets::Error)
    }
}

impl secrets::HostSecrets for CallState {
    async fn open(&mut self, binding: String) -> Result<Resource<SecretsHandle>, SecretsFault> {
        let call = begin(self, "secrets.open")?;
        let opened = open(self, &call, NAME, "secrets", &binding, Bindings::secrets)?;
        let handle = SecretsHandle {
            name: opened.name,
            secrets: opened.binding,
        };
        Ok(self.table().push(handle)?)
    }

    async fn get(
        &mut self,
        this: Resource<SecretsHandle>,
        name: String,
    ) -> Result<Vec<u8>, SecretsFault> {
        let call = begin(self, "secrets.get")?;
        let secrets = Arc::clone(&bound(self, &this)?.secrets);
        let secret = run(&call, secrets.get(&name)).await?;
        // Before the guest has it: from here on it cannot be told by accident.
        self.mask(secret.expose());
        Ok(secret.expose().to_vec())
    }

    async fn drop(&mut self, this: Resource<SecretsHandle>) -> wasmtime::Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}
