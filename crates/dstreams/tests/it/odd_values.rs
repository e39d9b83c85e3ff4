//! Operators over keys and values at the limits of their types, against a few lines of plain Rust: nulls, empty and
//! long texts, NaN, both zeros, integers beyond 63 bits; with one partition and four, and with a restart in the
//! middle.

use std::collections::BTreeMap;

use dstreams::agg::{count, max, min};
use dstreams::{DStream, KeyState, MapWithState, Out};
use proptest::prelude::*;
use proptest::sample::select;

use crate::dir::Dir;
use crate::program::{INTERVAL, Interval, Program, block_on, cases, small};

type Key = (Option<String>, u64);
type Row = (Key, f64);
/// The results of each operator in a batch: as text, sorted but for the first ones.
type Found = BTreeMap<(u64, &'static str), Vec<String>>;

const TOP: &str = "top";
const LENGTH: usize = 2;

fn order(one: &f64, other: &f64) -> std::cmp::Ordering {
    one.total_cmp(other)
}

fn row() -> impl Strategy<Value = Row> {
    let long = "x".repeat(300);
    let texts = [
        None,
        Some(String::new()),
        Some("\0".into()),
        Some("exactly12byt".into()),
        Some(long),
    ];
    let numbers = [0, i64::MAX as u64 + 1, u64::MAX];
    let values = [
        f64::NAN,
        f64::NEG_INFINITY,
        f64::MAX,
        -0.0,
        0.0,
        f64::MIN_POSITIVE,
    ];
    (
        (select(texts.to_vec()), select(numbers.to_vec())),
        select(values.to_vec()),
    )
}

fn wanted(input: &[Interval<Row>]) -> Found {
    let mut found = Found::new();
    let mut all = BTreeMap::<Key, Vec<f64>>::new();
    for (at, interval) in input.iter().enumerate() {
        let time = (at as u64 + 1) * 100;
        let mut add = |name, rows| found.insert((time, name), rows);
        let rows = interval.concat();
        let mut first = rows.clone();
        // A key without a text comes after those with one.
        first.sort_by(|(a, x), (b, y)| {
            let of = |key: &Key| (key.0.is_none(), key.clone());
            order(y, x).then(of(a).cmp(&of(b)))
        });
        first.truncate(4);
        add(TOP, first.iter().map(|row| format!("{row:?}")).collect());
        let mut mapped = Vec::new();
        for (key, x) in &rows {
            let values = all.entry(key.clone()).or_default();
            values.push(*x);
            mapped.push(format!("{key:?} {} {x:?}", values.len()));
        }
        add("map_with_state", mapped);
        let extremes = |(key, values): (&Key, &Vec<f64>)| {
            let least = values.iter().copied().min_by(order).unwrap();
            let greatest = values.iter().copied().max_by(order).unwrap();
            format!("{:?}", (key, (values.len() as i64, least, greatest)))
        };
        add("running_agg", all.iter().map(extremes).collect());
        let mut last = BTreeMap::<Key, Vec<f64>>::new();
        for (key, x) in input[(at + 1).saturating_sub(LENGTH)..=at]
            .iter()
            .flatten()
            .flatten()
        {
            last.entry(key.clone()).or_default().push(*x);
        }
        add("window_agg", last.iter().map(extremes).collect());
    }
    found
}

/// The operators' results, in programs that run one after another in one directory; each begins after the last
/// batch of the one before.
fn found(input: &[Interval<Row>], threads: usize, restart: usize) -> Found {
    let dir = Dir::missing();
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    for batches in [0..restart, restart..input.len()] {
        block_on(async {
            let mut config = small(threads, 2, 3);
            config.checkpoint_every = 2;
            let mut program = Program::after(batches.start as u32, config);
            let (queue, rows) = program.ctx.queue::<Row>("rows");
            let keyed = rows.by_key();
            let (length, both) = (
                INTERVAL * LENGTH as u32,
                (count(), min::<f64>(), max::<f64>()),
            );
            let window = keyed.window_agg(length, INTERVAL, both).unwrap().pairs();
            let both = (count(), min::<f64>(), max::<f64>());
            let running = keyed.running_agg("running", both).unwrap().all().pairs();
            let number = MapWithState::new(
                |key, x: Option<f64>, seen: &mut KeyState<i64>, out: &mut Out<'_, String>| {
                    let n = seen.get().copied().unwrap_or_default() + 1;
                    seen.set(n);
                    out.push(format!("{key:?} {n} {:?}", x.unwrap()));
                },
            );
            let (mapped, _) = keyed
                .map_with_state::<i64, String>("numbers", number)
                .unwrap();
            let text = |rows: &DStream<(Key, (i64, f64, f64))>| -> DStream<String> {
                rows.map(|((text, n), all)| format!("{:?}", ((text, n), all)))
            };
            let top: DStream<String> = keyed
                .top(4)
                .map(|((text, n), x)| format!("{:?}", ((text, n), x)));
            for (name, stream) in [
                (TOP, top),
                ("window_agg", text(&window)),
                ("running_agg", text(&running)),
                ("map_with_state", mapped),
            ] {
                let sender = sender.clone();
                stream.for_each_rdd(move |rdd| {
                    let rows = rdd.collect().unwrap();
                    sender.send(((rdd.batch_time().0, name), rows)).unwrap();
                });
            }
            program.ctx.persist_in(dir.path());
            let mut live = program.start().await;
            for interval in &input[batches.clone()] {
                for block in interval {
                    queue.push(block.iter().cloned()).await.unwrap();
                }
                live.batch().await;
            }
            // Without a last batch.
            live.running.abort().await.unwrap();
        });
    }
    let mut all = Found::new();
    while let Ok((at, rows)) = receiver.try_recv() {
        all.insert(at, rows);
    }
    all
}

/// Rows of operators without an order of keys, by text.
fn sorted(mut found: Found) -> Found {
    for ((_, name), rows) in &mut found {
        if *name != TOP {
            rows.sort();
        }
    }
    found
}

proptest! {
    #![proptest_config(cases(4))]

    #[test]
    fn operators_equal_plain_rust(
        input in prop::collection::vec(prop::collection::vec(prop::collection::vec(row(), 1..7), 1..4), 4..6),
        restart in 1..4usize,
    ) {
        let wanted = sorted(wanted(&input));
        for threads in [1, 4] {
            let found = sorted(found(&input, threads, restart));
            for (at, wanted) in &wanted {
                prop_assert_eq!(found.get(at), Some(wanted), "{:?}, {} threads, restart after {}", at, threads, restart);
            }
        }
    }
}
