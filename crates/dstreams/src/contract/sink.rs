//! [`sink()`]: does a batch that a [`Sink`] commits become visible as a whole, and once?
//!
//! It prepares and commits batches, ends the process between and inside calls, starts it again, and checks what is
//! visible after each step.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use dstreams_control::BatchTime;

use super::{Violation, sorted};
use crate::error::BoxError;
use crate::stream::output::{Guarantee, Prepared, Sink};
use crate::stream::record::{Record, batch_of};

/// Nothing of a batch is visible before its commit.
pub const HIDDEN_UNTIL_COMMIT: &str = "prepared records are not visible before the commit";
/// A committed batch is visible with all its records, each once.
pub const WHOLE_BATCH: &str = "a batch is visible whole, each record once";
/// Committed records never change.
pub const IDEMPOTENT_COMMIT: &str = "committing a batch again changes nothing";
/// A batch that a process left behind is visible as a whole or not at all.
pub const ATOMIC_COMMIT: &str = "an interrupted commit has done all or nothing";
/// Calls that should succeed do.
pub const SUCCEEDS_ON_RETRY: &str = "prepare and commit succeed when they are retried";
/// The sink declares that it is exactly-once.
pub const DECLARES_GUARANTEE: &str = "the sink declares that it is exactly-once";

/// The next run starts after the newest batch.
pub const REPORTS_NEWEST_BATCH: &str = "a sink reports its newest batch when it is opened";

/// Number of records in each partition of a batch.
const SIZES: [u64; 4] = [3, 0, 1, 2];
/// Time of the first batch, and the interval.
const FIRST_BATCH: u64 = 1_700_000_000_000;
const INTERVAL_MS: u64 = 500;
/// A commit is interrupted at one of this many await points.
const MAX_AWAITS: usize = 6;

/// Tests the contract of an exactly-once sink; see [`Sink`].
///
/// `make` opens the sink on one target, which is empty at first: each call stands for a process that starts after a
/// crash, and the earlier sink is not used again. `row(n)` makes record `n`; records with different numbers must
/// differ. `read` returns what a reader of the target sees: the records of each batch, in any order; a batch
/// without records may be included or not.
///
/// Not checked: the order of records, two processes that write at once, and whether committed records survive a
/// power loss.
///
/// ```
/// use std::{collections::BTreeMap, path::Path};
/// use dstreams::{BatchTime, contract, files::{FileSink, Format}};
///
/// # fn visible(_: &Path) -> BTreeMap<BatchTime, Vec<i64>> { unimplemented!() }
/// # async fn test() -> Result<(), contract::Violation> {
/// let target = Path::new("/tmp/numbers");
/// contract::sink(
///     async || FileSink::new(target, Format::JsonLines),
///     |n| n as i64,
///     async || visible(target),
/// ).await
/// # }
/// ```
pub async fn sink<S: Sink, T: Record + Debug>(
    make: impl AsyncFn() -> S,
    row: impl Fn(u64) -> T,
    read: impl AsyncFn() -> BTreeMap<BatchTime, Vec<T>>,
) -> Result<(), Violation> {
    let mut suite = SinkSuite {
        make,
        row,
        read,
        visible: BTreeMap::new(),
        last: 0,
    };
    suite
        .see(WHOLE_BATCH, "nothing: the target must be empty at first")
        .await?;
    let says = (suite.make)().await.guarantee();
    if says != Guarantee::ExactlyOnce {
        return Err(suite.violation(DECLARES_GUARANTEE, "nothing", format!("it says {says:?}")));
    }
    suite.plain().await?;
    suite.prepared_early().await?;
    suite.repeated().await?;
    suite.attempts().await?;
    suite.ended_before_commit().await?;
    suite.ended_in_commit().await?;
    suite.without_records().await?;
    suite.old_batches().await?;
    suite.opened().await
}

struct SinkSuite<M, R, W> {
    make: M,
    row: R,
    read: W,
    /// What must be visible: the records of each batch, as sorted text.
    visible: BTreeMap<BatchTime, Vec<String>>,
    /// Number of the batch being written.
    last: u64,
}

impl<S, T, M, R, W> SinkSuite<M, R, W>
where
    S: Sink,
    T: Record + Debug,
    M: AsyncFn() -> S,
    R: Fn(u64) -> T,
    W: AsyncFn() -> BTreeMap<BatchTime, Vec<T>>,
{
    /// One batch after another.
    async fn plain(&mut self) -> Result<(), Violation> {
        let sink = (self.make)().await;
        for _ in 0..3 {
            self.last += 1;
            let prepared = self.prepare(&sink, self.last).await?;
            self.see(HIDDEN_UNTIL_COMMIT, "prepared").await?;
            self.commit(&sink, self.last, &prepared).await?;
            self.add();
            self.see(WHOLE_BATCH, "committed").await?;
        }
        Ok(())
    }

    /// The next batch is prepared before this one is committed, as in engines that overlap batches.
    async fn prepared_early(&mut self) -> Result<(), Violation> {
        let sink = (self.make)().await;
        let (this, next) = (self.last + 1, self.last + 2);
        let prepared = self.prepare(&sink, this).await?;
        let early = self.prepare(&sink, next).await?;
        for (number, prepared) in [(this, prepared), (next, early)] {
            self.last = number;
            self.commit(&sink, number, &prepared).await?;
            self.add();
            self.see(WHOLE_BATCH, "committed, two batches were prepared")
                .await?;
        }
        Ok(())
    }

    /// Repeated commits, by the same process and by the next.
    async fn repeated(&mut self) -> Result<(), Violation> {
        self.last += 1;
        let sink = (self.make)().await;
        let prepared = self.prepare(&sink, self.last).await?;
        self.commit(&sink, self.last, &prepared).await?;
        self.add();
        self.see(WHOLE_BATCH, "committed").await?;
        self.commit(&sink, self.last, &prepared).await?;
        self.see(IDEMPOTENT_COMMIT, "committed a second time")
            .await?;
        let again = self.prepare(&sink, self.last).await?;
        self.commit(&sink, self.last, &again).await?;
        self.see(IDEMPOTENT_COMMIT, "prepared and committed a second time")
            .await?;
        drop(sink);
        let next = (self.make)().await;
        self.see(IDEMPOTENT_COMMIT, "opened again").await?;
        self.commit(&next, self.last, &prepared).await?;
        self.see(IDEMPOTENT_COMMIT, "committed again by the next process")
            .await?;
        let again = self.prepare(&next, self.last).await?;
        self.see(IDEMPOTENT_COMMIT, "prepared again by the next process")
            .await?;
        self.commit(&next, self.last, &again).await?;
        self.see(
            IDEMPOTENT_COMMIT,
            "prepared and committed again by the next process",
        )
        .await
    }

    /// Two concurrent attempts; the commit uses partitions of both.
    async fn attempts(&mut self) -> Result<(), Violation> {
        self.last += 1;
        let sink = (self.make)().await;
        let both = futures::future::join(
            self.prepare(&sink, self.last),
            self.prepare(&sink, self.last),
        );
        let (one, other) = both.await;
        let (one, other) = (one?, other?);
        self.see(HIDDEN_UNTIL_COMMIT, "prepared twice at the same time")
            .await?;
        let turns = one.iter().zip(&other).enumerate();
        let mixed = turns.map(|(n, (one, other))| if n % 2 == 0 { other } else { one }.clone());
        self.commit(&sink, self.last, &mixed.collect::<Vec<_>>())
            .await?;
        self.add();
        self.see(WHOLE_BATCH, "committed, partitions of two attempts")
            .await?;
        for prepared in [one, other] {
            self.commit(&sink, self.last, &prepared).await?;
            self.see(IDEMPOTENT_COMMIT, "committed again with another attempt")
                .await?;
        }
        Ok(())
    }

    /// A process ends after it has prepared some partitions, or all.
    async fn ended_before_commit(&mut self) -> Result<(), Violation> {
        for partitions in 1..=SIZES.len() {
            self.last += 1;
            let ends = (self.make)().await;
            self.prepare_first(&ends, self.last, partitions).await?;
            drop(ends);
            let next = (self.make)().await;
            self.see(HIDDEN_UNTIL_COMMIT, "prepared by a process that ended")
                .await?;
            let prepared = self.prepare(&next, self.last).await?;
            self.see(HIDDEN_UNTIL_COMMIT, "prepared by the next process")
                .await?;
            self.commit(&next, self.last, &prepared).await?;
            self.add();
            self.see(WHOLE_BATCH, "committed by the next process")
                .await?;
        }
        Ok(())
    }

    /// A process ends while it commits; the next process commits the batch again.
    async fn ended_in_commit(&mut self) -> Result<(), Violation> {
        for waits in 0..MAX_AWAITS {
            self.last += 1;
            let ends = (self.make)().await;
            let prepared = self.prepare(&ends, self.last).await?;
            let before = self.visible.clone();
            break_off(ends.commit(time(self.last), prepared), waits).await;
            drop(ends);
            let found = self.look().await;
            self.add();
            if found != before && found != self.visible {
                let found = difference(&self.visible, &found);
                return Err(self.violation(ATOMIC_COMMIT, "a commit broke off", found));
            }
            let next = (self.make)().await;
            let prepared = self.prepare(&next, self.last).await?;
            self.commit(&next, self.last, &prepared).await?;
            self.see(WHOLE_BATCH, "committed after a commit broke off")
                .await?;
        }
        Ok(())
    }

    /// A batch without any records, among others with records.
    async fn without_records(&mut self) -> Result<(), Violation> {
        self.last += 1;
        let sink = (self.make)().await;
        for step in [
            "committed without records",
            "committed again without records",
        ] {
            let mut prepared = Vec::new();
            for partition in 0..SIZES.len() {
                let part = sink.prepare(time(self.last), partition, &[]).await;
                prepared.push(self.works("prepared without records", part)?);
            }
            self.commit(&sink, self.last, &prepared).await?;
            self.see(WHOLE_BATCH, step).await?;
        }
        drop(sink);
        self.plain().await
    }

    /// A new process commits batches again that were committed long ago.
    async fn old_batches(&mut self) -> Result<(), Violation> {
        let sink = (self.make)().await;
        for number in 1..self.last {
            if !self.visible.contains_key(&time(number)) {
                continue; // the one without records
            }
            let prepared = self.prepare(&sink, number).await?;
            self.commit(&sink, number, &prepared).await?;
            self.see(IDEMPOTENT_COMMIT, "an old batch committed again")
                .await?;
        }
        Ok(())
    }

    /// The next process asks for the newest batch.
    async fn opened(&mut self) -> Result<(), Violation> {
        let sink = (self.make)().await;
        let newest = self.works("opened", sink.open().await)?;
        sink.close();
        let wanted = self.visible.keys().next_back().copied();
        match newest == wanted {
            true => Ok(()),
            false => {
                let found = format!("{newest:?}, expected {wanted:?}");
                Err(self.violation(REPORTS_NEWEST_BATCH, "opened", found))
            }
        }
    }

    /// The records of a partition.
    fn records(&self, number: u64, partition: usize) -> impl Iterator<Item = T> {
        let before: u64 = SIZES[..partition].iter().sum();
        let first = number * SIZES.iter().sum::<u64>() + before;
        (first..first + SIZES[partition]).map(&self.row)
    }

    async fn prepare(&self, sink: &S, number: u64) -> Result<Vec<Prepared>, Violation> {
        self.prepare_first(sink, number, SIZES.len()).await
    }

    async fn prepare_first(
        &self,
        sink: &S,
        number: u64,
        partitions: usize,
    ) -> Result<Vec<Prepared>, Violation> {
        let mut prepared = Vec::new();
        for partition in 0..partitions {
            let mut rows = Vec::new();
            // Two records or fewer in each Arrow batch.
            let mut records = self.records(number, partition).peekable();
            while records.peek().is_some() {
                let batch = batch_of(records.by_ref().take(2));
                rows.push(self.works("made records", batch.map_err(BoxError::from))?);
            }
            let part = sink.prepare(time(number), partition, &rows).await;
            prepared.push(self.works("prepared", part)?);
        }
        Ok(prepared)
    }

    async fn commit(&self, sink: &S, number: u64, parts: &[Prepared]) -> Result<(), Violation> {
        self.works("committed", sink.commit(time(number), parts.to_vec()).await)
    }

    /// From now on the batch being written must be visible.
    fn add(&mut self) {
        let partitions = 0..SIZES.len();
        let records = partitions.flat_map(|partition| self.records(self.last, partition));
        let records = sorted(records);
        self.visible.insert(time(self.last), records);
    }

    async fn look(&self) -> BTreeMap<BatchTime, Vec<String>> {
        let batches = (self.read)().await.into_iter();
        let batches = batches.map(|(batch, records)| (batch, sorted(records)));
        batches.filter(|(_, records)| !records.is_empty()).collect()
    }

    /// Checks that exactly the expected records are visible.
    async fn see(&self, promise: &'static str, step: &'static str) -> Result<(), Violation> {
        let found = self.look().await;
        match found == self.visible {
            true => Ok(()),
            false => Err(self.violation(promise, step, difference(&self.visible, &found))),
        }
    }

    fn works<V>(&self, step: &'static str, done: Result<V, BoxError>) -> Result<V, Violation> {
        done.map_err(|error| self.violation(SUCCEEDS_ON_RETRY, step, error.to_string()))
    }

    fn violation(&self, promise: &'static str, step: &'static str, found: String) -> Violation {
        Violation {
            promise,
            batch: Some(time(self.last)),
            step: step.to_owned(),
            found,
        }
    }
}

fn time(number: u64) -> BatchTime {
    BatchTime(FIRST_BATCH + number * INTERVAL_MS)
}

/// Describes the first batch that is not as expected.
fn difference(
    wanted: &BTreeMap<BatchTime, Vec<String>>,
    found: &BTreeMap<BatchTime, Vec<String>>,
) -> String {
    let batches = wanted.keys().chain(found.keys());
    let mut differ = batches.filter(|batch| wanted.get(batch) != found.get(batch));
    match differ.next() {
        Some(batch) => format!(
            "batch {batch} has {:?}, expected {:?}",
            found.get(batch),
            wanted.get(batch)
        ),
        None => "no difference".into(),
    }
}

/// Polls `work` and drops it at its await point number `waits + 1`, unless it ends before.
async fn break_off(work: impl Future, mut waits: usize) {
    let mut work = pin!(work);
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending if waits == 0 => Poll::Ready(()),
        Poll::Pending => {
            waits -= 1;
            Poll::Pending
        }
    })
    .await
}
