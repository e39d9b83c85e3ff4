//! A full disk under checkpoints, the files of a sink, and the journal.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use dstreams::agg::count;
use dstreams::files::Format;
use dstreams::{Clients, Config, Queue, StreamContext};
use dstreams_client::{Client, Options};

use crate::dir::Dir;
use crate::files_sink::names;
use crate::program::{Live, Program, block_on, small, soon};
use crate::restart::Disk;

/// Fills a file system; frees the space on drop.
struct Filler(std::path::PathBuf);

impl Filler {
    fn fill(disk: &Disk) -> Self {
        let path = disk.0.join("filler");
        let mut file = fs::File::create(&path).unwrap();
        while file.write_all(&[7; 512]).is_ok() {}
        Filler(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

/// A program of words, stored in `dir` across processes.
struct Words<'a> {
    dir: &'a Path,
    intervals: u32,
    config: Config,
}

impl Words<'_> {
    async fn start(
        &self,
        build: impl Fn(&mut StreamContext, &dstreams::DStream<String>),
    ) -> (Live, Queue<String>) {
        let mut program = Program::after(self.intervals, self.config.clone());
        let (queue, words) = program.ctx.queue::<String>("words");
        build(&mut program.ctx, &words);
        program.ctx.persist_in(self.dir);
        (program.start().await, queue)
    }

    async fn batch(&mut self, live: &mut Live, queue: &Queue<String>, words: &[String]) {
        queue.push(words.iter().cloned()).await.unwrap();
        live.batch().await;
        self.intervals += 1;
    }
}

async fn counts(live: &Live) -> BTreeMap<String, i64> {
    let table = live.running.table("counts").await.unwrap();
    let rows = table.collect().await.unwrap();
    let rows = rows.iter();
    rows.flat_map(|rows| dstreams::record::records_of::<(String, i64)>(rows).unwrap())
        .collect()
}

/// The program continues with its journal, which keeps the data of the missing checkpoint; the checkpoint is
/// written when there is room. A process that ends meanwhile has lost nothing.
#[test]
fn checkpoints_resume_after_a_full_disk() {
    let (dir, place) = (Dir::new(), Dir::new());
    let Some(disk) = Disk::mount(place.path()) else {
        return println!("skipped: this user may not mount a file system");
    };
    let mut config = small(2, 4, 8);
    config.checkpoint_every = 1;
    let mut words = Words {
        dir: dir.path(),
        intervals: 0,
        config,
    };
    let build = |ctx: &mut StreamContext, words: &dstreams::DStream<String>| {
        let counts = words.keyed().running_agg("counts", count()).unwrap();
        counts.changes().pairs().for_each_rdd(|_| {});
        ctx.checkpoint_to(&format!("file://{}", disk.0.display()))
            .unwrap();
    };
    let some = |batch: usize| {
        (0..50)
            .map(|n| format!("word {n} of {batch}"))
            .collect::<Vec<_>>()
    };
    let mut wanted = BTreeMap::new();
    let cuts = || dstreams::inspect(dir.path()).unwrap().journal.cut.len();
    block_on(async {
        let (mut live, queue) = words.start(build).await;
        words.batch(&mut live, &queue, &some(0)).await;
        words.batch(&mut live, &queue, &some(1)).await;
        let manifest = || {
            names(&disk.0)
                .into_iter()
                .any(|name| name.starts_with("manifest-"))
        };
        crate::program::until("a checkpoint", manifest).await;
        let filler = Filler::fill(&disk);
        for batch in 2..8 {
            words.batch(&mut live, &queue, &some(batch)).await;
        }
        assert!(
            cuts() >= 6,
            "the journal has what no checkpoint has: {}",
            cuts()
        );
        live.running.abort().await.unwrap();
        drop(live);

        let (mut live, queue) = words.start(build).await;
        words.batch(&mut live, &queue, &some(8)).await;
        wanted.extend((0..9).flat_map(some).map(|word| (word, 1)));
        assert_eq!(counts(&live).await, wanted);
        assert!(cuts() >= 7, "{}", cuts());
        drop(filler);
        let room = async {
            while cuts() > 3 {
                words.batch(&mut live, &queue, &[]).await;
            }
        };
        soon("a checkpoint", room).await;
        live.running.abort().await.unwrap();
        drop(live);

        let (live, _queue) = words.start(build).await;
        assert_eq!(counts(&live).await, wanted);
        let left = names(&disk.0);
        assert!(left.iter().all(|name| !name.contains('#')), "{left:?}");
        live.running.abort().await.unwrap();
    });
}

/// The batch is retried, then the program ends with an error naming the full place; with room, the next process
/// writes each batch once.
#[test]
fn a_full_disk_under_a_file_sink_ends_the_program_and_loses_nothing() {
    let (dir, place) = (Dir::new(), Dir::new());
    let Some(disk) = Disk::mount(place.path()) else {
        return println!("skipped: this user may not mount a file system");
    };
    let target = disk.0.join("words");
    let mut config = small(2, 4, 8);
    config.attempts = 3;
    let mut words = Words {
        dir: dir.path(),
        intervals: 0,
        config,
    };
    let build = |_: &mut StreamContext, words: &dstreams::DStream<String>| {
        words.write_files(&target, Format::JsonLines).unwrap();
    };
    let some = |batch: usize| (0..5).map(|n| format!("{batch} {n}")).collect::<Vec<_>>();
    block_on(async {
        let (mut live, queue) = words.start(build).await;
        words.batch(&mut live, &queue, &some(0)).await;
        let filler = Filler::fill(&disk);
        queue.push(some(1)).await.unwrap();
        let failed = live.try_batch().await.unwrap_err().to_string();
        words.intervals += 1;
        let ended = soon("the end", live.running.await_termination(None)).await;
        assert_eq!(ended.unwrap_err().to_string(), failed);
        let parts = [
            "batch 200 ms",
            "after 3 attempt(s)",
            target.to_str().unwrap(),
            "No space left",
            "free space there",
        ];
        for part in parts {
            assert!(failed.contains(part), "`{part}` is not in: {failed}");
        }
        assert_eq!(names(&target), ["batch=0000000000100"]);
        drop((live, queue));
        drop(filler);

        let (mut live, queue) = words.start(build).await;
        assert_eq!(
            live.report().await.unwrap().batch.0,
            200,
            "it is committed first"
        );
        words.batch(&mut live, &queue, &some(2)).await;
        live.running.abort().await.unwrap();
    });
    assert_eq!(
        names(&target),
        [100, 200, 300].map(|at| format!("batch={at:013}"))
    );
    for (batch, name) in names(&target).iter().enumerate() {
        let mut lines = Vec::new();
        for part in names(&target.join(name)) {
            let text = fs::read_to_string(target.join(name).join(part)).unwrap();
            lines.extend(text.lines().map(str::to_owned));
        }
        let wanted = some(batch)
            .into_iter()
            .map(|word| format!("{{\"value\":\"{word}\"}}"));
        assert_eq!(lines, wanted.collect::<Vec<_>>(), "{name}");
    }
}

/// A waiting client learns that there will be no acknowledgement, the program ends, and its port is free.
#[test]
fn a_full_disk_under_the_journal_ends_every_wait() {
    let place = Dir::new();
    let Some(disk) = Disk::mount(place.path()) else {
        return println!("skipped: this user may not mount a file system");
    };
    block_on(async {
        let mut program = Program::new(small(1, 4, 4));
        let (queue, words) = program.ctx.queue::<String>("words");
        let clients = Clients::listen("127.0.0.1:0");
        let lines = program.ctx.clients::<String>("lines", &clients);
        words.union(&lines).unwrap().for_each_rdd(|_| {});
        program.ctx.persist_in(&disk.0);
        let mut live = program.start().await;
        let address = live.running.address("lines").unwrap();
        let mut options = Options::default();
        options.retry.tries = 2;
        let client = Client::connect(address, options).await.unwrap();
        let mut sender = client.lines("lines").await.unwrap();
        queue.push(["there is room".to_owned()]).await.unwrap();
        sender.send("there is room").await.unwrap();
        sender.flush().await.unwrap();

        let filler = Filler::fill(&disk);
        let large = "x".repeat(50_000);
        let flushes = async {
            sender.send(&large).await.unwrap();
            sender.flush().await.unwrap_err()
        };
        let pushes = queue.push([large.clone()]);
        let both = soon("both", futures::future::join(pushes, flushes)).await;
        let refused = both.0.unwrap_err().to_string();
        assert!(refused.contains("No space left"), "{refused}");
        let told = both.1.to_string();
        assert!(told.contains("No space left"), "{told}");
        assert_eq!(sender.acknowledged(), 1);

        live.try_batch().await.unwrap_err();
        let ended = soon("the end", live.running.await_termination(None)).await;
        let ended = ended.unwrap_err().to_string();
        assert!(ended.contains("No space left"), "{ended}");
        soon("a later push", queue.push(["late".to_owned()]))
            .await
            .unwrap_err();
        std::net::TcpListener::bind(address).unwrap();
        drop(filler);
    });
}
