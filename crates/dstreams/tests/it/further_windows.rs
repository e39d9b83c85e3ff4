//! Windows by closures, and windows without keys, equal a naive reference; by closures over restarts too.

use std::collections::BTreeMap;

use dstreams::testing::{TestProgram, batches, sorted as in_order};
use dstreams::{DStream, ManualClock, Queue, RddReceiver};
use proptest::prelude::*;

use crate::dir::Dir;
use crate::program::{
    Batches, INTERVAL, Interval, Program, block_on, cases, intervals, run, settings, small, sorted,
    text,
};

type Pair = (String, i64);

/// What `f` makes of the pairs of each window.
fn windows<U>(
    input: &[Interval<Pair>],
    len: usize,
    slide: usize,
    f: impl Fn(Vec<Pair>) -> Vec<U>,
) -> Batches<U> {
    let due = (1..=input.len()).filter(|at| at % slide == 0);
    let due = due.map(|at| {
        let window = &input[at.saturating_sub(len)..at];
        (
            at as u64 * 100,
            f(window
                .iter()
                .flat_map(|interval| interval.concat())
                .collect()),
        )
    });
    due.collect()
}

fn sums(pairs: Vec<Pair>) -> Vec<Pair> {
    let mut sums = BTreeMap::new();
    for (key, n) in pairs {
        *sums.entry(key).or_default() += n;
    }
    sums.into_iter().collect()
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn windows_by_closures(
        config in settings(),
        input in intervals((text(), -3..4i64), 8),
        len in 1..5usize,
        slide in 1..4usize,
    ) {
        let (length, every) = (INTERVAL * len as u32, INTERVAL * slide as u32);
        let plain = run(&config, &input, |_, pairs| {
            let sums = pairs.by_key().reduce_by_window("sums", length, every, |a, b| a + b);
            sums.unwrap().pairs()
        });
        prop_assert_eq!(sorted(plain), sorted(windows(&input, len, slide, sums)));
        let inverse = run(&config, &input, |_, pairs| {
            let sums = pairs.by_key().reduce_by_window_with_inverse(
                "sums", length, every, |a, b| a + b, |a, b| a - b,
            );
            sums.unwrap().pairs()
        });
        prop_assert_eq!(sorted(inverse), sorted(windows(&input, len, slide, sums)));
        // No inverse, and no number.
        let texts = run(&config, &input, |_, pairs| {
            let texts = pairs.map(|(text, _)| text.to_owned());
            let longest = |a: String, b: String| if (b.len(), &b) > (a.len(), &a) { b } else { a };
            texts.reduce_by_window("longest", length, every, longest).unwrap()
        });
        let wanted = windows(&input, len, slide, |pairs| {
            let texts = pairs.into_iter().map(|(text, _)| text);
            texts.max_by_key(|text| (text.len(), text.clone())).into_iter().collect()
        });
        prop_assert_eq!(texts, wanted);
        let all = run(&config, &input, |_, pairs| {
            let numbers = pairs.map(|(_, n)| n);
            numbers.reduce_by_window_with_inverse("all", length, every, |a, b| a + b, |a, b| a - b)
                .unwrap()
        });
        let wanted = windows(&input, len, slide, |pairs| {
            let sum = pairs.iter().map(|(_, n)| *n).reduce(|a, b| a + b);
            sum.into_iter().collect()
        });
        prop_assert_eq!(all, wanted);
    }
}

#[test]
fn windows_by_closures_are_refused_with_a_reason() {
    let mut program = Program::new(small(1, 1, 1));
    let (_, pairs) = program.ctx.queue::<Pair>("in");
    let pairs = pairs.by_key();
    let sums = |name: &str, len, slide| {
        let sums =
            pairs.reduce_by_window_with_inverse(name, len, slide, |a, b| a + b, |a, b| a - b);
        sums.map_err(|error| error.to_string())
    };
    let odd = sums("odd", INTERVAL * 3 / 2, INTERVAL).err().unwrap();
    assert!(
        odd.contains("a length of 150ms is no multiple") && odd.contains("further_windows.rs"),
        "{odd}"
    );
    let odd = sums("odd", INTERVAL, INTERVAL / 2).err().unwrap();
    assert!(odd.contains("a slide of 50ms is no multiple"), "{odd}");
    let _ = sums("sums", INTERVAL, INTERVAL).unwrap();
    let twice = sums("sums", INTERVAL, INTERVAL).err().unwrap();
    assert!(
        twice.contains("another state is called `sums panes`"),
        "{twice}"
    );
}

fn windowed(
    dir: &std::path::Path,
    clock: &ManualClock,
    every: u32,
) -> (TestProgram, Queue<Pair>, [RddReceiver<Pair>; 2]) {
    let mut config = small(2, 1, 2);
    config.checkpoint_every = every;
    let test = TestProgram::in_dir(dir, config).unwrap();
    let mut test = test.on_clock(clock);
    let (queue, pairs) = test.context().queue::<Pair>("pairs");
    let pairs = pairs.by_key();
    let plain = pairs.reduce_by_window("plain", INTERVAL * 3, INTERVAL, |a, b| a + b);
    let inverse = pairs.reduce_by_window_with_inverse(
        "inverse",
        INTERVAL * 3,
        INTERVAL,
        |a, b| a + b,
        |a, b| a - b,
    );
    let outputs = [plain, inverse].map(|window| window.unwrap().collect());
    (test, queue, outputs)
}

#[test]
fn windows_by_closures_survive_restarts() {
    let input: Vec<Interval<Pair>> = (0..9i64)
        .map(|at| {
            vec![
                ["a", "b", "c"]
                    .map(|key| (key.to_owned(), at + key.len() as i64))
                    .to_vec(),
            ]
        })
        .enumerate()
        .map(|(at, mut interval)| {
            interval[0].truncate(at % 4);
            interval
        })
        .collect();
    let wanted = windows(&input, 3, 1, sums);
    // With checkpoints, and with replayed batches alone.
    for every in [2, 1_000_000] {
        block_on(async {
            let (dir, clock) = (Dir::new(), ManualClock::new());
            for (at, interval) in input.iter().enumerate() {
                let (test, queue, mut outputs) = windowed(dir.path(), &clock, every);
                let mut live = test.start().await.unwrap();
                queue.push(interval[0].clone()).await.unwrap();
                live.end_interval().await.unwrap();
                live.abort().await.unwrap();
                for output in &mut outputs {
                    let (batch, sums) = batches(output).unwrap().pop().unwrap();
                    assert_eq!((batch.0, in_order(sums)), wanted[at], "every {every}");
                }
            }
        });
    }
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn windows_without_keys(
        config in settings(),
        input in intervals((text(), -3..4i64), 8),
        len in 1..5usize,
        slide in 1..4usize,
    ) {
        use dstreams::agg::{count, max_of, sum_of};
        let (length, every) = (INTERVAL * len as u32, INTERVAL * slide as u32);
        let counts = run(&config, &input, |_, pairs| pairs.count_by_window(length, every).unwrap());
        let wanted = windows(&input, len, slide, |pairs| vec![pairs.len() as i64]);
        prop_assert_eq!(counts, wanted);
        let of_all = (count(), sum_of::<i64>("value"), max_of::<i64>("value"));
        let plain = |pairs: &DStream<Pair>| pairs.window_agg(length, every, of_all).unwrap();
        let wanted = windows(&input, len, slide, |pairs| {
            let numbers = || pairs.iter().map(|(_, n)| *n);
            let most = numbers().max();
            most.map(|most| (pairs.len() as i64, numbers().sum::<i64>(), most)).into_iter().collect()
        });
        prop_assert_eq!(run(&config, &input, |_, pairs| plain(pairs)), wanted.clone());
        let named = run(&config, &input, |_, pairs| {
            pairs.named_window_agg("all", length, every, (
                count(), sum_of::<i64>("value"), max_of::<i64>("value"),
            )).unwrap()
        });
        prop_assert_eq!(named, wanted);
    }
}
