//! [`KeyedState`]: one partition of the state of a keyed operator, and the effect of a batch on it.

mod by_time;
mod closures;
mod due_keys;
mod probe;
mod running_aggregate;
mod sessions;
#[cfg(test)]
mod tests;
mod within;

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::error::DataFusionError;
use dstreams_control::{BatchTime, Due};

use super::capture::Content;
use super::encoding::wrong;
use super::key_slots::{KeySlots, key_schema};
use super::memory_budget::{MemoryShare, StateMemoryBudget};
use super::since_checkpoint::Changes;
use super::versioned::{Delta, DueColumns, DueRule, KeyedPartition, NewestRows, Shape, Versions};
use crate::encoding::{ByteInput, ByteOutput};
use crate::error::Result;
use crate::plan::{KeyedSpec, Update};
use crate::stream::graph::View;

/// Rows that compaction may visit for each row that a batch changes: more than the copies of a row, so that
/// compaction keeps up.
const COMPACTED_ROWS_PER_CHANGE: usize = 8;
/// And at least for each batch.
const MIN_COMPACTED_ROWS: usize = 4096;

/// One partition of the state of a keyed operator.
pub(super) struct KeyedState {
    spec: Arc<KeyedSpec>,
    /// The number of the partition.
    number: usize,
    shape: Arc<Shape>,
    partition: KeyedPartition,
    /// The changes of the newest batch.
    changed: Vec<RecordBatch>,
    /// The changes for the next checkpoint.
    changes: Changes<Delta>,
    /// Its other outputs, which are not exported; none if this process did not run it.
    made: Option<BatchOutputs>,
    /// If memory is limited.
    share: Option<MemoryShare>,
}

/// The outputs of a batch that are not in the state.
#[derive(Default)]
struct BatchOutputs {
    /// Keys that timed out, and their values.
    timed_out: Vec<RecordBatch>,
    /// The outputs of closures, or emitted results.
    mapped: Vec<RecordBatch>,
}

impl KeyedState {
    /// Partition `number` of a state before its first batch.
    pub fn new(
        spec: Arc<KeyedSpec>,
        number: usize,
        room: Option<&Arc<StateMemoryBudget>>,
    ) -> Result<Self> {
        let due = match &spec.update {
            Update::ByTime(of) => DueRule::Columns(DueColumns::Interval {
                interval: 0,
                version: spec.schema.fields().len() - 1,
                rule: of.rule,
            }),
            Update::Sessions(op) => DueRule::Columns(DueColumns::Sessions {
                list: op.keys,
                last: op.last,
                rule: op.rule,
            }),
            Update::Tracked {
                tracker, lifetime, ..
            } => DueRule::Keys {
                lifetime: *lifetime,
                timers: tracker.mapped().is_some(),
            },
            Update::Running(_) | Update::RunningFor { .. } | Update::Within(_) => {
                DueRule::LastEvent
            }
        };
        let schema = Arc::clone(&spec.schema);
        let shape = Shape::of_state(schema, spec.keys, &spec.highs(), due)?;
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

    /// The batch with which keys time out or are woken, results are emitted, sessions end or records leave: `next` or so
    /// many RDDs of its input later.
    pub fn due(&self, next: BatchTime) -> Option<Due> {
        let first = self.partition.due()?;
        let at = match &self.spec.update {
            Update::Running(_) => return None,
            Update::RunningFor { timeout_ms, .. } => first.plus(*timeout_ms),
            Update::Tracked { .. } if first == BatchTime::MAX => return None,
            Update::Tracked { .. } | Update::ByTime(_) | Update::Sessions(_) => first,
            // Early in 1970 a record may leave sooner than its "last event" says.
            Update::Within(_) if first == BatchTime(0) => next,
            Update::Within(op) => first.plus(op.before_ms.max(op.after_ms)),
        };
        let every = self.spec.every_ms;
        let later = at.millis().saturating_sub(next.millis()).div_ceil(every);
        Some(Due::at(next.plus(later.saturating_mul(every))))
    }

    /// Installs the rows of a batch; a batch that is already installed changes nothing.
    pub fn install(&mut self, batch: BatchTime, rows: &[RecordBatch]) -> Result<()> {
        // I7 (ARCHITECTURE.md): installed before.
        if self.partition.version() >= Some(batch) {
            return self.recompute_outputs(batch, rows);
        }
        if self.partition.version().is_none() {
            self.begin(self.before(batch))?;
        }
        // Not always of the interval before, since intervals may have been skipped.
        let before = self.partition.version().unwrap_or(self.before(batch));
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
        let budget = MIN_COMPACTED_ROWS + COMPACTED_ROWS_PER_CHANGE * (changed + deleted);
        // The version before stays readable, and exports contain the changes of this batch.
        self.partition.compact(before, budget)?;
        self.fit();
        Ok(())
    }

    fn fit(&mut self) {
        if let Some(share) = &mut self.share {
            share.fit(&mut self.partition);
        }
    }

    /// The interval before: the state there is that of the batch before.
    fn before(&self, batch: BatchTime) -> BatchTime {
        batch.minus(self.spec.every_ms).unwrap_or(BatchTime(0))
    }

    /// Installs the initial state of the program, as the version before its first batch.
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

    /// The effect of a batch on this version; with the places of the changed keys if it changes all that it looked
    /// up.
    fn outcome(
        &self,
        batch: BatchTime,
        rows: &[RecordBatch],
    ) -> Result<(Delta, BatchOutputs, Option<NewestRows>)> {
        match &self.spec.update {
            Update::Running(plan) => {
                let (delta, newest) = self.combined(batch, rows, plan)?;
                Ok((delta, BatchOutputs::default(), Some(newest)))
            }
            Update::RunningFor { plan, timeout_ms } => {
                let (delta, made) = self.combined_for(batch, rows, plan, *timeout_ms)?;
                Ok((delta, made, None))
            }
            Update::ByTime(of) => {
                let (delta, made) = self.by_time(batch, rows, of)?;
                Ok((delta, made, None))
            }
            Update::Tracked {
                tracker, lifetime, ..
            } => {
                let (delta, made) = self.tracked(batch, rows, &**tracker, *lifetime)?;
                Ok((delta, made, None))
            }
            Update::Within(op) => {
                let (delta, made) = self.within(batch, rows, op)?;
                Ok((delta, made, None))
            }
            Update::Sessions(op) => {
                let (delta, made) = self.sessions(batch, rows, op)?;
                Ok((delta, made, None))
            }
        }
    }

    /// Recomputes the outputs of the newest batch if another process installed it.
    fn recompute_outputs(&mut self, batch: BatchTime, rows: &[RecordBatch]) -> Result<()> {
        let newest = self.partition.version() == Some(batch);
        if newest && self.made.is_none() && self.spec.views.beyond_state() {
            self.made = Some(self.outcome(batch, rows)?.1);
        }
        Ok(())
    }

    /// The distinct keys of rows, and for each row the index of its key.
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

    /// The rows of the newest batch that its readers get.
    pub fn read(&self) -> Result<Vec<RecordBatch>> {
        self.spec.views.join(|view| match view {
            View::Changes => Ok(self.changed.clone()),
            View::All => match self.partition.version() {
                Some(version) => self.stored(version),
                None => Ok(Vec::new()),
            },
            View::TimedOut => Ok(self.made()?.timed_out.clone()),
            View::Mapped => Ok(self.made()?.mapped.clone()),
            // Those of other states.
            View::Released | View::Late | View::Ahead => Ok(Vec::new()),
        })
    }

    /// The whole state at a version.
    fn stored(&self, version: BatchTime) -> Result<Vec<RecordBatch>> {
        let rows = self.partition.read(version)?;
        match &self.spec.update {
            Update::ByTime(of) => self.whole_results(of, rows, version),
            Update::Sessions(op) => self.whole_sessions(op, rows),
            Update::Running(_)
            | Update::RunningFor { .. }
            | Update::Tracked { .. }
            | Update::Within(_) => Ok(rows),
        }
    }

    fn made(&self) -> Result<&BatchOutputs> {
        let not_run = || {
            let (name, version) = (&self.spec.name, self.partition.version());
            let message =
                format!("state `{name}` is read at {version:?}, which this process did not run");
            DataFusionError::Internal(message).into()
        };
        self.made.as_ref().ok_or_else(not_run)
    }

    /// The table that a program reads, as of a committed batch.
    pub fn table(&self, batch: BatchTime) -> Result<Vec<RecordBatch>> {
        let Some(version) = self.partition.version() else {
            return Ok(Vec::new());
        };
        let rows = self.stored(version.min(batch))?;
        rows.iter().map(|rows| self.spec.results_of(rows)).collect()
    }

    /// The changes after version `since`, if they are retained; else the full state.
    pub fn capture(&mut self, since: Option<BatchTime>) -> Option<(Option<BatchTime>, Content)> {
        if let Some(deltas) = since.and_then(|since| self.changes.since(since)) {
            return (!deltas.is_empty()).then_some((since, Content::Deltas(deltas)));
        }
        let frozen = self.partition.freeze()?;
        self.changes.begin(self.partition.version()?);
        Some((None, Content::Keyed(frozen)))
    }

    /// A checkpoint of `batch` is complete.
    pub fn checkpointed(&mut self, batch: BatchTime) {
        if let Some(version) = self.partition.version() {
            self.changes.checkpointed(batch, version);
        }
    }

    /// Restores a captured part.
    pub fn restore(&mut self, from: &mut ByteInput<'_>) -> Result<()> {
        let delta = Delta::read(&self.shape, from)?;
        self.partition.install(&delta)?;
        self.fit();
        Ok(())
    }

    /// A snapshot, which shares rows with the state.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot {
            describes: self.spec.describe(),
            versions: self.partition.versions()?,
        })
    }

    /// This empty state with exported contents.
    pub fn filled(mut self, from: &mut ByteInput<'_>) -> Result<Self> {
        let (theirs, ours) = (from.text()?, self.spec.describe());
        if theirs != ours {
            return Err(wrong(format!(
                "they are of {theirs}, this program has {ours}"
            )));
        }
        let empty = KeyedPartition::new(Arc::clone(&self.shape));
        self.partition = from.part(|from| empty.filled(from))?;
        // A full state does not have its last batch's changes; they are not needed: it has taken effect.
        let (version, low) = (self.partition.version(), self.partition.low());
        if let Some(version) = version.filter(|_| version > low) {
            self.changed = self.partition.changes(version)?.rows()?;
        }
        self.fit();
        Ok(self)
    }
}

/// A snapshot of a partition of a keyed state.
#[derive(Debug)]
pub struct Snapshot {
    describes: String,
    versions: Versions,
}

impl Snapshot {
    /// Writes the full state, piece by piece.
    pub fn write(&self, to: &mut ByteOutput<'_>) -> Result<()> {
        to.put_bytes(self.describes.as_bytes())?;
        self.versions.write(to)
    }
}
