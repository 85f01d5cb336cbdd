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

mod reader;
#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests;
mod writer;

pub use reader::Reader;
pub use writer::Writer;

use std::time::Duration;

use crate::error::CapabilityError;
use crate::host::blob as host;

/// Why a call failed; `wit/blob` explains the codes.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new().blob::<&str, &str>("default", []).enter();
/// use heyday_sdk::blob::{Container, Error};
///
/// fn advice(error: &Error) -> &'static str {
///     match error.code.as_str() {
///         "not-found" => "upload the file first",
///         "precondition-failed" => "somebody else was quicker",
///         _ => "try again later",
///     }
/// }
/// let error = Container::open("default")?.get("report.pdf").unwrap_err();
/// assert_eq!(advice(&error), "upload the file first");
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
pub type Error = CapabilityError;

type Result<T> = std::result::Result<T, Error>;

/// The most bytes that the host answers at once.
const CHUNK: usize = 1024 * 1024;

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What is known of an object without reading it.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new()
/// #     .blob("default", [("report.pdf", "12 bytes of ")])
/// #     .enter();
/// use heyday_sdk::blob::{Container, Metadata};
///
/// let Metadata { key, size, .. } = Container::open("default")?.head("report.pdf")?;
/// assert_eq!((key.as_str(), size), ("report.pdf", 12));
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
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
///
/// ```
/// # let _test = heyday_sdk::test::Context::new().blob("default", [("index", "a")]).enter();
/// use heyday_sdk::blob::{Condition, Container};
///
/// let container = Container::open("default")?;
/// let read = container.head("index")?;
/// container.put("index", "a, b")?; // Somebody else adds to it meanwhile.
/// let unchanged = Condition::IfMatch(read.etag);
/// assert!(container.put_if("index", "a, c", unchanged).unwrap_err().is("precondition-failed"));
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
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
///
/// ```
/// # let _test = heyday_sdk::test::Context::new()
/// #     .blob("default", [("a", ""), ("b", ""), ("c", "")])
/// #     .enter();
/// use heyday_sdk::blob::{Container, Page};
///
/// let Page { objects, next } = Container::open("default")?.list("", 2, None)?;
/// assert_eq!(objects[1].key, "b");
/// assert!(next.is_some()); // There is a third.
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The objects, in ascending order of their keys' bytes.
    pub objects: Vec<Metadata>,
    /// Give this to [`Container::list`] for the next page; `None` at the end.
    pub next: Option<String>,
}

/// A granted container.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new()
/// #     .blob("default", [("in/a", "one"), ("in/b", "two")])
/// #     .enter();
/// use heyday_sdk::{Result, blob::Container};
///
/// /// Moves all objects from one folder to another.
/// fn publish(container: &Container) -> Result<()> {
///     for object in container.objects("in/") {
///         let key = object?.key;
///         container.put(&key.replacen("in/", "out/", 1), container.get(&key)?)?;
///         container.delete(&key)?;
///     }
///     Ok(())
/// }
/// let container = Container::open("default")?;
/// publish(&container)?;
/// assert_eq!(container.get("out/b")?, b"two");
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug)]
pub struct Container {
    host: host::Container,
}

impl Container {
    /// Opens the binding of this name; `default` is the usual one.
    ///
    /// ```
    /// use heyday_sdk::blob::Container;
    ///
    /// let _test = heyday_sdk::test::Context::new().blob::<&str, &str>("scans", []).enter();
    /// assert!(Container::open("scans").is_ok());
    /// assert!(Container::open("default").unwrap_err().is("capability-denied"));
    /// ```
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
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .blob("default", [("poem", "Tyger, tyger")])
    /// #     .enter();
    /// use heyday_sdk::blob::Container;
    ///
    /// let container = Container::open("default")?;
    /// assert_eq!(String::from_utf8(container.get("poem")?)?, "Tyger, tyger");
    /// assert!(container.get("prose").unwrap_err().is("not-found"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `not-found`, `limit-exceeded` and others, as `wit/blob` says.
    pub fn get(&self, key: &str) -> Result<Vec<u8>> {
        self.host.get(key)
    }

    /// Up to `length` bytes from `offset`; fewer where the object ends.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .blob("default", [("scan.pdf", "%PDF-1.7 and more")])
    /// #     .enter();
    /// use heyday_sdk::blob::Container;
    ///
    /// // What a file is shows at its begin.
    /// let begin = Container::open("default")?.get_range("scan.pdf", 0, 5)?;
    /// assert_eq!(begin, b"%PDF-");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `invalid-range` where `offset` is at or past the end, and others.
    pub fn get_range(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        self.host.get_range(key, offset, length)
    }

    /// What is known of the object.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .blob("default", [("poem", "Tyger, tyger")])
    /// #     .enter();
    /// use heyday_sdk::blob::Container;
    ///
    /// let container = Container::open("default")?;
    /// let before = container.head("poem")?;
    /// container.put("poem", "The lamb")?;
    /// assert_ne!(container.head("poem")?.etag, before.etag);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `not-found` and others.
    pub fn head(&self, key: &str) -> Result<Metadata> {
        self.host.head(key)
    }

    /// Whether there is an object under the key.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().blob("default", [("done/a", "")]).enter();
    /// use heyday_sdk::blob::Container;
    ///
    /// let container = Container::open("default")?;
    /// assert!(container.exists("done/a")?);
    /// assert!(!container.exists("done/b")?);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().blob::<&str, &str>("default", []).enter();
    /// use heyday_sdk::blob::Container;
    ///
    /// let container = Container::open("default")?;
    /// let written = container.put("reports/7.txt", "all is well")?;
    /// assert_eq!(written.size, 11);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/blob` says.
    pub fn put(&self, key: &str, bytes: impl AsRef<[u8]>) -> Result<Metadata> {
        self.put_if(key, bytes, Condition::Always)
    }

    /// Writes the whole object, if the condition holds.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().blob::<&str, &str>("default", []).enter();
    /// use heyday_sdk::blob::{Condition, Container};
    ///
    /// let container = Container::open("default")?;
    /// container.put_if("claim", "mine", Condition::IfAbsent)?;
    /// let late = container.put_if("claim", "yours", Condition::IfAbsent).unwrap_err();
    /// assert!(late.is("precondition-failed"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `precondition-failed` where it does not, `unsupported` where the store looks at no
    /// conditions, and others.
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
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().blob("default", [("draft", "")]).enter();
    /// use heyday_sdk::blob::Container;
    ///
    /// let container = Container::open("default")?;
    /// container.delete("draft")?;
    /// // Another attempt may meet what the last one has done.
    /// assert!(container.delete("draft").unwrap_err().is("not-found"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .blob("default", [("in/a", ""), ("in/b", ""), ("out/a", "")])
    /// #     .enter();
    /// use heyday_sdk::blob::Container;
    ///
    /// let container = Container::open("default")?;
    /// let first = container.list("in/", 1, None)?;
    /// let second = container.list("in/", 1, first.next.as_deref())?;
    /// assert_eq!((second.objects[0].key.as_str(), second.next), ("in/b", None));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/blob` says.
    pub fn list(&self, prefix: &str, limit: u32, after: Option<&str>) -> Result<Page> {
        self.host.list(prefix, limit, after)
    }

    /// All objects whose keys begin with `prefix`, fetched page by page. Ends after the
    /// first error.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .blob("default", [("in/a", "one"), ("in/b", "three")])
    /// #     .enter();
    /// use heyday_sdk::blob::Container;
    ///
    /// let mut bytes = 0;
    /// for object in Container::open("default")?.objects("in/") {
    ///     bytes += object?.size;
    /// }
    /// assert_eq!(bytes, 8);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .blob("default", [("poem", "Tyger, tyger\nburning bright")])
    /// #     .enter();
    /// use heyday_sdk::blob::Container;
    /// use std::io::{BufRead as _, BufReader};
    ///
    /// let poem = BufReader::new(Container::open("default")?.read("poem")?);
    /// assert_eq!(poem.lines().nth(1).transpose()?.as_deref(), Some("burning bright"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `not-found` and others.
    pub fn read(&self, key: &str) -> Result<Reader> {
        Ok(Reader::new(self.host.read(key)?))
    }

    /// Opens an object to be written piece by piece. Nobody sees it before
    /// [`Writer::finish`].
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().blob::<&str, &str>("default", []).enter();
    /// use heyday_sdk::blob::Container;
    /// use std::io::Write as _;
    ///
    /// let container = Container::open("default")?;
    /// let mut table = container.write("squares.csv")?;
    /// for n in 1..=3 {
    ///     writeln!(table, "{n},{}", n * n)?;
    /// }
    /// table.finish()?;
    /// assert_eq!(container.get("squares.csv")?, b"1,1\n2,4\n3,9\n");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/blob` says.
    pub fn write(&self, key: &str) -> Result<Writer> {
        self.write_if(key, Condition::Always)
    }

    /// As [`write`](Self::write), if the condition holds.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .blob("default", [("report", "ready")])
    /// #     .enter();
    /// use heyday_sdk::blob::{Condition, Container};
    ///
    /// let container = Container::open("default")?;
    /// // Told before anything is written in vain.
    /// let error = container.write_if("report", Condition::IfAbsent).unwrap_err();
    /// assert!(error.is("precondition-failed"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `precondition-failed` here or from [`Writer::finish`], `unsupported` where the store
    /// looks at no conditions, and others.
    pub fn write_if(&self, key: &str, condition: Condition) -> Result<Writer> {
        Ok(Writer::new(self.host.write(key, condition)?))
    }
}

/// The objects of a container, as [`Container::objects`] finds them.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new()
/// #     .blob("default", [("a.txt", ""), ("b.pdf", ""), ("c.pdf", "")])
/// #     .enter();
/// use heyday_sdk::{Result, blob::{Container, Objects}};
///
/// fn pdfs(objects: Objects<'_>) -> Result<Vec<String>> {
///     let mut keys = Vec::new();
///     for object in objects {
///         keys.extend(Some(object?.key).filter(|key| key.ends_with(".pdf")));
///     }
///     Ok(keys)
/// }
/// assert_eq!(pdfs(Container::open("default")?.objects(""))?, ["b.pdf", "c.pdf"]);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
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
