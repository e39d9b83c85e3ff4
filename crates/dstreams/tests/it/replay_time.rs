//! Old files on a clock of the sources: each record is in the interval of its time, in each run, and the end closes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dstreams::agg::{count, sum};
use dstreams::arrow::datatypes::SchemaRef;
use dstreams::files::{Files, Format};
use dstreams::record::batch_of;
use dstreams::{
    BoxError, Clock, Config, Error, Ingest, Intervals, Millis, RddReceiver, Record, Running,
    Sessions, Source, StopSignal, StreamContext, Summary,
};
use proptest::prelude::*;

use crate::dir::Dir;
use crate::program::{INTERVAL, block_on, cases, soon, until};
use crate::watched::{Answer, Asked, Watched, put};

/// A key, and its time in milliseconds.
type Event = (i64, i64);
/// The events of each batch that has some.
type Batches = BTreeMap<u64, Vec<Event>>;

const MS: i64 = INTERVAL.as_millis() as i64;

fn settings() -> Config {
    let mut config = Config::new(INTERVAL);
    config.threads = 2;
    config.checkpoint_every = 3;
    config.skip_quiet = true;
    config
}

/// Writes events to files in this order, each format in its way. Some lines are blank or no events.
fn write(dir: &Path, format: Format, events: &[Event], per_file: usize) {
    for (at, events) in events.chunks(per_file.max(1)).enumerate() {
        let lines: Vec<String> = match format {
            Format::Csv => std::iter::once("value,key".to_owned())
                .chain(events.iter().map(|(key, time)| format!("{time},{key}")))
                .collect(),
            _ => {
                let line = |(n, (key, time)): (usize, &Event)| match n % 5 {
                    1 => format!("\n{{\"key\":{key},\"value\":{time}}}"),
                    3 => format!("no event\n{{\"value\":{time},\"key\":{key}}}"),
                    _ => format!("{{\"key\":{key},\"value\":{time}}}"),
                };
                events.iter().enumerate().map(line).collect()
            }
        };
        std::fs::write(dir.join(format!("{at:05}.txt")), lines.join("\n") + "\n").unwrap();
    }
}

fn files(dir: &Path, format: Format, piece: usize) -> Files {
    let files = Files::dir(dir, format).piece_bytes(piece);
    files.every(Duration::from_millis(5))
}

/// The end of the interval that is open at the greatest time so far, less the disorder.
fn intervals_of(events: &[Event], disorder: i64) -> Batches {
    let mut greatest = i64::MIN;
    let mut batches = Batches::new();
    for event in events {
        greatest = greatest.max(event.1);
        let end = (greatest - disorder).max(0).div_euclid(MS) + 1;
        batches.entry((end * MS) as u64).or_default().push(*event);
    }
    batches
}

/// What a receiver got, by batch; empty batches are left out.
fn received<T: Record>(rdds: &mut RddReceiver<T>) -> BTreeMap<u64, Vec<T>> {
    let mut all = BTreeMap::new();
    while let Some(rdd) = rdds.try_recv() {
        let rows = rdd.collect().unwrap();
        if !rows.is_empty() {
            let before = all.insert(rdd.batch_time().millis(), rows);
            assert!(before.is_none(), "batch {} came twice", rdd.batch_time());
        }
    }
    all
}

async fn ended(running: &Running) -> dstreams::Result<Summary> {
    let ended = soon("the end", running.await_termination(None)).await;
    ended.map(|summary| summary.unwrap())
}

/// Events in the order of their times, but for the disorder.
fn events(disorder: i64) -> impl Strategy<Value = Vec<Event>> {
    let gap = prop_oneof![6 => 0..30i64, 3 => 30..400i64, 1 => 1_000..40_000i64];
    let one = (0..5i64, gap, 0..=disorder.max(1));
    proptest::collection::vec(one, 1..60).prop_map(move |all| {
        let mut now = 5_000;
        let mut event = |(key, gap, back): (i64, i64, i64)| {
            now += gap;
            (key, now - back.min(disorder))
        };
        all.into_iter().map(&mut event).collect()
    })
}

fn format() -> impl Strategy<Value = Format> {
    prop_oneof![Just(Format::Csv), Just(Format::JsonLines)]
}

proptest! {
    #![proptest_config(cases(24))]

    /// Whatever pieces and files they are read in.
    #[test]
    fn each_record_is_in_the_interval_of_the_greatest_time_so_far(
        (disorder, events) in prop_oneof![Just(0), Just(70), Just(250)]
            .prop_flat_map(|disorder| (Just(disorder), events(disorder))),
        format in format(),
        per_file in 1..40usize,
        piece in prop_oneof![1..200usize, Just(1 << 18)],
    ) {
        let dir = Dir::new();
        write(dir.path(), format, &events, per_file);
        let found = block_on(async {
            let mut ctx = StreamContext::with_config(settings()).unwrap();
            ctx.set_clock(Clock::of_sources());
            let disorder = Duration::from_millis(disorder as u64);
            let files = files(dir.path(), format, piece).once().by_time("value", disorder);
            let mut rdds = ctx.files::<Event>("events", files).unwrap().collect();
            ctx.stop_when_sources_end();
            ended(&ctx.start().await.unwrap()).await.unwrap();
            received(&mut rdds)
        });
        prop_assert_eq!(found, intervals_of(&events, disorder));
    }

    /// Processes that end in the middle of an interval, in the middle of a file, and go on.
    #[test]
    fn processes_that_are_cut_short_have_the_intervals_of_one_that_is_not(
        events in events(0),
        format in format(),
        per_file in 1..40usize,
        cuts in proptest::collection::vec(0..40u64, 0..5),
    ) {
        let (dir, state) = (Dir::new(), Dir::missing());
        write(dir.path(), format, &events, per_file);
        let found = block_on(async {
            let mut found = Batches::new();
            for cut in cuts.iter().map(Some).chain([None]) {
                let mut ctx = StreamContext::with_config(settings()).unwrap();
                ctx.set_clock(Clock::of_sources());
                ctx.persist_in(state.path());
                let files = files(dir.path(), format, 60).by_time("value", Duration::ZERO);
                let files = if cut.is_none() { files.once() } else { files };
                let mut rdds = ctx.files::<Event>("events", files).unwrap().collect();
                if cut.is_none() {
                    ctx.stop_when_sources_end();
                }
                let running = ctx.start().await.unwrap();
                match cut {
                    Some(cut) => {
                        let begun = std::time::Instant::now();
                        until("some batches", || {
                            running.status().batches >= *cut || begun.elapsed().as_millis() > 50
                        }).await;
                        running.abort().await.unwrap();
                    }
                    None => {
                        ended(&running).await.unwrap();
                    }
                }
                add(&mut found, &mut rdds);
            }
            found
        });
        prop_assert_eq!(found, intervals_of(&events, 0));
    }
}

/// What operators over time give, with the clock of the files and then with a clock that a test moves, is the same.
#[test]
fn windows_sessions_and_corrections_are_those_of_a_live_feed() {
    let events: Vec<Event> = (0..400i64)
        .map(|n| (n % 3, 10_000 + 7 * n + n / 150 * 900))
        .collect();
    let [before, live] = [true, false].map(|replay| over_time(&events, replay));
    assert_eq!(before, live);
    let rows: usize = before.iter().map(|(_, rows)| rows.len()).sum();
    assert!(rows > 100, "{rows}");
}

/// All rows by output, with their batches.
fn over_time(events: &[Event], replay: bool) -> Vec<(&'static str, Vec<(u64, String)>)> {
    let dir = Dir::new();
    write(dir.path(), Format::Csv, events, 90);
    block_on(async {
        let mut config = settings();
        config.skip_quiet = false;
        let mut ctx = StreamContext::with_config(config).unwrap();
        let (time, clock) = Clock::manual(Duration::from_millis(10_000));
        ctx.set_clock(if replay { Clock::of_sources() } else { clock });
        let (queue, events_in) = match replay {
            true => {
                let files = files(dir.path(), Format::Csv, 300).once();
                let files = files.by_time("value", Duration::ZERO);
                (None, ctx.files::<Event>("events", files).unwrap())
            }
            false => {
                let (queue, events) = ctx.queue::<Event>("events");
                (Some(queue), events)
            }
        };
        let keyed = events_in.key_by(|(key, _)| key);
        let windows = keyed.map_values(|(_, time)| time);
        let windows = windows.window_agg(5 * INTERVAL, 2 * INTERVAL, (count(), sum::<i64>()));
        let mut windows = windows.unwrap().collect();
        let sessions = Sessions::gap(3 * INTERVAL).slack(INTERVAL);
        let sessions = keyed.session_agg("sessions", |(_, time)| time, sessions, count());
        let mut sessions = sessions.unwrap().ended().collect();
        let intervals = Intervals::every(INTERVAL)
            .slack(INTERVAL)
            .correct_for(3 * INTERVAL);
        let corrected = keyed.agg_by_time("counts", |(_, time)| time, intervals, count());
        let mut finals = corrected.unwrap().finals().collect();
        let all: Vec<Event> = events.to_vec();
        let end = 12 * INTERVAL;
        if replay {
            ctx.close_when_sources_end(end);
            ended(&ctx.start().await.unwrap()).await.unwrap();
        } else {
            let queue = queue.unwrap();
            let running = ctx.start().await.unwrap();
            let mut batches = intervals_of(&all, 0);
            let last = *batches.keys().last().unwrap();
            for batch in (10_000 + MS as u64..).step_by(MS as usize) {
                if batch > last + end.as_millis() as u64 {
                    break;
                }
                if let Some(events) = batches.remove(&batch) {
                    queue.push(events).await.unwrap();
                }
                time.set(Duration::from_millis(batch));
                until("the batch", || {
                    running
                        .last_batch()
                        .is_some_and(|last| last.millis() >= batch)
                })
                .await;
            }
            running.abort().await.unwrap();
        }
        let rows = |all: BTreeMap<u64, Vec<String>>| {
            let rows = all.into_iter().flat_map(|(batch, mut rows)| {
                rows.sort();
                rows.into_iter().map(move |row| (batch, row))
            });
            rows.collect::<Vec<_>>()
        };
        fn shown<T: Record + std::fmt::Debug>(
            rdds: &mut RddReceiver<T>,
        ) -> BTreeMap<u64, Vec<String>> {
            let all = received(rdds).into_iter();
            let show = |(batch, rows): (u64, Vec<T>)| {
                let rows = rows.iter().map(|row| format!("{row:?}"));
                (batch, rows.collect())
            };
            all.map(show).collect()
        }
        vec![
            ("windows", rows(shown(&mut windows))),
            ("sessions", rows(shown(&mut sessions))),
            ("finals", rows(shown(&mut finals))),
        ]
    })
}

/// Records of 100 intervals with event times, one after the other; the other source is behind.
struct Every {
    step: u64,
    times: u64,
    fails: bool,
}

#[dstreams::async_trait]
impl Source for Every {
    fn schema(&self) -> SchemaRef {
        Event::schema()
    }
    fn gives_time(&self) -> bool {
        true
    }
    async fn run(self: Box<Self>, ingest: Ingest, _: StopSignal) -> Result<(), BoxError> {
        for n in 0..self.times {
            let at = 1_000 + n * self.step;
            if !ingest.time_is(at as i64).await? {
                return Ok(());
            }
            ingest.push(batch_of([(n as i64, at as i64)])?).await?;
        }
        if self.fails {
            return Err("the line is dead".into());
        }
        Ok(())
    }
}

fn every(step: u64, times: u64) -> Every {
    Every {
        step,
        times,
        fails: false,
    }
}

fn two_sources(ctx: &mut StreamContext, slow: Every) -> [RddReceiver<Event>; 2] {
    ctx.set_clock(Clock::of_sources());
    let fast = ctx
        .source::<Event>("fast", every(250, 40))
        .unwrap()
        .collect();
    let slow = ctx.source::<Event>("slow", slow).unwrap().collect();
    [fast, slow]
}

#[test]
fn several_sources_wait_for_each_other() {
    block_on(async {
        let mut ctx = StreamContext::with_config(settings()).unwrap();
        let mut rdds = two_sources(&mut ctx, every(10, 500));
        ctx.stop_when_sources_end();
        ended(&ctx.start().await.unwrap()).await.unwrap();
        for (rdds, (step, times)) in rdds.iter_mut().zip([(250, 40), (10, 500)]) {
            let events: Vec<Event> = (0..times).map(|n| (n, 1_000 + n * step)).collect();
            // After the slow one has ended, the fast one alone gives the time.
            assert_eq!(received(rdds), intervals_of(&events, 0), "every {step} ms");
        }
    });
}

/// A failure must not move the time on without the records of the source: the process that comes next has them.
#[test]
fn a_source_of_the_time_that_fails_stops_the_program() {
    block_on(async {
        for ends in [true, false] {
            let mut ctx = StreamContext::with_config(settings()).unwrap();
            let fails = Every {
                fails: true,
                ..every(10, 50)
            };
            let mut rdds = two_sources(&mut ctx, fails);
            if ends {
                ctx.stop_when_sources_end();
            }
            let error = ended(&ctx.start().await.unwrap()).await.unwrap_err();
            assert!(error.to_string().contains("the line is dead"), "{error}");
            let last = received(&mut rdds[1]).into_keys().last();
            assert!(last < Some(1_500), "{last:?}: its last interval was open");
        }
    });
}

/// Whenever it is stopped: also before any source has given a time, and while one waits for another.
#[test]
fn a_stop_waits_for_no_time() {
    struct Silent;
    #[dstreams::async_trait]
    impl Source for Silent {
        fn schema(&self) -> SchemaRef {
            Event::schema()
        }
        fn gives_time(&self) -> bool {
            true
        }
        async fn run(self: Box<Self>, _: Ingest, closing: StopSignal) -> Result<(), BoxError> {
            closing.requested().await;
            Ok(())
        }
    }
    block_on(async {
        for kind in ["graceful", "deadline", "abort"] {
            for record in [false, true] {
                let mut ctx = StreamContext::with_config(settings()).unwrap();
                ctx.set_clock(Clock::of_sources());
                let silent = ctx.source::<Event>("silent", Silent).unwrap();
                silent.for_each_rdd(|_| {});
                ctx.source::<Event>("fast", every(250, 40))
                    .unwrap()
                    .for_each_rdd(|_| {});
                let (queue, words) = ctx.queue::<i64>("no time");
                let mut words = words.collect();
                let running = ctx.start().await.unwrap();
                if record {
                    queue.push([7]).await.unwrap();
                }
                let stop = async {
                    match kind {
                        "graceful" => running.stop().await,
                        "deadline" => running.stop_within(Duration::from_secs(30)).await,
                        _ => running.abort().await,
                    }
                };
                let summary = soon("the stop", stop).await.unwrap();
                let found: Vec<_> = received(&mut words).into_values().flatten().collect();
                let wanted = if record && kind != "abort" {
                    vec![7]
                } else {
                    vec![]
                };
                assert_eq!(found, wanted, "{kind}, {record}: {summary:?}");
            }
        }
    });
}

/// With the wall clock after the last source, a program goes on as any other.
#[test]
fn after_the_files_the_program_is_live() {
    block_on(async {
        let dir = Dir::new();
        let old: Vec<Event> = (0..30).map(|n| (n, 5_000 + 40 * n)).collect();
        write(dir.path(), Format::Csv, &old, 7);
        let mut ctx = StreamContext::with_config(settings()).unwrap();
        ctx.set_clock(Clock::of_sources());
        let files = files(dir.path(), Format::Csv, 100)
            .once()
            .by_time("value", Duration::ZERO);
        let old_events = ctx.files::<Event>("old", files).unwrap();
        let (queue, new) = ctx.queue::<Event>("new");
        let mut all = old_events.union(&new).unwrap().collect();
        let running = ctx.start().await.unwrap();
        let before = Clock::wall().now().micros() / 1_000;
        until("the present", || {
            running
                .last_batch()
                .is_some_and(|last| last.millis() >= before)
        })
        .await;
        queue.push([(77, 0)]).await.unwrap();
        running.stop().await.unwrap();
        let mut found = received(&mut all);
        let (last, rows) = found.pop_last().unwrap();
        assert!(last > before && rows == [(77, 0)], "{last}: {rows:?}");
        assert_eq!(found, intervals_of(&old, 0));
    });
}

/// No record ends the intervals of all others: neither one of 1960 nor one of the year 300,000.
#[test]
fn times_far_away_do_not_end_the_program() {
    block_on(async {
        let dir = Dir::new();
        let far = 9_400_000_000_000_000;
        let events = [
            (1, i64::MIN),
            (2, -5),
            (3, 5_000),
            (4, 5_150),
            (5, far),
            (6, 5_260),
            (7, i64::MAX),
        ];
        write(dir.path(), Format::JsonLines, &events, 100);
        let mut ctx = StreamContext::with_config(settings()).unwrap();
        ctx.set_clock(Clock::of_sources());
        let files = files(dir.path(), Format::JsonLines, 1000)
            .once()
            .by_time("value", Duration::ZERO);
        let mut rdds = ctx.files::<Event>("events", files).unwrap().collect();
        ctx.stop_when_sources_end();
        let now = Clock::wall().now().micros() / 1_000;
        ended(&ctx.start().await.unwrap()).await.unwrap();
        let mut found = received(&mut rdds);
        // Both far ones count as the present, which moves on between them.
        let present: Vec<_> = found.split_off(&now).into_iter().collect();
        let last = present.last().unwrap().0;
        assert!(last < now + 600_000, "{last} at {now}");
        let rows: Vec<Event> = present.into_iter().flat_map(|(_, rows)| rows).collect();
        assert_eq!(rows, &events[4..]);
        let wanted = BTreeMap::from([
            (100, events[..2].to_vec()),
            (5_100, vec![events[2]]),
            (5_200, vec![events[3]]),
        ]);
        assert_eq!(found, wanted);
    });
}

/// An interval that does not fit into memory would wait for its own end.
#[test]
fn an_interval_that_does_not_fit_into_memory_ends_the_program_with_advice() {
    block_on(async {
        let dir = Dir::new();
        let events: Vec<Event> = (0..400_000).map(|n| (n, 5_000)).collect();
        write(dir.path(), Format::Csv, &events, usize::MAX);
        let mut config = settings();
        config.block_memory = 4 << 20; // a block, and less than the rows
        let mut ctx = StreamContext::with_config(config).unwrap();
        ctx.set_clock(Clock::of_sources());
        let files = files(dir.path(), Format::Csv, 8_000).by_time("value", Duration::ZERO);
        let mut rdds = ctx.files::<Event>("events", files).unwrap().collect();
        let error = ended(&ctx.start().await.unwrap())
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("block_memory") && error.contains("`events`"),
            "{error}"
        );
        assert!(received(&mut rdds).is_empty());
    });
}

#[test]
fn a_clock_and_sources_that_do_not_fit_together_are_refused() {
    let dir = Dir::new();
    let by = |column: &str| Files::dir(dir.path(), Format::Csv).by_time(column, Duration::ZERO);
    let start = |describe: &dyn Fn(&mut StreamContext)| {
        let mut ctx = StreamContext::with_config(settings()).unwrap();
        describe(&mut ctx);
        let (_, numbers) = ctx.queue::<i64>("numbers");
        numbers.for_each_rdd(|_| {});
        block_on(async {
            match ctx.start().await {
                Ok(running) => drop(running.abort().await),
                Err(error) => return error.to_string(),
            }
            String::new()
        })
    };
    let none = start(&|ctx| ctx.set_clock(Clock::of_sources()));
    assert!(none.contains("`Files::by_time`"), "{none}");
    let wall = start(&|ctx| ctx.close_when_sources_end(INTERVAL));
    assert!(wall.contains("`stop_when_sources_end`"), "{wall}");
    let clock = Clock::of_sources();
    let twice = &|ctx: &mut StreamContext| {
        ctx.set_clock(clock.clone());
        ctx.files::<Event>("events", by("value"))
            .unwrap()
            .for_each_rdd(|_| {});
    };
    assert_eq!(start(twice), "");
    let again = start(twice);
    assert!(again.contains("a new one for each"), "{again}");

    let mut ctx = StreamContext::with_config(settings()).unwrap();
    let missing = ctx
        .files::<Event>("missing", by("time"))
        .unwrap_err()
        .to_string();
    assert!(
        missing.contains("`time`") && missing.contains("\"value\""),
        "{missing}"
    );
    let text = ctx
        .files::<(String, String)>("text", by("value"))
        .unwrap_err()
        .to_string();
    assert!(text.contains("`value` gives no time"), "{text}");
    let nulls = ctx
        .files::<(i64, Option<i64>)>("nulls", by("value"))
        .unwrap_err();
    assert!(nulls.to_string().contains("with nulls"), "{nulls}");
    let error = ctx.files::<(i64, f64)>("number", by("value")).unwrap_err();
    assert!(matches!(error, Error::Graph { .. }), "{error:?}");
}

/// Parquet has the same intervals, and `Millis`.
#[cfg(feature = "parquet")]
#[test]
fn parquet_files_give_the_time_too() {
    block_on(async {
        let (dir, out) = (Dir::new(), Dir::missing());
        let events: Vec<Event> = (0..9_000).map(|n| (n, 5_000 + n / 3)).collect();
        write(dir.path(), Format::Csv, &events, usize::MAX);
        let mut ctx = StreamContext::with_config(settings()).unwrap();
        let lines = Files::dir(dir.path(), Format::Csv).once();
        let rows = ctx.files::<Event>("events", lines).unwrap();
        let rows = rows.map(|(key, time)| (key, Millis(time)));
        rows.write_files(out.path(), Format::Parquet).unwrap();
        ctx.stop_when_sources_end();
        ended(&ctx.start().await.unwrap()).await.unwrap();

        let mut ctx = StreamContext::with_config(settings()).unwrap();
        ctx.set_clock(Clock::of_sources());
        let files = Files::dir(out.path(), Format::Parquet).once();
        let files = files.by_time("value", Duration::ZERO);
        let events_in = ctx.files::<(i64, Millis)>("events", files).unwrap();
        let mut rdds = events_in.map(|(key, time)| (key, time.0)).collect();
        ctx.stop_when_sources_end();
        ended(&ctx.start().await.unwrap()).await.unwrap();
        assert_eq!(received(&mut rdds), intervals_of(&events, 0));
    });
}

/// Adds what a process gave; a batch that is committed again gives the same.
fn add(found: &mut Batches, rdds: &mut RddReceiver<Event>) {
    for (batch, rows) in received(rdds) {
        let before = found.insert(batch, rows.clone());
        assert!(before.is_none_or(|before| before == rows), "batch {batch}");
    }
}

/// The last files were read before the kill, so no source of the next process gives a time.
#[test]
fn a_process_that_follows_a_kill_emits_what_waits_at_the_end() {
    let (dir, state) = (Dir::new(), Dir::missing());
    let events: Vec<Event> = (0..60).map(|n| (n % 4, 5_000 + 17 * n)).collect();
    write(dir.path(), Format::Csv, &events, 25);
    let program = |once: bool, state: Option<&Dir>| {
        let mut ctx = StreamContext::with_config(settings()).unwrap();
        ctx.set_clock(Clock::of_sources());
        if let Some(state) = state {
            ctx.persist_in(state.path());
        }
        let files = files(dir.path(), Format::Csv, 100).by_time("value", Duration::ZERO);
        let files = if once { files.once() } else { files };
        let events = ctx.files::<Event>("events", files).unwrap();
        let windows = events.key_by(|(key, _)| key);
        let windows = windows.window_agg(4 * INTERVAL, INTERVAL, count()).unwrap();
        let rdds = windows.collect();
        if once {
            ctx.close_when_sources_end(6 * INTERVAL);
        }
        (ctx, rdds)
    };
    let sorted = |mut rows: Batches| {
        rows.values_mut().for_each(|rows| rows.sort());
        rows
    };
    let whole = block_on(async {
        let (ctx, mut rdds) = program(true, None);
        ended(&ctx.start().await.unwrap()).await.unwrap();
        sorted(received(&mut rdds))
    });
    let in_two = block_on(async {
        let mut found = Batches::new();
        let (ctx, mut rdds) = program(false, Some(&state));
        let running = ctx.start().await.unwrap();
        // All but the interval that is open, which has records.
        let last = *intervals_of(&events, 0).keys().nth_back(1).unwrap();
        until("the last interval", || {
            let cut = running
                .last_batch()
                .is_some_and(|batch| batch.millis() >= last);
            cut && running.status().block_memory > 0
        })
        .await;
        running.abort().await.unwrap();
        add(&mut found, &mut rdds);
        let (ctx, mut rdds) = program(true, Some(&state));
        ended(&ctx.start().await.unwrap()).await.unwrap();
        add(&mut found, &mut rdds);
        sorted(found)
    });
    assert_eq!(in_two, whole);
}

/// Their records are acknowledged, and must come into batches.
#[test]
fn sources_without_a_time_go_on_after_those_with_one() {
    block_on(async {
        let dir = Dir::new();
        write(dir.path(), Format::Csv, &[(1, 5_000), (2, 5_100)], 10);
        let mut ctx = StreamContext::with_config(settings()).unwrap();
        ctx.set_clock(Clock::of_sources());
        let files = files(dir.path(), Format::Csv, 100)
            .once()
            .by_time("value", Duration::ZERO);
        ctx.files::<Event>("old", files)
            .unwrap()
            .for_each_rdd(|_| {});
        let (queue, new) = ctx.queue::<Event>("new");
        new.for_each_rdd(|_| {});
        ctx.stop_when_sources_end();
        let running = ctx.start().await.unwrap();
        until("the old ones", || running.status().records == 2).await;
        queue.push([(3, 0)]).await.unwrap();
        until("the new one", || running.status().records == 3).await;
        running.stop().await.unwrap();

        let mut ctx = StreamContext::with_config(settings()).unwrap();
        ctx.set_clock(Clock::of_sources());
        ctx.source::<Event>("fast", every(250, 4))
            .unwrap()
            .for_each_rdd(|_| {});
        let (_queue, new) = ctx.queue::<Event>("new");
        new.for_each_rdd(|_| {});
        ctx.close_when_sources_end(INTERVAL);
        let error = ctx.start().await.err().unwrap().to_string();
        assert!(error.contains("all sources give the time"), "{error}");
    });
}

/// A whole file in another format, before any record: no interval ends, so no batch takes the dead letters.
#[test]
fn dead_letters_that_do_not_fit_into_memory_end_the_program_with_advice() {
    block_on(async {
        let dir = Dir::new();
        let line = "no event ".repeat(20) + "\n";
        std::fs::write(dir.join("a.txt"), line.repeat(60_000)).unwrap();
        let mut config = settings();
        config.block_memory = 4 << 20; // a block, and less than the letters
        let mut ctx = StreamContext::with_config(config).unwrap();
        ctx.set_clock(Clock::of_sources());
        ctx.dead_letters().for_each_rdd(|_| {});
        let files = files(dir.path(), Format::JsonLines, 8_000).by_time("value", Duration::ZERO);
        ctx.files::<Event>("events", files)
            .unwrap()
            .for_each_rdd(|_| {});
        let error = ended(&ctx.start().await.unwrap())
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("block_memory") && error.contains("`events`"),
            "{error}"
        );
    });
}

/// What other sources bring before the files have a time must not name a batch of today.
#[test]
fn a_stop_before_the_first_time_leaves_the_intervals_as_they_are() {
    block_on(async {
        let (dir, state) = (Dir::new(), Dir::missing());
        let events: Vec<Event> = (0..30).map(|n| (n, 5_000 + 40 * n)).collect();
        let mut found = (Batches::new(), Vec::new());
        for first in [true, false] {
            let mut ctx = StreamContext::with_config(settings()).unwrap();
            ctx.set_clock(Clock::of_sources());
            ctx.persist_in(state.path());
            let files = files(dir.path(), Format::Csv, 100).by_time("value", Duration::ZERO);
            let mut rdds = ctx.files::<Event>("events", files).unwrap().collect();
            let (queue, words) = ctx.queue::<i64>("no time");
            let mut words = words.collect();
            let running = ctx.start().await.unwrap();
            if first {
                queue.push([7]).await.unwrap();
            } else {
                write(dir.path(), Format::Csv, &events, 7);
                // And those of the last interval, which is open.
                until("all files", || {
                    running.status().records == 29 && running.status().block_memory > 0
                })
                .await;
            }
            running.stop().await.unwrap();
            add(&mut found.0, &mut rdds);
            found.1.extend(received(&mut words).into_values().flatten());
        }
        assert_eq!(found, (intervals_of(&events, 0), vec![7]));
    });
}

/// Without a directory the program begins anew, and the output would take its batches for committed ones.
#[test]
fn an_output_with_later_batches_is_refused() {
    block_on(async {
        let (dir, out) = (Dir::new(), Dir::missing());
        write(
            dir.path(),
            Format::Csv,
            &[(1, 5_000), (2, 5_100), (3, 5_200)],
            10,
        );
        for first in [true, false] {
            let mut ctx = StreamContext::with_config(settings()).unwrap();
            ctx.set_clock(Clock::of_sources());
            let files = files(dir.path(), Format::Csv, 100)
                .once()
                .by_time("value", Duration::ZERO);
            let events = ctx.files::<Event>("events", files).unwrap();
            events.write_files(out.path(), Format::JsonLines).unwrap();
            ctx.stop_when_sources_end();
            let ended = ended(&ctx.start().await.unwrap()).await;
            match ended {
                Ok(summary) => assert!(first && summary.records == 3),
                Err(error) => assert!(
                    !first && error.to_string().contains("another place"),
                    "{error}"
                ),
            }
        }
    });
}

/// An outage of a store ends no interval: the next process reads on where the file failed.
#[test]
fn a_file_that_cannot_be_read_for_now_stops_the_program() {
    let events: Vec<Event> = (0..500_000).map(|n| (n, 5_000 + n / 50)).collect();
    let lines = events.iter().map(|(key, time)| format!("{key},{time}\n"));
    let text = "key,value\n".to_owned() + &lines.collect::<String>();
    let outage = Arc::new(AtomicBool::new(true));
    let fails = Arc::clone(&outage);
    let mut gets = 0;
    let store = Watched::new(move |asked, _| {
        gets += usize::from(matches!(asked, Asked::Get(name, _) if name == "in/a"));
        match gets > 1 && fails.load(Ordering::SeqCst) {
            true => Answer::Fail,
            false => Answer::Give,
        }
    });
    put(&store.objects, "in/a", text.as_bytes().to_vec());
    put(&store.objects, "in/b", "key,value\n0,20000\n");
    let state = Dir::missing();
    let found = block_on(async {
        let mut found = Batches::new();
        for first in [true, false] {
            outage.store(first, Ordering::SeqCst);
            let mut ctx = StreamContext::with_config(settings()).unwrap();
            ctx.set_clock(Clock::of_sources());
            ctx.persist_in(state.path());
            let files = Files::store(Arc::clone(&store) as _, "in", Format::Csv).once();
            let files = files.by_time("value", Duration::ZERO);
            let mut rdds = ctx.files::<Event>("events", files).unwrap().collect();
            ctx.stop_when_sources_end();
            let ended = ended(&ctx.start().await.unwrap()).await;
            assert_eq!(ended.is_err(), first, "{ended:?}");
            add(&mut found, &mut rdds);
        }
        found
    });
    let all: Vec<Event> = events.into_iter().chain([(0, 20_000)]).collect();
    assert!(found == intervals_of(&all, 0));
}
