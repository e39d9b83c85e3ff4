//! The end of a journal: its directory belongs to another process, or an entry was not written.

use super::*;

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
        let lock = DirLock::take(dir.path(), None).unwrap();
        lock.owner().check().unwrap();
        assert_eq!(&Owner::of(dir.path()).unwrap(), lock.owner());
    }
}

#[test]
fn two_processes_do_not_share_a_directory() {
    let dir = tempdir().unwrap();
    let held = DirLock::take(dir.path(), None).unwrap();
    let error = DirLock::take(dir.path(), None).err().unwrap().to_string();
    assert!(error.contains("another process"), "{error}");
    drop(held);
    DirLock::take(dir.path(), None).unwrap();
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
            DirLock::take(dir, None).unwrap();
        },
        // As on a file system with locks per machine.
        |dir| std::fs::write(dir.join("lock"), random_name()).unwrap(),
    ];
    for (at, take_away) in take_away.into_iter().enumerate() {
        let dir = tempdir().unwrap();
        let held = DirLock::take(dir.path(), None).unwrap();
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
