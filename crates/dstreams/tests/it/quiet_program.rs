//! A program whose states do something without records, and a log of its outputs: shared by tests of long downtimes, in
//! one process and on a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use dstreams::agg::{avg, count, max};
use dstreams::{
    AsOf, BatchReport, Config, DStream, Error, Intervals, KeyState, MapWithState, Out, Queue,
    Record, Slack, StreamContext, Track, Within,
};

use crate::program::{INTERVAL, Live, small};

pub const WINDOW: u32 = 3;
/// The window with RDDs every second interval.
pub const SLOW_WINDOW: u32 = 4;

/// The rows of each RDD that an output had, by the number of the batch and the output.
#[derive(Clone, Default)]
pub struct Log {
    rows: Arc<Mutex<BTreeMap<(u64, String), Vec<String>>>>,
    /// A file for each RDD is written there, for other processes.
    dir: Option<PathBuf>,
}

impl Log {
    pub fn in_dir(dir: &Path) -> Self {
        let dir = Some(dir.to_owned());
        Log {
            dir,
            ..Log::default()
        }
    }

    /// What processes have written to a directory.
    pub fn read(dir: &Path) -> Self {
        let log = Log::default();
        for file in std::fs::read_dir(dir).unwrap() {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            let (batch, output) = name.split_once('-').unwrap();
            let of = (batch.parse().unwrap(), output.to_owned());
            let text = std::fs::read_to_string(file.path()).unwrap();
            let rows = text.lines().map(str::to_owned).collect();
            log.rows.lock().unwrap().insert(of, rows);
        }
        log
    }

    fn watch<T: Record + Debug>(&self, output: &'static str, rows: &DStream<T>) {
        let log = self.clone();
        rows.for_each_rdd(move |rdd| {
            let rows = rdd.collect().unwrap();
            let mut rows: Vec<String> = rows.iter().map(|row| format!("{row:?}")).collect();
            rows.sort();
            let batch = rdd.batch_time().millis() / 100;
            if let Some(dir) = &log.dir {
                let path = dir.join(format!("{batch}-{output}"));
                // A commit that is repeated gives the same.
                let before = std::fs::read_to_string(&path).ok();
                assert!(before.is_none_or(|before| before == rows.join("\n")));
                std::fs::write(path, rows.join("\n")).unwrap();
            }
            let of = (batch, output.to_owned());
            log.rows.lock().unwrap().insert(of, rows);
        });
    }

    /// The batches with an RDD.
    pub fn batches(&self) -> BTreeSet<u64> {
        let log = self.rows.lock().unwrap();
        log.keys().map(|(batch, _)| *batch).collect()
    }

    /// All rows, by batch and output.
    pub fn rows(&self) -> Vec<((u64, String), Vec<String>)> {
        let log = self.rows.lock().unwrap();
        let rows = log.iter().filter(|(_, rows)| !rows.is_empty());
        rows.map(|(of, rows)| (of.clone(), rows.clone())).collect()
    }

    /// The rows of one output.
    pub fn of(&self, output: &str) -> Vec<(u64, Vec<String>)> {
        let rows = self.rows().into_iter();
        let rows = rows.filter(|((_, of), _)| of == output);
        rows.map(|((batch, _), rows)| (batch, rows)).collect()
    }
}

pub fn skipping() -> Config {
    let mut config = small(2, 4, 8);
    config.checkpoint_every = 4;
    config.skip_quiet = true;
    config
}

/// Windows, a state without an end, and two that time out: one after so many intervals, one that a window feeds after
/// twice as many. The word `bad` makes a closure panic.
pub fn describe(ctx: &mut StreamContext, log: &Log, timeout: u32) -> Queue<(String, f64)> {
    let (queue, words) = ctx.queue::<(String, f64)>("words");
    let words = words.filter(|(word, _)| {
        assert!(word != "bad", "a bad word");
        true
    });
    let words = words.by_key();
    let parts = (count(), max::<f64>(), avg::<f64>());
    let windows = words.window_agg(INTERVAL * WINDOW, INTERVAL, parts);
    log.watch("windows", &windows.unwrap().pairs());
    let slow = words.window_agg(INTERVAL * SLOW_WINDOW, INTERVAL * 2, count());
    let slow = slow.unwrap();
    log.watch("slow", &slow.pairs());
    let peak = Track::new(|_, n| n, |_, peak: i64, n| Some(peak.max(n)));
    let peaks = slow.track("peaks", peak.timeout(INTERVAL * 2 * timeout));
    log.watch("past peaks", &peaks.unwrap().timed_out().pairs());
    let totals = words.running_agg("totals", count()).unwrap();
    log.watch("totals", &totals.changes().pairs());
    let visits = Track::new(|_, _| 1i64, |_, n: i64, _| Some(n + 1));
    let visits = words.track("visits", visits.timeout(INTERVAL * timeout));
    log.watch("left", &visits.unwrap().timed_out().pairs());
    queue
}

/// Pauses in intervals; those of more than 101 have intervals that can be skipped.
pub const PAUSES: [u32; 11] = [150, 0, 1, 400, 101, 102, 7, 130, 260, 0, 300];

/// A program to which something is sent after each pause.
pub trait AfterPauses {
    fn describe(ctx: &mut StreamContext, log: &Log) -> Self;

    /// Sends the records of the interval that ends at `at`, in the round of this number.
    async fn push(&self, number: u8, at: u32);
}

/// The one of [`describe`].
pub struct Words(Queue<(String, f64)>);

impl AfterPauses for Words {
    fn describe(ctx: &mut StreamContext, log: &Log) -> Self {
        Words(describe(ctx, log, 120))
    }

    async fn push(&self, number: u8, _: u32) {
        let same = ("a".to_owned(), 0.1 * f64::from(number));
        let other = (["b", "c"][usize::from(number % 2)].to_owned(), 1.1);
        self.0.push([same]).await.unwrap();
        self.0.push([other]).await.unwrap();
    }
}

/// Records by event time, results that are corrected, joins over time, and records that are kept: what each of them
/// does later falls into a pause.
pub struct Events {
    first: Queue<(String, i64)>,
    second: Queue<(String, i64)>,
}

impl AfterPauses for Events {
    fn describe(ctx: &mut StreamContext, log: &Log) -> Self {
        let (first, events) = ctx.queue::<(String, i64)>("first");
        let (second, others) = ctx.queue::<(String, i64)>("second");
        // An odd number of intervals: windows over them have their RDDs at odd batch times.
        let slack = Slack::of(INTERVAL * 121).ahead(INTERVAL * 3);
        let timed = events.by_time("timed", |(_, at)| at, slack).unwrap();
        log.watch("released", &timed.records());
        log.watch("late", &timed.late().pairs());
        log.watch("ahead", &timed.ahead().pairs());
        let of_two = timed.records().by_key();
        let of_two = of_two.window_agg(INTERVAL * 4, INTERVAL * 2, count());
        log.watch("released windows", &of_two.unwrap().pairs());

        let (events, others) = (events.by_key(), others.by_key());
        let intervals = Intervals::every(INTERVAL * 2).over(INTERVAL * 4);
        let intervals = intervals.slack(INTERVAL * 3).correct_for(INTERVAL * 140);
        let results = events.agg_by_time("results", |at| at, intervals, count());
        let results = results.unwrap();
        log.watch("first results", &results.first().pairs());
        log.watch("updates", &results.updates().pairs());
        log.watch("finals", &results.finals().pairs());

        let within = Within::new(INTERVAL * 2, INTERVAL * 130);
        let near = events.join_within("near", &others, within).unwrap();
        log.watch("pairs", &near.pairs().pairs());
        log.watch("first alone", &near.first_unmatched().pairs());
        log.watch("second alone", &near.second_unmatched().pairs());

        let recent = events.window(INTERVAL * 25, INTERVAL * 2).unwrap();
        log.watch("recent", &recent.pairs());
        log.watch("past", &events.past(INTERVAL * 110).unwrap().pairs());
        let delayed = events.delayed(INTERVAL * 160).unwrap();
        let delayed = delayed.window_agg(INTERVAL * 6, INTERVAL * 3, count());
        log.watch("delayed", &delayed.unwrap().pairs());
        let slow = events.window_agg(INTERVAL * 7, INTERVAL * 7, count());
        log.watch("newest", &slow.unwrap().pairs().latest());
        events.remember("remembered", INTERVAL * 115).unwrap();

        let totals = events.running_agg("totals", count()).unwrap();
        let before = others.with_state(&totals, AsOf::Before).unwrap();
        log.watch("known before", &before.pairs());
        log.watch("joined", &events.full_join(&others).unwrap().pairs());
        let spread = others.pairs().repartition(3).unwrap();
        log.watch("spread", &spread.reduce(|one, other| one.max(other)));
        Events { first, second }
    }

    async fn push(&self, number: u8, at: u32) {
        let ago = |intervals: i64| 100 * (i64::from(at) - intervals) - 50;
        let (same, other) = ("a", ["b", "c"][usize::from(number % 2)]);
        let first = [
            (same, 0),
            (other, 1),
            // Held for a short time, late, and too far ahead.
            (same, 100),
            (other, 300),
            (same, -50),
        ];
        let first = first.map(|(word, intervals)| (word.to_owned(), ago(intervals)));
        self.first.push(first).await.unwrap();
        let second = [("a", 0), ("d", 7)];
        let second = second.map(|(word, intervals)| (word.to_owned(), ago(intervals)));
        let some = usize::from(number % 3);
        self.second
            .push(second.into_iter().take(some))
            .await
            .unwrap();
    }
}

/// Timers of keys, and keys that leave.
pub struct Timers(Queue<(String, i64)>);

impl AfterPauses for Timers {
    fn describe(ctx: &mut StreamContext, log: &Log) -> Self {
        let (queue, events) = ctx.queue::<(String, i64)>("events");
        let (woken, _) = events.by_key().map_with_state("timers", timers()).unwrap();
        log.watch("woken", &woken);
        Timers(queue)
    }

    async fn push(&self, number: u8, at: u32) {
        let other = ["b", "c"][usize::from(number % 2)];
        let events = ["a", other].map(|key| (key.to_owned(), i64::from(at)));
        self.0.push(events).await.unwrap();
    }
}

/// Tells the number of events of a key some time after the first one, and then again and again until it leaves.
fn timers() -> MapWithState<String, i64, i64, (String, i64)> {
    let timers = MapWithState::<String, i64, i64, (String, i64)>::new(
        |key: &str,
         event: Option<i64>,
         state: &mut KeyState<i64>,
         out: &mut Out<'_, (String, i64)>| {
            let (count, now) = (state.get().copied(), state.time());
            match event {
                Some(_) => state.set(count.unwrap_or_default() + 1),
                None => out.push((key.to_owned(), count.unwrap_or_default())),
            }
            // Between two intervals.
            match count {
                None => state.wake_at(now.plus(12_250)),
                Some(_) if state.is_woken() => state.wake_at(now.plus(10_910)),
                Some(_) => {}
            }
        },
    );
    let timers = timers.on_timeout(|key, count, out| out.push((key.to_owned(), -count)));
    timers.timeout(INTERVAL * 180).live(INTERVAL * 330)
}

/// On a cluster a batch of [`Events`] has some forty stages: on a busy machine one may take longer than others of tests.
async fn report<R>(live: &mut Live<R>) -> BatchReport {
    for _ in 0..4 {
        match live.report().await {
            Err(Error::TimedOut { .. }) => {}
            report => return report.unwrap(),
        }
    }
    live.report().await.unwrap()
}

/// Waits until this batch has taken effect, and no other after it.
pub async fn until<R>(live: &mut Live<R>, batch: u32) {
    loop {
        let at = report(live).await.batch.millis() / 100;
        if at >= u64::from(batch) {
            return assert_eq!(at, u64::from(batch));
        }
    }
}

/// Ends this interval, whose batch comes next.
pub async fn end<R>(live: &mut Live<R>, interval: u32) {
    live.clock.set(INTERVAL * interval);
    until(live, interval).await;
}

/// The clock is set forward over each pause.
pub async fn over_pauses<R>(live: &mut Live<R>, program: &impl AfterPauses) {
    let mut at = 0;
    for (number, pause) in (1u8..).zip(PAUSES) {
        let last = at + pause;
        live.clock.set(INTERVAL * last);
        match pause {
            0 => {}
            // Each has a batch, of which any may have what comes meanwhile.
            1..=101 => until(live, last).await,
            _ => until(live, at + 1).await,
        }
        program.push(number, last + 1).await;
        at = last + 1;
        end(live, at).await;
    }
}
