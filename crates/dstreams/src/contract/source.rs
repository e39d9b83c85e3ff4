//! [`source()`]: does a [`Source`] that goes on after a restart give each record once?
//!
//! It takes the blocks of a source in as the engine does, one for each push; says of some that they are safe,
//! ends the process, and begins the source again with the positions of the blocks that outlived it.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::process::{Process, SourceOutcome, SourceStep, Survivors, broken};
use super::{Broken, sorted};
use crate::blocks::{Block, Budget};
use crate::receive::Source;
use crate::stream::record::Record;

/// All records come when nothing fails, each once.
pub const GIVES: &str = "a source gives all its records, each once";
/// Positions of blocks that are kept are where the source goes on.
pub const GOES_ON: &str = "a source that is begun again gives what was not kept, and nothing twice";
/// A position never steps back.
pub const GROWS: &str = "how far an input has come only grows";
/// A push that takes long is waited for, and there are few at once.
pub const WAITS: &str = "a source waits until what it pushed is taken";
/// A source that is asked to end does.
pub const CLOSES: &str =
    "a source that is asked to end does so soon, and goes on there the next time";
/// Records that are refused are not passed over.
pub const FAILS: &str = "a source whose records are refused ends with an error";
/// Calls that should work do.
pub const RUNS: &str = "a source of these columns opens, and runs without an error";

/// Pushes that may be on the way at once.
const AT_ONCE: usize = 32;
/// Pushes that may come after a source was asked to end.
const AFTER_THE_END: usize = 8;
/// The moments in the life of a source at which it is ended, at most.
const MOMENTS: usize = 24;
/// A push is held up so long.
const HELD_UP: Duration = Duration::from_millis(50);
/// Other tasks of a source have so many turns to push what they have.
const TURNS: usize = 32;

/// Holds a source that goes on after a restart to its promise; see [`Source`] and
/// [`Ingest::push_at`](crate::Ingest::push_at).
///
/// `make` makes the source anew over an outside that stays as it is: each call stands for a process that starts,
/// and the one before is not used any more. Where there are no positions it begins at the beginning. `records`
/// are what it gives, in any order; records that differ must differ as text (`Debug`). The source may end by
/// itself or not. `patience` is how long the suite waits for what must come: only a broken source takes as long.
///
/// Each push counts as a block of its own, which is kept or lost. Some checks say something only about sources
/// that push often: give it more than 32 pushes. Not checked: the order of records, dead letters, and what a
/// source tells the outside (that a message was taken, say), which it may do once `push_at` has returned.
///
/// Needs a tokio runtime.
///
/// ```
/// use std::time::Duration;
/// use dstreams::{BoxError, Closing, Ingest, Record, Source, contract, record::batch_of};
///
/// /// The numbers below a limit.
/// struct Numbers(u64);
///
/// #[dstreams::async_trait]
/// impl Source for Numbers {
///     fn schema(&self) -> dstreams::arrow::datatypes::SchemaRef {
///         u64::schema()
///     }
///     async fn run(self: Box<Self>, ingest: Ingest, closing: Closing) -> Result<(), BoxError> {
///         let done = ingest.positions().get("numbers").copied().unwrap_or(0);
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
/// # #[tokio::main] async fn main() -> Result<(), contract::Broken> {
/// contract::source(async || Numbers(50), 0..50u64, Duration::from_secs(10)).await
/// # }
/// ```
pub async fn source<S: Source, T: Record + Debug>(
    make: impl AsyncFn() -> S,
    records: impl IntoIterator<Item = T>,
    patience: Duration,
) -> Result<(), Broken> {
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
    /// All records as text, sorted.
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
    async fn whole(&self) -> Result<usize, Broken> {
        let mut kept = Survivors::default();
        let process = self.begin(&mut kept, &Budget::new(usize::MAX)).await?;
        let blocks = self
            .to_the_end(process, &mut kept, GIVES, "run once")
            .await?;
        if kept.positions.is_empty() && !self.wanted.is_empty() {
            let found = "no record came with a position; push with `push_at`";
            return Err(broken(GOES_ON, "run once", found));
        }
        Ok(blocks)
    }

    /// One short life after the other, each with what the ones before have left.
    async fn cut_off_again_and_again(&self, blocks: usize) -> Result<(), Broken> {
        let mut kept = Survivors::default();
        let stride = 1 + blocks / (2 * MOMENTS);
        let step = "cut off again and again";
        for life in 0.. {
            let (safe, lucky) = (life % 3 * stride, life / 3 % 3);
            let ended = self.live(&mut kept, safe, lucky, step).await?;
            if ended || kept.records.len() >= self.wanted.len() {
                break;
            }
        }
        self.go_on(kept, GOES_ON, step).await
    }

    /// Cut off early and late in its life, then begun again once.
    async fn cut_off(&self, blocks: usize) -> Result<(), Broken> {
        for (moment, safe) in moments(blocks).enumerate() {
            let mut kept = Survivors::default();
            let lucky = moment % 2;
            let step = format!("cut off after {} of {blocks} pushes", safe + lucky);
            self.live(&mut kept, safe, lucky, &step).await?;
            self.go_on(kept, GOES_ON, &step).await?;
        }
        Ok(())
    }

    /// Asked to end while a push waits, then begun again.
    async fn asked_to_end(&self, blocks: usize) -> Result<(), Broken> {
        for safe in moments(blocks) {
            let step = format!("asked to end after {safe} of {blocks} pushes");
            let mut kept = Survivors::default();
            let mut process = self.begin(&mut kept, &Budget::new(usize::MAX)).await?;
            let (on_the_way, ended) = self.take(&mut process, &mut kept, safe, &step).await?;
            if !ended {
                process.ask_to_end();
                kept.take::<T>(&on_the_way, &step)?;
                self.ends(process, &mut kept, &step).await?;
            }
            self.go_on(kept, CLOSES, &step).await?;
        }
        // Before it has begun.
        let (mut kept, step) = (Survivors::default(), "asked to end at once");
        let process = self.begin(&mut kept, &Budget::new(usize::MAX)).await?;
        process.ask_to_end();
        self.ends(process, &mut kept, step).await?;
        self.go_on(kept, CLOSES, step).await
    }

    /// Pushes are safe late.
    async fn held_up(&self) -> Result<(), Broken> {
        let (mut kept, step) = (Survivors::default(), "nothing is safe yet");
        let mut process = self.begin(&mut kept, &Budget::new(usize::MAX)).await?;
        for _ in 0..3 {
            tokio::time::sleep(HELD_UP).await;
            let blocks = process.seal();
            if blocks.len() > AT_ONCE {
                let found = format!("it has pushed {} times without waiting", blocks.len());
                return Err(broken(WAITS, step, found));
            }
            kept.take::<T>(&blocks, step)?;
            process.say_safe();
        }
        self.to_the_end(process, &mut kept, WAITS, step).await?;
        Ok(())
    }

    /// There is no memory for records for a while.
    async fn memory_full(&self) -> Result<(), Broken> {
        let (mut kept, step) = (Survivors::default(), "memory was full");
        let budget = Budget::new(1);
        let all = budget.take(1).await;
        let process = self.begin(&mut kept, &budget).await?;
        tokio::time::sleep(HELD_UP).await;
        drop(all);
        self.to_the_end(process, &mut kept, WAITS, step).await?;
        Ok(())
    }

    /// Nothing is taken any more, from some moment on.
    async fn refused(&self, blocks: usize) -> Result<(), Broken> {
        for safe in [0, blocks / 2] {
            // Of the push that waits then nothing is said; there must be one after it.
            if safe + 2 > blocks {
                continue;
            }
            let step = format!("refused after {safe} of {blocks} pushes");
            let mut kept = Survivors::default();
            let mut process = self.begin(&mut kept, &Budget::new(usize::MAX)).await?;
            self.take(&mut process, &mut kept, safe, &step).await?;
            drop(process.intake.seal(true));
            process.intake.set_safe(u64::MAX);
            match process.next(self.patience).await {
                SourceStep::Ended(Ok(Err(_))) => {}
                SourceStep::Ended(Err(panic)) => return Err(broken(FAILS, &step, panic)),
                SourceStep::Ended(Ok(Ok(()))) => {
                    return Err(broken(FAILS, &step, "it ended as if all had been taken"));
                }
                SourceStep::Nothing | SourceStep::Blocks(_) => {
                    return Err(broken(FAILS, &step, "it did not end"));
                }
            }
        }
        Ok(())
    }

    async fn begin(&self, kept: &mut Survivors, budget: &Budget) -> Result<Process, Broken> {
        Process::begin::<T>((self.make)().await, kept, budget).await
    }

    /// Makes so many blocks safe, and waits for a push more; returns those that are on the way then, and
    /// whether the source has ended.
    async fn take(
        &self,
        process: &mut Process,
        kept: &mut Survivors,
        safe: usize,
        step: &str,
    ) -> Result<(Vec<Arc<Block>>, bool), Broken> {
        let mut on_the_way = Vec::new();
        while on_the_way.is_empty() {
            match process.next(self.patience).await {
                SourceStep::Blocks(blocks) => {
                    for block in blocks {
                        if block.meta.id.seq < safe as u64 {
                            kept.take::<T>(&[block], step)?;
                        } else {
                            on_the_way.push(block);
                        }
                    }
                    process.intake.set_safe(process.taken.min(safe as u64));
                }
                SourceStep::Ended(ended) => return well(ended, step).map(|()| (Vec::new(), true)),
                SourceStep::Nothing => return Err(kept.differs(&self.wanted, GOES_ON, step)),
            }
            if on_the_way.is_empty() && kept.records.len() >= self.wanted.len() {
                break;
            }
        }
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        on_the_way.extend(process.seal());
        Ok((on_the_way, false))
    }

    /// A life that is cut off: `lucky` blocks outlive it that it does not know to be safe. Returns whether it
    /// ended by itself before.
    async fn live(
        &self,
        kept: &mut Survivors,
        safe: usize,
        lucky: usize,
        step: &str,
    ) -> Result<bool, Broken> {
        let mut process = self.begin(kept, &Budget::new(usize::MAX)).await?;
        let (on_the_way, ended) = self.take(&mut process, kept, safe, step).await?;
        if !ended {
            process.run.abort();
            let _ = (&mut process.run).await;
        }
        drop(process.intake.seal(true));
        let lucky = lucky.min(on_the_way.len());
        kept.take::<T>(&on_the_way[..lucky], step)?;
        Ok(ended)
    }

    /// A last life, after which all records must be there.
    async fn go_on(
        &self,
        mut kept: Survivors,
        promise: &'static str,
        step: &str,
    ) -> Result<(), Broken> {
        let process = self.begin(&mut kept, &Budget::new(usize::MAX)).await?;
        self.to_the_end(process, &mut kept, promise, step).await?;
        Ok(())
    }

    /// Takes all there is; exactly the records must have come then. Returns the number of blocks.
    async fn to_the_end(
        &self,
        mut process: Process,
        kept: &mut Survivors,
        promise: &'static str,
        step: &str,
    ) -> Result<usize, Broken> {
        let mut ended = false;
        while !ended {
            let all = kept.records.len() >= self.wanted.len();
            let more = match (all, promise) {
                (false, _) => process.next(self.patience).await,
                (true, GIVES) => process.next(HELD_UP).await,
                (true, _) => SourceStep::Nothing,
            };
            match more {
                SourceStep::Blocks(blocks) => {
                    kept.take::<T>(&blocks, step)?;
                    drop(blocks);
                    process.say_safe();
                }
                SourceStep::Ended(end) => {
                    well(end, step)?;
                    ended = true;
                }
                SourceStep::Nothing if all => break,
                SourceStep::Nothing => return Err(kept.differs(&self.wanted, promise, step)),
            }
        }
        let mut blocks = process.taken as usize;
        if !ended {
            process.ask_to_end();
            blocks = self.ends(process, kept, step).await?;
        }
        kept.records.sort();
        match kept.records == self.wanted {
            true => Ok(blocks),
            false => Err(kept.differs(&self.wanted, promise, step)),
        }
    }

    /// A source that was asked to end does. Returns the number of blocks.
    async fn ends(
        &self,
        mut process: Process,
        kept: &mut Survivors,
        step: &str,
    ) -> Result<usize, Broken> {
        process.say_safe();
        let before = process.taken as usize;
        loop {
            match process.next(self.patience).await {
                SourceStep::Blocks(blocks) => {
                    kept.take::<T>(&blocks, step)?;
                    drop(blocks);
                    process.say_safe();
                }
                SourceStep::Ended(ended) => {
                    return well(ended, step).map(|()| process.taken as usize);
                }
                SourceStep::Nothing => return Err(broken(CLOSES, step, "it did not end")),
            }
            let more = process.taken as usize - before;
            if more > AFTER_THE_END {
                let found = format!("it was asked to end, and has pushed {more} times since");
                return Err(broken(CLOSES, step, found));
            }
        }
    }
}

/// Numbers of blocks, spread over all.
fn moments(blocks: usize) -> impl Iterator<Item = usize> {
    (0..blocks).step_by(1 + blocks / MOMENTS)
}

fn well(ended: SourceOutcome, step: &str) -> Result<(), Broken> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(broken(RUNS, step, error)),
        Err(panic) => Err(broken(RUNS, step, panic)),
    }
}
