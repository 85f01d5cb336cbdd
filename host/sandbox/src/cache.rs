//! Compiled code on disk: one file per component, by digest, in a folder per engine
//! configuration.
//!
//! Loading compiled code is unsafe on anything but what the compiler wrote, so each
//! file ends with its length and sha-256 digest, and both are checked before the code
//! is mapped: a file that was cut short, or that the disk changed, is compiled again.
//! The digest is no signature: the folder must be one that only the host writes.
//! Files appear whole or not at all: they are written under another name, synced and
//! renamed.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Ends every file; raise the number with the format.
const MAGIC: &[u8; 16] = b"heyday-cwasm-001";
/// Magic, length (8 bytes, little-endian), sha-256.
const FOOTER: usize = 16 + 8 + 32;

/// The sha-256 digest of bytes: 64 hexadecimal digits.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Whether a text is a digest as [`digest`] writes it. Digests become file names, so
/// nothing else may pass.
pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Compiled code of one engine configuration.
#[derive(Debug, Clone)]
pub(crate) struct DiskCache {
    folder: PathBuf,
}

impl DiskCache {
    /// Opens the folder of this kind of code and engine, and removes what an earlier
    /// process left unfinished.
    pub(crate) fn open(cache_dir: &Path, kind: &str, fingerprint: &str) -> io::Result<Self> {
        let folder = cache_dir.join(format!("{kind}-{fingerprint}"));
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|ext| ext == "tmp") {
                // Another process may have removed it first.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Self { folder })
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{digest}.cwasm"))
    }

    /// The file of a component, if it is there and whole.
    pub(crate) fn find(&self, digest: &str) -> Option<PathBuf> {
        let path = self.path(digest);
        match check(&path) {
            Ok(true) => Some(path),
            Ok(false) => {
                tracing::warn!(
                    path = %path.display(),
                    "compiled code is damaged and is compiled again"
                );
                None
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(
                    path = %path.display(), %error,
                    "compiled code cannot be read and is compiled again"
                );
                None
            }
        }
    }

    /// A name for a file that is being written.
    pub(crate) fn temporary(&self) -> io::Result<tempfile::TempPath> {
        Ok(tempfile::Builder::new()
            .suffix(".tmp")
            .tempfile_in(&self.folder)?
            .into_temp_path())
    }

    /// Gives a file that [`write()`] finished its name; answers where it is.
    pub(crate) fn keep(&self, file: tempfile::TempPath, digest: &str) -> io::Result<PathBuf> {
        let path = self.path(digest);
        file.persist(&path).map_err(|error| error.error)?;
        // The name is durable only with its folder.
        File::open(&self.folder)?.sync_all()?;
        Ok(path)
    }

    /// Forgets a component; it is no error when there is none.
    pub(crate) fn remove(&self, digest: &str) -> io::Result<()> {
        match fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Writes compiled code with its length and digest, and syncs it.
pub(crate) fn write(path: &Path, code: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(code)?;
    file.write_all(MAGIC)?;
    file.write_all(&(code.len() as u64).to_le_bytes())?;
    file.write_all(&Sha256::digest(code))?;
    file.sync_all()
}

/// Whether a file is what [`write()`] wrote.
fn check(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let Some(length) = size.checked_sub(FOOTER as u64) else {
        return Ok(false);
    };
    let mut footer = [0; FOOTER];
    file.seek(SeekFrom::Start(length))?;
    file.read_exact(&mut footer)?;
    if footer[..16] != *MAGIC || footer[16..24] != length.to_le_bytes() {
        return Ok(false);
    }
    file.seek(SeekFrom::Start(0))?;
    let mut sha = Sha256::new();
    let copied = io::copy(&mut file.take(length), &mut sha)?;
    Ok(copied == length && sha.finalize()[..] == footer[24..])
}
