//! A process that ends between any two steps, failing steps, concurrent attempts, and the bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::stream::record::batch_of;

const FORMATS: &[Format] = &[
    Format::JsonLines,
    Format::Csv,
    #[cfg(feature = "parquet")]
    Format::Parquet,
];

/// A directory that is removed with the test.
struct Dir(TempDir);

impl Dir {
    fn new() -> Self {
        Dir(tempfile::tempdir().unwrap())
    }

    /// That of the files; it does not exist yet.
    fn path(&self) -> PathBuf {
        self.0.path().join("files")
    }

    fn target(&self, format: Format) -> Target {
        Target::new(self.path(), format)
    }

    /// The view of a reader of the target: the bytes of each file of each batch.
    fn visible(&self) -> BTreeMap<String, Vec<u8>> {
        let names = |path: &Path| {
            let entries = fs::read_dir(path).into_iter().flatten();
            let paths = entries.map(|entry| entry.unwrap().path());
            paths.collect::<Vec<_>>()
        };
        let hidden = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with('.');
        let batches = names(&self.path()).into_iter().filter(|path| !hidden(path));
        let files = batches.flat_map(|batch| names(&batch));
        files
            .map(|file| {
                let name = file.strip_prefix(self.path()).unwrap();
                (name.display().to_string(), fs::read(&file).unwrap())
            })
            .collect()
    }

    fn attempts(&self) -> usize {
        fs::read_dir(self.path().join(".attempts")).map_or(0, Iterator::count)
    }
}

type Row = (String, i64);

/// The partitions of a batch; the second of three is empty.
fn partitions(batch: u64) -> [Vec<RecordBatch>; 3] {
    let rows = |from: i64| -> Vec<Row> {
        let number = batch as i64 * 100 + from;
        (number..number + 3)
            .map(|n| (format!("row \"{n}\", of\n{batch}"), n))
            .collect()
    };
    let two = [batch_of(rows(0)).unwrap(), batch_of(rows(10)).unwrap()];
    [two.to_vec(), vec![], vec![batch_of(rows(20)).unwrap()]]
}

fn prepare(target: &Target, batch: u64) -> Result<Vec<Prepared>> {
    let mut prepared = Vec::new();
    for (partition, rows) in partitions(batch).iter().enumerate() {
        prepared.push(match rows.is_empty() {
            true => Prepared::default(),
            false => Prepared(
                target
                    .prepare(BatchTime(batch), partition, rows)?
                    .into_bytes(),
            ),
        });
    }
    Ok(prepared)
}

fn write(target: &Target, batch: u64) -> Result<()> {
    target.commit(BatchTime(batch), &prepare(target, batch)?)
}

/// The visible files after writing batches up to `last` without failures.
fn wanted(format: Format, last: u64) -> BTreeMap<String, Vec<u8>> {
    let dir = Dir::new();
    let target = dir.target(format);
    (1..=last).for_each(|batch| write(&target, batch).unwrap());
    assert_eq!(dir.attempts(), 0);
    dir.visible()
}

fn fail_after(target: &Target, steps: usize, kind: ErrorKind) {
    *target.disk.fails.lock().unwrap() = Some((steps, kind));
}

/// Whether everything succeeded before the step that was to fail.
fn unharmed(target: &Target) -> bool {
    matches!(*target.disk.fails.lock().unwrap(), Some((1.., _)))
}

#[test]
fn a_batch_is_a_directory_with_a_file_for_each_partition_that_has_rows() {
    let wanted = wanted(Format::Csv, 1);
    let text = |name: &str| String::from_utf8(wanted[name].clone()).unwrap();
    assert_eq!(wanted.len(), 2);
    assert!(
        text("batch=0000000000001/part-00000.csv")
            .starts_with("key,value\n\"row \"\"100\"\", of\n1\",100\n")
    );
    assert_eq!(
        text("batch=0000000000001/part-00002.csv")
            .matches("row")
            .count(),
        3
    );
}

#[test]
fn a_process_that_ends_at_any_step_leaves_a_batch_whole_or_absent() {
    for &format in FORMATS {
        let (one, two, three) = (wanted(format, 1), wanted(format, 2), wanted(format, 3));
        let (mut absent, mut whole) = (0, 0);
        for steps in 0.. {
            let dir = Dir::new();
            write(&dir.target(format), 1).unwrap();
            let ends = dir.target(format);
            fail_after(&ends, steps, ErrorKind::Other);
            let done = write(&ends, 2);
            let found = dir.visible();
            assert!(
                found == one || found == two,
                "{format:?}, {steps} steps: {:?}",
                found.keys()
            );
            assert!(done.is_err() || found == two, "committed and not there");
            *if found == one {
                &mut absent
            } else {
                &mut whole
            } += 1;

            let next = dir.target(format);
            write(&next, 2).unwrap();
            assert!(dir.visible() == two, "{format:?}, {steps} steps, again");
            assert_eq!(dir.attempts(), 0, "{format:?}, {steps} steps, again");
            write(&next, 2).unwrap();
            assert_eq!(dir.attempts(), 0, "{format:?}, {steps} steps, repeated");
            write(&next, 3).unwrap();
            write(&dir.target(format), 1).unwrap();
            assert!(dir.visible() == three, "{format:?}, {steps} steps, later");
            assert_eq!(dir.attempts(), 0, "{format:?}, {steps} steps");
            if unharmed(&ends) {
                break;
            }
        }
        assert!(absent > 10 && whole > 2, "{format:?}: {absent} {whole}");
    }
}

#[test]
fn a_step_that_fails_once_succeeds_on_retry() {
    for &format in FORMATS {
        let (two, three) = (wanted(format, 2), wanted(format, 3));
        let mut failed = (0, 0);
        for steps in 0.. {
            let dir = Dir::new();
            let target = dir.target(format);
            write(&target, 1).unwrap();
            fail_after(&target, steps, ErrorKind::StorageFull);
            let clear_failure = || *target.disk.fails.lock().unwrap() = None;
            let prepared = prepare(&target, 2).unwrap_or_else(|_| {
                failed.0 += 1;
                clear_failure();
                prepare(&target, 2).unwrap()
            });
            if target.commit(BatchTime(2), &prepared).is_err() {
                failed.1 += 1;
                clear_failure();
                target.commit(BatchTime(2), &prepared).unwrap();
            }
            assert!(dir.visible() == two, "{format:?}, {steps} steps");
            let last = unharmed(&target);
            clear_failure();
            write(&target, 3).unwrap();
            assert!(dir.visible() == three, "{format:?}, {steps} steps");
            assert_eq!(dir.attempts(), 0);
            if last {
                break;
            }
        }
        assert!(failed.0 > 5 && failed.1 > 4, "{format:?}: {failed:?}");
    }
}

#[test]
fn a_full_disk_says_where_and_what_to_do() {
    let dir = Dir::new();
    let target = dir.target(Format::Csv);
    prepare(&target, 1).unwrap(); // makes the directories
    fail_after(&target, 1, ErrorKind::StorageFull);
    let error = prepare(&target, 1).unwrap_err();
    assert!(error.is_retryable());
    let text = error.to_string();
    for part in [
        "cannot write",
        ".attempts/0000000000001-00000-",
        "free space",
    ] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert!(dir.visible().is_empty());
}

#[test]
fn a_target_that_cannot_be_a_directory_says_so() {
    let dir = Dir::new();
    fs::write(dir.path(), b"a file").unwrap();
    let below = Target::new(dir.path().join("below"), Format::Csv);
    let error = prepare(&below, 1).unwrap_err().to_string();
    let path = dir.path().display().to_string();
    for part in ["cannot make the directory", &path, "choose a path"] {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
    fs::remove_file(dir.path()).unwrap();
}

#[test]
fn concurrent_attempts_do_not_interfere() {
    let dir = Dir::new();
    let targets: Vec<_> = (0..4).map(|_| dir.target(Format::JsonLines)).collect();
    std::thread::scope(|scope| {
        for target in &targets {
            for _ in 0..4 {
                scope.spawn(|| (0..10).for_each(|_| drop(prepare(target, 1).unwrap())));
            }
        }
    });
    assert_eq!(dir.attempts(), 4 * 4 * 10 * 2);
    // Attempts of several processes, committed concurrently.
    let prepared: Vec<_> = targets
        .iter()
        .map(|target| prepare(target, 1).unwrap())
        .collect();
    std::thread::scope(|scope| {
        for (target, prepared) in targets.iter().zip(&prepared) {
            scope.spawn(|| target.commit(BatchTime(1), prepared));
        }
    });
    assert!(dir.visible() == wanted(Format::JsonLines, 1));
    write(&dir.target(Format::JsonLines), 2).unwrap();
    assert_eq!(dir.attempts(), 0);
}

#[test]
fn batches_moved_away_are_not_written_again() {
    let dir = Dir::new();
    let target = dir.target(Format::Csv);
    (1..=3).for_each(|batch| write(&target, batch).unwrap());
    let newest = dir.visible().split_off("batch=0000000000003");
    for old in [1, 2] {
        fs::remove_dir_all(dir.path().join(format!("batch={old:013}"))).unwrap();
    }
    (1..=3).for_each(|batch| write(&target, batch).unwrap());
    assert!(dir.visible() == newest);
    let next = dir.target(Format::Csv);
    (1..=3).for_each(|batch| write(&next, batch).unwrap());
    assert!(dir.visible() == newest);
    assert_eq!(dir.attempts(), 0);
}

#[test]
fn relative_and_deeply_nested_targets_are_created() {
    let dir = Dir::new();
    write(&Target::new(dir.path().join("a/b/c"), Format::Csv), 1).unwrap();
    assert!(dir.path().join("a/b/c/batch=0000000000001").is_dir());
    // Without a parent it would be created in the working directory; this test does not.
    let relative = Target::new("not-there".into(), Format::Csv);
    fail_after(&relative, 0, ErrorKind::Other);
    let error = write(&relative, 1).unwrap_err().to_string();
    assert!(error.contains("make the directory not-there:"), "{error}");
}

#[test]
fn files_of_another_sink_are_refused() {
    let dir = Dir::new();
    let target = dir.target(Format::Csv);
    let mut prepared = prepare(&target, 1).unwrap();
    for wrong in ["../elsewhere", "0000000000001-00000-/../x", "\u{fffd}"] {
        prepared[0] = Prepared(wrong.as_bytes().to_vec());
        let error = target.commit(BatchTime(1), &prepared).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("is not a file that this sink prepared"),
            "{error}"
        );
    }
    assert!(dir.visible().is_empty());
}

#[test]
fn a_batch_without_rows_has_no_directory_and_counts_as_committed() {
    let dir = Dir::new();
    let target = dir.target(Format::Csv);
    target
        .commit(BatchTime(1), &vec![Prepared::default(); 3])
        .unwrap();
    assert!(dir.visible().is_empty());
    write(&target, 1).unwrap();
    assert!(
        dir.visible().is_empty(),
        "an empty batch was committed again with rows"
    );
}

/// Enough rows for several pages, which the library ends where a write ends.
#[cfg(feature = "parquet")]
#[test]
fn pages_of_parquet_do_not_depend_on_how_rows_are_cut() {
    let rows = (0..60_000i64).map(|n| (format!("text {}", n * n % 50_021), n));
    let whole = batch_of(rows).unwrap();
    let bytes = |rows: &[RecordBatch]| {
        let mut all = Vec::new();
        let write = |bytes: &[u8]| {
            all.extend_from_slice(bytes);
            Ok(())
        };
        encode::encode(Format::Parquet, rows, write).unwrap();
        all
    };
    let cut = |rows: usize| {
        let starts = (0..whole.num_rows()).step_by(rows);
        let parts = starts.map(|start| whole.slice(start, rows.min(whole.num_rows() - start)));
        bytes(&parts.collect::<Vec<_>>())
    };
    let one = bytes(std::slice::from_ref(&whole));
    assert!(one.len() > 300_000);
    assert!([777, 2048, 25_000].into_iter().all(|rows| cut(rows) == one));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_same_rows_give_the_same_bytes(
        rows in prop::collection::vec(("[a-c\"\n,]{0,20}", any::<Option<i64>>(), any::<bool>()), 1..300),
        cuts in prop::collection::vec(1..80usize, 1..8),
    ) {
        let whole = batch_of(rows).unwrap();
        let (mut parts, mut from) = (Vec::new(), 0);
        for cut in cuts.iter().cycle() {
            let cut = (*cut).min(whole.num_rows() - from);
            parts.push(whole.slice(from, cut));
            from += cut;
            if from == whole.num_rows() {
                break;
            }
        }
        for &format in FORMATS {
            let bytes = |rows: &[RecordBatch]| {
                let mut all = Vec::new();
                encode::encode(format, rows, |bytes| { all.extend_from_slice(bytes); Ok(()) }).unwrap();
                all
            };
            prop_assert_eq!(bytes(&parts), bytes(std::slice::from_ref(&whole)));
        }
    }
}

fn token(program: &str, epoch: u64) -> FencingToken {
    FencingToken {
        program: program.to_owned(),
        epoch,
    }
}

/// The process before this one is stopped, has its lock, and goes on later.
#[test]
fn a_later_process_of_the_program_takes_the_lock_over() {
    let dir = Dir::new();
    let [former, later, last] = [1, 2, 5].map(|epoch| {
        let target = dir.target(Format::JsonLines);
        target.fence(&token("program", epoch));
        target
    });
    assert_eq!(former.open().unwrap(), None);
    write(&former, 1).unwrap();
    let prepared = prepare(&former, 2).unwrap();
    assert_eq!(later.open().unwrap(), Some(BatchTime(1)));
    let error = former.commit(BatchTime(2), &prepared).unwrap_err();
    assert!(matches!(error, Error::LostDirectory { .. }), "{error}");
    write(&later, 2).unwrap();
    last.open().unwrap();
    write(&last, 3).unwrap();
    for (fenced, batch) in [(&former, 3), (&later, 4)] {
        let error = write(fenced, batch).unwrap_err();
        assert!(matches!(error, Error::LostDirectory { .. }), "{error}");
    }
    assert_eq!(dir.visible(), wanted(Format::JsonLines, 3));
    // Only one process has the lock.
    last.close();
    later.open().unwrap_err();
    drop(last);
}

#[test]
fn the_lock_of_another_program_is_not_taken_over() {
    let dir = Dir::new();
    let first = dir.target(Format::Csv);
    first.fence(&token("program", 7));
    first.open().unwrap();
    let others = [
        None,
        Some(token("another", 8)),
        Some(token("program", 7)),
        Some(token("program", 6)),
        Some(token("", 8)),
    ];
    for other in others {
        let target = dir.target(Format::Csv);
        if let Some(token) = &other {
            target.fence(token);
        }
        let error = target.open().unwrap_err();
        assert!(matches!(error, Error::Locked { .. }), "{other:?}: {error}");
    }
    write(&first, 1).unwrap();
    // One without a token has the lock.
    first.close();
    let first = dir.target(Format::Csv);
    first.open().unwrap();
    let target = dir.target(Format::Csv);
    target.fence(&token("program", 9));
    assert!(matches!(target.open(), Err(Error::Locked { .. })));
}

/// A former process was stopped while it took the target over, and goes on when a later one has it.
#[test]
fn a_former_process_does_not_take_the_target_back() {
    let dir = Dir::new();
    let target = dir.target(Format::Csv);
    target.fence(&token("program", 3));
    target.open().unwrap();
    let lock = dir.path().join(".attempts/lock");
    let ours = fs::read_to_string(&lock).unwrap();
    fs::write(&lock, "program 2 0000000000000000").unwrap();
    write(&target, 1).unwrap();
    assert_eq!(fs::read_to_string(&lock).unwrap(), ours);
    assert_eq!(dir.visible(), wanted(Format::Csv, 1));
    for theirs in [
        "program 4 0000000000000000",
        "another 2 0000000000000000",
        "",
    ] {
        fs::write(&lock, theirs).unwrap();
        let error = write(&target, 2).unwrap_err();
        assert!(matches!(error, Error::LostDirectory { .. }), "{error}");
    }
}
