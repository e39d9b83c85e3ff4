//! [`FileOffset`]: how far which file was read, so that a restart can resume there.
//!
//! A name is not enough: meanwhile the name may belong to another file, or the file may have another name. So the
//! offset of a file that is being read contains a hash of the bytes read, and the offset of a finished file
//! contains its identity, which survives a rename. Either is packed into the one number that a source may attach to
//! its records, and only grows.

use std::fs::{DirEntry, Metadata};
use std::time::{SystemTime, UNIX_EPOCH};

use xxhash_rust::xxh3::xxh3_64;

/// A finished file. Alone, one without any other information.
const DONE_TAG: u64 = 0b11 << 62;
/// A file that is being read, with a hash.
const BEGUN_TAG: u64 = 0b10 << 62;
/// Bits of the hash; the lines are in the bits above.
const HASH_BITS: u32 = 24;
/// The offset of finished files without an identity; older versions wrote it for all.
const DONE_UNKNOWN: u64 = u64::MAX;

/// Which file was read, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileOffset {
    /// This many lines (rows, of Parquet) were read. The hash is of their bytes (of the end of the file, of
    /// Parquet); older versions stored none.
    Begun { lines: u64, hash: Option<u32> },
    /// All of it was read. With its identity, if it has one, it is recognised under other names.
    Done { identity: Option<Identity> },
}

impl FileOffset {
    /// Nothing was read.
    pub const NONE: FileOffset = FileOffset::Begun {
        lines: 0,
        hash: None,
    };

    /// `lines` lines were read, whose bytes have this hash.
    pub fn begun(lines: u64, hash: u64) -> Self {
        let hash = Some((hash >> (64 - HASH_BITS)) as u32);
        FileOffset::Begun { lines, hash }
    }

    /// The lines, or rows, that were read of a file that is not finished.
    pub fn records(self) -> Option<u64> {
        match self {
            FileOffset::Begun { lines, .. } => Some(lines),
            FileOffset::Done { .. } => None,
        }
    }

    /// The identity of a finished file, if it has one.
    pub fn identity(self) -> Option<Identity> {
        match self {
            FileOffset::Done { identity } => identity,
            FileOffset::Begun { .. } => None,
        }
    }
}

impl From<u64> for FileOffset {
    fn from(number: u64) -> Self {
        match number & DONE_TAG {
            DONE_TAG => FileOffset::Done {
                identity: (number != DONE_UNKNOWN).then_some(Identity(number)),
            },
            BEGUN_TAG => FileOffset::Begun {
                lines: (number & !DONE_TAG) >> HASH_BITS,
                hash: Some(number as u32 & ((1 << HASH_BITS) - 1)),
            },
            _ => FileOffset::Begun {
                lines: number,
                hash: None,
            },
        }
    }
}

impl From<FileOffset> for u64 {
    fn from(offset: FileOffset) -> u64 {
        match offset {
            FileOffset::Done { identity } => identity.map_or(DONE_UNKNOWN, |identity| identity.0),
            // Line numbers that do not fit are clamped; no file has so many.
            FileOffset::Begun { lines, hash } => match hash {
                Some(hash) => {
                    BEGUN_TAG
                        | lines.min((1 << (62 - HASH_BITS)) - 1) << HASH_BITS
                        | u64::from(hash)
                }
                None => lines,
            },
        }
    }
}

/// The inode number and birth time of a file: unique, and unchanged when it is renamed or written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity(u64);

impl Identity {
    /// Inode numbers are reused, so a file without a birth time is identified by its last change and its length:
    /// after a write it counts as another file.
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
        // All ones stand for no identity.
        Identity((xxh3_64(&bytes) | DONE_TAG) & !1)
    }

    #[cfg(test)]
    pub fn of_number(number: u64) -> Self {
        Identity((xxh3_64(&number.to_le_bytes()) | DONE_TAG) & !1)
    }
}

/// The inode number of a file.
#[cfg(unix)]
pub(super) fn number(file: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(file)
}
/// The inode number from a directory entry.
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
            let done = FileOffset::Done { identity: Some(Identity((born | DONE_TAG) & !1)) };
            let none = FileOffset::Done { identity: None };
            let old = FileOffset::Begun { lines, hash: None };
            for offset in [before, done, none, old] {
                prop_assert_eq!(FileOffset::from(u64::from(offset)), offset);
            }
            let numbers = [old, before, after, done].map(u64::from);
            prop_assert!(numbers.is_sorted(), "{:?}", numbers);
        }
    }

    /// As older versions wrote them.
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
