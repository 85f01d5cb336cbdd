//! The host functions of `heyday:kv`: from the guest's handles to [`Store`].

use std::any::Any;
use std::sync::Arc;

use heyday_sandbox::{CallState, Capability, HostCall};
use wasmtime::component::{HasSelf, Linker, Resource};

use super::{
    Condition, Entry, KvCode, KvError, MANY_KEYS, PAGE_KEYS, Page, Store, check_key, check_ttl,
};
use crate::bindings::Bindings;
use crate::call::{Budget, Opened, Scope, bound, bound_by, open};
use crate::error::{Fault, answer, run};

/// Generated from `wit/kv`.
pub mod bindings {
    #![allow(missing_docs, clippy::all)]

    wasmtime::component::bindgen!({
        path: "../../wit/kv",
        world: "imports",
        imports: { default: async | trappable },
        trappable_error_type: { "heyday:kv/kv.error" => super::KvFault },
        with: { "heyday:kv/kv.store": super::StoreHandle },
        additional_derives: [PartialEq],
    });
}

use bindings::heyday::kv::kv;

type KvFault = Fault<KvCode>;

const NAME: &str = "kv";

/// The capability `kv`.
pub struct KvCapability {
    bindings: Arc<Bindings>,
}

impl KvCapability {
    /// Serves these bindings.
    #[must_use]
    pub fn new(bindings: Arc<Bindings>) -> Self {
        Self { bindings }
    }
}

impl Capability for KvCapability {
    fn name(&self) -> &'static str {
        NAME
    }

    fn interfaces(&self) -> &'static [&'static str] {
        &["heyday:kv/kv"]
    }

    fn link(&self, linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
        kv::add_to_linker::<_, HasSelf<CallState>>(linker, |state| state)
    }

    fn prepare(&self, _plugin: &str, namespace: &str) -> Box<dyn Any + Send> {
        Box::new(Scope::new(&self.bindings, namespace))
    }
}

/// What stands behind a guest's `store`.
#[derive(Clone)]
pub struct StoreHandle {
    /// The binding's.
    name: Arc<str>,
    store: Arc<dyn Store>,
    read_only: bool,
    budget: Arc<Budget>,
}

bound_by!(StoreHandle: name);

impl StoreHandle {
    /// Takes a value's bytes from what the attempt may move.
    fn take(&self, bytes: u64) -> Result<(), KvError> {
        self.budget.take(bytes, self.store.limits().attempt_bytes)
    }
}

fn begin(state: &mut CallState, function: &'static str) -> Result<HostCall, KvFault> {
    let call = state.host_call(NAME, function)?;
    state.count("kv.calls", 1);
    Ok(call)
}

/// The store of a call that writes, with its key checked.
fn writable(
    state: &mut CallState,
    this: &Resource<StoreHandle>,
    key: &str,
) -> Result<StoreHandle, KvFault> {
    let handle = bound(state, this)?.clone();
    if handle.read_only {
        return Err(KvError::new(
            KvCode::CapabilityDenied,
            "writing through a read-only grant",
        )
        .into());
    }
    check_key(key)?;
    Ok(handle)
}

/// Counts what was read, and answers it.
fn read(
    state: &mut CallState,
    handle: &StoreHandle,
    entries: Vec<Option<Entry>>,
) -> Result<Vec<Option<Entry>>, KvFault> {
    let bytes = entries
        .iter()
        .flatten()
        .map(|entry| entry.value.len() as u64);
    let bytes = bytes.sum();
    state.count("kv.bytes_read", bytes);
    handle.take(bytes)?;
    Ok(entries)
}

impl kv::Host for CallState {
    fn convert_error(&mut self, fault: KvFault) -> wasmtime::Result<kv::Error> {
        answer!(self, NAME, fault, kv::Error)
    }
}

impl kv::HostStore for CallState {
    async fn open(&mut self, binding: String) -> Result<Resource<StoreHandle>, KvFault> {
        let call = begin(self, "store.open")?;
        let Opened {
            binding: store,
            mode,
            budget,
            name,
        } = open(self, &call, NAME, "store", &binding, Bindings::store)?;
        let handle = StoreHandle {
            name,
            read_only: mode == crate::Mode::ReadOnly || store.read_only(),
            store,
            budget,
        };
        Ok(self.table().push(handle)?)
    }

    async fn get(
        &mut self,
        this: Resource<StoreHandle>,
        key: String,
    ) -> Result<Option<Entry>, KvFault> {
        let call = begin(self, "store.get")?;
        let handle = bound(self, &this)?.clone();
        check_key(&key)?;
        let entries = run(&call, handle.store.get(vec![key])).await?;
        Ok(read(self, &handle, entries)?.pop().flatten())
    }

    async fn get_many(
        &mut self,
        this: Resource<StoreHandle>,
        keys: Vec<String>,
    ) -> Result<Vec<Option<Entry>>, KvFault> {
        let call = begin(self, "store.get-many")?;
        let handle = bound(self, &this)?.clone();
        if keys.len() > MANY_KEYS {
            return Err(KvError::new(
                KvCode::LimitExceeded,
                format!(
                    "{} keys at once; at most {MANY_KEYS} are answered",
                    keys.len()
                ),
            )
            .into());
        }
        for key in &keys {
            check_key(key)?;
        }
        let entries = run(&call, handle.store.get(keys)).await?;
        read(self, &handle, entries)
    }

    async fn set(
        &mut self,
        this: Resource<StoreHandle>,
        key: String,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
        condition: Condition,
    ) -> Result<u64, KvFault> {
        let call = begin(self, "store.set")?;
        let handle = writable(self, &this, &key)?;
        let ttl = check_ttl(ttl_ms)?;
        let (size, limit) = (value.len() as u64, handle.store.limits().value_bytes);
        if size > limit {
            return Err(KvError::new(
                KvCode::LimitExceeded,
                format!(
                    "the value has {size} bytes, more than the {limit} that the binding allows"
                ),
            )
            .into());
        }
        handle.take(size)?;
        let version = run(&call, handle.store.set(key, value, ttl, condition)).await?;
        self.count("kv.bytes_written", size);
        Ok(version)
    }

    async fn delete(
        &mut self,
        this: Resource<StoreHandle>,
        key: String,
        condition: Condition,
    ) -> Result<bool, KvFault> {
        let call = begin(self, "store.delete")?;
        let handle = writable(self, &this, &key)?;
        run(&call, handle.store.delete(key, condition)).await
    }

    async fn increment(
        &mut self,
        this: Resource<StoreHandle>,
        key: String,
        delta: i64,
        ttl_ms: Option<u64>,
        once: Option<String>,
    ) -> Result<i64, KvFault> {
        let call = begin(self, "store.increment")?;
        let handle = writable(self, &this, &key)?;
        let ttl = check_ttl(ttl_ms)?;
        if let Some(once) = &once {
            check_key(once)?;
        }
        run(&call, handle.store.increment(key, delta, ttl, once)).await
    }

    async fn list(
        &mut self,
        this: Resource<StoreHandle>,
        prefix: String,
        limit: u32,
        after: Option<String>,
    ) -> Result<Page, KvFault> {
        let call = begin(self, "store.list")?;
        let store = Arc::clone(&bound(self, &this)?.store);
        let limit = limit.clamp(1, PAGE_KEYS);
        let page = run(&call, store.list(prefix, limit, after)).await?;
        self.count("kv.keys_listed", page.keys.len() as u64);
        Ok(page)
    }

    async fn drop(&mut self, this: Resource<StoreHandle>) -> wasmtime::Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}
