//! Timers and times to live of states by closures, against a map that is searched in each batch.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use dstreams::{
    BatchTime, Config, KeyState, MapWithState, Out, RddReceiver, Record, StreamContext, Track,
};
use proptest::prelude::*;

use crate::program::{
    Batches, INTERVAL, Interval, Program, block_on, cases, intervals, runs, settings, small,
    sorted, text,
};

type Event = (String, i64);
type Made = (String, String);

/// How long keys are held, in intervals.
#[derive(Debug, Clone, Copy)]
struct Lengths {
    timeout: Option<u32>,
    live: Option<u32>,
}

fn lengths() -> impl Strategy<Value = Lengths> {
    let length = |most: u32| prop::option::of(1..most);
    (length(4), length(6)).prop_map(|(timeout, live)| Lengths { timeout, live })
}

/// What a call leaves: the state, and the timer if it is another one now.
struct Left {
    state: Option<i64>,
    timer: Option<u64>,
}

/// An event at `now`: some set the timer, replace it, or remove the key.
fn on_event(before: Option<i64>, value: i64, now: u64) -> Left {
    let next = Some(before.unwrap_or(0) + 1);
    let at = |timer| Left { state: next, timer };
    match value.rem_euclid(7) {
        0 => Left {
            state: None,
            timer: None,
        },
        1 => at(Some(now + 150)),
        2 => at(Some(now + 300)),
        // In the past.
        3 => at(Some(now - 50)),
        4 => at(Some(u64::MAX)),
        _ => at(None),
    }
}

/// The timer of a key is due.
fn on_timer(state: i64, now: u64) -> Left {
    match state % 3 {
        0 => Left {
            state: None,
            timer: None,
        },
        1 => Left {
            state: Some(state + 1),
            timer: Some(now + 200),
        },
        _ => Left {
            state: Some(-state),
            timer: None,
        },
    }
}

fn mapping(lengths: Lengths) -> MapWithState<String, i64, i64, Made> {
    let map = MapWithState::<String, i64, i64, Made>::new(
        |key: &str, value: Option<i64>, cell: &mut KeyState<i64>, out: &mut Out<'_, Made>| {
            let (before, now) = (cell.get().copied(), cell.time().millis());
            let left = match (value, before) {
                (Some(value), _) => {
                    out.push((key.to_owned(), format!("{value} to {before:?}")));
                    on_event(before, value, now)
                }
                (None, Some(state)) => {
                    assert!(cell.is_woken() && !cell.is_timing_out());
                    out.push((key.to_owned(), format!("woken with {state}")));
                    on_timer(state, now)
                }
                (None, None) => panic!("a key without a state is woken"),
            };
            match left.state {
                Some(state) => cell.set(state),
                None => drop(cell.remove()),
            }
            if let Some(timer) = left.timer {
                cell.wake_at(BatchTime(timer));
            }
        },
    );
    let mut map = map.on_timeout(|key, state, out| {
        out.push((key.to_owned(), format!("leaves with {state}")));
    });
    if let Some(timeout) = lengths.timeout {
        map = map.timeout(INTERVAL * timeout);
    }
    match lengths.live {
        Some(live) => map.live(INTERVAL * live),
        None => map,
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Found {
    mapped: Batches<Made>,
    all: Batches<Event>,
    timed_out: Batches<Event>,
}

impl Found {
    fn sorted(self) -> Found {
        Found {
            mapped: sorted(self.mapped),
            all: sorted(self.all),
            timed_out: sorted(self.timed_out),
        }
    }
}

/// Runs some intervals of a program, the first of which is number `first`, perhaps in a directory.
fn run(
    dir: Option<&Path>,
    (config, lengths): (&Config, Lengths),
    (first, input): (usize, &[Interval<Event>]),
    kill: bool,
) -> Found {
    fn all<T: Record>(mut of: RddReceiver<T>) -> Batches<T> {
        let all = dstreams::testing::batches(&mut of).unwrap().into_iter();
        all.map(|(batch, records)| (batch.0, records)).collect()
    }
    block_on(async {
        let mut program = Program::after(first as u32, config.clone());
        let (queue, events) = program.ctx.queue::<Event>("in");
        let timed = events.by_key().map_with_state("timed", mapping(lengths));
        let (mapped, state) = timed.unwrap();
        let outputs = (
            mapped.collect(),
            state.all().pairs().collect(),
            state.timed_out().pairs().collect(),
        );
        if let Some(dir) = dir {
            program.ctx.persist_in(dir);
        }
        program
            .start()
            .await
            .feed_and_end(&queue, input, kill)
            .await;
        Found {
            mapped: all(outputs.0),
            all: all(outputs.1),
            timed_out: all(outputs.2),
        }
    })
}

#[derive(Clone)]
struct Held {
    state: i64,
    first: u64,
    last: u64,
    timer: Option<u64>,
}

/// Key by key, record by record.
fn by_hand(input: &[Interval<Event>], lengths: Lengths) -> Found {
    let mut found = Found::default();
    let mut held = BTreeMap::<String, Held>::new();
    for (number, interval) in (1u64..).zip(input) {
        let now = 100 * number;
        let (mut made, mut left) = (Vec::new(), Vec::new());
        let timer_of = |before: Option<u64>, timer: Option<u64>| match timer {
            Some(u64::MAX) => None,
            timer => timer.or(before),
        };
        for (key, mut of) in held.clone() {
            let timeout = lengths.timeout.map(|n| of.last + 100 * u64::from(n));
            let live = lengths.live.map(|n| of.first + 100 * u64::from(n));
            let end = timeout.into_iter().chain(live).min().unwrap_or(u64::MAX);
            if let Some(timer) = of.timer.filter(|timer| *timer <= end.min(now)) {
                assert!(timer < u64::MAX);
                made.push((key.clone(), format!("woken with {}", of.state)));
                let Left { state, timer } = on_timer(of.state, now);
                let Some(state) = state else {
                    held.remove(&key);
                    continue;
                };
                (of.state, of.timer) = (state, timer_of(None, timer));
                held.insert(key.clone(), of.clone());
            }
            if end <= now {
                made.push((key.clone(), format!("leaves with {}", of.state)));
                left.push((key.clone(), of.state));
                held.remove(&key);
            }
        }
        for (key, value) in interval.concat() {
            let before = held.remove(&key);
            let state = before.as_ref().map(|of| of.state);
            made.push((key.clone(), format!("{value} to {state:?}")));
            let next = on_event(state, value, now);
            if let Some(state) = next.state {
                let timer = timer_of(before.as_ref().and_then(|of| of.timer), next.timer);
                let first = before.map_or(now, |of| of.first);
                let of = Held {
                    state,
                    first,
                    last: now,
                    timer,
                };
                held.insert(key, of);
            }
        }
        found.mapped.push((now, made));
        found.timed_out.push((now, left));
        let all = held.iter().map(|(key, of)| (key.clone(), of.state));
        found.all.push((now, all.collect()));
    }
    found
}

fn event() -> impl Strategy<Value = Event> {
    (text(), -99..99i64)
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn keys_are_woken_and_leave_at_their_times(
        config in settings(),
        input in intervals(event(), 14),
        lengths in lengths(),
    ) {
        let found = run(None, (&config, lengths), (0, &input), true);
        prop_assert_eq!(found.sorted(), by_hand(&input, lengths).sorted());
    }

    #[test]
    fn restarts_wake_each_key_once(
        runs in runs(),
        input in intervals(event(), 14),
        lengths in lengths(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut found = Found::default();
        runs.each(&input, |first, some, is_killed| {
            let more = run(Some(dir.path()), (&runs.config, lengths), (first, some), is_killed);
            found.mapped.extend(more.mapped);
            found.all.extend(more.all);
            found.timed_out.extend(more.timed_out);
        });
        prop_assert_eq!(found.sorted(), by_hand(&input, lengths).sorted());
    }
}

/// By the times at which they were due, then by the last change; then the values.
#[test]
fn calls_of_a_batch_are_in_order() {
    let map = MapWithState::<String, i64, i64, String>::new(|key, value, state, out| {
        out.push(match value {
            None => format!("{key} is woken"),
            Some(value) => format!("{key} has {value}"),
        });
        if let Some(value) = value {
            state.set(value);
        }
        if let Some(after) = value.filter(|value| *value > 0) {
            state.wake_at(state.time().plus(after as u64));
        }
    });
    let map = map
        .timeout(INTERVAL * 3)
        .on_timeout(|key, _, out| out.push(format!("{key} leaves")));
    let event = |key: &str, value: i64| (key.to_owned(), value);
    let input = [
        vec![
            event("a", 290),
            event("b", 250),
            event("c", 0),
            event("d", 300),
        ],
        vec![],
        vec![],
        vec![event("e", 0), event("b", -1)],
    ];
    let input = input.map(|interval| vec![interval]);
    let batches = crate::program::run(&small(1, 9, 9), &input, |_, events| {
        events.by_key().map_with_state("ordered", map).unwrap().0
    });
    let wanted = [
        "b is woken",
        "a is woken",
        "c leaves",
        "d is woken",
        "b leaves",
        "a leaves",
        "d leaves",
        "e has 0",
        "b has -1",
    ];
    assert_eq!(batches[3].1, wanted);
}

/// The first event counts, whatever comes later; a new life begins with the event of the batch with which it ends.
#[test]
fn a_key_lives_so_long_after_its_first_event() {
    let event = |value: i64| vec![vec![("a".to_owned(), value)]];
    let input = [
        event(1),
        event(2),
        event(3),
        event(4),
        vec![],
        vec![],
        vec![],
    ];
    let batches = crate::program::run(&small(2, 2, 2), &input, |_, events| {
        let sum = Track::<String, i64, i64>::new(|_, n| n, |_, sum, n| Some(sum + n));
        let sums = events.by_key().track("sums", sum.live(INTERVAL * 3));
        sums.unwrap().timed_out().pairs()
    });
    let left: Vec<_> = batches
        .into_iter()
        .filter(|(_, left)| !left.is_empty())
        .collect();
    let wanted = [(400, 6), (700, 4)].map(|(at, sum)| (at, vec![("a".to_owned(), sum)]));
    assert_eq!(left, wanted);
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let mut ctx = StreamContext::new(INTERVAL).unwrap();
    let (_, events) = ctx.queue::<Event>("in");
    let sum = Track::<String, i64, i64>::new(|_, n| n, |_, sum, n| Some(sum + n));
    let sums = events
        .by_key()
        .track("sums", sum.live(Duration::from_millis(150)));
    let error = sums.map(drop).unwrap_err().to_string();
    assert!(error.contains("a time to live of 150ms"), "{error}");
}

/// What is stored is when a key had events, so other lengths apply to the keys that there are.
#[test]
fn lengths_may_change_when_no_batch_runs_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = small(2, 2, 3);
    config.checkpoint_every = 1;
    let lengths = |timeout, live| Lengths { timeout, live };
    let event = |key: &str| vec![vec![(key.to_owned(), 5)]];
    let go = |lengths, first: usize, input: &[Interval<Event>]| {
        let found = run(Some(dir.path()), (&config, lengths), (first, input), false);
        let left = found.timed_out.into_iter();
        left.flat_map(|(at, left)| left.into_iter().map(move |(key, _)| (at, key)))
            .collect::<Vec<_>>()
    };
    let left = go(
        lengths(Some(9), Some(9)),
        0,
        &[event("a"), event("b"), event("a")],
    );
    assert!(left.is_empty());
    // A checkpoint that was being written may have been of an earlier batch.
    assert!(go(lengths(Some(9), Some(9)), 3, &[vec![]]).is_empty());
    // `a` lives since the first interval; `b` has been silent since the second.
    let left = go(lengths(Some(4), Some(4)), 4, &[vec![], vec![]]);
    assert_eq!(left, [(500, "a".to_owned()), (600, "b".to_owned())]);
}
