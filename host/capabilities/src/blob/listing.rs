//! Lists a folder in the order of keys, one page at a time.
//!
//! Our own walk, because the order of keys is not the order of folders: `a.txt` comes
//! before `a/b` (`.` is less than `/`), and a page begins in the middle of the tree
//! without reading what lies before it. Symbolic links are no objects: they are not
//! followed and not listed, so that nothing outside the folder is.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use super::key::check_key;
use super::{Metadata, Page};

/// What is asked for.
pub(super) struct Query<'a> {
    pub(super) prefix: &'a str,
    pub(super) limit: usize,
    pub(super) after: Option<&'a str>,
    /// Set when nobody waits for the answer any more.
    pub(super) stop: &'a AtomicBool,
}

/// One page of the files below `root`.
pub(super) fn list(root: &Path, query: &Query<'_>) -> std::io::Result<Page> {
    let mut objects = Vec::new();
    walk(root, "", query, &mut objects)?;
    // One more than asked for was looked for, to know whether there is a next page.
    let next = if objects.len() > query.limit {
        objects.truncate(query.limit);
        objects.last().map(|object| object.key.clone())
    } else {
        None
    };
    Ok(Page { objects, next })
}

fn walk(
    folder: &Path,
    folder_key: &str,
    query: &Query<'_>,
    objects: &mut Vec<Metadata>,
) -> std::io::Result<()> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        if query.stop.load(Ordering::Acquire) {
            return Ok(());
        }
        let entry = entry?;
        let kind = entry.file_type()?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            tracing::debug!(name = ?entry.file_name(), "a file's name is not UTF-8: it is no object");
            continue;
        };
        let mut key = format!("{folder_key}{name}");
        if kind.is_dir() {
            key.push('/');
            if wants_folder(&key, query) {
                entries.push((key, name, true));
            }
        } else if kind.is_file() && wants_file(&key, query) {
            entries.push((key, name, false));
        }
    }
    entries.sort_unstable();
    for (key, name, is_folder) in entries {
        if objects.len() > query.limit || query.stop.load(Ordering::Acquire) {
            return Ok(());
        }
        let path = folder.join(OsStr::new(&name));
        if is_folder {
            match walk(&path, &key, query, objects) {
                // Deleted in between, or not ours to read: not listed.
                Err(error) if is_passing(&error) => {}
                other => other?,
            }
        } else {
            match std::fs::symlink_metadata(&path) {
                Ok(found) if found.is_file() => objects.push(metadata(key, &found)),
                Ok(_) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn is_passing(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied
    )
}

/// Whether a folder (its key ends in `/`) may hold what is asked for.
fn wants_folder(key: &str, query: &Query<'_>) -> bool {
    let within = key.starts_with(query.prefix) || query.prefix.starts_with(key);
    let later = query
        .after
        .is_none_or(|after| key > after || after.starts_with(key));
    // A key has more bytes than its folder.
    within && later && key.len() < 1_024
}

fn wants_file(key: &str, query: &Query<'_>) -> bool {
    key.starts_with(query.prefix)
        && query.after.is_none_or(|after| key > after)
        && check_key(key).is_ok()
}

/// An object's metadata from its file's.
pub(super) fn metadata(key: String, file: &std::fs::Metadata) -> Metadata {
    let modified = file
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default();
    Metadata {
        key,
        size: file.len(),
        last_modified_ms: u64::try_from(modified.as_millis()).unwrap_or(u64::MAX),
        etag: etag(file, modified.as_nanos()),
    }
}

/// Every write makes a new file, so the inode changes with the content; for files that
/// others write in place, the times and the size do.
#[cfg(unix)]
fn etag(file: &std::fs::Metadata, modified_ns: u128) -> String {
    use std::os::unix::fs::MetadataExt;
    let changed_ns = i128::from(file.ctime()) * 1_000_000_000 + i128::from(file.ctime_nsec());
    format!(
        "{:x}-{modified_ns:x}-{changed_ns:x}-{:x}",
        file.ino(),
        file.len()
    )
}

#[cfg(not(unix))]
fn etag(file: &std::fs::Metadata, modified_ns: u128) -> String {
    format!("{modified_ns:x}-{:x}", file.len())
}
