//! Records with a column of every type, for tests that write and read them: times and dates of all years, absent
//! values, lists and records in records.

use dstreams::{Bytes, Date, Decimal, Millis, Record, Uuid};
use proptest::prelude::*;

use crate::program::text;

#[derive(Record, Debug, Clone, Copy, PartialEq)]
pub enum Level {
    Info,
    #[record(name = "a level, with \"quotes\"")]
    Quoted,
}

pub type Price = Decimal<20, 4>;

/// A value of every type that is one column.
#[derive(Record, Debug, Clone, PartialEq)]
pub struct Flat {
    pub n: i64,
    pub at: Millis,
    pub day: Date,
    pub price: Price,
    pub wide: Decimal<38, 0>,
    pub id: Uuid,
    pub bytes: Bytes,
    pub level: Level,
    pub text: String,
    pub float: f64,
    pub small: (u8, i16, f32, bool),
    pub maybe_at: Option<Millis>,
    pub maybe_day: Option<Date>,
    pub maybe_price: Option<Price>,
    pub maybe_id: Option<Uuid>,
    pub maybe_level: Option<Level>,
    pub maybe_n: Option<i64>,
    pub maybe: Option<(Millis, Option<Date>)>,
}

/// What happened on the way.
#[derive(Record, Debug, Clone, PartialEq)]
pub struct Stop {
    pub at: Millis,
    pub until: Option<Millis>,
    pub days: Vec<Date>,
    pub price: Option<Price>,
    pub level: Level,
    pub note: Option<String>,
}

/// The same, and lists and records in records.
#[derive(Record, Debug, Clone, PartialEq)]
pub struct Nested {
    pub flat: Flat,
    pub maybe_bytes: Option<Bytes>,
    pub times: Vec<Millis>,
    pub holes: Vec<Option<Millis>>,
    pub ids: Vec<Uuid>,
    pub levels: Vec<Option<Level>>,
    pub grid: Vec<Vec<Date>>,
    pub stops: Vec<Stop>,
    pub later: Option<Vec<Stop>>,
    pub stop: Option<Stop>,
    pub pairs: Vec<Option<(Decimal<5, 2>, Vec<Bytes>)>>,
}

pub fn millis() -> impl Strategy<Value = Millis> {
    let edges = [i64::MIN, i64::MIN + 1, -62_167_219_200_001, -1, 0, i64::MAX];
    prop_oneof![
        any::<i64>(),
        -100_000_000_000_000..300_000_000_000_000i64,
        -2_000..2_000i64,
        prop::sample::select(edges.to_vec()),
    ]
    .prop_map(Millis)
}

pub fn date() -> impl Strategy<Value = Date> {
    let edges = vec![i32::MIN, -719_529, -1, 0, i32::MAX];
    prop_oneof![
        any::<i32>(),
        -800_000..3_000_000i32,
        prop::sample::select(edges)
    ]
    .prop_map(Date)
}

fn decimal<const P: u8, const S: i8>() -> impl Strategy<Value = Decimal<P, S>> {
    let most = Decimal::<P, S>::MAX.0;
    prop_oneof![
        -most..=most,
        -120..120i128,
        Just(most.min(10_000)),
        Just(most)
    ]
    .prop_map(Decimal)
}

fn level() -> impl Strategy<Value = Level> {
    prop_oneof![Just(Level::Info), Just(Level::Quoted)]
}

fn uuid() -> impl Strategy<Value = Uuid> {
    any::<[u8; 16]>().prop_map(Uuid)
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes)
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![text(), "[ \t,\"\n\r'\\\\é{}\u{0}-\u{1f}]{0,4}"]
}

fn few<S: Strategy>(of: S) -> impl Strategy<Value = Vec<S::Value>> {
    prop::collection::vec(of, 0..3)
}

pub fn flat() -> impl Strategy<Value = Flat> {
    use prop::option::of;
    let one = (millis(), date(), decimal(), decimal(), uuid(), bytes());
    // Numbers that JSON does not have are null there.
    let number = any::<f64>().prop_filter("a number", |n| n.is_finite());
    let small = any::<f32>().prop_filter("a number", |n| n.is_finite());
    let small = (any::<u8>(), any::<i16>(), small, any::<bool>());
    let two = (level(), any_text(), number, small);
    let maybe = (
        of(millis()),
        of(date()),
        of(decimal()),
        of(uuid()),
        of(level()),
        of(any::<i64>()),
        of((millis(), of(date()))),
    );
    (one, two, maybe).prop_map(|(one, two, maybe)| Flat {
        n: 0,
        at: one.0,
        day: one.1,
        price: one.2,
        wide: one.3,
        id: one.4,
        bytes: one.5,
        level: two.0,
        text: two.1,
        float: two.2,
        small: two.3,
        maybe_at: maybe.0,
        maybe_day: maybe.1,
        maybe_price: maybe.2,
        maybe_id: maybe.3,
        maybe_level: maybe.4,
        maybe_n: maybe.5,
        maybe: maybe.6,
    })
}

fn stop() -> impl Strategy<Value = Stop> {
    use prop::option::of;
    let parts = (
        millis(),
        of(millis()),
        few(date()),
        of(decimal()),
        level(),
        of(any_text()),
    );
    parts.prop_map(|(at, until, days, price, level, note)| Stop {
        at,
        until,
        days,
        price,
        level,
        note,
    })
}

pub fn nested() -> impl Strategy<Value = Nested> {
    use prop::option::of;
    let lists = (
        few(millis()),
        few(of(millis())),
        few(uuid()),
        few(of(level())),
        few(few(date())),
    );
    let stops = (few(stop()), of(few(stop())), of(stop()));
    let pairs = few(of((decimal(), few(bytes()))));
    (flat(), of(bytes()), lists, stops, pairs).prop_map(
        |(flat, maybe_bytes, lists, stops, pairs)| Nested {
            flat,
            maybe_bytes,
            times: lists.0,
            holes: lists.1,
            ids: lists.2,
            levels: lists.3,
            grid: lists.4,
            stops: stops.0,
            later: stops.1,
            stop: stops.2,
            pairs,
        },
    )
}
