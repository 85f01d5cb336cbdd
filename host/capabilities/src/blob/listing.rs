//! Lists a folder in the order of keys, one page at a time.
//!
//! Our own walk, because the order of keys is not the order of folders: `a.txt` comes
//! before `a/b` (`.` is less than `/`), and a page begins in the middle of the tree
//! without reading what lies before it. Symbolic links are no objects: they are not
//! followed and not listed, so that nothing outside the folder is.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use super::key::{check_key, is_staged};
use super::{Metadata, Page};

/// What is asked for.
pub(super) struct Query<'a> {
    pub(super) prefix: &'a str,
    pub(super) limit: usize,
    pub(super) after: Option<&'a str>,
    /// Set when nobody waits for the answer any more.
    pub(super) stop: &'a AtomicBool,
}

/// What was found.
#[derive(Default)]
struct Found {
    objects: Vec<Metadata>,
    /// Where the keys would be of what is no object and perhaps was to be one.
    passed_over: Vec<String>,
}

/// One page of the files below `root`. What is passed over stands in the log, once for each
/// page, and with the page that it would have been on.
pub(super) fn list(root: &Path, read_only: bool, query: &Query<'_>) -> std::io::Result<Page> {
    let (page, passed_over) = page(root, read_only, query)?;
    if let Some(first) = passed_over.iter().min() {
        tracing::warn!(
            folder = %root.display(),
            count = passed_over.len(),
            first,
            "a listing passes over what is no object: symbolic links, what is neither a file nor \
             a folder, names that are not UTF-8 or no keys, and what this user may not read"
        );
    }
    Ok(page)
}

fn page(root: &Path, read_only: bool, query: &Query<'_>) -> std::io::Result<(Page, Vec<String>)> {
    let mut found = Found::default();
    walk(root, "", read_only, query, &mut found)?;
    let Found {
        mut objects,
        mut passed_over,
    } = found;
    // One more than asked for was looked for, to know whether there is a next page.
    let next = if objects.len() > query.limit {
        objects.truncate(query.limit);
        objects.last().map(|object| object.key.clone())
    } else {
        None
    };
    if let Some(next) = &next {
        passed_over.retain(|key| key <= next);
    }
    Ok((Page { objects, next }, passed_over))
}

fn walk(
    folder: &Path,
    folder_key: &str,
    read_only: bool,
    query: &Query<'_>,
    found: &mut Found,
) -> std::io::Result<()> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        if query.stop.load(Ordering::Acquire) {
            return Ok(());
        }
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = entry.file_name();
        let Some(name) = name.to_str().map(str::to_owned) else {
            let key = format!("{folder_key}{}", name.to_string_lossy());
            if wants(&key, query) {
                found.passed_over.push(key);
            }
            continue;
        };
        let mut key = format!("{folder_key}{name}");
        if kind.is_dir() {
            key.push('/');
            if wants_folder(&key, query) {
                entries.push((key, name, true));
            }
        } else if !wants(&key, query) {
            // Of another page.
        } else if kind.is_file() && check_key(&key, read_only).is_ok() {
            entries.push((key, name, false));
        } else if read_only || !kind.is_file() || !is_staged(&key) {
            // What is staged is no object yet, and nothing that anybody misses.
            found.passed_over.push(key);
        }
    }
    entries.sort_unstable();
    for (key, name, is_folder) in entries {
        if found.objects.len() > query.limit || query.stop.load(Ordering::Acquire) {
            return Ok(());
        }
        let path = folder.join(OsStr::new(&name));
        if is_folder {
            if let Err(error) = walk(&path, &key, read_only, query, found) {
                pass(error, key, query, found)?;
            }
        } else {
            match std::fs::symlink_metadata(&path) {
                Ok(file) if file.is_file() => found.objects.push(metadata(key, &file)),
                Ok(_) => {}
                Err(error) => pass(error, key, query, found)?,
            }
        }
    }
    Ok(())
}

/// What was deleted in between is not listed, nor what is not ours to read.
fn pass(
    error: std::io::Error,
    key: String,
    query: &Query<'_>,
    found: &mut Found,
) -> std::io::Result<()> {
    match error.kind() {
        ErrorKind::NotFound => Ok(()),
        ErrorKind::PermissionDenied => {
            if wants(&key, query) {
                found.passed_over.push(key);
            }
            Ok(())
        }
        _ => Err(error),
    }
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

/// Whether a key is among those that are asked for.
fn wants(key: &str, query: &Query<'_>) -> bool {
    key.starts_with(query.prefix) && query.after.is_none_or(|after| key > after)
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

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;

    /// Each page, and what was passed over for it.
    fn pages(root: &Path, read_only: bool, limit: usize, prefix: &str) -> Vec<[Vec<String>; 2]> {
        let stop = AtomicBool::new(false);
        let mut pages = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let query = Query {
                prefix,
                limit,
                after: after.as_deref(),
                stop: &stop,
            };
            let (found, mut passed_over) = page(root, read_only, &query).expect("a page");
            passed_over.sort_unstable();
            let keys = found.objects.into_iter().map(|object| object.key);
            pages.push([keys.collect(), passed_over]);
            after = found.next;
            if after.is_none() {
                return pages;
            }
        }
    }

    #[test]
    fn what_is_passed_over_is_told_once_with_the_page_that_it_would_be_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        std::fs::create_dir(root.join("f")).expect("made");
        for name in ["a", "c", "f/a", "z", "b\nb", "unfinished#1"] {
            std::fs::write(root.join(name), name).expect("written");
        }
        // Some file systems take only names of UTF-8.
        let latin = std::fs::write(root.join(OsStr::from_bytes(b"d\xff")), "x").is_ok();
        std::os::unix::fs::symlink(root.join("a"), root.join("f/link")).expect("a link");
        let mut missed = vec!["b\nb".to_owned()];
        missed.extend(latin.then(|| "d\u{fffd}".to_owned()));
        missed.push("f/link".to_owned());
        let one = pages(root, false, 100, "");
        assert_eq!(one.len(), 1);
        assert_eq!(one[0][0], ["a", "c", "f/a", "z"]);
        assert_eq!(one[0][1], missed);
        for limit in 1..4 {
            let pages = pages(root, false, limit, "");
            let told: Vec<_> = pages.iter().flat_map(|page| page[1].clone()).collect();
            assert_eq!(told, missed, "in pages of {limit}");
        }
        let below = pages(root, false, 100, "f/");
        assert_eq!(below, [[vec!["f/a".to_owned()], vec!["f/link".to_owned()]]]);
        // Where nothing is ever staged it is a document as any other.
        let read_only = pages(root, true, 100, "unf");
        assert_eq!(read_only, [[vec!["unfinished#1".to_owned()], Vec::new()]]);
        assert_eq!(
            pages(root, false, 100, "unf"),
            [[Vec::<String>::new(), Vec::new()]]
        );
    }
}
