//! The time of a batch in records and closures: that of the batch, in every run of it.

use std::path::Path;

use dstreams::testing::{TestProgram, batches, sorted};
use dstreams::{KeyState, ManualClock, MapWithState, Out, Queue, RddReceiver, Record};
use proptest::prelude::*;

use crate::dir::Dir;
use crate::program::{INTERVAL, block_on, cases, intervals, run, settings, small, text};

type Pair = (String, i64);

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn records_have_the_time_of_their_batch(
        config in settings(),
        input in intervals((text(), any::<i64>()), 4),
    ) {
        let got = run(&config, &input, |_, pairs| pairs.with_time());
        for (at, (batch, records)) in (1u64..).zip(got) {
            prop_assert_eq!(batch, at * 100);
            let pairs = input[at as usize - 1].concat();
            let wanted = pairs.into_iter().map(|pair| (batch as i64, pair));
            prop_assert_eq!(records, wanted.collect::<Vec<_>>());
        }
    }

    #[test]
    fn values_have_the_time_beside_their_key(
        config in settings(),
        input in intervals((text(), any::<i64>()), 4),
    ) {
        let got = run(&config, &input, |_, pairs| pairs.by_key().with_time().pairs());
        for (batch, records) in got {
            let pairs = input[batch as usize / 100 - 1].concat();
            let wanted = pairs.into_iter().map(|(key, n)| (key, (batch as i64, n)));
            prop_assert_eq!(records, wanted.collect::<Vec<_>>());
        }
    }
}

/// A record without columns has a time too; a stream behind a window has the time of the window.
#[test]
fn records_of_every_kind_have_a_time() {
    let input = vec![vec![vec![1i64, 2]], vec![], vec![vec![3]], vec![]];
    let units = run(&small(2, 1, 2), &input, |_, numbers| {
        numbers.map(|_| ()).with_time()
    });
    assert_eq!(units[0], (100, vec![(100, ()), (100, ())]));
    assert_eq!(units[2], (300, vec![(300, ())]));
    let windows = run(&small(2, 1, 2), &input, |_, numbers| {
        let window = numbers
            .keyed()
            .window_agg(INTERVAL * 4, INTERVAL * 2, dstreams::agg::count());
        window.unwrap().pairs().with_time()
    });
    let [(200, second), (400, fourth)] = &windows[..] else {
        panic!("{windows:?}");
    };
    let all = |rows: &[(i64, (i64, i64))]| sorted(rows.to_vec());
    assert_eq!(all(second), [(200, (1, 1)), (200, (2, 1))]);
    assert_eq!(all(fourth), [(400, (1, 1)), (400, (2, 1)), (400, (3, 1))]);
}

#[derive(Record, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    /// Of the first and the last value, by the closure of the state.
    first: u64,
    last: u64,
    /// Of the last value, by `with_time` before it.
    stamped: i64,
}

type Times = RddReceiver<(String, Seen)>;
type Calls = RddReceiver<(String, u64, bool)>;

/// Notes when each key was seen, in two ways, and the time of each call of another closure.
fn seen(dir: &Path, clock: &ManualClock) -> (TestProgram, Queue<Pair>, Times, Calls) {
    let mut config = small(2, 1, 2);
    // Every batch is replayed.
    config.checkpoint_every = 1_000_000;
    let test = TestProgram::in_dir(dir, config).unwrap();
    let mut test = test.on_clock(clock);
    let (queue, pairs) = test.context().queue::<Pair>("pairs");
    let stamped = pairs.by_key().with_time();
    let seen = stamped.update_state_by_key("seen", |_, values, before: Option<Seen>| {
        let now = values.time().millis();
        let (stamped, _) = values.last()?;
        let first = before.map_or(now, |seen| seen.first);
        Some(Seen {
            first,
            last: now,
            stamped,
        })
    });
    let calls = MapWithState::new(
        |key, value: Option<i64>, state: &mut KeyState<u64>, out: &mut Out<'_, _>| {
            out.push((key, state.time().millis(), value.is_none()));
            state.set(state.get().copied().unwrap_or_default());
        },
    );
    let calls = calls.timeout(INTERVAL * 2);
    let (calls, _) = pairs
        .by_key()
        .map_with_state::<u64, _>("calls", calls)
        .unwrap();
    let seen = seen.unwrap().all().collect();
    (test, queue, seen, calls.collect())
}

#[test]
fn replayed_batches_have_the_times_that_they_had() {
    block_on(async {
        let (dir, clock) = (Dir::new(), ManualClock::new());
        let pair = |key: &str| (key.to_owned(), 1i64);
        let seen_at = |key: &str, first: u64, last: u64| {
            let stamped = last as i64;
            (
                key.to_owned(),
                Seen {
                    first,
                    last,
                    stamped,
                },
            )
        };
        let (test, queue, mut times, mut calls) = seen(dir.path(), &clock);
        let mut live = test.start().await.unwrap();
        queue.push([pair("a"), pair("b")]).await.unwrap();
        live.end_interval().await.unwrap();
        queue.push([pair("a")]).await.unwrap();
        live.end_interval().await.unwrap();
        let before = batches(&mut times).unwrap();
        let wanted = [seen_at("a", 100, 200), seen_at("b", 100, 100)];
        assert_eq!(sorted(before[1].1.clone()), wanted);
        let call = |key: &str, at: u64, last: bool| (key.to_owned(), at, last);
        let made = batches(&mut calls).unwrap();
        assert_eq!(
            sorted(made[0].1.clone()),
            [call("a", 100, false), call("b", 100, false)]
        );
        assert_eq!(made[1].1, [call("a", 200, false)]);
        // In no batch yet: it is in the first that is run after the restart.
        queue.push([pair("c")]).await.unwrap();
        live.abort().await.unwrap();

        // Both batches are run again.
        let (test, queue, mut times, mut calls) = seen(dir.path(), &clock);
        let mut live = test.start().await.unwrap();
        live.end_interval().await.unwrap();
        queue.push([pair("b")]).await.unwrap();
        live.end_interval().await.unwrap();
        let after = batches(&mut times).unwrap();
        let (_, last) = after.last().unwrap();
        let wanted = [
            seen_at("a", 100, 200),
            seen_at("b", 100, 400),
            seen_at("c", 300, 300),
        ];
        assert_eq!(sorted(last.clone()), wanted);
        let made = batches(&mut calls).unwrap();
        let made: Vec<_> = made.into_iter().map(|(_, calls)| sorted(calls)).collect();
        // `b` expires with 300, and `a` with 400: two intervals after their last values.
        assert_eq!(made[0], [call("b", 300, true), call("c", 300, false)]);
        assert_eq!(made[1], [call("a", 400, true), call("b", 400, false)]);
        live.stop().await.unwrap();
    });
}
