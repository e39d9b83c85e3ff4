//! Files of object stores: the same records as from a directory, each once, of one version.

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dstreams::datafusion::object_store::ObjectStore;
use dstreams::datafusion::object_store::memory::InMemory;
use dstreams::files::{Files, Format};
use dstreams::record::batch_of;
use dstreams::{DeadLetter, Error, Record};

use crate::dir::Dir;
use crate::files_sink::FORMATS;
use crate::files_source::{Reader, Row, large, put as put_file, read_all, tight, write};
use crate::program::{Program, block_on, small, soon, until};
use crate::receive_tcp::take;
use crate::watched::{Answer, Asked, Watched, delete, put};

/// Bytes of text fetched per request.
const FETCH_BYTES: usize = 4 << 20;

/// All files below a directory, by their paths below it.
fn walk(dir: &Path, below: &str, found: &mut Vec<(String, PathBuf)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{below}{}", entry.file_name().to_str().unwrap());
        match entry.file_type().unwrap().is_dir() {
            true => walk(&entry.path(), &format!("{name}/"), found),
            false => found.push((name, entry.path())),
        }
    }
}

/// An object store with the directory's bytes gives the same records; returns the numbers of records and dead
/// letters.
#[track_caller]
fn is_read_the_same<T: Record + PartialEq + Debug>(dir: &Dir, format: Format) -> (usize, usize) {
    let objects = Arc::new(InMemory::new());
    let mut files = Vec::new();
    walk(dir.path(), "", &mut files);
    for (name, path) in &files {
        put(
            &objects,
            &format!("some/place/{name}"),
            fs::read(path).unwrap(),
        );
    }
    let first = fs::read(&files[0].1).unwrap();
    for beside in ["some/place", "some/placemat/a", "some/other", "a"] {
        put(&objects, beside, first.clone());
    }
    let url = format!("file://{}", dir.path().display());
    let read = |files: Files, root: &str| {
        let (records, dead) = read_all::<T>(small(2, 4, 3), files.piece_bytes(40));
        let short = dead.iter().map(|letter| {
            let name = letter.producer.strip_prefix(root).unwrap().to_owned();
            (name, letter.reason.clone(), letter.bytes.clone())
        });
        (records, short.collect::<Vec<_>>())
    };
    let root = dir.path().to_str().unwrap();
    let wanted = read(Files::dir(dir.path(), format), root);
    let found = read(Files::store(objects, "some/place", format), "some/place");
    assert_eq!(found, wanted, "{format:?} in memory");
    let found = read(Files::url(&url, format), &root[1..]);
    assert_eq!(found, wanted, "{format:?} at {url}");
    (wanted.0.len(), wanted.1.len())
}

#[test]
fn every_format_is_read_as_from_a_directory() {
    let rows = |of: std::ops::Range<i64>| {
        let rows = of.map(|number| Row {
            text: format!("{number},\"\n"),
            number,
            maybe: (number % 2 == 0).then_some(0.5),
            flag: number % 3 == 0,
        });
        batch_of(rows).unwrap()
    };
    for &format in FORMATS {
        let dir = Dir::new();
        for below in ["a", "a/b c", "_d", "e/.f"] {
            fs::create_dir_all(dir.join(below)).unwrap();
        }
        write(&dir.join("1"), format, &[rows(0..5), rows(5..9)]);
        write(&dir.join("a/2"), format, &[rows(10..31)]);
        write(&dir.join("a/b c/3%"), format, &[rows(40..41)]);
        for passed in ["_4", ".5", "6.tmp", "_d/7", "e/.f/8"] {
            write(&dir.join(passed), format, &[rows(50..60)]);
        }
        put_file(&dir, "bad", "a line that is no record\nPAR1");
        let mut torn = fs::read(dir.join("1")).unwrap();
        torn[4..40].fill(0xff);
        put_file(&dir, "torn", torn);
        let (records, dead) = is_read_the_same::<Row>(&dir, format);
        assert!(records >= 31 && dead >= 2, "{records} {dead}");
    }
    let dir = Dir::new();
    put_file(&dir, "a", b"one\n\xc3\nthree\r\n\n");
    put_file(&dir, "b", b"four\n\xff\nfive");
    let (records, dead) = is_read_the_same::<String>(&dir, Format::Text);
    assert_eq!((records, dead), (5, 2));
}

/// All records of the objects below `in/`, which are provided and watched by `told`.
fn all_of<T: Record>(store: &Arc<Watched>, format: Format) -> (Vec<T>, Vec<DeadLetter>) {
    read_all(small(2, 4, 3), files(store, format))
}

fn files(store: &Arc<Watched>, format: Format) -> Files {
    let store = Arc::clone(store) as Arc<dyn ObjectStore>;
    Files::store(store, "in", format)
}

/// Exactly these dead letters: the path and parts of the reason.
#[track_caller]
fn are(dead: &[DeadLetter], wanted: &[(&str, &[&str])]) {
    assert_eq!(dead.len(), wanted.len(), "{dead:#?}");
    for (letter, (path, parts)) in dead.iter().zip(wanted) {
        assert_eq!(letter.producer, *path);
        for part in *parts {
            let reason = &letter.reason;
            assert!(reason.contains(part), "`{part}` is not in: {reason}");
        }
    }
}

/// Text of a little more than two ranges.
fn long() -> String {
    large(100_000)
}

/// The requested ranges of an object.
fn ranges(store: &Watched, name: &str) -> Vec<std::ops::Range<u64>> {
    let asked = store.asked().into_iter();
    let ranges = asked.filter_map(|asked| match asked {
        Asked::Get(of, range) if of == name => Some(range),
        _ => None,
    });
    ranges.collect()
}

#[test]
fn text_is_fetched_range_by_range() {
    let store = Watched::new(|_, _| Answer::Give);
    let text = long();
    put(&store.objects, "in/a", text.clone());
    let (found, dead) = all_of::<String>(&store, Format::Text);
    assert!(dead.is_empty() && text.lines().eq(found.iter().map(String::as_str)));
    let (ahead, end) = (FETCH_BYTES as u64, text.len() as u64);
    let wanted = [0..ahead, ahead..2 * ahead, 2 * ahead..end];
    assert_eq!(ranges(&store, "in/a"), wanted);
}

#[test]
fn files_are_read_once_as_they_appear_also_when_a_listing_fails() {
    block_on(async {
        let fails = Arc::new(AtomicBool::new(false));
        let failing = Arc::clone(&fails);
        let store = Watched::new(move |asked, _| match asked {
            Asked::List if failing.load(Ordering::SeqCst) => Answer::Fail,
            _ => Answer::Give,
        });
        put(&store.objects, "in/b", "first\n");
        let files = files(&store, Format::Text).every(Duration::from_millis(2));
        let mut reader = Reader::<String>::start(small(2, 4, 3), files).await;
        assert_eq!(reader.receive(1, 0).await.0, ["first"]);
        put(
            &store.objects,
            "in/b",
            "another under a name that was read\n",
        );
        put(&store.objects, "in/_d/e", "passed over\n");
        put(&store.objects, "in/c", "");
        put(&store.objects, "in/a", "second\n");
        assert_eq!(reader.receive(1, 0).await.0, ["second"]);
        fails.store(true, Ordering::SeqCst);
        put(&store.objects, "in/c", "third\n");
        let listed = store.asked().len();
        let lists = || store.asked().len() > listed + 3;
        until("listings to fail", lists).await;
        fails.store(false, Ordering::SeqCst);
        assert_eq!(reader.receive(1, 0).await.0, ["third"]);
        let (more, dead) = reader.receive(0, 0).await;
        assert_eq!((more.len(), dead.len()), (0, 0));
    });
}

#[test]
fn a_listing_that_fails_ends_a_source_that_reads_once() {
    block_on(async {
        let mut listed = 0;
        let store = Watched::new(move |asked, _| {
            listed += usize::from(*asked == Asked::List);
            match listed {
                // The start looks too.
                0 | 1 => Answer::Give,
                _ => Answer::Fail,
            }
        });
        put(&store.objects, "in/a", "first\n");
        let mut program = Program::new(small(2, 4, 3));
        let files = files(&store, Format::Text).once();
        let lines = program.ctx.files::<String>("lines", files).unwrap();
        lines.print(1);
        program.ctx.stop_when_sources_end();
        let live = program.start().await;
        let ended = soon("the end", live.running.await_termination(None)).await;
        let error = ended.err().unwrap().to_string();
        for part in ["stream `lines` failed", "cannot list in", "it fails"] {
            assert!(error.contains(part), "{error}");
        }
    });
}

#[test]
fn deleted_or_unreadable_objects_are_dead_letters() {
    let text = long();
    let store = Watched::new(|asked, objects| match asked {
        Asked::Head(name) if name == "in/a" => {
            delete(objects, "in/b");
            Answer::Give
        }
        Asked::Get(name, range) if name == "in/c" && range.start > 0 => {
            delete(objects, "in/c");
            Answer::Give
        }
        Asked::Get(name, range) if name == "in/d" && range.start > 0 => Answer::Fail,
        _ => Answer::Give,
    });
    for name in ["in/a", "in/b", "in/e"] {
        put(&store.objects, name, name);
    }
    for name in ["in/c", "in/d"] {
        put(&store.objects, name, text.clone());
    }
    let (found, dead) = all_of::<String>(&store, Format::Text);
    let whole = text[..FETCH_BYTES].lines().count() - 1;
    let whole: Vec<_> = text.lines().take(whole).collect();
    let wanted = [&["in/a"], &whole[..], &whole, &["in/e"]].concat();
    assert_eq!(found.len(), wanted.len());
    assert!(found == wanted);
    are(
        &dead,
        &[
            ("in/b", &["given up: cannot open in/b", "not found"]),
            ("in/c", &["given up: cannot read in/c", "not found"]),
            ("in/d", &["given up: cannot read in/d", "it fails"]),
        ],
    );
}

/// No part of the second version: half a line of each would make a false record.
#[test]
fn an_object_that_is_overwritten_while_it_is_read_is_given_up() {
    let text = long();
    let whole = text[..FETCH_BYTES].lines().count() - 1;
    for (tags, other) in [(true, text.len()), (false, text.len() + 1)] {
        let store = Watched::with_tags(tags, move |asked, objects| {
            match asked {
                Asked::Get(name, range) if name == "in/a" && range.start > 0 => {
                    put(objects, "in/a", "y".repeat(other));
                }
                _ => {}
            }
            Answer::Give
        });
        put(&store.objects, "in/a", text.clone());
        put(&store.objects, "in/b", "there");
        let (mut found, dead) = all_of::<String>(&store, Format::Text);
        assert_eq!(found.pop().unwrap(), "there");
        assert_eq!(found.len(), whole);
        assert!(text.lines().zip(&found).all(|(line, found)| line == found));
        let changed = ["given up: cannot read in/a", "changed while it was read"];
        are(&dead, &[("in/a", &changed)]);
        assert_eq!(ranges(&store, "in/a").len(), 2);
    }
}

#[test]
fn a_stop_does_not_wait_for_a_store_that_does_not_answer() {
    let silent: [fn(&Asked) -> bool; 3] = [
        |asked| *asked == Asked::List,
        |asked| matches!(asked, Asked::Head(_)),
        |asked| matches!(asked, Asked::Get(_, range) if range.start > 0),
    ];
    for silent in silent {
        block_on(async {
            let [started, waits] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
            let (runs, waiting) = (Arc::clone(&started), Arc::clone(&waits));
            let store = Watched::new(move |asked, _| {
                if !silent(asked) || !runs.load(Ordering::SeqCst) {
                    return Answer::Give;
                }
                waiting.store(true, Ordering::SeqCst);
                Answer::Never
            });
            let files = files(&store, Format::Text).every(Duration::from_millis(2));
            let reader = Reader::<String>::start(small(2, 4, 3), files).await;
            started.store(true, Ordering::SeqCst);
            put(&store.objects, "in/a", long());
            until("the store to be silent", || waits.load(Ordering::SeqCst)).await;
            let stop = reader.live.running.stop();
            soon("the stop", stop).await.unwrap();
            // No thread waits for it either.
            let alone = || Arc::strong_count(&store) <= 2;
            drop(reader.live);
            until("the store to be released", alone).await;
        });
    }
}

#[test]
fn an_invalid_url_fails_the_start() {
    for wrong in ["nowhere", "gopher://host/path", "file:///%ff"] {
        let mut program = Program::new(small(1, 1, 1));
        let files = Files::url(wrong, Format::Text);
        let lines = program.ctx.files::<String>("lines", files).unwrap();
        lines.print(1);
        let Err(Error::Source { stream, cause }) = block_on(program.ctx.start()) else {
            panic!("{wrong}")
        };
        assert_eq!(stream, "lines");
        let expected = format!("`{wrong}` is not a valid location");
        assert!(cause.to_string().contains(&expected), "{cause}");
    }
}

/// A program that ends in the middle of an object resumes at the next line.
#[test]
fn a_restart_resumes_in_the_middle_of_an_object() {
    let state = Dir::new();
    let text = long();
    let mut bytes = text.clone().into_bytes();
    // Invalid lines, in the first range and in the second.
    let bad_lines = [101, 70_001];
    for line in bad_lines {
        bytes[text.find(&format!("\n{} ", line - 1)).unwrap() + 1] = 0xff;
    }
    let lines = (1..).zip(text.lines());
    let good = lines.filter(|(line, _)| !bad_lines.contains(line));
    let wanted: Vec<&str> = good.map(|(_, text)| text).collect();

    let (mut found, mut dead, mut intervals) = (Vec::new(), Vec::new(), 0);
    let mut lives = Vec::new();
    for ranges_given in [1, 2, 3u64] {
        let store = Watched::new(move |asked, _| match asked {
            Asked::Get(_, range) if range.start >= ranges_given * FETCH_BYTES as u64 => {
                Answer::Never
            }
            _ => Answer::Give,
        });
        put(&store.objects, "in/a", bytes.clone());
        block_on(async {
            let mut config = tight();
            config.block_memory = 1 << 20;
            config.checkpoint_every = 2;
            let mut program = Program::after(intervals, config);
            let source = files(&store, Format::Text).piece_bytes(64 << 10);
            let lines = program.ctx.files::<String>("files", source).unwrap();
            let (mut lines, mut letters) = (lines.collect(), program.ctx.dead_letters().collect());
            program.ctx.persist_in(state.path());
            let mut live = program.start().await;
            let all = wanted.len();
            let silent = || ranges(&store, "in/a").len() as u64 > ranges_given;
            let wait = async {
                while !silent() && found.len() < all {
                    live.batch().await;
                    intervals += 1;
                    take(&mut lines, &mut found);
                    take(&mut letters, &mut dead);
                }
            };
            soon("the next range", wait).await;
            live.running.stop().await.unwrap();
            intervals += 1;
            take(&mut lines, &mut found);
            take(&mut letters, &mut dead);
        });
        lives.push(found.len());
    }
    assert!(
        lives[0] > 0 && lives[0] < lives[1] && lives[1] < lives[2],
        "{lives:?}"
    );
    assert_eq!(found.len(), wanted.len(), "{lives:?}");
    assert!(found == wanted);
    let bad_lines = bad_lines.map(|line| format!("line {line}: "));
    are(
        &dead,
        &[
            ("in/a", &[&bad_lines[0], "UTF-8"]),
            ("in/a", &[&bad_lines[1], "UTF-8"]),
        ],
    );
}

#[cfg(feature = "parquet")]
mod parquet {
    use super::*;
    use crate::files_source::write_groups;

    type Four = (String, i64, String, f64);

    /// Incompressible texts, and their numbers.
    fn rows(rows: i64) -> Vec<Four> {
        let text = |n: i64, of: i64| {
            (0..6)
                .map(|k| format!("{:016x}", (n + of).wrapping_mul((k + 7) * 0x9E37_79B9_7F4A)))
                .collect()
        };
        let row = |n| (text(n, 1), n, text(n, 1 << 40), n as f64);
        (0..rows).map(row).collect()
    }

    fn bytes(of: usize, rows: &[Four]) -> Vec<u8> {
        let dir = Dir::new();
        let path = dir.join("a");
        write_groups(&path, of, &batch_of(rows.to_vec()).unwrap());
        fs::read(path).unwrap()
    }

    /// Memory is bounded, and almost nothing is fetched twice.
    #[test]
    fn columns_are_fetched_range_by_range() {
        let store = Watched::new(|_, _| Answer::Give);
        let rows = rows(40_000);
        let bytes = bytes(30_000, &rows);
        let size = bytes.len() as u64;
        put(&store.objects, "in/a", bytes);
        let (found, dead) = all_of::<Four>(&store, Format::Parquet);
        assert_eq!(dead, vec![]);
        assert!(found == rows);
        let ranges = ranges(&store, "in/a");
        let lengths = ranges.iter().map(|range| range.end - range.start);
        let (most, sum) = (lengths.clone().max().unwrap(), lengths.sum::<u64>());
        assert!(size > 8 << 20, "{size}");
        assert!(most <= 3 << 19, "{ranges:?}");
        assert!(sum < size * 4 / 3, "{sum} of {size}: {ranges:?}");
        assert!(ranges.len() < 24, "{ranges:?}");
    }

    /// A small object is fetched whole.
    #[test]
    fn a_small_object_is_one_request() {
        let store = Watched::new(|_, _| Answer::Give);
        put(&store.objects, "in/a", bytes(10, &rows(30)));
        let (found, _) = all_of::<Four>(&store, Format::Parquet);
        assert!(found == rows(30));
        assert_eq!(ranges(&store, "in/a").len(), 1);
    }

    #[test]
    fn an_object_that_is_overwritten_while_it_is_read_is_given_up() {
        let rows = rows(30_000);
        let bytes = bytes(5_000, &rows);
        let other = bytes.clone();
        let mut gets = 0;
        let store = Watched::new(move |asked, objects| {
            if matches!(asked, Asked::Get(name, _) if name == "in/a") {
                gets += 1;
                if gets == 5 {
                    put(objects, "in/a", other.clone());
                }
            }
            Answer::Give
        });
        put(&store.objects, "in/a", bytes);
        put(&store.objects, "in/b", self::bytes(10, &rows[..1]));
        let (mut found, dead) = all_of::<Four>(&store, Format::Parquet);
        assert_eq!(found.pop().unwrap(), rows[0]);
        assert!(!found.is_empty() && found.len() < rows.len());
        assert!(found == rows[..found.len()]);
        let changed = ["given up: cannot read in/a", "changed while it was read"];
        are(&dead, &[("in/a", &changed)]);
        assert_eq!(ranges(&store, "in/a").len(), 5);
    }

    /// A failing store is not damage: no row is given up for good, and a restart reads on.
    #[test]
    fn a_failing_store_costs_no_row_group() {
        let rows = rows(30_000);
        for failing in [1, 2, 5] {
            let mut gets = 0;
            let store = Watched::new(move |asked, _| {
                gets += usize::from(matches!(asked, Asked::Get(name, _) if name == "in/a"));
                match gets == failing {
                    true => Answer::Fail,
                    false => Answer::Give,
                }
            });
            put(&store.objects, "in/a", bytes(5_000, &rows));
            let (found, dead) = all_of::<Four>(&store, Format::Parquet);
            assert!(found == rows[..found.len()] && found.len() < rows.len());
            are(
                &dead,
                &[("in/a", &["given up: cannot read in/a", "it fails"])],
            );
        }
    }
}
