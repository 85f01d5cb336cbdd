//! Objects of a folder that are read and written piece by piece.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use object_store::{MultipartUpload, WriteMultipart};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::{Shared, translate, translate_io};
use crate::blob::{BlobError, Condition, Metadata, ObjectReader, ObjectWriter, READ_BYTES};
use crate::task::run_on;

/// Bytes of one write to the disk.
const CHUNK_BYTES: usize = 1 << 20;

/// Reads an open file: what replaces it later takes its name, not its content. It stays
/// one piece ahead, so that who reads it all waits only for the first.
pub(super) struct FileReader {
    file: Arc<Mutex<File>>,
    /// Where the next piece begins that is read from the file.
    offset: u64,
    /// What was read and not answered yet.
    rest: Bytes,
    ahead: Option<JoinHandle<std::io::Result<Bytes>>>,
    metadata: Metadata,
    runtime: Handle,
}

impl FileReader {
    pub(super) fn new(file: File, metadata: Metadata, runtime: Handle) -> Self {
        Self {
            file: Arc::new(Mutex::new(file)),
            offset: 0,
            rest: Bytes::new(),
            ahead: None,
            metadata,
            runtime,
        }
    }

    /// Begins to read the next piece.
    fn fetch(&self, max: u32) -> JoinHandle<std::io::Result<Bytes>> {
        let (file, offset) = (Arc::clone(&self.file), self.offset);
        // Not more than there is, but something, to see the end.
        let left = self.metadata.size.saturating_sub(offset).max(1);
        let length = u64::from(max).min(left);
        self.runtime.spawn_blocking(move || {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            read_at(&mut file, offset, length)
        })
    }
}

/// So many bytes from there on, fewer only at the file's end.
pub(super) fn read_at(file: &mut File, offset: u64, length: u64) -> std::io::Result<Bytes> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.take(length).read_to_end(&mut bytes)?;
    Ok(Bytes::from(bytes))
}

#[async_trait]
impl ObjectReader for FileReader {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    async fn read(&mut self, max: u32) -> Result<Bytes, BlobError> {
        let max = max.min(READ_BYTES);
        if self.rest.is_empty() {
            let reading = self.ahead.take().unwrap_or_else(|| self.fetch(max));
            let read = reading.await.map_err(BlobError::internal)?;
            self.rest = read.map_err(|error| translate_io(&error))?;
            self.offset += self.rest.len() as u64;
            if self.offset < self.metadata.size {
                self.ahead = Some(self.fetch(max));
            }
        }
        let length = self.rest.len().min(max as usize);
        Ok(self.rest.split_to(length))
    }

    async fn skip(&mut self, bytes: u64) -> Result<(), BlobError> {
        let at_hand = self
            .rest
            .len()
            .min(usize::try_from(bytes).unwrap_or(usize::MAX));
        self.rest.advance(at_hand);
        let left = bytes - at_hand as u64;
        if left > 0 {
            // What is read ahead is not what comes next.
            self.ahead = None;
            self.offset = self.offset.saturating_add(left);
        }
        Ok(())
    }
}

pub(super) struct FileWriter {
    shared: Arc<Shared>,
    upload: WriteMultipart,
    written: u64,
    key: String,
    condition: Condition,
}

impl FileWriter {
    pub(super) fn new(
        shared: Arc<Shared>,
        upload: Box<dyn MultipartUpload>,
        key: String,
        condition: Condition,
    ) -> Self {
        Self {
            shared,
            upload: WriteMultipart::new_with_chunk_size(upload, CHUNK_BYTES),
            written: 0,
            key,
            condition,
        }
    }
}

#[async_trait]
impl ObjectWriter for FileWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.written = self.written.saturating_add(bytes.len() as u64);
        self.shared.limits.check_object(self.written)?;
        self.upload
            .wait_for_capacity(2)
            .await
            .map_err(|error| translate(&self.key, &error))?;
        // The parts are written by tasks, which belong on the host's runtime.
        let _entered = self.shared.runtime.enter();
        self.upload.put(bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Metadata, BlobError> {
        let Self {
            shared,
            upload,
            key,
            condition,
            ..
        } = *self;
        let runtime = shared.runtime.clone();
        run_on(&runtime, async move {
            let _held = shared.lock(&key).lock().await;
            shared.check(&key, &condition).await?;
            upload
                .finish()
                .await
                .map_err(|error| translate(&key, &error))?;
            shared.existing(&key).await
        })
        .await
        .map_err(BlobError::internal)?
    }
}
