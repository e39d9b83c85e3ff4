//! Running aggregates that forget keys, against a map that does.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use dstreams::agg::{count, max, sum};
use dstreams::{Config, RddReceiver, Record, StreamContext};
use proptest::prelude::*;

use crate::program::{
    Batches, INTERVAL, Interval, Program, block_on, cases, intervals, runs, settings, small,
    sorted, text,
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
        program
            .start()
            .await
            .feed_and_end(&queue, input, kill)
            .await;
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
        runs in runs(),
        input in intervals(event(), 14),
        timeout in 1..4u32,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut found = Found::default();
        runs.each(&input, |first, some, is_killed| {
            let more = run(Some(dir.path()), (&runs.config, timeout), (first, some), is_killed);
            found.changes.extend(more.changes);
            found.all.extend(more.all);
            found.timed_out.extend(more.timed_out);
        });
        prop_assert_eq!(found.sorted(), by_hand(&input, timeout).sorted());
    }
}

/// Batches since the checkpoint run again, and would forget other keys than they did. It may change if there are none.
#[test]
fn another_timeout_is_refused_if_batches_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = |every| {
        let mut config = small(2, 2, 3);
        config.checkpoint_every = every;
        config
    };
    let silent = vec![Vec::new(); 2];
    let input = [vec![vec![vec![("a".to_owned(), 1)]]], silent.clone()].concat();
    let go = |(every, timeout), first: usize, input: &[Interval<Event>]| {
        run(
            Some(dir.path()),
            (&config(every), timeout),
            (first, input),
            false,
        )
    };
    let refusal = |timeout: u32, at: u32| -> Option<String> {
        block_on(async {
            let mut program = Program::after(at, config(9));
            let (_, events) = program.ctx.queue::<Event>("in");
            let agg = (count(), sum::<i64>(), max::<i64>());
            let totals = events
                .by_key()
                .running_agg_for("totals", INTERVAL * timeout, agg);
            totals.unwrap().timed_out().pairs().print(0);
            program.ctx.persist_in(dir.path());
            match program.ctx.start().await {
                Ok(running) => running.abort().await.map(|_| None).unwrap(),
                Err(error) => Some(error.to_string()),
            }
        })
    };
    // The checkpoint is of the second of three batches.
    assert!(go((2, 4), 0, &input).timed_out.concat_rows().is_empty());
    for timeout in [1, 6] {
        let error = refusal(timeout, 3).unwrap();
        for part in ["timeout 400 ms", "`Config::checkpoint_every = 1`"] {
            assert!(error.contains(part), "{error}");
        }
    }
    assert_eq!(refusal(4, 3), None);
    // The way that the error names.
    assert!(
        go((1, 4), 3, &silent[..1])
            .timed_out
            .concat_rows()
            .is_empty()
    );
    let total = (600, ("a".to_owned(), (1, 1, 1)));
    let left = go((9, 5), 4, &silent).timed_out.concat_rows();
    assert_eq!(left, [total]);
    // The checkpoint is of before that, and the batches after it are not.
    assert_eq!(refusal(5, 6), None);
    let error = refusal(4, 6).unwrap();
    assert!(error.contains("timeout 500 ms"), "{error}");
}

trait ConcatRows<T> {
    /// All rows, each with its batch.
    fn concat_rows(self) -> Vec<(u64, T)>;
}

impl<T> ConcatRows<T> for Batches<T> {
    fn concat_rows(self) -> Vec<(u64, T)> {
        let rows = self.into_iter();
        rows.flat_map(|(at, rows)| rows.into_iter().map(move |row| (at, row)))
            .collect()
    }
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
