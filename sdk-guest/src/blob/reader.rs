//! Objects that are read piece by piece.

use std::io;

use super::{CHUNK, Metadata};
use crate::host::blob as host;

/// An object that is read piece by piece. It asks the host for up to 1 MiB at once, so that
/// small reads are cheap.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new()
/// #     .blob("default", [("scan.pdf", "%PDF-1.7")])
/// #     .enter();
/// use heyday_sdk::blob::{Container, Reader};
/// use std::io::{self, Read as _};
///
/// fn is_pdf(mut file: Reader) -> io::Result<bool> {
///     let mut begin = [0; 5];
///     file.read_exact(&mut begin)?;
///     Ok(&begin == b"%PDF-")
/// }
/// assert!(is_pdf(Container::open("default")?.read("scan.pdf")?)?);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug)]
pub struct Reader {
    host: host::Reader,
    chunk: Vec<u8>,
    position: usize,
}

impl Reader {
    pub(super) fn new(host: host::Reader) -> Self {
        Self {
            host,
            chunk: Vec::new(),
            position: 0,
        }
    }

    /// What is known of the object.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .blob("default", [("poem", "Tyger, tyger")])
    /// #     .enter();
    /// use heyday_sdk::blob::Container;
    /// use std::io::Read as _;
    ///
    /// let mut reader = Container::open("default")?.read("poem")?;
    /// let mut poem = Vec::with_capacity(reader.metadata().size as usize);
    /// reader.read_to_end(&mut poem)?;
    /// assert_eq!(poem.len(), 12);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
