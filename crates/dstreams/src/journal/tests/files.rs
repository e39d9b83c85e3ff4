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
