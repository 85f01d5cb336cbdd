//! A disk whose power can fail: what was synced, what was written since, and the names.
//!
//! Each file has the content as SQLite sees it and, apart from it, the content as of
//! its last sync with the changes since. [`Disk::power_loss`] lets
//! [`settle`](super::settle) decide which changes reached the disk, and does the same
//! with the directory: a new name, or a deletion, is only sure after a sync of its file
//! or of the directory. Every handle of before then answers errors, and so does every
//! [`Power`] of before, so that whoever had the disk is as dead as after pulling the
//! plug; who takes it anew sees what it has.
//!
//! There is one flat directory: of a path only the last part counts.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;

use super::locks::{FileLocks, HandleId, SharedMemory};
use super::settle::{Change, settle};

/// Why the disk did not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskError {
    /// The power failed since the handle was opened.
    Dead,
    /// There is no room.
    Full,
    /// There is no such file.
    NotFound,
}

/// The time from one loss to the next. What is done in its name is refused afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Power(u64);

impl Power {
    /// How many losses came before.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// An open file.
#[derive(Debug)]
pub struct Handle {
    id: HandleId,
    file: FileId,
    power: Power,
    /// The first sync also syncs the directory, as SQLite's own VFS for Unix does for
    /// journals and write-ahead logs.
    sync_directory: bool,
    delete_on_close: bool,
}

/// How often what was synced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Syncs {
    /// Files.
    pub files: u64,
    /// The directory.
    pub directory: u64,
}

type FileId = u64;

#[derive(Debug, Default)]
struct File {
    /// As SQLite sees it.
    live: Vec<u8>,
    /// As of the last sync.
    synced: Vec<u8>,
    /// From `synced` to `live`.
    changes: Vec<Change>,
    locks: FileLocks,
    memory: SharedMemory,
    handles: u32,
}

/// What a name stands for: nothing where `None`.
#[derive(Debug, Default)]
struct Name {
    synced: Option<FileId>,
    /// Creations and deletions since, in order.
    changes: Vec<Option<FileId>>,
}

impl Name {
    fn live(&self) -> Option<FileId> {
        self.changes.last().copied().unwrap_or(self.synced)
    }

    fn mentions(&self, file: FileId) -> bool {
        self.synced == Some(file) || self.changes.contains(&Some(file))
    }

    fn sync(&mut self) {
        self.synced = self.live();
        self.changes.clear();
    }
}

#[derive(Debug, Default)]
struct State {
    /// How often the power has failed.
    generation: u64,
    names: BTreeMap<String, Name>,
    files: HashMap<FileId, File>,
    last_id: u64,
    /// The power fails at the end of so many more changes and syncs, by that seed.
    armed: Option<(u64, u64)>,
    /// So many more bytes fit; any number where `None`.
    room: Option<usize>,
    syncs: Syncs,
}

/// The disk; clones are the same one.
#[derive(Debug, Clone)]
pub struct Disk {
    state: Arc<Mutex<State>>,
    losses: watch::Sender<u64>,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            losses: watch::Sender::new(0),
        }
    }
}

/// The tests' side: failing, filling, counting.
impl Disk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_while(&self, power: Power) -> Result<MutexGuard<'_, State>, DiskError> {
        let state = self.lock();
        if state.power() == power {
            Ok(state)
        } else {
            Err(DiskError::Dead)
        }
    }

    /// The power fails now. What reaches the disk is decided by the seed alone.
    pub fn power_loss(&self, seed: u64) {
        self.lose(&mut self.lock(), seed);
    }

    /// The power fails at the `changes`-th write, truncation, deletion or sync from now
    /// (1 is the next one), before or after it is done, as the seed decides.
    pub fn fail_after(&self, changes: u64, seed: u64) {
        self.lock().armed = Some((changes.max(1), seed));
    }

    /// Counts the losses; changes when the power fails.
    pub fn losses(&self) -> watch::Receiver<u64> {
        self.losses.subscribe()
    }

    /// The power that is on now.
    pub fn power(&self) -> Power {
        self.lock().power()
    }

    /// Does something only while that power is on; it cannot fail in between.
    pub fn while_on<T>(&self, power: Power, act: impl FnOnce() -> T) -> Option<T> {
        let state = self.lock();
        (state.power() == power).then(act)
    }

    /// Only so many more bytes fit; what is deleted or truncated makes room again.
    pub fn full(&self, room: usize) {
        self.lock().room = Some(room);
    }

    /// Everything fits again.
    pub fn lift_full(&self) {
        self.lock().room = None;
    }

    /// How often what was synced, losses included.
    pub fn syncs(&self) -> Syncs {
        self.lock().syncs
    }

    fn lose(&self, state: &mut State, seed: u64) {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut old = std::mem::take(&mut state.files);
        state.generation += 1;
        state.armed = None;
        state.names.retain(|_, name| {
            let reached = random.random_range(0..=name.changes.len());
            let file = match reached.checked_sub(1) {
                None => name.synced,
                Some(last) => name.changes[last],
            };
            // A file has one name, so it is settled once.
            let Some((id, file)) = file.and_then(|id| Some((id, old.remove(&id)?))) else {
                return false;
            };
            let mut content = file.synced;
            settle(&mut content, &file.changes, &mut random);
            state.files.insert(
                id,
                File {
                    live: content.clone(),
                    synced: content,
                    ..File::default()
                },
            );
            *name = Name {
                synced: Some(id),
                changes: Vec::new(),
            };
            true
        });
        self.losses.send_replace(state.generation);
    }

    /// Does a change, in the middle of which the power may fail.
    fn change<T>(
        &self,
        power: Power,
        act: impl FnOnce(&mut State) -> Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        let mut state = self.lock_while(power)?;
        match &mut state.armed {
            Some((1, seed)) => {
                let seed = *seed;
                if seed.count_ones() % 2 == 0 {
                    // It is done or refused, but nobody will learn which.
                    let _ = act(&mut state);
                }
                self.lose(&mut state, seed);
                Err(DiskError::Dead)
            }
            Some((left, _)) => {
                *left -= 1;
                act(&mut state)
            }
            None => act(&mut state),
        }
    }
}

/// The VFS's side: files by name.
impl Disk {
    /// Opens a file; without a name it is a temporary one. `sync_directory` and
    /// `delete_on_close` as in [`Handle`].
    pub fn open(
        &self,
        power: Power,
        name: Option<&str>,
        create: bool,
        sync_directory: bool,
        delete_on_close: bool,
    ) -> Result<Handle, DiskError> {
        let mut state = self.lock_while(power)?;
        let existing = name.and_then(|name| state.names.get(name)?.live());
        let file = match existing {
            Some(file) => file,
            None if create => {
                state.last_id += 1;
                let id = state.last_id;
                state.files.insert(id, File::default());
                if let Some(name) = name {
                    let name = state.names.entry(name.to_owned()).or_default();
                    name.changes.push(Some(id));
                }
                id
            }
            None => return Err(DiskError::NotFound),
        };
        state.last_id += 1;
        let id = state.last_id;
        state.file(file)?.handles += 1;
        Ok(Handle {
            id,
            file,
            power,
            sync_directory,
            delete_on_close,
        })
    }

    /// Takes a name away; sure only after a sync of the directory.
    pub fn delete(&self, power: Power, name: &str, sync_directory: bool) -> Result<(), DiskError> {
        self.change(power, |state| {
            let entry = state.names.get_mut(name).ok_or(DiskError::NotFound)?;
            let file = entry.live().ok_or(DiskError::NotFound)?;
            entry.changes.push(None);
            if sync_directory {
                state.sync_directory();
            }
            state.forget(file);
            Ok(())
        })
    }

    /// The size of a file in bytes; `None` where there is none.
    pub fn size_of(&self, power: Power, name: &str) -> Result<Option<usize>, DiskError> {
        let state = self.lock_while(power)?;
        let file = state.names.get(name).and_then(Name::live);
        let file = file.and_then(|file| state.files.get(&file));
        Ok(file.map(|file| file.live.len()))
    }
}

/// The VFS's side: open files.
impl Disk {
    /// Looks at an open file; fails when the power has failed since.
    pub fn with<T>(
        &self,
        handle: &Handle,
        act: impl FnOnce(HandleId, &mut FileLocks, &mut SharedMemory) -> T,
    ) -> Result<T, DiskError> {
        let mut state = self.lock();
        let file = state.opened(handle)?;
        Ok(act(handle.id, &mut file.locks, &mut file.memory))
    }

    /// Reads what is there and answers how much; the rest of the buffer is zeros.
    pub fn read(
        &self,
        handle: &Handle,
        offset: usize,
        buffer: &mut [u8],
    ) -> Result<usize, DiskError> {
        let mut state = self.lock();
        let content = &state.opened(handle)?.live;
        let there = content.get(offset..).unwrap_or_default();
        let length = there.len().min(buffer.len());
        buffer[..length].copy_from_slice(&there[..length]);
        buffer[length..].fill(0);
        Ok(length)
    }

    /// Writes bytes.
    pub fn write(&self, handle: &Handle, offset: usize, bytes: &[u8]) -> Result<(), DiskError> {
        self.apply(
            handle,
            Change::Write {
                offset,
                bytes: bytes.to_vec(),
            },
        )
    }

    /// Sets the size in bytes.
    pub fn truncate(&self, handle: &Handle, size: usize) -> Result<(), DiskError> {
        self.apply(handle, Change::Truncate(size))
    }

    fn apply(&self, handle: &Handle, change: Change) -> Result<(), DiskError> {
        self.change(handle.power, |state| {
            let room = state.room;
            let file = state.file(handle.file)?;
            let old = file.live.len();
            let new = match &change {
                Change::Write { offset, bytes } => old.max(offset + bytes.len()),
                Change::Truncate(size) => *size,
            };
            if room.is_some_and(|room| new.saturating_sub(old) > room) {
                return Err(DiskError::Full);
            }
            change.apply(&mut file.live);
            file.changes.push(change);
            state.room = room.map(|room| room + old - new);
            Ok(())
        })
    }

    /// Makes the content, and the name, of a file sure.
    pub fn sync(&self, handle: &mut Handle) -> Result<(), DiskError> {
        let file_id = handle.file;
        let sync_directory = std::mem::take(&mut handle.sync_directory);
        self.change(handle.power, |state| {
            state.syncs.files += 1;
            let file = state.file(file_id)?;
            for change in std::mem::take(&mut file.changes) {
                change.apply(&mut file.synced);
            }
            for name in state.names.values_mut() {
                if name.live() == Some(file_id) {
                    name.sync();
                }
            }
            if sync_directory {
                state.sync_directory();
            }
            Ok(())
        })
    }

    /// The size in bytes.
    pub fn size(&self, handle: &Handle) -> Result<usize, DiskError> {
        Ok(self.lock().opened(handle)?.live.len())
    }

    /// Closes a file; its locks are gone.
    pub fn close(&self, handle: &Handle) {
        let mut state = self.lock();
        let Ok(file) = state.opened(handle) else {
            return;
        };
        file.locks.unlock(handle.id, super::locks::Level::None);
        file.memory.unmap(handle.id);
        file.handles -= 1;
        if handle.delete_on_close {
            for name in state.names.values_mut() {
                if name.live() == Some(handle.file) {
                    name.changes.push(None);
                }
            }
        }
        state.forget(handle.file);
    }
}

impl State {
    fn power(&self) -> Power {
        Power(self.generation)
    }

    fn file(&mut self, file: FileId) -> Result<&mut File, DiskError> {
        self.files.get_mut(&file).ok_or(DiskError::NotFound)
    }

    fn opened(&mut self, handle: &Handle) -> Result<&mut File, DiskError> {
        if self.power() != handle.power {
            return Err(DiskError::Dead);
        }
        self.file(handle.file)
    }

    fn sync_directory(&mut self) {
        self.syncs.directory += 1;
        self.names.values_mut().for_each(Name::sync);
        self.names.retain(|_, name| name.synced.is_some());
        let unnamed: Vec<FileId> = self.files.keys().copied().collect();
        unnamed.into_iter().for_each(|file| self.forget(file));
    }

    /// Drops a file that nobody has open and no name, not even one that may come back,
    /// stands for.
    fn forget(&mut self, file: FileId) {
        let open = self.files.get(&file).is_some_and(|file| file.handles > 0);
        if open || self.names.values().any(|name| name.mentions(file)) {
            return;
        }
        let size = self.files.remove(&file).map_or(0, |file| file.live.len());
        self.room = self.room.map(|room| room + size);
    }
}
