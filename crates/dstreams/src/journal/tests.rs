//! Reading a journal back: after it was closed, cut anywhere, or had any byte changed.

use std::path::{Path, PathBuf};

use dstreams_control::{BatchTime, BlockId, ReceiverId};
use proptest::prelude::*;
use tempfile::tempdir;

use super::*;
use crate::encoding::ByteChunks;
use crate::error::Error;

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
        (any::<u64>(), ids.clone()).prop_map(|(batch, blocks)| JournalEntry::Cut {
            batch: BatchTime(batch),
            blocks,
        }),
        (any::<u64>(), ids).prop_map(|(receiver, blocks)| JournalEntry::Gone {
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

#[test]
fn short_lived_processes_do_not_leave_a_file_each() {
    let dir = tempdir().unwrap();
    write(dir.path(), &[vec![large(1)]]);
    std::fs::write(
        dir.path().join(".journal-0000000002.log.tmp"),
        "of one that was killed",
    )
    .unwrap();
    let mut all = vec![large(1)];
    for number in 0..20 {
        let found = read(dir.path()).unwrap();
        let journal = Journal::open(dir.path(), found.next(), Some(opening(number)), None).unwrap();
        all.retain(|entry| !matches!(entry, JournalEntry::Opening(_)));
        all.insert(1, JournalEntry::Opening(Box::new(opening(number))));
        if number % 4 == 1 {
            on(journal.synced(journal.append(committed(number)))).unwrap();
            all.push(committed(number));
        }
        drop(journal);
        assert_eq!(entries(dir.path()).unwrap(), all);
        let files = super::read::files(dir.path()).unwrap();
        assert_eq!(files.len(), 2, "{files:?}");
    }
}

/// Also when nothing else was written since the last call.
#[test]
fn a_file_names_the_checkpoint_that_precedes_it() {
    let dir = tempdir().unwrap();
    let first = read(dir.path()).unwrap().next();
    let journal = Journal::open(dir.path(), first, Some(opening(0)), None).unwrap();
    for checkpoint in 1..4 {
        journal.release_before(None, Some(checkpoint));
        on(journal.synced(journal.append(committed(checkpoint)))).unwrap();
        let found = read(dir.path()).unwrap();
        assert_eq!(found.opening().unwrap().checkpoint, Some(checkpoint));
        assert_eq!(found.entries.len(), 2, "{found:?}");
    }
}

#[test]
fn unneeded_files_are_removed() {
    let dir = tempdir().unwrap();
    write(dir.path(), &[vec![large(1)]]);
    let journal = Journal::open(dir.path(), read(dir.path()).unwrap().next(), None, None).unwrap();
    let two = journal.append(committed(2));
    journal.release_before(Some(Ticket::EARLIER), None);
    on(journal.synced(two)).unwrap();
    assert_eq!(entries(dir.path()).unwrap(), [large(1), committed(2)]);
    journal.release_before(Some(two), None);
    let three = journal.append(committed(3));
    on(journal.synced(three)).unwrap();
    assert_eq!(entries(dir.path()).unwrap(), [committed(2), committed(3)]);
    journal.release_before(None, None);
    on(journal.synced(journal.append(committed(4)))).unwrap();
    assert_eq!(entries(dir.path()).unwrap(), [committed(4)]);
}

#[test]
fn a_file_that_is_missing_or_shortened_in_the_middle_is_found() {
    for remove in [true, false] {
        let dir = tempdir().unwrap();
        for batch in 1..4 {
            write(dir.path(), &[vec![large(batch)]]);
        }
        let path = dir.path().join(segment::name(2));
        if remove {
            std::fs::remove_file(&path).unwrap();
        } else {
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_len(segment::HEADER_BYTES).unwrap();
        }
        let error = entries(dir.path()).unwrap_err().to_string();
        assert!(error.contains("journal-0000000003.log"), "{error}");
    }
}

#[test]
fn a_failed_write_ends_the_journal() {
    let dir = tempdir().unwrap();
    let journal = Journal::open(dir.path(), NextSegment::default(), None, None).unwrap();
    on(journal.synced(journal.append(committed(1)))).unwrap();
    // The next file cannot be created: its directory is gone.
    std::fs::remove_dir_all(dir.path()).unwrap();
    journal.release_before(None, None);
    for batch in 2..4 {
        let after = on(journal.synced(journal.append(committed(batch))));
        let is_known = matches!(&after, Err(Error::File { action: "make", .. }));
        assert!(is_known, "{after:?}");
    }
}

/// The old contents do not matter to the process that takes the directory.
#[test]
fn a_damaged_lock_is_rewritten() {
    let dir = tempdir().unwrap();
    let longer = [b'x'; 1000];
    for damaged in [&longer[..], b"", b"\xff\xfe", &[0; 32]] {
        std::fs::write(dir.path().join("lock"), damaged).unwrap();
        let lock = DirLock::take(dir.path()).unwrap();
        lock.owner().check().unwrap();
        assert_eq!(&Owner::of(dir.path()).unwrap(), lock.owner());
    }
}

#[test]
fn two_processes_do_not_share_a_directory() {
    let dir = tempdir().unwrap();
    let held = DirLock::take(dir.path()).unwrap();
    let error = DirLock::take(dir.path()).err().unwrap().to_string();
    assert!(error.contains("another process"), "{error}");
    drop(held);
    DirLock::take(dir.path()).unwrap();
}

/// Bytes written by earlier versions of this code: they must stay readable forever.
#[test]
fn old_bytes_are_read() {
    let files: [&[u8]; 5] = [
        include_bytes!("fixtures/journal-1.log"),
        include_bytes!("fixtures/journal-1-gone.log"),
        include_bytes!("fixtures/journal-1-block.log"),
        include_bytes!("fixtures/journal-1-opening.log"),
        include_bytes!("fixtures/journal-1-wide.log"),
    ];
    let expected = [
        fixture(),
        gone_fixture(),
        block_fixture(),
        vec![JournalEntry::Opening(Box::new(opening(7)))],
        wide_fixture(),
    ];
    for (bytes, expected) in files.into_iter().zip(expected) {
        let dir = tempdir().unwrap();
        std::fs::write(dir.path().join(segment::name(1)), bytes).unwrap();
        assert_eq!(entries(dir.path()).unwrap(), expected);
    }
}

const BLOCK: BlockId = BlockId {
    receiver: ReceiverId(3),
    seq: 5,
};

/// The first kinds of entries.
fn fixture() -> Vec<JournalEntry> {
    vec![
        JournalEntry::Opened { incarnation: 2 },
        JournalEntry::SealedBlock {
            input: 1,
            bytes: b"some block".to_vec().into(),
        },
        JournalEntry::Cut {
            batch: BatchTime(1_000),
            blocks: vec![BLOCK],
        },
        committed(1_000),
    ]
}

/// A kind added later.
fn block_fixture() -> Vec<JournalEntry> {
    vec![JournalEntry::Block {
        input: 1,
        bytes: b"some block".to_vec().into(),
    }]
}

/// Receivers of more than 32 bits.
fn wide_fixture() -> Vec<JournalEntry> {
    let receiver = ReceiverId(ReceiverId::first_of(70_000).0 + 3);
    let blocks = vec![BLOCK, BlockId { receiver, seq: 5 }];
    vec![
        JournalEntry::Cut {
            batch: BatchTime(1_000),
            blocks: blocks.clone(),
        },
        JournalEntry::Gone { receiver, blocks },
    ]
}

/// A kind added later.
fn gone_fixture() -> Vec<JournalEntry> {
    let receiver = BLOCK.receiver;
    let blocks = vec![BLOCK];
    vec![
        JournalEntry::Gone { receiver, blocks },
        JournalEntry::Gone {
            receiver,
            blocks: vec![],
        },
    ]
}

/// Writes the fixture of the newest format; its name says which.
#[test]
#[ignore = "writes a fixture"]
fn write_fixture() {
    let dir = tempdir().unwrap();
    write(dir.path(), &[wide_fixture()]);
    let to = "src/journal/fixtures/journal-1-wide.log";
    std::fs::copy(last_file(dir.path()), to).unwrap();
}

/// The process that takes the directory away reads everything acknowledged; nothing is acknowledged later.
#[test]
fn a_journal_that_is_taken_away_fails() {
    let dir = tempdir().unwrap();
    let (theirs, taken) = (dir.path().join("theirs"), dir.path().join("taken"));
    let journal = Journal::fenced(&theirs, None).unwrap();
    let entry = |incarnation| JournalEntry::Opened { incarnation };
    on(journal.synced(journal.append(entry(1)))).unwrap();
    std::fs::rename(&theirs, &taken).unwrap();
    let error = on(journal.synced(journal.append(entry(2)))).unwrap_err();
    assert!(error.to_string().contains("theirs"), "{error}");
    let found = read(&taken).unwrap().entries.into_iter();
    let found: Vec<JournalEntry> = found.map(|(_, entry)| entry).collect();
    assert_eq!(found.first(), Some(&entry(1)));
}

/// Earlier entries are on disk; later ones are never acknowledged.
#[test]
fn a_journal_that_misses_an_entry_fails() {
    let dir = tempdir().unwrap();
    let journal = Journal::open(dir.path(), NextSegment::default(), None, None).unwrap();
    let before = journal.append(JournalEntry::Opened { incarnation: 1 });
    journal.fail(Error::NotRunning);
    let later = journal.append(JournalEntry::Opened { incarnation: 2 });
    assert!(on(journal.synced(later)).is_err());
    on(journal.synced(before)).unwrap();
}

/// The directory of a running process is removed, renamed, or taken by another process whose lock it does not see:
/// the next process reads everything acknowledged, and nothing more is acknowledged.
#[test]
fn losing_the_directory_ends_the_journal() {
    let take_away: [fn(&Path); 3] = [
        |dir| std::fs::remove_dir_all(dir).unwrap(),
        |dir| {
            std::fs::rename(dir, dir.with_extension("moved")).unwrap();
            DirLock::take(dir).unwrap();
        },
        // As on a file system with locks per machine.
        |dir| std::fs::write(dir.join("lock"), random_name()).unwrap(),
    ];
    for (at, take_away) in take_away.into_iter().enumerate() {
        let dir = tempdir().unwrap();
        let held = DirLock::take(dir.path()).unwrap();
        let owner = Some(held.owner().clone());
        let journal =
            Journal::open(dir.path(), NextSegment::default(), Some(opening(0)), owner).unwrap();
        on(journal.synced(journal.append(committed(1)))).unwrap();
        take_away(dir.path());
        let error = on(journal.synced(journal.append(committed(2)))).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(dir.path().to_str().unwrap()), "{at}: {text}");
        assert!(on(journal.synced(journal.append(committed(3)))).is_err());
        let _ = std::fs::remove_dir_all(dir.path().with_extension("moved"));
    }
}

/// A fenced process keeps writing for a moment, to a file that its successor has read: that is not damage.
#[test]
fn bytes_written_after_a_takeover_are_ignored() {
    let dir = tempdir().unwrap();
    write(dir.path(), &[vec![large(1)]]);
    let file = last_file(dir.path());
    let journal = Journal::open(dir.path(), read(dir.path()).unwrap().next(), None, None).unwrap();
    on(journal.synced(journal.append(committed(2)))).unwrap();
    let before = std::fs::read(&file).unwrap();
    for behind in [&b"half an entry"[..], &before[36..]] {
        std::fs::write(&file, [&before, behind].concat()).unwrap();
        assert_eq!(entries(dir.path()).unwrap(), [large(1), committed(2)]);
    }
}
