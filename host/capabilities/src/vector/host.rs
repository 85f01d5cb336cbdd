//! The host functions of `heyday:vector`: from the guest's handles to [`Store`].

use std::any::Any;
use std::sync::Arc;

use heyday_sandbox::{CallState, Capability, HostCall};
use wasmtime::component::{HasSelf, Linker, Resource};

use super::fusion::{Words, hybrid};
use super::{
    Entry, FilterNode, Found, PAGE_TENANTS, Specification, Store, Target, VectorCode, VectorError,
    Want, check, filter, not_found, too_large,
};
use crate::bindings::Bindings;
use crate::call::{Budget, Opened, Scope, bound, bound_by, open};
use crate::error::{Fault, answer, noted, run};

/// Generated from `wit/vector`.
pub mod bindings {
    #![allow(missing_docs, clippy::all)]

    wasmtime::component::bindgen!({
        path: "../../wit/vector",
        world: "imports",
        imports: { default: async | trappable },
        trappable_error_type: { "heyday:vector/vector.error" => super::VectorFault },
        with: {
            "heyday:vector/vector.store": super::StoreHandle,
            "heyday:vector/vector.collection": super::CollectionHandle,
        },
        additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
    });
}

use bindings::heyday::vector::vector::{self, Field, Hit, Item, Search};

type VectorFault = Fault<VectorCode>;

const NAME: &str = "vector";

/// The capability `vector`.
pub struct VectorCapability {
    bindings: Arc<Bindings>,
}

impl VectorCapability {
    /// Serves these bindings.
    #[must_use]
    pub fn new(bindings: Arc<Bindings>) -> Self {
        Self { bindings }
    }
}

impl Capability for VectorCapability {
    fn name(&self) -> &'static str {
        NAME
    }

    fn interfaces(&self) -> &'static [&'static str] {
        &["heyday:vector/vector"]
    }

    fn link(&self, linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
        vector::add_to_linker::<_, HasSelf<CallState>>(linker, |state| state)
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

bound_by!(StoreHandle: name, CollectionHandle: store.name);

impl StoreHandle {
    fn writable(&self) -> Result<(), VectorError> {
        if self.read_only {
            return Err(VectorError::new(
                VectorCode::CapabilityDenied,
                "writing through a read-only grant",
            ));
        }
        Ok(())
    }

    /// Takes bytes from what one call, and the attempt, may move.
    fn take(
        &self,
        bytes: u64,
        of_call: impl FnOnce(u64) -> VectorError,
    ) -> Result<(), VectorError> {
        let limits = self.store.limits();
        if bytes > limits.call_bytes {
            return Err(of_call(limits.call_bytes));
        }
        self.budget.take(bytes, limits.attempt_bytes)
    }

    /// The collection of that name, which has tenants.
    async fn with_tenants(
        &self,
        call: &HostCall,
        name: String,
    ) -> Result<super::Collection, VectorFault> {
        check::name(&name)?;
        let found = run(call, self.store.find(name.clone())).await?;
        let found = found.ok_or_else(|| not_found(&name));
        let found = noted(call, found)?;
        if found.specification.tenants {
            return Ok(found);
        }
        Err(tenants_differ("the collection has no tenants").into())
    }
}

/// What stands behind a guest's `collection`.
#[derive(Clone)]
pub struct CollectionHandle {
    store: StoreHandle,
    target: Target,
}

impl CollectionHandle {
    fn specification(&self) -> &Specification {
        &self.target.collection.specification
    }
}

fn tenants_differ(message: &'static str) -> VectorError {
    VectorError::new(VectorCode::InvalidSpecification, message)
}

fn begin(state: &mut CallState, function: &'static str) -> Result<HostCall, VectorFault> {
    let call = state.host_call(NAME, function)?;
    state.count("vector.calls", 1);
    Ok(call)
}

/// Counts what was read, and takes it from what may be.
fn read<'a>(
    state: &mut CallState,
    handle: &StoreHandle,
    entries: impl Iterator<Item = &'a Entry>,
) -> Result<(), VectorError> {
    let (mut items, mut bytes) = (0, 0);
    for entry in entries {
        items += 1;
        bytes += entry.bytes();
    }
    state.count("vector.items_read", items);
    state.count("vector.bytes_read", bytes);
    handle.take(bytes, too_large)
}

fn to_item(specification: &Specification, entry: Entry) -> Item {
    let values = specification.properties.iter().zip(entry.values);
    Item {
        id: entry.id,
        vector: entry.vector,
        properties: values
            .filter_map(|(property, value)| {
                Some(Field {
                    property: property.name.clone(),
                    value: value?,
                })
            })
            .collect(),
    }
}

/// What the number of a hit is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Number {
    Distance,
    Score,
}

/// The answer of a search.
fn hits(
    state: &mut CallState,
    handle: &CollectionHandle,
    found: Vec<Found>,
    number: Number,
) -> Result<Vec<Hit>, VectorFault> {
    read(state, &handle.store, found.iter().map(|found| &found.entry))?;
    let hits = found.into_iter().map(|found| Hit {
        item: to_item(handle.specification(), found.entry),
        distance: (number == Number::Distance).then_some(found.number),
        score: (number == Number::Score).then_some(found.number),
    });
    Ok(hits.collect())
}

impl vector::Host for CallState {
    fn convert_error(&mut self, fault: VectorFault) -> wasmtime::Result<vector::Error> {
        answer!(self, NAME, fault, vector::Error)
    }
}

impl vector::HostStore for CallState {
    async fn open(&mut self, binding: String) -> Result<Resource<StoreHandle>, VectorFault> {
        let call = begin(self, "store.open")?;
        let Opened {
            binding: store,
            mode,
            budget,
            name,
        } = open(
            self,
            &call,
            NAME,
            "vector store",
            &binding,
            Bindings::vector,
        )?;
        let handle = StoreHandle {
            name,
            read_only: mode == crate::Mode::ReadOnly || store.read_only(),
            store,
            budget,
        };
        Ok(self.table().push(handle)?)
    }

    async fn create_collection(
        &mut self,
        this: Resource<StoreHandle>,
        name: String,
        specification: Specification,
    ) -> Result<bool, VectorFault> {
        let call = begin(self, "store.create-collection")?;
        let handle = bound(self, &this)?.clone();
        handle.writable()?;
        check::name(&name)?;
        check::specification(&specification, handle.store.limits())?;
        run(&call, handle.store.create(name, specification)).await
    }

    async fn collections(
        &mut self,
        this: Resource<StoreHandle>,
    ) -> Result<Vec<String>, VectorFault> {
        let call = begin(self, "store.collections")?;
        let store = Arc::clone(&bound(self, &this)?.store);
        run(&call, store.collections()).await
    }

    async fn drop_collection(
        &mut self,
        this: Resource<StoreHandle>,
        name: String,
    ) -> Result<bool, VectorFault> {
        let call = begin(self, "store.drop-collection")?;
        let handle = bound(self, &this)?.clone();
        handle.writable()?;
        check::name(&name)?;
        run(&call, handle.store.drop_collection(name)).await
    }

    async fn collection(
        &mut self,
        this: Resource<StoreHandle>,
        name: String,
        tenant: Option<String>,
    ) -> Result<Resource<CollectionHandle>, VectorFault> {
        let call = begin(self, "store.collection")?;
        let store = bound(self, &this)?.clone();
        check::name(&name)?;
        if let Some(tenant) = &tenant {
            check::tenant(tenant)?;
        }
        let found = run(&call, store.store.find(name.clone())).await?;
        let collection = noted(&call, found.ok_or_else(|| not_found(&name)))?;
        match (collection.specification.tenants, &tenant) {
            (true, None) => return Err(tenants_differ("a tenant must be named").into()),
            (false, Some(_)) => {
                return Err(tenants_differ("the collection has no tenants").into());
            }
            _ => {}
        }
        let target = Target {
            collection: Arc::new(collection),
            tenant,
        };
        Ok(self.table().push(CollectionHandle { store, target })?)
    }

    async fn tenants(
        &mut self,
        this: Resource<StoreHandle>,
        name: String,
        limit: u32,
        after: Option<String>,
    ) -> Result<Vec<String>, VectorFault> {
        let call = begin(self, "store.tenants")?;
        let handle = bound(self, &this)?.clone();
        let collection = handle.with_tenants(&call, name).await?;
        let limit = limit.clamp(1, PAGE_TENANTS);
        run(&call, handle.store.tenants(&collection, limit, after)).await
    }

    async fn drop_tenant(
        &mut self,
        this: Resource<StoreHandle>,
        name: String,
        tenant: String,
    ) -> Result<bool, VectorFault> {
        let call = begin(self, "store.drop-tenant")?;
        let handle = bound(self, &this)?.clone();
        handle.writable()?;
        check::tenant(&tenant)?;
        let collection = handle.with_tenants(&call, name).await?;
        run(&call, handle.store.drop_tenant(&collection, tenant)).await
    }

    async fn drop(&mut self, this: Resource<StoreHandle>) -> wasmtime::Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}

impl vector::HostCollection for CallState {
    async fn specification(
        &mut self,
        this: Resource<CollectionHandle>,
    ) -> wasmtime::Result<Specification> {
        Ok(self.table().get(&this)?.specification().clone())
    }

    async fn upsert(
        &mut self,
        this: Resource<CollectionHandle>,
        items: Vec<Item>,
    ) -> Result<(), VectorFault> {
        let call = begin(self, "collection.upsert")?;
        let handle = bound(self, &this)?.clone();
        handle.store.writable()?;
        let limits = handle.store.store.limits();
        check::ids(items.iter().map(|item| item.id.as_str()), limits)?;
        let entries: Result<Vec<Entry>, VectorError> = items
            .into_iter()
            .map(|item| check::item(handle.specification(), item, limits))
            .collect();
        let entries = entries?;
        let (count, bytes) = (entries.len() as u64, entries.iter().map(Entry::bytes).sum());
        handle.store.take(bytes, |limit| {
            VectorError::new(
                VectorCode::LimitExceeded,
                format!("{bytes} bytes at once; the binding allows {limit}"),
            )
        })?;
        if entries.is_empty() {
            return Ok(());
        }
        run(&call, handle.store.store.upsert(&handle.target, entries)).await?;
        self.count("vector.items_written", count);
        self.count("vector.bytes_written", bytes);
        Ok(())
    }

    async fn get(
        &mut self,
        this: Resource<CollectionHandle>,
        ids: Vec<String>,
        properties: Option<Vec<String>>,
        vectors: bool,
    ) -> Result<Vec<Option<Item>>, VectorFault> {
        let call = begin(self, "collection.get")?;
        let handle = bound(self, &this)?.clone();
        check::ids(ids.iter().map(String::as_str), handle.store.store.limits())?;
        let want: Want = check::want(handle.specification(), properties, vectors)?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let found = run(&call, handle.store.store.get(&handle.target, ids, want)).await?;
        read(self, &handle.store, found.iter().flatten())?;
        let items = found
            .into_iter()
            .map(|entry| entry.map(|entry| to_item(handle.specification(), entry)));
        Ok(items.collect())
    }

    async fn delete(
        &mut self,
        this: Resource<CollectionHandle>,
        ids: Vec<String>,
    ) -> Result<u64, VectorFault> {
        let call = begin(self, "collection.delete")?;
        let handle = bound(self, &this)?.clone();
        handle.store.writable()?;
        check::ids(ids.iter().map(String::as_str), handle.store.store.limits())?;
        if ids.is_empty() {
            return Ok(0);
        }
        run(&call, handle.store.store.delete(&handle.target, ids)).await
    }

    async fn delete_where(
        &mut self,
        this: Resource<CollectionHandle>,
        nodes: Vec<FilterNode>,
    ) -> Result<u64, VectorFault> {
        let call = begin(self, "collection.delete-where")?;
        let handle = bound(self, &this)?.clone();
        handle.store.writable()?;
        let filter = filter::parse(handle.specification(), nodes)?.ok_or_else(|| {
            VectorError::new(
                VectorCode::InvalidFilter,
                "what is deleted must be said: the filter has no nodes",
            )
        })?;
        run(
            &call,
            handle.store.store.delete_where(&handle.target, filter),
        )
        .await
    }

    async fn count(
        &mut self,
        this: Resource<CollectionHandle>,
        nodes: Vec<FilterNode>,
    ) -> Result<u64, VectorFault> {
        let call = begin(self, "collection.count")?;
        let handle = bound(self, &this)?.clone();
        let filter = filter::parse(handle.specification(), nodes)?;
        run(&call, handle.store.store.count(&handle.target, filter)).await
    }

    async fn nearest(
        &mut self,
        this: Resource<CollectionHandle>,
        vector: Vec<f32>,
        within: Option<f32>,
        search: Search,
    ) -> Result<Vec<Hit>, VectorFault> {
        let call = begin(self, "collection.nearest")?;
        let handle = bound(self, &this)?.clone();
        let store = &handle.store.store;
        let query = check::search(handle.specification(), search, store.limits())?;
        check::vector(handle.specification(), &vector)?;
        if within.is_some_and(f32::is_nan) {
            let message = "a distance is a number";
            return Err(VectorError::new(VectorCode::InvalidSearch, message).into());
        }
        let found = store.nearest(&handle.target, vector, within, query);
        let found = run(&call, found).await?;
        hits(self, &handle, found, Number::Distance)
    }

    async fn keywords(
        &mut self,
        this: Resource<CollectionHandle>,
        text: String,
        properties: Vec<String>,
        search: Search,
    ) -> Result<Vec<Hit>, VectorFault> {
        let call = begin(self, "collection.keywords")?;
        let handle = bound(self, &this)?.clone();
        let store = &handle.store.store;
        let query = check::search(handle.specification(), search, store.limits())?;
        let properties = check::searched(handle.specification(), &properties)?;
        let words = check::words(&text)?;
        check::counted(&words, &properties)?;
        if words.is_empty() {
            return Ok(Vec::new());
        }
        let found = store.keywords(&handle.target, words, properties, query);
        let found = run(&call, found).await?;
        hits(self, &handle, found, Number::Score)
    }

    async fn hybrid(
        &mut self,
        this: Resource<CollectionHandle>,
        text: String,
        properties: Vec<String>,
        vector: Vec<f32>,
        alpha: f32,
        search: Search,
    ) -> Result<Vec<Hit>, VectorFault> {
        let call = begin(self, "collection.hybrid")?;
        let handle = bound(self, &this)?.clone();
        let store = Arc::clone(&handle.store.store);
        let query = check::search(handle.specification(), search, store.limits())?;
        check::vector(handle.specification(), &vector)?;
        let words = Words {
            words: check::words(&text)?,
            properties: check::searched(handle.specification(), &properties)?,
        };
        check::counted(&words.words, &words.properties)?;
        if !(0.0..=1.0).contains(&alpha) {
            let message = "alpha is 0 to 1";
            return Err(VectorError::new(VectorCode::InvalidSearch, message).into());
        }
        let found = hybrid(&*store, &handle.target, words, vector, alpha, query);
        let found = run(&call, found).await?;
        hits(self, &handle, found, Number::Score)
    }

    async fn drop(&mut self, this: Resource<CollectionHandle>) -> wasmtime::Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}
