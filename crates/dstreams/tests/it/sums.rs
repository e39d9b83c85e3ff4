//! Sums and means of 64-bit integers at their limits: sums wrap around the same in every kind of query, means do
//! not, and a window is right again when the too large values have left.

use std::collections::BTreeMap;
use std::fmt::Debug;

use dstreams::agg::{Number, avg, by_name, count, sum};
use dstreams::arrow::array::AsArray;
use dstreams::arrow::datatypes::Int64Type;
use dstreams::datafusion::prelude::SessionContext;
use dstreams::record::batch_of;
use dstreams::{DStream, Error, Record};
use proptest::prelude::*;

use crate::dir::Dir;
use crate::program::{Batches, INTERVAL, Interval, Program, block_on, cases, run, small};

/// A 64-bit integer.
trait WholeNumber: Number<Sum = Self> + Record + Clone + Copy + Debug + PartialEq + Into<i128> {
    fn wrapped(sum: i128) -> Self;
}

impl WholeNumber for i64 {
    fn wrapped(sum: i128) -> i64 {
        sum as i64
    }
}

impl WholeNumber for u64 {
    fn wrapped(sum: i128) -> u64 {
        sum as u64
    }
}

/// For each key: sum, mean, number.
type Found<N> = BTreeMap<String, (N, f64, i64)>;
/// Batches of a window that nothing leaves.
const WINDOW: u32 = 1000;

type Row<N> = (String, (N, f64, i64));

fn wanted<N: WholeNumber>(rows: impl Iterator<Item = (String, N)>) -> Found<N> {
    let mut sums = BTreeMap::<String, (i128, i64)>::new();
    for (key, n) in rows {
        let (sum, count) = sums.entry(key).or_default();
        let n: i128 = n.into();
        *sum += n;
        *count += 1;
    }
    let of = |(sum, count): (i128, i64)| (N::wrapped(sum), sum as f64 / count as f64, count);
    sums.into_iter().map(|(key, it)| (key, of(it))).collect()
}

fn last<N>(batches: Batches<Row<N>>) -> Found<N> {
    batches.into_iter().last().unwrap().1.into_iter().collect()
}

/// Each batch is the input of `agg` and of the queries; the window has two.
fn check<N: WholeNumber>(
    input: &[Interval<(String, N)>],
    threads: usize,
) -> Result<(), TestCaseError> {
    let config = small(threads, 2, 2);
    let rows = |from: usize| input[from..].iter().flatten().flatten().cloned();
    let (end, all) = (input.len() - 1, wanted(rows(0)));
    let newest = wanted(rows(end));

    let running = run(&config, input, |_, rows: &DStream<(String, N)>| {
        let rows = rows.by_key();
        let state = rows.running_agg("sums", (sum::<N>(), avg::<N>(), count()));
        state.unwrap().all().pairs()
    });
    prop_assert_eq!(last(running), all);
    let window = run(&config, input, |_, rows: &DStream<(String, N)>| {
        let both = (sum::<N>(), avg::<N>(), count());
        let window = rows.by_key().window_agg(2 * INTERVAL, INTERVAL, both);
        window.unwrap().pairs()
    });
    prop_assert_eq!(last(window), wanted(rows(end.saturating_sub(1))));
    let agg = run(&config, input, |_, rows: &DStream<(String, N)>| {
        let named = (by_name::<N>("sum", ""), by_name::<f64>("mean", ""), count());
        rows.by_key().agg(named).unwrap().pairs()
    });
    prop_assert_eq!(last(agg), newest.clone());

    let sql = run(&config, input, |_, rows: &DStream<(String, N)>| {
        let query = "select key, sum(value), avg(value), count(*) from this group by key";
        rows.sql::<(String, N, f64, i64)>(query).unwrap()
    });
    // It adds up floating-point numbers.
    let (_, sql) = sql.into_iter().last().unwrap();
    let sql = sql
        .into_iter()
        .map(|(key, sum, mean, count)| (key, (sum, mean, count)));
    let sql: Found<N> = sql.collect();
    prop_assert_eq!(sql.len(), newest.len());
    for (key, (sum, mean, count)) in newest {
        let found = sql[&key];
        prop_assert_eq!((found.0, found.2), (sum, count), "{}", key);
        prop_assert!(
            (found.1 - mean).abs() <= 1e-14 * 2f64.powi(64),
            "{key}: {} {mean}",
            found.1
        );
    }
    Ok(())
}

fn signed() -> impl Strategy<Value = i64> {
    let limits = [
        i64::MAX,
        i64::MIN,
        i64::MAX - 1,
        -1,
        0,
        1,
        1 << 31,
        (1 << 31) - 1,
        -(1 << 31),
        1 << 62,
    ];
    prop_oneof![
        proptest::sample::select(limits.to_vec()),
        any::<i64>(),
        -9..9i64
    ]
}

fn unsigned() -> impl Strategy<Value = u64> {
    let limits = [
        u64::MAX,
        u64::MAX - 1,
        0,
        1,
        1 << 31,
        (1 << 32) - 1,
        1 << 63,
        i64::MAX as u64,
    ];
    prop_oneof![
        proptest::sample::select(limits.to_vec()),
        any::<u64>(),
        0..9u64
    ]
}

fn batches<N: Clone + Debug>(
    of: impl Strategy<Value = N>,
) -> impl Strategy<Value = Vec<Interval<(String, N)>>> {
    let row = ("[ab]", of);
    let block = prop::collection::vec(row, 1..5);
    prop::collection::vec(prop::collection::vec(block, 1..4), 1..5)
}

proptest! {
    #![proptest_config(cases(6))]

    #[test]
    fn sums_of_signed_integers_at_their_limits(input in batches(signed()), threads in prop::sample::select(vec![1, 4])) {
        check(&input, threads)?;
    }

    #[test]
    fn sums_of_unsigned_integers_at_their_limits(input in batches(unsigned()), threads in prop::sample::select(vec![1, 4])) {
        check(&input, threads)?;
    }
}

#[test]
fn the_mean_of_the_greatest_twice_is_the_greatest() {
    let twice = vec![vec![vec![("a".to_owned(), i64::MAX); 2]]];
    let mean = run(
        &small(1, 9, 9),
        &twice,
        |_, rows: &DStream<(String, i64)>| rows.by_key().agg(avg::<i64>()).unwrap().pairs(),
    );
    assert_eq!(mean, [(100, vec![("a".to_owned(), i64::MAX as f64)])]);
    let twice = vec![vec![vec![u64::MAX; 2]]];
    let mean = run(&small(1, 9, 9), &twice, |_, numbers: &DStream<u64>| {
        numbers
            .sql::<Option<f64>>("select avg(value) from this")
            .unwrap()
    });
    assert_eq!(mean, [(100, vec![Some(u64::MAX as f64)])]);
}

/// A program from before means had high halves wrote the same bytes as one with a sum and a count.
#[test]
fn means_stored_without_high_halves_resume() {
    type Pair = (String, i64);
    let dir = Dir::missing();
    let start = |after: u32, build: &dyn Fn(&DStream<Pair>)| {
        let mut config = small(2, 4, 8);
        // Written as a whole, and then as changes of batches.
        config.checkpoint_every = 1;
        let mut program = Program::after(after, config);
        let (queue, rows) = program.ctx.queue::<Pair>("rows");
        build(&rows);
        program.ctx.persist_in(dir.path());
        (program, queue)
    };
    let earlier = |rows: &DStream<Pair>| {
        let keyed = rows.by_key();
        let both = (sum::<i64>(), count());
        let running = keyed.running_agg("means", both).unwrap();
        running.changes().pairs().for_each_rdd(|_| ());
        let both = (sum::<i64>(), count());
        let window = keyed.window_agg(WINDOW * INTERVAL, INTERVAL, both).unwrap();
        window.pairs().for_each_rdd(|_| ());
    };
    let (first, second) = (1i64 << 40, -7);
    let mut batches = 0;
    block_on(async {
        let (program, queue) = start(0, &earlier);
        let mut live = program.start().await;
        for n in [first, second] {
            queue.push([("a".to_owned(), n)]).await.unwrap();
            let batch = live.batch().await.batch;
            batches += 1;
            while live.running.lineage().unwrap().checkpoint < Some(batch) {
                live.batch().await;
                batches += 1;
                assert!(batches < 500, "no checkpoint");
            }
        }
        live.running.stop().await.unwrap();
    });
    block_on(async {
        let (sender, mut found) = tokio::sync::mpsc::unbounded_channel();
        let now = |rows: &DStream<Pair>| {
            let keyed = rows.by_key();
            let sender = sender.clone();
            let running = keyed.running_agg("means", avg::<i64>()).unwrap();
            let running: DStream<(i64, f64)> = running.changes().pairs().map(|(_, mean)| (0, mean));
            let window = keyed
                .window_agg(WINDOW * INTERVAL, INTERVAL, avg::<i64>())
                .unwrap();
            let window: DStream<(i64, f64)> = window.pairs().map(|(_, mean)| (1, mean));
            running.union(&window).unwrap().for_each_rdd(move |rdd| {
                sender.send(rdd.collect().unwrap()).unwrap();
            });
        };
        let (program, queue) = start(batches + 1, &now);
        let mut live = program.start().await;
        let mut sums = vec![i128::from(first), i128::from(second)];
        for n in [i64::MAX, i64::MAX - 5, 3] {
            queue.push([("a".to_owned(), n)]).await.unwrap();
            live.batch().await;
            sums.push(n.into());
            let mean = |of: &[i128]| of.iter().sum::<i128>() as f64 / of.len() as f64;
            let rows = found.recv().await.unwrap();
            assert_eq!(rows, [(0, mean(&sums)), (1, mean(&sums))]);
        }
        live.running.stop().await.unwrap();
    });
}

/// An expression beyond the range of its type wraps around or fails its batch, as in plain DataFusion, for any
/// number of tasks; the error names the query.
#[test]
fn out_of_range_expressions_behave_as_in_plain_datafusion() {
    let expressions = [
        "value + 1",
        "value * value",
        "-value",
        "abs(value)",
        "value / 0",
        "value / -1",
        "cast(cast(value as int) as bigint)",
        "cast(cast(value as decimal(38, 0)) * 9223372036854775807 * 9 as bigint)",
        "cast(cast(value as bigint unsigned) as bigint)",
    ];
    let (mut right, mut failed) = (0, 0);
    for (at, expression) in expressions.into_iter().enumerate() {
        for n in [i64::MAX, i64::MIN, 7] {
            let query = format!("select {expression} as value from this");
            let wanted = block_on(async {
                let session = SessionContext::new();
                session
                    .register_batch("this", batch_of(vec![n]).unwrap())
                    .unwrap();
                let rows = session.sql(&query).await.unwrap().collect().await.ok()?;
                let column = rows[0].column(0).as_primitive::<Int64Type>().clone();
                Some(column.value(0))
            });
            let threads = [1, 4][at % 2];
            let found = block_on(async {
                let mut program = Program::new(small(threads, 1, 1));
                let (queue, numbers) = program.ctx.queue::<i64>("in");
                let mut output = numbers.sql::<i64>(&query).unwrap().collect();
                let mut live = program.start().await;
                queue.push([n, n]).await.unwrap();
                live.try_batch().await?;
                let rows = output.try_recv().unwrap().collect().unwrap();
                live.running.stop().await.unwrap();
                Ok::<_, Error>(rows)
            });
            match (found, wanted) {
                (Ok(found), Some(wanted)) => {
                    assert_eq!(found, [wanted; 2], "{query} of {n}");
                    right += 1;
                }
                (Err(error), None) => {
                    let text = error.to_string();
                    assert!(
                        text.contains("`sql` at") && text.contains("sums.rs"),
                        "{query} of {n}: {text}"
                    );
                    assert!(matches!(error, Error::Batch { .. }), "{error:?}");
                    failed += 1;
                }
                (found, wanted) => panic!("{query} of {n}: {found:?}, {wanted:?}"),
            }
        }
    }
    assert!(right > 9 && failed > 5, "{right} {failed}");
}
