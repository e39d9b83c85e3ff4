//! Closures as functions of queries.

use dstreams::Error;
use proptest::prelude::*;

use crate::program::{
    Program, block_on, cases, each, intervals, run, settings, small, sorted, text,
};

type Row = (String, Option<i64>, i32);

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn functions_are_called_with_their_arguments(
        config in settings(),
        input in intervals((text(), prop::option::of(-3..4i64), -3..4i32), 4),
    ) {
        let got = run(&config, &input, |ctx, rows| {
            // `_3` is a 32-bit integer, which is widened.
            ctx.register_fn::<(String, i64), String>("again", |(text, times)| {
                text.repeat(times.max(0) as usize)
            }).unwrap();
            ctx.register_fn::<(Option<i64>, i64), bool>("same", |(a, b)| a == Some(b)).unwrap();
            ctx.register_fn::<i64, Option<i64>>("half", |n| (n % 2 == 0).then_some(n / 2)).unwrap();
            rows.sql::<(String, Option<String>, bool, Option<i64>)>(
                "select again(_1, _3), again('ab', _2), same(_2, 1), half(_2) from this",
            ).unwrap()
        });
        let wanted = each(&input, |rows| {
            let result = |(text, some, n): Row| (
                text.repeat(n.max(0) as usize),
                some.map(|n| "ab".repeat(n.max(0) as usize)),
                some == Some(1),
                some.filter(|n| n % 2 == 0).map(|n| n / 2),
            );
            rows.into_iter().map(result).collect()
        });
        prop_assert_eq!(sorted(got), sorted(wanted));
    }
}

#[test]
fn functions_of_constants_and_of_nothing() {
    let got = run(&small(2, 1, 2), &[vec![vec![1i64, 2]]], |ctx, numbers| {
        ctx.register_fn::<(i64, i64), i64>("add", |(a, b)| a + b)
            .unwrap();
        ctx.register_fn::<(), i64>("seven", |()| 7).unwrap();
        let query = "select add(value, add(2, 3) + seven()) from this where add(value, 0) > 1";
        numbers.sql::<i64>(query).unwrap()
    });
    assert_eq!(got, [(100, vec![14])]);
}

#[test]
fn functions_that_cannot_be_are_refused() {
    let mut program = Program::new(small(1, 1, 1));
    let (_, numbers) = program.ctx.queue::<i64>("in");
    let ctx = &program.ctx;
    let two = ctx.register_fn::<i64, (i64, i64)>("two", |n| (n, n));
    let two = two.err().unwrap().to_string();
    assert!(
        two.contains("2 columns") && two.contains("`two` at"),
        "{two}"
    );
    ctx.register_fn::<i64, i64>("one", |n| n).unwrap();
    let again = ctx
        .register_fn::<String, i64>("one", |_| 1)
        .err()
        .unwrap()
        .to_string();
    assert!(again.contains("another function has this name"), "{again}");
    // A text is no number, and a result that may be null is not one without `Option`.
    assert!(numbers.sql::<i64>("select one(true) from this").is_err());
    assert!(
        numbers
            .sql::<i64>("select one(value, 2) from this")
            .is_err()
    );
    assert!(
        numbers
            .sql::<String>("select one(value) from this")
            .is_err()
    );
}

#[test]
fn a_panic_names_the_function() {
    block_on(async {
        let mut program = Program::new(small(2, 1, 2));
        let (queue, numbers) = program.ctx.queue::<i64>("in");
        let positive = |n: i64| {
            assert!(n > 0, "{n} is too small");
            n
        };
        program
            .ctx
            .register_fn::<i64, i64>("positive", positive)
            .unwrap();
        let checked = numbers
            .sql::<i64>("select positive(value) from this")
            .unwrap();
        let _output = checked.collect();
        let mut live = program.start().await;
        queue.push([5, -5]).await.unwrap();
        let failed = live.try_batch().await.unwrap_err();
        let text = failed.to_string();
        assert!(
            text.contains("-5 is too small") && text.contains("`positive` at"),
            "{text}"
        );
        let Error::Batch { .. } = failed else {
            panic!("{failed:?}");
        };
    });
}
