//! Runs a batch of a join over time: pairs new records with those held, and lets go of those whose time is over.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListArray, RecordBatch, StructArray,
    UInt8Array, UInt32Array, UInt32Builder, UInt64Array, new_null_array,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::{concat, concat_batches, take};
use datafusion::arrow::datatypes::{DataType, Int64Type, SchemaRef};
use datafusion::error::DataFusionError;
use dstreams_control::BatchTime;

use super::{BatchOutputs, KeyedState};
use crate::error::{Error, Result};
use crate::state::key_slots::key_schema;
use crate::state::versioned::Delta;
use crate::stream::join_within::{WithinOp, kind};

/// The rows of an Arrow batch of results.
const ROWS: usize = 8192;

impl KeyedState {
    /// The effect of a batch: its pairs, records that leave alone, records that are refused, and what is held then.
    ///
    /// If the batch is already installed, computes the same from the version before it.
    pub(super) fn within(
        &self,
        batch: BatchTime,
        rows: &[RecordBatch],
        op: &WithinOp,
    ) -> Result<(Delta, BatchOutputs)> {
        let again = self.partition.version() == Some(batch);
        let longest = op.before_ms.max(op.after_ms);
        let (mut slots, _, key_of) = self.keys_of(rows)?;
        // The "last event" of a key is when its first record leaves, less the longest time that one is held: so it is
        // never later than the batch. (Early in 1970 there are keys without a record that leaves, too.)
        let until = BatchTime(batch.millis().saturating_sub(longest));
        let due = match again {
            true => self.partition.expired_at(until, self.before(batch))?,
            false => self.partition.expired(until)?,
        };
        for rows in due {
            slots.intern(&rows.columns()[..op.keys], &mut Vec::new())?;
        }
        let key_schema = key_schema(&self.spec.schema, op.keys);
        let keys = concat_batches(&key_schema, slots.segments())?;
        let found = match again {
            true => self
                .partition
                .latest_at(keys.columns(), self.before(batch))?,
            false => self.partition.latest(keys.columns())?,
        };
        let all = concat_batches(&op.records, rows)?;
        let key_of: Vec<usize> = key_of.into_iter().flatten().collect();
        let buffered = found.values()?;
        let [first, second] = op.widths;
        let from = op.keys + 1;
        let values = [
            &all.columns()[from..from + first],
            &all.columns()[from + first..],
        ];
        debug_assert_eq!(values[1].len(), second);
        let mut join = BatchJoin {
            op,
            now: batch.millis() as i64,
            sides: [
                Side::new(&buffered[0], values[0], keys.num_rows())?,
                Side::new(&buffered[1], values[1], keys.num_rows())?,
            ],
            results: JoinResults::new(op, keys.columns()),
        };
        join.accept(&all, &key_of)?;
        join.pair(&key_of)?;
        let mut kept = Vec::new();
        let mut last = Vec::new();
        let mut gone = Vec::new();
        let mut lists = [BufferedColumns::default(), BufferedColumns::default()];
        for key in 0..keys.num_rows() {
            match join.evict(key, &mut lists)? {
                Some(leaves) => {
                    kept.push(key as u32);
                    last.push((leaves.max(0) as u64).saturating_sub(longest));
                }
                None if found.exists(key) => gone.push(key as u32),
                None => {}
            }
        }
        let pick = |places: Vec<u32>| -> Result<Vec<ArrayRef>> {
            let places = UInt32Array::from(places);
            let columns = keys.columns().iter();
            columns
                .map(|column| Ok(take(column, &places, None)?))
                .collect()
        };
        let mut columns = pick(kept)?;
        for (at, (side, lists)) in join.sides.iter().zip(lists).enumerate() {
            columns.push(lists.column(side, &self.spec.schema, op.keys + at)?);
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.spec.schema), columns)?;
        let last = UInt64Array::from(last);
        let delta = Delta::new(&self.shape, batch, &rows, Some(&last), &pick(gone)?)?;
        let mapped = join.finish()?;
        let timed_out = Vec::new();
        Ok((delta, BatchOutputs { timed_out, mapped }))
    }
}

/// The records of one side of all keys: those held, then those of the batch, by place.
struct Side {
    values: Vec<ArrayRef>,
    /// The times of those held.
    at: Vec<i64>,
    /// Whether each was in a pair.
    joined: Vec<bool>,
    /// The places of those held of each key.
    buffered: Vec<Range<u32>>,
    /// The places of the others by key, in order for each.
    fresh: Vec<u32>,
    /// Where the places of each key begin in `fresh`, and where the last ones end.
    starts: Vec<u32>,
}

impl Side {
    /// From the lists that are held of each key, and the values of the batch's records.
    fn new(lists: &ArrayRef, values: &[ArrayRef], keys: usize) -> Result<Self> {
        let lists = lists.as_list::<i32>();
        let items = lists.values().as_struct();
        let offsets = lists.value_offsets();
        let range = |key: usize| match lists.is_null(key) {
            true => 0..0,
            false => offsets[key] as u32..offsets[key + 1] as u32,
        };
        let at = items.column(0).as_primitive::<Int64Type>();
        let joined = items.column(1).as_boolean();
        let both = items.columns()[2..].iter().zip(values);
        let both = both.map(|(buffered, new)| Ok(concat(&[buffered.as_ref(), new.as_ref()])?));
        Ok(Side {
            values: both.collect::<Result<_>>()?,
            at: at.values().to_vec(),
            joined: joined.values().iter().collect(),
            buffered: (0..keys).map(range).collect(),
            fresh: Vec::new(),
            starts: Vec::new(),
        })
    }

    fn fresh(&self, key: usize) -> &[u32] {
        &self.fresh[self.starts[key] as usize..self.starts[key + 1] as usize]
    }
}

/// A batch that is joined.
struct BatchJoin<'a> {
    op: &'a WithinOp,
    now: i64,
    sides: [Side; 2],
    results: JoinResults<'a>,
}

impl BatchJoin<'_> {
    /// How long records of a side are held.
    fn length(&self, side: usize) -> i64 {
        [self.op.after_ms, self.op.before_ms][side] as i64
    }

    /// Takes in the records of the batch, in their order, up to the most that are held of a key.
    fn accept(&mut self, rows: &RecordBatch, key_of: &[usize]) -> Result<()> {
        let is_first = rows.column(self.op.keys).as_boolean();
        let keys = self.sides[0].buffered.len();
        let counts = |side: &Side| {
            side.buffered
                .iter()
                .map(|buffered| buffered.len())
                .collect()
        };
        let mut counts: [Vec<usize>; 2] = [counts(&self.sides[0]), counts(&self.sides[1])];
        let mut accepted: [Vec<(usize, u32)>; 2] = [Vec::new(), Vec::new()];
        for (row, key) in key_of.iter().enumerate() {
            let side = usize::from(!is_first.value(row));
            let place = (self.sides[side].at.len() + row) as u32;
            if counts[side][*key] < self.op.most {
                counts[side][*key] += 1;
                accepted[side].push((*key, place));
                continue;
            }
            let mut places = [None; 2];
            places[side] = Some(place);
            self.results
                .push(*key, kind::REFUSED[side], places, &self.sides)?;
        }
        for (side, accepted) in self.sides.iter_mut().zip(accepted) {
            side.joined.resize(side.at.len() + key_of.len(), false);
            side.starts = vec![0; keys + 1];
            for (key, _) in &accepted {
                side.starts[key + 1] += 1;
            }
            for key in 0..keys {
                side.starts[key + 1] += side.starts[key];
            }
            let mut next = side.starts.clone();
            side.fresh = vec![0; accepted.len()];
            for (key, place) in accepted {
                side.fresh[next[key] as usize] = place;
                next[key] += 1;
            }
        }
        Ok(())
    }

    /// The records of the batch of one side that were accepted, in their order: key and place.
    fn in_order(&self, side: usize, key_of: &[usize]) -> Vec<(usize, u32)> {
        let buffered = self.sides[side].at.len();
        let keys = 0..self.sides[side].buffered.len();
        let mut of_row = vec![false; key_of.len()];
        for key in keys {
            for place in self.sides[side].fresh(key) {
                of_row[*place as usize - buffered] = true;
            }
        }
        let rows = of_row.into_iter().zip(key_of).enumerate();
        let rows = rows.filter(|(_, (accepted, _))| *accepted);
        rows.map(|(row, (_, key))| (*key, (buffered + row) as u32))
            .collect()
    }

    /// Pairs the records of the batch.
    fn pair(&mut self, key_of: &[usize]) -> Result<()> {
        for (key, v) in self.in_order(0, key_of) {
            for w in self.sides[1].buffered[key].clone() {
                if self.now - self.sides[1].at[w as usize] <= self.length(1) {
                    self.join(key, v, w)?;
                }
            }
            for at in self.sides[1].starts[key]..self.sides[1].starts[key + 1] {
                self.join(key, v, self.sides[1].fresh[at as usize])?;
            }
        }
        for (key, w) in self.in_order(1, key_of) {
            for v in self.sides[0].buffered[key].clone() {
                if self.now - self.sides[0].at[v as usize] <= self.length(0) {
                    self.join(key, v, w)?;
                }
            }
        }
        Ok(())
    }

    fn join(&mut self, key: usize, v: u32, w: u32) -> Result<()> {
        self.sides[0].joined[v as usize] = true;
        self.sides[1].joined[w as usize] = true;
        self.results
            .push(key, kind::PAIR, [Some(v), Some(w)], &self.sides)
    }

    /// Adds the records of a key that stay to `lists`; returns when the first of them leaves, if there is one.
    fn evict(&mut self, key: usize, lists: &mut [BufferedColumns; 2]) -> Result<Option<i64>> {
        let mut next: Option<i64> = None;
        for side in 0..2 {
            let (length, of) = (self.length(side), &self.sides[side]);
            let buffered = of.buffered[key]
                .clone()
                .map(|place| (place, of.at[place as usize]));
            let fresh = of.fresh(key).iter().map(|place| (*place, self.now));
            let before = lists[side].places.len();
            for (place, at) in buffered.chain(fresh) {
                let leaves = at + length;
                if leaves > self.now {
                    lists[side].places.push(place);
                    lists[side].at.push(at);
                    next = Some(next.map_or(leaves, |next| next.min(leaves)));
                } else if !of.joined[place as usize] {
                    let mut places = [None; 2];
                    places[side] = Some(place);
                    self.results
                        .push(key, kind::UNMATCHED[side], places, &self.sides)?;
                }
            }
            lists[side].lengths.push(lists[side].places.len() - before);
        }
        if next.is_none() {
            for side in lists.iter_mut() {
                side.lengths.pop();
            }
        }
        Ok(next)
    }

    fn finish(mut self) -> Result<Vec<RecordBatch>> {
        self.results.flush(&self.sides)?;
        Ok(self.results.batches)
    }
}

/// The records of one side that are held from now on.
#[derive(Default)]
struct BufferedColumns {
    lengths: Vec<usize>,
    places: Vec<u32>,
    at: Vec<i64>,
}

impl BufferedColumns {
    /// The column of the state.
    fn column(self, side: &Side, schema: &SchemaRef, column: usize) -> Result<ArrayRef> {
        let wrong = || Error::from(DataFusionError::Internal("a side is not a list".into()));
        let DataType::List(item) = schema.field(column).data_type() else {
            return Err(wrong());
        };
        let DataType::Struct(fields) = item.data_type() else {
            return Err(wrong());
        };
        let joined: BooleanArray = self
            .places
            .iter()
            .map(|place| Some(side.joined[*place as usize]))
            .collect();
        let places = UInt32Array::from(self.places);
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(self.at)), Arc::new(joined)];
        for values in &side.values {
            columns.push(take(values, &places, None)?);
        }
        let items = StructArray::try_new(fields.clone(), columns, None)?;
        let offsets = OffsetBuffer::from_lengths(self.lengths);
        let lists = ListArray::try_new(Arc::clone(item), offsets, Arc::new(items), None)?;
        Ok(Arc::new(lists))
    }
}

/// JoinResults, an Arrow batch at a time.
struct JoinResults<'a> {
    schema: &'a SchemaRef,
    keys: &'a [ArrayRef],
    key_of: Vec<u32>,
    kinds: Vec<u8>,
    places: [UInt32Builder; 2],
    batches: Vec<RecordBatch>,
}

impl<'a> JoinResults<'a> {
    fn new(op: &'a WithinOp, keys: &'a [ArrayRef]) -> Self {
        JoinResults {
            schema: &op.results,
            keys,
            key_of: Vec::new(),
            kinds: Vec::new(),
            places: [UInt32Builder::new(), UInt32Builder::new()],
            batches: Vec::new(),
        }
    }

    fn push(
        &mut self,
        key: usize,
        kind: u8,
        places: [Option<u32>; 2],
        sides: &[Side; 2],
    ) -> Result<()> {
        self.key_of.push(key as u32);
        self.kinds.push(kind);
        for (all, place) in self.places.iter_mut().zip(places) {
            all.append_option(place);
        }
        match self.kinds.len() < ROWS {
            true => Ok(()),
            false => self.flush(sides),
        }
    }

    fn flush(&mut self, sides: &[Side; 2]) -> Result<()> {
        if self.kinds.is_empty() {
            return Ok(());
        }
        let keys = UInt32Array::from(std::mem::take(&mut self.key_of));
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for key in self.keys {
            columns.push(take(key, &keys, None)?);
        }
        let kinds = std::mem::take(&mut self.kinds);
        columns.push(Arc::new(UInt8Array::from(kinds)) as ArrayRef);
        for (side, places) in sides.iter().zip(&mut self.places) {
            let places = places.finish();
            for values in &side.values {
                columns.push(match values.is_empty() {
                    true => new_null_array(values.data_type(), places.len()),
                    false => take(values, &places, None)?,
                });
            }
        }
        let rows = RecordBatch::try_new(Arc::clone(self.schema), columns)?;
        self.batches.push(rows);
        Ok(())
    }
}
