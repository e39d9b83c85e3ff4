//! Reading a journal back: after it was closed, cut anywhere, or had any byte changed.

use std::path::{Path, PathBuf};

use dstreams_control::{BatchTime, BlockId, ReceiverId};
use proptest::prelude::*;
use tempfile::tempdir;

use super::*;
use crate::encoding::ByteChunks;
use crate::error::Error;

mod ends;
mod files;
mod formats;
mod leases;

fn entry() -> impl Strategy<Value = JournalEntry> {
    let id = (any::<u64>(), 0..9u64).prop_map(|(receiver, seq)| BlockId {
        receiver: ReceiverId(receiver),
        seq,
    });
    let ids = prop::collection::vec(id, 0..4);
    let bytes = prop::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        any::<u64>().prop_map(|incarnation| JournalEntry::Opened { incarnation }),
        (0..3u32, bytes).prop_map(|(input, bytes)| JournalEntry::Block {
            input,
            bytes: bytes.into()
        }),
        (any::<u64>(), prop::option::of(any::<u64>()), ids.clone()).prop_map(
            |(batch, after, blocks)| JournalEntry::Cut {
                batch: BatchTime(batch),
                after: after.map(BatchTime),
                blocks,
            }
        ),
        (any::<u64>(), ids).prop_map(|(receiver, blocks)| JournalEntry::ReceiverLost {
            receiver: ReceiverId(receiver),
            blocks,
        }),
        any::<u64>().prop_map(|batch| JournalEntry::SetAside {
            batch: BatchTime(batch)
        }),
        any::<u64>().prop_map(|batch| JournalEntry::Committing {
            batch: BatchTime(batch)
        }),
        any::<u64>().prop_map(|batch| JournalEntry::Committed {
            batch: BatchTime(batch)
        }),
    ]
}

fn on<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}

/// Appends the entries, group by group; each group is synced before the next.
fn write(dir: &Path, groups: &[Vec<JournalEntry>]) {
    let journal = Journal::open(dir, read(dir).unwrap().next(), None, None).unwrap();
    for group in groups {
        let tickets: Vec<_> = group
            .iter()
            .map(|entry| journal.append(entry.clone()))
            .collect();
        if let Some(last) = tickets.last() {
            on(journal.synced(*last)).unwrap();
        }
    }
}

fn entries(dir: &Path) -> Result<Vec<JournalEntry>, Error> {
    let found = read(dir)?;
    Ok(found.entries.into_iter().map(|(_, entry)| entry).collect())
}

fn last_file(dir: &Path) -> PathBuf {
    let (number, _) = read(dir).unwrap().last.unwrap();
    dir.join(segment::name(number))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn appended_entries_are_read(sessions in prop::collection::vec(
        prop::collection::vec(prop::collection::vec(entry(), 0..4), 0..4), 0..4,
    )) {
        let dir = tempdir().unwrap();
        for groups in &sessions {
            write(dir.path(), groups);
        }
        prop_assert_eq!(entries(dir.path()).unwrap(), sessions.concat().concat());
    }

    /// A flipped byte is found, unless no entry depends on it.
    #[test]
    fn a_changed_byte_is_found_or_harmless(
        groups in prop::collection::vec(prop::collection::vec(entry(), 1..4), 1..4),
        flip in 1..=255u8,
    ) {
        let dir = tempdir().unwrap();
        write(dir.path(), &groups);
        let path = last_file(dir.path());
        let bytes = std::fs::read(&path).unwrap();
        let mut found = 0;
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            std::fs::write(&path, &changed).unwrap();
            match entries(dir.path()) {
                Ok(read) => prop_assert_eq!(read, groups.concat(), "byte {} of {}", at, bytes.len()),
                Err(error) => {
                    let text = error.to_string();
                    prop_assert!(text.contains("journal-") && text.contains("at byte"), "{}", text);
                    found += 1;
                }
            }
        }
        prop_assert!(found > 0);
    }

    /// Pages that were lost, written twice or misplaced: no wrong entry is read, and one is missing only where the
    /// file seems to have been longer than what was synced.
    #[test]
    fn damaged_pages_are_found_or_harmless(
        groups in prop::collection::vec(prop::collection::vec(entry(), 1..4), 1..6),
        damages in prop::collection::vec((0..5u8, any::<[prop::sample::Index; 2]>(), 1..200usize), 1..4),
    ) {
        let dir = tempdir().unwrap();
        write(dir.path(), &groups);
        let path = last_file(dir.path());
        let written = std::fs::read(&path).unwrap();
        let mut bytes = written.clone();
        for (kind, places, length) in damages {
            let [from, to] = places.map(|place| place.index(bytes.len()));
            let page = from..bytes.len().min(from + length);
            match kind {
                0 => bytes[page].fill(0),
                1 => bytes[from..].fill(0),
                2 => {
                    let moved = bytes[page].to_vec();
                    let to = to.min(bytes.len() - moved.len());
                    bytes[to..to + moved.len()].copy_from_slice(&moved);
                }
                3 => {
                    let again = bytes[page].to_vec();
                    bytes.splice(to..to, again);
                }
                _ => bytes.truncate(from.max(1)),
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        // The entry after the last sync.
        let end = written.len() - 32..;
        let is_end_there = bytes.len() == written.len() && bytes[end.clone()] == written[end];
        match entries(dir.path()) {
            Ok(read) if is_end_there => prop_assert_eq!(read, groups.concat()),
            Ok(read) => prop_assert!(groups.concat().starts_with(&read)),
            Err(error) => {
                let text = error.to_string();
                prop_assert!(text.contains("journal-") && text.contains("at byte"), "{}", text);
            }
        }
    }

    /// A file that ends early keeps its first entries, and the journal resumes after them.
    #[test]
    fn a_torn_end_is_cut(
        groups in prop::collection::vec(prop::collection::vec(entry(), 1..4), 1..4),
        cut in 0..1000usize,
    ) {
        let dir = tempdir().unwrap();
        write(dir.path(), &groups);
        let path = last_file(dir.path());
        let length = std::fs::metadata(&path).unwrap().len() as usize;
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len((length - cut % length) as u64).unwrap();
        let kept = entries(dir.path()).unwrap();
        prop_assert!(groups.concat().starts_with(&kept));
        let more = vec![JournalEntry::Committed { batch: BatchTime(7) }];
        write(dir.path(), std::slice::from_ref(&more));
        prop_assert_eq!(entries(dir.path()).unwrap(), [kept, more].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    /// Blocks that are written in several runs, some of them directly.
    #[test]
    fn large_blocks_are_read(
        groups in prop::collection::vec(prop::collection::vec((any::<u8>(), 0..1_500_000usize), 1..3), 1..4),
    ) {
        let dir = tempdir().unwrap();
        let block = |(salt, length): &(u8, usize)| {
            let bytes = (0..*length).map(|at| (at / 7) as u8 ^ salt).collect::<Vec<u8>>();
            let (first, rest) = bytes.split_at(length / 3);
            let mut pieces = ByteChunks::from(first.to_vec());
            pieces.append(rest.to_vec().into());
            JournalEntry::Block { input: 1, bytes: pieces }
        };
        let groups: Vec<Vec<_>> = groups.iter().map(|group| group.iter().map(block).collect()).collect();
        write(dir.path(), &groups);
        prop_assert_eq!(entries(dir.path()).unwrap(), groups.concat());
    }
}

fn committed(batch: u64) -> JournalEntry {
    JournalEntry::Committed {
        batch: BatchTime(batch),
    }
}

/// Large enough that the next process begins another file.
fn large(input: u32) -> JournalEntry {
    JournalEntry::Block {
        input,
        bytes: vec![7; 1 << 20].into(),
    }
}

fn opening(incarnation: u64) -> Opening {
    Opening {
        incarnation,
        directory: "a random name".into(),
        interval_ms: 100,
        inputs: vec!["lines [value]".into()],
        checkpoints: "file:///there".into(),
        checkpoint: None,
        times: Vec::new(),
    }
}
