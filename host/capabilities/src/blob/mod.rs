//! `heyday:blob`: objects in a container.
//!
//! The way of a call: `host.rs` takes the guest's call, looks the container up and runs
//! the operation of [`Container`] under the attempt's deadline, cancellation and
//! grants. [`files`] keeps objects as files of one folder, [`s3`] in a bucket. Keys are
//! checked here, once for all backends ([`check_key`]), so that the same keys are valid on
//! each.

mod diagnosis;
pub mod files;
mod host;
mod key;
mod listing;
pub mod s3;
pub mod s3_config;
mod s3_stream;
mod s3_wire;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use host::BlobCapability;
pub use host::bindings::heyday::blob::blob::{Condition, Metadata, Page};
pub use key::check_key;

use crate::diagnosis::Finding;
use crate::error::{CapabilityError, ErrorCode};

/// The most bytes of one `get` or `get-range`.
pub const GET_BYTES: u64 = 64 << 20;
/// The most bytes of one `reader.read`.
pub const READ_BYTES: u32 = 1 << 20;
/// The most objects of one page.
pub const PAGE_OBJECTS: u32 = 1_000;

/// The codes of `heyday:blob`; see `wit/blob`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobCode {
    /// Not granted, or a write through a read-only grant.
    CapabilityDenied,
    /// Granted but not configured.
    UnknownBinding,
    /// No object under that key.
    NotFound,
    /// A key that no container takes.
    InvalidKey,
    /// A range past the end.
    InvalidRange,
    /// The object is not as the condition says.
    PreconditionFailed,
    /// Over a limit.
    LimitExceeded,
    /// The deadline came.
    Timeout,
    /// The attempt was asked to stop.
    Cancelled,
    /// The store cannot be reached, or has no room.
    Unavailable,
    /// The writer was finished or aborted before.
    Closed,
    /// A fault of the host.
    Internal,
}

impl ErrorCode for BlobCode {
    const DENIED: Self = Self::CapabilityDenied;
    const UNKNOWN_BINDING: Self = Self::UnknownBinding;
    const LIMIT_EXCEEDED: Self = Self::LimitExceeded;
    const TIMEOUT: Self = Self::Timeout;
    const CANCELLED: Self = Self::Cancelled;
    const INTERNAL: Self = Self::Internal;

    fn as_str(self) -> &'static str {
        match self {
            Self::CapabilityDenied => "capability-denied",
            Self::UnknownBinding => "unknown-binding",
            Self::NotFound => "not-found",
            Self::InvalidKey => "invalid-key",
            Self::InvalidRange => "invalid-range",
            Self::PreconditionFailed => "precondition-failed",
            Self::LimitExceeded => "limit-exceeded",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Unavailable => "unavailable",
            Self::Closed => "closed",
            Self::Internal => "internal",
        }
    }

    fn retryable(self) -> bool {
        matches!(self, Self::Timeout | Self::Unavailable)
    }
}

/// An error of `heyday:blob`.
pub type BlobError = CapabilityError<BlobCode>;

/// Limits of a binding; each has a safe default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BlobLimits {
    /// Bytes of one object that is written.
    pub object_bytes: u64,
    /// Bytes that one attempt may read and write in all.
    pub attempt_bytes: u64,
    /// Readers and writers that one attempt may hold open together.
    pub open_handles: u32,
}

impl Default for BlobLimits {
    fn default() -> Self {
        Self {
            object_bytes: 1 << 30,
            attempt_bytes: 16 << 30,
            open_handles: 16,
        }
    }
}

/// One container. Keys that it is given were checked; numbers are in range.
#[async_trait]
pub trait Container: Send + Sync + 'static {
    /// What stands behind it, for operators; plugins are not told.
    fn backend(&self) -> &'static str;

    /// Whether it takes no writes at all.
    fn read_only(&self) -> bool;

    /// Its limits.
    fn limits(&self) -> &BlobLimits;

    /// Looks whether it can be used; changes nothing that a plugin stored.
    async fn diagnose(&self) -> Vec<Finding>;

    /// What is known of an object.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn head(&self, key: String) -> Result<Metadata, BlobError>;

    /// Up to `length` bytes from `offset`; `u64::MAX` for all.
    ///
    /// # Errors
    /// As the WIT's `error` says; `limit-exceeded` over [`GET_BYTES`].
    async fn get(&self, key: String, offset: u64, length: u64) -> Result<Bytes, BlobError>;

    /// Writes a whole object.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn put(
        &self,
        key: String,
        bytes: Bytes,
        condition: Condition,
    ) -> Result<Metadata, BlobError>;

    /// Deletes an object.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn delete(&self, key: String) -> Result<(), BlobError>;

    /// A page of the objects whose keys begin with `prefix`, in the order of the bytes
    /// of their keys, at most `limit`, with keys after `after`.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn list(
        &self,
        prefix: String,
        limit: u32,
        after: Option<String>,
    ) -> Result<Page, BlobError>;

    /// Opens an object to be read piece by piece; it stays as it is now for the reader.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn read(&self, key: String) -> Result<Box<dyn ObjectReader>, BlobError>;

    /// Opens an object to be written piece by piece.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn write(
        &self,
        key: String,
        condition: Condition,
    ) -> Result<Box<dyn ObjectWriter>, BlobError>;
}

/// Reads an object piece by piece.
#[async_trait]
pub trait ObjectReader: Send + 'static {
    /// Its metadata.
    fn metadata(&self) -> &Metadata;

    /// Up to `max` further bytes; none at the end.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn read(&mut self, max: u32) -> Result<Bytes, BlobError>;
}

/// Writes an object piece by piece; dropping it leaves nothing behind.
#[async_trait]
pub trait ObjectWriter: Send + 'static {
    /// Appends bytes.
    ///
    /// # Errors
    /// As the WIT's `error` says; the writer is of no use after one.
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError>;

    /// Makes the object visible, whole.
    ///
    /// # Errors
    /// As the WIT's `error` says; nothing is visible then.
    async fn finish(self: Box<Self>) -> Result<Metadata, BlobError>;
}
