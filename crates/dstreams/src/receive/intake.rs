//! Intake of one input stream: the open block, and how it is sealed.

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
use crate::blocks::{Block, Budget, BudgetShare};
use crate::debug::debug_as;
use crate::error::{Error, Result};
use crate::stream::relational::describe;

/// How often the buffers of all producers are visited, where others wait for memory: a seal may come each millisecond, and
/// there may be thousands.
const VISIT_EVERY: Duration = Duration::from_millis(20);

/// A place where received bytes wait to become part of a block; emptied when the block is sealed.
pub trait OpenBuffer: Send + Sync {
    /// Adds the whole records in it to `intake`, before any that come later.
    fn flush(&self, intake: &Intake) -> Result<()>;
}

/// The receiving end of one input stream.
pub struct Intake {
    /// Name of the stream.
    pub stream: String,
    /// Its columns.
    pub schema: SchemaRef,
    /// The memory that its blocks share with others.
    pub budget: Budget,
    /// Where goes what is no record.
    pub dead_letters: DeadLetters,
    /// The longest line of text, in bytes.
    pub line_bytes: usize,
    /// The most connections at once.
    pub connections: usize,
    /// The largest record, in bytes, where there is a bound.
    record_bytes: usize,
    receiver: ReceiverId,
    block_bytes: usize,
    // Lock order L3 in ARCHITECTURE.md: after any buffer or producer.
    open: Mutex<Open>,
    copies: Option<Copies>,
    positions: BTreeMap<String, u64>,
    /// The names of these; of those that were used longest ago first.
    oldest_first: Vec<String>,
    /// Producers to remember that are not connected, and how many were forgotten.
    producers: usize,
    forgotten: Arc<AtomicU64>,
    /// Parts of the source that are no more.
    gone: Mutex<Vec<Arc<str>>>,
}

debug_as!(Intake { stream });

/// Blocks of a receiver whose records are safe only when somebody says so: another worker has them, or they are on disk.
struct Copies {
    /// Told when there are records in the open block.
    fresh: Notify,
    safe: watch::Sender<Safe>,
}

/// Which blocks are safe.
#[derive(Default)]
struct Safe {
    /// Number of blocks that are: all below it.
    blocks: u64,
    /// Why no others will be.
    failed: Option<Error>,
}

/// The last record of a producer that is in a block, by the producer's own number.
pub(crate) type ProducerOffset<'a> = (&'a Arc<str>, u64);

#[derive(Default)]
struct Open {
    batches: Vec<RecordBatch>,
    memory: Vec<BudgetShare>,
    bytes: usize,
    marks: BTreeMap<Arc<str>, u64>,
    next_block: u64,
    sealed: Vec<Arc<Block>>,
    buffers: Vec<Weak<dyn OpenBuffer>>,
    /// So many buffers are there when those that are gone are forgotten.
    tidy_at: usize,
    /// Those of them that have records.
    filled: Vec<Weak<dyn OpenBuffer>>,
    /// When all were emptied last.
    visited: Option<Instant>,
    /// Nothing more is taken: the last block was sealed.
    ended: bool,
    /// Nothing more is taken for this reason.
    failed: Option<Error>,
}

impl Intake {
    /// The receiver of one stream, whose records are safe once they are held in memory.
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
            positions: BTreeMap::new(),
            oldest_first: Vec::new(),
            producers: config.producers,
            forgotten: Arc::default(),
            gone: Mutex::default(),
        }
    }

    /// What was received before a restart (see [`Ingest::positions`](super::Ingest::positions)), of what was used longest ago first.
    pub fn with_positions(mut self, positions: impl IntoIterator<Item = (String, u64)>) -> Self {
        for (name, last) in positions {
            self.oldest_first.push(name.clone());
            self.positions.insert(name, last);
        }
        self
    }

    /// The names of the positions, of what was used longest ago first.
    pub(crate) fn oldest_first(&self) -> &[String] {
        &self.oldest_first
    }

    /// How many producers to remember that are not connected, and where those are counted that are forgotten.
    pub(crate) fn bound(&self) -> (usize, Arc<AtomicU64>) {
        (self.producers, Arc::clone(&self.forgotten))
    }

    /// Producers that were forgotten.
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// A part of the source is no more: see [`Ingest::forget`](super::Ingest::forget).
    pub(crate) fn forget(&self, part: &str) {
        if self.copies.is_some() {
            let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
            gone.push(part.into());
        }
    }

    /// The parts that were forgotten since the last call.
    pub fn take_gone(&self) -> Vec<Arc<str>> {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut gone)
    }

    /// See [`Ingest::positions`](super::Ingest::positions).
    pub(crate) fn positions(&self) -> &BTreeMap<String, u64> {
        &self.positions
    }

    /// Records are safe once [`Intake::set_safe`] has said so of their block.
    pub fn with_copies(mut self) -> Self {
        self.copies = Some(Copies {
            fresh: Notify::new(),
            safe: watch::Sender::default(),
        });
        self
    }

    /// A record of more bytes is refused: workers could not send it to each other.
    pub fn with_record_bytes(mut self, bytes: usize) -> Self {
        self.record_bytes = bytes;
        self
    }

    /// Waits until there are records that no block was sealed of.
    pub async fn fresh(&self) {
        match &self.copies {
            Some(copies) => copies.fresh.notified().await,
            None => std::future::pending().await,
        }
    }

    /// All blocks with numbers below `blocks` are safe.
    pub fn set_safe(&self, blocks: u64) {
        if let Some(copies) = &self.copies {
            copies.safe.send_modify(|safe| safe.blocks = blocks);
        }
    }

    /// No more blocks will be safe: whoever waits for one gets the error, and nothing more is taken.
    pub fn fail(&self, error: Error) {
        self.lock().failed.get_or_insert_with(|| error.clone());
        if let Some(copies) = &self.copies {
            copies.safe.send_modify(|safe| {
                safe.failed.get_or_insert(error);
            });
        }
    }

    /// Waits until the block of this number is safe; fails when it will not be.
    pub(crate) async fn safe(&self, block: u64) -> Result<()> {
        let Some(copies) = &self.copies else {
            return Ok(());
        };
        let mut safe = copies.safe.subscribe();
        // I4 (ARCHITECTURE.md): whoever makes blocks safe says so with `set_safe`, and not before.
        let known = |safe: &Safe| safe.blocks > block || safe.failed.is_some();
        match safe.wait_for(known).await {
            Ok(safe) if safe.blocks > block => Ok(()),
            Ok(safe) => Err(safe.failed.clone().unwrap_or(Error::NotRunning)),
            // The sender is ours: it is not dropped meanwhile.
            Err(_) => Err(Error::NotRunning),
        }
    }

    /// Whose records these are.
    pub fn receiver(&self) -> ReceiverId {
        self.receiver
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
        mark: Option<ProducerOffset<'_>>,
    ) -> Result<()> {
        match self.take_in(records, mark).await? {
            Some(block) => self.safe(block).await,
            None => Ok(()),
        }
    }

    /// As [`Intake::push_marked`], and does not wait until they are safe: returns the number of their block, if there
    /// are any.
    pub(crate) async fn take_in(
        &self,
        records: RecordBatch,
        mark: Option<ProducerOffset<'_>>,
    ) -> Result<Option<u64>> {
        let records = self.fit(records)?;
        if records.num_rows() == 0 {
            if let Some((key, done)) = mark {
                self.lock().marks.insert(Arc::clone(key), done);
            }
            return Ok(None);
        }
        let bytes = memory_size(&records);
        check_size(&self.stream, &records, bytes, self.record_bytes)?;
        let memory = self.budget.take(bytes).await;
        self.add(records, bytes, memory, mark).map(Some)
    }

    /// Adds records whose memory is accounted for; returns the number of their block.
    pub(crate) fn add(
        &self,
        records: RecordBatch,
        bytes: usize,
        memory: BudgetShare,
        mark: Option<ProducerOffset<'_>>,
    ) -> Result<u64> {
        let mut open = self.lock();
        if let Some(error) = &open.failed {
            return Err(error.clone());
        }
        if open.ended {
            return Err(Error::NotRunning);
        }
        let block = open.next_block;
        if let Some((producer, last)) = mark {
            open.marks.insert(Arc::clone(producer), last);
        }
        open.add(self, records, bytes, memory);
        drop(open);
        if let Some(copies) = &self.copies {
            copies.fresh.notify_one();
        }
        Ok(block)
    }

    /// The same columns under the stream's names; other types and nulls are refused.
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

    /// Has `buffer` emptied whenever a block is sealed, for as long as it lives.
    pub(crate) fn register(&self, buffer: Weak<dyn OpenBuffer>) {
        let mut open = self.lock();
        // Now and then, so that many producers do not cost the square of their number.
        if open.buffers.len() >= open.tidy_at {
            open.buffers.retain(|known| known.strong_count() > 0);
            open.tidy_at = 2 * open.buffers.len() + 16;
        }
        open.buffers.push(buffer);
    }

    /// There are whole records in this buffer.
    pub(crate) fn has_records(&self, buffer: Weak<dyn OpenBuffer>) {
        self.lock().filled.push(buffer);
        if let Some(copies) = &self.copies {
            copies.fresh.notify_one();
        }
    }

    /// Seals what there is: all blocks that no earlier call returned, in order. After the `last` time
    /// what comes is refused, so that its producer knows.
    pub fn seal(&self, last: bool) -> Vec<Arc<Block>> {
        self.flush(last);
        let mut open = self.lock();
        open.ended |= last;
        open.take(self)
    }

    /// Empties the buffers that have records; now and then all, if others wait for the memory that they hold.
    fn flush(&self, last: bool) {
        let buffers: Vec<_> = {
            let mut open = self.lock();
            let filled = std::mem::take(&mut open.filled);
            let visited = open.visited.is_some_and(|at| at.elapsed() < VISIT_EVERY);
            let all = last || self.budget.is_waited_for() && !visited;
            if all {
                open.visited = Some(Instant::now());
            }
            let buffers = if all { &open.buffers } else { &filled };
            buffers.iter().filter_map(Weak::upgrade).collect()
        };
        for buffer in buffers {
            if let Err(error) = buffer.flush(self) {
                tracing::error!(stream = self.stream, %error, "received bytes were not taken");
            }
        }
    }
}

impl Open {
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
        let marks = std::mem::take(&mut self.marks);
        let block = Block::new(id, batches, bytes, memory).with_marks(marks);
        self.sealed.push(Arc::new(block));
    }
}

/// Bytes that records hold, buffers shared with others included.
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

    /// More than a journal has room for in one entry is refused with what to do, and nothing of it is taken; a part of
    /// rows that are larger is taken.
    #[tokio::test]
    async fn a_push_has_a_bound() {
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
