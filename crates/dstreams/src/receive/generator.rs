//! Records computed from their number.

use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use tokio::time::{Instant, MissedTickBehavior};

use super::ingest::Ingest;
use super::source::{Source, StopSignal};
use crate::debug::debug_as;
use crate::error::{BoxError, Result};
use crate::stream::record::{Record, batch_of};

/// Pause between two pushes: short compared with any interval, long compared with the cost of a push.
const PUSH_INTERVAL: Duration = Duration::from_millis(5);

/// Key of the offset: the number of records made.
const OFFSET_KEY: &str = "made";

/// Makes records from their number: record `n` is the same in every run, but its batch depends on the clock.
///
/// After a restart, or on another worker of a cluster, it resumes after the last number that is in a batch.
#[must_use = "records are made where a context has it as a source"]
pub struct Generator<T> {
    make: Box<dyn Fn(u64) -> T + Send>,
    per_second: u64,
    limit: u64,
}

debug_as!([T] Generator<T> { per_second, limit });

impl<T: Record> Generator<T> {
    /// Calls `make(n)` for n = 0, 1, ..., `per_second` times per second, without end.
    ///
    /// For random records that are the same in every run, seed a random generator with `n`.
    ///
    /// ```
    /// # use dstreams::{Generator, StreamContext};
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// let views = Generator::new(20_000, |n| (format!("/page/{}", n % 7), (n % 97) as i64));
    /// let views = ctx.generator("views", views);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn new(per_second: u64, make: impl Fn(u64) -> T + Send + 'static) -> Self {
        Generator {
            make: Box::new(make),
            per_second,
            limit: u64::MAX,
        }
    }

    /// Ends after `records` records.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # use dstreams::{Generator, StreamContext};
    /// let mut ctx = StreamContext::new(std::time::Duration::from_millis(20))?;
    /// let numbers = ctx.generator("numbers", Generator::new(1_000_000, |n| n).limit(100));
    /// numbers.count()?.print(1);
    /// ctx.stop_when_sources_end();
    /// let summary = ctx.start().await?.await_termination(None).await?.unwrap();
    /// assert_eq!(summary.records, 100);
    /// # Ok(()) }
    /// ```
    pub fn limit(mut self, records: u64) -> Self {
        self.limit = records;
        self
    }
}

#[async_trait]
impl<T: Record> Source for Generator<T> {
    fn schema(&self) -> SchemaRef {
        T::schema()
    }

    async fn run(self: Box<Self>, ingest: Ingest, closing: StopSignal) -> Result<(), BoxError> {
        let begun = ingest
            .offsets()
            .get(OFFSET_KEY)
            .copied()
            .unwrap_or_default();
        let start = Instant::now();
        let mut ticks = tokio::time::interval(PUSH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut made = begun;
        while made < self.limit {
            tokio::select! {
                () = closing.requested() => break,
                _ = ticks.tick() => {}
            }
            let nanos = start.elapsed().as_nanos();
            let due = (nanos * u128::from(self.per_second) / 1_000_000_000) as u64;
            // At most the records of a tenth of a second at a time: after a stall it catches up in steps.
            let most = made.saturating_add((self.per_second / 10).max(1));
            let until = begun.saturating_add(due).min(self.limit).min(most);
            if until == made {
                continue;
            }
            let records = batch_of((made..until).map(&self.make))?;
            ingest.push_at(records, OFFSET_KEY, until).await?;
            made = until;
        }
        Ok(())
    }
}
