//! The events as records, in batches of an interval, and the answer of a query.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bench_input::columns::Columns;
use bench_input::fnv1a64;
use bench_input::nexmark::{Events, mix, pairs, texts};
use dstreams::arrow::array::{Array, AsArray, RecordBatch};
use dstreams::arrow::datatypes::{DataType, Int64Type};
use dstreams::record::batch_of;
use dstreams::{Millis, Rdd, Record};

use super::{INTERVAL_MS, Outcome, Size};

/// Empty intervals after the last event, enough to end the longest window and all sessions.
const REST: u64 = 7;
/// Records of the two streams of the join, in place of events: both have this place in an interval.
const PAIRS: [&str; 2] = ["first", "second"];

#[derive(Record, Debug, Clone)]
pub struct Person {
    pub id: i64,
    pub name: String,
    pub city: String,
    pub state: String,
    pub date_time: Millis,
}

#[derive(Record, Debug, Clone)]
pub struct Auction {
    pub id: i64,
    pub item: String,
    pub first_bid: i64,
    pub reserve: i64,
    pub date_time: Millis,
    pub expires: Millis,
    pub seller: i64,
    pub category: i64,
}

#[derive(Record, Debug, Clone)]
pub struct Bid {
    pub auction: i64,
    pub bidder: i64,
    pub price: i64,
    pub channel: String,
    pub date_time: Millis,
}

/// A key, and its event time and a number.
pub type Pair = (i64, (i64, i64));

/// Writes the input that all programs read: a file of columns for each table, and the lists of texts.
pub fn write(folder: &Path, size: &Size) -> Outcome<()> {
    let events = Events::generate(size.events, size.per_second, size.seed);
    events.persons.write(&folder.join("person"))?;
    events.auctions.write(&folder.join("auction"))?;
    events.bids.write(&folder.join("bid"))?;
    let intervals = size.intervals();
    let rows = (size.events / 2).div_ceil(intervals);
    let [first, second] = pairs(rows, intervals, INTERVAL_MS, size.seed);
    first.write(&folder.join(PAIRS[0]))?;
    second.write(&folder.join(PAIRS[1]))?;
    let lines = texts().map(|(name, texts)| format!("{name}\t{}\n", texts.join("\t")));
    std::fs::write(folder.join("texts"), lines.concat())?;
    Ok(())
}

/// The batches of a table, one for each interval, and how many records they have.
pub struct Table {
    pub batches: Vec<RecordBatch>,
    pub records: u64,
}

/// Cuts a table into batches by the times in a column, which need be in order of intervals only.
fn cut<T: Record>(
    folder: &Path,
    name: &str,
    time: usize,
    intervals: u64,
    of: impl Fn(&Columns, usize) -> T,
) -> Outcome<Table> {
    let columns = Columns::read(&folder.join(name))?;
    let times = &columns.0[time];
    let mut from = 0;
    let batch = |interval: u64| -> Outcome<RecordBatch> {
        let end = ((interval + 1) * INTERVAL_MS) as i64;
        let to = times.partition_point(|time| *time < end);
        let rows = (from..to).map(|row| of(&columns, row));
        from = to;
        Ok(batch_of::<T>(rows)?)
    };
    Ok(Table {
        batches: (0..intervals + REST).map(batch).collect::<Outcome<_>>()?,
        records: columns.len() as u64,
    })
}

pub fn persons(folder: &Path, intervals: u64) -> Outcome<Table> {
    let [(_, names), (_, cities), (_, states), ..] = texts();
    cut(folder, "person", 4, intervals, |columns, row| {
        let of = |column: usize| columns.0[column][row];
        Person {
            id: of(0),
            name: names[of(1) as usize].clone(),
            city: cities[of(2) as usize].clone(),
            state: states[of(3) as usize].clone(),
            date_time: Millis(of(4)),
        }
    })
}

pub fn auctions(folder: &Path, intervals: u64) -> Outcome<Table> {
    let [.., (_, items)] = texts();
    cut(folder, "auction", 4, intervals, |columns, row| {
        let of = |column: usize| columns.0[column][row];
        Auction {
            id: of(0),
            item: items[of(1) as usize].clone(),
            first_bid: of(2),
            reserve: of(3),
            date_time: Millis(of(4)),
            expires: Millis(of(5)),
            seller: of(6),
            category: of(7),
        }
    })
}

pub fn bids(folder: &Path, intervals: u64) -> Outcome<Table> {
    let [_, _, _, (_, channels), _] = texts();
    cut(folder, "bid", 4, intervals, |columns, row| {
        let of = |column: usize| columns.0[column][row];
        Bid {
            auction: of(0),
            bidder: of(1),
            price: of(2),
            channel: channels[of(3) as usize].clone(),
            date_time: Millis(of(4)),
        }
    })
}

/// One of the two streams of the join.
pub fn of_pairs(folder: &Path, stream: usize, intervals: u64) -> Outcome<Table> {
    cut(folder, PAIRS[stream], 1, intervals, |columns, row| {
        let of = |column: usize| columns.0[column][row];
        (of(0), (of(1), of(2)))
    })
}

/// The rows of a query and their checksum, whatever their order.
#[derive(Clone, Default)]
pub struct Answer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    rows: u64,
    checksum: u64,
    /// Of a result that changes: the newest row of each key, which is the first column.
    newest: HashMap<u64, u64>,
}

impl Answer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the rows of a batch.
    pub fn add<T: Record>(&self, rdd: &Rdd<T>) {
        let mut state = self.lock();
        for rows in rdd.partitions().iter().flatten() {
            state.rows += rows.num_rows() as u64;
            let sum = |sum: u64, hash: u64| sum.wrapping_add(hash);
            state.checksum = hashes(rows).into_iter().fold(state.checksum, sum);
        }
    }

    /// Puts the rows of a batch in the place of those with the same keys.
    pub fn replace<T: Record>(&self, rdd: &Rdd<T>) {
        let mut state = self.lock();
        for rows in rdd.partitions().iter().flatten() {
            let keys = rows.column(0).as_primitive::<Int64Type>().values().iter();
            let rows = keys.map(|key| key.cast_unsigned()).zip(hashes(rows));
            state.newest.extend(rows);
        }
    }

    /// Number of rows, and their checksum.
    pub fn end(&self) -> (u64, u64) {
        let state = self.lock();
        let newest = state.newest.values();
        let checksum = newest.fold(state.checksum, |sum, hash| sum.wrapping_add(*hash));
        (state.rows + state.newest.len() as u64, checksum)
    }
}

/// The hash of each row: numbers and texts, column by column.
fn hashes(rows: &RecordBatch) -> Vec<u64> {
    let mut hashes = vec![0u64; rows.num_rows()];
    for column in rows.columns() {
        match column.data_type() {
            DataType::Int64 => {
                let values = column.as_primitive::<Int64Type>().values();
                for (hash, value) in hashes.iter_mut().zip(values) {
                    *hash = mix(*hash, value.cast_unsigned());
                }
            }
            DataType::Utf8View => {
                for (hash, text) in hashes.iter_mut().zip(column.as_string_view()) {
                    *hash = mix(*hash, fnv1a64(text.unwrap_or_default().as_bytes()));
                }
            }
            other => unreachable!("answers have numbers and texts, not {other}"),
        }
    }
    hashes
}
