//! The rows that are due at some time, the earliest first.

use std::collections::HashMap;

use datafusion::arrow::array::RecordBatch;
use dstreams_control::BatchTime;

use super::lookup::LookedUpRows;
use super::partition::KeyedPartition;
use super::read::copy_rows;
use super::segment::Segment;
use super::times::KeyTimes;
use crate::debug::debug_as;
use crate::error::Result;

/// Rows that are due, the earliest first; those that are due at the same time in the order of
/// [`KeyedPartition::read`].
#[derive(Default)]
pub struct DueRows {
    /// Keys and values.
    pub rows: Vec<RecordBatch>,
    /// The times of each row, in the order of `rows`.
    pub times: Vec<KeyTimes>,
}

debug_as!(DueRows { times });

/// When a row is due, and its place: age and slot of its segment, and row there.
type DuePlace = (BatchTime, u64, u32, usize);

impl KeyedPartition {
    /// The rows of the newest version that are due at `until` or before.
    ///
    /// Costs as much as [`KeyedPartition::expired`].
    pub fn due_rows(&self, until: BatchTime) -> Result<DueRows> {
        let mut places = Vec::new();
        for (_, slot) in self.due.range(..=(until, u32::MAX)) {
            if let Some(segment) = self.segment(*slot) {
                let rows = segment.expired(until);
                places.extend(rows.map(|row| place_of(segment, *slot, row)));
            }
        }
        self.in_due_order(places)
    }

    fn in_due_order(&self, mut places: Vec<DuePlace>) -> Result<DueRows> {
        places.sort_unstable();
        let mut due = DueRows::default();
        for places in places.chunks(self.sizes.segment) {
            let mut segments: Vec<&Segment> = Vec::new();
            let mut source_of = HashMap::new();
            let mut at = Vec::with_capacity(places.len());
            let mut bytes = 0;
            for (_, _, slot, row) in places {
                let Some(segment) = self.segment(*slot) else {
                    continue;
                };
                let source = *source_of.entry(*slot).or_insert_with(|| {
                    segments.push(segment);
                    segments.len() - 1
                });
                at.push((source, *row));
                due.times.push(segment.piece.times.at(*row));
                bytes += segment.key_bytes + segment.value_bytes;
            }
            self.work.read(at.len(), bytes);
            let rows = copy_rows(&self.shape, &segments, &at)?;
            due.rows.push(rows.batch(&self.shape)?);
        }
        Ok(due)
    }
}

fn place_of(segment: &Segment, slot: u32, row: usize) -> DuePlace {
    (segment.piece.times.due(row), segment.age, slot, row)
}

impl LookedUpRows<'_> {
    /// Those of the rows that are due at `until` or before.
    pub fn due_rows(&self, until: BatchTime) -> Result<DueRows> {
        let places = (0..self.len()).filter_map(|key| {
            let (segment, slot, row) = self.place(key)?;
            Some(place_of(segment, slot, row)).filter(|place| place.0 <= until)
        });
        self.partition().in_due_order(places.collect())
    }
}
