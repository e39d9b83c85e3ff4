//! Times, dates, decimal numbers, bytes, UUIDs and enums as records.

use dstreams::agg::{avg, count, max, min, sum};
use dstreams::files::{Files, Format};
use dstreams::record::batch_of;
use dstreams::{Bytes, DStream, Date, Decimal, Error, Millis, Record, StreamContext, Uuid};

use crate::dir::Dir;
use crate::files_source::{put, read_all};
use crate::program::{INTERVAL, Program, block_on, run, small, sorted};
use crate::records::{crosses, keys};

#[derive(Record, Debug, Clone, Copy, PartialEq)]
enum Level {
    Info,
    Warn,
    #[record(name = "a level with a long name")]
    Long,
}

/// 2026-11-29T16:43:46.789Z.
const TIME: i64 = 1_795_970_626_789;
const DAY: i64 = 86_400_000;

#[test]
fn values_cross_shuffles_as_values_and_as_keys() {
    keys([i64::MIN, -1, 0, TIME, i64::MAX].map(Millis).to_vec());
    keys([i32::MIN, -1, 0, i32::MAX].map(Date).to_vec());
    type Wide = Decimal<38, 10>;
    keys(vec![
        Decimal(-Wide::MAX.0),
        Wide::default(),
        Decimal(7),
        Wide::MAX,
    ]);
    keys(vec![Decimal::<4, 2>(-9999), Decimal(9999)]);
    let bytes = [
        &b""[..],
        b"\0",
        b"\0\0",
        b"twelve bytes",
        b"more than twelve bytes",
        &[255; 70_000],
    ];
    keys(bytes.map(|bytes| Bytes(bytes.to_vec())).to_vec());
    keys(vec![
        Uuid([0; 16]),
        Uuid([255; 16]),
        Uuid(*b"0123456789abcdef"),
    ]);
    keys(vec![Level::Info, Level::Warn, Level::Long]);
    keys(vec![None, Some(Level::Long), Some(Level::Info)]);
    keys(vec![None, Some(Uuid([1; 16]))]);
    keys(vec![None, Some(Bytes(vec![])), Some(Bytes(vec![3; 20]))]);
    keys(vec![
        (Millis(3), Uuid([1; 16]), Decimal::<20, 2>(5), Level::Warn),
        (Millis(3), Uuid([1; 16]), Decimal(6), Level::Warn),
    ]);
    crosses(vec![vec![Millis(1), Millis(-1)], vec![]]);
    crosses(vec![vec![Some(Bytes(vec![1])), None], vec![]]);
    crosses(vec![vec![Level::Info, Level::Long], vec![]]);
    crosses(vec![
        Some((Uuid([1; 16]), Date(5), Level::Warn, Bytes(vec![9; 30]))),
        None,
    ]);
    let twelve = (
        1u8,
        2i8,
        3u16,
        4i16,
        5u32,
        6i32,
        7u64,
        8i64,
        true,
        "ten".to_owned(),
        Some(11i64),
        12.5f64,
    );
    let names: Vec<_> = record_names(&twelve);
    assert_eq!(names, (1..=12).map(|n| format!("_{n}")).collect::<Vec<_>>());
    let got = run(&small(3, 1, 2), &[vec![vec![twelve.clone()]]], |_, rows| {
        rows.filter(|row| row.8)
    });
    assert_eq!(format!("{:?}", got[0].1), format!("{:?}", [twelve]));
}

fn record_names<T: Record>(_: &T) -> Vec<String> {
    T::schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect()
}

#[test]
fn twelve_aggregates_at_once() {
    let input = vec![vec![vec![(1i64, 2i64), (1, 4)]]];
    let got = run(&small(1, 9, 9), &input, |_, rows| {
        let n = count;
        rows.by_key()
            .agg((
                n(),
                sum::<i64>(),
                min::<i64>(),
                max::<i64>(),
                avg::<i64>(),
                n(),
                n(),
                n(),
                n(),
                n(),
                n(),
                n(),
            ))
            .unwrap()
            .map_values(|it| (it.0, it.1, it.2, it.3, it.4, it.11))
            .pairs()
    });
    assert_eq!(got[0].1, [(1, (2, 6, 2, 4, 3.0, 2))]);
}

#[test]
fn queries_calculate_with_times_and_decimals() {
    let input = vec![vec![vec![Millis(TIME), Millis(TIME + 100)]]];
    let config = small(1, 100, 100);
    let got = run(&config, &input, |_, times: &DStream<Millis>| {
        let query = "select date_trunc('minute', value), cast(value as date), count(*) from this group by 1, 2";
        times.sql::<(Millis, Date, i64)>(query).unwrap()
    });
    let minute = TIME - TIME.rem_euclid(60_000);
    assert_eq!(got[0].1, [(Millis(minute), Date((TIME / DAY) as i32), 2)]);
    type Price = Decimal<10, 2>;
    let input = vec![vec![vec![
        (1i64, Decimal(1995)),
        (1, Decimal(-5)),
        (2, Price::MAX),
    ]]];
    let got = run(&config, &input, |_, prices: &DStream<(i64, Price)>| {
        let query = "select key, sum(value) as value from this group by key";
        prices.sql::<(i64, Decimal<20, 2>)>(query).unwrap()
    });
    assert_eq!(
        sorted(got)[0].1,
        [(1, Decimal(1990)), (2, Decimal(9_999_999_999))]
    );
    let got = run(&config, &input, |_, prices: &DStream<(i64, Price)>| {
        let all = (
            sum::<Price>(),
            min::<Price>(),
            max::<Price>(),
            avg::<Price>(),
        );
        prices.by_key().agg(all).unwrap().pairs()
    });
    let top = 9_999_999_999;
    let wanted = vec![
        (1, (Decimal(1990), Decimal(-5), Decimal(1995), 9.95)),
        (2, (Decimal(top), Decimal(top), Decimal(top), 99_999_999.99)),
    ];
    assert_eq!(sorted(got)[0].1, wanted);
}

#[test]
fn windows_have_the_least_and_the_greatest_times() {
    let input = vec![
        vec![vec![(1i64, Millis(7)), (1, Millis(-3))]],
        vec![vec![(1, Millis(2))]],
        vec![],
    ];
    let got = run(&small(2, 1, 2), &input, |_, times| {
        let ends = (min::<Millis>(), max::<Millis>());
        times
            .by_key()
            .window_agg(INTERVAL * 2, INTERVAL, ends)
            .unwrap()
            .pairs()
    });
    let ends = |batch, low, high| (batch, vec![(1, (Millis(low), Millis(high)))]);
    assert_eq!(got, [ends(100, -3, 7), ends(200, -3, 7), ends(300, 2, 2)]);
    let input = vec![vec![vec![(1i64, Date(7))]], vec![vec![(1, Date(-2))]]];
    let got = run(&small(2, 1, 2), &input, |_, days| {
        days.by_key()
            .running_agg("first", min::<Date>())
            .unwrap()
            .all()
            .pairs()
    });
    assert_eq!(got, [(100, vec![(1, Date(7))]), (200, vec![(1, Date(-2))])]);
}

#[test]
fn decimals_that_have_no_place_are_refused() {
    let error = batch_of([Decimal::<4, 2>(10_000)]).unwrap_err().to_string();
    assert!(
        error.contains("4 digits at most") && error.contains("10000"),
        "{error}"
    );
    let mut ctx = StreamContext::new(INTERVAL).unwrap();
    let (_, prices) = ctx.queue::<(i64, Decimal<10, 2>)>("prices");
    // Fewer digits, or another place of the point, are another number.
    let query = "select key, value from this";
    let error = prices.sql::<(i64, Decimal<9, 2>)>(query).err().unwrap();
    assert!(matches!(error, Error::Graph { .. }), "{error}");
    let error = prices.sql::<(i64, Decimal<10, 3>)>(query).err().unwrap();
    assert!(matches!(error, Error::Graph { .. }), "{error}");
    let prices = prices.by_key();
    for refused in [
        prices.running_agg("sum", sum::<Decimal<10, 2>>()).err(),
        prices.running_agg("avg", avg::<Decimal<10, 2>>()).err(),
        prices.running_agg("max", max::<Decimal<10, 2>>()).err(),
    ] {
        let error = refused.unwrap().to_string();
        assert!(
            error.contains("64 bits") && error.contains("`value`"),
            "{error}"
        );
    }
}

/// Beyond 38 digits, and beyond 128 bits, where a sum would wrap around to a number of few digits.
#[test]
fn a_decimal_sum_that_is_too_large_fails_its_batch() {
    type Wide = Decimal<38, 2>;
    let failed = |numbers: usize| {
        block_on(async {
            let mut program = Program::new(small(2, 1, 2));
            let (queue, rows) = program.ctx.queue::<(i64, Wide)>("in");
            rows.by_key()
                .agg(sum::<Wide>())
                .unwrap()
                .pairs()
                .for_each_rdd(|_| {});
            let mut live = program.start().await;
            queue.push(vec![(1, Wide::MAX); numbers]).await.unwrap();
            live.try_batch().await.err().map(|error| error.to_string())
        })
    };
    assert_eq!(failed(1), None);
    for numbers in [2, 7] {
        let error = failed(numbers).unwrap();
        assert!(
            error.contains("38 digits at most") && error.contains("column `value`"),
            "{error}"
        );
    }
}

#[derive(Record, Debug, Clone, PartialEq)]
struct Line {
    level: Level,
    before: Option<Level>,
    all: Vec<Level>,
}

#[test]
fn a_text_that_names_no_variant_is_a_dead_letter() {
    let dir = Dir::new();
    let lines = [
        r#"{"level": "Warn", "before": null, "all": []}"#,
        r#"{"level": "warn", "all": []}"#,
        r#"{"level": "a level with a long name", "before": "Info", "all": ["Info", "Wa\u0072n"]}"#,
        r#"{"level": "Info", "before": "", "all": []}"#,
        r#"{"level": "Info", "all": ["Info", "Other"]}"#,
    ];
    put(&dir, "a", lines.join("\n"));
    let files = Files::dir(dir.path(), Format::JsonLines).once();
    let (all, dead) = read_all::<Line>(small(2, 100, 100), files);
    let wanted = [
        Line {
            level: Level::Warn,
            before: None,
            all: vec![],
        },
        Line {
            level: Level::Long,
            before: Some(Level::Info),
            all: vec![Level::Info, Level::Warn],
        },
    ];
    assert_eq!(all, wanted);
    let reasons: Vec<_> = dead.iter().map(|letter| letter.reason.as_str()).collect();
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert!(
        reasons
            .iter()
            .all(|why| why.contains("none of `Info`, `Warn`, `a level")),
        "{reasons:?}"
    );
    assert!(reasons[0].contains("column `level`"), "{reasons:?}");
    assert!(reasons[1].contains("column `before`"), "{reasons:?}");
    assert!(reasons[2].contains("column `all`"), "{reasons:?}");
    let dir = Dir::new();
    put(&dir, "a", "key,value\nWarn,1\nwarn,2\n");
    let files = Files::dir(dir.path(), Format::Csv).once();
    let (all, dead) = read_all::<(Level, i64)>(small(2, 100, 100), files);
    assert_eq!((all, dead.len()), (vec![(Level::Warn, 1)], 1));
}

#[test]
fn a_query_that_makes_another_text_fails_with_it() {
    block_on(async {
        let mut program = Program::new(small(1, 100, 100));
        let (queue, texts) = program.ctx.queue::<String>("in");
        let levels = texts
            .sql::<Level>("select value from this where value <> 'skip'")
            .unwrap();
        let mut levels = levels.map(|level| level == Level::Warn).collect();
        let mut live = program.start().await;
        queue
            .push(["Warn".to_owned(), "skip".to_owned()])
            .await
            .unwrap();
        live.batch().await;
        assert_eq!(levels.recv().await.unwrap().collect().unwrap(), [true]);
        queue.push(["Worn".to_owned()]).await.unwrap();
        let error = live.try_batch().await.unwrap_err().to_string();
        assert!(
            error.contains("a text of `Level`") && error.contains("`Worn`"),
            "{error}"
        );
    });
}
