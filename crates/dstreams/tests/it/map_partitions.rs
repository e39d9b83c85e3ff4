//! Closures over partitions, and other partitions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dstreams::Error;
use proptest::prelude::*;

use crate::program::{Program, block_on, cases, each, intervals, run, settings, small, text};

type Pair = (String, i64);

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn a_closure_gets_each_record_once_and_in_order(
        config in settings(),
        input in intervals((text(), 0..30i64), 4),
    ) {
        // More results than one Arrow batch should have; text is borrowed.
        let got = run(&config, &input, |_, pairs| {
            pairs.map_partitions::<Pair>(|pairs, out| {
                assert!(pairs.len() > 0 && pairs.clone().count() == pairs.len());
                for (text, n) in pairs {
                    (0..n % 7).for_each(|copy| out.push((text, n * 10 + copy)));
                }
            })
        });
        let wanted = each(&input, |rows| {
            let copies = |(text, n): Pair| {
                (0..n % 7).map(move |copy| (text.clone(), n * 10 + copy))
            };
            rows.into_iter().flat_map(copies).collect()
        });
        prop_assert_eq!(got, wanted);
    }

    #[test]
    fn what_follows_sees_records_that_were_exchanged(
        config in settings(),
        input in intervals((text(), 0..30i64), 3),
    ) {
        // In each partition the other way round, which no query may depend on.
        let got = run(&config, &input, |_, pairs| {
            let turned = pairs.map_partitions::<Pair>(|pairs, out| {
                let pairs: Vec<_> = pairs.collect();
                pairs.into_iter().rev().for_each(|pair| out.push(pair));
            });
            turned.sql::<Pair>("select key, value from this limit 5").unwrap()
        });
        let wanted = each(&input, |mut rows| {
            rows.sort();
            rows.truncate(5);
            rows
        });
        prop_assert_eq!(got, wanted);
    }

    #[test]
    fn partitions_of_equal_size(
        config in settings(),
        input in intervals(any::<i64>(), 4),
        parts in 1..9usize,
    ) {
        let mut got = Vec::new();
        block_on(async {
            let mut program = Program::new(config.clone());
            let (queue, numbers) = program.ctx.queue::<i64>("in");
            let mut output = numbers.repartition(parts).unwrap().collect();
            let mut live = program.start().await;
            for interval in &input {
                for block in interval {
                    queue.push(block.iter().copied()).await.unwrap();
                }
                live.batch().await;
                let rdd = output.recv().await.unwrap();
                let sizes = rdd.partitions().iter();
                let sizes = sizes.map(|rows| rows.iter().map(|rows| rows.num_rows()).sum());
                got.push((sizes.collect::<Vec<usize>>(), rdd.collect().unwrap()));
            }
            live.running.abort().await.unwrap();
        });
        prop_assert_eq!(got.len(), input.len());
        for ((sizes, mut records), interval) in got.into_iter().zip(&input) {
            prop_assert_eq!(sizes.len(), parts);
            // Each task gives each partition the same number, give or take one.
            let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            prop_assert!(most - least <= config.threads, "{:?}", sizes);
            let mut wanted = interval.concat();
            wanted.sort();
            records.sort();
            prop_assert_eq!(records, wanted);
        }
    }
}

#[test]
fn a_closure_is_called_once_for_each_partition_with_records() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    // A task for every two records, three at most.
    let input = vec![vec![(0..12i64).collect::<Vec<_>>()], vec![], vec![vec![1]]];
    run(&small(3, 2, 1), &input, |_, numbers| {
        numbers.map_partitions::<i64>(move |numbers, out| {
            counted.fetch_add(1, Ordering::SeqCst);
            out.push(numbers.sum::<i64>());
        })
    });
    assert_eq!(calls.load(Ordering::SeqCst), 3 + 1);
}

#[test]
fn a_panic_names_the_operator() {
    block_on(async {
        let mut program = Program::new(small(2, 1, 2));
        let (queue, numbers) = program.ctx.queue::<i64>("in");
        let broken = numbers.map_partitions::<i64>(|_, _| panic!("no connection"));
        let _output = broken.collect();
        let mut live = program.start().await;
        queue.push([1]).await.unwrap();
        let failed = live.try_batch().await.unwrap_err().to_string();
        assert!(
            failed.contains("no connection") && failed.contains("`map_partitions` at"),
            "{failed}"
        );
    });
}

#[test]
fn impossible_numbers_of_partitions_are_refused() {
    let mut program = Program::new(small(1, 1, 1));
    let (_, numbers) = program.ctx.queue::<i64>("in");
    for partitions in [0, 1025] {
        let Err(Error::Graph { message, .. }) = numbers.repartition(partitions) else {
            panic!("{partitions} partitions");
        };
        assert!(message.contains("choose 1 to 1024"), "{message}");
    }
}
