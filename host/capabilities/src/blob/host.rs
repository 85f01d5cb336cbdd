//! The host functions of `heyday:blob`: from the guest's handles to [`Container`].

use std::any::Any;
use std::sync::Arc;

use heyday_sandbox::{CallState, Capability, HostCall};
use wasmtime::component::{HasSelf, Linker, Resource};

use super::{
    BlobCode, BlobError, Condition, Container, Metadata, ObjectReader, ObjectWriter, PAGE_OBJECTS,
    Page, Presigned, READ_BYTES, check_key,
};
use crate::bindings::Bindings;
use crate::call::{Budget, Opened, Place, Scope, bound, bound_by, open};
use crate::error::{Fault, answer, noted, run};

/// Generated from `wit/blob`.
pub mod bindings {
    #![allow(missing_docs, clippy::all)]

    wasmtime::component::bindgen!({
        path: "../../wit/blob",
        world: "imports",
        imports: { default: async | trappable },
        trappable_error_type: { "heyday:blob/blob.error" => super::BlobFault },
        with: {
            "heyday:blob/blob.container": super::ContainerHandle,
            "heyday:blob/blob.reader": super::ReaderHandle,
            "heyday:blob/blob.writer": super::WriterHandle,
        },
        additional_derives: [PartialEq],
    });
}

use bindings::heyday::blob::blob;

type BlobFault = Fault<BlobCode>;

const NAME: &str = "blob";

/// The capability `blob`.
pub struct BlobCapability {
    bindings: Arc<Bindings>,
}

impl BlobCapability {
    /// Serves these bindings.
    #[must_use]
    pub fn new(bindings: Arc<Bindings>) -> Self {
        Self { bindings }
    }
}

impl Capability for BlobCapability {
    fn name(&self) -> &'static str {
        NAME
    }

    fn interfaces(&self) -> &'static [&'static str] {
        &["heyday:blob/blob"]
    }

    fn link(&self, linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
        blob::add_to_linker::<_, HasSelf<CallState>>(linker, |state| state)
    }

    fn prepare(&self, _plugin: &str, namespace: &str) -> Box<dyn Any + Send> {
        Box::new(Scope::new(&self.bindings, namespace))
    }
}

/// Of what an attempt may hold so many open.
const OPEN: &str = "readers and writers";

/// What stands behind a guest's `container`.
pub struct ContainerHandle {
    /// The binding's.
    name: Arc<str>,
    container: Arc<dyn Container>,
    read_only: bool,
    budget: Arc<Budget>,
}

/// What stands behind a guest's `reader`.
pub struct ReaderHandle {
    /// The binding's.
    name: Arc<str>,
    /// None while a call has it, and after one that was stopped.
    reader: Option<Box<dyn ObjectReader>>,
    metadata: Metadata,
    limit: u64,
    budget: Arc<Budget>,
    _place: Place,
}

/// What stands behind a guest's `writer`.
pub struct WriterHandle {
    /// The binding's.
    name: Arc<str>,
    /// None while a call has it, after its end, and after a call that failed.
    writer: Option<Box<dyn ObjectWriter>>,
    limit: u64,
    budget: Arc<Budget>,
    _place: Place,
}

bound_by!(ContainerHandle: name, ReaderHandle: name, WriterHandle: name);

fn begin(state: &mut CallState, function: &'static str) -> Result<HostCall, BlobFault> {
    let call = state.host_call(NAME, function)?;
    state.count("blob.calls", 1);
    Ok(call)
}

/// The container of a call with a key, which is checked.
fn container(
    state: &mut CallState,
    this: &Resource<ContainerHandle>,
    key: &str,
) -> Result<(Arc<dyn Container>, Arc<Budget>), BlobFault> {
    let handle = bound(state, this)?;
    check_key(key, handle.container.read_only())?;
    Ok((Arc::clone(&handle.container), Arc::clone(&handle.budget)))
}

/// As [`container`], for a call that writes.
fn writable(
    state: &mut CallState,
    this: &Resource<ContainerHandle>,
    key: &str,
) -> Result<(Arc<dyn Container>, Arc<Budget>), BlobFault> {
    if bound(state, this)?.read_only {
        return Err(BlobError::new(
            BlobCode::CapabilityDenied,
            "writing through a read-only grant",
        )
        .into());
    }
    container(state, this, key)
}

async fn presign(
    state: &mut CallState,
    call: &HostCall,
    container: &dyn Container,
    (key, what): (String, Presigned),
    lasts_ms: u64,
) -> Result<String, BlobFault> {
    let lasts = container.limits().check_expiry(lasts_ms)?;
    let address = run(call, container.presign(key, what, lasts)).await?;
    state.count("blob.presigned", 1);
    Ok(address)
}

fn closed() -> BlobError {
    BlobError::new(
        BlobCode::Closed,
        "the reader or writer was already closed, or an earlier call of it was stopped",
    )
}

impl blob::Host for CallState {
    fn convert_error(&mut self, fault: BlobFault) -> wasmtime::Result<blob::Error> {
        answer!(self, NAME, fault, blob::Error)
    }
}

impl blob::HostContainer for CallState {
    async fn open(&mut self, binding: String) -> Result<Resource<ContainerHandle>, BlobFault> {
        let call = begin(self, "container.open")?;
        let Opened {
            binding: container,
            mode,
            budget,
            name,
        } = open(
            self,
            &call,
            NAME,
            "container",
            &binding,
            Bindings::container,
        )?;
        let handle = ContainerHandle {
            name,
            read_only: mode == crate::Mode::ReadOnly || container.read_only(),
            container,
            budget,
        };
        Ok(self.table().push(handle)?)
    }

    async fn get(
        &mut self,
        this: Resource<ContainerHandle>,
        key: String,
    ) -> Result<Vec<u8>, BlobFault> {
        let call = begin(self, "container.get")?;
        let (container, budget) = container(self, &this, &key)?;
        let bytes = run(&call, container.get(key, 0, u64::MAX)).await?;
        self.count("blob.bytes_read", bytes.len() as u64);
        budget.take(bytes.len() as u64, container.limits().attempt_bytes)?;
        Ok(bytes.into())
    }

    async fn get_range(
        &mut self,
        this: Resource<ContainerHandle>,
        key: String,
        offset: u64,
        length: u64,
    ) -> Result<Vec<u8>, BlobFault> {
        let call = begin(self, "container.get-range")?;
        let (container, budget) = container(self, &this, &key)?;
        // `u64::MAX` means the whole object to the container, an empty one included.
        let length = length.min(u64::MAX - 1);
        let bytes = run(&call, container.get(key, offset, length)).await?;
        self.count("blob.bytes_read", bytes.len() as u64);
        budget.take(bytes.len() as u64, container.limits().attempt_bytes)?;
        Ok(bytes.into())
    }

    async fn head(
        &mut self,
        this: Resource<ContainerHandle>,
        key: String,
    ) -> Result<Metadata, BlobFault> {
        let call = begin(self, "container.head")?;
        let (container, _) = container(self, &this, &key)?;
        run(&call, container.head(key)).await
    }

    async fn put(
        &mut self,
        this: Resource<ContainerHandle>,
        key: String,
        bytes: Vec<u8>,
        condition: Condition,
    ) -> Result<Metadata, BlobFault> {
        let call = begin(self, "container.put")?;
        let (container, budget) = writable(self, &this, &key)?;
        let size = bytes.len() as u64;
        budget.take(size, container.limits().attempt_bytes)?;
        let metadata = run(&call, container.put(key, bytes.into(), condition)).await?;
        self.count("blob.bytes_written", size);
        Ok(metadata)
    }

    async fn delete(
        &mut self,
        this: Resource<ContainerHandle>,
        key: String,
    ) -> Result<(), BlobFault> {
        let call = begin(self, "container.delete")?;
        let (container, _) = writable(self, &this, &key)?;
        run(&call, container.delete(key)).await
    }

    async fn list(
        &mut self,
        this: Resource<ContainerHandle>,
        prefix: String,
        limit: u32,
        after: Option<String>,
    ) -> Result<Page, BlobFault> {
        let call = begin(self, "container.list")?;
        let container = Arc::clone(&bound(self, &this)?.container);
        let limit = limit.clamp(1, PAGE_OBJECTS);
        let page = run(&call, container.list(prefix, limit, after)).await?;
        self.count("blob.objects_listed", page.objects.len() as u64);
        Ok(page)
    }

    async fn read(
        &mut self,
        this: Resource<ContainerHandle>,
        key: String,
    ) -> Result<Resource<ReaderHandle>, BlobFault> {
        let call = begin(self, "container.read")?;
        let (container, budget) = container(self, &this, &key)?;
        let name = Arc::clone(&self.table().get(&this)?.name);
        let place = Place::take(&budget, container.limits().open_handles, OPEN)?;
        let reader = run(&call, container.read(key)).await?;
        let handle = ReaderHandle {
            name,
            metadata: reader.metadata().clone(),
            reader: Some(reader),
            limit: container.limits().attempt_bytes,
            budget,
            _place: place,
        };
        Ok(self.table().push(handle)?)
    }

    async fn write(
        &mut self,
        this: Resource<ContainerHandle>,
        key: String,
        condition: Condition,
    ) -> Result<Resource<WriterHandle>, BlobFault> {
        let call = begin(self, "container.write")?;
        let (container, budget) = writable(self, &this, &key)?;
        let name = Arc::clone(&self.table().get(&this)?.name);
        let place = Place::take(&budget, container.limits().open_handles, OPEN)?;
        let writer = run(&call, container.write(key, condition)).await?;
        let handle = WriterHandle {
            name,
            writer: Some(writer),
            limit: container.limits().attempt_bytes,
            budget,
            _place: place,
        };
        Ok(self.table().push(handle)?)
    }

    async fn presign_get(
        &mut self,
        this: Resource<ContainerHandle>,
        key: String,
        lasts_ms: u64,
    ) -> Result<String, BlobFault> {
        let call = begin(self, "container.presign-get")?;
        let (container, _) = container(self, &this, &key)?;
        presign(self, &call, &*container, (key, Presigned::Get), lasts_ms).await
    }

    async fn presign_put(
        &mut self,
        this: Resource<ContainerHandle>,
        key: String,
        lasts_ms: u64,
    ) -> Result<String, BlobFault> {
        let call = begin(self, "container.presign-put")?;
        let (container, _) = writable(self, &this, &key)?;
        presign(self, &call, &*container, (key, Presigned::Put), lasts_ms).await
    }

    async fn drop(&mut self, this: Resource<ContainerHandle>) -> wasmtime::Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}

impl blob::HostReader for CallState {
    async fn metadata(&mut self, this: Resource<ReaderHandle>) -> wasmtime::Result<Metadata> {
        self.host_call(NAME, "reader.metadata")?;
        Ok(self.table().get(&this)?.metadata.clone())
    }

    async fn read(&mut self, this: Resource<ReaderHandle>, max: u32) -> Result<Vec<u8>, BlobFault> {
        let call = begin(self, "reader.read")?;
        let handle = bound(self, &this)?;
        let (limit, budget) = (handle.limit, Arc::clone(&handle.budget));
        let mut reader = handle.reader.take().ok_or_else(closed)?;
        let outcome = call.run(reader.read(max.clamp(1, READ_BYTES))).await?;
        self.table().get_mut(&this)?.reader = Some(reader);
        let bytes = noted(&call, outcome)?;
        self.count("blob.bytes_read", bytes.len() as u64);
        budget.take(bytes.len() as u64, limit)?;
        Ok(bytes.into())
    }

    async fn drop(&mut self, this: Resource<ReaderHandle>) -> wasmtime::Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}

impl blob::HostWriter for CallState {
    async fn write(
        &mut self,
        this: Resource<WriterHandle>,
        bytes: Vec<u8>,
    ) -> Result<(), BlobFault> {
        let call = begin(self, "writer.write")?;
        let handle = bound(self, &this)?;
        let (limit, budget) = (handle.limit, Arc::clone(&handle.budget));
        let mut writer = handle.writer.take().ok_or_else(closed)?;
        let size = bytes.len() as u64;
        budget.take(size, limit)?;
        // A writer that failed holds half an object: it is not put back.
        run(&call, writer.write(bytes.into())).await?;
        self.table().get_mut(&this)?.writer = Some(writer);
        self.count("blob.bytes_written", size);
        Ok(())
    }

    async fn finish(&mut self, this: Resource<WriterHandle>) -> Result<Metadata, BlobFault> {
        let call = begin(self, "writer.finish")?;
        let handle = bound(self, &this)?;
        let writer = handle.writer.take().ok_or_else(closed)?;
        run(&call, writer.finish()).await
    }

    async fn abort(&mut self, this: Resource<WriterHandle>) -> wasmtime::Result<()> {
        self.host_call(NAME, "writer.abort")?;
        // Dropping it removes what was written.
        self.table().get_mut(&this)?.writer = None;
        Ok(())
    }

    async fn drop(&mut self, this: Resource<WriterHandle>) -> wasmtime::Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}
