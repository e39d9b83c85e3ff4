//! [`KeyedState`]: one partition of the state of a keyed operator, and what a batch does to it.

mod closures;
mod running_aggregate;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::error::DataFusionError;
use dstreams_control::BatchTime;

use super::capture::Content;
use super::encoding::wrong;
use super::key_slots::{KeySlots, key_schema};
use super::memory_budget::{MemoryShare, Room};
use super::since_checkpoint::Changes;
use super::versioned::{Delta, KeyedPartition, NewestRows, Shape, Versions};
use crate::encoding::{ByteInput, ByteOutput};
use crate::error::Result;
use crate::plan::{KeyedSpec, Update};
use crate::stream::graph::View;

/// Rows that a batch may look at to give room back, for each row that it changes: more than a row is
/// copied for, so that compaction keeps up.
const COMPACT: usize = 8;
/// And for each batch.
const COMPACT_LEAST: usize = 4096;

/// One partition of the state of a keyed operator.
pub(super) struct KeyedState {
    spec: Arc<KeyedSpec>,
    /// Number of the partition.
    number: usize,
    shape: Arc<Shape>,
    partition: KeyedPartition,
    /// What the newest batch changed.
    changed: Vec<RecordBatch>,
    /// For the next checkpoint.
    changes: Changes<Delta>,
    /// What it made beside that; none where this process did not run it: no bytes have it.
    made: Option<Made>,
    /// Where memory is bounded.
    share: Option<MemoryShare>,
}

/// What a batch gives that is not in the state.
#[derive(Default)]
struct Made {
    /// Keys and values of those whose time was out.
    timed_out: Vec<RecordBatch>,
    /// What closures made.
    mapped: Vec<RecordBatch>,
}

impl KeyedState {
    /// Partition `number` of a state before its first batch.
    pub fn new(spec: Arc<KeyedSpec>, number: usize, room: Option<&Arc<Room>>) -> Result<Self> {
        let shape = Shape::with_highs(Arc::clone(&spec.schema), spec.keys, &spec.highs())?;
        Ok(KeyedState {
            partition: KeyedPartition::new(Arc::clone(&shape)),
            number,
            changed: Vec::new(),
            changes: Changes::default(),
            made: None,
            share: room.map(MemoryShare::of),
            shape,
            spec,
        })
    }

    pub fn spec(&self) -> Arc<KeyedSpec> {
        Arc::clone(&self.spec)
    }

    pub fn version(&self) -> Option<BatchTime> {
        self.partition.version()
    }

    /// Takes in the rows of a batch. One that was taken in changes nothing.
    pub fn install(&mut self, batch: BatchTime, rows: &[RecordBatch]) -> Result<()> {
        // I7 (ARCHITECTURE.md): installed before.
        if self.partition.version() >= Some(batch) {
            return self.made_again(batch, rows);
        }
        if self.partition.version().is_none() {
            self.begin(self.before(batch))?;
        }
        let (delta, made, newest) = self.outcome(batch, rows)?;
        self.changed = delta.rows()?;
        self.made = Some(made);
        let (changed, deleted) = delta.len();
        match newest {
            Some(newest) => self.partition.install_found(&delta, &newest)?,
            None => self.partition.install(&delta)?,
        };
        let held = self.partition.len();
        self.changes.add(batch, changed + deleted, held, delta);
        let budget = COMPACT_LEAST + COMPACT * (changed + deleted);
        // The version before can be read still, and what this batch changed is in an export.
        self.partition.compact(self.before(batch), budget)?;
        self.fit();
        Ok(())
    }

    fn fit(&mut self) {
        if let Some(share) = &mut self.share {
            share.fit(&mut self.partition);
        }
    }

    /// The batch before.
    fn before(&self, batch: BatchTime) -> BatchTime {
        batch.minus(self.spec.every_ms).unwrap_or(BatchTime(0))
    }

    /// Installs what the program begins with, as the version before its first batch.
    fn begin(&mut self, version: BatchTime) -> Result<()> {
        let Update::Tracked { initial, .. } = &self.spec.update else {
            return Ok(());
        };
        let rows = initial.get(self.number).map_or(&[][..], Vec::as_slice);
        if rows.is_empty() {
            return Ok(());
        }
        let rows = concat_batches(&self.spec.schema, rows)?;
        let delta = Delta::new(&self.shape, version, &rows, None, &[])?;
        self.partition.install(&delta)?;
        Ok(())
    }

    /// What a batch does to this version; with where the keys are that it changes, if it changes all it looked up.
    fn outcome(
        &self,
        batch: BatchTime,
        rows: &[RecordBatch],
    ) -> Result<(Delta, Made, Option<NewestRows>)> {
        match &self.spec.update {
            Update::Running(plan) => {
                let (delta, newest) = self.combined(batch, rows, plan)?;
                Ok((delta, Made::default(), Some(newest)))
            }
            Update::Tracked {
                tracker,
                timeout_ms,
                ..
            } => {
                let (delta, made) = self.tracked(batch, rows, &**tracker, *timeout_ms)?;
                Ok((delta, made, None))
            }
        }
    }

    /// Makes again what the newest batch made, where another process took it in.
    fn made_again(&mut self, batch: BatchTime, rows: &[RecordBatch]) -> Result<()> {
        let newest = self.partition.version() == Some(batch);
        if newest && self.made.is_none() && self.spec.views.beyond_state() {
            self.made = Some(self.outcome(batch, rows)?.1);
        }
        Ok(())
    }

    /// The keys of rows, once each, and the key of each row by its place among them.
    fn keys_of(&self, rows: &[RecordBatch]) -> Result<(KeySlots, Vec<ArrayRef>, Vec<Vec<usize>>)> {
        let schema = key_schema(&self.spec.schema, self.spec.keys);
        let mut keys = KeySlots::new(Arc::clone(&schema))?;
        let mut key_of = Vec::with_capacity(rows.len());
        for rows in rows {
            let mut slots = Vec::new();
            keys.intern(&rows.columns()[..self.spec.keys], &mut slots)?;
            key_of.push(slots);
        }
        let all = concat_batches(&schema, keys.segments())?;
        Ok((keys, all.columns().to_vec(), key_of))
    }

    /// What its readers get of the newest batch.
    pub fn read(&self) -> Result<Vec<RecordBatch>> {
        self.spec.views.join(|view| match view {
            View::Changes => Ok(self.changed.clone()),
            View::All => match self.partition.version() {
                Some(version) => self.partition.read(version),
                None => Ok(Vec::new()),
            },
            View::TimedOut => Ok(self.made()?.timed_out.clone()),
            View::Mapped => Ok(self.made()?.mapped.clone()),
        })
    }

    fn made(&self) -> Result<&Made> {
        let not_run = || {
            let (name, version) = (&self.spec.name, self.partition.version());
            let message = format!("state `{name}` is read at {version:?}, which did not run here");
            DataFusionError::Internal(message).into()
        };
        self.made.as_ref().ok_or_else(not_run)
    }

    /// What a program reads of the state, as of a batch that took effect.
    pub fn table(&self, batch: BatchTime) -> Result<Vec<RecordBatch>> {
        let Some(version) = self.partition.version() else {
            return Ok(Vec::new());
        };
        let rows = self.partition.read(version.min(batch))?;
        rows.iter().map(|rows| self.spec.results_of(rows)).collect()
    }

    /// What came after version `since`, where that is known; else all there is.
    pub fn capture(&mut self, since: Option<BatchTime>) -> Option<(Option<BatchTime>, Content)> {
        if let Some(deltas) = since.and_then(|since| self.changes.since(since)) {
            return (!deltas.is_empty()).then_some((since, Content::Deltas(deltas)));
        }
        let frozen = self.partition.freeze()?;
        self.changes.begin(self.partition.version()?);
        Some((None, Content::Keyed(frozen)))
    }

    /// A checkpoint of `batch` is there.
    pub fn covered(&mut self, batch: BatchTime) {
        if let Some(version) = self.partition.version() {
            self.changes.covered(batch, version);
        }
    }

    /// Takes in what was captured.
    pub fn restore(&mut self, from: &mut ByteInput<'_>) -> Result<()> {
        let delta = Delta::read(&self.shape, from)?;
        self.partition.install(&delta)?;
        self.fit();
        Ok(())
    }

    /// The state as it is, whose rows are shared.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot {
            describes: self.spec.describe(),
            versions: self.partition.versions()?,
        })
    }

    /// This empty state with what was exported.
    pub fn filled(mut self, from: &mut ByteInput<'_>) -> Result<Self> {
        let (theirs, ours) = (from.text()?, self.spec.describe());
        if theirs != ours {
            return Err(wrong(format!(
                "they are of {theirs}, this program has {ours}"
            )));
        }
        let empty = KeyedPartition::new(Arc::clone(&self.shape));
        self.partition = from.part(|from| empty.filled(from))?;
        // What was made as a whole does not say what its last batch changed, and nobody asks: it has taken effect.
        let (version, low) = (self.partition.version(), self.partition.low());
        if let Some(version) = version.filter(|_| version > low) {
            self.changed = self.partition.changes(version)?.rows()?;
        }
        self.fit();
        Ok(self)
    }
}

/// A partition of a keyed state as it was.
#[derive(Debug)]
pub struct Snapshot {
    describes: String,
    versions: Versions,
}

impl Snapshot {
    /// Writes the whole state, piece by piece.
    pub fn write(&self, to: &mut ByteOutput<'_>) -> Result<()> {
        to.put_bytes(self.describes.as_bytes())?;
        self.versions.write(to)
    }
}
