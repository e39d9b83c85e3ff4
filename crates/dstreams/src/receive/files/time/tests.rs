//! Texts as times: against Arrow and against what this crate writes; refusals.

use datafusion::arrow::array::{
    ArrayRef, AsArray, RecordBatch, StringArray, TimestampMillisecondArray,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Date32Type, TimeUnit, TimestampMillisecondType};
use proptest::prelude::*;
use std::sync::Arc;

use super::*;
use crate::stream::far_times::with_far_times_as_text;
use crate::stream::record::{Date, Millis, batch_of};

fn exact(text: &str) -> Result<i64, &'static str> {
    time(text, FinerTimes::Refused)
}

#[test]
fn texts_are_the_times_that_they_say() {
    let all = [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999Z", -1),
        ("2026-11-29T16:44:00.500Z", 1_795_970_640_500),
        ("2026-11-29T16:44:00.5Z", 1_795_970_640_500),
        ("2026-11-29T16:44:00.500000000Z", 1_795_970_640_500),
        ("2026-11-29T18:14:00.5+01:30", 1_795_970_640_500),
        ("2026-11-29t06:44:00.5-10:00", 1_795_970_640_500),
        ("2026-11-29 17:44:00.5+0100", 1_795_970_640_500),
        ("2026-11-29 17:44:00.5+01", 1_795_970_640_500),
        ("2026-11-29 16:44:00.5", 1_795_970_640_500),
        ("2026-11-29 16:44:00.5-00:00", 1_795_970_640_500),
        ("2024-02-29T00:00:00z", 1_709_164_800_000),
        ("0000-03-01T00:00:00Z", -62_162_035_200_000),
        ("-0001-12-31T00:00:00Z", -62_167_305_600_000),
        ("+300000-01-01T00:00:00Z", 9_404_918_380_800_000),
        ("+292278994-08-17T07:12:55.807Z", i64::MAX),
        ("-292275055-05-16T16:47:04.192Z", i64::MIN),
        // Beyond the range without its offset.
        ("+292278994-08-17T08:12:55.807+01:00", i64::MAX),
    ];
    for (text, ms) in all {
        assert_eq!(exact(text), Ok(ms), "{text}");
        assert_eq!(time(text, FinerTimes::Cut), Ok(ms), "{text}");
    }
    assert_eq!(date("+5881580-07-11"), Ok(i32::MAX));
    assert_eq!(date("-5877641-06-23"), Ok(i32::MIN));
    assert_eq!(date("2000-02-29"), Ok(11_016));
}

#[test]
fn what_is_no_time_is_refused() {
    let all = [
        ("2026-02-30T00:00:00Z", NO_DAY),
        ("2025-02-29T00:00:00Z", NO_DAY),
        ("1900-02-29T00:00:00Z", NO_DAY),
        ("2026-04-31T00:00:00Z", NO_DAY),
        ("2026-01-00T00:00:00Z", NO_DAY),
        ("2026-13-01T00:00:00Z", NO_MONTH),
        ("2026-00-01T00:00:00Z", NO_MONTH),
        ("2026-11-29T24:00:00Z", "time of day"),
        ("2026-11-29T16:60:00Z", "time of day"),
        ("2026-11-29T16:44:61Z", "second"),
        ("2016-12-31T23:59:60Z", "leap second"),
        ("2026-11-29T16:44:00+24:00", "offset"),
        ("2026-11-29T16:44:00+01:60", "offset"),
        ("2026-11-29T16:44:00.123456Z", FINER),
        ("2026-11-29", "without a time of day"),
        ("+292278994-08-17T07:12:55.808Z", OUT_OF_RANGE),
        ("-292275055-05-16T16:47:04.191Z", OUT_OF_RANGE),
        ("+292278994-08-17T07:12:55.807-00:01", OUT_OF_RANGE),
        ("+9999999999-01-01T00:00:00Z", OUT_OF_RANGE),
        ("12026-11-29T16:44:00Z", NO_TIME),
        ("26-11-29T16:44:00Z", NO_TIME),
        ("2026-1-29T16:44:00Z", NO_TIME),
        ("2026-11-29T16:44Z", NO_TIME),
        ("2026-11-29T16:44:00.Z", NO_TIME),
        ("2026-11-29T16:44:00,5Z", NO_TIME),
        ("2026-11-29T16:44:00ZZ", NO_TIME),
        ("2026-11-29T16:44:00+1", NO_TIME),
        ("2026-11-29T16:44:00+01:", NO_TIME),
        ("2026-11-29T16:44:00+01:000", NO_TIME),
        ("2026-11-29T16:44:00 UTC", NO_TIME),
        ("2026-11-29T16:44:00Z[UTC]", NO_TIME),
        (" 2026-11-29T16:44:00Z", NO_TIME),
        ("2026-11-29_16:44:00Z", NO_TIME),
        ("20261129T164400Z", NO_TIME),
        ("29.11.2026", NO_TIME),
        ("٢٠٢٦-11-29T16:44:00Z", NO_TIME),
        ("now", NO_TIME),
        ("", NO_TIME),
        ("+", NO_TIME),
    ];
    for (text, words) in all {
        let why = exact(text).unwrap_err();
        assert!(why.contains(words), "{text}: {why}");
    }
    let all = [
        ("2026-02-30", NO_DAY),
        ("2026-11-29T00:00:00Z", "it is a time"),
        ("2026-11-29Z", NO_DATE),
        ("20261129", NO_DATE),
        ("+5881580-07-12", OUT_OF_RANGE),
        ("-5877641-06-22", OUT_OF_RANGE),
        ("", NO_DATE),
    ];
    for (text, words) in all {
        let why = date(text).unwrap_err();
        assert!(why.contains(words), "{text}: {why}");
    }
}

#[test]
fn finer_times_are_cut_towards_the_past() {
    for (text, ms) in [
        ("1970-01-01T00:00:00.000999999Z", 0),
        ("1969-12-31T23:59:59.9999Z", -1),
        ("1969-12-31T23:59:59.0000001Z", -1_000),
    ] {
        assert_eq!(time(text, FinerTimes::Cut), Ok(ms), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    /// Arrow's own reader, which knows no year of more than four digits.
    #[test]
    fn times_are_those_of_arrow(ms in -62_167_219_200_000i64..253_402_300_800_000, offset in -1439i64..1440) {
        let zone = format!("{}{:02}:{:02}", if offset < 0 { '-' } else { '+' }, offset.abs() / 60, offset.abs() % 60);
        let local = TimestampMillisecondArray::from(vec![ms]).with_timezone(zone.clone());
        let text = cast(&local, &DataType::Utf8).unwrap();
        let text = text.as_string::<i32>().value(0);
        // In local time it may be a year before 0 or after 9999, which has a sign.
        prop_assert_eq!(exact(text), Ok(ms), "{}", text);
        if !text.starts_with(['+', '-']) {
            let texts: ArrayRef = Arc::new(StringArray::from(vec![text]));
            let back = cast(&texts, &DataType::Timestamp(TimeUnit::Millisecond, Some("+00:00".into()))).unwrap();
            prop_assert_eq!(back.as_primitive::<TimestampMillisecondType>().value(0), ms);
            let day = cast(&StringArray::from(vec![&text[..10]]), &DataType::Date32).unwrap();
            prop_assert_eq!(date(&text[..10]), Ok(day.as_primitive::<Date32Type>().value(0)));
        }
    }

    /// All years that there are.
    #[test]
    fn far_times_are_read_as_they_are_written(ms in any::<i64>(), day in any::<i32>()) {
        // The greatest ones are far, so all are written by this crate.
        let rows = batch_of([(Millis(ms), Date(day)), (Millis(i64::MAX), Date(i32::MAX))]).unwrap();
        let rows: RecordBatch = with_far_times_as_text(&rows).unwrap().into_owned();
        let [times, days] = [0, 1].map(|n| rows.column(n).as_string::<i32>().value(0).to_owned());
        prop_assert_eq!(exact(&times), Ok(ms), "{}", times);
        prop_assert_eq!(date(&days), Ok(day), "{}", days);
    }

    #[test]
    fn no_text_panics(text in "[-+0-9TtZz:. ]{0,40}") {
        let _ = (exact(&text), date(&text), time(&text, FinerTimes::Cut));
    }
}
