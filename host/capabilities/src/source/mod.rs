//! Where an operator keeps settings and secrets: what `config` and `secrets` read alike.
//!
//! A `Source` is a file of TOML or JSON, a folder with one file for each entry (as
//! Kubernetes mounts ConfigMaps and Secrets), or named variables of the environment. It is
//! read at each call and nothing is watched: what an operator changes is seen by the next
//! call. A folder's entry is one open file, and a listing first resolves the link `..data`
//! that kubelet swaps, so that either sees the old state or the new one and never a mixture.
//! Only what was read is kept of a file, to parse it again when it is another.

mod file;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;
use zeroize::Zeroizing;

use file::File;

/// Bytes of one value.
pub const VALUE_BYTES: u64 = 64 << 10;
/// Bytes of a file, and of a folder's values together.
pub const SOURCE_BYTES: u64 = 1 << 20;
/// Entries of a folder.
pub const ENTRIES: usize = 10_000;

/// The longest key, in bytes.
const KEY_BYTES: usize = 256;

/// The bytes of a value; gone from memory when dropped.
pub(crate) type Bytes = Zeroizing<Vec<u8>>;
/// Texts by key.
type Entries = BTreeMap<String, Zeroizing<String>>;

/// Why a configuration of a source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// None, or several.
    #[error("it has {said}: say one of {known}")]
    Backend {
        /// What it says.
        said: &'static str,
        /// What there is.
        known: &'static str,
    },
    /// The path cannot be read.
    #[error("{} cannot be read: {source}", .path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The path is something else.
    #[error("{} is no {expected}", .path.display())]
    Kind {
        /// The path.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// A binding of secrets, or of variables, that names none.
    #[error("it gives nothing out: say which in `names`")]
    NoNames,
    /// A name, or what it stands for, that cannot be one.
    #[error("`{name}` in its names: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
}

/// Why a source cannot be read now. For the host's log: it may name paths, and never a
/// value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// Not there, not readable, or not what it should be.
    Unreadable(String),
    /// Larger than may be read.
    TooLarge(String),
}

/// Checks a key, as the doc comment of `invalid-key` in `wit/config` says.
pub(crate) fn check_key(key: &str) -> Result<(), &'static str> {
    if key.is_empty() || key.len() > KEY_BYTES {
        Err("a key has 1 to 256 bytes")
    } else if key.chars().any(char::is_control) {
        Err("a key has no control characters")
    } else {
        Ok(())
    }
}

/// Where entries are.
pub(crate) enum Source {
    /// A file of TOML or JSON; a table's members are entries with keys such as `mail.from`.
    File(File),
    /// A folder with one file for each entry.
    Folder(PathBuf),
    /// The environment of the host.
    Environment,
}

impl Source {
    /// Of the three, the one that a binding says, if it says one.
    pub(crate) fn of(
        file: Option<&Path>,
        folder: Option<&Path>,
        environment: bool,
    ) -> Result<Option<Self>, SourceError> {
        let found = match (file, folder, environment) {
            (None, None, false) => return Ok(None),
            (Some(file), None, false) => Self::File(File::new(file)?),
            (None, Some(folder), false) => {
                check_kind(folder, "folder", std::fs::Metadata::is_dir)?;
                Self::Folder(folder.to_owned())
            }
            (None, None, true) => Self::Environment,
            _ => {
                return Err(SourceError::Backend {
                    said: "two backends",
                    known: "them",
                });
            }
        };
        Ok(Some(found))
    }

    /// For operators.
    pub(crate) fn backend(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Folder(_) => "folder",
            Self::Environment => "environment",
        }
    }

    /// Checks names that a binding gives out, and what they stand for here.
    pub(crate) fn check_names(&self, names: &BTreeMap<String, String>) -> Result<(), SourceError> {
        for (name, entry) in names {
            let why = check_key(name).and_then(|()| match self {
                Self::File(_) => check_key(entry),
                Self::Folder(_) if is_file_name(entry) => Ok(()),
                Self::Folder(_) => Err("it stands for the name of a file, without a folder"),
                Self::Environment if entry.is_empty() || entry.contains(['=', '\0']) => {
                    Err("it stands for the name of a variable")
                }
                Self::Environment => Ok(()),
            });
            if let Err(why) = why {
                let name = name.clone();
                return Err(SourceError::Name { name, why });
            }
        }
        Ok(())
    }

    /// One entry; none where there is none.
    fn read(&self, entry: &str) -> Result<Option<Bytes>, ReadError> {
        let found = match self {
            Self::File(file) => {
                let entries = file.read()?;
                let found = entries.get(entry);
                found.map(|value| Zeroizing::new(value.as_bytes().to_vec()))
            }
            // A key of a guest's own that is no file's name names nothing.
            Self::Folder(_) if !is_file_name(entry) => None,
            Self::Folder(folder) => {
                let path = folder.join(entry);
                match read_entry(&path)? {
                    // The folder behind a link may have gone on the way to the file.
                    None => read_entry(&path)?,
                    found => found,
                }
            }
            Self::Environment => {
                use std::os::unix::ffi::OsStringExt as _;
                std::env::var_os(entry).map(|value| Zeroizing::new(value.into_vec()))
            }
        };
        match found {
            Some(value) if value.len() as u64 > VALUE_BYTES => Err(ReadError::TooLarge(format!(
                "{entry} has {} bytes, more than {VALUE_BYTES}",
                value.len()
            ))),
            found => Ok(found),
        }
    }

    /// All entries that are texts, by key; none of the environment, which may hold
    /// anything.
    fn read_all(&self) -> Result<Arc<Entries>, ReadError> {
        match self {
            Self::File(file) => file.read(),
            Self::Folder(folder) => read_folder(folder).map(Arc::new),
            Self::Environment => Ok(Arc::default()),
        }
    }
}

/// A source, read on threads of the host's runtime where files may be slow.
#[derive(Clone)]
pub(crate) struct Reader {
    source: Arc<Source>,
    runtime: Handle,
}

impl Reader {
    pub(crate) fn new(source: Source, runtime: Handle) -> Self {
        Self {
            source: Arc::new(source),
            runtime,
        }
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    pub(crate) async fn read(&self, entry: &str) -> Result<Option<Bytes>, ReadError> {
        let entry = entry.to_owned();
        self.blocking(move |source| source.read(&entry)).await
    }

    pub(crate) async fn read_all(&self) -> Result<Arc<Entries>, ReadError> {
        self.blocking(Source::read_all).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Source) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let source = Arc::clone(&self.source);
        let reading = self.runtime.spawn_blocking(move || read(&source));
        let read = reading.await;
        read.unwrap_or_else(|error| Err(ReadError::Unreadable(error.to_string())))
    }
}

fn check_kind(
    path: &Path,
    expected: &'static str,
    is: impl FnOnce(&std::fs::Metadata) -> bool,
) -> Result<(), SourceError> {
    let found = std::fs::metadata(path).map_err(|source| SourceError::Path {
        path: path.to_owned(),
        source,
    })?;
    if is(&found) {
        return Ok(());
    }
    Err(SourceError::Kind {
        path: path.to_owned(),
        expected,
    })
}

/// Whether this is a file's own name in a folder. Those that begin with two dots are
/// kubelet's.
fn is_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let one = matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(only)), None) if only == name
    );
    one && !name.starts_with("..") && !name.contains('\0')
}

/// The bytes of a regular file of at most `limit` bytes; none where there is nothing.
fn read_file(path: &Path, limit: u64) -> Result<Option<Bytes>, ReadError> {
    let unreadable =
        |error: std::io::Error| ReadError::Unreadable(format!("{}: {error}", path.display()));
    match std::fs::metadata(path) {
        // Opening a pipe would wait for whoever writes to it.
        Ok(found) if !found.is_file() => {
            return Err(ReadError::Unreadable(format!(
                "{} is no file",
                path.display()
            )));
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        found => found.map_err(unreadable)?,
    };
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(unreadable)?,
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(1 << 10));
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(ReadError::TooLarge(format!(
            "{} has more than {limit} bytes",
            path.display()
        )));
    }
    Ok(Some(bytes))
}

/// The value of a folder's entry: the line break at the end of a text is the editor's.
fn read_entry(path: &Path) -> Result<Option<Bytes>, ReadError> {
    let Some(mut bytes) = read_file(path, VALUE_BYTES + 2)? else {
        return Ok(None);
    };
    if std::str::from_utf8(&bytes).is_ok() && bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    Ok(Some(bytes))
}

fn read_folder(folder: &Path) -> Result<Entries, ReadError> {
    let unreadable =
        |error: std::io::Error| ReadError::Unreadable(format!("{}: {error}", folder.display()));
    // What was swapped away while it was read is read again from where the link leads now.
    for _ in 0..3 {
        let data = folder.join("..data");
        let at = match data.canonicalize() {
            Ok(at) => at,
            Err(error) if error.kind() == ErrorKind::NotFound => folder.to_owned(),
            Err(error) => return Err(unreadable(error)),
        };
        if let Some(entries) = read_folder_at(&at).map_err(|error| match error {
            FolderError::Io(error) => unreadable(error),
            FolderError::Read(error) => error,
        })? {
            let now = data.canonicalize().unwrap_or_else(|_| folder.to_owned());
            if now == at {
                return Ok(entries);
            }
        }
    }
    Err(ReadError::Unreadable(format!(
        "{} changes all the time",
        folder.display()
    )))
}

enum FolderError {
    Io(std::io::Error),
    Read(ReadError),
}

/// The entries of a folder; none where it, or one of them, is gone while it is read.
fn read_folder_at(folder: &Path) -> Result<Option<Entries>, FolderError> {
    let listing = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        listing => listing.map_err(FolderError::Io)?,
    };
    let too_large = |what: String| FolderError::Read(ReadError::TooLarge(what));
    let mut entries = Entries::new();
    let mut bytes = 0;
    for (index, found) in listing.enumerate() {
        if index >= ENTRIES {
            return Err(too_large(format!("there are more than {ENTRIES} files")));
        }
        let found = found.map_err(FolderError::Io)?;
        let Ok(name) = found.file_name().into_string() else {
            continue;
        };
        let is_entry = is_file_name(&name) && check_key(&name).is_ok();
        if !is_entry || std::fs::metadata(found.path()).is_ok_and(|it| !it.is_file()) {
            continue;
        }
        let Some(value) = read_entry(&found.path()).map_err(FolderError::Read)? else {
            return Ok(None);
        };
        bytes += value.len() as u64;
        if bytes > SOURCE_BYTES {
            return Err(too_large(format!(
                "the files have more than {SOURCE_BYTES} bytes"
            )));
        }
        if let Ok(text) = std::str::from_utf8(&value) {
            entries.insert(name, Zeroizing::new(text.to_owned()));
        }
    }
    Ok(Some(entries))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
