//! Files of another program, with what their values are: see `../files/vectors.py`.

use std::path::Path;

use dstreams::files::{Files, Format};
use dstreams::{Bytes, Date, Decimal, Millis, Record, Uuid};

use crate::files_source::read_all;
use crate::program::small;

/// The columns of all formats that are lines.
#[derive(Record, Debug, PartialEq)]
struct Row {
    at: Millis,
    ms: i64,
    day: Date,
    days: i32,
    price: Decimal<18, 4>,
    unscaled: i64,
    id: Uuid,
    id_digits: String,
    data: Bytes,
    length: i64,
    level: Option<Level>,
    maybe: Option<Millis>,
}

#[derive(Record, Debug, Clone, Copy, PartialEq)]
enum Level {
    Info,
    Warn,
}

#[derive(Record, Debug, PartialEq)]
struct Visit {
    at: Millis,
    day: Option<Date>,
    ids: Vec<Uuid>,
}

/// Those of one file; there are no dead letters.
fn read<T: Record>(format: Format) -> Vec<T> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files");
    let file = format!("vectors.{}", format.extension());
    let files = Files::dir(dir, format).only(move |path| path == file);
    let (rows, dead) = read_all::<T>(small(1, 100, 100), files);
    assert_eq!(dead, []);
    rows
}

fn check(rows: &[Row]) {
    assert_eq!(rows.len(), 123);
    for row in rows {
        assert_eq!(row.at.0, row.ms, "{row:?}");
        assert_eq!(row.day.0, row.days, "{row:?}");
        assert_eq!(row.price.0, i128::from(row.unscaled), "{row:?}");
        assert_eq!(
            row.id.to_string().replace('-', ""),
            row.id_digits,
            "{row:?}"
        );
        assert_eq!(row.data.0.len() as i64, row.length, "{row:?}");
        assert!(row.maybe.is_none_or(|at| at == row.at), "{row:?}");
    }
    let levels = rows.iter().map(|row| row.level);
    for wanted in [None, Some(Level::Info), Some(Level::Warn)] {
        assert!(levels.clone().any(|level| level == wanted));
    }
}

#[test]
fn values_of_python_are_what_they_are() {
    let lines: Vec<Row> = read(Format::JsonLines);
    check(&lines);
    let csv: Vec<Row> = read(Format::Csv);
    check(&csv);
    assert_eq!(lines, csv);
    #[derive(Record)]
    struct Visits {
        ms: i64,
        day: Date,
        id: Uuid,
        visits: Vec<Visit>,
    }
    for row in read::<Visits>(Format::JsonLines) {
        let at = Millis(row.ms);
        let wanted = [(at, Some(row.day), vec![row.id]), (at, None, vec![])];
        let wanted = wanted.map(|(at, day, ids)| Visit { at, day, ids });
        assert_eq!(row.visits, wanted);
    }
}

#[cfg(feature = "parquet")]
#[test]
fn times_of_all_units_and_zones_are_milliseconds() {
    #[derive(Record, Debug)]
    struct Times {
        ms: i64,
        seconds: Millis,
        millis: Millis,
        micros: Millis,
        naive: Millis,
        nanos: Millis,
        maybe: Option<Millis>,
        list: Vec<Millis>,
    }
    let rows: Vec<Times> = read(Format::Parquet);
    assert!(rows.len() > 5 && rows.iter().any(|row| row.ms < 0));
    for row in rows {
        let at = Millis(row.ms);
        assert_eq!(row.seconds.0, row.ms.div_euclid(1_000) * 1_000, "{row:?}");
        assert_eq!(
            [row.millis, row.micros, row.naive, row.nanos],
            [at; 4],
            "{row:?}"
        );
        assert_eq!(row.maybe, (row.ms % 2 == 0).then_some(at), "{row:?}");
        assert_eq!(row.list, [at, Millis(0)], "{row:?}");
    }
}
