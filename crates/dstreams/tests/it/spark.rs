//! The operators agree with those of Spark Streaming, batch by batch.
//!
//! `tests/spark/vectors.py` wrote the vectors with PySpark: inputs, programs as Python text, and what each batch gave.
//! Here are the same programs over the same inputs. What differs on purpose is checked to differ in just that;
//! `docs/spark-streaming.md` explains it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::LazyLock;

use dstreams::agg::{count, max, sum};
use dstreams::{DStream, Queue, Record, Result, StreamContext, Track};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::program::{Batches, INTERVAL, Program, block_on, small, sorted};

type Pair = (String, i64);

/// The file that `vectors.py` writes.
#[derive(Deserialize)]
struct Vectors {
    inputs: Inputs,
    cases: Vec<Case>,
}

/// Batches, each with its number.
type Numbered<T> = Vec<(u64, Vec<T>)>;

#[derive(Deserialize)]
struct Inputs {
    pairs: Numbered<Pair>,
    others: Numbered<(String, String)>,
    words: Numbered<String>,
    numbers: Numbered<i64>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    /// How many intervals the clock is ahead when the program starts.
    start: u32,
    program: String,
    batches: Numbered<Value>,
}

static VECTORS: LazyLock<Vectors> =
    LazyLock::new(|| serde_json::from_str(include_str!("../spark/vectors.json")).unwrap());

/// The streams that programs read, by their names in the vectors.
struct Streams<'a> {
    ctx: &'a StreamContext,
    pairs: DStream<Pair>,
    others: DStream<(String, String)>,
    words: DStream<String>,
    numbers: DStream<i64>,
}

/// Pushes the records of batch `number`, each in a block of its own.
async fn push<T: Record + Clone>(queue: &Queue<T>, input: &Numbered<T>, number: usize) {
    let Some((_, records)) = input.get(number) else {
        return;
    };
    for record in records {
        queue.push([record.clone()]).await.unwrap();
    }
}

/// What the program gives here. With several threads a task has one record.
fn here<U: Record>(
    start: u32,
    threads: usize,
    build: impl Fn(&Streams<'_>) -> Result<DStream<U>>,
) -> Batches<U> {
    let inputs = &VECTORS.inputs;
    let rows = if threads == 1 { 100 } else { 1 };
    block_on(async {
        let mut program = Program::after(start, small(threads, rows, rows));
        let (to_pairs, pairs) = program.ctx.queue("pairs");
        let (to_others, others) = program.ctx.queue("others");
        let (to_words, words) = program.ctx.queue("words");
        let (to_numbers, numbers) = program.ctx.queue("numbers");
        let streams = Streams {
            ctx: &program.ctx,
            pairs,
            others,
            words,
            numbers,
        };
        let mut output = build(&streams).unwrap().collect();
        let mut live = program.start().await;
        for number in 0..inputs.pairs.len() {
            push(&to_pairs, &inputs.pairs, number).await;
            push(&to_others, &inputs.others, number).await;
            push(&to_words, &inputs.words, number).await;
            push(&to_numbers, &inputs.numbers, number).await;
            live.batch().await;
        }
        let batches = dstreams::testing::batches(&mut output).unwrap();
        live.running.stop().await.unwrap();
        let interval = INTERVAL.as_millis() as u64;
        let batches = batches.into_iter();
        batches
            .map(|(batch, records)| (batch.0 / interval, records))
            .collect()
    })
}

/// A program of the vectors: its name, and what compares it.
type Check = (&'static str, Box<dyn Fn(&Case)>);

/// Gives what Spark gives.
fn same<U: Record + DeserializeOwned + Debug + PartialEq>(
    name: &'static str,
    build: impl Fn(&Streams<'_>) -> Result<DStream<U>> + 'static,
) -> Check {
    (
        name,
        Box::new(move |case| compare(case, spark(case), &build)),
    )
}

/// Gives what `adapt` makes of Spark's batches, which is something else.
fn differs<U: Record + DeserializeOwned + Debug + PartialEq>(
    name: &'static str,
    adapt: impl Fn(Batches<U>) -> Batches<U> + 'static,
    build: impl Fn(&Streams<'_>) -> Result<DStream<U>> + 'static,
) -> Check {
    let check = move |case: &Case| {
        let adapted = sorted(adapt(spark(case)));
        assert_ne!(
            adapted,
            sorted(spark(case)),
            "{} does not differ",
            case.name
        );
        compare(case, adapted, &build);
    };
    (name, Box::new(check))
}

/// Spark's batches.
fn spark<U: DeserializeOwned>(case: &Case) -> Batches<U> {
    let batches = case.batches.iter().cloned();
    let batches = batches.map(|(number, records)| {
        let records = serde_json::from_value(Value::Array(records));
        (
            number,
            records.unwrap_or_else(|error| panic!("{}: {error}", case.name)),
        )
    });
    batches.collect()
}

fn compare<U: Record + Debug + PartialEq>(
    case: &Case,
    wanted: Batches<U>,
    build: &impl Fn(&Streams<'_>) -> Result<DStream<U>>,
) {
    let wanted = sorted(wanted);
    assert!(!wanted.is_empty(), "{} has no batches", case.name);
    for threads in [1, 3] {
        let got = sorted(here(case.start, threads, build));
        assert_eq!(
            got, wanted,
            "{} with {threads} threads: {}",
            case.name, case.program
        );
    }
}

fn run(checks: Vec<Check>) {
    for (name, check) in checks {
        let case = VECTORS.cases.iter().find(|case| case.name == name);
        check(case.unwrap_or_else(|| panic!("no vectors of {name}")));
    }
}

fn within_a_batch() -> Vec<Check> {
    vec![
        same("map", |s| {
            Ok(s.pairs.map(|(key, n)| (n, format!("{key}!"))))
        }),
        same("flatMap", |s| {
            Ok(s.words.flat_map::<String>(|word, out| {
                for c in word.chars().filter(|c| *c != 'o') {
                    out.push(&*c.encode_utf8(&mut [0; 4]));
                }
            }))
        }),
        same("filter", |s| {
            Ok(s.pairs.filter(|(key, n)| key != "b" && n >= 0))
        }),
        same("filter", |s| {
            Ok(s.pairs
                .by_key()
                .filter(|key, n| key != "b" && n >= 0)
                .pairs())
        }),
        same("mapValues", |s| {
            Ok(s.pairs.by_key().map_values(|n| -n).pairs())
        }),
        same("flatMapValues", |s| {
            let each = s.pairs.by_key().flat_map_values::<i64>(|n, out| {
                let end = if n < 6 { n } else { 0 };
                (0..end).for_each(|n| out.push(n));
            });
            Ok(each.pairs())
        }),
        same("union", |s| s.pairs.union(&s.pairs.filter(|(_, n)| n < 0))),
        same("union", |s| {
            let below = s.pairs.by_key().filter(|_, n| n < 0);
            Ok(s.pairs.by_key().union(&below)?.pairs())
        }),
        same("union_of_three", |s| {
            let asked = s.words.map(|word| format!("{word}?"));
            s.ctx.union([&s.words, &asked, &s.words])
        }),
        same("count", |s| s.words.count()),
        same("countByValue", |s| Ok(s.words.count_by_value().pairs())),
        same("countByValue_of_pairs", |s| {
            Ok(s.pairs.count_by_value().pairs())
        }),
        same("reduce_sum", |s| Ok(s.numbers.reduce(|one, two| one + two))),
        same("reduce_max", |s| Ok(s.numbers.reduce(i64::max))),
        same("reduceByKey_sum", |s| {
            Ok(s.pairs.by_key().agg(sum::<i64>())?.pairs())
        }),
        same("reduceByKey_sum", |s| {
            Ok(s.pairs.by_key().reduce(|one, two| one + two).pairs())
        }),
        same("reduceByKey_min", |s| {
            Ok(s.pairs.by_key().reduce(i64::min).pairs())
        }),
        same("combineByKey", |s| {
            let sums = s.pairs.by_key().combine_by_key(
                |value| (value, 1i64),
                |(sum, n), value| (sum + value, n + 1),
                |(a, m), (b, n)| (a + b, m + n),
            );
            Ok(sums.pairs())
        }),
        same("transform_distinct", |s| {
            s.pairs.transform::<Pair>(|frame| frame.distinct())
        }),
        same("transform_distinct", |s| Ok(s.pairs.distinct())),
        same("transform_aggregate", |s| {
            s.words.sql::<(i64, i64)>(
                "select cast(char_length(value) as bigint), count(*) from this group by 1",
            )
        }),
        same("transformWith_subtract", |s| {
            let query = "select key, value from one where key not in (select key from two)";
            s.ctx
                .sql::<Pair>(&[("one", &s.pairs), ("two", &s.others)], query)
        }),
    ]
}

#[test]
fn operators_within_a_batch() {
    run(within_a_batch());
}

fn joins() -> Vec<Check> {
    vec![
        same("groupByKey", |s| {
            Ok(s.pairs.by_key().group_by_key().pairs())
        }),
        same("join", |s| {
            Ok(s.pairs.by_key().join(&s.others.by_key())?.pairs())
        }),
        same("leftOuterJoin", |s| {
            Ok(s.pairs.by_key().left_join(&s.others.by_key())?.pairs())
        }),
        same("rightOuterJoin", |s| {
            Ok(s.pairs.by_key().right_join(&s.others.by_key())?.pairs())
        }),
        same("fullOuterJoin", |s| {
            Ok(s.pairs.by_key().full_join(&s.others.by_key())?.pairs())
        }),
        same("cogroup", |s| {
            Ok(s.pairs.by_key().cogroup(&s.others.by_key())?.pairs())
        }),
    ]
}

#[test]
fn operators_of_two_streams() {
    run(joins());
}

/// The records of a window: those of the batches in `(end - len, end]` of a program that started at `start`.
fn inside<T>(input: &Numbered<T>, start: u64, len: u64, end: u64) -> impl Iterator<Item = &T> {
    let window = end.saturating_sub(len) + 1..=end;
    let batches = input
        .iter()
        .filter(move |(number, _)| window.contains(&(number + start)));
    batches.flat_map(|(_, records)| records)
}

/// Without the keys that have no record in the window, which Spark keeps with what the inverse leaves of them.
fn keys_in_window(len: u64) -> impl Fn(Batches<Pair>) -> Batches<Pair> {
    move |mut batches| {
        for (end, pairs) in &mut batches {
            let inside = inside(&VECTORS.inputs.pairs, 0, len, *end);
            let keys: BTreeSet<_> = inside.map(|(key, _)| key).collect();
            pairs.retain(|(key, _)| keys.contains(key));
        }
        batches
    }
}

/// With 0 for each window without words, which has no record in Spark while its result is not made by the inverse.
fn zeros(mut batches: Batches<i64>) -> Batches<i64> {
    for (_, counts) in &mut batches {
        if counts.is_empty() {
            counts.push(0);
        }
    }
    batches
}

/// The windows of a program that started late: `made` of their records. Spark counts slides from the start of the
/// program; here they are multiples of the slide.
fn slides_of_the_clock(
    start: u64,
    (len, slide): (u64, u64),
    made: fn(Vec<Pair>) -> Vec<Pair>,
) -> impl Fn(Batches<Pair>) -> Batches<Pair> {
    move |spark| {
        let input = &VECTORS.inputs.pairs;
        let ends = start + 1..=start + input.len() as u64;
        let windows = |due: &dyn Fn(u64) -> bool| -> Batches<Pair> {
            let ends = ends.clone().filter(|end| due(*end));
            let records = |end| inside(input, start, len, end).cloned().collect();
            ends.map(|end| (end, made(records(end)))).collect()
        };
        let from_start = windows(&|end| (end - start).is_multiple_of(slide));
        assert_eq!(sorted(spark), sorted(from_start));
        windows(&|end| end.is_multiple_of(slide))
    }
}

/// The sum of each key.
fn sums(pairs: Vec<Pair>) -> Vec<Pair> {
    let mut sums = BTreeMap::<_, i64>::new();
    for (key, n) in pairs {
        *sums.entry(key).or_default() += n;
    }
    sums.into_iter().collect()
}

fn windows() -> Vec<Check> {
    fn summed(s: &Streams<'_>, len: u32, slide: u32) -> Result<DStream<Pair>> {
        let pairs = s.pairs.by_key();
        let sums = pairs.window_agg(len * INTERVAL, slide * INTERVAL, sum::<i64>())?;
        Ok(sums.pairs())
    }
    fn subtracted(s: &Streams<'_>, len: u32, slide: u32) -> Result<DStream<Pair>> {
        let (len, slide) = (len * INTERVAL, slide * INTERVAL);
        let pairs = s.pairs.by_key();
        let sums =
            pairs.reduce_by_window_with_inverse("sums", len, slide, |a, b| a + b, |a, b| a - b)?;
        Ok(sums.pairs())
    }
    fn counted(s: &Streams<'_>, len: u32, slide: u32) -> Result<DStream<Pair>> {
        let words = s.words.keyed();
        let counts = words.window_agg(len * INTERVAL, slide * INTERVAL, count())?;
        Ok(counts.pairs())
    }
    fn filtered(mut spark: Batches<Pair>) -> Batches<Pair> {
        // Spark has dropped the key when its records added up to zero, and misses the 7 that remains of it.
        let windows = spark.iter_mut().filter(|(end, _)| (9..=11).contains(end));
        windows.for_each(|(_, pairs)| pairs.push(("c".to_owned(), 7)));
        spark
    }
    vec![
        differs("countByWindow", zeros, |s| {
            s.words.count_by_window(3 * INTERVAL, INTERVAL)
        }),
        same("countByWindow_long", |s| {
            s.words.count_by_window(5 * INTERVAL, INTERVAL)
        }),
        same("countByValueAndWindow", |s| counted(s, 3, 2)),
        same("countByValueAndWindow_long", |s| counted(s, 6, 1)),
        same("reduceByWindow", |s| {
            s.numbers
                .reduce_by_window("sum", 3 * INTERVAL, INTERVAL, |a, b| a + b)
        }),
        same("reduceByWindow", |s| {
            s.numbers.window_agg(3 * INTERVAL, INTERVAL, sum::<i64>())
        }),
        same("reduceByWindow_inverse", |s| {
            let len = 3 * INTERVAL;
            let add = |a: i64, b: i64| a + b;
            s.numbers
                .reduce_by_window_with_inverse("sum", len, INTERVAL, add, |a, b| a - b)
        }),
        same("reduceByWindow_max", |s| {
            s.numbers
                .reduce_by_window("max", 3 * INTERVAL, 2 * INTERVAL, i64::max)
        }),
        same("reduceByKeyAndWindow", |s| summed(s, 3, 2)),
        same("reduceByKeyAndWindow", |s| {
            let (len, slide) = (3 * INTERVAL, 2 * INTERVAL);
            let sums = s
                .pairs
                .by_key()
                .reduce_by_window("sums", len, slide, |a, b| a + b)?;
            Ok(sums.pairs())
        }),
        same("reduceByKeyAndWindow_max", |s| {
            let pairs = s.pairs.by_key();
            Ok(pairs
                .window_agg(4 * INTERVAL, INTERVAL, max::<i64>())?
                .pairs())
        }),
        same("reduceByKeyAndWindow_inverse_short", |s| summed(s, 4, 1)),
        same("reduceByKeyAndWindow_inverse_short", |s| {
            subtracted(s, 4, 1)
        }),
        differs("reduceByKeyAndWindow_inverse", keys_in_window(5), |s| {
            summed(s, 5, 1)
        }),
        differs("reduceByKeyAndWindow_inverse", keys_in_window(5), |s| {
            subtracted(s, 5, 1)
        }),
        same("reduceByKeyAndWindow_inverse_slide", |s| summed(s, 10, 2)),
        same("reduceByKeyAndWindow_inverse_slide", |s| {
            subtracted(s, 10, 2)
        }),
        differs("reduceByKeyAndWindow_inverse_filter", filtered, |s| {
            Ok(subtracted(s, 5, 1)?.filter(|(_, n)| n != 0))
        }),
        same("window_of_counts", |s| {
            let counts = s.words.count_by_value();
            let counts = counts.window_agg(4 * INTERVAL, 2 * INTERVAL, sum::<i64>())?;
            Ok(counts.pairs())
        }),
        differs(
            "reduceByKeyAndWindow_started_later",
            slides_of_the_clock(2, (4, 3), sums),
            |s| summed(s, 4, 3),
        ),
    ]
}

#[test]
fn operators_of_windows() {
    run(windows());
}

fn windows_of_records() -> Vec<Check> {
    fn grouped(s: &Streams<'_>) -> Result<DStream<(String, Vec<i64>)>> {
        let window = s.pairs.by_key().window(3 * INTERVAL, 2 * INTERVAL)?;
        Ok(window.group_by_key().pairs())
    }
    vec![
        same("window", |s| s.pairs.window(3 * INTERVAL, INTERVAL)),
        same("window_tumbling", |s| {
            s.pairs.window(2 * INTERVAL, 2 * INTERVAL)
        }),
        same("window_hopping", |s| {
            s.pairs.window(4 * INTERVAL, 3 * INTERVAL)
        }),
        same("window_sample", |s| s.pairs.window(INTERVAL, 3 * INTERVAL)),
        same("window_of_window", |s| {
            s.words
                .window(2 * INTERVAL, INTERVAL)?
                .window(3 * INTERVAL, INTERVAL)
        }),
        same("window_groupByKey", grouped),
        same("groupByKeyAndWindow", grouped),
        same("join_of_windows", |s| {
            let pairs = s.pairs.by_key().window(2 * INTERVAL, INTERVAL)?;
            Ok(pairs
                .join(&s.others.by_key().window(3 * INTERVAL, INTERVAL)?)?
                .pairs())
        }),
        same("fullOuterJoin_of_windows", |s| {
            let pairs = s.pairs.by_key().window(3 * INTERVAL, 2 * INTERVAL)?;
            let others = s.others.by_key().window(2 * INTERVAL, 2 * INTERVAL)?;
            Ok(pairs.full_join(&others)?.pairs())
        }),
        differs(
            "window_started_later",
            slides_of_the_clock(1, (2, 2), |records| records),
            |s| s.pairs.window(2 * INTERVAL, 2 * INTERVAL),
        ),
    ]
}

#[test]
fn operators_of_windows_of_records() {
    run(windows_of_records());
}

fn states() -> Vec<Check> {
    vec![
        same("updateStateByKey", |s| {
            let sums = s.pairs.by_key().running_agg("sums", sum::<i64>())?;
            Ok(sums.all().pairs())
        }),
        same("updateStateByKey_drop", |s| {
            let totals = s
                .pairs
                .by_key()
                .update_state_by_key("totals", |_, values, total| {
                    Some(values.sum::<i64>() + total.unwrap_or(0)).filter(|total| *total != 0)
                })?;
            Ok(totals.all().pairs())
        }),
        same("updateStateByKey_initial", |s| {
            let totals = Track::<String, i64, i64>::by_batch(|_, values, total| {
                Some(values.sum::<i64>() + total.unwrap_or(0))
            });
            let totals = totals.initial([("old".to_owned(), 5), ("a".to_owned(), 100)]);
            Ok(s.pairs.by_key().track("totals", totals)?.all().pairs())
        }),
        same("updateStateByKey_last", |s| {
            let last = s
                .others
                .by_key()
                .update_state_by_key("last", |_, values, _| values.last().map(str::to_owned))?;
            Ok(last.all().pairs())
        }),
        differs(
            "updateStateByKey_silent",
            |mut batches: Batches<(String, String)>| {
                let records = batches.iter_mut().flat_map(|(_, records)| records);
                records.for_each(|(_, journal)| *journal = journal.replace("[]", ""));
                batches
            },
            |s| {
                let journals = s.pairs.by_key().update_state_by_key(
                    "journals",
                    |_, values, journal: Option<String>| {
                        let values: Vec<_> = values.map(|value| value.to_string()).collect();
                        Some(format!(
                            "{}[{}]",
                            journal.unwrap_or_default(),
                            values.join(" ")
                        ))
                    },
                )?;
                Ok(journals.all().pairs())
            },
        ),
        same("updateStateByKey_timeout", |s| {
            let sums = Track::<String, i64, i64>::by_batch(|_, values, total| {
                Some(values.sum::<i64>() + total.unwrap_or(0))
            });
            let sums = s.pairs.by_key().track("sums", sums.timeout(2 * INTERVAL))?;
            Ok(sums.all().pairs())
        }),
        same("updateStateByKey_of_window", |s| {
            let counts = s
                .words
                .keyed()
                .window_agg(2 * INTERVAL, 2 * INTERVAL, count())?;
            let most = counts.update_state_by_key("most", |_, counts, most: Option<i64>| {
                counts.max().max(most)
            })?;
            Ok(most.all().pairs())
        }),
    ]
}

#[test]
fn operators_of_states() {
    run(states());
}

#[test]
fn every_case_is_compared() {
    let checks = [
        within_a_batch(),
        joins(),
        windows(),
        windows_of_records(),
        states(),
    ];
    let compared: BTreeSet<_> = checks.iter().flatten().map(|(name, _)| *name).collect();
    let cases = VECTORS.cases.iter().map(|case| case.name.as_str());
    let cases: BTreeSet<_> = cases.collect();
    assert_eq!(compared, cases);
}
