//! Files as a source: every format as written by Arrow's own writers, bad lines, files that come and go.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dstreams::arrow::array::RecordBatch;
use dstreams::arrow::{csv, json};
use dstreams::files::{Files, Format};
use dstreams::record::batch_of;
use dstreams::{Config, DeadLetter, Error, Listener, RddReceiver, Record};
use proptest::prelude::*;

use crate::dir::Dir;
use crate::files_sink::FORMATS;
use crate::program::{Live, Program, block_on, cases, small, soon, text, until};
use crate::receive_tcp::take;

#[derive(Debug, Clone, PartialEq, Record)]
pub struct Row {
    pub text: String,
    pub number: i64,
    pub maybe: Option<f64>,
    pub flag: bool,
}

/// Writes a file with Arrow's own writers, under an ignored name, and renames it.
pub fn write(path: &Path, format: Format, rows: &[RecordBatch]) {
    let hidden = path.with_file_name(".hidden");
    let file = File::create(&hidden).unwrap();
    match format {
        Format::JsonLines => {
            let mut writer = json::LineDelimitedWriter::new(file);
            rows.iter().for_each(|rows| writer.write(rows).unwrap());
            writer.finish().unwrap();
        }
        Format::Csv => {
            let mut writer = csv::Writer::new(file);
            rows.iter().for_each(|rows| writer.write(rows).unwrap());
        }
        #[cfg(feature = "parquet")]
        Format::Parquet => {
            let schema = rows[0].schema();
            let writer = parquet::arrow::ArrowWriter::try_new(file, schema, None);
            let mut writer = writer.unwrap();
            rows.iter().for_each(|rows| writer.write(rows).unwrap());
            writer.close().unwrap();
        }
        other => panic!("{other:?}"),
    }
    fs::rename(hidden, path).unwrap();
}

/// Writes a Parquet file with so many rows in each group.
#[cfg(feature = "parquet")]
pub fn write_groups(path: &Path, of: usize, rows: &RecordBatch) {
    let file = File::create(path).unwrap();
    let groups = parquet::file::properties::WriterProperties::builder();
    let groups = groups.set_max_row_group_row_count(Some(of)).build();
    let writer = parquet::arrow::ArrowWriter::try_new(file, rows.schema(), Some(groups));
    let mut writer = writer.unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
}

/// Counts sources that ended by themselves.
#[derive(Clone, Default)]
struct Ends(Arc<AtomicUsize>);

impl Listener for Ends {
    fn source_ended(&self, stream: &str) {
        assert_eq!(stream, "files");
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A program that collects the records of files and its dead letters.
pub struct Reader<T> {
    pub live: Live,
    records: RddReceiver<T>,
    dead: RddReceiver<DeadLetter>,
    ends: Ends,
}

impl<T: Record> Reader<T> {
    pub async fn start(config: Config, files: Files) -> Self {
        let mut program = Program::new(config);
        let ends = Ends::default();
        program.ctx.add_listener(ends.clone());
        let records = program.ctx.files::<T>("files", files).unwrap().collect();
        let dead = program.ctx.dead_letters().collect();
        let live = program.start().await;
        Reader {
            live,
            records,
            dead,
            ends,
        }
    }

    /// All records until its source ends.
    pub async fn all(mut self) -> (Vec<T>, Vec<DeadLetter>) {
        let (mut all, mut dead) = (Vec::new(), Vec::new());
        let ended = async {
            while self.ends.0.load(Ordering::SeqCst) == 0 {
                self.live.batch().await;
            }
        };
        soon("the end of the source", ended).await;
        let stopped = soon("the stop", self.live.running.stop()).await;
        stopped.unwrap();
        take(&mut self.records, &mut all);
        take(&mut self.dead, &mut dead);
        (all, dead)
    }

    /// Runs batches until there are so many records and dead letters.
    pub async fn receive(&mut self, records: usize, dead: usize) -> (Vec<T>, Vec<DeadLetter>) {
        let (mut all, mut letters) = (Vec::new(), Vec::new());
        let wait = async {
            while all.len() < records || letters.len() < dead {
                self.live.batch().await;
                take(&mut self.records, &mut all);
                take(&mut self.dead, &mut letters);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        soon("records", wait).await;
        (all, letters)
    }
}

/// The findings of a program over all files.
pub fn read_all<T: Record>(config: Config, files: Files) -> (Vec<T>, Vec<DeadLetter>) {
    block_on(async {
        let reader = Reader::<T>::start(config, files.once()).await;
        reader.all().await
    })
}

fn row() -> impl Strategy<Value = Row> {
    let text = prop_oneof![text(), "[a,\"\n ]{0,6}"];
    let maybe = prop::option::of((-99..99i32).prop_map(f64::from));
    (text, any::<i64>(), maybe, any::<bool>()).prop_map(|(text, number, maybe, flag)| Row {
        text,
        number,
        maybe,
        flag,
    })
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn every_format_gives_the_written_rows(
        files in prop::collection::vec(prop::collection::vec(row(), 1..12), 1..4),
        piece in 1..200usize,
    ) {
        for &format in FORMATS {
            let dir = Dir::new();
            fs::create_dir(dir.join("a")).unwrap();
            let mut wanted = Vec::new();
            for (n, rows) in files.iter().enumerate() {
                let path = dir.join(["", "a"][n % 2]).join(format!("{n}"));
                let half = rows.len() / 2;
                let parts = [&rows[..half], &rows[half..]];
                write(&path, format, &parts.map(|rows| batch_of(rows.iter().cloned()).unwrap()));
                wanted.push((path, rows));
            }
            wanted.sort_by_key(|(path, _)| path.clone());
            let wanted: Vec<Row> = wanted.into_iter().flat_map(|(_, rows)| rows.clone()).collect();
            let source = Files::dir(dir.path(), format).piece_bytes(piece);
            let (found, dead) = read_all::<Row>(small(2, 4, 3), source);
            prop_assert_eq!(dead, vec![]);
            prop_assert_eq!(found, wanted);
        }
    }
}

/// Writes a text file under an ignored name, and renames it.
pub fn put(dir: &Dir, name: &str, text: impl AsRef<[u8]>) {
    fs::write(dir.join("_hidden"), text).unwrap();
    fs::rename(dir.join("_hidden"), dir.join(name)).unwrap();
}

/// Name of the file, reason and bytes of each dead letter.
fn reasons(dead: &[DeadLetter]) -> Vec<(String, String, String)> {
    let letters = dead.iter().map(|letter| {
        assert_eq!(letter.stream, "files");
        let name = Path::new(&letter.producer).file_name().unwrap();
        let bytes = String::from_utf8_lossy(&letter.bytes).into_owned();
        (
            name.to_str().unwrap().to_owned(),
            letter.reason.clone(),
            bytes,
        )
    });
    letters.collect()
}

/// The dead letters are those of these lines, with reasons containing these words, and these bytes.
#[track_caller]
fn are(dead: &[DeadLetter], wanted: &[(&str, u64, &str, &str)]) {
    let found = reasons(dead);
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    for ((name, reason, bytes), (file, line, words, text)) in found.iter().zip(wanted) {
        assert_eq!((name.as_str(), bytes.as_str()), (*file, *text), "{reason}");
        assert!(reason.starts_with(&format!("line {line}: ")), "{reason}");
        assert!(reason.contains(words), "`{words}` is not in: {reason}");
    }
}

#[test]
fn bad_lines_of_json_are_dead_letters_and_their_neighbours_are_kept() {
    let dir = Dir::new();
    let lines = [
        r#"{"key":"a","value":1}"#,
        r#"{"key":"b","value":"#,
        r#"2}"#,
        r#""#,
        r#"{"key":"c","value":"x"}"#,
        r#"{"key":"d"}"#,
        r#"{"key":"e","value":5,"more":[1,{}]}"#,
        r#"null"#,
        r#"[]"#,
        r#"{"key":"f","value":6} {"key":"g","value":7}"#,
        r#"{"key":"h","value":null}"#,
        r#"  {"value":9, "key":"i"}  "#,
    ];
    put(&dir, "a.jsonl", lines.join("\r\n"));
    put(
        &dir,
        "b.jsonl",
        b"{\"key\":\"\xff\",\"value\":1}\n{\"key\":\"z\",\"value\":26}",
    );
    for piece in [1, 40, 1000] {
        let files = Files::dir(dir.path(), Format::JsonLines).piece_bytes(piece);
        let (found, dead) = read_all::<(String, i64)>(small(2, 4, 3), files);
        let wanted = [("a", 1), ("e", 5), ("i", 9), ("z", 26)];
        assert_eq!(found, wanted.map(|(key, value)| (key.to_owned(), value)));
        let bad =
            |line: usize, words: &'static str| ("a.jsonl", line as u64, words, lines[line - 1]);
        are(
            &dead[..8],
            &[
                bad(2, "expected a value, at byte 19 of the line"),
                bad(3, "not a JSON object"),
                bad(5, "column `value`: it is a text, not a number"),
                bad(6, "column `value`: no member has this name"),
                bad(8, "not a JSON object"),
                bad(9, "not a JSON object"),
                bad(10, "something follows the object"),
                bad(11, "column `value`: it is null"),
            ],
        );
        assert!(dead[8].producer.ends_with("b.jsonl") && dead[8].reason.starts_with("line 1: "));
        assert_eq!(dead.len(), 9);
    }
}

#[test]
fn bad_records_of_csv_are_dead_letters_and_their_neighbours_are_kept() {
    let dir = Dir::new();
    let text = "more,value,key\nx,1,a\n,2\n,3,c,d\n\n,,e\n,x,f\n,7,\"g\nh\"\n,8,\n,9,\"open\n,10,j";
    put(&dir, "a.csv", text);
    put(&dir, "b.csv", "key,walue\nk,1\n");
    for piece in [1, 20, 1000] {
        let files = Files::dir(dir.path(), Format::Csv).piece_bytes(piece);
        let (found, dead) = read_all::<(String, i64)>(small(2, 4, 3), files);
        let wanted = [("a", 1), ("g\nh", 7), ("", 8), ("j", 10)];
        assert_eq!(found, wanted.map(|(key, value)| (key.to_owned(), value)));
        are(
            &dead[..5],
            &[
                ("a.csv", 3, "fields", ",2"),
                ("a.csv", 4, "fields", ",3,c,d"),
                ("a.csv", 6, "column `value`: it is empty", ",,e"),
                ("a.csv", 7, "column `value`: it is not a number", ",x,f"),
                ("a.csv", 11, "quote", ",9,\"open"),
            ],
        );
        // The whole file: it lacks a column.
        let [.., last] = &dead[..] else { panic!() };
        assert_eq!((dead.len(), last.bytes.len()), (6, 0));
        assert!(last.producer.ends_with("b.csv"));
        for part in ["given up", "value: Int64", "\"key\", \"walue\""] {
            assert!(
                last.reason.contains(part),
                "`{part}` is not in: {}",
                last.reason
            );
        }
    }
}

#[test]
fn bad_lines_of_text_are_dead_letters_and_their_neighbours_are_kept() {
    let dir = Dir::new();
    let long = "l".repeat(21);
    let text = [b"one\n\xffx\n\n".as_slice(), long.as_bytes(), b"\r\nlast"].concat();
    put(&dir, "a", text);
    put(&dir, "b.tmp", "passed over");
    put(&dir, ".c", "passed over");
    let mut config = small(2, 4, 3);
    config.line_bytes = 20;
    for piece in [1, 5, 1000] {
        let files = Files::dir(dir.path(), Format::Text).piece_bytes(piece);
        let (found, dead) = read_all::<String>(config.clone(), files);
        assert_eq!(found, ["one", "", "last"]);
        let wanted = [
            ("a", 2, "UTF-8 at byte 0", "\u{fffd}x"),
            ("a", 4, "limit is 20", long.as_str()),
        ];
        are(&dead, &wanted);
    }
}

#[cfg(feature = "parquet")]
#[test]
fn mismatched_parquet_is_a_dead_letter() {
    let dir = Dir::new();
    let rows = [("a", Some(1i64)), ("b", None), ("c", Some(3))];
    let rows = rows.map(|(key, value)| (key.to_owned(), value));
    write(&dir.join("a"), Format::Parquet, &[batch_of(rows).unwrap()]);
    put(&dir, "b", "PAR1 is no Parquet PAR1");
    let wrong = batch_of([("key".to_owned(), "value".to_owned())]).unwrap();
    write(&dir.join("c"), Format::Parquet, &[wrong]);
    let mut torn = fs::read(dir.join("a")).unwrap();
    torn[4..40].fill(0xff);
    put(&dir, "d", torn);
    write(
        &dir.join("e"),
        Format::Parquet,
        &[batch_of([("e".to_owned(), 5i64)]).unwrap()],
    );
    let files = Files::dir(dir.path(), Format::Parquet);
    let (found, dead) = read_all::<(String, i64)>(small(2, 4, 3), files);
    let wanted = [("a", 1), ("c", 3), ("e", 5)];
    assert_eq!(found, wanted.map(|(key, value)| (key.to_owned(), value)));
    let found = reasons(&dead);
    let names: Vec<_> = found.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "d"], "{found:#?}");
    assert_eq!(found[0].1, "row 2: column `value` is null");
    for (place, begins) in [(1, "given up: "), (2, "given up: "), (3, "rows 1 to 3: ")] {
        assert!(found[place].1.starts_with(begins), "{found:#?}");
    }
    assert!(
        found[2]
            .1
            .contains("expected (key: Utf8View, value: Int64)"),
        "{found:#?}"
    );
}

#[test]
fn files_are_read_once_as_they_appear() {
    block_on(async {
        let dir = Dir::new();
        put(&dir, "b", "first\n");
        let files = Files::dir(dir.path(), Format::Text).every(Duration::from_millis(2));
        let mut reader = Reader::<String>::start(small(2, 4, 3), files).await;
        assert_eq!(reader.receive(1, 0).await.0, ["first"]);
        put(&dir, "b", "another of a name that was read\n");
        fs::write(dir.join("c.tmp"), "not whole").unwrap();
        put(&dir, "a", "second\n");
        assert_eq!(reader.receive(1, 0).await.0, ["second"]);
        fs::write(dir.join("c.tmp"), "whole\n").unwrap();
        fs::rename(dir.join("c.tmp"), dir.join("c")).unwrap();
        assert_eq!(reader.receive(1, 0).await.0, ["whole"]);
        // The directory is removed and created again.
        fs::remove_dir_all(dir.path()).unwrap();
        fs::create_dir(dir.path()).unwrap();
        fs::create_dir(dir.join("_d")).unwrap();
        fs::write(dir.join("_d/e"), "fourth\n").unwrap();
        fs::rename(dir.join("_d"), dir.join("d")).unwrap();
        assert_eq!(reader.receive(1, 0).await.0, ["fourth"]);
        assert_eq!(reader.ends.0.load(Ordering::SeqCst), 0);
        soon("the stop", reader.live.running.stop()).await.unwrap();
        assert!(
            reader
                .records
                .recv()
                .await
                .is_none_or(|rdd| rdd.num_rows() == 0)
        );
    });
}

/// Text larger than memory: the source waits until batches have taken some.
pub fn large(lines: usize) -> String {
    (0..lines)
        .map(|n| format!("{n} {}\n", "x".repeat(90)))
        .collect()
}

pub fn tight() -> Config {
    let mut config = small(2, 1000, 1000);
    (config.block_memory, config.line_bytes) = (64 << 10, 1000);
    config
}

#[test]
fn a_stop_ends_a_source_that_waits_for_memory_or_files() {
    block_on(async {
        for lines in [5000, 0] {
            let dir = Dir::new();
            put(&dir, "a", large(lines));
            let files = Files::dir(dir.path(), Format::Text).piece_bytes(16 << 10);
            let files = files.every(Duration::from_secs(3600));
            let mut reader = Reader::<String>::start(tight(), files).await;
            let used = || reader.live.running.status().block_memory;
            until("memory to be taken", || lines == 0 || used() > 30 << 10).await;
            soon("the stop", reader.live.running.stop()).await.unwrap();
            let mut all = Vec::new();
            take(&mut reader.records, &mut all);
            // Pushed records are complete, from the beginning and in order.
            let wanted = large(lines);
            assert!(
                all.iter()
                    .map(String::as_str)
                    .eq(wanted.lines().take(all.len()))
            );
            assert!(
                lines == 0 || (1..lines).contains(&all.len()),
                "{}",
                all.len()
            );
        }
    });
}

#[test]
fn the_output_of_a_sink_is_read_while_it_is_written() {
    for &format in FORMATS {
        let dir = Dir::new();
        block_on(async {
            let mut writer = Program::new(small(3, 1, 2));
            let (queue, rows) = writer.ctx.queue::<Row>("rows");
            rows.write_files(dir.path(), format).unwrap();
            let mut live = writer.start().await;
            let files = Files::dir(dir.path(), format).every(Duration::from_millis(2));
            let mut reader = Reader::<Row>::start(small(2, 4, 3), files).await;
            for batch in 0..5i64 {
                let rows = (0..batch * 7).map(|number| Row {
                    text: format!("{batch},\"\n"),
                    number,
                    maybe: (number % 2 == 0).then_some(0.5),
                    flag: number % 3 == 0,
                });
                let rows: Vec<_> = rows.collect();
                queue.push(rows.clone()).await.unwrap();
                live.batch().await;
                let (found, dead) = reader.receive(rows.len(), 0).await;
                assert_eq!((found, dead), (rows, vec![]), "{format:?}");
            }
        });
    }
}

#[test]
fn unreadable_sources_are_refused() {
    let mut program = Program::new(small(1, 1, 1));
    let ctx = &mut program.ctx;
    let error = ctx
        .files::<i64>("n", Files::dir("/nowhere", Format::Text))
        .err()
        .unwrap();
    assert!(error.to_string().contains("stream of `String`"), "{error}");
    let lists = ctx.files::<(i64, Vec<i64>)>("n", Files::dir("/nowhere", Format::Csv));
    assert!(lists.err().unwrap().to_string().contains("use JSON lines"));
    let text = ctx
        .files::<String>("lines", Files::dir("/nowhere", Format::Text))
        .unwrap();
    text.print(1);
    let started = block_on(program.ctx.start());
    let Err(Error::Source { stream, cause }) = started else {
        panic!()
    };
    assert_eq!(stream, "lines");
    assert!(
        matches!(cause.downcast_ref(), Some(Error::File { .. })),
        "{cause:?}"
    );
    assert!(
        cause.to_string().contains("cannot list /nowhere"),
        "{cause}"
    );
}
