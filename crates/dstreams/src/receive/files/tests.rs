//! Offsets of records: whichever prefix of the blocks survives a process, the next process resumes there.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use datafusion::object_store::ObjectStoreExt;
use datafusion::object_store::memory::InMemory;
use dstreams_control::ReceiverId;
use proptest::prelude::*;
use tempfile::TempDir;

use super::file_offset::FileOffset;
use super::*;
use crate::blocks::{Block, Budget};
use crate::config::Config;
use crate::receive::ingest::Ingest;
use crate::receive::source::StopSignal;
use crate::receive::{DeadLetters, Intake};
use crate::stream::record::records_of;

pub(super) type Positions = BTreeMap<String, u64>;

/// Reads the whole file; each piece is a block.
pub(super) fn read<T: Record>(
    files: &Files,
    positions: Positions,
) -> (Vec<Arc<Block>>, Positions, u64) {
    let mut config = Config::new(Duration::from_secs(1));
    (config.block_bytes, config.line_bytes) = (1, 1000);
    let (budget, dead) = (Budget::new(1 << 30), DeadLetters::default());
    let receiver = ReceiverId(0);
    let intake = Intake::new(
        receiver,
        "files",
        T::schema(),
        &config,
        budget,
        dead.clone(),
    );
    let intake = Arc::new(intake.with_offsets(positions));
    let source = Box::new(files.clone().once().source::<T>().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let run = source.run(Ingest(Arc::clone(&intake)), StopSignal::default());
    runtime.block_on(run).unwrap();
    let blocks = intake.seal(false);
    let marks = blocks.iter().flat_map(|block| block.offsets.clone());
    let marks = marks.map(|(key, done)| (key.to_string(), done)).collect();
    let dead = dead.counts().values().sum();
    (blocks, marks, dead)
}

pub(super) fn rows<T: Record>(blocks: &[Arc<Block>]) -> Vec<T> {
    let batches = blocks.iter().flat_map(|block| &block.batches);
    batches
        .flat_map(|batch| records_of::<T>(batch).unwrap())
        .collect()
}

/// A directory with these files.
pub(super) fn dir_of(files: &[(String, Vec<u8>)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let file = dir.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
    dir
}

/// For each number of blocks that survive the process: the next process brings exactly the others.
fn resumes_after_any_block<T: Record + PartialEq + std::fmt::Debug>(
    files: &Files,
) -> Result<(), TestCaseError> {
    let (blocks, marks, dead) = read::<T>(files, Positions::new());
    let all = rows::<T>(&blocks);
    for kept in 0..=blocks.len() {
        let mut positions = Positions::new();
        for block in &blocks[..kept] {
            let marks = block.offsets.iter();
            positions.extend(marks.map(|(key, done)| (key.to_string(), *done)));
        }
        let (more, _, _) = read::<T>(files, positions);
        let both: Vec<_> = blocks[..kept].iter().chain(&more).cloned().collect();
        prop_assert_eq!(
            &rows::<T>(&both),
            &all,
            "{} of {} blocks",
            kept,
            blocks.len()
        );
    }
    // All blocks survived, and a file that ends with a record is known to be finished.
    let done = marks
        .values()
        .any(|mark| matches!(FileOffset::from(*mark), FileOffset::Done { .. }));
    prop_assert!(all.is_empty() || dead > 0 || done, "{:?}", marks);
    prop_assert!(read::<T>(files, marks).0.is_empty());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_restart_goes_on_where_the_blocks_end(
        texts in prop::collection::vec("([a-z]{1,9}\n|\n|[a-z]{3}){0,12}", 1..4),
        piece in 1..40usize,
    ) {
        let name = |(n, text): (usize, &String)| (format!("{n}"), text.clone().into_bytes());
        let dir = dir_of(&texts.iter().enumerate().map(name).collect::<Vec<_>>());
        resumes_after_any_block::<String>(&Files::dir(dir.path(), Format::Text).piece_bytes(piece))?;
    }

    #[test]
    fn a_restart_goes_on_in_csv_and_json(
        numbers in prop::collection::vec(prop::collection::vec(-9..99i64, 0..9), 1..4),
        piece in 1..60usize,
    ) {
        let csv = |numbers: &Vec<i64>| {
            let line = |n: &i64| match n {
                0 => "zero,is none\n".to_owned(),
                n => format!("{n},\"{n}\nlines\"\n"),
            };
            "_1,_2\n".to_owned() + &numbers.iter().map(line).collect::<String>()
        };
        let json = |numbers: &Vec<i64>| {
            let line = |n: &i64| format!("{{\"_2\":\"{n}\",\"_1\":{n}}}\n");
            numbers.iter().map(line).collect::<String>()
        };
        let files = |to: &dyn Fn(&Vec<i64>) -> String| {
            let name = |(n, numbers)| (format!("a/{n}"), to(numbers).into_bytes());
            dir_of(&numbers.iter().enumerate().map(name).collect::<Vec<_>>())
        };
        let (csv, json) = (files(&|n| csv(n).replace("_1,_2", "key,value")), files(&|n| {
            json(n).replace("_1", "key").replace("_2", "value")
        }));
        resumes_after_any_block::<(i64, String)>(&Files::dir(csv.path(), Format::Csv).piece_bytes(piece))?;
        resumes_after_any_block::<(i64, String)>(&Files::dir(json.path(), Format::JsonLines).piece_bytes(piece))?;
    }
}

/// The same files in an object store.
fn objects(files: &[(&str, Vec<u8>)]) -> Arc<dyn ObjectStore> {
    let store = InMemory::new();
    for (name, bytes) in files {
        let location = (*name).into();
        let put = store.put(&location, bytes.clone().into());
        futures::executor::block_on(put).unwrap();
    }
    Arc::new(store)
}

#[test]
fn a_restart_resumes_in_objects() {
    let text = |lines: std::ops::Range<u32>| lines.map(|n| format!("{n}\n")).collect::<String>();
    let lines = objects(&[("a/b", text(0..30).into()), ("c", text(30..40).into())]);
    for piece in [1, 7, 1000] {
        let files = Files::store(Arc::clone(&lines), "", Format::Text);
        resumes_after_any_block::<String>(&files.piece_bytes(piece)).unwrap();
    }
    let csv = objects(&[("at/a", ("value\n".to_owned() + &text(0..20)).into())]);
    let files = Files::store(csv, "at", Format::Csv).piece_bytes(7);
    resumes_after_any_block::<i64>(&files).unwrap();
}

#[cfg(feature = "parquet")]
#[test]
fn a_restart_resumes_in_parquet() {
    use crate::stream::record::batch_of;
    let rows = batch_of((0..10_000i64).map(|n| (n % 5000 != 1).then_some(n))).unwrap();
    let mut bytes = Vec::new();
    let writer = ::parquet::arrow::ArrowWriter::try_new(&mut bytes, rows.schema(), None);
    let mut writer = writer.unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    let store = objects(&[("a", bytes.clone()), ("b", bytes.clone())]);
    resumes_after_any_block::<i64>(&Files::store(store, "", Format::Parquet)).unwrap();
    let dir = dir_of(&[("a".into(), bytes.clone()), ("b".into(), bytes)]);
    let files = Files::dir(dir.path(), Format::Parquet);
    resumes_after_any_block::<i64>(&files).unwrap();
    let (blocks, _, dead) = read::<i64>(&files, Positions::new());
    assert!(blocks.len() >= 6, "{}", blocks.len());
    assert_eq!((self::rows::<i64>(&blocks).len(), dead), (19_996, 4));
}

#[test]
fn a_file_without_records_at_its_end_is_done_with_the_next_records() {
    let files = [("a", "1\nx\n"), ("b", "x\n"), ("c", "2\n")];
    let files = files.map(|(name, text)| (name.to_owned(), format!("value\n{text}").into_bytes()));
    let dir = dir_of(&files);
    let files = Files::dir(dir.path(), Format::Csv).piece_bytes(2);
    let (blocks, marks, dead) = read::<i64>(&files, Positions::new());
    assert_eq!((rows::<i64>(&blocks), dead), (vec![1, 2], 2));
    let is_done = |mark: &u64| {
        matches!(
            FileOffset::from(*mark),
            FileOffset::Done { identity: Some(_) }
        )
    };
    assert!(
        marks.keys().eq(["a", "b", "c"]) && marks.values().all(is_done),
        "{marks:?}"
    );
}

#[test]
fn a_file_that_became_shorter_since_it_was_read_is_a_dead_letter() {
    let dir = dir_of(&[("a".into(), b"1\n2\n".to_vec())]);
    let files = Files::dir(dir.path(), Format::Text);
    for (before, told) in [(2, 0), (3, 1)] {
        let (blocks, _, dead) = read::<String>(&files, Positions::from([("a".into(), before)]));
        assert_eq!((blocks.len(), dead), (0, told), "{before}");
    }
}

/// The offsets of a program that was killed in the middle of reading files in small pieces.
fn begun<T: Record>(files: &Files) -> Positions {
    let (blocks, _, _) = read::<T>(files, Positions::new());
    let marks = blocks[blocks.len() / 2].offsets.iter();
    marks.map(|(key, mark)| (key.to_string(), *mark)).collect()
}

#[test]
fn a_file_is_resumed_only_if_its_lines_are_those_that_were_read() {
    let lines = |word: &str, lines: usize| {
        (0..lines)
            .map(|n| format!("{word} {n}\n"))
            .collect::<String>()
    };
    let old = lines("old", 40);
    let dir = dir_of(&[("a".into(), old.clone().into())]);
    let files = |piece| Files::dir(dir.path(), Format::Text).piece_bytes(piece);
    let positions = begun::<String>(&files(16));
    let FileOffset::Begun {
        lines: before,
        hash: Some(_),
    } = FileOffset::from(positions["a"])
    else {
        panic!("{positions:?}")
    };
    let before = before as usize;
    assert!((10..30).contains(&before));
    let rest_of = |text: &str, piece| {
        fs::write(dir.path().join("_a"), text).unwrap();
        fs::rename(dir.path().join("_a"), dir.path().join("a")).unwrap();
        let (blocks, _, dead) = read::<String>(&files(piece), positions.clone());
        (rows::<String>(&blocks), dead)
    };
    // A copy, and a longer copy, in pieces of any size.
    for text in [old.clone(), old.clone() + "more\n"] {
        for piece in [1, 100, 4096] {
            let wanted: Vec<_> = text.lines().skip(before).map(str::to_owned).collect();
            assert_eq!(rest_of(&text, piece), (wanted, 0));
        }
    }
    let other = old.replacen("old 3", "old 4", 1);
    for text in [
        lines("new", 100),
        other,
        old.replacen('\n', "", 1),
        lines("old", before - 1),
    ] {
        for piece in [1, 100, 4096] {
            assert_eq!(rest_of(&text, piece), (vec![], 1), "{text}");
        }
    }
    // Lines over the limit count, wherever the pieces end.
    let long = format!("{}\nb\n{}\nc\nd\n", "x".repeat(3000), "y".repeat(3000));
    fs::write(dir.path().join("a"), &long).unwrap();
    for piece in [7, 1000, 5000] {
        let (blocks, _, dead) = read::<String>(&files(piece), Positions::new());
        assert_eq!((rows::<String>(&blocks).len(), dead), (3, 2));
        for block in &blocks {
            let marks = block
                .offsets
                .iter()
                .map(|(key, mark)| (key.to_string(), *mark));
            let (more, _, _) = read::<String>(&files(700), marks.collect());
            let both = rows::<String>(&more).len();
            assert!(
                both < 3 && rows::<String>(&more).iter().all(|line| line.len() == 1),
                "{both}"
            );
        }
    }
}

#[cfg(feature = "parquet")]
#[test]
fn a_parquet_file_is_resumed_only_if_it_is_the_one_that_was_read() {
    use crate::stream::record::batch_of;
    let bytes = |from: i64| {
        let rows = batch_of(from..from + 10_000).unwrap();
        let mut bytes = Vec::new();
        let mut writer =
            ::parquet::arrow::ArrowWriter::try_new(&mut bytes, rows.schema(), None).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
        bytes
    };
    let dir = dir_of(&[("a".into(), bytes(0))]);
    let files = Files::dir(dir.path(), Format::Parquet);
    let positions = begun::<i64>(&files);
    let rest = read::<i64>(&files, positions.clone());
    assert!(rows::<i64>(&rest.0).last() == Some(&9999) && rest.2 == 0);
    fs::write(dir.path().join("a"), bytes(10_000)).unwrap();
    let other = read::<i64>(&files, positions);
    assert_eq!((rows::<i64>(&other.0), other.2), (vec![], 1));
}

/// Each name is known to be finished after a restart, too.
#[test]
fn a_file_is_read_once_whatever_names_it_has() {
    let files = [("app.log", "1\n2\n"), ("b", "3\n")];
    let dir = dir_of(&files.map(|(name, text)| (name.to_owned(), text.into())));
    fs::hard_link(dir.path().join("b"), dir.path().join("hard")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("b"), dir.path().join("link")).unwrap();
    let files = Files::dir(dir.path(), Format::Text);
    let (blocks, marks, dead) = read::<String>(&files, Positions::new());
    assert_eq!(
        (rows::<String>(&blocks), dead),
        (vec!["1".into(), "2".into(), "3".into()], 0)
    );
    // Rotated while no process was running; the links have no offsets of their own yet.
    fs::rename(dir.path().join("app.log"), dir.path().join("app.log.1")).unwrap();
    fs::write(dir.path().join("c"), "1\n2\n").unwrap();
    let (blocks, marks, dead) = read::<String>(&files, marks);
    assert_eq!(
        (rows::<String>(&blocks), dead),
        (vec!["1".into(), "2".into()], 0)
    );
    assert_eq!(marks.keys().collect::<Vec<_>>(), ["app.log.1", "c"]);
}
