//! `heyday:blob`: objects in a container.
//!
//! The way of a call: `host.rs` takes the guest's call, looks the container up and runs
//! the operation of [`Container`] under the attempt's deadline, cancellation and
//! grants. [`files`] keeps objects as files of one folder, [`bucket`] in a bucket, of a
//! store that speaks S3 ([`s3`]) or of Google's ([`gcs`]). A bucket's store answers under
//! presigned addresses itself, for a folder the server does ([`address`]). Keys are checked
//! here, once for all backends ([`check_key`]), so that the same keys are valid on each.

pub mod address;
pub mod bucket;
pub mod bucket_config;
mod bucket_http;
mod bucket_stream;
mod bucket_wire;
mod diagnosis;
pub mod files;
pub mod gcs;
pub mod gcs_config;
mod gcs_sign;
mod gcs_upload;
mod gcs_wire;
mod host;
mod key;
mod listing;
pub mod s3;
mod s3_conditions;
pub mod s3_config;
mod s3_wire;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use host::BlobCapability;
pub use host::bindings::heyday::blob::blob::{Condition, Metadata, Page};
pub use key::check_key;

use crate::diagnosis::Finding;
use crate::error::{CapabilityError, codes};

/// The most bytes of one `get` or `get-range`.
pub const GET_BYTES: u64 = 64 << 20;
/// The most bytes of one `reader.read`.
pub const READ_BYTES: u32 = 1 << 20;
/// The most objects of one page.
pub const PAGE_OBJECTS: u32 = 1_000;
/// The longest that stores sign an address for.
const LONGEST_PRESIGNED_MS: u64 = 7 * 24 * 60 * 60 * 1_000;

codes! {
    /// The codes of `heyday:blob`; see `wit/blob`.
    BlobCode {
        /// Not granted, or a write through a read-only grant.
        CapabilityDenied = "capability-denied",
        /// Granted but not configured.
        UnknownBinding = "unknown-binding",
        /// No object under that key.
        NotFound = "not-found",
        /// A key that no container takes.
        InvalidKey = "invalid-key",
        /// A range past the end.
        InvalidRange = "invalid-range",
        /// The object is not as the condition says.
        PreconditionFailed = "precondition-failed",
        /// Over a limit.
        LimitExceeded = "limit-exceeded",
        /// The deadline came.
        Timeout = "timeout",
        /// The attempt was asked to stop.
        Cancelled = "cancelled",
        /// The store cannot be reached, or has no room.
        Unavailable = "unavailable",
        /// The writer was finished or aborted before.
        Closed = "closed",
        /// An address would be good for too short or too long.
        InvalidExpiry = "invalid-expiry",
        /// Nobody answers under addresses of the container, or its store looks at no
        /// conditions on writes.
        Unsupported = "unsupported",
        /// A fault of the host.
        Internal = "internal",
    }
    retryable: Timeout, Unavailable
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
    /// How long a presigned address may be good for, in milliseconds, 7 days at most;
    /// with 0 none is given out.
    pub presign_ms: u64,
}

impl Default for BlobLimits {
    fn default() -> Self {
        Self {
            object_bytes: 1 << 30,
            attempt_bytes: 16 << 30,
            open_handles: 16,
            presign_ms: 60 * 60 * 1_000,
        }
    }
}

impl BlobLimits {
    /// Refuses an object of more bytes than it may have.
    fn check_object(&self, bytes: u64) -> Result<(), BlobError> {
        let limit = self.object_bytes;
        if bytes > limit {
            return Err(BlobError::new(
                BlobCode::LimitExceeded,
                format!("an object has at most {limit} bytes in this container"),
            ));
        }
        Ok(())
    }

    /// How long an address may be good for, in milliseconds.
    fn longest_presigned_ms(&self) -> u64 {
        self.presign_ms.min(LONGEST_PRESIGNED_MS)
    }

    /// How long an address is good for that a guest wants for so long.
    fn check_expiry(&self, lasts_ms: u64) -> Result<Duration, BlobError> {
        let most = self.longest_presigned_ms();
        if most == 0 {
            return Err(BlobError::new(
                BlobCode::CapabilityDenied,
                "the binding gives out no addresses",
            ));
        }
        if !(1_000..=most).contains(&lasts_ms) {
            return Err(BlobError::new(
                BlobCode::InvalidExpiry,
                format!("an address is good for 1,000 to {most} ms in this container"),
            ));
        }
        // Stores count whole seconds.
        Ok(Duration::from_secs(lasts_ms / 1_000))
    }
}

/// What the server of a store says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreServer {
    /// Its name, and perhaps its version.
    pub name: Option<String>,
    /// Its clock, to the second: milliseconds since the Unix epoch.
    pub clock_ms: Option<i64>,
}

/// What a presigned address lets its owner do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presigned {
    /// Read the object.
    Get,
    /// Write it.
    Put,
}

fn check_writable(read_only: bool) -> Result<(), BlobError> {
    if read_only {
        return Err(BlobError::new(
            BlobCode::CapabilityDenied,
            "the container is read-only",
        ));
    }
    Ok(())
}

fn not_found(key: &str) -> BlobError {
    BlobError::new(
        BlobCode::NotFound,
        format!("there is no object under the key {key}"),
    )
}

fn too_large(bytes: u64) -> BlobError {
    BlobError::new(
        BlobCode::LimitExceeded,
        format!("one answer has at most {GET_BYTES} bytes, and these are {bytes}: use `read`"),
    )
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

    /// What its server says of itself, where it has one that answers; for operators.
    async fn server(&self) -> Option<StoreServer> {
        None
    }

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

    /// An address that lets whoever has it do that, for so long.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn presign(
        &self,
        key: String,
        what: Presigned,
        lasts: Duration,
    ) -> Result<String, BlobError>;
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

    /// Leaves the next bytes out.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn skip(&mut self, mut bytes: u64) -> Result<(), BlobError> {
        while bytes > 0 {
            let piece = u32::try_from(bytes).unwrap_or(READ_BYTES);
            match self.read(piece.min(READ_BYTES)).await?.len() {
                0 => break,
                read => bytes = bytes.saturating_sub(read as u64),
            }
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_good_for_whole_seconds_within_the_limit() {
        let of = |presign_ms, lasts_ms| {
            let limits = BlobLimits {
                presign_ms,
                ..BlobLimits::default()
            };
            let checked = limits.check_expiry(lasts_ms);
            checked.map_err(|error| error.code)
        };
        assert_eq!(of(60_000, 1_999), Ok(Duration::from_secs(1)));
        assert_eq!(of(60_000, 60_000), Ok(Duration::from_secs(60)));
        for (limit, lasts_ms, code) in [
            (60_000, 0, BlobCode::InvalidExpiry),
            (60_000, 999, BlobCode::InvalidExpiry),
            (60_000, 60_001, BlobCode::InvalidExpiry),
            (u64::MAX, LONGEST_PRESIGNED_MS + 1, BlobCode::InvalidExpiry),
            (0, 60_000, BlobCode::CapabilityDenied),
        ] {
            assert_eq!(of(limit, lasts_ms), Err(code), "{lasts_ms} of {limit}");
        }
    }
}
