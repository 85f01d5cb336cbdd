//! The files beside a worker's spool: what it has not sent yet, for the next worker on the
//! same data folder, should this one be killed.
//!
//! `spool/WORKER/SEQUENCE.jsonl` is one batch, a record in a line, under the names that the
//! server knows it by: one that it has taken already it does not take twice. Whoever writes
//! in a folder holds its lock; one whose lock nobody holds is taken over. Nothing is synced:
//! the files are for the death of the process, not for that of the machine. A last line
//! that is cut short is left out.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::super::wire::RecordBody;

/// How a segment's file name ends.
const SEGMENT: &str = "jsonl";

/// A folder that is locked. Removed at the end, where it is empty then.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Opens and locks a folder that is there; `None` where somebody else has it.
    fn lock(path: PathBuf) -> io::Result<Option<Arc<Self>>> {
        let lock = File::open(&path)?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Arc::new(Self { path, _lock: lock }))),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Not where something is left in it.
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// The file of one segment. It stays until it is removed.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    /// Where further records go; none where it is only read, or could not be written.
    file: Option<File>,
    _folder: Arc<Folder>,
}

impl Kept {
    /// Adds records.
    ///
    /// # Errors
    /// Where they cannot be written; then the file gets no more, and has what it had.
    pub fn append(&mut self, records: &[RecordBody]) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let mut text = Vec::new();
        let written = records
            .iter()
            .try_for_each(|record| {
                serde_json::to_writer(&mut text, record)?;
                text.push(b'\n');
                Ok(())
            })
            .and_then(|()| file.write_all(&text));
        if written.is_err() {
            self.file = None;
        }
        written
    }

    /// The server has it.
    pub fn remove(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            // It is sent once more, and not taken twice.
            tracing::warn!(path = %self.path.display(), %error, "a file of the spool stays");
        }
    }
}

/// A segment of a worker that is gone.
#[derive(Debug)]
pub struct Left {
    /// The worker.
    pub worker: Uuid,
    /// The segment's number.
    pub sequence: u64,
    /// Its records, as far as they can be read.
    pub records: Vec<RecordBody>,
    /// Its file.
    pub kept: Kept,
}

/// Where a worker keeps its segments.
#[derive(Debug)]
pub struct Journal {
    /// None where it cannot be written.
    folder: Option<Arc<Folder>>,
    sequence: u64,
}

impl Journal {
    /// Opens the folder of this worker below `root`, and takes over what workers that are
    /// gone have left there, in their order.
    pub fn open(root: &Path, worker: Uuid) -> (Self, Vec<Left>) {
        let mut journal = Self {
            folder: None,
            sequence: 0,
        };
        match own(root, worker) {
            Ok(folder) => journal.folder = folder,
            Err(error) => journal.failed(&error),
        }
        let left = left(root, worker).unwrap_or_else(|error| {
            tracing::warn!(path = %root.display(), %error, "the spool cannot be read");
            Vec::new()
        });
        (journal, left)
    }

    /// A number that has no file.
    pub const fn skip(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// The next segment, with its file where it can be made.
    pub fn begin(&mut self) -> (u64, Option<Kept>) {
        let sequence = self.skip();
        let Some(folder) = &self.folder else {
            return (sequence, None);
        };
        let path = folder.path.join(format!("{sequence}.{SEGMENT}"));
        let made = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match made {
            Ok(file) => {
                let kept = Kept {
                    path,
                    file: Some(file),
                    _folder: Arc::clone(folder),
                };
                (sequence, Some(kept))
            }
            Err(error) => {
                self.failed(&error);
                (sequence, None)
            }
        }
    }

    /// Goes on in memory alone.
    pub fn failed(&mut self, error: &io::Error) {
        tracing::warn!(
            %error,
            "the spool cannot be written: what is not sent yet is lost if this worker is killed"
        );
        self.folder = None;
    }
}

fn own(root: &Path, worker: Uuid) -> io::Result<Option<Arc<Folder>>> {
    let path = root.join(worker.to_string());
    // What plugins say is for nobody else on this machine.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&path)?;
    Folder::lock(path)
}

fn left(root: &Path, own: Uuid) -> io::Result<Vec<Left>> {
    let mut left = Vec::new();
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(left),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let named = path.file_name().and_then(|name| name.to_str());
        let worker: Option<Uuid> = named.and_then(|name| name.parse().ok());
        let Some(worker) = worker.filter(|worker| *worker != own) else {
            continue;
        };
        // One that goes away meanwhile was another worker's, too.
        if let Ok(Some(folder)) = Folder::lock(path) {
            segments(&folder, worker, &mut left)?;
        }
    }
    left.sort_by_key(|segment| (segment.worker, segment.sequence));
    Ok(left)
}

fn segments(folder: &Arc<Folder>, worker: Uuid, left: &mut Vec<Left>) -> io::Result<()> {
    for entry in std::fs::read_dir(&folder.path)? {
        let path = entry?.path();
        let is_segment = path.extension().is_some_and(|it| it == SEGMENT);
        let number = path.file_stem().and_then(|stem| stem.to_str());
        let Some(sequence) = number.filter(|_| is_segment).and_then(|it| it.parse().ok()) else {
            continue;
        };
        let lines = BufReader::new(File::open(&path)?).split(b'\n');
        let records = lines
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_slice(&line).ok())
            .collect();
        left.push(Left {
            worker,
            sequence,
            records,
            kept: Kept {
                path,
                file: None,
                _folder: Arc::clone(folder),
            },
        });
    }
    Ok(())
}
