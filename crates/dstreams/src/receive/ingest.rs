//! [`Ingest`]: the pushing end of an input stream, used by a source.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::Timestamp;

use super::dead_letter::{Letter, STORED_BYTES};
use super::intake::Intake;
use crate::error::Result;

/// The handle through which a source pushes records.
///
/// Cheap to clone. Records of one `push` stay together and in order; concurrent pushes are ordered by their
/// acceptance.
#[derive(Debug, Clone)]
pub struct Ingest(pub(crate) Arc<Intake>);

impl Ingest {
    /// The pushing end of an intake.
    #[doc(hidden)]
    pub fn of(intake: Arc<Intake>) -> Self {
        Ingest(intake)
    }

    /// Adds records to the current interval. Returns when they are safe, so that the source may acknowledge them: in
    /// memory; on disk if the program has a directory; on a second worker too on a cluster.
    ///
    /// Waits while the memory for received records is full. Fails if the columns are not those of the stream, if the
    /// records have more than 1 GiB, if one of them has more than 32 MiB and workers of a cluster would have to send
    /// it to each other, or if the context has stopped: then no batch contains the records. Also fails if the records
    /// cannot be made safe, since the disk is full or the context stops first: then a batch may contain them, or not.
    ///
    /// ```
    /// use dstreams::{BoxError, Ingest, record::batch_of};
    ///
    /// /// Part of a source of `i64`.
    /// async fn bring(ingest: &Ingest) -> Result<(), BoxError> {
    ///     ingest.push(batch_of([1i64, 2, 3])?).await?;
    ///     Ok(())
    /// }
    /// ```
    pub async fn push(&self, records: RecordBatch) -> Result<()> {
        self.0.push(records).await
    }

    /// As [`Ingest::push`], and sets the offset of the input `key` (a file, a partition of a log) to `done`: a number
    /// that only grows and whose meaning is up to the source. The offset is recovered or lost together with the
    /// records; if there are none, together with the next ones pushed.
    ///
    /// ```
    /// use dstreams::{BoxError, Ingest, record::batch_of};
    ///
    /// /// Part of a source of `u64`: the numbers below a hundred, ten at a time.
    /// async fn bring(ingest: &Ingest) -> Result<(), BoxError> {
    ///     let begin = ingest.offsets().get("numbers").copied().unwrap_or(0);
    ///     for n in (begin..100).step_by(10) {
    ///         ingest.push_at(batch_of(n..n + 10)?, "numbers", n + 10).await?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub async fn push_at(&self, records: RecordBatch, key: &str, done: u64) -> Result<()> {
        self.0.push_marked(records, Some((&key.into(), done))).await
    }

    /// The offset of each input, as of the records that are or will be in a batch: where to resume after a restart
    /// or, on a cluster, after the loss of the worker that ran the source. Empty at the first start of a program, and
    /// at each start of one without a journal.
    ///
    /// ```
    /// use dstreams::Ingest;
    ///
    /// /// Where a source goes on in a file.
    /// fn line(ingest: &Ingest, file: &str) -> u64 {
    ///     ingest.offsets().get(file).copied().unwrap_or(0)
    /// }
    /// ```
    pub fn offsets(&self) -> &BTreeMap<String, u64> {
        self.0.offsets()
    }

    /// Gives the time of a [`Clock::of_sources`](crate::Clock::of_sources): what this source pushes from now on is not
    /// older than `millis`, in milliseconds since 1970. Only for sources that say so ([`Source::gives_time`](crate::Source::gives_time)).
    ///
    /// Returns once the interval of that time is open: all earlier ones have ended, with everything that this source has
    /// pushed, so that the next push is in the right one. Waits for other sources that give the time, too. Returns
    /// `false` if the program stops instead: then return, without more pushes. With another clock it returns at once.
    ///
    /// A time before the last one counts as the last one, one before 1970 as 1970, and one after the wall clock as the
    /// wall clock: a wrong year would end all intervals before it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::{BoxError, StopSignal, Ingest, Record, Source, record::batch_of};
    ///
    /// /// One number for each second of the first minute of 1970.
    /// struct Seconds;
    ///
    /// #[dstreams::async_trait]
    /// impl Source for Seconds {
    ///     fn schema(&self) -> dstreams::arrow::datatypes::SchemaRef {
    ///         i64::schema()
    ///     }
    ///     fn gives_time(&self) -> bool {
    ///         true
    ///     }
    ///     async fn run(self: Box<Self>, ingest: Ingest, _: StopSignal) -> Result<(), BoxError> {
    ///         for second in 0..60 {
    ///             if !ingest.time_is(1000 * second).await? {
    ///                 break;
    ///             }
    ///             ingest.push(batch_of([second])?).await?;
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    pub async fn time_is(&self, millis: i64) -> Result<bool> {
        let millis = u64::try_from(millis).unwrap_or(0);
        self.0.time_is(Timestamp::from_millis(millis)).await
    }

    /// The batch interval of the program: a source may bring the records of one together.
    ///
    /// ```
    /// /// The number of the interval of a time in milliseconds.
    /// fn interval_of(ingest: &dstreams::Ingest, at: u64) -> u64 {
    ///     at / ingest.interval().as_millis() as u64
    /// }
    /// ```
    pub fn interval(&self) -> Duration {
        self.0.interval
    }

    /// Drops the offset of an input that no longer exists (see [`Ingest::push_at`]) from checkpoints. Only for names
    /// that never come back: after the next restart such an input would be read from its beginning, or, if the
    /// program is killed soon after this call, from the old offset.
    ///
    /// ```
    /// use dstreams::Ingest;
    ///
    /// /// A source has read a file of the day to its end, and nobody writes to it any more.
    /// fn done(ingest: &Ingest, file: &str) {
    ///     ingest.forget(file);
    /// }
    /// ```
    pub fn forget(&self, key: &str) {
        self.0.forget(key)
    }

    /// Adds input that is not a record as a dead letter. `producer` names its sender.
    ///
    /// ```
    /// use dstreams::{BoxError, Ingest, record::batch_of};
    ///
    /// /// Part of a source of `i64`.
    /// async fn take(ingest: &Ingest, peer: &str, line: &str) -> Result<(), BoxError> {
    ///     match line.parse::<i64>() {
    ///         Ok(number) => ingest.push(batch_of([number])?).await?,
    ///         Err(error) => ingest.dead_letter(peer, line.as_bytes(), &error.to_string()).await,
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub async fn dead_letter(&self, producer: &str, bytes: &[u8], reason: &str) {
        let intake = &self.0;
        let letter = Letter {
            bytes: bytes[..bytes.len().min(STORED_BYTES)].to_vec(),
            length: bytes.len() as u64,
            reason: reason.to_owned(),
            at: None,
        };
        let dead = &intake.dead_letters;
        let added = dead.add(&intake.stream, producer, None, vec![letter]).await;
        dead.safe(added).await
    }

    /// Name of the stream.
    ///
    /// ```
    /// fn say(ingest: &dstreams::Ingest, records: usize) {
    ///     println!("stream {}: {records} records", ingest.stream());
    /// }
    /// ```
    pub fn stream(&self) -> &str {
        &self.0.stream
    }

    /// Columns of the stream.
    ///
    /// ```
    /// /// A batch that was read from elsewhere has the columns of the stream.
    /// fn fits(ingest: &dstreams::Ingest, batch: &dstreams::arrow::array::RecordBatch) -> bool {
    ///     batch.schema().fields() == ingest.schema().fields()
    /// }
    /// ```
    pub fn schema(&self) -> &SchemaRef {
        &self.0.schema
    }
}
