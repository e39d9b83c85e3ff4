//! What `write_files` writes is what `Files` reads, in every format; values that do not fit are dead letters.

use dstreams::files::{Files, Format};
use dstreams::{Bytes, Date, DeadLetter, Decimal, Millis, Record, Uuid};
use proptest::prelude::*;

use crate::dir::Dir;
use crate::files_sink::FORMATS;
use crate::files_source::{put, read_all};
use crate::program::{Program, block_on, cases, small};
use crate::values::{Flat, Nested, flat, nested};

/// The records after they were in files, and the dead letters.
fn through_files<T: Record>(format: Format, records: Vec<T>) -> (Vec<T>, Vec<DeadLetter>) {
    let dir = Dir::new();
    block_on(async {
        let mut program = Program::new(small(1, 100, 100));
        let (queue, stream) = program.ctx.queue::<T>("records");
        stream.write_files(dir.path(), format).unwrap();
        let mut live = program.start().await;
        queue.push(records).await.unwrap();
        live.batch().await;
        live.running.stop().await.unwrap();
    });
    read_all::<T>(small(1, 100, 100), Files::dir(dir.path(), format))
}

fn numbered(mut all: Vec<Flat>) -> Vec<Flat> {
    all.iter_mut().zip(0..).for_each(|(record, n)| record.n = n);
    all
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn flat_records_are_read_as_they_were_written(all in prop::collection::vec(flat(), 1..40)) {
        let all = numbered(all);
        for &format in FORMATS {
            prop_assert_eq!(through_files(format, all.clone()), (all.clone(), vec![]), "{:?}", format);
        }
    }

    #[test]
    fn nested_records_are_read_as_they_were_written(all in prop::collection::vec(nested(), 1..20)) {
        for &format in FORMATS.iter().filter(|format| **format != Format::Csv) {
            prop_assert_eq!(through_files::<Nested>(format, all.clone()), (all.clone(), vec![]), "{:?}", format);
        }
    }

    /// A record of one column may be a line without anything in it.
    #[test]
    fn records_of_one_column_are_read_as_they_were_written(
        texts in prop::collection::vec("[ \t,\"\n\r]{0,3}", 1..20),
        times in prop::collection::vec(prop::option::of(crate::values::millis()), 1..20),
    ) {
        for &format in FORMATS {
            prop_assert_eq!(through_files(format, texts.clone()), (texts.clone(), vec![]), "{:?}", format);
            prop_assert_eq!(through_files(format, times.clone()), (times.clone(), vec![]), "{:?}", format);
        }
    }
}

/// Of a text and of bytes, an absent one and an empty one are the same in CSV, as is documented.
#[test]
fn empty_fields_of_csv_are_null() {
    let all = vec![(1i64, (Some(Bytes(vec![])), Some(String::new())))];
    let found = through_files(Format::Csv, all.clone()).0;
    assert_eq!(found, [(1, (None, None))]);
    assert_eq!(through_files(Format::JsonLines, all.clone()), (all, vec![]));
}

#[derive(Record, Debug, Clone, PartialEq)]
struct Row {
    at: Millis,
    day: Option<Date>,
    price: Decimal<6, 2>,
    id: Option<Uuid>,
    bytes: Option<Bytes>,
    list: Vec<Seen>,
    from: Option<(String, Millis)>,
}

#[derive(Record, Debug, Clone, PartialEq)]
struct Seen {
    at: Millis,
    price: Option<Decimal<6, 2>>,
}

/// Values that do not fit into their column: what is wrong with it, after its name.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "at",
        "\"2026-02-30T00:00:00Z\"",
        "its month has no such day",
    ),
    ("at", "\"2026-13-01T00:00:00Z\"", "it has no month"),
    ("at", "\"2026-11-29\"", "without a time of day"),
    (
        "at",
        "\"2026-11-29T16:44:00.1234Z\"",
        "finer than a millisecond",
    ),
    ("at", "\"+292278995-01-01T00:00:00Z\"", "out of range"),
    ("at", "\"1795970640500\"", "not a time such as"),
    ("at", "9223372036854775808", "out of range"),
    (
        "at",
        "1.5",
        "has a fraction, and a number is milliseconds since 1970",
    ),
    ("at", "true", "true or false, not a time"),
    ("at", "null", "it is null"),
    ("day", "\"2026-02-30\"", "its month has no such day"),
    ("day", "\"+5881580-07-12\"", "out of range"),
    ("day", "\"2026-11-29T00:00:00Z\"", "it is a time"),
    ("day", "20000", "a number, not a date"),
    (
        "price",
        "19.951",
        "more digits behind the point, and the column is Decimal128(6, 2)",
    ),
    ("price", "\"10000\"", "out of range"),
    ("price", "\"a lot\"", "not a number"),
    ("price", "[]", "a list, not a number"),
    ("id", "\"30313233-3435-3637-3839\"", "not a UUID"),
    ("id", "7", "not a text of hexadecimal digits"),
    ("bytes", "\"0\"", "pairs of hexadecimal digits"),
    ("bytes", "\"0x\"", "pairs of hexadecimal digits"),
    (
        "list",
        "[{\"at\":1},{\"at\":\"now\"}]",
        "an item of the list: `at`: it is not a time",
    ),
    (
        "list",
        "[{\"at\":1},{}]",
        "an item of the list: `at`: no member has this name",
    ),
    (
        "list",
        "[{\"at\":1,\"at\":2}]",
        "an item of the list: `at`: two members",
    ),
    (
        "list",
        "[{\"at\":1,\"price\":1e9}]",
        "an item of the list: `price`: it is out of range",
    ),
    ("list", "[null]", "an item of the list: it is null"),
    (
        "list",
        "[[]]",
        "an item of the list: it is a list, not an object",
    ),
    ("list", "{}", "an object, not a list"),
    ("from_is", "null", "it is null"),
    ("from_value", "null", "1 null(s) in 1 rows"),
];

fn line(column: &str, value: &str) -> String {
    let right = [
        ("at", "\"2026-11-29T16:44:00.5Z\""),
        ("day", "\"2026-11-29\""),
        ("price", "19.95"),
        ("id", "\"30313233-3435-3637-3839-616263646566\""),
        ("bytes", "\"00fF\""),
        (
            "list",
            "[{\"more\":[{}],\"at\":1795970640500},{\"price\":\"-0.5\",\"at\":\"1969-12-31T23:59:59Z\"}]",
        ),
        ("from_is", "true"),
        ("from_key", "\"a\""),
        ("from_value", "7"),
    ];
    let members = right.map(|(name, right)| {
        let value = if name == column { value } else { right };
        format!("\"{name}\":{value}")
    });
    format!("{{{}}}", members.join(","))
}

/// The lines before and after count, and the program goes on.
#[test]
fn values_that_do_not_fit_are_dead_letters_of_their_line() {
    let right = Row {
        at: Millis(1_795_970_640_500),
        day: Some(Date(20_786)),
        price: Decimal(1995),
        id: Some(Uuid(*b"0123456789abcdef")),
        bytes: Some(Bytes(vec![0, 255])),
        list: vec![
            Seen {
                at: Millis(1_795_970_640_500),
                price: None,
            },
            Seen {
                at: Millis(-1_000),
                price: Some(Decimal(-50)),
            },
        ],
        from: Some(("a".to_owned(), Millis(7))),
    };
    let lines = WRONG
        .iter()
        .flat_map(|(column, value, _)| [line("", ""), line(column, value)]);
    let lines: Vec<_> = lines.chain([line("", "")]).collect();
    let dir = Dir::new();
    put(&dir, "rows.jsonl", lines.join("\n"));
    let files = Files::dir(dir.path(), Format::JsonLines);
    let (found, dead) = read_all::<Row>(small(1, 100, 100), files);
    assert_eq!(found, vec![right; WRONG.len() + 1]);
    assert_eq!(dead.len(), WRONG.len());
    for (place, (letter, (column, value, words))) in dead.iter().zip(WRONG).enumerate() {
        let begin = format!("line {}: column `{column}`: ", 2 * place + 2);
        let why = &letter.reason;
        assert!(
            why.starts_with(&begin) && why.contains(words),
            "{value}: {why}"
        );
        assert_eq!(letter.bytes, lines[2 * place + 1].as_bytes());
    }
}

#[test]
fn fields_of_csv_that_do_not_fit_are_dead_letters_of_their_line() {
    type Row = (
        Millis,
        Option<Date>,
        Decimal<6, 2>,
        Option<Uuid>,
        Option<Bytes>,
    );
    let right = "2026-11-29 17:44:00.5+01,2026-11-29,19.950,30313233343536373839616263646566,00ff";
    let wrong = [
        (
            "2026-02-30T00:00:00Z,,1,,",
            "`_1`: its month has no such day",
        ),
        ("soon,,1,,", "`_1`: it is not a time such as"),
        ("1.5,,1,,", "`_1`: it has a fraction"),
        ("9223372036854775808,,1,,", "`_1`: it is out of range"),
        (",,1,,", "`_1`: it is empty"),
        ("1,2026-02-30,1,,", "`_2`: its month has no such day"),
        ("1,20000,1,,", "`_2`: it is not a date such as"),
        ("1,,1.001,,", "`_3`: it has more digits behind the point"),
        ("1,,10000,,", "`_3`: it is out of range"),
        ("1,,1,no,", "`_4`: it is not a UUID"),
        ("1,,1,,0", "`_5`: it is not bytes"),
    ];
    let lines = wrong.iter().flat_map(|(line, _)| [right, line]);
    let lines: Vec<_> = ["_1,_2,_3,_4,_5"]
        .into_iter()
        .chain(lines)
        .chain([" 1795970640500 ,2026-11-29,1995e-2,30313233-3435-3637-3839-616263646566,00FF"])
        .collect();
    let dir = Dir::new();
    put(&dir, "rows.csv", lines.join("\r\n"));
    let (found, dead) = read_all::<Row>(small(1, 100, 100), Files::dir(dir.path(), Format::Csv));
    let right: Row = (
        Millis(1_795_970_640_500),
        Some(Date(20_786)),
        Decimal(1995),
        Some(Uuid(*b"0123456789abcdef")),
        Some(Bytes(vec![0, 255])),
    );
    assert_eq!(found, vec![right; wrong.len() + 1]);
    for (place, (letter, (line, words))) in dead.iter().zip(&wrong).enumerate() {
        let begin = format!("line {}: column ", 2 * place + 3);
        let why = &letter.reason;
        assert!(
            why.starts_with(&begin) && why.contains(words),
            "{line}: {why}"
        );
    }
    assert_eq!(dead.len(), wrong.len());
}

#[test]
fn finer_times_are_cut_where_the_program_says_so() {
    let lines = [
        "2026-11-29T16:44:00.500999+00:00",
        "1969-12-31T23:59:59.9999Z",
    ];
    let lines = lines.map(|time| format!("{{\"value\":\"{time}\"}}"));
    let dir = Dir::new();
    put(&dir, "times.jsonl", lines.join("\n"));
    let files = || Files::dir(dir.path(), Format::JsonLines);
    let (found, dead) = read_all::<Millis>(small(1, 100, 100), files());
    assert_eq!((found.len(), dead.len()), (0, 2));
    assert!(
        dead[0].reason.contains("`Files::cut_to_millis`"),
        "{dead:?}"
    );
    let (found, dead) = read_all::<Millis>(small(1, 100, 100), files().cut_to_millis());
    assert_eq!(found, [Millis(1_795_970_640_500), Millis(-1)]);
    assert_eq!(dead, []);
}
