//! The encoding of a partition of a window.
//!
//! Derived data is left out: sums follow from the panes, the entries of the stacks (except their values) from the
//! slots of the panes, the index from the keys. So invalid bytes cannot create an inconsistent partition.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::BatchTime;

use super::{Pane, WindowPartition};
use crate::encoding::{ByteInput, ByteOutput, columns};
use crate::error::{Error, Result};
use crate::plan::WindowSpec;
use crate::state::accumulators::{each_partial, high_of};
use crate::state::capture;
use crate::state::capture::{Content, WINDOW};
use crate::state::encoding::wrong;
use crate::state::key_slots::{KeySlots, export, key_schema};
use crate::state::window::two_stacks;
use crate::state::window::two_stacks::Stacks;
use crate::stream::agg::AggPart;

/// The latest credible batch time: adding a window's length to it does not overflow.
const MAX_BATCH_TIME: u64 = u64::MAX / 4;

/// A snapshot of a partition of a window. It shares keys and panes, so it is cheap.
#[derive(Debug)]
pub struct WindowSnapshot {
    describes: String,
    key_schema: SchemaRef,
    keys: Vec<RecordBatch>,
    panes: Vec<Arc<Pane>>,
    /// The columns that can be subtracted.
    subtracting: Vec<usize>,
    stacks: Option<two_stacks::StacksSnapshot>,
}

impl WindowSnapshot {
    /// Writes the full state, piece by piece.
    pub fn write(&self, to: &mut ByteOutput<'_>) -> Result<()> {
        to.put_bytes(self.describes.as_bytes())?;
        export(&self.keys, &self.key_schema, to)?;
        to.put_number(self.panes.len() as u64)?;
        for pane in &self.panes {
            to.put_number(pane.batch.millis())?;
            to.put_slots(&pane.slots)?;
            for column in &self.subtracting {
                to.put_numbers(pane.values[*column].iter())?;
            }
        }
        self.stacks
            .as_ref()
            .map_or(Ok(()), |stacks| stacks.write(to))
    }

    /// The same as a part of a checkpoint.
    pub fn write_sealed(&self, to: &mut ByteOutput<'_>) -> Result<()> {
        to.begin(&WINDOW)?;
        self.write(to)?;
        to.seal()
    }
}

impl WindowPartition {
    /// A snapshot of the state. Values of the stacks are copied; all else is shared.
    pub fn snapshot(&self) -> WindowSnapshot {
        WindowSnapshot {
            describes: describe_all(&self.spec),
            key_schema: key_schema(&self.spec.schema, self.spec.keys),
            keys: self.keys.segments().to_vec(),
            panes: self.panes.iter().cloned().collect(),
            subtracting: self.subtracting(),
            stacks: self.stacks.as_ref().map(Stacks::snapshot),
        }
    }

    /// The exported partition: from here on it gives the same results as the original, bit by bit.
    pub fn import(spec: Arc<WindowSpec>, from: &mut ByteInput<'_>) -> Result<Self> {
        let has_highs = check_same(&spec, &from.text()?)?;
        let mut window = WindowPartition::new(spec)?;
        let schema = key_schema(&window.spec.schema, window.spec.keys);
        window.keys = KeySlots::import(schema, from)?;
        window.grow();
        for _ in 0..from.number()? {
            let pane = window.read_pane(from, has_highs)?;
            window.enter(&pane)?;
            window.version = Some(pane.batch);
            window.panes.push_back(Arc::new(pane));
        }
        let records = &window.sums[window.spec.count];
        window.dead = records.iter().filter(|records| **records == 0).count();
        if let Some(stacks) = &mut window.stacks {
            let panes = window.panes.iter().map(|pane| &pane.slots[..]);
            stacks.import(panes, window.keys.len(), from)?;
        }
        Ok(window)
    }

    /// The changes after version `since`, if they are retained; else the full state.
    pub fn capture(&mut self, since: Option<BatchTime>) -> Option<(Option<BatchTime>, Content)> {
        let version = self.version?;
        if let Some(panes) = since.and_then(|since| self.changes.since(since)) {
            return (!panes.is_empty()).then_some((since, Content::Panes(panes)));
        }
        self.changes.begin(version);
        Some((None, Content::Window(self.snapshot())))
    }

    /// A checkpoint of `batch` is complete.
    pub fn checkpointed(&mut self, batch: BatchTime) {
        if let Some(version) = self.version {
            self.changes.checkpointed(batch, version);
        }
    }

    /// Restores a captured part: a full one, or an incremental one that follows the current version.
    pub fn restore(&mut self, whole: bool, from: &mut ByteInput<'_>) -> Result<()> {
        if whole {
            from.open(&WINDOW)?;
            let window = WindowPartition::import(self.spec(), from)?;
            from.close()?;
            *self = window;
            return Ok(());
        }
        let (schema, highs) = (Arc::clone(&self.spec.schema), self.highs(self.spec.keys));
        capture::panes(from, |batch, from| {
            let mut rows = Vec::new();
            let what = "what a batch added to a window";
            each_partial(what, from, &schema, &highs, |some| {
                rows.push(some);
                Ok(())
            })?;
            self.install(batch, &rows)
        })
    }

    /// The columns that can be subtracted.
    fn subtracting(&self) -> Vec<usize> {
        let columns = 0..self.combine.len();
        columns
            .filter(|column| self.combine[*column].invertible())
            .collect()
    }

    /// The columns of high halves of sums, each with that of its sum, after `keys` columns of keys.
    fn highs(&self, keys: usize) -> Vec<(usize, usize)> {
        let highs = self.spec.plan.highs().into_iter();
        highs.map(|(high, sum)| (keys + high, keys + sum)).collect()
    }

    fn read_pane(&self, from: &mut ByteInput<'_>, has_highs: bool) -> Result<Pane> {
        let batch = BatchTime(from.number()?);
        if self.version.is_some_and(|version| batch <= version) || batch.millis() > MAX_BATCH_TIME {
            return Err(wrong(format!("batch {batch} after {:?}", self.version)));
        }
        let slots = from.slots(self.keys.len())?;
        let mut values = vec![Vec::new(); self.combine.len()];
        let highs = self.highs(0);
        for column in self.subtracting() {
            let sum = highs.iter().find(|(high, _)| *high == column);
            values[column] = match sum.filter(|_| !has_highs) {
                None => from.numbers(slots.len())?,
                Some((_, sum)) => {
                    let kind = self.spec.schema.field(self.spec.keys + sum).data_type();
                    values[*sum].iter().map(|sum| high_of(*sum, kind)).collect()
                }
            };
        }
        Ok(Pane {
            batch,
            slots,
            values,
        })
    }

    /// Adds the values of a pane to the sums.
    fn enter(&mut self, pane: &Pane) -> Result<()> {
        for column in self.subtracting() {
            let sums = &mut self.sums[column];
            for (slot, value) in pane.slots.iter().zip(&pane.values[column]) {
                let sum = &mut sums[*slot as usize];
                // Counts of records are positive and do not wrap: a key stays until its last record.
                let whole = sum.checked_add(*value).filter(|_| *value > 0);
                *sum = match whole {
                    None if column == self.spec.count => {
                        return Err(wrong(format!("{sum} and {value} records of a key")));
                    }
                    _ => sum.wrapping_add(*value),
                };
            }
        }
        Ok(())
    }
}

fn describe_all(spec: &WindowSpec) -> String {
    describe(spec, (spec.plan.parts.clone(), Arc::clone(&spec.schema)))
}

/// A description of a window, one property per line: processes with equal lines are compatible.
fn describe(spec: &WindowSpec, (parts, schema): (Vec<AggPart>, SchemaRef)) -> String {
    let parts = parts.iter().map(|part| {
        let column = part.column.as_deref().unwrap_or("*");
        format!("{:?}({column})", part.function)
    });
    format!(
        "{} keys\ncolumns {}\nparts {}\nrecords are part {}\nlength {} ms\nevery {} ms",
        spec.keys,
        columns(&schema),
        parts.collect::<Vec<_>>().join(", "),
        spec.count,
        spec.length_ms,
        spec.every_ms,
    )
}

/// Refuses another window's state, naming the difference. Returns whether it has high halves of sums, which
/// earlier versions lacked.
fn check_same(spec: &WindowSpec, theirs: &str) -> Result<bool> {
    let ours = describe_all(spec);
    if ours == theirs {
        return Ok(true);
    }
    if describe(spec, spec.plan.without_highs(&spec.schema, spec.keys)) == theirs {
        return Ok(false);
    }
    let other = |of: &str, than: &str| {
        let lines = of.lines().enumerate();
        let lines = lines.filter(|(at, line)| than.lines().nth(*at) != Some(line));
        lines.map(|(_, line)| line).collect::<Vec<_>>().join("; ")
    };
    Err(Error::Schema {
        what: "state of a window".into(),
        expected: other(&ours, theirs),
        found: other(theirs, &ours),
    })
}
