//! The keyed-state core alone: counts what a batch reads, writes and allocates.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dstreams::BatchTime;
use dstreams::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, UInt64Array};
use dstreams::arrow::datatypes::{DataType, Field, Int64Type, Schema};
use dstreams::internal::versioned::{KeyedPartition, Shape, Work};
use serde_json::{Value, json};

use super::{Draw, Options, Outcome, key};
use crate::alloc::allocated;
use crate::own::percentiles;

/// Keys of a batch while the state is being filled.
const FILL_KEYS: u64 = 50_000;

/// Counts by key, in one partition.
struct Counts {
    state: KeyedPartition,
    batch: u64,
}

impl Counts {
    fn new() -> Outcome<Self> {
        let field = |name, kind| Field::new(name, kind, false);
        let fields = vec![
            field("key", DataType::UInt64),
            field("value", DataType::Int64),
        ];
        let shape = Shape::new(Arc::new(Schema::new(fields)), 1)?;
        Ok(Counts {
            state: KeyedPartition::new(shape),
            batch: 0,
        })
    }

    /// The work of an operator in a batch of one more of each key: looks up, adds, installs, and compacts, while
    /// the previous version still exists.
    fn run(&mut self, keys: ArrayRef) -> Outcome<()> {
        let found = self.state.latest(&[Arc::clone(&keys)])?;
        let held = found.value(0)?;
        let held = held.as_primitive::<Int64Type>().values();
        let sums = held.iter().enumerate();
        let sums = sums.map(|(at, held)| 1 + if found.exists(at) { *held } else { 0 });
        let sums: ArrayRef = Arc::new(Int64Array::from_iter_values(sums));
        let changed = keys.len();
        self.batch += 1;
        let schema = Arc::clone(self.state.shape().schema());
        let rows = RecordBatch::try_new(schema, vec![keys, sums])?;
        let (delta, newest) = found.delta(BatchTime(self.batch), &rows)?;
        self.state.install_found(&delta, &newest)?;
        self.state
            .compact(BatchTime(self.batch - 1), 4096 + 8 * changed)?;
        Ok(())
    }
}

fn column(places: impl IntoIterator<Item = u64>) -> ArrayRef {
    Arc::new(UInt64Array::from_iter_values(places.into_iter().map(key)))
}

/// Fills the state, changes it until compaction has reached its steady state, and then measures.
pub fn measure(options: &Options, keys: u64) -> Outcome<Value> {
    let mut counts = Counts::new()?;
    let mut from = 0;
    while from < keys {
        let to = keys.min(from + FILL_KEYS);
        counts.run(column(from..to))?;
        from = to;
    }
    // Each key of the large state twice, on average.
    let warm_up = 2 * options.many / options.changed;
    let mut draw = Draw::new();
    let (mut times, mut sizes) = (Vec::new(), Vec::new());
    let (mut before, mut calls, mut bytes) = (Work::default(), 0, 0);
    for batch in 0..warm_up + options.batches {
        if batch == warm_up {
            before = counts.state.work();
        }
        let changed = column(draw.some(options.changed, keys));
        let (start, taken) = (Instant::now(), allocated());
        counts.run(changed)?;
        if batch >= warm_up {
            let now = allocated();
            times.push(start.elapsed());
            calls += now.calls - taken.calls;
            bytes += now.bytes - taken.bytes;
            sizes.push(counts.state.memory() as f64 / keys as f64);
        }
    }
    if counts.state.len() as u64 != keys {
        return Err(format!("{} keys, not {keys}", counts.state.len()).into());
    }
    let work = counts.state.work() - before;
    let each = |total: u64| total / options.batches;
    Ok(json!({
        "work": "keyed", "part": "core", "keys": keys, "changed": options.changed, "batches": options.batches,
        "checked": true,
        "rows_read": each(work.rows_read), "bytes_read": each(work.bytes_read),
        "rows_written": each(work.rows_written), "bytes_written": each(work.bytes_written),
        "rows_rehashed": each(work.rehashed),
        "allocated_bytes": each(bytes), "allocations": each(calls),
        "bytes_per_key_mean": sizes.iter().sum::<f64>() / sizes.len() as f64,
        "bytes_per_key_max": sizes.iter().copied().fold(0.0, f64::max),
        "mean_ms": times.iter().sum::<Duration>().as_secs_f64() * 1e3 / times.len() as f64,
        "batch_ms": percentiles(times),
    }))
}
