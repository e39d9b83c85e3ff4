//! Sessions against the records of each key in order of time, divided where there is a gap.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use dstreams::agg::{count, sum_of};
use dstreams::{Config, DStream, Error, RddReceiver, Record, Sessions, StreamContext};
use proptest::prelude::*;

use crate::program::{
    Batches, INTERVAL, Interval, Program, block_on, cases, intervals, runs, settings, small, sorted,
};

/// A key, its event time and a number.
type Event = (i64, (i64, i64));
/// A key, first and last time, count and sum.
type Session = (i64, ((i64, i64), (i64, i64)));

/// Gap, slack and length, in intervals.
#[derive(Debug, Clone, Copy)]
struct Lengths {
    gap: usize,
    slack: usize,
    longest: Option<usize>,
}

impl Lengths {
    fn sessions(self) -> Sessions {
        let of = |intervals: usize| INTERVAL * intervals as u32;
        let sessions = Sessions::gap(of(self.gap)).slack(of(self.slack));
        match self.longest {
            Some(longest) => sessions.longest(of(longest)),
            None => sessions,
        }
    }

    fn over_at(self, last: i64) -> i128 {
        i128::from(last) + 100 * (self.gap + self.slack) as i128
    }

    /// The batch with which a session ends.
    fn ends(self, last: i64) -> i128 {
        (self.over_at(last) + 99).div_euclid(100) * 100
    }
}

fn lengths() -> impl Strategy<Value = Lengths> {
    let longest = prop::option::of(0..4usize);
    (1..4usize, 0..4usize, longest).prop_map(|(gap, slack, beyond)| Lengths {
        gap,
        slack,
        longest: beyond.map(|beyond| slack.max(1) + beyond),
    })
}

/// What the three streams have.
#[derive(Debug, Clone, PartialEq, Default)]
struct Found {
    ended: Batches<Session>,
    open: Batches<Session>,
    late: Batches<Event>,
}

impl Found {
    fn sorted(self) -> Found {
        Found {
            ended: sorted(self.ended),
            open: sorted(self.open),
            late: sorted(self.late),
        }
    }

    fn add(&mut self, more: Found) {
        self.ended.extend(more.ended);
        self.open.extend(more.open);
        self.late.extend(more.late);
    }
}

struct Outputs {
    ended: RddReceiver<Session>,
    open: RddReceiver<Session>,
    late: RddReceiver<Event>,
}

impl Outputs {
    fn of(events: &DStream<Event>, lengths: Lengths) -> Self {
        let agg = (count(), sum_of::<i64>("value"));
        let sessions = lengths.sessions();
        let sessions = (events.by_key()).session_agg("sessions", |(time, _)| time, sessions, agg);
        let sessions = sessions.unwrap();
        Outputs {
            ended: sessions.ended().pairs().collect(),
            open: sessions.open().pairs().collect(),
            late: sessions.late().pairs().collect(),
        }
    }

    fn found(mut self) -> Found {
        fn all<T: Record>(of: &mut RddReceiver<T>) -> Batches<T> {
            let all = dstreams::testing::batches(of).unwrap().into_iter();
            all.map(|(batch, records)| (batch.0, records)).collect()
        }
        Found {
            ended: all(&mut self.ended),
            open: all(&mut self.open),
            late: all(&mut self.late),
        }
    }
}

fn found(config: &Config, input: &[Interval<Event>], lengths: Lengths) -> Found {
    run(None, (config, lengths), (0, input), true)
}

/// Runs some intervals of a program, the first of which is number `first`, perhaps in a directory.
fn run(
    dir: Option<&Path>,
    (config, lengths): (&Config, Lengths),
    (first, input): (usize, &[Interval<Event>]),
    kill: bool,
) -> Found {
    block_on(async {
        let mut program = Program::after(first as u32, config.clone());
        let (queue, events) = program.ctx.queue::<Event>("in");
        let outputs = Outputs::of(&events, lengths);
        if let Some(dir) = dir {
            program.ctx.persist_in(dir);
        }
        let mut live = program.start().await;
        for (at, interval) in input.iter().enumerate() {
            for block in interval {
                queue.push(block.iter().copied()).await.unwrap();
            }
            // A graceful stop runs one more batch.
            if !kill && at + 1 == input.len() {
                live.running.stop().await.unwrap();
                return outputs.found();
            }
            live.batch().await;
        }
        live.running.abort().await.unwrap();
        outputs.found()
    })
}

fn by_key(events: impl Iterator<Item = Event>) -> BTreeMap<i64, Vec<(i64, i64)>> {
    let mut by_key = BTreeMap::<i64, Vec<_>>::new();
    events.for_each(|(key, value)| by_key.entry(key).or_default().push(value));
    by_key
}

fn session(key: i64, records: &[(i64, i64)]) -> Session {
    let times = records.iter().map(|(time, _)| *time);
    let span = (times.clone().min().unwrap(), times.max().unwrap());
    let sum = records.iter().map(|(_, n)| n).sum();
    (key, (span, (records.len() as i64, sum)))
}

/// The records of a key in order of time, divided into sessions.
fn divided(mut records: Vec<(i64, i64)>, lengths: Lengths) -> Vec<Vec<(i64, i64)>> {
    records.sort_unstable();
    let interval = |time: i64| i128::from(time).div_euclid(100) * 100;
    let mut sessions: Vec<Vec<(i64, i64)>> = Vec::new();
    for record in records {
        let joins = sessions.last().is_some_and(|session| {
            let (first, last) = (session[0].0, session.last().unwrap().0);
            let longest = lengths.longest.map(|longest| 100 * longest as i128);
            let cut = longest.is_some_and(|it| interval(record.0) >= interval(first) + it);
            i128::from(record.0) - i128::from(last) < 100 * lengths.gap as i128 && !cut
        });
        match sessions.last_mut().filter(|_| joins) {
            Some(session) => session.push(record),
            None => sessions.push(vec![record]),
        }
    }
    sessions
}

/// Records that come up to the slack later than their interval: how many intervals each is late, and the place in it.
fn in_time(input: &[Interval<Event>], slack: usize) -> Vec<Interval<Event>> {
    let batches = (1..).zip(input.iter().cloned());
    let moved = |(batch, mut blocks): (i64, Interval<Event>)| {
        for (_, (time, _)) in blocks.iter_mut().flatten() {
            let late = time.div_euclid(100) % (slack as i64 + 1);
            *time = 100 * (batch - 1 - late) + time.rem_euclid(100);
        }
        blocks
    };
    batches.map(moved).collect()
}

/// The sessions of all records, each in the batch with which it ends, and what is open after each batch.
fn of_all(input: &[Interval<Event>], lengths: Lengths) -> Found {
    let mut found = Found::default();
    let mut so_far = Vec::new();
    for (at, interval) in (1u64..).map(|at| 100 * at).zip(input) {
        so_far.extend(interval.iter().flatten().copied());
        let (mut ended, mut open) = (Vec::new(), Vec::new());
        for (key, records) in by_key(so_far.iter().copied()) {
            for records in divided(records, lengths) {
                let ends = lengths.ends(records.last().unwrap().0);
                if ends == i128::from(at) {
                    ended.push(session(key, &records));
                } else if ends > i128::from(at) {
                    open.push(session(key, &records));
                }
            }
        }
        found.ended.push((at, ended));
        found.open.push((at, open));
        found.late.push((at, Vec::new()));
    }
    found
}

/// The rule without a length, batch by batch.
fn naive(input: &[Interval<Event>], lengths: Lengths) -> Found {
    let mut found = Found::default();
    let mut open = BTreeMap::<i64, Vec<Vec<(i64, i64)>>>::new();
    for (at, interval) in (1u64..).map(|at| 100 * at).zip(input) {
        let (mut ended, mut late) = (Vec::new(), Vec::new());
        let mut events = by_key(interval.iter().flatten().copied());
        for key in open.keys() {
            events.entry(*key).or_default();
        }
        for (key, events) in events {
            let held = open.remove(&key).unwrap_or_default();
            let mut all = held.concat();
            all.extend(&events);
            for records in divided(all, lengths) {
                let was_open = held.iter().flatten().any(|it| {
                    // Records may be equal, but not those of two sessions.
                    records.contains(it)
                });
                let ends = lengths.ends(records.last().unwrap().0);
                if ends > i128::from(at) {
                    open.entry(key).or_default().push(records);
                } else if was_open || ends == i128::from(at) {
                    ended.push(session(key, &records));
                } else {
                    late.extend(records.into_iter().map(|record| (key, record)));
                }
            }
        }
        let sessions = open.iter().flat_map(|(key, sessions)| {
            let sessions = sessions.iter();
            sessions.map(|records| session(*key, records))
        });
        found.open.push((at, sessions.collect()));
        found.ended.push((at, ended));
        found.late.push((at, late));
    }
    found
}

fn event() -> impl Strategy<Value = Event> {
    (0..3i64, (0..400i64, -9..9i64))
}

/// Own times around those of the batches, and some that are far from them.
fn wild() -> impl Strategy<Value = Event> {
    let time = prop_oneof![
        30 => -300..1500i64,
        1 => Just(i64::MIN),
        1 => Just(i64::MAX),
        1 => i64::MAX - 300..=i64::MAX,
    ];
    (0..3i64, (time, -9..9i64))
}

proptest! {
    #![proptest_config(cases(48))]

    /// However they are cut into batches, and in whatever order they come within the slack.
    #[test]
    fn sessions_of_records_in_time_are_those_of_all_records(
        config in settings(),
        input in intervals(event(), 12),
        lengths in lengths(),
    ) {
        let mut input = in_time(&input, lengths.slack);
        // All sessions end.
        input.resize(input.len() + lengths.gap + lengths.slack + 1, Vec::new());
        let wanted = of_all(&input, lengths);
        prop_assert!(wanted.open.last().unwrap().1.is_empty());
        prop_assert_eq!(found(&config, &input, lengths).sorted(), wanted.sorted());
    }

    #[test]
    fn each_record_is_in_one_session_or_late(
        config in settings(),
        input in intervals(wild(), 12),
        lengths in lengths(),
    ) {
        let lengths = Lengths { longest: None, ..lengths };
        prop_assert_eq!(found(&config, &input, lengths).sorted(), naive(&input, lengths).sorted());
    }

    /// With sessions that are cut, too: in any order, on any number of threads.
    #[test]
    fn no_record_is_lost_or_counted_twice(
        config in settings(),
        input in intervals(wild(), 12),
        lengths in lengths(),
    ) {
        let got = found(&config, &input, lengths);
        let records = |sessions: &[Session]| sessions.iter().map(|(_, (_, (count, _)))| *count).sum::<i64>();
        let ended: i64 = got.ended.iter().map(|(_, sessions)| records(sessions)).sum();
        let late: usize = got.late.iter().map(|(_, records)| records.len()).sum();
        let open = got.open.last().map_or(0, |(_, sessions)| records(sessions));
        let all = input.iter().flatten().flatten().count();
        prop_assert_eq!(ended + open + late as i64, all as i64);
        let mut one = config.clone();
        one.threads = 1;
        prop_assert_eq!(found(&one, &input, lengths).sorted(), got.sorted());
    }
}

proptest! {
    #![proptest_config(cases(24))]

    /// However a run ends: what is open stays open, and each session is emitted once, in its batch.
    #[test]
    fn restarts_lose_nothing_and_emit_nothing_twice(
        runs in runs(),
        input in intervals(wild(), 14),
        lengths in lengths(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let wanted = found(&runs.config, &input, lengths).sorted();
        let mut got = Found::default();
        runs.each(&input, |first, some, is_killed| {
            got.add(run(Some(dir.path()), (&runs.config, lengths), (first, some), is_killed));
        });
        prop_assert_eq!(got.sorted(), wanted);
    }
}

const LENGTHS: Lengths = Lengths {
    gap: 2,
    slack: 1,
    longest: Some(4),
};

/// Batches since the checkpoint run again, and would end sessions at other times than they did.
#[test]
fn other_lengths_are_refused_at_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = small(2, 2, 3);
    config.checkpoint_every = 1;
    let input = vec![vec![vec![(1, (50, 1))]]];
    run(Some(dir.path()), (&config, LENGTHS), (0, &input), false);
    let start = async |lengths| {
        let mut program = Program::after(1, config.clone());
        let (_, events) = program.ctx.queue::<Event>("in");
        let _outputs = Outputs::of(&events, lengths);
        program.ctx.persist_in(dir.path());
        program.ctx.start().await
    };
    block_on(async {
        for other in [
            Lengths { gap: 3, ..LENGTHS },
            Lengths {
                slack: 2,
                ..LENGTHS
            },
            Lengths {
                longest: Some(5),
                ..LENGTHS
            },
            Lengths {
                longest: None,
                ..LENGTHS
            },
        ] {
            let error = start(other).await.err().unwrap().to_string();
            let wanted = "[gap 200 ms, slack 100 ms, cut after 400 ms]";
            assert!(error.contains(wanted), "{error}");
        }
        start(LENGTHS).await.unwrap().abort().await.unwrap();
    });
}

/// A record between two sessions joins them, and a session is cut where it would be if the record had come first.
#[test]
fn a_late_record_joins_two_sessions() {
    let mut input: Vec<Interval<Event>> = vec![Vec::new(); 14];
    let at = |batch: usize, time: i64| (batch, (7, (time, 1)));
    let records = [
        at(1, 50),
        at(3, 220),
        at(4, 390),
        at(8, 720),
        at(8, 760),
        at(9, 810),
        // Four intervals late.
        at(10, 560),
    ];
    let lengths = Lengths {
        gap: 2,
        slack: 4,
        longest: Some(8),
    };
    for (batch, event) in records {
        input[batch - 1].push(vec![event]);
    }
    let found = found(&small(3, 1, 2), &input, lengths);
    let open = |batch: usize| found.open[batch - 1].1.clone();
    let of = |span, count| (7, (span, (count, count)));
    assert_eq!(open(9), [of((50, 390), 3), of((720, 810), 3)]);
    assert_eq!(open(10), [of((50, 760), 6), of((810, 810), 1)]);
    let ended = |batch: usize| found.ended[batch - 1].1.clone();
    assert_eq!(ended(14), [of((50, 760), 6)]);
    assert_eq!(found.open[13].1, [of((810, 810), 1)]);
}

/// Open sessions are a table, and what nothing reads is counted.
#[test]
fn open_sessions_are_queried_and_unread_late_records_counted() {
    block_on(async {
        let mut program = Program::new(small(2, 1, 4));
        let (queue, events) = program.ctx.queue::<Event>("in");
        let sessions = |name| {
            let sessions = LENGTHS.sessions();
            (events.by_key()).session_agg(name, |(time, _)| time, sessions, sum_of::<i64>("value"))
        };
        sessions("unread").unwrap().ended().pairs().print(0);
        sessions("read").unwrap().late().pairs().print(0);
        let mut live = program.start().await;
        for batch in 1..=8i64 {
            queue
                .push([(1, (50, 1)), (2, (100 * batch - 30, batch))])
                .await
                .unwrap();
            live.batch().await;
        }
        let rejected = live.running.status().rejected;
        let counts: Vec<u64> = rejected.values().copied().collect();
        // The first session is over with batch 4.
        assert_eq!(counts, [4], "{rejected:?}");
        let session = live.running.session().await.unwrap();
        let sql = "select * from unread where key = 2 order by 2";
        let rows = session.sql(sql).await.unwrap().collect().await.unwrap();
        let text = dstreams::arrow::util::pretty::pretty_format_batches(&rows).unwrap();
        let text = text.to_string();
        assert!(
            text.contains("| 2   | 470") && text.contains("770"),
            "{text}"
        );
        live.running.abort().await.unwrap();
    });
}

#[test]
fn lengths_and_names_that_do_not_fit_are_refused() {
    let ms = Duration::from_millis;
    let mut ctx = StreamContext::new(INTERVAL).unwrap();
    let events = ctx.queue::<Event>("in").1.by_key();
    let refused = |sessions: Sessions, wanted: &str| {
        let made = events.session_agg("sessions", |(time, _)| time, sessions, count());
        let error: Error = made.map(drop).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
    };
    refused(Sessions::gap(ms(150)), "a gap of 150ms");
    refused(Sessions::gap(ms(0)), "a gap of 0ns");
    let gap = Sessions::gap(ms(100));
    refused(gap.slack(ms(10)), "a slack of 10ms");
    refused(gap.longest(ms(50)), "a longest session of 50ms");
    refused(
        gap.slack(ms(300)).longest(ms(200)),
        "before their slack of 300 ms",
    );
    let fits = gap.slack(ms(300)).longest(ms(300));
    let _ = events
        .session_agg("sessions", |(time, _)| time, fits, count())
        .unwrap();
    refused(fits, "called `sessions`");
}
