//! What a disk may hold of one file after the power failed.
//!
//! Everything written before the last sync is there. Of what was written since, a
//! disk promises nothing: its cache may have written none of it, all of it, the first
//! so many writes (and a part of the next), or any of them in any order, each torn at
//! sector borders. A file may also have grown before its content was written, and then
//! the gap holds whatever the disk held there.
//!
//! One promise is kept, because the VFS reports it (`SQLITE_IOCAP_POWERSAFE_OVERWRITE`,
//! as SQLite's own for Unix does): a write changes no byte outside its range.

use rand::Rng as _;
use rand::rngs::SmallRng;

/// Bytes that are written whole or not at all.
pub const SECTOR: usize = 512;

/// A change since the last sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Bytes at an offset.
    Write {
        /// Where, in bytes.
        offset: usize,
        /// What.
        bytes: Vec<u8>,
    },
    /// The file's new size in bytes.
    Truncate(usize),
}

impl Change {
    /// Makes the change.
    pub fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => write_at(content, *offset, bytes),
            Self::Truncate(size) => content.resize(*size, 0),
        }
    }
}

/// How the disk treated the changes of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// None reached it.
    Dropped,
    /// All did.
    Kept,
    /// The first ones did, and a part of the next.
    Prefix,
    /// Any of them, and any sectors of them, did.
    Scattered,
}

/// Turns what was synced into what the disk holds after the loss.
pub fn settle(content: &mut Vec<u8>, changes: &[Change], random: &mut SmallRng) {
    let fate = match random.random_range(0..8) {
        0 | 1 => Fate::Dropped,
        2 => Fate::Kept,
        3 | 4 => Fate::Prefix,
        _ => Fate::Scattered,
    };
    match fate {
        Fate::Dropped => {}
        Fate::Kept => changes.iter().for_each(|change| change.apply(content)),
        Fate::Prefix => {
            let whole = random.random_range(0..=changes.len());
            let (whole, rest) = changes.split_at(whole);
            whole.iter().for_each(|change| change.apply(content));
            if let Some(change) = rest.first() {
                tear(content, change, random);
            }
        }
        Fate::Scattered => {
            for change in changes {
                match random.random_range(0..4) {
                    0 | 1 => change.apply(content),
                    2 => tear(content, change, random),
                    _ => {}
                }
            }
        }
    }
}

/// Applies some sectors of a write. A truncation is whole or is not.
fn tear(content: &mut Vec<u8>, change: &Change, random: &mut SmallRng) {
    let Change::Write { offset, bytes } = change else {
        if random.random() {
            change.apply(content);
        }
        return;
    };
    let end = offset + bytes.len();
    if content.len() < end && random.random() {
        grow_with_rubbish(content, end, random);
    }
    let mut from = *offset;
    while from < end {
        // Sectors are those of the file, not of the write.
        let to = ((from / SECTOR + 1) * SECTOR).min(end);
        if random.random() {
            if content.len() < from {
                grow_with_rubbish(content, from, random);
            }
            write_at(content, from, &bytes[from - offset..to - offset]);
        }
        from = to;
    }
}

/// Grows a file by zeros, or by what the disk held there before.
fn grow_with_rubbish(content: &mut Vec<u8>, size: usize, random: &mut SmallRng) {
    let old = content.len();
    content.resize(size, 0);
    if random.random() {
        random.fill(&mut content[old..]);
    }
}

fn write_at(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng as _;

    use super::*;

    fn write(offset: usize, byte: u8, length: usize) -> Change {
        Change::Write {
            offset,
            bytes: vec![byte; length],
        }
    }

    fn outcomes(synced: &[u8], changes: &[Change]) -> BTreeSet<Vec<u8>> {
        (0..2_000)
            .map(|seed| {
                let mut content = synced.to_vec();
                settle(&mut content, changes, &mut SmallRng::seed_from_u64(seed));
                content
            })
            .collect()
    }

    #[test]
    fn without_changes_nothing_changes() {
        assert_eq!(
            outcomes(b"synced", &[]),
            BTreeSet::from([b"synced".to_vec()])
        );
    }

    #[test]
    fn every_combination_of_sectors_is_reached_and_no_other() {
        let synced = vec![0; 2 * SECTOR];
        let seen = outcomes(&synced, &[write(0, 1, 2 * SECTOR)]);
        let expected = [(0, 0), (0, 1), (1, 0), (1, 1)]
            .map(|(first, second)| [[first; SECTOR], [second; SECTOR]].concat());
        assert_eq!(seen, BTreeSet::from(expected));
    }

    #[test]
    fn later_writes_may_arrive_without_earlier_ones() {
        let seen = outcomes(&[0; 2], &[write(0, 1, 1), write(1, 1, 1)]);
        assert_eq!(
            seen,
            BTreeSet::from([vec![0, 0], vec![0, 1], vec![1, 0], vec![1, 1]])
        );
    }

    #[test]
    fn a_write_changes_no_byte_outside_its_range() {
        let synced = vec![7; 3 * SECTOR];
        for content in outcomes(&synced, &[write(100, 1, SECTOR)]) {
            assert_eq!(content.len(), synced.len());
            assert!(content[..100].iter().all(|byte| *byte == 7));
            assert!(content[100 + SECTOR..].iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn a_truncation_may_be_lost() {
        let sizes: BTreeSet<usize> = outcomes(&[1; 8], &[Change::Truncate(3)])
            .iter()
            .map(Vec::len)
            .collect();
        assert_eq!(sizes, BTreeSet::from([3, 8]));
    }

    #[test]
    fn a_file_may_grow_before_its_content_arrives() {
        let seen = outcomes(&[], &[write(0, 1, SECTOR)]);
        assert!(
            seen.contains(&vec![0; SECTOR]),
            "zeros in place of the write"
        );
        assert!(
            seen.iter()
                .any(|content| content.len() == SECTOR && content.iter().any(|byte| *byte > 1)),
            "rubbish in place of the write"
        );
    }
}
