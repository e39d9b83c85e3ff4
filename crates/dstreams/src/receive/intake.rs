//! Intake of one input stream: the open block and its sealing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::{BlockId, ReceiverId};
use tokio::sync::{Notify, watch};

use super::dead_letter::DeadLetters;
use super::largest::check_size;
use super::source_time::SourceTime;
use crate::blocks::{Block, Budget, BudgetShare};
use crate::debug::debug_as;
use crate::error::{Error, Result};
use crate::stream::relational::describe;

/// How often the buffers of all producers are flushed while others wait for memory: there may be a seal every
/// millisecond and thousands of buffers.
const FLUSH_ALL_INTERVAL: Duration = Duration::from_millis(20);

/// A buffer of received bytes that will become part of a block; emptied when the block is sealed.
pub trait OpenBuffer: Send + Sync {
    /// Adds its whole records to `intake`, before any that arrive later.
    fn flush(&self, intake: &Intake) -> Result<()>;
}

/// The receiving end of one input stream.
pub struct Intake {
    /// Name of the stream.
    pub stream: String,
    /// Its columns.
    pub schema: SchemaRef,
    /// The memory budget that its blocks share with others.
    pub budget: Budget,
    /// Where malformed input goes.
    pub dead_letters: DeadLetters,
    /// The longest line of text, in bytes.
    pub line_bytes: usize,
    /// The most connections at once.
    pub connections: usize,
    /// The largest record, in bytes; `usize::MAX` without a limit.
    record_bytes: usize,
    receiver: ReceiverId,
    block_bytes: usize,
    // Lock order L3 in ARCHITECTURE.md: after any buffer or producer.
    open: Mutex<Open>,
    copies: Option<Copies>,
    /// The batch interval.
    pub(crate) interval: Duration,
    /// The time that its source gives, as that of this input.
    pub(super) time: Option<(SourceTime, u32)>,
    offsets: BTreeMap<String, u64>,
    /// The keys of `offsets`, least recently used first.
    oldest_first: Vec<String>,
    /// Number of unconnected producers to remember, and the counter of forgotten ones.
    producers: usize,
    forgotten: Arc<AtomicU64>,
    /// Parts of the source that will not come again.
    removed_parts: Mutex<Vec<Arc<str>>>,
}

debug_as!(Intake { stream });

/// Tracks which blocks are safe, if records are safe only once another worker or the disk has them.
struct Copies {
    /// Notified when there are records in the open block.
    fresh: Notify,
    safe: watch::Sender<Safe>,
}

/// Which blocks are safe.
#[derive(Default)]
struct Safe {
    /// All blocks with numbers below this are safe.
    blocks: u64,
    /// Why no other block will become safe.
    failed: Option<Error>,
}

/// The offset of a producer: the number of its last record in a block, counted by the producer.
pub(crate) type OffsetRef<'a> = (&'a Arc<str>, u64);

#[derive(Default)]
struct Open {
    batches: Vec<RecordBatch>,
    memory: Vec<BudgetShare>,
    bytes: usize,
    offsets: BTreeMap<Arc<str>, u64>,
    next_block: u64,
    sealed: Vec<Arc<Block>>,
    buffers: Vec<Weak<dyn OpenBuffer>>,
    /// Length of `buffers` at which dropped ones are removed.
    tidy_at: usize,
    /// The buffers that have records.
    filled: Vec<Weak<dyn OpenBuffer>>,
    /// When all buffers were last flushed.
    visited: Option<Instant>,
    /// No more records are accepted: the last block is sealed.
    ended: bool,
    /// The error that ended the acceptance of records.
    failed: Option<Error>,
}

impl Intake {
    /// The receiver of one stream, whose records are safe once they are in memory.
    pub fn new(
        receiver: ReceiverId,
        stream: &str,
        schema: SchemaRef,
        config: &crate::config::Config,
        budget: Budget,
        dead_letters: DeadLetters,
    ) -> Self {
        Intake {
            stream: stream.to_owned(),
            schema,
            budget,
            dead_letters,
            line_bytes: config.line_bytes,
            connections: config.connections,
            record_bytes: usize::MAX,
            receiver,
            block_bytes: config.block_bytes,
            open: Mutex::default(),
            copies: None,
            interval: config.interval,
            time: None,
            offsets: BTreeMap::new(),
            oldest_first: Vec::new(),
            producers: config.producers,
            forgotten: Arc::default(),
            removed_parts: Mutex::default(),
        }
    }

    /// Offsets from before a restart (see [`Ingest::offsets`](super::Ingest::offsets)), least recently used
    /// first.
    pub fn with_offsets(mut self, offsets: impl IntoIterator<Item = (String, u64)>) -> Self {
        for (name, last) in offsets {
            self.oldest_first.push(name.clone());
            self.offsets.insert(name, last);
        }
        self
    }

    /// Memory for `bytes` of records. Fails where no batch will free any: see
    /// [`Clock::of_sources`](crate::Clock::of_sources).
    async fn memory_for(&self, bytes: usize) -> Result<BudgetShare> {
        self.unless_stuck(self.budget.take(bytes)).await
    }

    /// The keys of the offsets, least recently used first.
    pub(crate) fn oldest_first(&self) -> &[String] {
        &self.oldest_first
    }

    /// Number of unconnected producers to remember, and the counter of forgotten ones.
    pub(crate) fn bound(&self) -> (usize, Arc<AtomicU64>) {
        (self.producers, Arc::clone(&self.forgotten))
    }

    /// Number of forgotten producers.
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Forgets a part of the source that no longer exists: see [`Ingest::forget`](super::Ingest::forget).
    pub(crate) fn forget(&self, part: &str) {
        if self.copies.is_some() {
            let mut removed_parts = self
                .removed_parts
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            removed_parts.push(part.into());
        }
    }

    /// The parts that were forgotten since the last call.
    pub fn take_removed_parts(&self) -> Vec<Arc<str>> {
        let mut removed_parts = self
            .removed_parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut removed_parts)
    }

    /// See [`Ingest::offsets`](super::Ingest::offsets).
    pub(crate) fn offsets(&self) -> &BTreeMap<String, u64> {
        &self.offsets
    }

    /// Makes records safe only once [`Intake::set_safe_below`] covers their block.
    pub fn with_copies(mut self) -> Self {
        self.copies = Some(Copies {
            fresh: Notify::new(),
            safe: watch::Sender::default(),
        });
        self
    }

    /// Refuses records of more than `bytes`: workers cannot send them to each other.
    pub fn with_record_bytes(mut self, bytes: usize) -> Self {
        self.record_bytes = bytes;
        self
    }

    /// Waits until there are records that are not in a sealed block.
    pub async fn fresh(&self) {
        match &self.copies {
            Some(copies) => copies.fresh.notified().await,
            None => std::future::pending().await,
        }
    }

    /// All blocks with numbers below `blocks` are safe.
    pub fn set_safe_below(&self, blocks: u64) {
        if let Some(copies) = &self.copies {
            copies.safe.send_modify(|safe| safe.blocks = blocks);
        }
    }

    /// After this no block becomes safe: waiting callers get the error, and pushes fail.
    pub fn fail(&self, error: Error) {
        self.lock().failed.get_or_insert_with(|| error.clone());
        if let Some(copies) = &self.copies {
            copies.safe.send_modify(|safe| {
                safe.failed.get_or_insert(error);
            });
        }
    }

    /// Waits until the block of this number is safe; fails if it will not be.
    pub(crate) async fn safe(&self, block: u64) -> Result<()> {
        let Some(copies) = &self.copies else {
            return Ok(());
        };
        let mut safe = copies.safe.subscribe();
        // I4 (ARCHITECTURE.md): `set_safe_below` is called only after the blocks are safe.
        let known = |safe: &Safe| safe.blocks > block || safe.failed.is_some();
        match safe.wait_for(known).await {
            Ok(safe) if safe.blocks > block => Ok(()),
            Ok(safe) => Err(safe.failed.clone().unwrap_or(Error::NotRunning)),
            // This intake owns the sender, so it cannot be dropped meanwhile.
            Err(_) => Err(Error::NotRunning),
        }
    }

    /// The receiver that these records belong to.
    pub fn receiver(&self) -> ReceiverId {
        self.receiver
    }

    /// The number of the last block with records.
    pub(super) fn last_block(&self) -> Option<u64> {
        self.lock().last_block()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Ingest::push`](super::Ingest::push).
    pub async fn push(&self, records: RecordBatch) -> Result<()> {
        self.push_marked(records, None).await
    }

    /// See [`Ingest::push_at`](super::Ingest::push_at).
    pub(crate) async fn push_marked(
        &self,
        records: RecordBatch,
        offset: Option<OffsetRef<'_>>,
    ) -> Result<()> {
        match self.take_in(records, offset).await? {
            Some(block) => self.safe(block).await,
            None => Ok(()),
        }
    }

    /// As [`Intake::push_marked`] without waiting until the records are safe; returns the number of their block, if
    /// there are records.
    pub(crate) async fn take_in(
        &self,
        records: RecordBatch,
        offset: Option<OffsetRef<'_>>,
    ) -> Result<Option<u64>> {
        let records = self.fit(records)?;
        if records.num_rows() == 0 {
            if let Some((key, done)) = offset {
                self.lock().offsets.insert(Arc::clone(key), done);
            }
            return Ok(None);
        }
        let bytes = memory_size(&records);
        check_size(&self.stream, &records, bytes, self.record_bytes)?;
        let memory = self.memory_for(bytes).await?;
        self.add(records, bytes, memory, offset).map(Some)
    }

    /// Adds records whose memory is accounted for; returns the number of their block.
    pub(crate) fn add(
        &self,
        records: RecordBatch,
        bytes: usize,
        memory: BudgetShare,
        offset: Option<OffsetRef<'_>>,
    ) -> Result<u64> {
        let mut open = self.lock();
        if let Some(error) = &open.failed {
            return Err(error.clone());
        }
        if open.ended {
            return Err(Error::NotRunning);
        }
        let block = open.next_block;
        if let Some((producer, last)) = offset {
            open.offsets.insert(Arc::clone(producer), last);
        }
        open.add(self, records, bytes, memory);
        drop(open);
        if let Some(copies) = &self.copies {
            copies.fresh.notify_one();
        }
        Ok(block)
    }

    /// The records with the stream's schema; refuses other types and nulls.
    fn fit(&self, records: RecordBatch) -> Result<RecordBatch> {
        let found = records.schema();
        if Arc::ptr_eq(&found, &self.schema) {
            return Ok(records);
        }
        let wanted = self.schema.fields();
        let same = found.fields().len() == wanted.len()
            && wanted
                .iter()
                .zip(found.fields())
                .zip(records.columns())
                .all(|((w, f), c)| {
                    let nulls = w.is_nullable() || c.null_count() == 0;
                    w.name() == f.name() && w.data_type() == f.data_type() && nulls
                });
        if !same {
            return Err(Error::Schema {
                what: format!("records for stream `{}`", self.stream),
                expected: describe(&self.schema),
                found: describe(&found),
            });
        }
        let columns = records.columns().to_vec();
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    /// Flushes `buffer` at each seal, until it is dropped.
    pub(crate) fn register(&self, buffer: Weak<dyn OpenBuffer>) {
        let mut open = self.lock();
        // Not at each call: that would be quadratic in the number of producers.
        if open.buffers.len() >= open.tidy_at {
            open.buffers.retain(|known| known.strong_count() > 0);
            open.tidy_at = 2 * open.buffers.len() + 16;
        }
        open.buffers.push(buffer);
    }

    /// Notes that this buffer has whole records.
    pub(crate) fn has_records(&self, buffer: Weak<dyn OpenBuffer>) {
        self.lock().filled.push(buffer);
        if let Some(copies) = &self.copies {
            copies.fresh.notify_one();
        }
    }

    /// Seals the open block and returns all blocks that no earlier call returned, in order. After the `last` call,
    /// pushes fail.
    pub fn seal(&self, last: bool) -> Vec<Arc<Block>> {
        self.flush(last);
        let mut open = self.lock();
        open.ended |= last;
        open.take(self)
    }

    /// Flushes the buffers that have records; from time to time all of them, if others wait for their memory.
    fn flush(&self, last: bool) {
        let buffers: Vec<_> = {
            let mut open = self.lock();
            let filled = std::mem::take(&mut open.filled);
            let visited = open
                .visited
                .is_some_and(|at| at.elapsed() < FLUSH_ALL_INTERVAL);
            let all = last || self.budget.has_waiters() && !visited;
            if all {
                open.visited = Some(Instant::now());
            }
            let buffers = if all { &open.buffers } else { &filled };
            buffers.iter().filter_map(Weak::upgrade).collect()
        };
        for buffer in buffers {
            if let Err(error) = buffer.flush(self) {
                tracing::error!(stream = self.stream, %error, "cannot flush received bytes");
            }
        }
    }
}

impl Open {
    /// The number of the last block with records.
    fn last_block(&self) -> Option<u64> {
        match self.batches.is_empty() {
            true => self.next_block.checked_sub(1),
            false => Some(self.next_block),
        }
    }

    fn add(&mut self, to: &Intake, records: RecordBatch, bytes: usize, memory: BudgetShare) {
        self.batches.push(records);
        self.memory.push(memory);
        self.bytes += bytes;
        if self.bytes >= to.block_bytes {
            self.close(to);
        }
    }

    fn take(&mut self, to: &Intake) -> Vec<Arc<Block>> {
        self.close(to);
        std::mem::take(&mut self.sealed)
    }

    fn close(&mut self, to: &Intake) {
        if self.batches.is_empty() {
            return;
        }
        let id = BlockId {
            receiver: to.receiver,
            seq: self.next_block,
        };
        self.next_block += 1;
        let batches = std::mem::take(&mut self.batches);
        let memory = std::mem::take(&mut self.memory);
        let bytes = std::mem::take(&mut self.bytes);
        let offsets = std::mem::take(&mut self.offsets);
        let block = Block::new(id, batches, bytes, memory).with_offsets(offsets);
        self.sealed.push(Arc::new(block));
    }
}

/// Memory of the records, including buffers shared with others.
fn memory_size(records: &RecordBatch) -> usize {
    records
        .columns()
        .iter()
        .map(|c| c.get_array_memory_size())
        .sum()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, UInt64Array};

    use super::*;

    /// A push that is larger than a journal entry is refused as a whole, with advice; a small slice of a larger
    /// batch is accepted.
    #[tokio::test]
    async fn a_push_has_a_size_limit() {
        let rows = 2 * crate::receive::largest::PUSH_BYTES / 8;
        let numbers: ArrayRef = Arc::new(UInt64Array::from_iter_values(0..rows as u64));
        let records = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
        let config = crate::config::Config::new(Duration::from_secs(1));
        let (budget, dead) = (Budget::new(1 << 30), DeadLetters::default());
        let intake = Intake::new(ReceiverId(7), "n", records.schema(), &config, budget, dead);
        let error = intake.push(records.clone()).await.unwrap_err().to_string();
        assert!(error.contains("push them in smaller batches"), "{error}");
        assert!(intake.seal(false).is_empty());
        intake.push(records.slice(7, rows / 4)).await.unwrap();
        assert_eq!(intake.seal(false).len(), 1);
    }
}
