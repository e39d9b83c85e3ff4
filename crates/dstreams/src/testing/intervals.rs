//! A function of a stream over a list of intervals, and what outputs have brought.

use dstreams_control::BatchTime;

use super::TestProgram;
use crate::commit::RddReceiver;
use crate::config::Config;
use crate::error::Result;
use crate::stream::dstream::DStream;
use crate::stream::record::Record;

/// What each batch gives when the records of `intervals` come in, one after the other, and `build` is what is made of
/// them. The first batch is that at [`Config::interval`].
///
/// Fails where the graph cannot be built, and with the error of a batch that failed.
pub async fn run<T, U, I>(
    config: &Config,
    intervals: impl IntoIterator<Item = I>,
    build: impl FnOnce(&DStream<T>) -> Result<DStream<U>>,
) -> Result<Vec<(BatchTime, Vec<U>)>>
where
    T: Record,
    U: Record,
    I: IntoIterator<Item = T>,
{
    let mut test = TestProgram::with_config(config.clone())?;
    let (input, stream) = test.context().queue("input");
    let mut output = build(&stream)?.collect();
    let mut run = test.start().await?;
    for interval in intervals {
        input.push(interval).await?;
        run.end_interval().await?;
    }
    let batches = batches(&mut output)?;
    run.stop().await?;
    Ok(batches)
}

/// What an output has brought since it was last asked, batch by batch: of
/// [`DStream::collect`](crate::DStream::collect), which has all of a batch once that has taken effect.
pub fn batches<U: Record>(output: &mut RddReceiver<U>) -> Result<Vec<(BatchTime, Vec<U>)>> {
    let rdds = std::iter::from_fn(|| output.try_recv());
    rdds.map(|rdd| Ok((rdd.batch_time(), rdd.collect()?)))
        .collect()
}

/// The same with the end of the interval whose records a batch has, after its batch time: another one than the batch's
/// own behind [`by_time`](crate::DStream::by_time) and [`delayed`](crate::DStream::delayed).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> dstreams::Result<()> {
/// use std::time::Duration;
/// use dstreams::testing::{TestProgram, intervals};
/// use dstreams::{BatchTime, Slack};
///
/// let second = Duration::from_secs(1);
/// let mut test = TestProgram::new(second)?;
/// let (input, times) = test.context().queue::<i64>("times");
/// let timed = times.by_time("times", |at| at, Slack::of(second))?;
/// let mut output = timed.records().collect();
///
/// let mut run = test.start().await?;
/// input.push([400]).await?;
/// run.end_interval().await?;
/// run.end_interval().await?;
/// let found = intervals(&mut output)?;
/// assert_eq!(found[1], (BatchTime(2_000), BatchTime(1_000), vec![400]));
/// # run.stop().await?;
/// # Ok(()) }
/// ```
pub fn intervals<U: Record>(
    output: &mut RddReceiver<U>,
) -> Result<Vec<(BatchTime, BatchTime, Vec<U>)>> {
    let rdds = std::iter::from_fn(|| output.try_recv());
    rdds.map(|rdd| Ok((rdd.batch_time(), rdd.interval(), rdd.collect()?)))
        .collect()
}

/// The records that an output has brought since it was last asked, of all batches.
pub fn records<U: Record>(output: &mut RddReceiver<U>) -> Result<Vec<U>> {
    let batches = batches(output)?.into_iter();
    Ok(batches.flat_map(|(_, records)| records).collect())
}

/// The records in their own order: that of the rows of a batch is no part of what operators promise.
pub fn sorted<U: Ord>(mut records: Vec<U>) -> Vec<U> {
    records.sort();
    records
}
