//! [`Ingest`]: the pushing end of an input stream, in the hands of a source.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;

use super::dead_letter::{KEPT, Letter};
use super::intake::Intake;
use crate::error::Result;

/// What a source pushes records into.
///
/// Cheap to clone. Records of one `push` stay together and in order; pushes by several tasks are
/// in the order in which they were taken.
#[derive(Debug, Clone)]
pub struct Ingest(pub(crate) Arc<Intake>);

impl Ingest {
    /// The pushing end of an intake.
    #[doc(hidden)]
    pub fn of(intake: Arc<Intake>) -> Self {
        Ingest(intake)
    }

    /// Adds records to the current interval; returns when they are safe, so that a producer may be told: held in
    /// memory; on disk where the program is kept in a directory; held by another worker too on a cluster.
    ///
    /// Waits while the memory for received records is full. Fails if the columns are not those of
    /// the stream, if they have more than 1 GiB, if one of them is larger than 32 MiB and workers of a cluster would
    /// have to send it to each other, or if the context has stopped: then the records are in no batch. Fails too if they cannot be made
    /// safe, since the disk is full or the context stops before that: then they may be in a batch, or not.
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

    /// As [`Ingest::push`], and says that the input `key` (a file, a partition of a log) has come as far
    /// as `done` with these records: a number that only grows, and means what the source wants it to.
    /// The mark is kept or lost with the records; without any, with the next that are pushed.
    ///
    /// ```
    /// use dstreams::{BoxError, Ingest, record::batch_of};
    ///
    /// /// Part of a source of `u64`: the numbers below a hundred, ten at a time.
    /// async fn bring(ingest: &Ingest) -> Result<(), BoxError> {
    ///     let begin = ingest.positions().get("numbers").copied().unwrap_or(0);
    ///     for n in (begin..100).step_by(10) {
    ///         ingest.push_at(batch_of(n..n + 10)?, "numbers", n + 10).await?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub async fn push_at(&self, records: RecordBatch, key: &str, done: u64) -> Result<()> {
        self.0.push_marked(records, Some((&key.into(), done))).await
    }

    /// How far each input had come, by the marks of records that are in a batch, or will be: where to go on
    /// after a restart, and on a cluster when the worker was lost that the source ran on before. Empty when the
    /// program starts for the first time, and at each start of one that keeps no journal.
    ///
    /// ```
    /// use dstreams::Ingest;
    ///
    /// /// Where a source goes on in a file.
    /// fn line(ingest: &Ingest, file: &str) -> u64 {
    ///     ingest.positions().get(file).copied().unwrap_or(0)
    /// }
    /// ```
    pub fn positions(&self) -> &BTreeMap<String, u64> {
        self.0.positions()
    }

    /// Drops the offset of an input that is no more (see [`Ingest::push_at`]): checkpoints have it no longer. Only for
    /// one that never comes again under this name: the next restart would begin with it at the beginning, or, where it
    /// is killed soon after this call, where the old one had come.
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

    /// Keeps something that is no record as a dead letter. `producer` says who sent it.
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
            bytes: bytes[..bytes.len().min(KEPT)].to_vec(),
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
