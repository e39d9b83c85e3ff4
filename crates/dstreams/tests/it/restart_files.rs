//! Files in, files out, and the program between them is killed: each line is in one batch, once.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use dstreams::agg::count;
use dstreams::files::{Files, Format};
use dstreams::{Config, StreamContext};

use crate::killed::new_dir;
use crate::program::{block_on, soon, until};
use crate::restart::{PLACE, Process, be_the_program};

const FILES: usize = 40;
const LINES: usize = 60;

/// With `once`, takes all files, then stops; with `url`, from an object store.
fn program(dir: &Path, once: bool, url: bool) -> dstreams::Result<StreamContext> {
    let mut config = Config::new(Duration::from_millis(50));
    config.threads = 2;
    config.rows_per_task = 16;
    config.checkpoint_every = 3;
    let mut ctx = StreamContext::with_config(config)?;
    let files = match url {
        true => Files::url(&format!("file://{}/in", dir.display()), Format::Text),
        false => Files::dir(dir.join("in"), Format::Text),
    };
    // Small pieces: a file takes several, with kills between them.
    let files = files.every(Duration::from_millis(10)).piece_bytes(200);
    let files = if once { files.once() } else { files };
    let lines = ctx.files::<String>("lines", files)?;
    if once {
        ctx.stop_when_sources_end();
    }
    lines.write_files(dir.join("lines"), Format::JsonLines)?;
    let dead = ctx.dead_letters();
    let dead = dead.map(|letter| format!("{} {}", letter.producer, letter.reason));
    dead.write_files(dir.join("dead"), Format::JsonLines)?;
    let kinds = lines.key_by_into::<String>(|line, key| key.push(&line[..1]));
    let totals = kinds.running_agg("totals", count())?;
    totals
        .changes()
        .pairs()
        .write_files(dir.join("totals"), Format::JsonLines)?;
    Ok(ctx)
}

/// Not a test: the program, until it is killed or stopped.
#[test]
#[ignore = "a process of other tests"]
fn the_program() {
    let Ok(place) = std::env::var(PLACE) else {
        return;
    };
    let (kind, dir) = place.split_once('|').unwrap();
    let dir = Path::new(dir);
    let (once, url) = (kind.contains("once"), kind.contains("url"));
    be_the_program(dir, || program(dir, once, url));
}

/// The lines of each batch, partition after partition.
fn batches(dir: &Path) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for batch in std::fs::read_dir(dir).into_iter().flatten() {
        let batch = batch.unwrap();
        let name = batch.file_name().into_string().unwrap();
        if !name.starts_with("batch=") {
            continue;
        }
        let parts = std::fs::read_dir(batch.path()).unwrap();
        let mut parts: Vec<_> = parts.map(|part| part.unwrap().path()).collect();
        parts.sort();
        let text = parts
            .iter()
            .map(|part| std::fs::read_to_string(part).unwrap());
        let text: String = text.collect();
        all.insert(name, text.lines().map(str::to_owned).collect());
    }
    all
}

fn line(file: usize, line: usize) -> String {
    format!(
        "{} of file {file}, line {line}",
        ["a", "b", "c"][(file + line) % 3]
    )
}

/// Writes a file under an ignored name, and renames it. It has two more, invalid lines, in the middle and at the
/// end.
fn put(dir: &Path, file: usize) {
    let lines = |of: std::ops::Range<usize>| of.map(|at| line(file, at) + "\n").collect::<String>();
    let (half, bad) = (LINES / 2, b"\xff\n");
    let lines = [
        lines(0..half).as_bytes(),
        bad,
        lines(half..LINES).as_bytes(),
        bad,
    ]
    .concat();
    let hidden = dir.join(format!(".{file:03}"));
    std::fs::write(&hidden, lines).unwrap();
    std::fs::rename(hidden, dir.join(format!("{file:03}.txt"))).unwrap();
}

#[test]
fn each_line_of_a_file_is_in_one_batch_despite_kills() {
    lines_are_in_one_batch_whenever_it_is_killed("dir");
}

#[test]
fn each_line_of_an_object_is_in_one_batch_despite_kills() {
    lines_are_in_one_batch_whenever_it_is_killed("url");
}

fn lines_are_in_one_batch_whenever_it_is_killed(kind: &str) {
    let dir = new_dir();
    std::fs::create_dir_all(dir.join("in")).unwrap();
    let place = format!("{kind}|{}", dir.display());
    let start = || Process::start_as("restart_files::the_program", &dir, &place, None);
    let found = || batches(&dir.join("lines")).into_values().flatten().count();
    block_on(async {
        let mut process = start();
        for file in 0..FILES {
            put(&dir.join("in"), file);
            if file % 4 == 2 {
                // While it reads, or a little later.
                let there = found();
                let wait = async {
                    while found() < (there + 1).min((file + 1) * LINES) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                };
                soon("some lines", wait).await;
                tokio::time::sleep(Duration::from_millis((file * 7 % 40) as u64)).await;
                process.kill();
                process = start();
            }
        }
        let wait = async {
            while found() < FILES * LINES {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("all lines", wait).await;
        process.stop();
    });
    check(&dir, kind, FILES);
    std::fs::remove_dir_all(dir).unwrap();
}

/// Each line of so many files is in one batch, once, and the totals of each batch are those of all lines so far.
fn check(dir: &Path, kind: &str, files: usize) {
    let text = |json: &String| {
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        value["value"].as_str().unwrap().to_owned()
    };
    let lines = batches(&dir.join("lines"));
    let mut all: Vec<String> = lines.values().flatten().map(text).collect();
    all.sort();
    let wanted = (0..files).flat_map(|file| (0..LINES).map(move |at| line(file, at)));
    let mut wanted: Vec<_> = wanted.collect();
    wanted.sort();
    assert_eq!(all, wanted);
    let dead = batches(&dir.join("dead"));
    let mut dead: Vec<String> = dead.values().flatten().map(text).collect();
    dead.sort();
    let wanted = (0..files).flat_map(|file| {
        let root = dir.to_str().unwrap();
        // Paths in an object store have no leading root.
        let root = if kind.contains("url") {
            &root[1..]
        } else {
            root
        };
        let of = |line| {
            format!("{root}/in/{file:03}.txt line {line}: invalid UTF-8 at byte 0 of the line")
        };
        [of(LINES / 2 + 1), of(LINES + 2)]
    });
    assert_eq!(dead, wanted.collect::<Vec<_>>());

    let totals = batches(&dir.join("totals"));
    assert!(totals.keys().eq(lines.keys()));
    let mut so_far = BTreeMap::<String, i64>::new();
    for (batch, lines) in &lines {
        let mut changed = BTreeMap::new();
        for line in lines.iter().map(text) {
            let total = so_far.entry(line[..1].to_owned()).or_default();
            *total += 1;
            changed.insert(line[..1].to_owned(), *total);
        }
        let found = totals[batch].iter().map(|json| {
            let value: serde_json::Value = serde_json::from_str(json).unwrap();
            let key = value["key"].as_str().unwrap().to_owned();
            (key, value["value"].as_i64().unwrap())
        });
        assert_eq!(found.collect::<BTreeMap<_, _>>(), changed, "{batch}");
    }
}

/// The same program over the existing files: it stops by itself when each line is in a batch, once, also after
/// kills; a new start takes the files added since.
#[test]
fn a_program_over_existing_files_stops_by_itself_despite_kills() {
    all_there_is_whenever_it_is_killed("once");
}

#[test]
fn a_program_over_existing_objects_stops_by_itself_despite_kills() {
    all_there_is_whenever_it_is_killed("once-url");
}

fn all_there_is_whenever_it_is_killed(kind: &str) {
    let dir = new_dir();
    std::fs::create_dir_all(dir.join("in")).unwrap();
    (0..FILES).for_each(|file| put(&dir.join("in"), file));
    let place = format!("{kind}|{}", dir.display());
    let start = || Process::start_as("restart_files::the_program", &dir, &place, None);
    let found = || batches(&dir.join("lines")).into_values().flatten().count();
    block_on(async {
        let mut kills = 0;
        loop {
            let (mut process, there) = (start(), found());
            until("more lines", || {
                found() > there || process.ended().is_some()
            })
            .await;
            if kills < 5 && process.ended().is_none() {
                process.kill();
                kills += 1;
            } else {
                assert!(process.end().await.success(), "it ended badly");
                break;
            }
        }
        assert!(kills > 1, "killed {kills} times before its end");
        check(&dir, kind, FILES);
        let batch = |dir: &Path| batches(&dir.join("lines")).len();
        let before = batch(&dir);
        assert!(start().end().await.success());
        assert_eq!(batch(&dir), before, "there was nothing new");
        put(&dir.join("in"), FILES);
        assert!(start().end().await.success());
    });
    check(&dir, kind, FILES + 1);
    std::fs::remove_dir_all(dir).unwrap();
}
