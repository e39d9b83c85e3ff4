//! A program whose outputs are files, one for each batch, and a check of all its outputs: shared by tests that kill
//! it, in one process or on a cluster.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use dstreams::agg::{count, sum};
use dstreams::arrow::array::RecordBatch;
use dstreams::files::Format;
use dstreams::record::records_of;
use dstreams::text::words;
use dstreams::{
    AsOf, BatchTime, BoxError, Clients, Config, Guarantee, MapWithState, Prepared, Sink,
    StreamContext, Track, Values, Within, async_trait,
};
use dstreams_client::{Client, Options};

use crate::program::{send_numbered, soon};

/// Intervals of the window.
const WINDOW: usize = 4;
/// Interval of the program in one process.
pub const INTERVAL: Duration = Duration::from_millis(100);

type Counts = BTreeMap<String, i64>;

/// A sink: a file for each batch, which is complete or absent.
pub struct Files(pub PathBuf);

#[async_trait]
impl Sink for Files {
    async fn open(&self) -> Result<Option<BatchTime>, BoxError> {
        let mut newest = None;
        for entry in std::fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let batch = name.to_str().and_then(|name| name.parse().ok());
            newest = newest.max(batch.map(BatchTime));
        }
        Ok(newest)
    }

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

/// The program's outputs, by directory.
const OUTPUTS: [&str; 11] = [
    "lines", "counts", "windows", "recent", "totals", "known", "left", "before", "after", "near",
    "woken",
];
/// Directory of the lines once more, as written by the library's own sink.
const FILES: &str = "files";
/// After so many intervals a word's count is told, again and again, for as long as it lives.
const TOLD_AFTER: u32 = 2;
const LIVES: u32 = 5;
/// One of its states forgets a word after so many intervals without it.
const FORGET_AFTER: u32 = 2;
/// The initial content of that state: a word that comes, and one that does not.
const KNOWN: [(&str, i64); 2] = [("a", 1000), ("never", 7)];

pub fn program(dir: &Path, clients: &str, interval: Duration) -> dstreams::Result<StreamContext> {
    let mut config = Config::new(interval);
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
        to_recent,
        to_totals,
        to_known,
        to_left,
        to_before,
        to_after,
        to_near,
        to_woken,
    ] = OUTPUTS.map(|output| {
        let dir = dir.join(output);
        std::fs::create_dir_all(&dir).unwrap();
        Files(dir)
    });
    lines.sink("lines", to_lines);
    lines.write_files(dir.join(FILES), Format::JsonLines)?;
    counted.agg(count())?.pairs().sink("counts", to_counts);
    let window = counted.window_agg(interval * WINDOW as u32, interval, count())?;
    window.pairs().sink("windows", to_windows);
    let recent = lines.named_window("recent", interval * WINDOW as u32, interval)?;
    recent.sink("recent", to_recent);
    let totals = counted.running_agg("totals", count())?;
    totals.all().pairs().sink("totals", to_totals);
    let known = Track::by_batch(|_: &str, values: Values<'_, ()>, count: Option<i64>| {
        Some(count.unwrap_or(0) + values.len() as i64)
    });
    let known = known.initial(KNOWN.map(|(word, count)| (word.to_owned(), count)));
    let known = known.timeout(interval * FORGET_AFTER);
    let known = counted.track("known", known)?;
    known.all().pairs().sink("known", to_known);
    known.timed_out().pairs().sink("left", to_left);
    let words = counted.agg(count())?;
    for (as_of, name, sink) in [
        (AsOf::Before, "before", to_before),
        (AsOf::After, "after", to_after),
    ] {
        let seen = words.with_state(&known, as_of)?;
        let seen = seen.map_values(|(_, count)| count.unwrap_or(0));
        seen.pairs().sink(name, sink);
    }
    // Counts of a word in the same batch and in the one before.
    let near = words.join_within("near", &words, Within::new(Duration::ZERO, interval))?;
    let products = near.pairs().map_values(|(first, second)| first * second);
    products.agg(sum::<i64>())?.pairs().sink("near", to_near);
    let told = told(interval).live(interval * LIVES);
    let (woken, _) = counted.map_with_state("told", told)?;
    woken.sink("woken", to_woken);
    Ok(ctx)
}

/// Tells the count of a word at its timers, and as a negative number when it leaves.
fn told(interval: Duration) -> MapWithState<String, (), i64, (String, i64)> {
    let later = interval.as_millis() as u64 * u64::from(TOLD_AFTER);
    let told =
        MapWithState::<String, (), i64, (String, i64)>::new(move |word, event, count, out| {
            let before = count.get().copied();
            match event {
                Some(()) => count.set(before.unwrap_or(0) + 1),
                None => out.push((word, before.unwrap_or(0))),
            }
            if before.is_none() || count.is_woken() {
                count.wake_at(count.time().plus(later));
            }
        });
    told.on_timeout(|word, count, out| out.push((word, -count)))
}

/// Sends lines until stopped, as many in an interval of any length: each has a word of its own, so that states grow
/// with them. Returns how many, all acknowledged.
pub async fn send(address: String, interval: Duration, stop: Arc<AtomicBool>) -> usize {
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
    send_numbered(client, interval / 30, &stop, |_| ()).await
}

/// The lines of a batch that the library's own sink has written.
fn written(dir: &Path, batch: u64) -> Vec<String> {
    let dir = dir.join(FILES).join(format!("batch={batch:013}"));
    let files = std::fs::read_dir(dir).into_iter().flatten();
    let files = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    let lines = files.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
    let value = |line: String| {
        let record: serde_json::Value = serde_json::from_str(&line).unwrap();
        record["value"].as_str().unwrap().to_owned()
    };
    lines.map(value).collect()
}

/// The files of an output, by batch; nothing else may be there.
pub fn batches(dir: &Path) -> BTreeMap<u64, String> {
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

/// Every batch is there, once, with the results of its lines and of its window's; every sent line is in one batch,
/// once. Returns the number of batches.
pub fn check(dir: &Path, sent: usize, interval: Duration) -> usize {
    let interval = interval.as_millis() as u64;
    let [
        lines,
        counts,
        windows,
        recent,
        totals,
        known,
        left,
        sees_before,
        sees_after,
        near,
        woken,
    ] = OUTPUTS.map(|output| batches(&dir.join(output)));
    let mut window: VecDeque<&str> = VecDeque::new();
    let mut seen = BTreeSet::new();
    let mut before = None;
    let (mut total, mut last_counts) = (Counts::new(), Counts::new());
    let mut held: BTreeMap<String, (i64, u64)> = BTreeMap::new();
    // The count of a word, its first batch, and the next one with which it is told.
    let mut told: BTreeMap<String, (i64, u64, u64)> = BTreeMap::new();
    if let Some(first) = lines.keys().next() {
        let begin = KNOWN.map(|(word, count)| (word.to_owned(), (count, first - interval)));
        held.extend(begin);
    }
    for (at, text) in &lines {
        assert!(
            before.is_none_or(|before| before + interval == *at),
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
        let in_order = |lines: &mut Vec<&str>| lines.sort_unstable();
        let mut wanted: Vec<&str> = window.iter().flat_map(|text| text.lines()).collect();
        let mut found: Vec<&str> = recent[at].lines().collect();
        in_order(&mut wanted);
        in_order(&mut found);
        // Partitions without rows are empty lines.
        wanted.retain(|line| !line.is_empty());
        found.retain(|line| !line.is_empty());
        assert_eq!(found, wanted, "records of the window at {at}");
        let mut found = written(dir, *at);
        found.sort_unstable();
        let mut wanted = of_batch.clone();
        in_order(&mut wanted);
        assert_eq!(found, wanted, "lines in files of batch {at}");
        for (word, count) in count_words(of_batch.iter().copied()) {
            *total.entry(word).or_default() += count;
        }
        assert_eq!(counts_of(&totals[at]), total, "totals at {at}");
        let counts = |(word, (count, _)): (&String, &(i64, u64))| (word.clone(), *count);
        let now = count_words(of_batch.iter().copied());
        let product = |(word, count): (&String, &i64)| {
            let before: i64 = last_counts.get(word).copied().unwrap_or(0);
            (word.clone(), count * (count + before))
        };
        assert_eq!(
            counts_of(&near[at]),
            now.iter().map(product).collect(),
            "near at {at}"
        );
        last_counts = now;
        let sees = |held: &BTreeMap<String, (i64, u64)>| -> Counts {
            let words = count_words(of_batch.iter().copied()).into_keys();
            let count = |word: &String| held.get(word).map_or(0, |(count, _)| *count);
            words.map(|word| (word.clone(), count(&word))).collect()
        };
        assert_eq!(counts_of(&sees_before[at]), sees(&held), "before {at}");
        let silent = |last: u64| last + interval * u64::from(FORGET_AFTER) <= *at;
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
        assert_eq!(counts_of(&sees_after[at]), sees(&held), "after {at}");
        let mut wanted = Counts::new();
        told.retain(|word, (count, first, next)| {
            let leaves = *first + interval * u64::from(LIVES) <= *at;
            if *next <= *at {
                assert!(!leaves);
                wanted.insert(word.clone(), *count);
                *next += interval * u64::from(TOLD_AFTER);
            }
            if leaves {
                wanted.insert(word.clone(), -*count);
            }
            !leaves
        });
        assert_eq!(counts_of(&woken[at]), wanted, "woken at {at}");
        for (word, count) in count_words(of_batch.iter().copied()) {
            let next = *at + interval * u64::from(TOLD_AFTER);
            told.entry(word).or_insert((0, *at, next)).0 += count;
        }
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

/// A free address that no connection takes while its program is down: below the system's ephemeral ports.
pub fn free_address() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id() * 61 + NUMBER.fetch_add(1, Ordering::Relaxed) * 997;
    let address = |at: u32| format!("127.0.0.1:{}", 10_000 + (first + at) % 20_000);
    let mut addresses = (0..20_000).map(address);
    let free = addresses.find(|address| std::net::TcpListener::bind(address).is_ok());
    free.unwrap()
}

/// The times of the batches that have taken effect, in no order. Reads only names: tests ask often, and must not take
/// the program's processor time.
fn times(dir: &Path) -> impl Iterator<Item = u64> {
    let names = std::fs::read_dir(dir.join("totals")).into_iter().flatten();
    names.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
}

/// Waits until so many more batches have taken effect.
pub async fn batches_more(dir: &Path, more: usize) {
    let there = times(dir).count();
    let wait = async {
        while times(dir).count() < there + more {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    soon("batches", wait).await;
}
