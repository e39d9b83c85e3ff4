//! [`DueKeys`]: the keys of a state by closures whose time has come with a batch.

use datafusion::arrow::array::{BooleanArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::BatchTime;

use crate::error::Result;
use crate::state::key_slots::KeySlots;
use crate::state::versioned::{DueRows, KeyTimes};
use crate::stream::lifetime::Lifetime;
use crate::stream::tracker::{DueCall, LeftKeys};

/// The keys whose time has come: those that leave, and those that are woken.
///
/// A key that leaves at the time of its timer, or later, is woken before. That it is woken and leaves with one batch is
/// rare: its timer is due as it leaves, or intervals were skipped.
pub(super) struct DueKeys {
    /// In the order of the times at which they were due.
    pub calls: Vec<DueCall>,
    /// Keys and states of those that leave and are not woken before.
    pub leaving: Vec<RecordBatch>,
    /// The number of woken keys, which have the first slots.
    pub woken: usize,
}

/// What becomes of a key.
#[derive(Clone, Copy)]
struct Fate {
    wakes: bool,
    /// When it leaves, if that is with this batch.
    leaves: Option<BatchTime>,
}

impl Fate {
    fn of(times: &KeyTimes, batch: BatchTime, lifetime: Lifetime) -> Self {
        let end = lifetime.end(times.first, times.last);
        Fate {
            wakes: times.timer <= end.min(batch),
            leaves: Some(end).filter(|end| *end <= batch),
        }
    }
}

impl DueKeys {
    /// From the rows that are due with a batch. The woken keys get the first slots of `keys`, which is empty.
    pub fn new(
        due: DueRows,
        batch: BatchTime,
        lifetime: Lifetime,
        keys: &mut KeySlots,
        key_columns: usize,
    ) -> Result<Self> {
        let fate = |times: &KeyTimes| Fate::of(times, batch, lifetime);
        let mut all = DueKeys {
            calls: Vec::with_capacity(due.times.len()),
            leaving: Vec::new(),
            woken: 0,
        };
        // When the calls are due of keys that are woken before they leave: after those of others at the same time.
        let mut later = Vec::new();
        let mut times = due.times.iter();
        for rows in due.rows {
            let of_rows = times.as_slice();
            let of_rows = &of_rows[..rows.num_rows().min(of_rows.len())];
            let wakes: BooleanArray = of_rows.iter().map(|it| Some(fate(it).wakes)).collect();
            let leaves: BooleanArray = wakes.values().iter().map(|wakes| Some(!wakes)).collect();
            let mut slots = Vec::new();
            if wakes.true_count() > 0 {
                let woken = filter_record_batch(&rows, &wakes)?;
                keys.intern(&woken.columns()[..key_columns], &mut slots)?;
            }
            all.leaving.push(filter_record_batch(&rows, &leaves)?);
            let mut slots = slots.into_iter();
            for times in times.by_ref().take(of_rows.len()) {
                let Fate { wakes, leaves } = fate(times);
                if !wakes {
                    all.calls.push(DueCall::Leaves);
                } else if let Some(slot) = slots.next() {
                    all.calls.push(DueCall::Wakes(slot as u32));
                    later.extend(leaves.map(|at| (at, DueCall::LeavesLater(slot as u32))));
                }
            }
        }
        all.woken = keys.len();
        if !later.is_empty() {
            let due_at = |times: &KeyTimes| {
                let Fate { wakes, leaves } = fate(times);
                leaves.filter(|_| !wakes).unwrap_or(times.timer)
            };
            let calls = due.times.iter().map(due_at).zip(all.calls);
            let mut calls: Vec<_> = calls.chain(later).collect();
            calls.sort_by_key(|(at, _)| *at);
            all.calls = calls.into_iter().map(|(_, call)| call).collect();
        }
        Ok(all)
    }

    /// Keys and last states of all that left, in the order of their calls. `keys` are those of the batch, by slot.
    pub fn timed_out(
        self,
        keys: &RecordBatch,
        left: Option<&LeftKeys>,
        schema: &SchemaRef,
    ) -> Result<Vec<RecordBatch>> {
        let Some(left) = left.filter(|left| !left.keys.is_empty()) else {
            return Ok(self.leaving);
        };
        let mut columns = take_rows(keys, left.keys.clone())?.columns().to_vec();
        columns.extend(left.states.columns().iter().cloned());
        let later = RecordBatch::try_new(schema.clone(), columns)?;
        let leaving = concat_batches(schema, &self.leaving)?;
        let mut next = 0;
        let mut at_once = || {
            next += 1;
            next - 1
        };
        // In the order of the calls, without keys that were removed when they were woken.
        let mut places = left.keys.iter().zip(leaving.num_rows() as u32..).peekable();
        let mut of_later = |slot: u32| {
            let place = places.next_if(|(key, _)| **key == slot);
            place.map(|(_, place)| place)
        };
        let order = self.calls.iter().filter_map(|call| match *call {
            DueCall::Leaves => Some(at_once()),
            DueCall::Wakes(_) => None,
            DueCall::LeavesLater(slot) => of_later(slot),
        });
        let order = order.collect();
        let both = concat_batches(schema, [&leaving, &later])?;
        Ok(vec![take_rows(&both, order)?])
    }
}

/// The rows at some places.
pub(super) fn take_rows(rows: &RecordBatch, places: Vec<u32>) -> Result<RecordBatch> {
    Ok(take_record_batch(rows, &UInt32Array::from(places))?)
}
