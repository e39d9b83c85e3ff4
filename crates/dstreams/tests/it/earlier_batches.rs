//! Streams of earlier RDDs: delayed, past, latest, remembered.

use std::time::Duration;

use dstreams::agg::count;
use dstreams::{BatchTime, Config, Error, StreamContext};
use proptest::prelude::*;

use crate::program::{
    Batches, INTERVAL, Interval, Program, block_on, cases, each, intervals, run, settings, small,
    sorted, until,
};

fn batches(n: usize) -> Duration {
    INTERVAL * n as u32
}

/// The records of `by` intervals before.
fn before(input: &[Interval<i64>], by: usize) -> Batches<i64> {
    let records = |end: usize| match end.checked_sub(by) {
        Some(of @ 1..) => input[of - 1].concat(),
        _ => Vec::new(),
    };
    (1..=input.len())
        .map(|end| (end as u64 * 100, records(end)))
        .collect()
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn the_rdd_of_some_intervals_before(
        config in settings(),
        input in intervals(-99..99i64, 10),
        by in 1..6usize,
    ) {
        let wanted = sorted(before(&input, by));
        let past = run(&config, &input, |_, numbers| numbers.past(batches(by)).unwrap());
        prop_assert_eq!(&sorted(past), &wanted);
        let delayed = run(&config, &input, |_, numbers| numbers.delayed(batches(by)).unwrap());
        prop_assert_eq!(&sorted(delayed), &wanted);
        let keyed = run(&config, &input, |_, numbers| {
            numbers.keyed().past(batches(by)).unwrap().agg(count()).unwrap().pairs()
        });
        let counts = run(&config, &input, |_, numbers| {
            numbers.past(batches(by)).unwrap().keyed().agg(count()).unwrap().pairs()
        });
        prop_assert_eq!(sorted(keyed), sorted(counts));
    }

    /// A slide counts the time of the intervals: a window that follows is as late as its input.
    #[test]
    fn windows_of_a_delayed_stream_are_late(
        config in settings(),
        input in intervals(-99..99i64, 14),
        (by, len, slide) in (1..4usize, 1..5usize, 1..4usize),
    ) {
        let plain = run(&config, &input, |_, numbers| numbers.window(batches(len), batches(slide)).unwrap());
        let late = run(&config, &input, |_, numbers| {
            numbers.delayed(batches(by)).unwrap().window(batches(len), batches(slide)).unwrap()
        });
        let mut wanted: Batches<i64> = plain.into_iter().map(|(at, rows)| (at + 100 * by as u64, rows)).collect();
        wanted.retain(|(at, _)| *at <= 100 * input.len() as u64);
        // Before the first interval there are empty RDDs, as late.
        let (by, slide) = (by as u64, slide as u64);
        let empty = (1..=by.min(input.len() as u64)).filter(|at| (at + slide - by % slide).is_multiple_of(slide));
        let empty = empty.map(|at| (100 * at, Vec::new()));
        let wanted: Batches<i64> = empty.chain(wanted).collect();
        prop_assert_eq!(sorted(late), sorted(wanted));
    }

    #[test]
    fn the_newest_rdd_is_there_at_every_interval(
        config in settings(),
        input in intervals(-99..99i64, 14),
        (len, slide) in (1..5usize, 1..5usize),
    ) {
        let window = run(&config, &input, |_, numbers| numbers.window(batches(len), batches(slide)).unwrap());
        let latest = run(&config, &input, |_, numbers| {
            numbers.window(batches(len), batches(slide)).unwrap().latest()
        });
        let wanted = (1..=input.len() as u64).map(|at| {
            let newest = window.iter().rfind(|(of, _)| *of <= 100 * at);
            (100 * at, newest.map(|(_, rows)| rows.clone()).unwrap_or_default())
        });
        prop_assert_eq!(sorted(latest), sorted(wanted.collect()));
    }
}

/// A slow stream beside a fast one.
#[test]
fn the_last_result_of_a_slow_window_meets_every_batch() {
    let input: Vec<Interval<i64>> = (1..=7).map(|n| vec![vec![n, n % 2]]).collect();
    let got = run(&small(2, 1, 4), &input, |ctx, numbers| {
        let slow = numbers
            .keyed()
            .window_agg(batches(3), batches(3), count())
            .unwrap();
        let query = "select n.value * 10 + s.value as value from n join s on n.value = s.key";
        let slow = slow.latest().pairs();
        ctx.sql::<i64>(&[("n", numbers), ("s", &slow)], query)
            .unwrap()
    });
    // Of 1, 1, 2, 0, 3, 1 there are three 1; of 4, 0, 5, 1, 6, 0 there are two 0 and one 1.
    let wanted: [&[i64]; 7] = [&[], &[], &[13, 31], &[1], &[13], &[2, 61], &[11]];
    let wanted = (1..).zip(wanted).map(|(at, of)| (100 * at, of.to_vec()));
    assert_eq!(sorted(got), sorted(wanted.collect()));
}

#[test]
fn streams_that_are_late_by_different_times_are_refused() {
    let ms = Duration::from_millis;
    let mut ctx = StreamContext::new(INTERVAL).unwrap();
    let (_, numbers) = ctx.queue::<i64>("in");
    let delayed = numbers.delayed(ms(200)).unwrap();
    let refused = numbers.union(&delayed).unwrap_err().to_string();
    for part in ["by 0 ms", "by 200 ms", "as late with `delayed`"] {
        assert!(refused.contains(part), "{refused}");
    }
    // The remedy.
    let twice = numbers.delayed(ms(100)).unwrap().delayed(ms(100)).unwrap();
    let _ = twice.union(&delayed).unwrap();
    let refused = numbers.delayed(ms(150)).unwrap_err().to_string();
    assert!(refused.contains("no multiple of 100 ms"), "{refused}");
}

/// A question to a running program: the RDDs that a stream had, and the table of its session.
#[test]
fn remembered_rdds_can_be_asked_for() {
    block_on(async {
        let mut program = Program::new(small(3, 2, 4));
        let (queue, numbers) = program.ctx.queue::<i64>("in");
        numbers
            .filter(|n| n >= 0)
            .remember("numbers", batches(3))
            .unwrap();
        let slow = numbers.window(batches(2), batches(2)).unwrap();
        slow.keyed()
            .agg(count())
            .unwrap()
            .remember("counts", batches(4))
            .unwrap();
        numbers.print(0);
        let mut live = program.start().await;
        let asked = live
            .running
            .slice::<i64>("numbers", BatchTime(100), BatchTime(100))
            .await;
        assert!(
            matches!(asked, Err(Error::Version { newest: None, .. })),
            "{asked:?}"
        );
        for n in 1..=6i64 {
            if n != 5 {
                queue.push([10 * n, -1]).await.unwrap();
                queue.push((1..4).map(|more| 10 * n + more)).await.unwrap();
            }
            live.batch().await;
        }
        let running = &live.running;
        until("the last batch", || {
            running.last_batch() == Some(BatchTime(600))
        })
        .await;
        let rdds = running
            .slice::<i64>("numbers", BatchTime(400), BatchTime(600))
            .await
            .unwrap();
        let mut found = Vec::new();
        for rdd in &rdds {
            let mut records = rdd.collect().unwrap();
            records.sort_unstable();
            found.push((rdd.batch_time().0, records));
        }
        let wanted = [
            (400, (40..44).collect()),
            (500, vec![]),
            (600, (60..64).collect()),
        ];
        assert_eq!(found, wanted);

        let asked = running
            .slice::<i64>("numbers", BatchTime(300), BatchTime(600))
            .await;
        let Err(Error::Version { asked, oldest, .. }) = asked else {
            panic!("{asked:?}")
        };
        assert_eq!((asked, oldest), (BatchTime(300), Some(BatchTime(301))));
        let asked = running
            .slice::<i64>("numbers", BatchTime(500), BatchTime(700))
            .await;
        assert!(
            matches!(
                asked,
                Err(Error::Version {
                    asked: BatchTime(700),
                    ..
                })
            ),
            "{asked:?}"
        );
        let asked = running
            .slice::<String>("numbers", BatchTime(500), BatchTime(600))
            .await;
        assert!(matches!(asked, Err(Error::Schema { .. })), "{asked:?}");
        let asked = running
            .slice::<i64>("others", BatchTime(500), BatchTime(600))
            .await;
        let asked = asked.unwrap_err().to_string();
        assert!(asked.contains("`numbers`, `counts`"), "{asked}");

        let counts = running
            .slice::<(i64, i64)>("counts", BatchTime(300), BatchTime(600))
            .await;
        let times: Vec<u64> = counts
            .unwrap()
            .iter()
            .map(|rdd| rdd.batch_time().0)
            .collect();
        assert_eq!(times, [400, 600]);

        let session = running.session().await.unwrap();
        let query =
            "select batch_time, count(*) as n from numbers group by batch_time order by batch_time";
        let rows = session.sql(query).await.unwrap().collect().await.unwrap();
        let rows = dstreams::arrow::util::pretty::pretty_format_batches(&rows)
            .unwrap()
            .to_string();
        assert!(
            rows.contains("| 400        | 4 |") && rows.contains("| 600        | 4 |"),
            "{rows}"
        );
        assert!(!rows.contains("300") && !rows.contains("500"), "{rows}");
        live.running.stop().await.unwrap();
    });
}

/// What is asked for does not depend on tasks and partitions, and is the stream's own RDD.
#[test]
fn a_slice_is_what_the_stream_had() {
    let input: Vec<Interval<i64>> = (0..5)
        .map(|n| vec![vec![n; n as usize], vec![-n]])
        .collect();
    for threads in 1..4 {
        let config: Config = small(threads, 2, 3);
        let found = block_on(async {
            let mut program = Program::new(config);
            let (queue, numbers) = program.ctx.queue::<i64>("in");
            numbers.keyed().remember("numbers", batches(9)).unwrap();
            numbers.print(0);
            let mut live = program.start().await;
            for block in input.iter().flatten().collect::<Vec<_>>().chunks(2) {
                for block in block {
                    queue.push(block.iter().copied()).await.unwrap();
                }
                live.batch().await;
            }
            let (from, to) = (BatchTime(0), BatchTime(500));
            let rdds = live
                .running
                .slice::<(i64, ())>("numbers", from, to)
                .await
                .unwrap();
            live.running.stop().await.unwrap();
            let rdds = rdds.iter().map(|rdd| {
                let records = rdd.collect().unwrap().into_iter();
                (
                    rdd.batch_time().0,
                    records.map(|(n, ())| n).collect::<Vec<i64>>(),
                )
            });
            rdds.collect::<Vec<_>>()
        });
        let mut wanted = each(&input, |records| records);
        wanted.insert(0, (0, vec![]));
        assert_eq!(sorted(found), sorted(wanted));
    }
}
