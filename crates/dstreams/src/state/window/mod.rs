//! One partition of a window: its keys, their values, and the batches still to expire.

mod transfer;
pub(crate) mod two_stacks;

use std::collections::VecDeque;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::filter_record_batch;
use dstreams_control::{BatchTime, Due};

use super::accumulators::{Combine, bits_of_partial, column_of};
use super::key_slots::{KeySlots, key_schema};
use super::since_checkpoint::Changes;
use crate::encoding::write_batches;
use crate::error::Result;
use crate::plan::WindowSpec;
use two_stacks::Stacks;

pub(super) use transfer::WindowSnapshot;

/// Dead slots that are tolerated before slots are renumbered.
const MIN_DEAD_SLOTS: usize = if cfg!(test) { 8 } else { 1024 };

/// The values that a batch added, to be subtracted when it expires.
#[derive(Debug, Clone)]
struct Pane {
    batch: BatchTime,
    slots: Vec<u32>,
    values: Vec<Vec<u64>>,
}

/// One partition of a window.
pub(super) struct WindowPartition {
    spec: Arc<WindowSpec>,
    combine: Vec<Combine>,
    version: Option<BatchTime>,
    keys: KeySlots,
    /// By column and slot, for the columns that can be subtracted.
    sums: Vec<Vec<u64>>,
    stacks: Option<Stacks>,
    /// Shared with snapshots that are being written.
    panes: VecDeque<Arc<Pane>>,
    /// Slots without records.
    dead: usize,
    /// The encoded partial results of each batch, for the next checkpoint.
    changes: Changes<(BatchTime, Arc<[u8]>)>,
}

impl WindowPartition {
    pub fn new(spec: Arc<WindowSpec>) -> Result<Self> {
        let combine = Combine::of_plan(&spec.plan, &spec.schema.fields()[spec.keys..])?;
        let others: Vec<_> = combine
            .iter()
            .copied()
            .filter(|c| !c.invertible())
            .collect();
        let panes = (spec.length_ms / spec.every_ms) as usize;
        Ok(WindowPartition {
            version: None,
            keys: KeySlots::new(key_schema(&spec.schema, spec.keys))?,
            sums: vec![Vec::new(); combine.len()],
            stacks: (!others.is_empty()).then(|| Stacks::new(others, panes)),
            panes: VecDeque::new(),
            dead: 0,
            changes: Changes::default(),
            combine,
            spec,
        })
    }

    /// The window to which it belongs.
    pub fn spec(&self) -> Arc<WindowSpec> {
        Arc::clone(&self.spec)
    }

    /// The last installed batch.
    pub fn version(&self) -> Option<BatchTime> {
        self.version
    }

    /// While it holds records, each batch moves it; the last is the one that they leave with.
    pub fn due(&self, next: BatchTime) -> Option<Due> {
        let mut panes = self.panes.iter().rev();
        let newest = panes.find(|pane| !pane.slots.is_empty())?.batch;
        Some(Due {
            from: next,
            to: newest.plus(self.spec.length_ms),
        })
    }

    /// Installs the partial results of a batch, and expires old batches.
    pub fn install(&mut self, batch: BatchTime, delta: &[RecordBatch]) -> Result<()> {
        // I7 (ARCHITECTURE.md): installed before.
        if self.version.is_some_and(|version| batch <= version) {
            return Ok(());
        }
        self.add(batch, delta)?;
        while let Some(pane) = self.panes.front()
            && pane.batch.plus(self.spec.length_ms) <= batch
        {
            self.expire();
        }
        self.version = Some(batch);
        if self.changes.retains() {
            let mut bytes = Vec::new();
            write_batches(&mut bytes, &self.spec.schema, delta)?;
            let rows = delta.iter().map(RecordBatch::num_rows).sum();
            let held = self.panes.iter().map(|pane| pane.slots.len()).sum();
            self.changes.add(batch, rows, held, (batch, bytes.into()));
        }
        if self.dead > MIN_DEAD_SLOTS && 2 * self.dead > self.keys.len() {
            self.renumber()?;
        }
        Ok(())
    }

    fn add(&mut self, batch: BatchTime, delta: &[RecordBatch]) -> Result<()> {
        let rows = delta.iter().map(RecordBatch::num_rows).sum();
        let mut pane = Pane {
            batch,
            slots: Vec::with_capacity(rows),
            values: vec![Vec::new(); self.combine.len()],
        };
        if let Some(stacks) = &mut self.stacks {
            stacks.start_pane();
        }
        let mut slots = Vec::new();
        for rows in delta {
            self.keys
                .intern(&rows.columns()[..self.spec.keys], &mut slots)?;
            self.grow();
            let columns = rows.columns()[self.spec.keys..].iter().map(bits_of_partial);
            let columns = columns.collect::<Result<Vec<_>>>()?;
            self.revive(&slots, &columns[self.spec.count]);
            for (column, combine) in self.combine.iter().enumerate() {
                if combine.invertible() {
                    let sums = &mut self.sums[column];
                    // The counts are already added.
                    let values = match column == self.spec.count {
                        true => &[],
                        false => &columns[column][..],
                    };
                    for (slot, value) in slots.iter().zip(values) {
                        sums[*slot] = sums[*slot].wrapping_add(*value);
                    }
                    pane.values[column].extend_from_slice(&columns[column]);
                }
            }
            if let Some(stacks) = &mut self.stacks {
                let others = self.combine.iter().zip(&columns);
                let others = others.filter(|(combine, _)| !combine.invertible());
                let others: Vec<&[u64]> = others.map(|(_, values)| &values[..]).collect();
                stacks.add(&slots, &others);
            }
            pane.slots.extend(slots.iter().map(|slot| *slot as u32));
        }
        self.panes.push_back(Arc::new(pane));
        Ok(())
    }

    /// Adds new slots, which have no records yet.
    fn grow(&mut self) {
        let slots = self.keys.len();
        self.dead += slots - self.sums[self.spec.count].len();
        for (sums, combine) in self.sums.iter_mut().zip(&self.combine) {
            if combine.invertible() {
                sums.resize(slots, 0);
            }
        }
    }

    /// Adds to the counts of records, and revives slots that had none. A slot may occur more than once: if nearly
    /// all keys differ, partial results are ungrouped rows.
    fn revive(&mut self, slots: &[usize], counts: &[u64]) {
        let records = &mut self.sums[self.spec.count];
        let mut revived = 0;
        for (slot, count) in slots.iter().zip(counts) {
            let records = &mut records[*slot];
            revived += usize::from(*records == 0);
            *records = records.wrapping_add(*count);
        }
        self.dead -= revived;
    }

    fn expire(&mut self) {
        let Some(pane) = self.panes.pop_front() else {
            return;
        };
        for (column, values) in pane.values.iter().enumerate() {
            let sums = &mut self.sums[column];
            if column == self.spec.count {
                for (slot, value) in pane.slots.iter().zip(values) {
                    let records = &mut sums[*slot as usize];
                    *records = records.wrapping_sub(*value);
                    self.dead += usize::from(*records == 0);
                }
                continue;
            }
            for (slot, value) in pane.slots.iter().zip(values) {
                let sum = &mut sums[*slot as usize];
                *sum = sum.wrapping_sub(*value);
            }
        }
        if let Some(stacks) = &mut self.stacks {
            stacks.expire_pane();
        }
    }

    /// Renumbers the slots, without dead ones.
    fn renumber(&mut self) -> Result<()> {
        let records = &self.sums[self.spec.count];
        let live = (0..records.len() as u32).filter(|slot| records[*slot as usize] != 0);
        let live: Vec<u32> = live.collect();
        let mut renumbered = vec![u32::MAX; records.len()];
        for (new, old) in live.iter().enumerate() {
            renumbered[*old as usize] = new as u32;
        }
        for sums in self.sums.iter_mut().filter(|sums| !sums.is_empty()) {
            *sums = live.iter().map(|slot| sums[*slot as usize]).collect();
        }
        for pane in &mut self.panes {
            for slot in &mut Arc::make_mut(pane).slots {
                *slot = renumbered[*slot as usize];
            }
        }
        if let Some(stacks) = &mut self.stacks {
            stacks.renumber(&renumbered, live.len());
        }
        self.dead = 0;
        self.keys.retain(&UInt32Array::from(live))
    }

    /// The contents of the window: keys and values, in order of slots.
    pub fn read(&self) -> Result<Vec<RecordBatch>> {
        let records = &self.sums[self.spec.count];
        let mut output = Vec::new();
        let mut from = 0;
        for keys in self.keys.segments() {
            let slots = from..from + keys.num_rows();
            from = slots.end;
            let live = &records[slots.clone()];
            let mut columns = keys.columns().to_vec();
            for column in 0..self.combine.len() {
                columns.push(self.column(column, slots.clone())?);
            }
            let rows = RecordBatch::try_new(Arc::clone(&self.spec.schema), columns)?;
            output.push(match live.contains(&0) {
                true => {
                    let live: BooleanArray = live.iter().map(|count| Some(*count != 0)).collect();
                    filter_record_batch(&rows, &live)?
                }
                false => rows,
            });
        }
        Ok(output)
    }

    fn column(&self, column: usize, slots: std::ops::Range<usize>) -> Result<ArrayRef> {
        let field = self.spec.schema.field(self.spec.keys + column);
        let bits = match (&self.stacks, self.combine[column].invertible()) {
            (Some(stacks), false) => {
                let before = self.combine[..column].iter();
                let place = before.filter(|combine| !combine.invertible()).count();
                slots.map(|slot| stacks.value(slot, place)).collect()
            }
            _ => self.sums[column][slots].to_vec(),
        };
        column_of(bits, field.data_type())
    }
}
