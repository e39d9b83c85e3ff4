//! Errors of tasks arrive typed: the operator, its place in the program, the cause.

use std::error::Error as _;
use std::time::Duration;

use dstreams::{Error, Queue, StreamContext, Track, Values};

use crate::checked_sink::CheckedSink;
use crate::program::{block_on, soon};
use crate::workers::cluster;

type Describe = fn(&mut StreamContext) -> Queue<i64>;

/// Runs a program on two workers with one record that makes it fail; returns the cause and the error's text.
fn fails(describe: Describe) -> (Error, String) {
    fails_after(1, describe)
}

fn fails_after(tries: u32, describe: Describe) -> (Error, String) {
    let program = move || {
        let mut ctx = StreamContext::new(Duration::from_millis(50)).unwrap();
        let queue = describe(&mut ctx);
        (ctx, queue)
    };
    block_on(async {
        let (ctx, queue) = program();
        let (cluster, workers) = cluster(ctx, 2, &[1, 1], move || program().0).await;
        queue.push([13]).await.unwrap();
        let ended = soon("the end", cluster.running.await_termination(None)).await;
        let text = ended.as_ref().unwrap_err().to_string();
        let Err(Error::Batch {
            attempts, cause, ..
        }) = ended
        else {
            panic!("{ended:?}");
        };
        assert_eq!(attempts, tries, "{text}");
        let cause = cause.downcast_ref::<Error>().expect("typed").clone();
        drop(cluster);
        let joined = tokio::task::spawn_blocking(|| workers.join());
        soon("the workers", joined).await.unwrap();
        (cause, text)
    })
}

/// Checks that each part is printed once, and nothing of the engine's own error format.
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert_eq!(text.matches(part).count(), 1, "{part:?} in {text}");
    }
    let of_engine = [
        "DataFusionError",
        "Execution error",
        "Arrow error",
        "External",
        "dstreams-error",
        "Job ",
        "stage ",
    ];
    for part in of_engine {
        assert!(!text.contains(part), "{part:?} in {text}");
    }
}

#[test]
fn a_panic_of_a_closure() {
    let (error, text) = fails(|ctx| {
        let (queue, numbers) = ctx.queue::<i64>("numbers");
        numbers
            .map::<i64>(|number| match number {
                13 => panic!("no \"thirteen\" please\n"),
                number => number,
            })
            .for_each_rdd(|_| ());
        queue
    });
    let Error::Panic { operator, message } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(operator.name, "map");
    assert!(operator.at.contains("tests/it/errors.rs:"), "{operator}");
    assert_eq!(message, "no \"thirteen\" please\n");
    let parts = [
        "after 1 attempt(s)",
        "`map` at",
        "errors.rs:",
        "(task 0 at worker-",
        "no \"thirteen\" please",
        "OnFailure::SetAside",
    ];
    says(&text, &parts);
}

/// The closure runs during the install of state.
#[test]
fn a_panic_of_a_closure_over_state() {
    let (error, text) = fails(|ctx| {
        let (queue, numbers) = ctx.queue::<i64>("numbers");
        let track = Track::by_batch(|number: i64, _: Values<'_, ()>, _: Option<i64>| {
            assert!(number != 13, "no thirteen in a state");
            Some(number)
        });
        let known = numbers.keyed().track("known", track).unwrap();
        known.all().pairs().for_each_rdd(|_| ());
        queue
    });
    assert!(matches!(&error, Error::Panic { .. }), "{error:?}");
    let parts = [
        "`track` at",
        "errors.rs:",
        "at worker-",
        "no thirteen in a state",
    ];
    says(&text, &parts);
}

#[test]
fn a_cast_that_fails() {
    let (error, text) = fails(|ctx| {
        let (queue, numbers) = ctx.queue::<i64>("numbers");
        let query = "select cast('x' || cast(value as varchar) as bigint) as value from this";
        numbers
            .sql::<Option<i64>>(query)
            .unwrap()
            .for_each_rdd(|_| ());
        queue
    });
    assert!(error.is_of_batch() && !error.is_retryable(), "{error:?}");
    let parts = ["`sql` at", "errors.rs:", "at worker-", "'x13'"];
    says(&text, &parts);
}

#[test]
fn a_sink_that_never_prepares() {
    let (error, text) = fails_after(4, |ctx| {
        let (queue, numbers) = ctx.queue::<i64>("numbers");
        let full = CheckedSink(|rows| match rows.iter().any(|rows| rows.num_rows() > 0) {
            true => Err("no room for thirteen".into()),
            false => Ok(()),
        });
        numbers.sink("a full one", full);
        queue
    });
    assert!(error.is_of_batch() && error.is_retryable(), "{error:?}");
    let parts = [
        "after 4 attempt(s)",
        "a full one",
        "no room for thirteen",
        "restart the program",
    ];
    says(&text, &parts);
}

#[test]
fn an_output_that_always_fails() {
    let (error, text) = fails_after(4, |ctx| {
        let (queue, numbers) = ctx.queue::<i64>("numbers");
        numbers.try_for_each_rdd(|rdd| match rdd.num_rows() {
            0 => Ok(()),
            _ => Err("nobody answers"),
        });
        queue
    });
    assert!(matches!(&error, Error::Sink { .. }), "{error:?}");
    let parts = [
        "after 4 attempt(s)",
        "`try_for_each_rdd` at",
        "errors.rs:",
        "nobody answers",
    ];
    says(&text, &parts);
}

#[test]
fn a_panic_with_a_very_long_message() {
    let (error, _) = fails(|ctx| {
        let (queue, numbers) = ctx.queue::<i64>("numbers");
        numbers
            .map::<i64>(|_| panic!("{}", "\u{1}".repeat(900_000)))
            .for_each_rdd(|_| ());
        queue
    });
    let Error::Panic { message, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(message.ends_with("(900000 bytes in all)"));
}

#[test]
fn a_query_that_fails() {
    let (error, _) = fails(|ctx| {
        let (queue, numbers) = ctx.queue::<i64>("numbers");
        let query = "select 100 / (value - 13) as value from this";
        numbers
            .sql::<Option<i64>>(query)
            .unwrap()
            .for_each_rdd(|_| ());
        queue
    });
    let Error::Operator { operator, cause } = &error else {
        panic!("{error:?}");
    };
    assert!(operator.at.contains("tests/it/errors.rs:"), "{operator}");
    assert_eq!(cause.to_string().matches("Divide by zero").count(), 1);
    assert_eq!(error.to_string().matches("errors.rs").count(), 1, "{error}");
    assert!(error.source().is_none(), "the text says all");
}
