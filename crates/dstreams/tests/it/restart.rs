//! A program that is killed at any moment, and started again: its batches are those of one that never was.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use dstreams::agg::count;
use dstreams::arrow::array::RecordBatch;
use dstreams::record::records_of;
use dstreams::text::words;
use dstreams::{
    BatchTime, BoxError, Clients, Config, Guarantee, Prepared, Sink, StreamContext, Track, Values,
    async_trait,
};
use dstreams_client::{Client, Options};

use crate::program::{block_on, send_numbered, soon};

/// Tells a test process to be the program, in this directory, and where clients send.
pub const PLACE: &str = "DSTREAMS_TEST_RESTART";
/// Intervals of the window.
const WINDOW: usize = 4;
const INTERVAL: Duration = Duration::from_millis(100);

type Counts = BTreeMap<String, i64>;

/// A file for each batch, which is there as a whole or not at all.
struct Files(PathBuf);

#[async_trait]
impl Sink for Files {
    async fn prepare(
        &self,
        _: BatchTime,
        _: usize,
        rows: &[RecordBatch],
    ) -> Result<Prepared, BoxError> {
        let mut lines = Vec::new();
        for rows in rows {
            if rows.num_columns() == 1 {
                lines.extend(records_of::<String>(rows)?);
            } else {
                let counts = records_of::<(String, i64)>(rows)?.into_iter();
                lines.extend(counts.map(|(word, count)| format!("{word}={count}")));
            }
        }
        Ok(Prepared(lines.join("\n").into_bytes()))
    }

    async fn commit(&self, batch: BatchTime, parts: Vec<Prepared>) -> Result<(), BoxError> {
        let parts: Vec<_> = parts.into_iter().map(|part| part.0).collect();
        let bytes = parts.join(&b"\n"[..]);
        let path = self.0.join(format!("{}", batch.0));
        if let Ok(there) = std::fs::read(&path) {
            assert!(there == bytes, "{} would change", path.display());
            return Ok(());
        }
        let hidden = self.0.join(format!(".{}", batch.0));
        std::fs::write(&hidden, bytes)?;
        std::fs::rename(hidden, path)?;
        Ok(())
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }
}

/// What the program puts out, by directory of its output.
const OUTPUTS: [&str; 6] = ["lines", "counts", "windows", "totals", "known", "left"];
/// One of its states forgets a word after so many intervals without it.
const SILENT: u32 = 2;
/// What that state begins with: a word that comes, and one that does not.
const KNOWN: [(&str, i64); 2] = [("a", 1000), ("never", 7)];

fn program(dir: &Path, clients: &str) -> dstreams::Result<StreamContext> {
    let mut config = Config::new(INTERVAL);
    config.threads = 2;
    config.rows_per_task = 8;
    config.checkpoint_every = 3;
    let mut ctx = StreamContext::with_config(config)?;
    let lines = ctx.clients::<String>("lines", &Clients::listen(clients));
    let counted = lines
        .flat_map::<String>(|line, out| words(line).for_each(|word| out.push(word)))
        .keyed();
    let [
        to_lines,
        to_counts,
        to_windows,
        to_totals,
        to_known,
        to_left,
    ] = OUTPUTS.map(|output| {
        let dir = dir.join(output);
        std::fs::create_dir_all(&dir).unwrap();
        Files(dir)
    });
    lines.sink("lines", to_lines);
    counted.agg(count())?.pairs().sink("counts", to_counts);
    let window = counted.window_agg(INTERVAL * WINDOW as u32, INTERVAL, count())?;
    window.pairs().sink("windows", to_windows);
    let totals = counted.running_agg("totals", count())?;
    totals.all().pairs().sink("totals", to_totals);
    let known = Track::by_batch(|_: &str, values: Values<'_, ()>, count: Option<i64>| {
        Some(count.unwrap_or(0) + values.len() as i64)
    });
    let known = known.initial(KNOWN.map(|(word, count)| (word.to_owned(), count)));
    let known = known.timeout(INTERVAL * SILENT);
    let known = counted.track("known", known)?;
    known.all().pairs().sink("known", to_known);
    known.timed_out().pairs().sink("left", to_left);
    Ok(ctx)
}

/// Not a test: the program, until it is killed or told to end.
#[test]
#[ignore = "a process of other tests"]
fn the_program() {
    let Ok(place) = std::env::var(PLACE) else {
        return;
    };
    let (dir, clients) = place.split_once('|').unwrap();
    let dir = Path::new(dir);
    be_the_program(dir, || program(dir, clients));
}

/// Runs a program that is kept below `dir`, until this process is killed or told to end.
pub fn be_the_program(dir: &Path, app: impl FnOnce() -> dstreams::Result<StreamContext>) {
    let ended = block_on(async {
        let ctx = StreamContext::restore_or_new(dir.join("state"), app)?;
        let running = ctx.start().await?;
        running.run_until_signal(Duration::from_secs(30)).await
    });
    if let Err(error) = ended {
        eprintln!("the program: {error}");
        std::process::exit(3);
    }
}

/// A program in a process of its own.
pub struct Process(Child);

impl Process {
    fn start(dir: &Path, clients: &str, crash_at: Option<&str>) -> Self {
        let place = format!("{}|{clients}", dir.display());
        Process::start_as("restart::the_program", dir, &place, crash_at)
    }

    /// Starts this test program again, to run the test `test` only, which finds `place`.
    pub fn start_as(test: &str, dir: &Path, place: &str, crash_at: Option<&str>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", test, "--nocapture", "--include-ignored"])
            .env(PLACE, place)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if let Some(point) = crash_at {
            let plan = format!("{point}@{}", dir.join("crashed").display());
            command.env("DSTREAMS_CRASH_AT", plan);
        }
        Process(command.spawn().unwrap())
    }

    /// Waits until it has ended by itself.
    async fn crashed(&mut self, dir: &Path) {
        let wait = async {
            while self.0.try_wait().unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("the crash", wait).await;
        let file = dir.join("crashed");
        assert!(file.exists(), "the crash was not the planned one");
        std::fs::remove_file(file).unwrap();
    }

    /// Kill -9; it must have been there.
    pub fn kill(&mut self) {
        let ended = self.0.try_wait().unwrap();
        assert!(ended.is_none(), "it had ended by itself: {ended:?}");
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Asks it to end, and waits until it has, well.
    pub fn stop(mut self) {
        let told = Command::new("kill").arg(self.0.id().to_string()).status();
        assert!(told.unwrap().success());
        assert!(self.0.wait().unwrap().success(), "it ended badly");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends lines until told to stop; returns how many, all acknowledged.
async fn send(address: String, stop: Arc<AtomicBool>) -> usize {
    let mut options = Options::default();
    options.retry.tries = u32::MAX;
    options.retry.longest_pause = Duration::from_millis(200);
    let client = loop {
        match Client::connect(address.clone(), options.clone()).await {
            Ok(client) => break client,
            // It does not listen yet.
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    send_numbered(client, Duration::from_millis(3), &stop, |_| ()).await
}

/// The files of an output, by batch; nothing else may be there.
fn batches(dir: &Path) -> BTreeMap<u64, String> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with('.') {
            continue; // hidden: being written when the process was killed
        }
        let text = std::fs::read_to_string(entry.path()).unwrap();
        all.insert(name.parse().unwrap(), text);
    }
    all
}

fn count_words<'a>(lines: impl IntoIterator<Item = &'a str>) -> Counts {
    let mut counts = Counts::new();
    for word in lines.into_iter().flat_map(|line| line.split(' ')) {
        *counts.entry(word.to_owned()).or_default() += 1;
    }
    counts
}

fn counts_of(text: &str) -> Counts {
    let counts = text.lines().filter(|line| !line.is_empty());
    let count = |line: &str| {
        let (word, count) = line.split_once('=').unwrap();
        (word.to_owned(), count.parse().unwrap())
    };
    counts.map(count).collect()
}

/// Every batch is there, once, with the results of its lines and of its window's; every line that was sent
/// is in one batch, once. Returns the number of batches.
fn check(dir: &Path, sent: usize) -> usize {
    let [lines, counts, windows, totals, known, left] =
        OUTPUTS.map(|output| batches(&dir.join(output)));
    let mut window: VecDeque<&str> = VecDeque::new();
    let mut seen = BTreeSet::new();
    let mut before = None;
    let mut total = Counts::new();
    let mut held: BTreeMap<String, (i64, u64)> = BTreeMap::new();
    if let Some(first) = lines.keys().next() {
        let begin = KNOWN.map(|(word, count)| (word.to_owned(), (count, first - 100)));
        held.extend(begin);
    }
    for (at, text) in &lines {
        assert!(
            before.is_none_or(|before| before + 100 == *at),
            "a batch before {at} is missing"
        );
        before = Some(*at);
        let of_batch: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(
            counts_of(&counts[at]),
            count_words(of_batch.iter().copied()),
            "batch {at}"
        );
        window.push_back(text);
        if window.len() > WINDOW {
            window.pop_front();
        }
        let all = window.iter().flat_map(|text| text.lines());
        let wanted = count_words(all.filter(|line| !line.is_empty()));
        assert_eq!(counts_of(&windows[at]), wanted, "window at {at}");
        for (word, count) in count_words(of_batch.iter().copied()) {
            *total.entry(word).or_default() += count;
        }
        assert_eq!(counts_of(&totals[at]), total, "totals at {at}");
        let counts = |(word, (count, _)): (&String, &(i64, u64))| (word.clone(), *count);
        let silent = |last: u64| last + 100 * u64::from(SILENT) <= *at;
        let leave = held.iter().filter(|(_, (_, last))| silent(*last));
        assert_eq!(
            counts_of(&left[at]),
            leave.map(counts).collect(),
            "left at {at}"
        );
        held.retain(|_, (_, last)| !silent(*last));
        for (word, count) in count_words(of_batch.iter().copied()) {
            let (held, last) = held.entry(word).or_default();
            (*held, *last) = (*held + count, *at);
        }
        let all: Counts = held.iter().map(counts).collect();
        assert_eq!(counts_of(&known[at]), all, "known at {at}");
        for line in of_batch {
            let number: usize = line.rsplit_once(' ').unwrap().1.parse().unwrap();
            assert!(seen.insert(number), "line {number} is there twice");
        }
    }
    assert!(
        seen.iter().copied().eq(0..sent),
        "of {sent} lines {} are there",
        seen.len()
    );
    lines.len()
}

/// A directory of its own.
pub fn new_dir() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let dir =
        std::env::temp_dir().join(format!("dstreams-restart-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// An address that is free now, and that no connection takes while its program is away: below the ports
/// that the system gives to those.
fn free_address() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id() * 61 + NUMBER.fetch_add(1, Ordering::Relaxed) * 997;
    let address = |at: u32| format!("127.0.0.1:{}", 10_000 + (first + at) % 20_000);
    let mut addresses = (0..20_000).map(address);
    let free = addresses.find(|address| std::net::TcpListener::bind(address).is_ok());
    free.unwrap()
}

/// Runs the program and a client while `trouble` kills it; then checks what there is.
async fn with_trouble(trouble: impl AsyncFnOnce(&Path, &str) -> Process) {
    let (dir, clients) = (new_dir(), free_address());
    let stop = Arc::new(AtomicBool::new(false));
    let client = tokio::spawn(send(clients.clone(), Arc::clone(&stop)));
    let process = trouble(&dir, &clients).await;
    stop.store(true, Ordering::SeqCst);
    let sent = soon("the client", client).await.unwrap();
    process.stop();
    let batches = check(&dir, sent);
    println!("{batches} batches, {sent} lines");
    // A file system may be mounted in it still.
    let _ = std::fs::remove_dir_all(dir);
}

/// Waits until so many more batches have taken effect.
async fn batches_more(dir: &Path, more: usize) {
    let there = batches(&dir.join("totals")).len();
    let wait = async {
        while batches(&dir.join("totals")).len() < there + more {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    soon("batches", wait).await;
}

/// Kills it so many times, at moments that follow from the seed.
fn killed(kills: u32, seed: u64) {
    println!("seed {seed}");
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut below = move |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % bound
    };
    block_on(with_trouble(async |dir, clients| {
        let mut process = Process::start(dir, clients, None);
        for _ in 0..kills {
            batches_more(dir, below(4) as usize).await;
            tokio::time::sleep(Duration::from_micros(below(200_000))).await;
            process.kill();
            process = Process::start(dir, clients, None);
        }
        // It listens to signals by then.
        batches_more(dir, 1).await;
        process
    }));
}

#[test]
fn a_program_that_is_killed_goes_on() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let kills = number("DSTREAMS_KILLS").unwrap_or(34);
    let seed = number("DSTREAMS_SEED").unwrap_or(u64::from(std::process::id()));
    killed(kills as u32, seed);
}

/// It ends at each point, early and late in its life, one process after the other in one directory.
#[test]
fn a_program_that_crashes_at_any_point_goes_on() {
    block_on(with_trouble(async |dir, clients| {
        for point in [
            "journal:written#3",
            "journal:synced#40",
            "batch:cut#2",
            "batch:cut#9",
            "commit:begins#5",
            "commit:half#3",
            "commit:half#17",
            "commit:done#4",
            "checkpoint:written#1",
            "checkpoint:written#2",
            "checkpoint:visible#1",
            "checkpoint:visible#3",
            "journal:let-go#1",
            "journal:let-go#2",
        ] {
            let name = point.split('#').next().unwrap();
            assert!(dstreams::cluster::POINTS.contains(&name));
            Process::start(dir, clients, Some(point)).crashed(dir).await;
        }
        // There is something to replay after a few batches without a checkpoint.
        let crashed = async |point| Process::start(dir, clients, Some(point)).crashed(dir).await;
        crashed("commit:done#2").await;
        crashed("restore:replayed#1").await;
        let process = Process::start(dir, clients, None);
        // Two checkpoints more: nothing unfinished is left.
        batches_more(dir, 8).await;
        let left = std::fs::read_dir(dir.join("state")).unwrap();
        let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let hidden = left.filter(|name| name.starts_with('.')).count();
        assert!(hidden <= 1, "{hidden} checkpoints are being written");
        process
    }));
}

/// A file system of its own at a directory, unmounted at the end.
struct Disk(PathBuf);

impl Disk {
    /// None where that is not allowed.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=48k", "tmpfs"])
            .arg(at);
        let mounted = mount.stderr(Stdio::null()).status();
        mounted
            .is_ok_and(|status| status.success())
            .then(|| Disk(at.to_owned()))
    }

    fn grow(&self) {
        let mut mount = Command::new("mount");
        let grown = mount.args(["-o", "remount,size=64m"]).arg(&self.0).status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Without room for the journal nothing is acknowledged and the program ends; with room it goes on.
#[test]
fn a_full_disk_ends_the_program_and_loses_nothing() {
    block_on(async {
        let mut disk = None;
        with_trouble(async |dir, clients| {
            disk = Disk::mount(&dir.join("state"));
            let Some(disk) = &disk else {
                println!("skipped: this user may not mount a file system");
                let process = Process::start(dir, clients, None);
                batches_more(dir, 1).await;
                return process;
            };
            let mut full = Process::start(dir, clients, None);
            let mut status = None;
            let wait = async {
                while status.is_none() {
                    status = full.0.try_wait().unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            soon("the full disk", wait).await;
            assert_eq!(
                status.and_then(|status| status.code()),
                Some(3),
                "how it ended"
            );
            disk.grow();
            let process = Process::start(dir, clients, None);
            batches_more(dir, 3).await;
            process
        })
        .await;
    });
}
