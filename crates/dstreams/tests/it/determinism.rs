//! The same batches give the same results in any order of tasks and of arrival, and for any number of tasks.

use std::sync::Arc;

use dstreams::Config;
use proptest::prelude::*;

use crate::every_operator::{Log, Outcome, Row, Watch, every_operator, row, same, take};
use crate::program::{Interval, Program, block_on, cases, intervals, small};

/// All outputs of all batches.
fn outputs(config: &Config, input: &[Interval<Row>]) -> Vec<Outcome> {
    let log = Log::default();
    block_on(async {
        let mut program = Program::new(config.clone());
        let (queue, rows) = program.ctx.queue::<Row>("in");
        every_operator(&program.ctx, &rows, &Watch(Arc::clone(&log)));
        let mut live = program.start().await;
        for interval in input {
            for block in interval {
                queue.push(block.iter().cloned()).await.unwrap();
            }
            live.batch().await;
        }
        live.running.abort().await.unwrap();
    });
    take(&log)
}

/// Lines of all partitions, sorted.
fn as_rows(outputs: Vec<Outcome>) -> Vec<Outcome> {
    let lines = |partitions: Vec<String>| {
        let lines = partitions.iter().flat_map(|table| table.lines().skip(3));
        let lines = lines.filter(|line| line.starts_with('|'));
        // Columns are padded to the widest row of their partition.
        let cells = |line: &str| line.split('|').map(str::trim).collect::<Vec<_>>().join("|");
        let mut lines: Vec<_> = lines.map(cells).collect();
        lines.sort();
        lines
    };
    outputs
        .into_iter()
        .map(|(name, at, partitions)| (name, at, lines(partitions)))
        .collect()
}

proptest! {
    #![proptest_config(cases(8))]

    #[test]
    fn order_of_tasks_changes_nothing(
        input in intervals(row(), 4),
        threads in 1..5usize,
        seeds in prop::collection::vec(any::<u64>(), 2),
    ) {
        let mut config = small(threads, 2, 3);
        let plain = outputs(&config, &input);
        for seed in seeds {
            config.shuffle_tasks = Some(seed);
            same(&outputs(&config, &input), &plain)?;
        }
    }

    #[test]
    fn number_of_tasks_changes_only_the_order_of_rows(input in intervals(row(), 4)) {
        // Means over other splits of the rows are rounded differently.
        let fixed = |(name, _, _): &Outcome| !name.contains("variances");
        // Halves add exactly in any order.
        let input: Vec<Interval<Row>> = input.iter().map(|blocks| {
            let exact = |(text, n, x): &Row| (text.clone(), *n, (x / 1e6).round() / 2.0);
            blocks.iter().map(|block| block.iter().map(exact).collect()).collect()
        }).collect();
        let rows = |threads| {
            let outputs = as_rows(outputs(&small(threads, 2, 3), &input));
            outputs.into_iter().filter(fixed).collect::<Vec<_>>()
        };
        let one = rows(1);
        same(&rows(2), &one)?;
        same(&rows(5), &one)?;
    }
}

/// Two queues, pushed to in another order: blocks are in the order of their streams.
#[test]
fn order_of_arrival_at_different_streams_changes_nothing() {
    let run = |order: [usize; 6]| {
        let log = Log::default();
        block_on(async {
            let mut program = Program::new(small(3, 1, 2));
            let (one, first) = program.ctx.queue::<Row>("first");
            let (two, second) = program.ctx.queue::<Row>("second");
            let both = first.union(&second).unwrap();
            every_operator(&program.ctx, &both, &Watch(Arc::clone(&log)));
            let mut live = program.start().await;
            for batch in 0..3 {
                let rows = |stream: usize, block: usize| {
                    let number = move |n: usize| (batch * 100 + stream * 10 + block + n) as f64;
                    (0..4).map(move |n| (format!("key {n}"), n as i64, (number(n) * 0.77).exp()))
                };
                let mut blocks = [0, 0];
                for stream in order.map(|place| place % 2) {
                    let queue = [&one, &two][stream];
                    queue.push(rows(stream, blocks[stream])).await.unwrap();
                    blocks[stream] += 1;
                }
                live.batch().await;
            }
            live.running.abort().await.unwrap();
        });
        take(&log)
    };
    let plain = run([0, 1, 2, 3, 4, 5]);
    assert_eq!(
        plain.iter().filter(|(name, _, _)| *name == "map").count(),
        3
    );
    for order in [
        [0, 2, 4, 1, 3, 5],
        [1, 3, 5, 0, 2, 4],
        [5, 4, 3, 2, 1, 0],
        [1, 0, 0, 1, 1, 0],
    ] {
        assert!(run(order) == plain, "{order:?}");
    }
}
