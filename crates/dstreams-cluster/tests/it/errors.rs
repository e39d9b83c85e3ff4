//! What a task failed with arrives typed: the operator, its place in the program, the cause.

use std::error::Error as _;
use std::time::Duration;

use dstreams::{Error, Queue, StreamContext};

use crate::program::{block_on, soon};
use crate::workers::cluster;

type Describe = fn(&mut StreamContext) -> Queue<i64>;

/// What a program ends with that gets one record, on two workers.
fn fails(describe: Describe) -> (Error, String) {
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
        let text = format!("{:?}", cluster.status());
        let Err(Error::Batch {
            attempts, cause, ..
        }) = ended
        else {
            panic!("{ended:?}");
        };
        assert_eq!(attempts, 1, "no other try can mend it");
        let cause = cause.downcast_ref::<Error>().expect("typed").clone();
        drop(cluster);
        let joined = tokio::task::spawn_blocking(|| workers.join());
        soon("the workers", joined).await.unwrap();
        (cause, text)
    })
}

#[test]
fn a_panic_of_a_closure() {
    let (error, _) = fails(|ctx| {
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
    assert!(error.source().is_some());
}
