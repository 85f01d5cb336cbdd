//! `blob`, in memory.

use std::cell::{Cell, RefCell};

use crate::blob::{Condition, Metadata, Page};
use crate::error::CapabilityError;
use crate::test::state::{self, Object, Objects};

type Result<T> = std::result::Result<T, CapabilityError>;

fn not_found(key: &str) -> CapabilityError {
    CapabilityError::new("not-found", format!("there is no object {key:?}"))
}

fn invalid_key(key: &str, why: &str) -> CapabilityError {
    CapabilityError::new("invalid-key", format!("{key:?} is no key: {why}"))
}

fn check_key(key: &str) -> Result<()> {
    let staged = key.rsplit_once('#').is_some_and(|(_, suffix)| {
        !suffix.is_empty() && suffix.bytes().all(|byte| byte.is_ascii_digit())
    });
    let broken = if !(1..=1_024).contains(&key.len()) {
        "it has 1 to 1,024 bytes"
    } else if key.chars().any(|c| c.is_control() || c == '\\') {
        "it has no control characters and no backslash"
    } else if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        "segments between / are neither empty nor . nor .."
    } else if staged {
        "it does not end in # and digits"
    } else {
        return Ok(());
    };
    Err(invalid_key(key, broken))
}

/// Refuses a key of which an object's key is a part, or that is a part of one: a folder of
/// files cannot hold both.
fn check_place(objects: &Objects, key: &str) -> Result<()> {
    let below = format!("{key}/");
    let mut after = objects.range(below.clone()..);
    if after
        .next()
        .is_some_and(|(found, _)| found.starts_with(&below))
    {
        return Err(invalid_key(key, "other keys begin with it and a /"));
    }
    let mut parts = key.match_indices('/').map(|(end, _)| &key[..end]);
    if parts.any(|part| objects.contains_key(part)) {
        return Err(invalid_key(key, "a part of it is the key of an object"));
    }
    Ok(())
}

/// Whether a write may happen.
fn check_write(objects: &Objects, key: &str, condition: &Condition) -> Result<()> {
    check_place(objects, key)?;
    let existing = objects.get(key);
    let holds = match condition {
        Condition::Always => true,
        Condition::IfAbsent => existing.is_none(),
        Condition::IfMatch(etag) => existing.is_some_and(|object| object.etag() == *etag),
    };
    if holds {
        Ok(())
    } else {
        Err(CapabilityError::new(
            "precondition-failed",
            format!("the object {key:?} is not as the condition wants it"),
        ))
    }
}

fn metadata(key: &str, object: &Object) -> Metadata {
    Metadata {
        key: key.to_owned(),
        size: object.bytes.len() as u64,
        last_modified_ms: object.revision,
        etag: object.etag(),
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Container {
    binding: String,
}

impl Container {
    pub(crate) fn open(binding: &str) -> Result<Self> {
        let container = Self {
            binding: binding.to_owned(),
        };
        container.with(|_| Ok(()))?;
        Ok(container)
    }

    fn with<T>(&self, f: impl FnOnce(&mut Objects) -> Result<T>) -> Result<T> {
        state::with(|state| match state.blobs.get_mut(&self.binding) {
            Some(objects) => f(objects),
            None => Err(CapabilityError::new(
                "capability-denied",
                format!(
                    "no container {:?} is granted: in a native test, \
                     heyday_sdk::test::Context::blob grants one",
                    self.binding
                ),
            )),
        })
    }

    fn object<T>(&self, key: &str, f: impl FnOnce(&Object) -> Result<T>) -> Result<T> {
        check_key(key)?;
        self.with(|objects| objects.get(key).ok_or_else(|| not_found(key)).and_then(f))
    }

    pub(crate) fn get(&self, key: &str) -> Result<Vec<u8>> {
        self.object(key, |object| Ok(object.bytes.clone()))
    }

    pub(crate) fn get_range(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        self.object(key, |object| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            if start >= object.bytes.len() {
                return Err(CapabilityError::new(
                    "invalid-range",
                    format!("the object has {} bytes", object.bytes.len()),
                ));
            }
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let end = start.saturating_add(length).min(object.bytes.len());
            Ok(object.bytes[start..end].to_vec())
        })
    }

    pub(crate) fn head(&self, key: &str) -> Result<Metadata> {
        self.object(key, |object| Ok(metadata(key, object)))
    }

    pub(crate) fn put(&self, key: &str, bytes: &[u8], condition: Condition) -> Result<Metadata> {
        check_key(key)?;
        let object = Object::new(bytes.to_vec());
        self.with(|objects| {
            check_write(objects, key, &condition)?;
            let answer = metadata(key, &object);
            objects.insert(key.to_owned(), object);
            Ok(answer)
        })
    }

    pub(crate) fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        self.with(|objects| {
            let removed = objects.remove(key);
            removed.map(|_| ()).ok_or_else(|| not_found(key))
        })
    }

    pub(crate) fn list(&self, prefix: &str, limit: u32, after: Option<&str>) -> Result<Page> {
        let limit = limit.clamp(1, 1_000) as usize;
        self.with(|objects| {
            let mut found: Vec<Metadata> = objects
                .iter()
                .filter(|(key, _)| {
                    key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after)
                })
                .take(limit + 1)
                .map(|(key, object)| metadata(key, object))
                .collect();
            let next = (found.len() > limit).then(|| {
                found.truncate(limit);
                found[limit - 1].key.clone()
            });
            Ok(Page {
                objects: found,
                next,
            })
        })
    }

    pub(crate) fn presign_get(&self, key: &str, lasts_ms: u64) -> Result<String> {
        self.presign("GET", key, lasts_ms)
    }

    pub(crate) fn presign_put(&self, key: &str, lasts_ms: u64) -> Result<String> {
        self.presign("PUT", key, lasts_ms)
    }

    /// As a bucket's binding with the default limit; nobody listens there.
    fn presign(&self, method: &str, key: &str, lasts_ms: u64) -> Result<String> {
        check_key(key)?;
        if !(1_000..=3_600_000).contains(&lasts_ms) {
            return Err(CapabilityError::new(
                "invalid-expiry",
                "an address is good for 1,000 to 3,600,000 ms in this container",
            ));
        }
        self.with(|_| Ok(()))?;
        let (binding, seconds) = (&self.binding, lasts_ms / 1_000);
        Ok(format!(
            "https://bucket.invalid/{binding}/{key}?method={method}&seconds={seconds}"
        ))
    }

    pub(crate) fn read(&self, key: &str) -> Result<Reader> {
        self.object(key, |object| {
            Ok(Reader {
                metadata: metadata(key, object),
                bytes: object.bytes.clone(),
                position: Cell::new(0),
            })
        })
    }

    pub(crate) fn write(&self, key: &str, condition: Condition) -> Result<Writer> {
        check_key(key)?;
        self.with(|objects| check_write(objects, key, &condition))?;
        Ok(Writer {
            container: self.clone(),
            key: key.to_owned(),
            condition,
            bytes: RefCell::default(),
        })
    }
}

#[derive(Debug)]
pub(crate) struct Reader {
    metadata: Metadata,
    bytes: Vec<u8>,
    position: Cell<usize>,
}

impl Reader {
    pub(crate) fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    #[allow(clippy::unnecessary_wraps)] // the host's can fail
    pub(crate) fn read(&self, max: u32) -> Result<Vec<u8>> {
        let start = self.position.get();
        let end = start.saturating_add(max as usize).min(self.bytes.len());
        self.position.set(end);
        Ok(self.bytes[start..end].to_vec())
    }
}

#[derive(Debug)]
pub(crate) struct Writer {
    container: Container,
    key: String,
    condition: Condition,
    bytes: RefCell<Vec<u8>>,
}

impl Writer {
    #[allow(clippy::unnecessary_wraps)] // the host's can fail
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<()> {
        self.bytes.borrow_mut().extend_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Metadata> {
        let bytes = self.bytes.into_inner();
        self.container.put(&self.key, &bytes, self.condition)
    }

    pub(crate) fn abort(self) {}
}
