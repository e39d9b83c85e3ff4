//! Operators that may fail for single records: results and rejections, from one computation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use dstreams::{Config, DStream, Error, Record, Tried};
use proptest::prelude::*;

use crate::program::text;
use crate::program::{
    Batches, Interval, Program, block_on, cases, each, intervals, settings, small,
};

type Row = (String, i64);

fn row() -> impl Strategy<Value = Row> {
    (text(), -6..6i64)
}

/// The results, and the rejected records with their reasons.
type Both<U, T> = (Batches<U>, Batches<(String, T)>);

/// The results of both streams of an operator, and those of a second one whose streams have one reader each.
fn run_both<T: Record + Clone, U: Record, R: Record>(
    config: &Config,
    input: &[Interval<T>],
    build: impl Fn(&DStream<T>) -> Tried<R, U>,
) -> [Both<U, R>; 2] {
    block_on(async {
        let mut program = Program::new(config.clone());
        let (queue, rows) = program.ctx.queue::<T>("in");
        let together = build(&rows);
        let alone = [build(&rows), build(&rows)];
        let mut ok = [together.ok().collect(), alone[0].ok().collect()];
        let mut rejected = [together.rejected().collect(), alone[1].rejected().collect()];
        let mut live = program.start().await;
        for interval in input {
            for block in interval {
                queue.push(block.iter().cloned()).await.unwrap();
            }
            live.batch().await;
        }
        let both = [0, 1].map(|at| {
            let (mut made, mut others) = (Vec::new(), Vec::new());
            while let Some(rdd) = ok[at].try_recv() {
                made.push((rdd.batch_time().0, rdd.collect().unwrap()));
            }
            while let Some(rdd) = rejected[at].try_recv() {
                others.push((rdd.batch_time().0, rdd.collect().unwrap()));
            }
            (made, others)
        });
        live.running.stop().await.unwrap();
        both
    })
}

/// Pushes some records, and fails for some inputs afterwards.
fn made_of((text, n): &Row) -> Result<Vec<(i64, String)>, String> {
    let made = (0..n.rem_euclid(3)).map(|i| (n + i, format!("{text} and something long")));
    match n % 4 {
        0 => Err(format!("{text} has {n}")),
        _ => Ok(made.collect()),
    }
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn each_record_succeeds_or_is_rejected_once(config in settings(), input in intervals(row(), 4)) {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let got = run_both(&config, &input, move |rows| {
            let calls = Arc::clone(&counted);
            rows.try_flat_map::<(i64, String), String>(move |(text, n), out| {
                calls.fetch_add(1, Ordering::SeqCst);
                for i in 0..n.rem_euclid(3) {
                    out.push((n + i, format!("{text} and something long")));
                }
                match n % 4 {
                    0 => Err(format!("{text} has {n}")),
                    _ => Ok(()),
                }
            })
        });
        let ok = each(&input, |rows| rows.iter().filter_map(|row| made_of(row).ok()).flatten().collect());
        let rejected = each(&input, |rows| {
            let why = rows.into_iter().filter_map(|row| Some((made_of(&row).err()?, row)));
            why.collect()
        });
        for got in got {
            prop_assert_eq!(&got.0, &ok);
            prop_assert_eq!(&got.1, &rejected);
        }
        // Once for both readers of the first, and once for each of the others.
        let records = input.iter().flatten().flatten().count();
        prop_assert_eq!(calls.load(Ordering::SeqCst), 3 * records);
    }

    /// A null where the record has no `Option`, and only there.
    #[test]
    fn rows_of_a_query_with_a_null_are_rejected(config in settings(), input in intervals(row(), 4)) {
        type Divided = (String, i64, Option<i64>);
        let got = run_both(&config, &input, |rows| {
            let query = "select key, nullif(value, 0) as value, nullif(value, 1) as other from this";
            rows.try_sql::<Divided>(query).unwrap()
        });
        let ok = each(&input, |rows| {
            let made = rows.into_iter().filter(|(_, n)| *n != 0);
            made.map(|(key, n)| (key, n, Some(n).filter(|n| *n != 1))).collect()
        });
        let rejected = each(&input, |rows| {
            let line = |key| format!(r#"{{"_1":"{key}","_2":null,"_3":0}}"#);
            let others = rows.into_iter().filter(|(_, n)| *n == 0);
            others.map(|(key, _)| ("column `_2` is null".to_owned(), line(key))).collect::<Vec<_>>()
        });
        for got in got {
            prop_assert_eq!(&got.0, &ok);
            prop_assert_eq!(&got.1, &rejected);
        }
    }
}

/// A panicking closure rejects its record, and nothing else; a long reason is truncated.
#[test]
fn panics_become_reasons_and_reasons_are_bounded() {
    let rows: Vec<Row> = (0..9).map(|n| (format!("text {n}"), n)).collect();
    let [(ok, rejected), _] = run_both(&small(2, 2, 3), &[vec![rows.clone()]], |rows| {
        rows.try_map::<i64, String>(|(_, n)| match n {
            2 => panic!("no two please"),
            5 => Err("ä".repeat(450_000)),
            n => Ok(10 / (n - 8)),
        })
    });
    let fine = rows
        .iter()
        .map(|(_, n)| *n)
        .filter(|n| ![2, 5, 8].contains(n));
    let fine: Vec<i64> = fine.map(|n| 10 / (n - 8)).collect();
    assert_eq!(ok, [(100, fine)]);
    let (_, rejected) = &rejected[0];
    let records: Vec<&Row> = rejected.iter().map(|(_, row)| row).collect();
    assert_eq!(records, [&rows[2], &rows[5], &rows[8]]);
    assert_eq!(rejected[0].0, "panic: no two please");
    let long = &rejected[1].0;
    assert!(long.len() < 1100 && long.starts_with("ää"), "{long}");
    assert!(long.ends_with("ä .. and 898976 bytes more"), "{long}");
    assert!(
        rejected[2].0.contains("divide by zero"),
        "{}",
        rejected[2].0
    );
}

/// An output's error is retried; a permanent one ends the program, and names the output.
#[test]
fn an_output_may_fail() {
    block_on(async {
        let mut config = small(2, 4, 4);
        config.attempts = 3;
        let mut program = Program::new(config);
        let (queue, numbers) = program.ctx.queue::<i64>("numbers");
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        numbers.try_for_each_rdd(move |rdd| {
            let call = counted.fetch_add(1, Ordering::SeqCst);
            match rdd.num_rows() {
                // Succeeds at the third call.
                1 if call >= 2 => Ok(()),
                0 => Ok(()),
                _ => Err(std::io::Error::other("the other side is away")),
            }
        });
        let mut live = program.start().await;
        queue.push([1]).await.unwrap();
        live.batch().await;
        assert_eq!(calls.load(Ordering::SeqCst), 3);
        queue.push([1, 2]).await.unwrap();
        let error = live.try_batch().await.unwrap_err();
        assert_eq!(calls.load(Ordering::SeqCst), 6);
        let text = error.to_string();
        assert!(text.contains("3 attempt"), "{text}");
        assert!(text.contains("`try_for_each_rdd`"), "{text}");
        assert!(text.contains("the other side is away"), "{text}");
        // The error of the closure itself is there too, as what it is.
        let Error::Batch { cause, .. } = &error else {
            panic!("{error:?}")
        };
        let Some(Error::Sink { cause, .. }) = cause.downcast_ref() else {
            panic!("{cause:?}")
        };
        assert!(cause.is::<std::io::Error>(), "{cause:?}");
    });
}

#[test]
fn rejected_records_that_nothing_reads_are_counted_in_the_status() {
    block_on(async {
        let mut program = Program::new(small(2, 4, 4));
        let (queue, texts) = program.ctx.queue::<String>("texts");
        let read = texts.try_map(|text| text.parse::<i64>());
        let (line, unread) = (line!(), texts.try_map(|text| text.parse::<i64>()));
        read.ok().for_each_rdd(|_| {});
        read.rejected().for_each_rdd(|_| {});
        unread.ok().for_each_rdd(|_| {});
        let mut live = program.start().await;
        for (texts, missed) in [
            (vec!["1"; 9], None),
            (vec!["1", "x", "y"], Some(2)),
            (vec!["z"; 9], Some(11)),
        ] {
            queue
                .push(texts.into_iter().map(String::from))
                .await
                .unwrap();
            live.batch().await;
            let rejected = live.running.status().rejected;
            let operator = format!("`try_map` at {}:{line}", file!());
            assert_eq!(
                rejected,
                missed
                    .map(|missed| (operator, missed))
                    .into_iter()
                    .collect()
            );
        }
        live.running.stop().await.unwrap();
    });
}
