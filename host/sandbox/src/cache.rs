//! Compiled code on disk: one file per component, by digest, in a folder per engine
//! configuration. Several servers of one user may share it.
//!
//! *Trust.* Loading compiled code is unsafe on anything but what this host's compiler
//! wrote. So the folder must belong to the user who runs the server and be writable by
//! nobody else, and so must each file; whoever can rename the folders above it is
//! trusted too. Each file ends with its length and a sha-256 digest over the code, the
//! component's digest and the engine's fingerprint. All of it is checked before the code
//! is mapped: a file that was cut short, that the disk changed or that was put under
//! another name is compiled again.
//!
//! *Several processes.* A file appears whole or not at all: it is written under another
//! name, synced and renamed, and never written again, so that who has mapped it keeps
//! what it has when the name goes away or is given to another file. Who compiles a
//! component holds a lock of its name ([`Claim`]), for which the others wait to find the
//! file: an economy only, nothing depends on it.
//!
//! *Size.* A file's modification time is when it was last used. [`evict`] removes what
//! was used longest ago, and the folders of other engine configurations that nobody
//! uses any more.

mod evict;

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

/// Ends every file; raise the number with the format.
const MAGIC: &[u8; 16] = b"heyday-cwasm-002";
/// Magic, length (8 bytes, little-endian), sha-256.
const FOOTER: usize = 16 + 8 + 32;
/// Compiled code.
const CODE: &str = "cwasm";
/// What is being written.
const UNFINISHED: &str = "tmp";
/// Names that are being compiled.
const CLAIMED: &str = "lock";
/// Locked, not exclusively, by every process that uses the folder.
const IN_USE: &str = "in-use";
/// How often to look whether another process has finished.
pub(crate) const CLAIM_POLL: Duration = Duration::from_millis(50);
/// Why a file is not used that this host wrote.
const DAMAGED: Option<&str> = Some("it is damaged");
/// Write permission of the group and of all others.
const OTHERS_WRITE: u32 = 0o022;

/// Why a folder cannot hold compiled code.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Another user owns it.
    #[error(
        "the folder for compiled code, {}, belongs to user {owner}, not to user {user}, who runs \
         this; what is in it is executed, so use a folder of your own", path.display()
    )]
    ForeignOwner {
        /// The folder.
        path: PathBuf,
        /// The owner's number.
        owner: u32,
        /// The number of this process's user.
        user: u32,
    },
    /// Others may write there.
    #[error(
        "the folder for compiled code, {}, can be written by other users (its mode is {mode:o}); \
         what is in it is executed, so remove it or use another folder", path.display()
    )]
    WritableByOthers {
        /// The folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It cannot be made or read.
    #[error("the folder for compiled code, {}, cannot be used: {source}", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

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
    text.len() == 64 && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn user() -> u32 {
    // SAFETY: it has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

/// Compiled code of one engine configuration. Clones are handles of the same folder.
#[derive(Debug, Clone)]
pub(crate) struct DiskCache {
    /// With the folders of every configuration.
    root: PathBuf,
    folder: PathBuf,
    fingerprint: String,
    max_bytes: u64,
    /// The lock that tells others that the folder is in use.
    _in_use: Arc<File>,
}

/// The right to compile a component that other processes may want as well; given back
/// when dropped, or with the process.
#[derive(Debug)]
pub(crate) struct Claim {
    path: PathBuf,
    _locked: File,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While it is still locked. Who waits has the file open and gets the lock next.
        let _ = fs::remove_file(&self.path);
    }
}

impl DiskCache {
    /// Opens the folder of this kind of code and engine below `root`, which holds at most
    /// `max_bytes` of code of every kind and engine together.
    pub(crate) fn open(
        root: &Path,
        kind: &str,
        fingerprint: &str,
        max_bytes: u64,
    ) -> Result<Self, CacheError> {
        let folder = root.join(format!("{kind}-{fingerprint}"));
        let in_use = loop {
            let held = own(root).and_then(|()| own(&folder)).and_then(|()| {
                hold(&folder).map_err(|source| CacheError::Unusable {
                    path: folder.clone(),
                    source,
                })
            });
            match held {
                // Nobody used it for long, and another process is just removing it.
                Err(CacheError::Unusable { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                held => break held?,
            }
        };
        let cache = Self {
            root: root.to_owned(),
            folder,
            fingerprint: fingerprint.to_owned(),
            max_bytes,
            _in_use: Arc::new(in_use),
        };
        cache.sweep([]);
        Ok(cache)
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{digest}.{CODE}"))
    }

    /// The file of a component, if it is there, ours and whole.
    pub(crate) fn find(&self, digest: &str) -> Option<PathBuf> {
        let path = self.path(digest);
        match self.check(&path, digest) {
            Ok(None) => Some(path),
            Ok(Some(what)) => {
                tracing::warn!(path = %path.display(), what, "compiled code is compiled again");
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

    /// Why a file is not what [`write()`] wrote for this component, if it is not.
    fn check(&self, path: &Path, digest: &str) -> io::Result<Option<&'static str>> {
        let mut file = File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.uid() != user() || metadata.mode() & OTHERS_WRITE != 0 {
            return Ok(Some("others than this user could have written it"));
        }
        let Some(length) = metadata.len().checked_sub(FOOTER as u64) else {
            return Ok(DAMAGED);
        };
        let mut footer = [0; FOOTER];
        file.seek(SeekFrom::Start(length))?;
        file.read_exact(&mut footer)?;
        if footer[..16] != *MAGIC || footer[16..24] != length.to_le_bytes() {
            return Ok(DAMAGED);
        }
        file.seek(SeekFrom::Start(0))?;
        let mut sha = Sha256::new();
        let copied = io::copy(&mut (&file).take(length), &mut sha)?;
        if copied != length || seal(sha, &self.fingerprint, digest)[..] != footer[24..] {
            return Ok(DAMAGED);
        }
        used(&file)?;
        Ok(None)
    }

    /// The right to compile a component, if no other process is about to.
    pub(crate) fn claim(&self, digest: &str) -> io::Result<Option<Claim>> {
        let path = self.folder.join(format!("{digest}.{CLAIMED}"));
        let file = private(&path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            Ok(()) => {}
            // Without locks each process compiles for itself.
            Err(TryLockError::Error(error)) => tracing::debug!(%error, "no locks here"),
        }
        Ok(Some(Claim {
            path,
            _locked: file,
        }))
    }

    /// A name for a file that is being written.
    pub(crate) fn temporary(&self) -> io::Result<tempfile::TempPath> {
        Ok(tempfile::Builder::new()
            .suffix(&format!(".{UNFINISHED}"))
            .tempfile_in(&self.folder)?
            .into_temp_path())
    }

    /// Gives a file that [`write()`] finished its name; answers where it is.
    pub(crate) fn keep(&self, file: tempfile::TempPath, digest: &str) -> io::Result<PathBuf> {
        let path = self.path(digest);
        file.persist(&path).map_err(|error| error.error)?;
        // The name is durable only with its folder.
        File::open(&self.folder)?.sync_all()?;
        evict::fit(&self.root, self.max_bytes, Some(&path));
        Ok(path)
    }

    /// Forgets a component; it is no error when there is none.
    pub(crate) fn remove(&self, digest: &str) -> io::Result<()> {
        match fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes what is too much or too old. These components are in use: they count as
    /// used now.
    pub(crate) fn sweep<'a>(&self, in_use: impl IntoIterator<Item = &'a str>) {
        for digest in in_use {
            // It may have been removed; who has it loaded keeps it.
            if let Ok(file) = File::open(self.path(digest)) {
                let _ = used(&file);
            }
        }
        evict::outdated(&self.root, &self.folder);
        evict::fit(&self.root, self.max_bytes, None);
    }
}

/// Makes a folder that only this user may use, or checks the one that is there.
fn own(path: &Path) -> Result<(), CacheError> {
    let unusable = |source| CacheError::Unusable {
        path: path.to_owned(),
        source,
    };
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).map_err(unusable)?;
    let metadata = fs::metadata(path).map_err(unusable)?;
    if metadata.uid() != user() {
        return Err(CacheError::ForeignOwner {
            path: path.to_owned(),
            owner: metadata.uid(),
            user: user(),
        });
    }
    if metadata.mode() & OTHERS_WRITE != 0 {
        return Err(CacheError::WritableByOthers {
            path: path.to_owned(),
            mode: metadata.mode() & 0o7777,
        });
    }
    Ok(())
}

/// Tells others that the folder is in use as long as the answer lives.
///
/// # Errors
/// Not found, where another process is removing the folder.
fn hold(folder: &Path) -> io::Result<File> {
    let path = folder.join(IN_USE);
    let file = private(&path)?;
    if let Err(error) = file.lock_shared() {
        // Without locks no process removes another one's folder.
        tracing::debug!(%error, "no locks here");
        return Ok(file);
    }
    // It may have been removed while we waited for the lock.
    if !same_file(&file, &fs::metadata(&path)?) {
        return Err(io::ErrorKind::NotFound.into());
    }
    used(&file)?;
    Ok(file)
}

fn same_file(file: &File, other: &fs::Metadata) -> bool {
    file.metadata()
        .is_ok_and(|it| (it.dev(), it.ino()) == (other.dev(), other.ino()))
}

/// Opens or makes a file that only this user may use.
fn private(path: &Path) -> io::Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// Makes a file count as used now.
fn used(file: &File) -> io::Result<()> {
    file.set_modified(SystemTime::now())
}

/// Writes compiled code with what [`DiskCache::find`] checks, and syncs it.
pub(crate) fn write(path: &Path, fingerprint: &str, digest: &str, code: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(code)?;
    file.write_all(MAGIC)?;
    file.write_all(&(code.len() as u64).to_le_bytes())?;
    file.write_all(&seal(Sha256::new().chain_update(code), fingerprint, digest))?;
    file.sync_all()
}

/// What binds code to the engine and to the component that it was made for.
fn seal(code: Sha256, fingerprint: &str, digest: &str) -> [u8; 32] {
    code.chain_update(fingerprint)
        .chain_update(digest)
        .finalize()
        .into()
}
