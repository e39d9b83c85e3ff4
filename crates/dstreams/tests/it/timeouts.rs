//! Running aggregates that forget keys, against a map that does.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use dstreams::agg::{count, max, sum};
use dstreams::{Config, RddReceiver, Record, StreamContext};
use proptest::prelude::*;

use crate::program::{
    Batches, INTERVAL, Interval, Program, block_on, cases, intervals, settings, small, sorted, text,
};

type Event = (String, i64);
/// A key, and the number, sum and greatest of its values.
type Total = (String, (i64, i64, i64));

#[derive(Debug, Clone, PartialEq, Default)]
struct Found {
    changes: Batches<Total>,
    all: Batches<Total>,
    timed_out: Batches<Total>,
}

impl Found {
    fn sorted(self) -> Found {
        Found {
            changes: sorted(self.changes),
            all: sorted(self.all),
            timed_out: sorted(self.timed_out),
        }
    }
}

/// Runs some intervals of a program, the first of which is number `first`, perhaps in a directory.
fn run(
    dir: Option<&Path>,
    (config, timeout): (&Config, u32),
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
        let agg = (count(), sum::<i64>(), max::<i64>());
        let totals = events
            .by_key()
            .running_agg_for("totals", INTERVAL * timeout, agg);
        let totals = totals.unwrap();
        let outputs = (
            totals.changes().pairs().collect(),
            totals.all().pairs().collect(),
            totals.timed_out().pairs().collect(),
        );
        if let Some(dir) = dir {
            program.ctx.persist_in(dir);
        }
        let mut live = program.start().await;
        let mut stopped = false;
        for (at, interval) in input.iter().enumerate() {
            for block in interval {
                queue.push(block.iter().cloned()).await.unwrap();
            }
            // A graceful stop runs one more batch.
            stopped = !kill && at + 1 == input.len();
            if !stopped {
                live.batch().await;
            }
        }
        if stopped {
            live.running.stop().await.unwrap();
        } else {
            live.running.abort().await.unwrap();
        }
        Found {
            changes: all(outputs.0),
            all: all(outputs.1),
            timed_out: all(outputs.2),
        }
    })
}

/// Key by key, record by record.
fn by_hand(input: &[Interval<Event>], timeout: u32) -> Found {
    let mut found = Found::default();
    // The total of each key, and the number of the batch of its last record.
    let mut held = BTreeMap::<String, ((i64, i64, i64), usize)>::new();
    for (now, interval) in input.iter().enumerate() {
        let at = 100 * (now as u64 + 1);
        let (gone, rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (held.into_iter()).partition(|(_, (_, last))| last + timeout as usize <= now);
        held = rest;
        for (key, value) in interval.concat() {
            let (total, last) = held.entry(key).or_insert(((0, 0, i64::MIN), now));
            *total = (total.0 + 1, total.1 + value, total.2.max(value));
            *last = now;
        }
        let totals = |of: &BTreeMap<String, ((i64, i64, i64), usize)>, all: bool| {
            let of = of.iter().filter(|(_, (_, last))| all || *last == now);
            of.map(|(key, (total, _))| (key.clone(), *total)).collect()
        };
        found.timed_out.push((at, totals(&gone, true)));
        found.changes.push((at, totals(&held, false)));
        found.all.push((at, totals(&held, true)));
    }
    found
}

fn event() -> impl Strategy<Value = Event> {
    (text(), -99..99i64)
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn keys_are_forgotten_so_long_after_their_last_record(
        config in settings(),
        input in intervals(event(), 12),
        timeout in 1..4u32,
    ) {
        let found = run(None, (&config, timeout), (0, &input), true);
        prop_assert_eq!(found.sorted(), by_hand(&input, timeout).sorted());
    }

    #[test]
    fn restarts_forget_each_key_once(
        (threads, task, every) in (1..4usize, 1..6usize, 1..4u32),
        input in intervals(event(), 14),
        ends in prop::collection::vec((1..5usize, prop::bool::ANY), 1..5),
        timeout in 1..4u32,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut config = small(threads, task, 4);
        config.checkpoint_every = every;
        let (mut first, mut found) = (0, Found::default());
        let mut ends = ends.into_iter().cycle();
        while first < input.len() {
            let (batches, kill) = ends.next().unwrap();
            let some = &input[first..input.len().min(first + batches)];
            let more = run(Some(dir.path()), (&config, timeout), (first, some), kill);
            found.changes.extend(more.changes);
            found.all.extend(more.all);
            found.timed_out.extend(more.timed_out);
            first += some.len();
        }
        prop_assert_eq!(found.sorted(), by_hand(&input, timeout).sorted());
    }
}

/// Batches since the checkpoint run again, and would forget other keys than they did.
#[test]
fn another_timeout_is_refused_at_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = small(2, 2, 3);
    config.checkpoint_every = 1;
    let input = vec![vec![vec![("a".to_owned(), 1)]]];
    run(Some(dir.path()), (&config, 2), (0, &input), false);
    let start = async |timeout: u32| {
        let mut program = Program::after(1, config.clone());
        let (_, events) = program.ctx.queue::<Event>("in");
        let agg = (count(), sum::<i64>(), max::<i64>());
        let totals = events
            .by_key()
            .running_agg_for("totals", INTERVAL * timeout, agg);
        totals.unwrap().timed_out().pairs().print(0);
        program.ctx.persist_in(dir.path());
        program.ctx.start().await
    };
    block_on(async {
        for timeout in [1, 3] {
            let error = start(timeout).await.err().unwrap().to_string();
            assert!(error.contains("timeout 200 ms"), "{error}");
        }
        start(2).await.unwrap().abort().await.unwrap();
    });
}

#[test]
fn a_timeout_that_does_not_fit_is_refused() {
    let mut ctx = StreamContext::new(INTERVAL).unwrap();
    let (_, events) = ctx.queue::<Event>("in");
    let totals = events
        .by_key()
        .running_agg_for("totals", Duration::from_millis(150), count());
    let error = totals.map(drop).unwrap_err().to_string();
    assert!(error.contains("a timeout of 150ms"), "{error}");
}
