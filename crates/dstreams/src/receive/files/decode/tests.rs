//! Lines to records: the result for good and bad lines, against serde_json and by hand.

use datafusion::arrow::array::AsArray;
use datafusion::arrow::csv::ReaderBuilder;
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};
use proptest::prelude::*;
use serde_json::Value;

use super::super::split::Splitter;
use super::*;
use crate::stream::record::{Record, check_rows, checked_schema, records_of};

/// The result for a file: records, and bad lines with their reasons.
type Found<T> = (Vec<T>, Vec<(u64, String)>);

fn decode<T: Record>(format: Format, bytes: &[u8], piece: usize) -> Result<Found<T>> {
    let (schema, checked) = (T::schema(), checked_schema::<T>());
    let mut splitter = Splitter::new(bytes, format, piece, 1 << 20);
    let mut decoder = Decoder::new(format, &checked, FinerTimes::Refused, check_rows::<T>)?;
    let mut found = (Vec::new(), Vec::new());
    while let Some(mut chunk) = splitter.next().unwrap() {
        decoder.take_header(&mut chunk)?;
        if let Some(rows) = decoder.decode(&mut chunk)? {
            assert_eq!(rows.schema(), schema);
            found.0.extend(records_of::<T>(&rows)?);
        }
        found.1.extend(chunk.bad.into_iter().map(|(line, bad)| {
            assert!(bad.reason.len() < 300 && bad.length > 0, "{bad:?}");
            (line, bad.reason)
        }));
    }
    Ok(found)
}

fn json<T: Record>(text: &str) -> Found<T> {
    decode(Format::JsonLines, text.as_bytes(), 1000).unwrap()
}

/// Asserts that the one line of a text is bad, with a reason that contains these words.
#[track_caller]
fn is_bad<T: Record + std::fmt::Debug>(text: &str, words: &str) {
    let (good, bad) = json::<T>(text);
    let [(1, reason)] = &bad[..] else {
        panic!("{text}: {good:?} {bad:?}")
    };
    assert!(
        good.is_empty() && reason.contains(words),
        "{text}: {reason}"
    );
}

#[test]
fn values_that_do_not_fit_their_column_are_dead_letters() {
    type Row = (String, i64);
    let wrong = [
        (
            "19.99",
            "`value`: it has a fraction, and the column is Int64",
        ),
        ("-9223372036854775809", "out of range"),
        ("\"42\"", "it is a text, not a number"),
        ("\" 5\"", "a text"),
        ("\"NaN\"", "a text"),
        ("true", "true or false, not a number"),
        ("[1]", "a list"),
        ("{}", "an object"),
        ("null", "it is null"),
        ("1,\"value\":2", "two members have this name"),
        ("1,\"value\":null", "two members"),
        ("1,\"valu\\u0065\":1", "two members"),
        ("1,", "name in quotes"),
        ("01", "begins with 0"),
    ];
    for (value, words) in wrong {
        is_bad::<Row>(&format!("{{\"key\":\"a\",\"value\":{value}}}"), words);
    }
    is_bad::<Row>("{\"key\":\"a\"}", "column `value`: no member has this name");
    is_bad::<Row>(
        "{\"key\":1,\"value\":1}",
        "column `key`: it is a number, not a text",
    );
    is_bad::<Row>("{\"key\":\"\\ud800\",\"value\":1}", "surrogate");
    is_bad::<Row>("{\"key\":\"a\" \"value\":1}", "comma");
    is_bad::<(String, f64)>("{\"key\":\"a\",\"value\":1e400}", "out of range");
    is_bad::<Vec<Vec<u8>>>(
        "{\"value\":[[1],[2,256]]}",
        "an item of the list: an item of the list: it is out of range",
    );
    is_bad::<Vec<u8>>("{\"value\":[1,null]}", "an item of the list: it is null");
    is_bad::<bool>("{\"value\":1}", "a number, not true or false");
    let right = [
        ("9007199254740993.0", 9007199254740993),
        ("1e3", 1000),
        ("-0", 0),
    ];
    for (value, wanted) in right {
        let found = json::<Row>(&format!("{{\"\\u006bey\":\"\\u0061\",\"value\":{value}}}"));
        assert_eq!(found, (vec![("a".into(), wanted)], vec![]));
    }
    let lists = json::<Vec<i8>>("{\"value\":[1 , -3 ]}\n{\"value\":[5,300]}\n{\"value\":[]}");
    assert_eq!(lists.0, [vec![1, -3], vec![]]);
    assert_eq!(lists.1[0].0, 2);
}

#[test]
fn nesting_that_is_too_deep_is_a_bad_line() {
    let deep = ["[".repeat(100_000), "]".repeat(100_000)].concat();
    for member in ["value", "other"] {
        let text = format!("{{\"key\":\"a\",\"{member}\":{deep}}}\n{{\"key\":\"b\",\"value\":2}}");
        let (good, bad) = json::<(String, i64)>(&text);
        assert_eq!(good, [("b".to_owned(), 2)]);
        assert!(bad[0].0 == 1 && bad[0].1.contains("128 levels"), "{bad:?}");
    }
    // Nesting within the bound, for which no column has a type.
    let text = format!("{{\"value\":{}1{}}}", "[".repeat(120), "]".repeat(120));
    is_bad::<i64>(&text, "a list, not a number");
    is_bad::<String>(&text, "a list, not a text");
    is_bad::<Vec<i64>>(&text, "an item of the list: it is a list, not a number");
}

#[test]
fn a_reason_does_not_repeat_the_value() {
    let long = "x".repeat(900_000);
    is_bad::<(String, i64)>(
        &format!("{{\"key\":\"a\",\"value\":\"{long}\"}}"),
        "a text, not a number",
    );
    is_bad::<i64>(
        &format!("{{\"value\":{}}}", "9".repeat(900_000)),
        "out of range",
    );
    is_bad::<i64>(&format!("{{\"{long}"), "no end");
    let csv = |text: &str| decode::<i64>(Format::Csv, text.as_bytes(), 1 << 20);
    let (_, bad) = csv(&format!("value\n{long}\n{},\n", "1,".repeat(9000))).unwrap();
    assert_eq!(
        bad[0],
        (
            2,
            "column `value`: it is not a number, and the column is Int64".into()
        )
    );
    assert_eq!(
        bad[1],
        (3, "it has 9002 fields, and the first line has 1".into())
    );
    for header in [long, "no,".repeat(100_000)] {
        let reason = csv(&header).unwrap_err().to_string();
        assert!(
            reason.len() < 600 && reason.contains("value: Int64"),
            "{reason}"
        );
    }
}

/// Decodes many records of which every fourth is bad; a decoder that started again after each bad one would not
/// finish.
#[test]
fn bad_lines_cost_no_more_than_good_ones() {
    let line = |n: i64| match n % 4 {
        0 => "{\"key\":\"a\",\"value\":1.5}\n".to_owned(),
        _ => format!("{{\"value\":{n},\"key\":\"{n}\"}}\n"),
    };
    let text: String = (0..40_000).map(line).collect();
    let (good, bad) = decode::<(String, i64)>(Format::JsonLines, text.as_bytes(), 1 << 20).unwrap();
    let wanted = (0..40_000)
        .filter(|n| n % 4 > 0)
        .map(|n| (n.to_string(), n));
    assert!(good.into_iter().eq(wanted));
    assert!(
        bad.iter()
            .map(|(line, _)| *line)
            .eq((1..=40_000).step_by(4))
    );
}

#[test]
fn csv_with_quotes_blanks_and_extra_columns_is_read() {
    let csv = |text: &str| decode::<(String, Option<f64>)>(Format::Csv, text.as_bytes(), 7);
    let row = |key: &str, value| (key.to_owned(), value);
    let text = "\r\n \n value,value,more,key\r\n 1,2,3,4\n1,-1.5e3,,\"a,\"\"b\"\"\"\r\n1,,\"\n\",\n1, 7 ,,c\n1,NaN,x\n1,inf,,d\n";
    let (good, bad) = csv(text).unwrap();
    let wanted = [
        row("4", Some(2.0)),
        row("a,\"b\"", Some(-1500.0)),
        row("", None),
        row("c", Some(7.0)),
        row("d", Some(f64::INFINITY)),
    ];
    assert_eq!(good, wanted);
    assert_eq!(
        bad,
        [(9, "it has 3 fields, and the first line has 4".into())]
    );
    let cut = csv("key,value\na\rb,1\n\"a\rb\",2\n").unwrap();
    assert_eq!(cut.0, [row("a\rb", Some(2.0))]);
    assert!(cut.1[0].1.contains("carriage return"), "{cut:?}");
}

#[test]
fn a_csv_file_without_a_valid_header_is_refused() {
    let refused = |text: &str| {
        let found = decode::<(String, i64)>(Format::Csv, text.as_bytes(), 5);
        found.unwrap_err().to_string()
    };
    let twice = refused("key,value,value\na,1,2\n");
    for words in [
        "\"value\" appears twice",
        "\"key\", \"value\", \"value\"",
        "value: Int64",
    ] {
        assert!(twice.contains(words), "{twice}");
    }
    let blanks = refused(" key , Value\na,1\n");
    assert!(blanks.contains("found \" key \", \" Value\""), "{blanks}");
    // The next line is not used as header instead.
    let open = refused("\"key,value\nkey,value\na,1\n");
    assert!(
        open.contains("line 1, which names the columns: a quote is not closed"),
        "{open}"
    );
    // Names of columns that are not wanted do not matter.
    let other = decode::<i64>(Format::Csv, b"x,x,,\xff,value\n1,2,3,4,5\n", 9).unwrap();
    assert_eq!(other, (vec![5], vec![]));
}

#[test]
fn a_record_that_is_not_utf_8_is_a_dead_letter() {
    let latin = b"key,value\nZ\xfcrich,1\nBern,2\n\"Gen\xe8ve\n\",3\nBasel,4\n";
    let (good, bad) = decode::<(String, i64)>(Format::Csv, latin, 1000).unwrap();
    assert_eq!(good, [("Bern".to_owned(), 2), ("Basel".to_owned(), 4)]);
    let reasons = [
        (2, "invalid UTF-8 at byte 1 of the line"),
        (4, "invalid UTF-8 at byte 4 of the line"),
    ];
    assert_eq!(bad, reasons.map(|(line, why)| (line, why.to_owned())));
}

#[test]
fn the_value_of_a_member_that_is_no_column_need_not_fit_any_type() {
    let (good, bad) = json::<i64>("{\"more\":1e999,\"value\":7}\n{\"more\":1e,\"value\":8}\n");
    assert_eq!(good, [7]);
    assert_eq!(bad.len(), 1, "{bad:?}");
}

type Row = (Option<String>, (i32, (Option<f64>, Vec<bool>)));

/// Names of the columns, and one other.
const NAMES: [&str; 5] = [
    "key",
    "value_key",
    "value_value_key",
    "value_value_value",
    "more",
];

/// The members of a line that are columns. Of the others only the syntax counts: a number may be of any size.
#[derive(serde::Deserialize)]
struct Members {
    key: Option<Value>,
    value_key: Option<Value>,
    value_value_key: Option<Value>,
    value_value_value: Option<Value>,
}

/// The record of a line, if it is one, according to serde_json.
fn record_of(line: &str) -> Option<Row> {
    let members = serde_json::from_str::<Members>(line).ok()?;
    let number = |value: &Value| {
        let number = value.as_f64().filter(|n| n.fract() == 0.0)?;
        (f64::from(i32::MIN)..=f64::from(i32::MAX))
            .contains(&number)
            .then_some(number as i32)
    };
    let text = members.key.map(|key| key.as_str().map(str::to_owned));
    let float = members.value_value_key.map(|float| float.as_f64());
    let (text, float) = (
        text.map_or(Some(None), |t| t.map(Some))?,
        float.map_or(Some(None), |f| f.map(Some))?,
    );
    let list = members.value_value_value?;
    let bools = list
        .as_array()?
        .iter()
        .map(Value::as_bool)
        .collect::<Option<_>>()?;
    Some((text, (number(&members.value_key?)?, (float, bools))))
}

fn line() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        "(true|false|1e2|-7|0\\.5|\"\"|\"a\\\\n\"|\\[\\]|\\[true\\]|\\[true, false\\]|\\[null\\]|\\{\\}|2147483648|1e999)",
        any::<i32>().prop_map(|n| n.to_string()),
    ];
    let member = (1..6usize, value).prop_map(|(n, value)| format!("\"{}\":{value}", NAMES[n - 1]));
    let good =
        "\"key\":\"[a-zä]{0,20}\",\"value_key\":-?[1-9][0-9]{0,9},\"value_value_value\":\\[\\]";
    let members = prop_oneof![
        good.prop_map(|all| vec![all]),
        prop::collection::vec(member, 0..6)
    ];
    let change = (
        any::<prop::sample::Index>(),
        prop::sample::select(vec!["", ",", "\"", "}", " ", "0", "\u{feff}"]),
    );
    (members, prop::option::weighted(0.3, change)).prop_map(|(members, change)| {
        let mut line = format!("{{{}}}", members.join(","));
        if let Some((at, with)) = change {
            let at = at.index(line.len());
            if line.is_char_boundary(at) && line.is_char_boundary(at + 1) {
                line.replace_range(at..at + 1, with);
            }
        }
        line
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn records_are_those_of_serde_json(lines in prop::collection::vec(line(), 1..12), piece in 1..200usize) {
        let twice = |line: &str| { NAMES }.iter().any(|name| line.matches(&format!("\"{name}\":")).count() > 1);
        let lines: Vec<_> = lines.into_iter().filter(|line| !twice(line)).collect();
        let (good, bad) = decode::<Row>(Format::JsonLines, lines.join("\n").as_bytes(), piece).unwrap();
        let wanted: Vec<_> = lines.iter().filter_map(|line| record_of(line)).collect();
        prop_assert_eq!(good, wanted, "{:#?} {:#?}", &lines, &bad);
        let none = (1..).zip(&lines).filter(|(_, line)| record_of(line).is_none() && !line.trim().is_empty());
        let none: Vec<u64> = none.map(|(line, _)| line).collect();
        prop_assert_eq!(bad.into_iter().map(|(line, _)| line).collect::<Vec<_>>(), none);
    }

    /// Nothing panics, and every line that is not blank is either a record or a bad line.
    #[test]
    fn any_bytes_are_records_or_bad(bytes in prop::collection::vec(prop_oneof![
        prop::sample::select(b"\n\n\r\",:{}[]0123e.-\"key\"value".to_vec()), any::<u8>()], 0..300), piece in 1..90usize) {
        let lines = |bytes: &[u8]| {
            let lines = bytes.split(|byte| *byte == b'\n');
            { lines }.filter(|line| !line.trim_ascii().is_empty()).count()
        };
        let (good, bad) = decode::<(Option<String>, Option<i64>)>(Format::JsonLines, &bytes, piece).unwrap();
        prop_assert_eq!(good.len() + bad.len(), lines(&bytes));
        // However the bytes are cut.
        type Pair = (Option<String>, Option<i64>);
        let json = |piece| decode::<Pair>(Format::JsonLines, &bytes, piece).unwrap();
        prop_assert_eq!((good, bad), json(1000));
        let text = |piece| decode::<String>(Format::Text, &bytes, piece).unwrap();
        prop_assert_eq!(text(piece), text(1000));
        let with_header = [b"key,value\n".as_slice(), &bytes].concat();
        let csv = |piece| decode::<Pair>(Format::Csv, &with_header, piece).unwrap();
        prop_assert_eq!(csv(piece), csv(1000));
        let csv = |piece| decode::<Pair>(Format::Csv, &bytes, piece).map_err(|error| error.to_string());
        prop_assert_eq!(csv(piece), csv(1000));
    }

    /// However a writer quotes and ends records; compared with Arrow's reader.
    #[test]
    fn csv_is_what_was_written_and_what_arrow_reads(
        rows in prop::collection::vec(("[a,\"\n\r \u{e9}]{1,6}", any::<i64>(), any::<[bool; 3]>()), 1..12),
        piece in 1..90usize,
    ) {
        let mut text = "value,key\n".to_owned();
        for (key, value, [quotes, quoted_number, feed]) in &rows {
            let key = match *quotes || key.contains([',', '"', '\n', '\r']) {
                true => format!("\"{}\"", key.replace('"', "\"\"")),
                false => key.clone(),
            };
            let quote = if *quoted_number { "\"" } else { "" };
            text += &format!("{quote}{value}{quote},{key}{}", if *feed { "\r\n" } else { "\n" });
        }
        let wanted: Vec<_> = rows.into_iter().map(|(key, value, _)| (key, value)).collect();
        let (good, bad) = decode::<(String, i64)>(Format::Csv, text.as_bytes(), piece).unwrap();
        prop_assert_eq!((&good, bad), (&wanted, vec![]));
        let fields = [("value", DataType::Int64), ("key", DataType::Utf8)];
        let fields = fields.map(|(name, of)| Field::new(name, of, true));
        let reader = ReaderBuilder::new(Arc::new(Schema::new(fields.to_vec()))).with_header(true);
        let mut theirs = Vec::new();
        for batch in reader.build(text.as_bytes()).unwrap() {
            let batch = batch.unwrap();
            let (values, keys) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_string::<i32>());
            theirs.extend(keys.iter().zip(values).map(|(key, value)| (key.unwrap().to_owned(), value.unwrap())));
        }
        prop_assert_eq!(theirs, wanted);
    }
}
