//! What leaves the folder for compiled code, and when.
//!
//! A fault here is logged and no more: the folder is only larger than it need be.
//! Several processes may do this at once; each removal stands for itself, and a file
//! that is gone was removed by another one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{CLAIMED, CODE, IN_USE, UNFINISHED, is_digest, is_hex};

/// Folders of other engine configurations, and files that nobody finished, go away when
/// they were not used for so long: a rollback to the version before still finds its code.
const OUTDATED: Duration = Duration::from_secs(86_400);

struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

/// Removes the code that was used longest ago until the rest fits, of every engine
/// configuration. `spared` stays, whatever its size.
pub(super) fn fit(root: &Path, max_bytes: u64, spared: Option<&Path>) {
    let mut entries = Vec::new();
    for folder in folders(root) {
        entries.extend(files(&folder, CODE));
    }
    let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
    entries.sort_by_key(|entry| entry.used);
    for entry in entries {
        if total <= max_bytes {
            return;
        }
        if spared == Some(&entry.path) {
            continue;
        }
        remove(&entry.path);
        total -= entry.bytes;
        tracing::info!(
            path = %entry.path.display(), bytes = entry.bytes,
            "removed compiled code: the limit on its size is reached"
        );
    }
}

/// Removes files that nobody finished, and folders of other configurations than `own`
/// that no process uses.
pub(super) fn outdated(root: &Path, own: &Path) {
    for folder in folders(root) {
        for kind in [UNFINISHED, CLAIMED] {
            for entry in files(&folder, kind).filter(|entry| is_old(entry.used)) {
                remove(&entry.path);
            }
        }
        if folder != own
            && let Err(error) = remove_folder(&folder)
        {
            tracing::warn!(folder = %folder.display(), %error, "old compiled code stays");
        }
    }
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    let used = folder.join(IN_USE);
    let code: Vec<Entry> = files(folder, CODE).collect();
    // Another process may just have made it, and not come to use it yet.
    let changed = fs::metadata(folder)?.modified()?;
    let marked = fs::metadata(&used).and_then(|it| it.modified());
    let times = code.iter().map(|entry| entry.used).chain(marked);
    if times.chain([changed]).any(|time| !is_old(time)) {
        return Ok(());
    }
    // Held to the end, so that who opens the folder meanwhile waits and makes it again.
    let lock = match File::options().write(true).open(&used) {
        Ok(file) if file.try_lock().is_err() => return Ok(()),
        Ok(file) => Some(file),
        // Nobody ever used it, or another process is removing it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    for entry in code {
        remove(&entry.path);
    }
    remove(&used);
    let removed = fs::remove_dir(folder);
    drop(lock);
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => {
            tracing::info!(folder = %folder.display(), "removed compiled code of another version");
            Ok(())
        }
    }
}

/// Whether something was last used so long ago; not where the clock was set back.
fn is_old(used: SystemTime) -> bool {
    SystemTime::now()
        .duration_since(used)
        .is_ok_and(|age| age > OUTDATED)
}

/// The folders that are ours: the root may be one that holds other things as well.
fn folders(root: &Path) -> impl Iterator<Item = PathBuf> {
    read(root).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        let fingerprint = name.and_then(|name| {
            name.strip_prefix("plugins-")
                .or_else(|| name.strip_prefix("expressions-"))
        });
        fingerprint.is_some_and(|it| it.len() == 16 && is_hex(it))
            && fs::symlink_metadata(path).is_ok_and(|it| it.is_dir())
    })
}

/// The files of a kind in a folder.
fn files(folder: &Path, kind: &'static str) -> impl Iterator<Item = Entry> {
    read(folder).filter_map(move |path| {
        let named = path.extension().is_some_and(|it| it == kind)
            && (kind == UNFINISHED
                || path
                    .file_stem()
                    .and_then(|stem| stem.to_str())
                    .is_some_and(is_digest));
        let metadata = fs::symlink_metadata(&path).ok().filter(|_| named)?;
        Some(Entry {
            bytes: metadata.len(),
            used: metadata.modified().ok()?,
            path,
        })
    })
}

fn read(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "compiled code cannot be removed");
    }
}
