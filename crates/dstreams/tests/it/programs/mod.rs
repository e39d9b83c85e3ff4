//! The programs that users write first, one file each, as short as a user would write them.
//!
//! Each runs over an input that its test narrates, on a clock that the test moves, and is checked against an answer
//! that is found in another way: by one query of plain DataFusion over all records, or by a loop over them.

mod backfill;
mod changing_table;
mod click_through;
mod corrected_clicks;
mod deduplicate;
mod enrich_sql;
mod error_rate;
mod fraud;
mod hashtags;
mod hourly_files;
mod late_readings;
mod sensors;
mod video_metrics;
mod visits;
mod word_count;

use std::time::Duration;

use dstreams::arrow::array::RecordBatch;
use dstreams::datafusion::prelude::SessionContext;
use dstreams::record::{batch_of, records_of};
use dstreams::testing::TestRun;
use dstreams::{Queue, RddReceiver, Record};

pub const SECOND: Duration = Duration::from_secs(1);

/// The rows of a query over tables, by DataFusion and without any operator of this library.
pub async fn sql<U: Record>(tables: &[(&str, RecordBatch)], query: &str) -> Vec<U> {
    let context = SessionContext::new();
    for (name, rows) in tables {
        context.register_batch(*name, rows.clone()).unwrap();
    }
    let rows = context.sql(query).await.unwrap().collect().await.unwrap();
    let rows = rows.iter().flat_map(|rows| records_of::<U>(rows).unwrap());
    rows.collect()
}

/// A table of records.
pub fn table<T: Record + Clone>(records: &[T]) -> RecordBatch {
    batch_of(records.iter().cloned()).unwrap()
}

/// The ends of intervals of this length: a table with the column `value`.
pub fn ends(every_ms: i64, last_ms: i64) -> RecordBatch {
    let ends: Vec<i64> = (1..=last_ms / every_ms).map(|n| n * every_ms).collect();
    table(&ends)
}

/// A number that looks random and follows from `n`.
pub fn random(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The records of each second, in order of arrival; each comes with the time at which it arrives, in milliseconds.
pub fn arrivals<T>(records: impl IntoIterator<Item = (i64, T)>, seconds: usize) -> Vec<Vec<T>> {
    let mut records: Vec<_> = records.into_iter().collect();
    records.sort_by_key(|(at_ms, _)| *at_ms);
    let mut arrivals: Vec<Vec<T>> = (0..seconds).map(|_| Vec::new()).collect();
    for (at_ms, record) in records {
        arrivals[at_ms as usize / 1_000].push(record);
    }
    arrivals
}

/// The end of the interval of a time.
pub fn end_of(at_ms: i64, every_ms: i64) -> i64 {
    (at_ms / every_ms + 1) * every_ms
}

/// Pushes the records of each interval, and ends it.
pub async fn feed<T: Record>(run: &mut TestRun, queue: &Queue<T>, intervals: Vec<Vec<T>>) {
    for interval in intervals {
        queue.push(interval).await.unwrap();
        run.end_interval().await.unwrap();
    }
}

/// The records that came out, each with the end of the interval that its RDD is of.
pub fn by_interval<U: Record>(output: &mut RddReceiver<U>) -> Vec<(i64, U)> {
    let rdds = std::iter::from_fn(|| output.try_recv());
    let records = rdds.flat_map(|rdd| {
        let end = rdd.interval().millis() as i64;
        let records = rdd.collect().unwrap().into_iter();
        records.map(move |record| (end, record))
    });
    records.collect()
}
