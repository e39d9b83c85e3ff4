//! Random event times for any length of time on a clock that runs as fast as batches do: each record is on time, late or
//! ahead exactly once in every operator by event time, and what they keep does not grow.
//!
//! `DSTREAMS_SOAK_SECONDS` is the length, `DSTREAMS_SOAK_SEED` the seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dstreams::agg::{count, sum_of};
use dstreams::{DStream, Intervals, Record, Sessions, Slack, Within};

use crate::program::{INTERVAL, Program, block_on, small};
use crate::rng::Rng;

/// Keys come and go: there are so many at a time, and each lives for so many batches.
const KEYS: u64 = 500;
const LIVES: u64 = 200;
const PER_BATCH: u64 = 200;
/// Event times are so far before and after the end of the batch, in milliseconds.
const BEFORE: u64 = 1_500;
const AFTER: u64 = 500;
const SLACK: Duration = Duration::from_millis(400);
const AHEAD: Duration = Duration::from_millis(200);
const CORRECT: Duration = Duration::from_millis(300);
/// Batches after which nothing is open any more.
const REST: u64 = 100;
/// Minimum length for the check that memory does not grow, and by how much it may in bytes.
const LONG: Duration = Duration::from_secs(120);
const GROWTH: u64 = 48 << 20;

#[derive(Record, Debug, Clone)]
struct Event {
    key: u64,
    at_ms: i64,
    n: i64,
}

/// How many records, or the sum over their `n`, came out of each output.
#[derive(Default)]
struct Sums {
    on_time: AtomicI64,
    late: AtomicI64,
    ahead: AtomicI64,
    finals: AtomicI64,
    uncorrectable: AtomicI64,
    too_early: AtomicI64,
    in_sessions: AtomicI64,
    after_sessions: AtomicI64,
    pairs: AtomicU64,
}

fn add(to: &AtomicI64, n: i64) {
    to.fetch_add(n, Ordering::Relaxed);
}

fn describe(events: &DStream<Event>, sums: &Arc<Sums>) {
    let of = |stream: &DStream<i64>, to: fn(&Sums) -> &AtomicI64| {
        let sums = Arc::clone(sums);
        stream.for_each_rdd(move |rdd| add(to(&sums), rdd.collect().unwrap().iter().sum()));
    };
    let by_time = events.by_time("events", |event| event.at_ms, Slack::of(SLACK).ahead(AHEAD));
    let by_time = by_time.unwrap();
    of(&by_time.records().map(|event| event.n), |sums| {
        &sums.on_time
    });
    of(&by_time.late().pairs().map(|(_, event)| event.n), |sums| {
        &sums.late
    });
    of(&by_time.ahead().pairs().map(|(_, event)| event.n), |sums| {
        &sums.ahead
    });

    let keyed = events.key_by(|event| event.key);
    let intervals = Intervals::every(INTERVAL * 2)
        .slack(SLACK)
        .correct_for(CORRECT)
        .ahead(AHEAD);
    let results = keyed.agg_by_time(
        "results",
        |event| event.at_ms,
        intervals,
        sum_of::<i64>("n"),
    );
    let results = results.unwrap();
    of(&results.finals().pairs().map(|(_, sum)| sum), |sums| {
        &sums.finals
    });
    of(
        &results.late().pairs().map(|(_, (_, event))| event.n),
        |sums| &sums.uncorrectable,
    );
    of(
        &results.ahead().pairs().map(|(_, (_, event))| event.n),
        |sums| &sums.too_early,
    );

    let sessions = Sessions::gap(INTERVAL * 3)
        .slack(SLACK)
        .longest(INTERVAL * 20);
    let sessions = keyed.session_agg(
        "sessions",
        |event| event.at_ms,
        sessions,
        sum_of::<i64>("n"),
    );
    let sessions = sessions.unwrap();
    of(&sessions.ended().pairs().map(|(_, (_, sum))| sum), |sums| {
        &sums.in_sessions
    });
    of(&sessions.late().pairs().map(|(_, event)| event.n), |sums| {
        &sums.after_sessions
    });

    let on_time = by_time.records().key_by(|event| event.key);
    let near = on_time
        .join_within("near", &on_time, Within::new(INTERVAL, INTERVAL))
        .unwrap();
    let pairs = Arc::clone(sums);
    near.pairs().agg(count()).unwrap().for_each_rdd(move |rdd| {
        let counts = rdd
            .collect()
            .unwrap()
            .into_iter()
            .map(|(_, count)| count as u64);
        pairs.pairs.fetch_add(counts.sum(), Ordering::Relaxed);
    });
}

fn batch_of(number: u64, random: &mut Rng) -> Vec<Event> {
    let end = (number + 1) * INTERVAL.as_millis() as u64;
    let event = |_| Event {
        key: random.below(KEYS) + KEYS * (number / LIVES),
        at_ms: (end + random.below(AFTER)) as i64 - random.below(BEFORE) as i64,
        n: random.below(1_000) as i64,
    };
    (0..PER_BATCH).map(event).collect()
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn random_event_times_lose_nothing_and_keep_little() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    let lasts = Duration::from_secs(number("DSTREAMS_SOAK_SECONDS").unwrap_or(3));
    let seed = number("DSTREAMS_SOAK_SEED").unwrap_or(u64::from(std::process::id()));
    let (sums, mut random) = (Arc::<Sums>::default(), Rng::new(seed));
    let (mut pushed, mut batches, mut memory) = (0, 0, Vec::new());
    block_on(async {
        let mut program = Program::new(small(2, 64, 256));
        let (queue, events) = program.ctx.queue::<Event>("events");
        describe(&events, &sums);
        let mut live = program.start().await;
        let begun = Instant::now();
        while begun.elapsed() < lasts {
            let events = batch_of(batches, &mut random);
            pushed += events.iter().map(|event| event.n).sum::<i64>();
            queue.push(events).await.unwrap();
            live.batch().await;
            batches += 1;
            if begun.elapsed() > lasts / 20 * memory.len() as u32 {
                memory.push(resident());
            }
        }
        for _ in 0..REST {
            live.batch().await;
        }
        live.running.stop().await.unwrap();
    });
    let mib: Vec<u64> = memory.iter().map(|bytes| bytes >> 20).collect();
    println!("DSTREAMS_SOAK_SEED={seed}: {batches} batches in {lasts:?}, memory in MiB {mib:?}");
    let of = |sum: &AtomicI64| sum.load(Ordering::Relaxed);
    let parts = [&sums.on_time, &sums.late, &sums.ahead].map(of);
    assert!(parts.iter().all(|sum| *sum > 0), "{parts:?}");
    assert_eq!(parts.iter().sum::<i64>(), pushed, "{parts:?}");
    let parts = [&sums.finals, &sums.uncorrectable, &sums.too_early].map(of);
    assert!(parts.iter().all(|sum| *sum > 0), "{parts:?}");
    assert_eq!(parts.iter().sum::<i64>(), pushed, "{parts:?}");
    let parts = [&sums.in_sessions, &sums.after_sessions].map(of);
    assert!(parts.iter().all(|sum| *sum > 0), "{parts:?}");
    assert_eq!(parts.iter().sum::<i64>(), pushed, "{parts:?}");
    assert!(sums.pairs.load(Ordering::Relaxed) > 0);
    if lasts >= LONG {
        let (early, late) = (memory[memory.len() / 4], memory[memory.len() - 1]);
        assert!(late < early + GROWTH, "memory grows: {mib:?} MiB");
    }
}
