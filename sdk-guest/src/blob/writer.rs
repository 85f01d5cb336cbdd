//! Objects that are written piece by piece.

use std::io;

use super::{CHUNK, Metadata, Result};
use crate::host::blob as host;

/// An object that is written piece by piece. Dropping it without
/// [`finish`](Self::finish), and a failure of the activity, leaves nothing behind.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new().blob::<&str, &str>("default", []).enter();
/// use heyday_sdk::blob::{Container, Writer};
/// use std::io::Write as _;
///
/// let container = Container::open("default")?;
/// let mut writer: Writer = container.write("half")?;
/// writer.write_all(b"the first half")?;
/// drop(writer); // As where the activity fails here.
/// assert!(!container.exists("half")?);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug)]
pub struct Writer {
    host: host::Writer,
    /// Up to one chunk that the host does not have yet, so that small writes are cheap.
    buffer: Vec<u8>,
}

impl Writer {
    pub(super) fn new(host: host::Writer) -> Self {
        Self {
            host,
            buffer: Vec::new(),
        }
    }

    /// Makes the object visible, whole.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().blob::<&str, &str>("default", []).enter();
    /// use heyday_sdk::blob::Container;
    /// use std::io::Write as _;
    ///
    /// let container = Container::open("default")?;
    /// let mut writer = container.write("note")?;
    /// writer.write_all(b"all of it")?;
    /// assert!(!container.exists("note")?);
    /// assert_eq!(writer.finish()?.size, 9);
    /// assert!(container.exists("note")?);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `precondition-failed`, `limit-exceeded` and others; nothing is visible then.
    pub fn finish(mut self) -> Result<Metadata> {
        self.send()?;
        self.host.finish()
    }

    /// Gives the object up.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .blob("default", [("note", "as it was")])
    /// #     .enter();
    /// use heyday_sdk::blob::Container;
    /// use std::io::Write as _;
    ///
    /// let container = Container::open("default")?;
    /// let mut writer = container.write("note")?;
    /// writer.write_all(b"no, better not")?;
    /// writer.abort();
    /// assert_eq!(container.get("note")?, b"as it was");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
