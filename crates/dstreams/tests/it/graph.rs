//! Invalid graphs are refused when built, and shared nodes are computed once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dstreams::agg::{avg_of, count, max, max_of, min, sum, sum_of};
use dstreams::datafusion::prelude::{col, lit};
use dstreams::{Config, DStream, Error, Record, Result, StreamContext};

use crate::program::{INTERVAL, Program, block_on, small};

type Pair = (String, i64);

/// A record with columns for every aggregate.
#[derive(Record, Debug, Clone)]
struct Sale {
    shop: String,
    price: f64,
    note: Option<i64>,
    tags: Vec<i64>,
}

fn context() -> StreamContext {
    StreamContext::new(INTERVAL).unwrap()
}

fn pairs() -> DStream<Pair> {
    context().queue::<Pair>("pairs").1
}

/// The message of an error of an operator built in this file.
#[track_caller]
fn refused<T>(operator: &str, result: Result<T>, parts: &[&str]) {
    let here = std::panic::Location::caller();
    let Err(error) = result else {
        panic!("not refused at {here}")
    };
    assert!(matches!(error, Error::Graph { .. }), "{error:?}");
    let message = error.to_string();
    let place = format!("`{operator}` at {}:", here.file());
    assert!(message.starts_with(&place), "{message}");
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn query_results_must_have_the_columns_of_the_record() {
    let pairs = pairs();
    refused(
        "sql",
        pairs.sql::<Pair>("select key from this"),
        &["key: Utf8View, value: Int64", "(key: Utf8View)"],
    );
    refused(
        "sql",
        pairs.sql::<Pair>("select value, key from (select value as key, key as value from this)"),
        &["columns of the result"],
    );
    refused(
        "sql",
        pairs.sql::<(String, i32)>("select key, value from this"),
        &["value: Int32", "value: Int64"],
    );
    refused(
        "sql",
        pairs.sql::<f64>("select value from this"),
        &["Float64", "Int64"],
    );
    refused(
        "sql",
        pairs.sql::<Sale>("select 'a' as shop, 1.0 as price from this"),
        &["note"],
    );
    refused(
        "sql",
        pairs.sql::<Pair>("select nothing from this"),
        &["nothing"],
    );
    refused(
        "sql",
        pairs.sql::<Pair>("select * from elsewhere"),
        &["elsewhere"],
    );
    refused("sql", pairs.sql::<Pair>("selec * from this"), &["selec"]);
    refused(
        "transform",
        pairs.transform::<i64>(|frame| frame.select(vec![col("key")])),
        &["Int64", "Utf8View"],
    );
    refused(
        "transform",
        pairs.transform::<Pair>(|frame| frame.filter(col("nothing").gt(lit(1)))),
        &["nothing"],
    );
    // Text may come in another encoding, and columns by place where names say only the place.
    let _ = pairs
        .sql::<Pair>("select concat(key, 'x'), value + 1 from this")
        .unwrap();
    let _ = pairs
        .sql::<String>("select arrow_cast(key, 'LargeUtf8') as text from this")
        .unwrap();
    refused(
        "sql",
        pairs.sql::<(i64, i64, i64)>("select value, value, value from this"),
        &["unique"],
    );
    let _ = pairs
        .sql::<(i64, i64, i64)>("select value a, value b, value c from this")
        .unwrap();
}

#[test]
fn nondeterministic_functions_are_refused() {
    let pairs = pairs();
    for call in [
        "now()",
        "random()",
        "uuid()",
        "current_date",
        "current_timestamp",
    ] {
        let query = format!("select cast({call} as varchar) as key, value from this");
        refused("sql", pairs.sql::<Pair>(&query), &["same result"]);
        let hidden = format!(
            "select key, value from this where key in (select cast({call} as varchar) from this)"
        );
        refused("sql", pairs.sql::<Pair>(&hidden), &["same result"]);
    }
    let random = dstreams::datafusion::prelude::random;
    refused(
        "transform",
        pairs.transform::<f64>(move |frame| frame.select(vec![random()])),
        &["random"],
    );
}

#[test]
fn aggregated_columns_must_exist_with_the_type_and_without_nulls() {
    let mut ctx = context();
    let (_, sales) = ctx.queue::<Sale>("sales");
    let by_shop = sales.key_by_into::<String>(|sale, key| key.push(sale.shop));
    refused(
        "agg",
        by_shop.agg(sum_of::<f64>("prize")),
        &["value_prize", "no such column", "value_price"],
    );
    refused(
        "agg",
        by_shop.agg(sum_of::<i64>("price")),
        &["Float64", "Int64"],
    );
    refused(
        "agg",
        by_shop.agg((count(), avg_of::<i64>("note"))),
        &["nulls"],
    );
    refused("agg", by_shop.agg(max_of::<i64>("tags")), &["List"]);
    refused("agg", by_shop.agg(sum::<f64>()), &["no such column"]);
    let second = INTERVAL * 10;
    refused(
        "window_agg",
        by_shop.window_agg(second, second, sum_of::<f64>("prize")),
        &["no such column"],
    );
    refused(
        "window_agg",
        by_shop.window_agg(second, second, max_of::<String>("shop")),
        &["value_shop", "numbers", "`agg`"],
    );
    let _ = by_shop.agg(max_of::<String>("shop")).unwrap();
}

#[test]
fn windows_must_be_multiples_and_the_message_names_the_nearest() {
    let keyed = pairs().by_key();
    let ms = Duration::from_millis;
    let window = |len, slide| keyed.window_agg(ms(len), ms(slide), count());
    refused(
        "window_agg",
        window(250, 100),
        &["length", "250ms", "200 ms and 300 ms"],
    );
    refused(
        "window_agg",
        window(300, 130),
        &["slide", "130ms", "100 ms and 200 ms"],
    );
    refused(
        "window_agg",
        window(50, 100),
        &["length", "nearest that fits is 100 ms"],
    );
    refused("window_agg", window(0, 100), &["length", "100 ms"]);
    refused("window_agg", window(100, 0), &["slide", "100 ms"]);
    refused(
        "window_agg",
        keyed.window_agg(Duration::from_micros(100_500), ms(100), count()),
        &["length"],
    );
    let slow = window(600, 300).unwrap();
    refused(
        "window_agg",
        slow.window_agg(ms(400), ms(300), max::<i64>()),
        &["300 ms and 600 ms"],
    );
    let _ = slow.window_agg(ms(900), ms(600), min::<i64>()).unwrap();
    let _ = window(100, 700).unwrap();
}

#[test]
fn streams_of_two_contexts_do_not_mix() {
    let (mut one, mut other) = (context(), context());
    let a = one.queue::<Pair>("a").1;
    let b = other.queue::<Pair>("b").1;
    refused("union", a.union(&b), &["different stream contexts"]);
    refused(
        "sql",
        one.sql::<Pair>(&[("a", &a), ("b", &b)], "select a.* from a, b"),
        &["different"],
    );
    refused(
        "sql",
        other.sql::<Pair>(&[("a", &a)], "select * from a"),
        &["different"],
    );
}

#[test]
fn streams_of_different_slides_do_not_mix() {
    let mut ctx = context();
    let pairs = ctx.queue::<Pair>("pairs").1;
    let slow = pairs
        .by_key()
        .window_agg(INTERVAL * 4, INTERVAL * 2, sum::<i64>())
        .unwrap();
    refused(
        "union",
        pairs.union(&slow.pairs()),
        &["different times", "100", "200", "same slide"],
    );
    let query = "select a.key, b.value from a join b on a.key = b.key";
    refused(
        "sql",
        ctx.sql::<Pair>(&[("a", &pairs), ("b", &slow)], query),
        &["different times"],
    );
    let _ = slow
        .pairs()
        .union(&slow.map_values(|n| n + 1).pairs())
        .unwrap();
}

#[test]
fn a_program_without_output_does_not_start() {
    block_on(async {
        let mut ctx = context();
        let (queue, pairs) = ctx.queue::<Pair>("pairs");
        let _ = pairs.by_key().agg(count()).unwrap();
        let error = ctx.start().await.err().unwrap();
        assert!(
            error.to_string().contains("no output; add `print`"),
            "{error}"
        );
        let error = queue.push([("a".to_owned(), 1)]).await.unwrap_err();
        assert!(matches!(error, Error::NotRunning), "{error}");
    });
}

#[test]
fn sources_must_have_the_columns_of_their_records() {
    let mut ctx = context();
    let error = ctx
        .source::<i64>("text", dstreams::TcpText::new("127.0.0.1:0"))
        .err()
        .unwrap();
    assert!(matches!(error, Error::Schema { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("expected (value: Int64), found (value: Utf8View)"),
        "{error}"
    );
}

#[test]
fn invalid_settings_are_refused_by_name() {
    let check = |setting: &str, change: fn(&mut Config)| {
        let mut config = Config::new(INTERVAL);
        change(&mut config);
        let error = StreamContext::with_config(config).err().unwrap();
        assert!(matches!(error, Error::Config { .. }), "{error:?}");
        assert!(
            error
                .to_string()
                .starts_with(&format!("setting `{setting}`: ")),
            "{error}"
        );
    };
    check("interval", |c| c.interval = Duration::from_millis(9));
    check("interval", |c| c.interval = Duration::ZERO);
    check("interval", |c| c.interval = Duration::from_micros(10_500));
    check("threads", |c| c.threads = 0);
    check("block_bytes", |c| c.block_bytes = 0);
    check("line_bytes", |c| c.line_bytes = 0);
    check("rows_per_batch", |c| c.rows_per_batch = 0);
    check("rows_per_task", |c| c.rows_per_task = 0);
    check("attempts", |c| c.attempts = 0);
    check("block_memory", |c| c.block_memory = c.block_bytes - 1);
    check("block_memory", |c| c.line_bytes = c.block_memory + 1);
}

#[test]
fn a_stream_with_several_readers_is_computed_once() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    block_on(async {
        let mut program = Program::new(small(3, 2, 2));
        let (queue, pairs) = program.ctx.queue::<Pair>("pairs");
        let shared = pairs.map(move |(text, n)| {
            counted.fetch_add(1, Ordering::Relaxed);
            (text.to_owned(), n + 1)
        });
        // Seven readers: outputs, operators, both sides of a union and of a join, a window.
        let mut all = shared.collect();
        shared.filter(|(_, n)| n > 2).for_each_rdd(|_| {});
        shared.union(&shared).unwrap().for_each_rdd(|_| {});
        let query = "select a.key, b.value from a join b on a.key = b.key";
        let both = program
            .ctx
            .sql::<Pair>(&[("a", &shared), ("b", &shared)], query)
            .unwrap();
        both.for_each_rdd(|_| {});
        let window = shared
            .by_key()
            .window_agg(INTERVAL * 2, INTERVAL * 2, count())
            .unwrap();
        window.for_each_rdd(|_| {});
        let mut live = program.start().await;
        for batch in 1..=3usize {
            queue
                .push((0..10).map(|n| (format!("k{}", n % 3), n)))
                .await
                .unwrap();
            live.batch().await;
            assert_eq!(all.recv().await.unwrap().num_rows(), 10);
            assert_eq!(calls.load(Ordering::Relaxed), batch * 10);
        }
    });
}
