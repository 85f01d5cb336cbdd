//! Locks and shared memory of a file, between the connections of this process.
//!
//! Both follow what SQLite asks of a VFS: a file has the five locks of the rollback
//! journal, and the shared memory of WAL has eight slots, each of which many may share
//! or one may have alone. Nobody waits here: what cannot be had is busy, and SQLite's
//! busy handler asks again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Names an open handle.
pub type HandleId = u64;

/// How a connection holds a file; each includes the ones before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Not at all.
    #[default]
    None,
    /// It reads, beside others.
    Shared,
    /// It will write; others still read.
    Reserved,
    /// It waits for the readers to leave; no new one comes.
    Pending,
    /// It writes, alone.
    Exclusive,
}

impl Level {
    /// SQLite's number of it (`SQLITE_LOCK_*`).
    pub fn from_number(number: i32) -> Self {
        match number {
            i32::MIN..=0 => Self::None,
            1 => Self::Shared,
            2 => Self::Reserved,
            3 => Self::Pending,
            4.. => Self::Exclusive,
        }
    }
}

/// It cannot be had now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

/// Who holds a file, and how.
#[derive(Debug, Default)]
pub struct FileLocks(HashMap<HandleId, Level>);

impl FileLocks {
    fn of(&self, handle: HandleId) -> Level {
        self.0.get(&handle).copied().unwrap_or_default()
    }

    fn others(&self, handle: HandleId) -> Level {
        self.0
            .iter()
            .filter(|(other, _)| **other != handle)
            .map(|(_, level)| *level)
            .max()
            .unwrap_or_default()
    }

    /// Raises a handle's lock.
    pub fn lock(&mut self, handle: HandleId, level: Level) -> Result<(), Busy> {
        if self.of(handle) >= level {
            return Ok(());
        }
        let others = self.others(handle);
        let free = match level {
            Level::None => true,
            Level::Shared => others < Level::Pending,
            Level::Reserved | Level::Pending => others < Level::Reserved,
            Level::Exclusive => {
                if others < Level::Reserved {
                    // Kept although readers are still there, so that they end some time.
                    self.0.insert(handle, Level::Pending);
                }
                others == Level::None
            }
        };
        if !free {
            return Err(Busy);
        }
        self.0.insert(handle, level);
        Ok(())
    }

    /// Lowers a handle's lock.
    pub fn unlock(&mut self, handle: HandleId, level: Level) {
        if level == Level::None {
            self.0.remove(&handle);
        } else if self.of(handle) > level {
            self.0.insert(handle, level);
        }
    }

    /// Whether anyone will write or does.
    pub fn reserved(&self) -> bool {
        self.0.values().any(|level| *level >= Level::Reserved)
    }
}

/// One region of shared memory. SQLite reads and writes it through the pointer, from
/// many threads at once, which is why it is made of atomics.
pub type Region = Arc<[AtomicU64]>;

/// The shared memory of a file.
#[derive(Debug, Default)]
pub struct SharedMemory {
    regions: Vec<Region>,
    /// Handles that have it mapped, with the slots that each shares and has alone.
    users: HashMap<HandleId, Slots>,
}

/// Slots as bits.
#[derive(Debug, Clone, Copy, Default)]
struct Slots {
    shared: u32,
    exclusive: u32,
}

impl SharedMemory {
    /// The region of that index (of `size` bytes); `None` where it is not there and is
    /// not to be made.
    pub fn map(
        &mut self,
        handle: HandleId,
        index: usize,
        size: usize,
        extend: bool,
    ) -> Option<Region> {
        self.users.entry(handle).or_default();
        while extend && self.regions.len() <= index {
            let words = size.div_ceil(size_of::<AtomicU64>());
            self.regions
                .push((0..words).map(|_| AtomicU64::new(0)).collect());
        }
        self.regions.get(index).map(Arc::clone)
    }

    /// Takes `count` slots from `first`, all or none.
    pub fn lock(
        &mut self,
        handle: HandleId,
        first: u32,
        count: u32,
        exclusive: bool,
    ) -> Result<(), Busy> {
        let mask = mask(first, count);
        let taken = self
            .users
            .iter()
            .filter(|(other, _)| **other != handle)
            .any(|(_, slots)| {
                slots.exclusive & mask != 0 || (exclusive && slots.shared & mask != 0)
            });
        if taken {
            return Err(Busy);
        }
        let own = self.users.entry(handle).or_default();
        if exclusive {
            own.exclusive |= mask;
        } else {
            own.shared |= mask;
        }
        Ok(())
    }

    /// Gives slots back.
    pub fn unlock(&mut self, handle: HandleId, first: u32, count: u32) {
        let mask = mask(first, count);
        if let Some(own) = self.users.get_mut(&handle) {
            own.shared &= !mask;
            own.exclusive &= !mask;
        }
    }

    /// Forgets a handle; with the last one the memory is gone, as it is in a file that
    /// nobody has open.
    pub fn unmap(&mut self, handle: HandleId) {
        self.users.remove(&handle);
        if self.users.is_empty() {
            self.regions.clear();
        }
    }
}

fn mask(first: u32, count: u32) -> u32 {
    ((1 << count) - 1) << first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_waits_for_readers_and_keeps_new_ones_out() {
        let mut locks = FileLocks::default();
        locks.lock(1, Level::Shared).unwrap();
        locks.lock(2, Level::Shared).unwrap();
        locks.lock(2, Level::Reserved).unwrap();
        assert_eq!(locks.lock(1, Level::Reserved), Err(Busy));
        assert!(locks.reserved());
        assert_eq!(locks.lock(2, Level::Exclusive), Err(Busy));
        assert_eq!(
            locks.lock(3, Level::Shared),
            Err(Busy),
            "one waits to write"
        );
        locks.unlock(1, Level::None);
        locks.lock(2, Level::Exclusive).unwrap();
        locks.unlock(2, Level::Shared);
        locks.lock(3, Level::Shared).unwrap();
    }

    #[test]
    fn slots_are_shared_by_many_or_held_by_one() {
        let mut memory = SharedMemory::default();
        memory.lock(1, 3, 1, false).unwrap();
        memory.lock(2, 3, 1, false).unwrap();
        assert_eq!(memory.lock(3, 3, 5, true), Err(Busy), "all or none");
        memory.lock(3, 4, 4, true).unwrap();
        assert_eq!(memory.lock(1, 7, 1, false), Err(Busy));
        memory.unlock(2, 3, 1);
        memory.lock(1, 3, 1, true).unwrap();
    }

    #[test]
    fn memory_is_one_for_all_until_the_last_leaves() {
        let mut memory = SharedMemory::default();
        assert!(memory.map(1, 0, 32_768, false).is_none());
        let first = memory.map(1, 0, 32_768, true).unwrap();
        let second = memory.map(2, 0, 32_768, false).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        memory.unmap(1);
        memory.unmap(2);
        assert!(memory.map(1, 0, 32_768, false).is_none());
    }
}
