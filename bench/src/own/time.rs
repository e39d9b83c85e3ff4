//! Event time, corrections and joins: each beside a baseline over the same records, in turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use dstreams::agg::count;
use dstreams::arrow::array::RecordBatch;
use dstreams::datafusion::datasource::MemTable;
use dstreams::datafusion::prelude::{SessionConfig, SessionContext};
use dstreams::record::batch_of;
use dstreams::{Clock, Config, Intervals, Keyed, Record, Result, Slack, StreamContext, Within};
use serde_json::{Value, json};

use super::watch::Reports;
use super::{Outcome, flag, percentiles};

const INTERVAL: Duration = Duration::from_secs(1);
/// Threads of the engine and of the baseline.
const THREADS: usize = 2;
/// Intervals of the windows that are joined.
const WINDOW: u32 = 10;
/// Intervals within which late records come.
const LATE: u32 = 2;
/// Intervals of event time whose results are corrected.
const CORRECTED: u64 = 100;
/// Records of a batch while results are being filled in.
const FILL_ROWS: u64 = 200_000;
/// Batches that are not measured: all windows are full after them.
const WARM_UP: usize = 15;

/// A key, and its event time in milliseconds and a number.
type Event = (u64, (i64, i64));
type Events = Keyed<u64, (i64, i64)>;
/// Counts the rows of an output.
type Rows = Arc<AtomicU64>;

/// The options of the command.
struct Options {
    /// Records of each stream in a batch.
    rows: u64,
    keys: u64,
    /// Results that are held while some of them change.
    few: u64,
    many: u64,
    changed: u64,
    /// Measured batches.
    batches: usize,
}

/// `bench time [--rows N] [--keys N] [--few N] [--many N] [--changed N] [--batches N] [--rounds N] [--only PART,...]`
///
/// `order`: `agg_by_time` and `window_agg` over the same records in order. `slack`: `by_time` and a filter.
/// `corrections`: the same number of changed results of few and of many. `windows`: a join of two windows, and
/// DataFusion's join of the same rows. `within`: `join_within` and the join of one batch.
pub fn time(flags: &[String]) -> Outcome<()> {
    let options = Options {
        rows: flag(flags, "--rows", 100_000)?,
        keys: flag(flags, "--keys", 100_000)?,
        few: flag(flags, "--few", 100_000)?,
        many: flag(flags, "--many", 10_000_000)?,
        changed: flag(flags, "--changed", 10_000)?,
        batches: flag(flags, "--batches", 40)?,
    };
    let rounds: usize = flag(flags, "--rounds", 3)?;
    let only: String = flag(
        flags,
        "--only",
        "order,slack,corrections,windows,within".into(),
    )?;
    for round in 0..rounds {
        for part in only.split(',') {
            let mut result = match part {
                "order" => order(&options)?,
                "slack" => slack(&options)?,
                "corrections" => corrections(&options)?,
                "windows" => windows(&options)?,
                "within" => within(&options)?,
                other => return Err(format!("no part {other:?}").into()),
            };
            (result["work"], result["part"]) = ("time".into(), part.into());
            result["round"] = round.into();
            println!("{result}");
        }
    }
    Ok(())
}

/// Draws numbers: the same ones in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// The batches of a stream: records in random order of keys, each at most `late` intervals late.
fn stream(options: &Options, seed: u64, keys: u64, late: u32) -> Outcome<Vec<RecordBatch>> {
    let mut draw = Draw(0x9e37_79b9_7f4a_7c15 ^ (seed << 32));
    let interval = INTERVAL.as_millis() as u64;
    let batch = |batch: u64| {
        let rows = (0..options.rows).map(|_| {
            let end = (batch + 1) * interval - 1;
            let back = draw.below(interval * u64::from(late) + interval);
            let time = end as i64 - back as i64;
            (draw.below(keys), (time, draw.below(1 << 30) as i64))
        });
        Ok(batch_of::<Event>(rows.collect::<Vec<_>>())?)
    };
    (0..(WARM_UP + options.batches) as u64).map(batch).collect()
}

/// The times from the end of each interval until its batch has taken effect, and the number of its output rows.
struct Measured {
    times: Vec<Duration>,
    rows: u64,
}

impl Measured {
    fn mean_ms(&self) -> f64 {
        mean_ms(&self.times)
    }

    fn json(self) -> Value {
        json!({ "mean_ms": self.mean_ms(), "rows_out": self.rows, "batch_ms": percentiles(self.times) })
    }
}

fn mean_ms(times: &[Duration]) -> f64 {
    times.iter().sum::<Duration>().as_secs_f64() * 1e3 / times.len() as f64
}

fn counted<T: Record>(stream: &dstreams::DStream<T>, rows: &Rows) {
    let rows = Arc::clone(rows);
    stream.for_each_rdd(move |rdd| {
        rows.fetch_add(rdd.num_rows() as u64, Relaxed);
    });
}

/// Runs a program over the batches of one or two streams; the first `warm_up` are not measured.
fn measure(
    streams: [&[RecordBatch]; 2],
    warm_up: usize,
    build: impl FnOnce(&Events, &Events, &Rows) -> Result<()>,
) -> Outcome<Measured> {
    let mut config = Config::new(INTERVAL);
    config.threads = THREADS;
    config.block_memory = 4 << 30;
    let mut ctx = StreamContext::with_config(config)?;
    let (clock, time) = Clock::manual(Duration::ZERO);
    ctx.set_clock(time);
    let (first, one) = ctx.queue::<Event>("first");
    let (second, other) = ctx.queue::<Event>("second");
    let (rows, reports) = (Rows::default(), Reports::default());
    build(&one.by_key(), &other.by_key(), &rows)?;
    ctx.add_listener(reports.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let running = ctx.start().await?;
        let mut times = Vec::with_capacity(streams[0].len());
        for batch in 0..streams[0].len() {
            if batch == warm_up {
                rows.store(0, Relaxed);
            }
            for (queue, stream) in [&first, &second].into_iter().zip(streams) {
                if let Some(records) = stream.get(batch) {
                    queue.push_batch(records.clone()).await?;
                }
            }
            // The reports show the clock that is moved by hand.
            let begun = Instant::now();
            clock.advance(INTERVAL);
            reports.count(batch + 1).await;
            times.push(begun.elapsed());
        }
        let times = times.split_off(warm_up);
        running.abort().await?;
        let rows = rows.load(Relaxed);
        Ok(Measured { times, rows })
    })
}

fn order(options: &Options) -> Outcome<Value> {
    let records = stream(options, 1, options.keys, 0)?;
    let streams = [&records[..], &[]];
    let windows = measure(streams, WARM_UP, |events, _, rows| {
        let counts = events.window_agg(INTERVAL, INTERVAL, count())?;
        counted(&counts.pairs(), rows);
        Ok(())
    })?;
    let by_time = measure(streams, WARM_UP, |events, _, rows| {
        let intervals = Intervals::every(INTERVAL);
        let counts = events.agg_by_time("counts", |(time, _)| time, intervals, count())?;
        counted(&counts.first().pairs(), rows);
        Ok(())
    })?;
    if windows.rows != by_time.rows {
        return Err("`agg_by_time` and `window_agg` differ".into());
    }
    Ok(json!({
        "rows": options.rows, "keys": options.keys,
        "rate_of_window_agg": windows.mean_ms() / by_time.mean_ms(),
        "window_agg": windows.json(), "agg_by_time": by_time.json(),
    }))
}

fn slack(options: &Options) -> Outcome<Value> {
    let records = stream(options, 2, options.keys, LATE)?;
    let streams = [&records[..], &[]];
    let filter = measure(streams, WARM_UP, |events, _, rows| {
        counted(
            &events.pairs().filter(|(_, (time, _))| time != i64::MAX),
            rows,
        );
        Ok(())
    })?;
    let by_time = measure(streams, WARM_UP, |events, _, rows| {
        let slack = Slack::of(INTERVAL * LATE);
        let timed = events
            .pairs()
            .by_time("events", |(_, (time, _))| time, slack)?;
        counted(&timed.records(), rows);
        Ok(())
    })?;
    let per_second = options.rows as f64 / by_time.mean_ms() * 1e3;
    Ok(json!({
        "rows": options.rows, "late_intervals": LATE, "records_per_s": per_second,
        "times_a_filter": by_time.mean_ms() / filter.mean_ms(),
        "filter": filter.json(), "by_time": by_time.json(),
    }))
}

fn corrections(options: &Options) -> Outcome<Value> {
    let mut of = Vec::new();
    for held in [options.few, options.many] {
        let measured = corrected(options, held)?;
        if measured.rows != options.changed * options.batches as u64 {
            return Err(format!("{} corrections of {held} results", measured.rows).into());
        }
        of.push(measured);
    }
    let ratio = of[1].mean_ms() / of[0].mean_ms();
    let mut of = of.into_iter().map(Measured::json);
    Ok(json!({
        "changed": options.changed, "few": options.few, "many": options.many, "many_to_few": ratio,
        "of_few": of.next(), "of_many": of.next(),
    }))
}

/// Corrects some of the results that are held.
fn corrected(options: &Options, held: u64) -> Outcome<Measured> {
    let interval = INTERVAL.as_millis() as i64;
    // The place of a result: its interval, and its key.
    let event = |place: u64| {
        let time = (place % CORRECTED) as i64 * interval;
        (
            (place / CORRECTED).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            (time, 1),
        )
    };
    // Intervals must be over before their records come.
    let mut batches: Vec<RecordBatch> = (0..CORRECTED)
        .map(|_| batch_of::<Event>([]))
        .collect::<Result<_>>()?;
    let mut from = 0;
    while from < held {
        let to = held.min(from + FILL_ROWS);
        batches.push(batch_of::<Event>((from..to).map(event))?);
        from = to;
    }
    let mut draw = Draw(88_172_645_463_325_252);
    let warm_up = batches.len() + WARM_UP;
    for _ in 0..WARM_UP + options.batches {
        // Distinct: one of each of as many parts.
        let part = held / options.changed;
        let places = (0..options.changed).map(|at| at * part + draw.below(part));
        batches.push(batch_of::<Event>(places.map(event).collect::<Vec<_>>())?);
    }
    measure([&batches, &[]], warm_up, |events, _, rows| {
        let intervals = Intervals::every(INTERVAL).correct_for(INTERVAL * 100_000);
        let counts = events.agg_by_time("counts", |(time, _)| time, intervals, count())?;
        counted(&counts.updates().pairs(), rows);
        Ok(())
    })
}

fn windows(options: &Options) -> Outcome<Value> {
    let keys = options.rows * u64::from(WINDOW);
    let first = stream(options, 3, keys, 0)?;
    let second = stream(options, 4, keys, 0)?;
    let joined = measure([&first, &second], WARM_UP, |first, second, rows| {
        let of = |events: &Events| events.window(INTERVAL * WINDOW, INTERVAL);
        counted(&of(first)?.join(&of(second)?)?.pairs(), rows);
        Ok(())
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()?;
    let (mut times, mut rows) = (Vec::new(), 0);
    for end in WARM_UP + 1..=first.len() {
        let window = end - WINDOW as usize..end;
        let config = SessionConfig::new().with_target_partitions(THREADS);
        let session = SessionContext::new_with_config(config);
        for (name, side) in [("first", &first), ("second", &second)] {
            let half = WINDOW as usize / 2;
            let parts = side[window.clone()]
                .chunks(half)
                .map(<[_]>::to_vec)
                .collect();
            let table = MemTable::try_new(Event::schema(), parts)?;
            session.register_table(name, Arc::new(table))?;
        }
        let joined = async {
            let query = "select * from first join second on first.key = second.key";
            session.sql(query).await?.collect().await
        };
        let start = Instant::now();
        let joined = runtime.block_on(joined)?;
        times.push(start.elapsed());
        rows += joined
            .iter()
            .map(|rows| rows.num_rows() as u64)
            .sum::<u64>();
    }
    if rows != joined.rows {
        return Err(format!("{} pairs, and DataFusion has {rows}", joined.rows).into());
    }
    Ok(json!({
        "rows": keys, "times_datafusion": joined.mean_ms() / mean_ms(&times),
        "join": joined.json(), "datafusion": Measured { times, rows }.json(),
    }))
}

fn within(options: &Options) -> Outcome<Value> {
    let keys = options.rows * 10;
    let first = stream(options, 5, keys, 0)?;
    let second = stream(options, 6, keys, 0)?;
    let streams = [&first[..], &second[..]];
    let batch = measure(streams, WARM_UP, |first, second, rows| {
        counted(&first.join(second)?.pairs(), rows);
        Ok(())
    })?;
    let within = measure(streams, WARM_UP, |first, second, rows| {
        let near = Within::new(INTERVAL * LATE, INTERVAL * LATE);
        counted(
            &first.join_within("near", second, near)?.pairs().pairs(),
            rows,
        );
        Ok(())
    })?;
    let per_second = 2.0 * options.rows as f64 / within.mean_ms() * 1e3;
    Ok(json!({
        "rows": options.rows, "intervals": LATE, "records_per_s": per_second,
        "times_a_join_of_the_batch": within.mean_ms() / batch.mean_ms(),
        "join": batch.json(), "join_within": within.json(),
    }))
}
