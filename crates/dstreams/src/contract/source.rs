//! [`source()`]: does a [`Source`] that resumes after a restart bring each record once?
//!
//! It receives the blocks of a source as the engine does, one for each push; reports some of them as safe, ends the
//! process, and starts the source again with the offsets of the surviving blocks.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::process::{Process, SourceOutcome, SourceStep, Survivors, violation};
use super::{Violation, sorted};
use crate::blocks::{Block, Budget};
use crate::receive::Source;
use crate::stream::record::Record;

/// Without failures all records come, each once.
pub const EACH_RECORD_ONCE: &str = "a source gives all its records, each once";
/// The source resumes at the offsets of the surviving blocks.
pub const RESUMES_AT_OFFSETS: &str =
    "a restarted source brings every record that did not survive, and none twice";
/// An offset never decreases.
pub const MONOTONIC_OFFSETS: &str = "the offset of an input only grows";
/// The source waits for slow pushes, and runs few at once.
pub const WAITS_FOR_PUSHES: &str = "a source waits until its pushes return";
/// A source that is asked to stop does.
pub const STOPS_ON_REQUEST: &str =
    "a source that is asked to stop does so soon, and resumes there the next time";
/// Refused records are not skipped.
pub const FAILS_ON_REFUSAL: &str = "a source whose records are refused ends with an error";
/// Calls that should succeed do.
pub const RUNS_WITHOUT_ERROR: &str = "a source of these columns opens, and runs without an error";

/// The most pushes in flight at once.
const MAX_IN_FLIGHT: usize = 32;
/// The most pushes after a source was asked to stop.
const MAX_AFTER_STOP: usize = 8;
/// The most moments in the life of a source at which it is ended.
const MAX_MOMENTS: usize = 24;
/// Delay of a push.
const PUSH_DELAY: Duration = Duration::from_millis(50);
/// Number of scheduler turns for other tasks of a source to push their records.
const YIELDS: usize = 32;

/// Tests the contract of a source that resumes after a restart; see [`Source`] and
/// [`Ingest::push_at`](crate::Ingest::push_at).
///
/// `make` makes the source over the same outside input: each call stands for a process that starts, and the earlier
/// source is not used again. Without offsets it begins at the beginning. `records` are the records it brings, in
/// any order; records that differ must differ as text (`Debug`). The source may end by itself or not. `patience` is
/// how long the suite waits for something that must come: only a broken source takes that long.
///
/// Each push is a block of its own, which survives or is lost. Some checks are effective only with sources that
/// push often: give it more than 32 pushes. Not checked: the order of records, dead letters, and acknowledgements
/// to the outside, which a source may send once `push_at` has returned.
///
/// Needs a tokio runtime.
///
/// ```
/// use std::time::Duration;
/// use dstreams::{BoxError, StopSignal, Ingest, Record, Source, contract, record::batch_of};
///
/// /// The numbers below a limit.
/// struct Numbers(u64);
///
/// #[dstreams::async_trait]
/// impl Source for Numbers {
///     fn schema(&self) -> dstreams::arrow::datatypes::SchemaRef {
///         u64::schema()
///     }
///     async fn run(self: Box<Self>, ingest: Ingest, closing: StopSignal) -> Result<(), BoxError> {
///         let done = ingest.offsets().get("numbers").copied().unwrap_or(0);
///         for n in done..self.0 {
///             if closing.is_requested() {
///                 break;
///             }
///             // Kept or lost together: the number, and that all up to it were there.
///             ingest.push_at(batch_of([n])?, "numbers", n + 1).await?;
///         }
///         Ok(())
///     }
/// }
///
/// # #[tokio::main] async fn main() -> Result<(), contract::Violation> {
/// contract::source(async || Numbers(50), 0..50u64, Duration::from_secs(10)).await
/// # }
/// ```
pub async fn source<S: Source, T: Record + Debug>(
    make: impl AsyncFn() -> S,
    records: impl IntoIterator<Item = T>,
    patience: Duration,
) -> Result<(), Violation> {
    let suite = SourceSuite {
        make,
        wanted: sorted(records),
        patience,
        record: PhantomData::<fn(T)>,
    };
    let blocks = suite.whole().await?;
    suite.held_up().await?;
    suite.memory_full().await?;
    suite.cut_off_again_and_again(blocks).await?;
    suite.cut_off(blocks).await?;
    suite.asked_to_end(blocks).await?;
    suite.refused(blocks).await
}

struct SourceSuite<M, T> {
    make: M,
    /// All records as sorted text.
    wanted: Vec<String>,
    patience: Duration,
    record: PhantomData<fn(T)>,
}

impl<S, T, M> SourceSuite<M, T>
where
    S: Source,
    T: Record + Debug,
    M: AsyncFn() -> S,
{
    /// Nothing fails. Returns the number of blocks.
    async fn whole(&self) -> Result<usize, Violation> {
        let mut survivors = Survivors::default();
        let process = self.begin(&mut survivors, &Budget::new(usize::MAX)).await?;
        let blocks = self
            .to_the_end(process, &mut survivors, EACH_RECORD_ONCE, "run once")
            .await?;
        if survivors.offsets.is_empty() && !self.wanted.is_empty() {
            let found = "no record came with an offset; push with `push_at`";
            return Err(violation(RESUMES_AT_OFFSETS, "run once", found));
        }
        Ok(blocks)
    }

    /// Many short lives, each with what the earlier ones have left.
    async fn cut_off_again_and_again(&self, blocks: usize) -> Result<(), Violation> {
        let mut survivors = Survivors::default();
        let stride = 1 + blocks / (2 * MAX_MOMENTS);
        let step = "cut off again and again";
        for life in 0.. {
            let (safe, lucky) = (life % 3 * stride, life / 3 % 3);
            let ended = self.live(&mut survivors, safe, lucky, step).await?;
            if ended || survivors.records.len() >= self.wanted.len() {
                break;
            }
        }
        self.resume(survivors, RESUMES_AT_OFFSETS, step).await
    }

    /// Cut off early or late in its life, then restarted once.
    async fn cut_off(&self, blocks: usize) -> Result<(), Violation> {
        for (moment, safe) in moments(blocks).enumerate() {
            let mut survivors = Survivors::default();
            let lucky = moment % 2;
            let step = format!("cut off after {} of {blocks} pushes", safe + lucky);
            self.live(&mut survivors, safe, lucky, &step).await?;
            self.resume(survivors, RESUMES_AT_OFFSETS, &step).await?;
        }
        Ok(())
    }

    /// Asked to stop while a push waits, then restarted.
    async fn asked_to_end(&self, blocks: usize) -> Result<(), Violation> {
        for safe in moments(blocks) {
            let step = format!("asked to end after {safe} of {blocks} pushes");
            let mut survivors = Survivors::default();
            let mut process = self.begin(&mut survivors, &Budget::new(usize::MAX)).await?;
            let (on_the_way, ended) = self.take(&mut process, &mut survivors, safe, &step).await?;
            if !ended {
                process.request_stop();
                survivors.take::<T>(&on_the_way, &step)?;
                self.ends(process, &mut survivors, &step).await?;
            }
            self.resume(survivors, STOPS_ON_REQUEST, &step).await?;
        }
        // Asked before it has started.
        let (mut survivors, step) = (Survivors::default(), "asked to end at once");
        let process = self.begin(&mut survivors, &Budget::new(usize::MAX)).await?;
        process.request_stop();
        self.ends(process, &mut survivors, step).await?;
        self.resume(survivors, STOPS_ON_REQUEST, step).await
    }

    /// Pushes become safe late.
    async fn held_up(&self) -> Result<(), Violation> {
        let (mut survivors, step) = (Survivors::default(), "nothing is safe yet");
        let mut process = self.begin(&mut survivors, &Budget::new(usize::MAX)).await?;
        for _ in 0..3 {
            tokio::time::sleep(PUSH_DELAY).await;
            let blocks = process.seal();
            if blocks.len() > MAX_IN_FLIGHT {
                let found = format!("it has pushed {} times without waiting", blocks.len());
                return Err(violation(WAITS_FOR_PUSHES, step, found));
            }
            survivors.take::<T>(&blocks, step)?;
            process.report_safe();
        }
        self.to_the_end(process, &mut survivors, WAITS_FOR_PUSHES, step)
            .await?;
        Ok(())
    }

    /// There is no memory for records for a while.
    async fn memory_full(&self) -> Result<(), Violation> {
        let (mut survivors, step) = (Survivors::default(), "memory was full");
        let budget = Budget::new(1);
        let all = budget.take(1).await;
        let process = self.begin(&mut survivors, &budget).await?;
        tokio::time::sleep(PUSH_DELAY).await;
        drop(all);
        self.to_the_end(process, &mut survivors, WAITS_FOR_PUSHES, step)
            .await?;
        Ok(())
    }

    /// From some moment on, all records are refused.
    async fn refused(&self, blocks: usize) -> Result<(), Violation> {
        for safe in [0, blocks / 2] {
            // The outcome of the waiting push is open; another one must follow it.
            if safe + 2 > blocks {
                continue;
            }
            let step = format!("refused after {safe} of {blocks} pushes");
            let mut survivors = Survivors::default();
            let mut process = self.begin(&mut survivors, &Budget::new(usize::MAX)).await?;
            let (in_flight, _) = self.take(&mut process, &mut survivors, safe, &step).await?;
            let rows: u64 = in_flight.iter().map(|block| block.meta.rows).sum();
            // Several pushes may be in one block: then none is left that could be refused.
            let has_pushed_all = survivors.records.len() as u64 + rows >= self.wanted.len() as u64;
            drop(process.intake.seal(true));
            process.intake.set_safe_below(u64::MAX);
            match process.next(self.patience).await {
                SourceStep::Ended(Ok(Ok(()))) if has_pushed_all => {}
                // It may wait for more input, which nothing refuses.
                SourceStep::Nothing if has_pushed_all => {}
                SourceStep::Ended(Ok(Err(_))) => {}
                SourceStep::Ended(Err(panic)) => {
                    return Err(violation(FAILS_ON_REFUSAL, &step, panic));
                }
                SourceStep::Ended(Ok(Ok(()))) => {
                    return Err(violation(
                        FAILS_ON_REFUSAL,
                        &step,
                        "it ended as if all had been taken",
                    ));
                }
                SourceStep::Nothing | SourceStep::Blocks(_) => {
                    return Err(violation(FAILS_ON_REFUSAL, &step, "it did not end"));
                }
            }
        }
        Ok(())
    }

    async fn begin(
        &self,
        survivors: &mut Survivors,
        budget: &Budget,
    ) -> Result<Process, Violation> {
        Process::begin::<T>((self.make)().await, survivors, budget).await
    }

    /// Makes `safe` blocks safe, and waits for one more push; returns the blocks in flight at that moment, and
    /// whether the source has ended.
    async fn take(
        &self,
        process: &mut Process,
        survivors: &mut Survivors,
        safe: usize,
        step: &str,
    ) -> Result<(Vec<Arc<Block>>, bool), Violation> {
        let mut on_the_way = Vec::new();
        while on_the_way.is_empty() {
            match process.next(self.patience).await {
                SourceStep::Blocks(blocks) => {
                    for block in blocks {
                        if block.meta.id.seq < safe as u64 {
                            survivors.take::<T>(&[block], step)?;
                        } else {
                            on_the_way.push(block);
                        }
                    }
                    process
                        .intake
                        .set_safe_below(process.taken.min(safe as u64));
                }
                SourceStep::Ended(ended) => return well(ended, step).map(|()| (Vec::new(), true)),
                SourceStep::Nothing => {
                    return Err(survivors.differs(&self.wanted, RESUMES_AT_OFFSETS, step));
                }
            }
            if on_the_way.is_empty() && survivors.records.len() >= self.wanted.len() {
                break;
            }
        }
        for _ in 0..YIELDS {
            tokio::task::yield_now().await;
        }
        on_the_way.extend(process.seal());
        Ok((on_the_way, false))
    }

    /// A life that is cut off: `lucky` blocks survive it although they were never reported safe. Returns whether it
    /// ended by itself before.
    async fn live(
        &self,
        survivors: &mut Survivors,
        safe: usize,
        lucky: usize,
        step: &str,
    ) -> Result<bool, Violation> {
        let mut process = self.begin(survivors, &Budget::new(usize::MAX)).await?;
        let (on_the_way, ended) = self.take(&mut process, survivors, safe, step).await?;
        if !ended {
            process.run.abort();
            let _ = (&mut process.run).await;
        }
        drop(process.intake.seal(true));
        let lucky = lucky.min(on_the_way.len());
        survivors.take::<T>(&on_the_way[..lucky], step)?;
        Ok(ended)
    }

    /// The last life, after which all records must be there.
    async fn resume(
        &self,
        mut survivors: Survivors,
        promise: &'static str,
        step: &str,
    ) -> Result<(), Violation> {
        let process = self.begin(&mut survivors, &Budget::new(usize::MAX)).await?;
        self.to_the_end(process, &mut survivors, promise, step)
            .await?;
        Ok(())
    }

    /// Takes everything; after that exactly the expected records must have come. Returns the number of blocks.
    async fn to_the_end(
        &self,
        mut process: Process,
        survivors: &mut Survivors,
        promise: &'static str,
        step: &str,
    ) -> Result<usize, Violation> {
        let mut ended = false;
        while !ended {
            let all = survivors.records.len() >= self.wanted.len();
            let more = match (all, promise) {
                (false, _) => process.next(self.patience).await,
                (true, EACH_RECORD_ONCE) => process.next(PUSH_DELAY).await,
                (true, _) => SourceStep::Nothing,
            };
            match more {
                SourceStep::Blocks(blocks) => {
                    survivors.take::<T>(&blocks, step)?;
                    drop(blocks);
                    process.report_safe();
                }
                SourceStep::Ended(end) => {
                    well(end, step)?;
                    ended = true;
                }
                SourceStep::Nothing if all => break,
                SourceStep::Nothing => return Err(survivors.differs(&self.wanted, promise, step)),
            }
        }
        let mut blocks = process.taken as usize;
        if !ended {
            process.request_stop();
            blocks = self.ends(process, survivors, step).await?;
        }
        survivors.records.sort();
        match survivors.records == self.wanted {
            true => Ok(blocks),
            false => Err(survivors.differs(&self.wanted, promise, step)),
        }
    }

    /// Checks that a source that was asked to stop does. Returns the number of blocks.
    async fn ends(
        &self,
        mut process: Process,
        survivors: &mut Survivors,
        step: &str,
    ) -> Result<usize, Violation> {
        process.report_safe();
        let before = process.taken as usize;
        loop {
            match process.next(self.patience).await {
                SourceStep::Blocks(blocks) => {
                    survivors.take::<T>(&blocks, step)?;
                    drop(blocks);
                    process.report_safe();
                }
                SourceStep::Ended(ended) => {
                    return well(ended, step).map(|()| process.taken as usize);
                }
                SourceStep::Nothing => {
                    return Err(violation(STOPS_ON_REQUEST, step, "it did not end"));
                }
            }
            let more = process.taken as usize - before;
            if more > MAX_AFTER_STOP {
                let found = format!("it was asked to end, and has pushed {more} times since");
                return Err(violation(STOPS_ON_REQUEST, step, found));
            }
        }
    }
}

/// Numbers of blocks, spread over all.
fn moments(blocks: usize) -> impl Iterator<Item = usize> {
    (0..blocks).step_by(1 + blocks / MAX_MOMENTS)
}

fn well(ended: SourceOutcome, step: &str) -> Result<(), Violation> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(violation(RUNS_WITHOUT_ERROR, step, error)),
        Err(panic) => Err(violation(RUNS_WITHOUT_ERROR, step, panic)),
    }
}
