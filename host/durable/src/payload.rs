//! Payloads: the form in which inputs, results and details are stored and passed.
//!
//! A payload is Temporal's: a map of metadata and bytes
//! (`temporal.api.common.v1.Payload`, same field numbers). JSON is
//! `encoding: json/plain` and its bytes pass through untouched. A value over
//! [`INLINE_LIMIT`] that stays inside Heyday is stored once, content-addressed,
//! and passed as a reference (`heyday/blob-ref`); see [`PayloadStore`].

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Above this many bytes a value that stays inside Heyday goes by reference.
pub const INLINE_LIMIT: usize = 256 * 1024;

/// Above this many bytes a value that must stay inline (a run's result, a signal,
/// whatever foreign code sees) is refused.
pub const FOREIGN_LIMIT: usize = 2 * 1024 * 1024;

/// The metadata key that names the encoding.
pub const ENCODING: &str = "encoding";
/// JSON, as the official SDKs encode it.
pub const JSON_PLAIN: &str = "json/plain";
/// No value; reads as JSON null.
pub const BINARY_NULL: &str = "binary/null";
/// The data is a JSON object `{"digest": "sha256:...", "size": N}` that names a
/// `json/plain` value in the [`PayloadStore`].
pub const BLOB_REF: &str = "heyday/blob-ref";

/// A sha-256 digest, written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// A digest that was computed elsewhere.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits, without the prefix.
    #[must_use]
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0
            .iter()
            .fold(String::with_capacity(64), |mut text, byte| {
                // Writing to a String cannot fail.
                let _ = write!(text, "{byte:02x}");
                text
            })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a digest is \"sha256:\" and 64 hexadecimal digits, not {0:?}")]
pub struct ParseDigestError(String);

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseDigestError(text.chars().take(100).collect());
        let hex = text.strip_prefix("sha256:").ok_or_else(error)?;
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| error())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// One value with its encoding; `temporal.api.common.v1.Payload`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Payload {
    /// Metadata; [`ENCODING`] names the encoding.
    #[prost(btree_map = "string, bytes", tag = "1")]
    pub metadata: BTreeMap<String, Bytes>,
    /// The encoded value.
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
}

/// A payload that Heyday cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The encoding is none that Heyday reads.
    #[error("the payload's encoding {0:?} is not supported; use \"json/plain\"")]
    UnsupportedEncoding(String),
    /// The data is not what the encoding says.
    #[error("the payload is not valid {encoding}: {message}")]
    Invalid {
        /// The encoding.
        encoding: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The payload is a reference; resolve it first.
    #[error("the payload is a reference to {0} and must be resolved first")]
    Unresolved(Digest),
}

/// What a `heyday/blob-ref` payload names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// Digest of the referenced `json/plain` bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
}

impl Payload {
    fn with_encoding(encoding: &'static str, data: Bytes) -> Self {
        let mut metadata = BTreeMap::new();
        metadata.insert(ENCODING.to_owned(), Bytes::from_static(encoding.as_bytes()));
        Self { metadata, data }
    }

    /// A JSON value.
    #[must_use]
    pub fn json(value: &serde_json::Value) -> Self {
        Self::json_bytes(Bytes::from(value.to_string()))
    }

    /// Bytes that are already JSON text; they are not checked.
    #[must_use]
    pub fn json_bytes(bytes: Bytes) -> Self {
        Self::with_encoding(JSON_PLAIN, bytes)
    }

    /// No value.
    #[must_use]
    pub fn null() -> Self {
        Self::with_encoding(BINARY_NULL, Bytes::new())
    }

    /// A reference to a value in the [`PayloadStore`].
    #[must_use]
    pub fn blob_ref(reference: &BlobRef) -> Self {
        let data = serde_json::json!({ "digest": reference.digest, "size": reference.size });
        Self::with_encoding(BLOB_REF, Bytes::from(data.to_string()))
    }

    /// The encoding's name; empty where there is none.
    #[must_use]
    pub fn encoding(&self) -> &str {
        self.metadata
            .get(ENCODING)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }

    /// What it refers to, if it is a reference.
    ///
    /// # Errors
    /// When the reference is malformed.
    pub fn as_blob_ref(&self) -> Result<Option<BlobRef>, PayloadError> {
        if self.encoding() != BLOB_REF {
            return Ok(None);
        }
        serde_json::from_slice(&self.data)
            .map(Some)
            .map_err(|error| PayloadError::Invalid {
                encoding: BLOB_REF,
                message: error.to_string(),
            })
    }

    /// The value as JSON text.
    ///
    /// # Errors
    /// When the encoding is unsupported or the payload is an unresolved reference.
    /// The text itself is not checked.
    pub fn json_text(&self) -> Result<Bytes, PayloadError> {
        match self.encoding() {
            JSON_PLAIN => Ok(self.data.clone()),
            BINARY_NULL => Ok(Bytes::from_static(b"null")),
            BLOB_REF => match self.as_blob_ref()? {
                Some(reference) => Err(PayloadError::Unresolved(reference.digest)),
                None => Err(PayloadError::UnsupportedEncoding(BLOB_REF.to_owned())),
            },
            other => Err(PayloadError::UnsupportedEncoding(other.to_owned())),
        }
    }

    /// The value as JSON.
    ///
    /// # Errors
    /// As [`json_text`](Self::json_text), or when the data is not JSON.
    pub fn to_json(&self) -> Result<serde_json::Value, PayloadError> {
        serde_json::from_slice(&self.json_text()?).map_err(|error| PayloadError::Invalid {
            encoding: JSON_PLAIN,
            message: error.to_string(),
        })
    }
}

/// A payload store that cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum PayloadStoreError {
    /// No value of that digest is stored.
    #[error("no payload {0} is stored")]
    NotFound(Digest),
    /// The store failed; another try may succeed.
    #[error("the payload store failed: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Where values over [`INLINE_LIMIT`] live: content-addressed, apart from every
/// plugin's bindings.
#[async_trait]
pub trait PayloadStore: Send + Sync + 'static {
    /// Stores bytes durably; the same bytes again change nothing.
    async fn put(&self, bytes: Bytes) -> Result<Digest, PayloadStoreError>;
    /// The bytes of that digest.
    async fn get(&self, digest: &Digest) -> Result<Bytes, PayloadStoreError>;
    /// Removes every value that is older than `grace` and not in `live`; answers
    /// how many.
    async fn sweep(
        &self,
        live: &std::collections::HashSet<Digest>,
        grace: std::time::Duration,
    ) -> Result<u64, PayloadStoreError>;
}

/// Why a reference cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// It never will.
    #[error("{0}")]
    Gone(String),
    /// Another try may succeed.
    #[error("{0}")]
    Unavailable(String),
}

/// A payload with its reference resolved.
///
/// # Errors
/// When the reference is malformed or names nothing, or the store cannot answer.
pub async fn resolve(store: &dyn PayloadStore, payload: Payload) -> Result<Payload, ResolveError> {
    let reference = payload
        .as_blob_ref()
        .map_err(|error| ResolveError::Gone(error.to_string()))?;
    let Some(reference) = reference else {
        return Ok(payload);
    };
    match store.get(&reference.digest).await {
        Ok(bytes) => Ok(Payload::json_bytes(bytes)),
        Err(error @ PayloadStoreError::NotFound(_)) => Err(ResolveError::Gone(error.to_string())),
        Err(error) => Err(ResolveError::Unavailable(error.to_string())),
    }
}

/// A value that goes by reference: its digest, and its bytes to be stored.
pub(crate) type Referred = (Digest, Bytes);

/// The payload as it stays inside Heyday: a reference where it is large. `stored` gets
/// the value then.
pub(crate) fn referred(payload: Payload, stored: &mut Vec<Referred>) -> Payload {
    referred_above(INLINE_LIMIT, payload, stored)
}

/// The same, where a value is large above so many bytes.
pub(crate) fn referred_above(
    limit: usize,
    payload: Payload,
    stored: &mut Vec<Referred>,
) -> Payload {
    if payload.data.len() <= limit || payload.encoding() != JSON_PLAIN {
        return payload;
    }
    let digest = Digest::of(&payload.data);
    let reference = Payload::blob_ref(&BlobRef {
        digest,
        size: payload.data.len() as u64,
    });
    stored.push((digest, payload.data));
    reference
}
