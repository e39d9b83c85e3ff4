//! A program's directory: inspected, moved, used by another program.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dstreams::agg::{count, sum};
use dstreams::datafusion::object_store::memory::InMemory;
use dstreams::datafusion::object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use dstreams::{BatchTime, Error, Queue, StreamContext};

use crate::dir::Dir;
use crate::program::{INTERVAL, Live, Program, block_on, small, soon};
use crate::watched::{Answer, Asked, Watched};

/// The newest file with this prefix.
fn file_of(dir: &Path, prefix: &str) -> PathBuf {
    let files = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let of = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with(prefix)
    };
    files.filter(of).max().unwrap()
}

/// Flips a bit in the middle of a file, or flips it back.
fn flip(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

/// The directory of a program, and the number of intervals it has run.
struct Place(Dir, Cell<u32>);

impl Place {
    fn new() -> Self {
        Place(Dir::missing(), Cell::new(0))
    }
}

/// A program's directory can be inspected without it, and damage is named.
#[test]
fn the_directory_of_a_program_can_be_inspected() {
    let dir = Dir::missing();
    let dir = dir.path();
    let nothing = dstreams::inspect(dir).unwrap_err().to_string();
    assert!(nothing.contains(dir.to_str().unwrap()), "{nothing}");
    block_on(async {
        let mut config = small(2, 4, 8);
        config.checkpoint_every = 2;
        let mut program = Program::new(config);
        let (queue, words) = program.ctx.queue::<String>("words");
        let counts = words.keyed().running_agg("counts", dstreams::agg::count());
        counts.unwrap().changes().pairs().for_each_rdd(|_| ());
        program.ctx.persist_in(dir);
        let mut live = program.start().await;
        for word in ["a", "b", "c"] {
            queue.push([word.to_owned()]).await.unwrap();
            live.batch().await;
        }
        let lineage = live.running.lineage().unwrap();
        let batches = |from: u64| (from..=300).step_by(100).map(BatchTime).collect::<Vec<_>>();
        // The checkpoint of the second batch is complete, or is being written.
        let after = lineage.checkpoint.map_or(100, |batch| batch.0 + 100);
        let known: Vec<_> = lineage.batches.keys().copied().collect();
        assert_eq!(known, batches(after), "{lineage}");
        assert!(
            lineage.batches.values().all(|of| of.records == 1),
            "{lineage}"
        );
        assert!(
            lineage
                .to_string()
                .contains("+ batch 300 ms: 1 block(s), 1 record(s)"),
            "{lineage}"
        );
        let taken = dstreams::inspect(dir).unwrap();
        // The last batch is in no checkpoint; those before may be, by now.
        assert!((1..=3).contains(&taken.journal.blocks), "{taken:?}");
        assert_eq!(taken.journal.cut.last(), Some(&300), "{taken:?}");
        live.running.stop().await.unwrap();
    });
    let found = dstreams::inspect(dir).unwrap();
    let checkpoint = found.checkpoint.unwrap();
    let state = &checkpoint.states[0];
    assert_eq!(
        (&*state.name, state.holds.contains("Count")),
        ("counts", true),
        "{state:?}"
    );
    assert!(state.whole_bytes > 0 && state.parts >= 2, "{state:?}");
    assert_eq!((checkpoint.partitions, checkpoint.interval_ms), (2, 100));
    for (file, what) in [("state-", "not what was written"), ("manifest-", "damaged")] {
        let file = file_of(dir, file);
        flip(&file);
        let damaged = dstreams::inspect(dir).unwrap_err().to_string();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(
            damaged.contains(name) && damaged.contains(what),
            "{damaged}"
        );
        flip(&file);
        dstreams::inspect(dir).unwrap();
    }
}

/// Each kind of file, with flipped bits, zeroed or truncated ends, and repeated bytes.
#[test]
fn damage_to_a_directory_is_named_or_harmless() {
    let dir = Dir::missing();
    let dir = dir.path();
    block_on(async {
        let mut config = small(2, 4, 8);
        config.checkpoint_every = 2;
        let mut program = Program::new(config);
        let (queue, words) = program.ctx.queue::<String>("words");
        let counts = words.keyed().running_agg("counts", count());
        counts.unwrap().changes().pairs().for_each_rdd(|_| ());
        program.ctx.persist_in(dir);
        let mut live = program.start().await;
        for word in ["a", "b", "c"] {
            queue.push([word.to_owned()]).await.unwrap();
            live.batch().await;
        }
        live.running.stop().await.unwrap();
    });
    let whole = dstreams::inspect(dir).unwrap();
    for (kind, remedy) in [
        ("journal-", "restore the file from a copy"),
        ("manifest-", "restore it from a copy"),
        ("state-", "restore it from a copy"),
    ] {
        let path = file_of(dir, kind);
        let name = path.file_name().unwrap().to_str().unwrap();
        let (bytes, mut refused) = (std::fs::read(&path).unwrap(), 0);
        for n in 0..100 {
            let (at, mut changed) = (n * bytes.len() / 100, bytes.clone());
            match n % 4 {
                0 => changed[at] ^= 1 << (n % 7),
                1 => changed[at..].fill(0),
                2 => changed.truncate(at),
                _ => changed.extend_from_slice(&bytes[at..]),
            }
            std::fs::write(&path, &changed).unwrap();
            match dstreams::inspect(dir) {
                // A truncated journal looks as if its end had not been synced.
                Ok(found) if kind == "journal-" => {
                    assert_eq!(found.checkpoint, whole.checkpoint);
                    assert!(found.journal.cut.len() <= whole.journal.cut.len());
                }
                Ok(found) => assert_eq!(found, whole, "{kind} {n}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains(name) && text.contains(remedy), "{text}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0, "{kind}");
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(dstreams::inspect(dir).unwrap(), whole);
    }
}

/// A directory belongs to one program, and to one process at a time; both refusals say what to do.
#[test]
fn a_directory_of_another_program_or_process_is_refused() {
    let dir = Dir::missing();
    let dir = dir.path();
    let program = |window: u32| {
        let mut config = small(2, 4, 8);
        config.checkpoint_every = 1;
        let mut program = Program::new(config);
        let (queue, words) = program.ctx.queue::<String>("words");
        let counts = words
            .keyed()
            .window_agg(INTERVAL * window, INTERVAL, count());
        counts.unwrap().pairs().for_each_rdd(|_| ());
        program.ctx.persist_in(dir);
        (program, queue)
    };
    block_on(async {
        let (first, queue) = program(3);
        let mut live = first.start().await;
        let second = program(3).0.ctx.start().await.err().unwrap().to_string();
        assert!(second.contains("used by another process"), "{second}");
        for _ in 0..2 {
            queue.push(["a".to_owned()]).await.unwrap();
            live.batch().await;
        }
        live.running.stop().await.unwrap();
        drop(live);

        let other = program(5).0.ctx.start().await.err().unwrap().to_string();
        assert!(
            other.contains("300 ms") && other.contains("500 ms"),
            "{other}"
        );
        assert!(other.contains("a directory of its own"), "{other}");
        let same = program(3).0.ctx.start().await.unwrap();
        same.stop().await.unwrap();
    });
}

/// Running counts and sums of numbered words, stored in `dir`.
struct Kept<'a> {
    dir: &'a Place,
    program: Program,
    words: Queue<(String, i64)>,
}

impl<'a> Kept<'a> {
    /// `name` is that of the counts; with `more`, there is a running sum too.
    fn new(
        dir: &'a Place,
        name: &str,
        more: bool,
        change: impl FnOnce(&mut StreamContext),
    ) -> Self {
        let mut config = small(2, 4, 8);
        config.checkpoint_every = 1;
        let mut program = Program::after(dir.1.get(), config);
        let (words, numbered) = program.ctx.queue::<(String, i64)>("words");
        let keyed = numbered.by_key();
        let counts = keyed.running_agg(name, count()).unwrap();
        counts.changes().pairs().for_each_rdd(|_| ());
        if more {
            let sums = keyed.running_agg("sums", sum::<i64>()).unwrap();
            sums.changes().pairs().for_each_rdd(|_| ());
        }
        change(&mut program.ctx);
        program.ctx.persist_in(dir.0.path());
        Kept {
            dir,
            program,
            words,
        }
    }

    async fn refused(self) -> String {
        self.program.ctx.start().await.err().unwrap().to_string()
    }

    /// Runs some batches, each with `word` in it, and ends.
    async fn run(self, word: &str, batches: usize) -> Vec<(String, i64)> {
        let live = self.program.start().await;
        run(self.dir, live, &self.words, word, batches).await
    }
}

/// Runs some batches, each with `word` in it, and ends; returns all counts.
async fn run(
    dir: &Place,
    mut live: Live,
    words: &Queue<(String, i64)>,
    word: &str,
    batches: usize,
) -> Vec<(String, i64)> {
    for _ in 0..batches {
        words.push([(word.to_owned(), 2)]).await.unwrap();
        live.batch().await;
        dir.1.set(dir.1.get() + 1);
    }
    let session = live.running.session().await.unwrap();
    let tables = session
        .sql("select * from counts order by 1")
        .await
        .unwrap();
    let mut found = Vec::new();
    for rows in tables.collect().await.unwrap() {
        found.extend(dstreams::record::records_of::<(String, i64)>(&rows).unwrap());
    }
    end(dir, live).await;
    found
}

/// Ends it, with a last batch for the interval that has begun.
async fn end(dir: &Place, live: Live) {
    live.running.stop().await.unwrap();
    dir.1.set(dir.1.get() + 1);
}

fn counted(of: &[(&str, i64)]) -> Vec<(String, i64)> {
    of.iter()
        .map(|(word, count)| ((*word).to_owned(), *count))
        .collect()
}

/// Matching state stays, new state begins empty, and unused state is refused until it is dropped or renamed.
#[test]
fn a_changed_program_keeps_matching_state() {
    let dir = Place::new();
    block_on(async {
        let found = Kept::new(&dir, "counts", false, |_| ()).run("a", 2).await;
        assert_eq!(found, counted(&[("a", 2)]));
        let found = Kept::new(&dir, "counts", true, |_| ()).run("b", 1).await;
        assert_eq!(found, counted(&[("a", 2), ("b", 1)]));

        let gone = Kept::new(&dir, "counts", false, |_| ()).refused().await;
        assert!(
            gone.contains("no state sums") && gone.contains("drop_state"),
            "{gone}"
        );
        let dropped = Kept::new(&dir, "counts", false, |ctx| ctx.drop_state("sums"));
        let found = dropped.run("b", 1).await;
        assert_eq!(found, counted(&[("a", 2), ("b", 2)]));

        let other = Kept::new(&dir, "tally", false, |_| ()).refused().await;
        assert!(
            other.contains("no state counts") && other.contains("rename_state"),
            "{other}"
        );
        let renamed = Kept::new(&dir, "tally", false, |ctx| {
            ctx.rename_state("counts", "tally")
        });
        end(&dir, renamed.program.start().await).await;
        let back = Kept::new(&dir, "counts", false, |ctx| {
            ctx.rename_state("tally", "counts")
        });
        let found = back.run("c", 1).await;
        assert_eq!(found, counted(&[("a", 2), ("b", 2), ("c", 1)]));

        // The same name, but sums.
        let mut program = Program::new(small(2, 4, 8));
        let (_words, numbered) = program.ctx.queue::<(String, i64)>("words");
        let sums = numbered
            .by_key()
            .running_agg("counts", sum::<i64>())
            .unwrap();
        sums.changes().pairs().for_each_rdd(|_| ());
        program.ctx.persist_in(dir.0.path());
        let differs = program.ctx.start().await.err().unwrap().to_string();
        assert!(
            differs.contains("Count") && differs.contains("Sum"),
            "{differs}"
        );
    });
}

/// Checkpoints in an object store; the journal stays in the directory.
#[test]
fn checkpoints_may_be_in_an_object_store() {
    let dir = Place::new();
    let store: Arc<InMemory> = Arc::default();
    let to_store = |ctx: &mut StreamContext| {
        ctx.checkpoint_to_store(Arc::clone(&store) as Arc<dyn ObjectStore>, "a/program");
    };
    block_on(async {
        let found = Kept::new(&dir, "counts", false, to_store).run("a", 5).await;
        assert_eq!(found, counted(&[("a", 5)]));
        let found = Kept::new(&dir, "counts", false, to_store).run("b", 2).await;
        assert_eq!(found, counted(&[("a", 5), ("b", 2)]));
        assert!(
            dstreams::inspect(dir.0.path())
                .unwrap()
                .checkpoint
                .is_none()
        );
        let objects = names(&store).await;
        let manifests: Vec<_> = objects
            .iter()
            .filter(|name| name.contains("manifest-"))
            .collect();
        assert_eq!(manifests.len(), 1, "{objects:?}");

        // Another program has written the next one there: ours is not, and the program continues with its journal.
        let live = Kept::new(&dir, "counts", false, to_store);
        let (mut running, words) = (live.program.start().await, live.words);
        let newest = manifests[0].rsplit_once('-').unwrap().1;
        let next = format!(
            "a/program/manifest-{:020}",
            newest.parse::<u64>().unwrap() + 1
        );
        let theirs = PutPayload::from_static(b"theirs");
        store.put(&next.as_str().into(), theirs).await.unwrap();
        words.push([("c".to_owned(), 2)]).await.unwrap();
        running.batch().await;
        dir.1.set(dir.1.get() + 1);
        let found = run(&dir, running, &words, "c", 1).await;
        assert_eq!(found, counted(&[("a", 5), ("b", 2), ("c", 2)]));
        let kept = store.get(&next.as_str().into()).await.unwrap();
        assert_eq!(kept.bytes().await.unwrap(), "theirs");
        let refused = Kept::new(&dir, "counts", false, to_store).refused().await;
        assert!(refused.contains("manifest-"), "{refused}");
        store.delete(&next.as_str().into()).await.unwrap();
        let found = Kept::new(&dir, "counts", false, to_store).run("c", 1).await;
        assert_eq!(found, counted(&[("a", 5), ("b", 2), ("c", 3)]));
    });
}

/// A checkpoint that is complete, though the store reported a failure, is followed by the next ones.
#[test]
fn a_checkpoint_reported_as_failed_is_followed_by_others() {
    let dir = Place::new();
    let second = |name: &str| name.contains("manifest-") && name.ends_with("0002");
    let store = Watched::new(move |asked, _| match asked {
        Asked::Put(name) if second(name) => Answer::Fail,
        _ => Answer::Give,
    });
    let to_store = |ctx: &mut StreamContext| {
        ctx.checkpoint_to_store(Arc::clone(&store) as Arc<dyn ObjectStore>, "a/program");
    };
    block_on(async {
        let live = Kept::new(&dir, "counts", false, to_store);
        let (mut running, words) = (live.program.start().await, live.words);
        let mut written = 0i64;
        let fourth = |name: &String| name.contains("manifest-") && name.ends_with('4');
        while !names(&store.objects).await.iter().any(fourth) {
            words.push([("a".to_owned(), 1)]).await.unwrap();
            running.batch().await;
            written += 1;
            assert!(written < 1_000, "{:?}", names(&store.objects).await);
        }
        dir.1.set(dir.1.get() + written as u32);
        let found = run(&dir, running, &words, "b", 1).await;
        assert_eq!(found, counted(&[("a", written), ("b", 1)]));
        let asked = store.asked();
        let put = |name: &Asked| matches!(name, Asked::Put(name) if second(name));
        assert_eq!(asked.iter().filter(|asked| put(asked)).count(), 1);
        let found = Kept::new(&dir, "counts", false, to_store).run("c", 1).await;
        assert_eq!(found, counted(&[("a", written), ("b", 1), ("c", 1)]));
    });
}

async fn names(store: &InMemory) -> Vec<String> {
    let listed = store
        .list_with_delimiter(Some(&"a/program".into()))
        .await
        .unwrap();
    let objects = listed.objects.into_iter();
    objects.map(|object| object.location.to_string()).collect()
}

/// A valid URL, and an invalid one.
#[test]
fn a_url_names_the_place_of_checkpoints() {
    let (dir, place) = (Place::new(), Dir::missing());
    block_on(async {
        let url = format!("file://{}", place.path().display());
        let at = |ctx: &mut StreamContext| ctx.checkpoint_to(&url).unwrap();
        Kept::new(&dir, "counts", false, at).run("a", 3).await;
        assert!(file_of(place.path(), "manifest-").exists());
        let found = Kept::new(&dir, "counts", false, at).run("a", 1).await;
        assert_eq!(found, counted(&[("a", 4)]));
        let mut ctx = StreamContext::new(INTERVAL).unwrap();
        for wrong in ["nowhere", "gopher://host/path"] {
            let error = ctx.checkpoint_to(wrong).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    });
}

/// The directory of a running program is removed: the program ends, and acknowledges nothing more.
#[test]
fn a_program_ends_when_its_directory_is_removed() {
    let dir = Place::new();
    block_on(async {
        let live = Kept::new(&dir, "counts", false, |_| ());
        let (mut running, words) = (live.program.start().await, live.words);
        words.push([("a".to_owned(), 2)]).await.unwrap();
        running.batch().await;
        let moved = dir.0.path().with_extension("moved");
        std::fs::rename(dir.0.path(), &moved).unwrap();
        let pushed = words.push([("b".to_owned(), 2)]);
        running.clock.advance(INTERVAL);
        let end = running.running.await_termination(None);
        let ended = tokio::select! {
            pushed = pushed => { pushed.unwrap_err(); None }
            ended = end => Some(ended.unwrap_err().to_string()),
        };
        let ended = match ended {
            Some(ended) => ended,
            None => running
                .running
                .await_termination(None)
                .await
                .unwrap_err()
                .to_string(),
        };
        assert!(ended.contains(dir.0.path().to_str().unwrap()), "{ended}");
        drop(running);
        // Put back, the program resumes with what was acknowledged.
        let _ = std::fs::remove_dir_all(dir.0.path());
        std::fs::rename(&moved, dir.0.path()).unwrap();
        dir.1.set(dir.1.get() + 2);
        let found = Kept::new(&dir, "counts", false, |_| ()).run("c", 1).await;
        assert!(found.starts_with(&counted(&[("a", 1)])), "{found:?}");
    });
}

/// The same while nothing is received and no interval ends.
#[test]
fn a_program_that_does_nothing_ends_when_its_directory_is_removed() {
    let dir = Place::new();
    block_on(async {
        let live = Kept::new(&dir, "counts", false, |_| ());
        let running = live.program.start().await;
        std::fs::remove_dir_all(dir.0.path()).unwrap();
        let ended = soon("the end", running.running.await_termination(None)).await;
        let ended = ended.unwrap_err();
        assert!(matches!(ended, Error::LostDirectory { .. }), "{ended}");
    });
}

/// Repeated failures of checkpoints are also in the status.
#[test]
fn failed_checkpoints_are_in_the_status() {
    let dir = Place::new();
    let failing = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let fails = Arc::clone(&failing);
    let store = Watched::new(move |asked, _| match asked {
        Asked::Put(name)
            if name.contains("manifest-") && fails.load(std::sync::atomic::Ordering::SeqCst) =>
        {
            Answer::Fail
        }
        _ => Answer::Give,
    });
    let to_store = |ctx: &mut StreamContext| {
        ctx.checkpoint_to_store(Arc::clone(&store) as Arc<dyn ObjectStore>, "a/program");
    };
    block_on(async {
        let live = Kept::new(&dir, "counts", false, to_store);
        let mut running = live.program.start().await;
        for (fails, wanted) in [(true, 2..u64::MAX), (false, 0..1)] {
            failing.store(fails, std::sync::atomic::Ordering::SeqCst);
            let mut batches = 0;
            loop {
                let failures = running.running.status().checkpoint_failures;
                assert_eq!(failures.tries > 0, failures.error.is_some());
                if wanted.contains(&failures.tries) {
                    break;
                }
                live.words.push([("a".to_owned(), 2)]).await.unwrap();
                running.batch().await;
                batches += 1;
                assert!(batches < 1_000, "{failures:?}");
            }
        }
        running.running.stop().await.unwrap();
    });
}

/// A program ignores other files of a place, and subdirectories.
#[test]
fn a_place_may_have_other_files_and_subdirectories() {
    let (dir, inner) = (Place::new(), Place::new());
    let others = [
        "state-of-the-nation.txt",
        "manifest-of-goods.csv",
        ".manifest-draft",
    ];
    std::fs::create_dir_all(dir.0.join("state-00000000000000000007-0")).unwrap();
    for name in others {
        std::fs::write(dir.0.join(name), name).unwrap();
    }
    let store: Arc<InMemory> = Arc::default();
    let at = |place: &'static str| {
        let store = Arc::clone(&store) as Arc<dyn ObjectStore>;
        move |ctx: &mut StreamContext| ctx.checkpoint_to_store(Arc::clone(&store), place)
    };
    block_on(async {
        for counted_before in 0..2 {
            let found = Kept::new(&dir, "counts", false, |_| ()).run("a", 2).await;
            assert_eq!(found, counted(&[("a", 2 * (counted_before + 1))]));
        }
        for name in others {
            assert_eq!(std::fs::read_to_string(dir.0.join(name)).unwrap(), name);
        }
        dstreams::inspect(dir.0.path()).unwrap();

        let dir = Place::new();
        Kept::new(&dir, "counts", false, at("bucket"))
            .run("a", 2)
            .await;
        Kept::new(&inner, "counts", false, at("bucket/b"))
            .run("b", 9)
            .await;
        let found = Kept::new(&dir, "counts", false, at("bucket"))
            .run("a", 1)
            .await;
        assert_eq!(found, counted(&[("a", 3)]));
        let found = Kept::new(&inner, "counts", false, at("bucket/b"))
            .run("b", 1)
            .await;
        assert_eq!(found, counted(&[("b", 10)]));
    });
}
