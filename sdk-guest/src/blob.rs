//! Objects in a container: files on one machine, an object store in production. A plugin
//! cannot tell which.
//!
//! ```
//! use heyday_sdk::prelude::*;
//! use std::io::{BufRead as _, BufReader, Write as _};
//!
//! fn number_lines(key: &str) -> Result<u64> {
//!     let documents = blob::Container::open("default")?;
//!     let mut writer = documents.write(&format!("{key}.numbered"))?;
//!     let mut count = 0;
//!     for line in BufReader::new(documents.read(key)?).lines() {
//!         count += 1;
//!         writeln!(writer, "{count} {}", line?)?;
//!     }
//!     writer.finish()?;
//!     Ok(count)
//! }
//!
//! let test = heyday_sdk::test::Context::new()
//!     .blob("default", [("poem", "a\nb\n")])
//!     .enter();
//! assert_eq!(number_lines("poem").unwrap(), 2);
//! assert_eq!(test.object("default", "poem.numbered").unwrap(), b"1 a\n2 b\n");
//! ```

use std::io;
use std::time::Duration;

use crate::error::CapabilityError;
use crate::host::blob as host;

/// Why a call failed; `wit/blob` explains the codes.
pub type Error = CapabilityError;

type Result<T> = std::result::Result<T, Error>;

/// The most bytes that the host answers at once.
const CHUNK: usize = 1024 * 1024;

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Its key within the container.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// When it was last written: milliseconds since the Unix epoch.
    pub last_modified_ms: u64,
    /// A text that changes whenever the content does.
    pub etag: String,
}

/// When a write may happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    Always,
    /// Only if there is no object under the key.
    IfAbsent,
    /// Only if the object has this etag.
    IfMatch(String),
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The objects, in ascending order of their keys' bytes.
    pub objects: Vec<Metadata>,
    /// Give this to [`Container::list`] for the next page; `None` at the end.
    pub next: Option<String>,
}

/// A granted container.
#[derive(Debug)]
pub struct Container {
    host: host::Container,
}

impl Container {
    /// Opens the binding of this name; `default` is the usual one.
    ///
    /// # Errors
    /// `capability-denied` without a grant, `unknown-binding`, `unavailable`.
    pub fn open(binding: &str) -> Result<Self> {
        Ok(Self {
            host: host::Container::open(binding)?,
        })
    }

    /// The whole object, up to 64 MiB; use [`read`](Self::read) for larger ones.
    ///
    /// # Errors
    /// `not-found`, `limit-exceeded` and others, as `wit/blob` says.
    pub fn get(&self, key: &str) -> Result<Vec<u8>> {
        self.host.get(key)
    }

    /// Up to `length` bytes from `offset`; fewer where the object ends.
    ///
    /// # Errors
    /// `invalid-range` where `offset` is at or past the end, and others.
    pub fn get_range(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        self.host.get_range(key, offset, length)
    }

    /// What is known of the object.
    ///
    /// # Errors
    /// `not-found` and others.
    pub fn head(&self, key: &str) -> Result<Metadata> {
        self.host.head(key)
    }

    /// Whether there is an object under the key.
    ///
    /// # Errors
    /// As [`head`](Self::head), without `not-found`.
    pub fn exists(&self, key: &str) -> Result<bool> {
        match self.head(key) {
            Ok(_) => Ok(true),
            Err(error) if error.is("not-found") => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes the whole object.
    ///
    /// # Errors
    /// As `wit/blob` says.
    pub fn put(&self, key: &str, bytes: impl AsRef<[u8]>) -> Result<Metadata> {
        self.put_if(key, bytes, Condition::Always)
    }

    /// Writes the whole object, if the condition holds.
    ///
    /// # Errors
    /// `precondition-failed` where it does not, and others.
    pub fn put_if(
        &self,
        key: &str,
        bytes: impl AsRef<[u8]>,
        condition: Condition,
    ) -> Result<Metadata> {
        self.host.put(key, bytes.as_ref(), condition)
    }

    /// The object under a key, made if it is not there: whoever comes first makes it, all
    /// others are answered what that one wrote. Under a key with
    /// [`context::idempotency_key`](crate::context::idempotency_key) in it, an activity has
    /// one outcome however many attempts it takes: also where an attempt is lost after the
    /// write and before its answer. What `make` does beside may be done more than once.
    ///
    /// ```
    /// use heyday_sdk::prelude::*;
    ///
    /// fn ticket(number: u32) -> Result<Vec<u8>> {
    ///     let tickets = blob::Container::open("default")?;
    ///     let key = format!("tickets/{}", context::idempotency_key());
    ///     tickets.once(&key, || Ok(format!("ticket {number}").into_bytes()))
    /// }
    ///
    /// # let _test = heyday_sdk::test::Context::new().blob::<&str, &str>("default", []).enter();
    /// assert_eq!(ticket(1)?, b"ticket 1");
    /// assert_eq!(ticket(2)?, b"ticket 1"); // Another attempt of the same activity.
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of `make`, and as [`get`](Self::get) and [`put_if`](Self::put_if).
    pub fn once(
        &self,
        key: &str,
        make: impl FnOnce() -> crate::Result<Vec<u8>>,
    ) -> crate::Result<Vec<u8>> {
        match self.get(key) {
            Err(error) if error.is("not-found") => {}
            found => return Ok(found?),
        }
        let bytes = make()?;
        match self.put_if(key, &bytes, Condition::IfAbsent) {
            Ok(_) => Ok(bytes),
            // Another attempt, which is still under way, was quicker.
            Err(error) if error.is("precondition-failed") => Ok(self.get(key)?),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes the object.
    ///
    /// # Errors
    /// `not-found` and others.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.host.delete(key)
    }

    /// An address that answers the object to a plain GET by whoever has it, for so long:
    /// 1 second to an hour, unless the operator allows another time. It outlives the
    /// attempt and the grant, and whether there is such an object shows when it is asked for.
    ///
    /// ```
    /// use heyday_sdk::prelude::*;
    /// use std::time::Duration;
    ///
    /// # let _test = heyday_sdk::test::Context::new().blob("default", [("a", "x")]).enter();
    /// let reports = blob::Container::open("default")?;
    /// let link = reports.presign_get("a", Duration::from_secs(600))?;
    /// assert!(link.contains("a?"), "{link}");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `unsupported` where the container is a folder of a worker's, `invalid-expiry`, and
    /// others.
    pub fn presign_get(&self, key: &str, lasts: Duration) -> Result<String> {
        self.host.presign_get(key, milliseconds(lasts))
    }

    /// An address under which whoever has it may write the object by a plain PUT, for so long,
    /// over what is there.
    ///
    /// ```
    /// use heyday_sdk::prelude::*;
    /// use std::time::Duration;
    ///
    /// # let _test = heyday_sdk::test::Context::new().blob::<&str, &str>("default", []).enter();
    /// let inbox = blob::Container::open("default")?;
    /// let link = inbox.presign_put("inbox/scan.pdf", Duration::from_secs(600))?;
    /// assert!(link.contains("inbox/scan.pdf?"), "{link}");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`presign_get`](Self::presign_get); `capability-denied` where the grant only reads.
    pub fn presign_put(&self, key: &str, lasts: Duration) -> Result<String> {
        self.host.presign_put(key, milliseconds(lasts))
    }

    /// One page of the objects whose keys begin with `prefix`: at most `limit` (1 to
    /// 1,000), after the page token. [`objects`](Self::objects) turns the pages by itself.
    ///
    /// # Errors
    /// As `wit/blob` says.
    pub fn list(&self, prefix: &str, limit: u32, after: Option<&str>) -> Result<Page> {
        self.host.list(prefix, limit, after)
    }

    /// All objects whose keys begin with `prefix`, fetched page by page. Ends after the
    /// first error.
    pub fn objects(&self, prefix: &str) -> Objects<'_> {
        Objects {
            container: self,
            prefix: prefix.to_owned(),
            page: Vec::new().into_iter(),
            next: Some(None),
        }
    }

    /// Opens the object to be read piece by piece.
    ///
    /// # Errors
    /// `not-found` and others.
    pub fn read(&self, key: &str) -> Result<Reader> {
        Ok(Reader {
            host: self.host.read(key)?,
            chunk: Vec::new(),
            position: 0,
        })
    }

    /// Opens an object to be written piece by piece. Nobody sees it before
    /// [`Writer::finish`].
    ///
    /// # Errors
    /// As `wit/blob` says.
    pub fn write(&self, key: &str) -> Result<Writer> {
        self.write_if(key, Condition::Always)
    }

    /// As [`write`](Self::write), if the condition holds.
    ///
    /// # Errors
    /// `precondition-failed` here or from [`Writer::finish`], and others.
    pub fn write_if(&self, key: &str, condition: Condition) -> Result<Writer> {
        Ok(Writer {
            host: self.host.write(key, condition)?,
            buffer: Vec::new(),
        })
    }
}

/// The objects of a container, as [`Container::objects`] finds them.
#[derive(Debug)]
pub struct Objects<'a> {
    container: &'a Container,
    prefix: String,
    page: std::vec::IntoIter<Metadata>,
    /// The next page's token; `None` when there is no further page.
    next: Option<Option<String>>,
}

impl Iterator for Objects<'_> {
    type Item = Result<Metadata>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(object) = self.page.next() {
                return Some(Ok(object));
            }
            let after = self.next.take()?;
            match self.container.list(&self.prefix, 1_000, after.as_deref()) {
                Ok(page) => {
                    self.next = page.next.map(Some);
                    self.page = page.objects.into_iter();
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// An object that is read piece by piece. It asks the host for up to 1 MiB at once, so that
/// small reads are cheap.
#[derive(Debug)]
pub struct Reader {
    host: host::Reader,
    chunk: Vec<u8>,
    position: usize,
}

impl Reader {
    /// What is known of the object.
    #[must_use]
    pub fn metadata(&self) -> Metadata {
        self.host.metadata()
    }
}

impl io::Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.position == self.chunk.len() {
            self.chunk = self.host.read(CHUNK as u32)?;
            self.position = 0;
        }
        let count = buffer.len().min(self.chunk.len() - self.position);
        buffer[..count].copy_from_slice(&self.chunk[self.position..][..count]);
        self.position += count;
        Ok(count)
    }
}

/// An object that is written piece by piece. Dropping it without
/// [`finish`](Self::finish), and a failure of the activity, leaves nothing behind.
#[derive(Debug)]
pub struct Writer {
    host: host::Writer,
    /// Up to one chunk that the host does not have yet, so that small writes are cheap.
    buffer: Vec<u8>,
}

impl Writer {
    /// Makes the object visible, whole.
    ///
    /// # Errors
    /// `precondition-failed`, `limit-exceeded` and others; nothing is visible then.
    pub fn finish(mut self) -> Result<Metadata> {
        self.send()?;
        self.host.finish()
    }

    /// Gives the object up.
    pub fn abort(self) {
        self.host.abort();
    }

    fn send(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.host.write(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }
}

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() >= CHUNK {
            self.send()?;
        }
        let count = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.send()?)
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::test::Context;

    #[test]
    fn a_binding_that_was_not_granted_is_denied() {
        let _test = Context::new().enter();
        let error = Container::open("default").expect_err("no grant");
        assert_eq!(
            (error.code.as_str(), error.retryable),
            ("capability-denied", false)
        );
    }

    #[test]
    fn objects_can_be_put_ranged_listed_and_deleted() {
        let _test = Context::new()
            .blob("c", [("a/1", "one"), ("a/2", "two"), ("b", "x")])
            .enter();
        let container = Container::open("c").unwrap();
        assert_eq!(container.get("a/1").unwrap(), b"one");
        assert_eq!(container.get_range("a/2", 1, 9).unwrap(), b"wo");
        assert!(
            container
                .get_range("a/2", 3, 1)
                .unwrap_err()
                .is("invalid-range")
        );
        assert!(container.get("z").unwrap_err().is("not-found"));
        assert!(container.put("../z", "").unwrap_err().is("invalid-key"));
        let keys: Vec<String> = container
            .objects("a/")
            .map(|object| object.unwrap().key)
            .collect();
        assert_eq!(keys, ["a/1", "a/2"]);
        let page = container.list("", 2, None).unwrap();
        let rest = container.list("", 2, page.next.as_deref()).unwrap();
        assert_eq!(
            (page.objects.len(), rest.objects.len(), rest.next),
            (2, 1, None)
        );
        container.delete("b").unwrap();
        assert!(!container.exists("b").unwrap());
        assert!(container.delete("b").unwrap_err().is("not-found"));
    }

    #[test]
    fn conditions_hold() {
        let _test = Context::new().blob("c", [("a", "one")]).enter();
        let container = Container::open("c").unwrap();
        let etag = container.head("a").unwrap().etag;
        let refused = container.put_if("a", "x", Condition::IfAbsent).unwrap_err();
        assert!(refused.is("precondition-failed"));
        container
            .put_if("a", "two", Condition::IfMatch(etag.clone()))
            .unwrap();
        assert_ne!(container.head("a").unwrap().etag, etag);
        let refused = container
            .put_if("a", "x", Condition::IfMatch(etag))
            .unwrap_err();
        assert!(refused.is("precondition-failed"));
    }

    #[test]
    fn what_is_written_in_pieces_appears_whole_or_not_at_all() {
        let _test = Context::new().blob::<&str, &str>("c", []).enter();
        let container = Container::open("c").unwrap();
        let bytes: Vec<u8> = (0..3 * CHUNK + 7).map(|n| n as u8).collect();
        let mut writer = container.write("large").unwrap();
        writer.write_all(&bytes).unwrap();
        assert!(!container.exists("large").unwrap());
        assert_eq!(writer.finish().unwrap().size, bytes.len() as u64);
        let mut back = Vec::new();
        container
            .read("large")
            .unwrap()
            .read_to_end(&mut back)
            .unwrap();
        assert!(back == bytes);
        let mut writer = container.write("dropped").unwrap();
        writer.write_all(b"x").unwrap();
        drop(writer);
        assert!(!container.exists("dropped").unwrap());
    }

    #[test]
    fn io_errors_keep_the_capabilitys_code() {
        let _test = Context::new().blob::<&str, &str>("c", []).enter();
        let read = || -> crate::Result<String> {
            Ok(io::read_to_string(Container::open("c")?.read("absent")?)?)
        };
        assert_eq!(read().unwrap_err().kind(), "not-found");
    }
}
