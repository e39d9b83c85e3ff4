//! The files of a journal: joined, removed, missing.

use super::*;

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
        let files = read::files(dir.path()).unwrap();
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

/// The next file of a journal that another process may continue at the same time.
fn follow(dir: &Path) -> NextSegment {
    read(dir).unwrap().follow()
}

fn hidden(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.')).count()
}

/// Of two processes that continue a journal at once, one fails and changes nothing.
#[test]
fn a_file_is_made_once() {
    let dir = tempdir().unwrap();
    write(dir.path(), &[vec![committed(1)]]);
    let (one, other) = (follow(dir.path()), follow(dir.path()));
    let journal = Journal::open(dir.path(), one, Some(opening(1)), None).unwrap();
    on(journal.synced(journal.append(committed(2)))).unwrap();
    let failed = Journal::open(dir.path(), other, Some(opening(2)), None).err();
    let failed = failed.unwrap();
    let is_known = matches!(&failed, Error::File { action: "make", source, .. }
        if source.kind() == std::io::ErrorKind::AlreadyExists);
    assert!(is_known, "{failed}");
    on(journal.synced(journal.append(committed(3)))).unwrap();
    drop(journal);
    let found = entries(dir.path()).unwrap();
    let wanted = [
        committed(1),
        JournalEntry::Opening(Box::new(opening(1))),
        committed(2),
        committed(3),
    ];
    assert_eq!(found, wanted);
    assert_eq!(hidden(dir.path()), 0);
}

/// An end that was never synced stays where a former process may still write; the next file says what counts. An earlier
/// program may have left half of that.
#[test]
fn a_torn_end_stays_and_does_not_count() {
    let dir = tempdir().unwrap();
    write(dir.path(), &[vec![committed(1)]]);
    let path = dir.path().join("journal-0000000001.log");
    let mut torn = std::fs::read(&path).unwrap();
    torn.extend([1; 20]);
    std::fs::write(&path, &torn).unwrap();
    let half = dir.path().join("journal-0000000002.log");
    std::fs::write(&half, b"dstr").unwrap();
    let lock = DirLock::take(dir.path(), None).unwrap();
    for process in 1..3 {
        let found = read_shared(dir.path(), lock.owner()).unwrap();
        assert_eq!(found.entries.first(), Some(&(1, committed(1))));
        assert_eq!(found.entries.len() as u64, process);
        let next = found.follow();
        let journal = Journal::open(dir.path(), next, Some(opening(process)), None).unwrap();
        drop(journal);
        assert_eq!(std::fs::read(&path).unwrap(), torn);
    }
    assert_eq!(entries(dir.path()).unwrap().len(), 3);
}

/// A process that lost the directory makes its next file late, under a number that a later process has released.
#[test]
fn a_late_file_before_a_gap_does_not_count() {
    let of = |incarnation, checkpoint| Opening {
        incarnation,
        checkpoint,
        ..opening(0)
    };
    for (incarnation, checkpoint, counts) in [
        (2, Some(7), true),
        // These are damage: files between are missing.
        (2, None, false),
        (1, Some(7), false),
    ] {
        let dir = tempdir().unwrap();
        let make = |number, opening| {
            let next = NextSegment {
                number,
                before: 50,
                again: None,
            };
            Journal::open(dir.path(), next, Some(opening), None).unwrap()
        };
        let journal = make(4, of(incarnation, checkpoint));
        on(journal.synced(journal.append(committed(1)))).unwrap();
        drop(journal);
        drop(make(2, of(1, Some(3))));
        let found = entries(dir.path());
        assert_eq!(found.is_ok(), counts, "{found:?}");
        if let Ok(found) = found {
            assert_eq!(found.len(), 2, "{found:?}");
            assert_eq!(found.last(), Some(&committed(1)));
        }
    }
}
