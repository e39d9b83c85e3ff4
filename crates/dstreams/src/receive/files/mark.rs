//! [`FileOffset`]: how far a file was read, and which file that was: what a restart goes on with.
//!
//! A name says little: a file may be another by then, or have another name. So a file that is read has a mark with a hash
//! of what was read of it, and one that is done has a mark with what stays of a file when it is renamed. Either is the
//! one number that a source may leave with its records, and only grows.

use std::fs::{DirEntry, Metadata};
use std::time::{SystemTime, UNIX_EPOCH};

use xxhash_rust::xxh3::xxh3_64;

/// A file that is done. Alone, of one that nothing more is known of.
const DONE: u64 = 0b11 << 62;
/// One that is read, with a hash.
const BEGUN: u64 = 0b10 << 62;
/// Bits of the hash; the lines are above them.
const HASH: u32 = 24;
/// What marks say of files that are done and have no identity, also those of former versions.
const ALL: u64 = u64::MAX;

/// How far a file was read, and which file that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileOffset {
    /// So many lines (rows, of Parquet) were read. The hash is of their bytes (of the end of the file, of Parquet); former
    /// versions had none.
    Begun { lines: u64, hash: Option<u32> },
    /// All of it was. By its identity, if it has one, it is known under other names.
    Done { identity: Option<Identity> },
}

impl FileOffset {
    /// Nothing was read.
    pub const NONE: FileOffset = FileOffset::Begun {
        lines: 0,
        hash: None,
    };

    /// So many lines were, whose bytes have this hash.
    pub fn begun(lines: u64, hash: u64) -> Self {
        let hash = Some((hash >> (64 - HASH)) as u32);
        FileOffset::Begun { lines, hash }
    }

    /// Of a file that is done, if it has one.
    pub fn identity(self) -> Option<Identity> {
        match self {
            FileOffset::Done { identity } => identity,
            FileOffset::Begun { .. } => None,
        }
    }
}

impl From<u64> for FileOffset {
    fn from(number: u64) -> Self {
        match number & DONE {
            DONE => FileOffset::Done {
                identity: (number != ALL).then_some(Identity(number)),
            },
            BEGUN => FileOffset::Begun {
                lines: (number & !DONE) >> HASH,
                hash: Some(number as u32 & ((1 << HASH) - 1)),
            },
            _ => FileOffset::Begun {
                lines: number,
                hash: None,
            },
        }
    }
}

impl From<FileOffset> for u64 {
    fn from(mark: FileOffset) -> u64 {
        match mark {
            FileOffset::Done { identity } => identity.map_or(ALL, |identity| identity.0),
            // More lines than any file has are the most that there is room for.
            FileOffset::Begun { lines, hash } => match hash {
                Some(hash) => BEGUN | lines.min((1 << (62 - HASH)) - 1) << HASH | u64::from(hash),
                None => lines,
            },
        }
    }
}

/// What stays of a file when it is renamed or written to, and no other file has: its number, and when it came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity(u64);

impl Identity {
    /// Numbers are given again, so one without a time of birth is known by its last change and its length: when it was
    /// written to it is taken for another.
    pub fn of(file: &Metadata) -> Self {
        let since = |at: SystemTime| at.duration_since(UNIX_EPOCH).ok();
        let mut bytes = number(file).to_le_bytes().to_vec();
        match file.created().ok().and_then(since) {
            Some(born) => bytes.extend(born.as_nanos().to_le_bytes()),
            None => {
                let changed = file.modified().ok().and_then(since).unwrap_or_default();
                bytes.extend(changed.as_nanos().to_le_bytes());
                bytes.extend(file.len().to_le_bytes());
            }
        }
        // All ones say that there is none.
        Identity((xxh3_64(&bytes) | DONE) & !1)
    }

    #[cfg(test)]
    pub fn of_number(number: u64) -> Self {
        Identity((xxh3_64(&number.to_le_bytes()) | DONE) & !1)
    }
}

/// The number of a file in its file system.
#[cfg(unix)]
pub(super) fn number(file: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(file)
}
/// The same, as a directory has it.
#[cfg(unix)]
pub(super) fn number_of(entry: &DirEntry) -> u64 {
    std::os::unix::fs::DirEntryExt::ino(entry)
}
#[cfg(not(unix))]
pub(super) fn number(_file: &Metadata) -> u64 {
    0
}
#[cfg(not(unix))]
pub(super) fn number_of(_entry: &DirEntry) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn marks_come_back_and_grow(lines in 0..1u64 << 38, more in 1..1000u64, hashes in any::<[u64; 2]>(), born: u64) {
            let [before, after] = [(lines, hashes[0]), (lines + more, hashes[1])];
            let [before, after] = [before, after].map(|(lines, hash)| FileOffset::begun(lines, hash));
            let done = FileOffset::Done { identity: Some(Identity((born | DONE) & !1)) };
            let none = FileOffset::Done { identity: None };
            let old = FileOffset::Begun { lines, hash: None };
            for mark in [before, done, none, old] {
                prop_assert_eq!(FileOffset::from(u64::from(mark)), mark);
            }
            let numbers = [old, before, after, done].map(u64::from);
            prop_assert!(numbers.is_sorted(), "{:?}", numbers);
        }
    }

    /// As former versions wrote them.
    #[test]
    fn marks_without_a_hash_are_read() {
        assert_eq!(FileOffset::from(0), FileOffset::NONE);
        assert_eq!(
            FileOffset::from(7),
            FileOffset::Begun {
                lines: 7,
                hash: None
            }
        );
        assert_eq!(
            FileOffset::from(u64::MAX),
            FileOffset::Done { identity: None }
        );
    }
}
