//! The effect of a batch on sessions.
//!
//! A row of the state has the open sessions of a key as a list. An item is the partial results of a run of records, with
//! their first and last time among the parts. If sessions are cut at a length, a later session may be in several items:
//! they are apart where it would be cut if it were the continuation of an earlier one, which a record that comes late may
//! make it. They are combined when they are read.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, ListArray, RecordBatch, StructArray, UInt8Array, UInt32Array,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::{concat_batches, take};
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::error::DataFusionError;
use dstreams_control::BatchTime;

use super::running_aggregate::Parts;
use super::{BatchOutputs, KeyedState};
use crate::error::{Error, Result};
use crate::plan::{session_parts, session_results};
use crate::state::accumulators::{Combine, bits_of, bits_of_partial, column_of};
use crate::state::key_slots::key_schema;
use crate::state::versioned::Delta;
use crate::stream::session_rule::SessionStatus;
use crate::stream::sessions::{SessionOp, kind};

/// Partial results of records of one key that are of one session.
struct SessionPiece {
    key: u32,
    start: i64,
    last: i64,
    /// Its place in the columns of the parts.
    place: usize,
}

/// The pieces of some keys.
struct SessionPieces<'a> {
    op: &'a SessionOp,
    /// By key, then by time.
    pieces: Vec<SessionPiece>,
    parts: Parts,
    combine: Vec<Combine>,
    /// The places before this one are those of open sessions.
    held: usize,
    /// Where the sessions before the present one of the same key are cut.
    cuts: Vec<i64>,
}

/// The parts of some sessions, made from pieces.
#[derive(Default)]
struct Combined {
    parts: Parts,
}

/// What a batch emits.
#[derive(Default)]
struct Emitted {
    keys: Vec<u32>,
    kinds: Vec<u8>,
    of: Combined,
}

impl KeyedState {
    /// The effect of a batch: the sessions that end, the records that are late, and what is open then.
    ///
    /// If the batch is already installed, computes the same from the version before it.
    pub(super) fn sessions(
        &self,
        batch: BatchTime,
        rows: &[RecordBatch],
        op: &SessionOp,
    ) -> Result<(Delta, BatchOutputs)> {
        let again = self.partition.version() == Some(batch);
        let (mut slots, _, key_of) = self.keys_of(rows)?;
        let due = match again {
            true => self.partition.expired_at(batch, self.before(batch))?,
            false => self.partition.expired(batch)?,
        };
        for rows in due {
            slots.intern(&rows.columns()[..op.keys], &mut Vec::new())?;
        }
        let keys = concat_batches(&key_schema(&self.spec.schema, op.keys), slots.segments())?;
        let found = match again {
            true => (self.partition).latest_at(keys.columns(), self.before(batch))?,
            false => self.partition.latest(keys.columns())?,
        };
        let mut pieces = SessionPieces::open(op, &found.value(0)?, &self.spec.schema)?;
        pieces.add(rows, &key_of)?;
        let (mut emitted, mut open) = (Emitted::default(), Combined::default());
        let (mut kept, mut lengths, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        let mut late = 0;
        let mut from = 0;
        for key in 0..keys.num_rows() as u32 {
            let of_key = pieces.pieces[from..].iter().take_while(|it| it.key == key);
            let to = from + of_key.count();
            let before = open.len();
            late += pieces.end(from..to, batch, &mut emitted, &mut open);
            from = to;
            match open.len() - before {
                0 if found.exists(key as usize) => gone.push(key),
                0 => {}
                length => {
                    kept.push(key);
                    lengths.push(length);
                }
            }
        }
        if !again {
            op.late.miss(late, "their session is over");
        }
        let mut columns = picked(keys.columns(), kept)?;
        columns.push(self.session_lists(open, lengths)?);
        let rows = RecordBatch::try_new(Arc::clone(&self.spec.schema), columns)?;
        let gone = picked(keys.columns(), gone)?;
        let delta = Delta::new(&self.shape, batch, &rows, None, &gone)?;
        let mapped = self.emitted(op, keys.columns(), emitted)?;
        let mapped = mapped.into_iter().collect();
        let timed_out = Vec::new();
        Ok((delta, BatchOutputs { timed_out, mapped }))
    }

    /// Rows of the state with each open session as one item.
    pub(super) fn whole_sessions(
        &self,
        op: &SessionOp,
        rows: Vec<RecordBatch>,
    ) -> Result<Vec<RecordBatch>> {
        if op.rule.longest.is_none() {
            return Ok(rows);
        }
        let whole = rows.into_iter().map(|rows| {
            let mut columns = rows.columns().to_vec();
            let pieces = SessionPieces::open(op, &columns[op.keys], &self.spec.schema)?;
            let (mut open, mut lengths) = (Combined::default(), vec![0; rows.num_rows()]);
            let mut from = 0;
            while let Some(first) = pieces.pieces.get(from) {
                let (count, _) = pieces.session(from);
                open.append(&pieces, &pieces.pieces[from..from + count]);
                lengths[first.key as usize] += 1;
                from += count;
            }
            columns[op.keys] = self.session_lists(open, lengths)?;
            Ok(RecordBatch::try_new(
                Arc::clone(&self.spec.schema),
                columns,
            )?)
        });
        whole.collect()
    }

    /// Open sessions as a column of the state.
    fn session_lists(&self, open: Combined, lengths: Vec<usize>) -> Result<ArrayRef> {
        let wrong = || Error::from(DataFusionError::Internal("sessions are not a list".into()));
        let list = self.spec.schema.field(self.spec.keys).data_type();
        let DataType::List(item) = list else {
            return Err(wrong());
        };
        let parts = session_parts(&self.spec.schema)?;
        let items = StructArray::try_new(parts.clone(), open.columns(&self.spec.schema)?, None)?;
        let offsets = OffsetBuffer::from_lengths(lengths);
        let lists = ListArray::try_new(Arc::clone(item), offsets, Arc::new(items), None)?;
        Ok(Arc::new(lists))
    }

    /// What a batch emits, as rows.
    fn emitted(
        &self,
        op: &SessionOp,
        keys: &[ArrayRef],
        emitted: Emitted,
    ) -> Result<Option<RecordBatch>> {
        if emitted.keys.is_empty() {
            return Ok(None);
        }
        let mut columns = picked(keys, emitted.keys)?;
        let parts = session_parts(&self.spec.schema)?;
        let of = emitted.of.columns(&self.spec.schema)?;
        let of = RecordBatch::try_new(Arc::new(Schema::new(parts.clone())), of)?;
        columns.push(Arc::new(UInt8Array::from(emitted.kinds)));
        columns.extend(session_results(op, &of)?);
        Ok(Some(RecordBatch::try_new(
            Arc::clone(&op.emitted),
            columns,
        )?))
    }
}

/// Some rows of columns.
fn picked(columns: &[ArrayRef], places: Vec<u32>) -> Result<Vec<ArrayRef>> {
    let places = UInt32Array::from(places);
    let columns = columns.iter();
    columns
        .map(|column| Ok(take(column, &places, None)?))
        .collect()
}

impl<'a> SessionPieces<'a> {
    /// The open sessions of keys, from their lists.
    fn open(op: &'a SessionOp, lists: &ArrayRef, held: &Schema) -> Result<Self> {
        let lists = lists.as_list::<i32>();
        let items = lists.values().as_struct().columns();
        let parts = items.iter().map(|column| Ok(bits_of(column)?.to_vec()));
        let mut all = SessionPieces {
            op,
            pieces: Vec::new(),
            parts: parts.collect::<Result<_>>()?,
            combine: Combine::of_plan(&op.plan, session_parts(held)?)?,
            held: lists.values().len(),
            cuts: Vec::new(),
        };
        let offsets = lists.value_offsets();
        for key in 0..lists.len() {
            if lists.is_null(key) {
                continue;
            }
            for place in offsets[key] as usize..offsets[key + 1] as usize {
                all.push(key, place);
            }
        }
        Ok(all)
    }

    fn push(&mut self, key: usize, place: usize) {
        self.pieces.push(SessionPiece {
            key: key as u32,
            start: self.parts[self.op.start][place] as i64,
            last: self.parts[self.op.last][place] as i64,
            place,
        });
    }

    /// Adds the partial results of a batch, each of one key and interval of the stream.
    fn add(&mut self, rows: &[RecordBatch], key_of: &[Vec<usize>]) -> Result<()> {
        for (rows, key_of) in rows.iter().zip(key_of) {
            let from = self.parts.first().map_or(0, Vec::len);
            let columns = &rows.columns()[self.op.keys + 1..];
            for (all, column) in self.parts.iter_mut().zip(columns) {
                all.extend_from_slice(&bits_of_partial(column)?);
            }
            for (key, place) in key_of.iter().zip(from..) {
                self.push(*key, place);
            }
        }
        // What was held first, then in order of arrival.
        self.pieces
            .sort_unstable_by_key(|piece| (piece.key, piece.start, piece.place));
        Ok(())
    }

    /// How many pieces from one on are of its session, and the time of its last record.
    fn session(&self, from: usize) -> (usize, i64) {
        let key = self.pieces[from].key;
        let of_key = self.pieces[from..].iter().take_while(|it| it.key == key);
        self.op.rule.session(of_key.map(|it| (it.start, it.last)))
    }

    /// Ends the sessions of a key, of these pieces, that are over with a batch; the others stay open. Returns how many
    /// records are late.
    fn end(
        &mut self,
        of_key: std::ops::Range<usize>,
        batch: BatchTime,
        emitted: &mut Emitted,
        open: &mut Combined,
    ) -> usize {
        let (mut from, mut late) = (of_key.start, 0);
        self.cuts.clear();
        while from < of_key.end {
            let (count, last) = self.session(from);
            let of = from..from + count;
            from = of.end;
            let was_open = self.pieces[of.clone()]
                .iter()
                .any(|it| it.place < self.held);
            match self.op.rule.status(last, batch) {
                SessionStatus::Open => self.keep_open(of, open),
                SessionStatus::WasOver if !was_open => late += self.late(of, emitted),
                SessionStatus::Over | SessionStatus::WasOver => {
                    emitted.push(self, &self.pieces[of], kind::ENDED);
                }
            }
        }
        late
    }

    /// A session that stays open, in items that are apart where earlier sessions are cut.
    fn keep_open(&mut self, of: std::ops::Range<usize>, open: &mut Combined) {
        let start = self.pieces[of.start].start;
        let cuts_before =
            |piece: &SessionPiece| self.cuts.partition_point(|cut| *cut <= piece.start);
        let items = self.pieces[of].chunk_by(|one, next| cuts_before(one) == cuts_before(next));
        for item in items {
            open.append(self, item);
        }
        self.cuts.extend(self.op.rule.cut(start));
    }

    /// Records that are late, by the intervals of the stream that they are in.
    fn late(&self, of: std::ops::Range<usize>, emitted: &mut Emitted) -> usize {
        let interval_of = |piece: &SessionPiece| self.op.rule.interval_of(piece.start);
        let (pieces, mut late) = (&self.pieces[of], 0);
        for item in pieces.chunk_by(|one, next| interval_of(one) == interval_of(next)) {
            emitted.push(self, item, kind::LATE);
            if let Some(start) = emitted.of.parts[self.op.start].last_mut() {
                *start = interval_of(&item[0]) as u64;
            }
            let count = emitted.of.parts[self.op.count].last();
            late += count.map_or(0, |count| *count as usize);
        }
        late
    }
}

impl Combined {
    fn len(&self) -> usize {
        self.parts.first().map_or(0, Vec::len)
    }

    /// Combines pieces, in their order, to one.
    fn append(&mut self, pieces: &SessionPieces<'_>, of: &[SessionPiece]) {
        let Some((first, rest)) = of.split_first() else {
            return;
        };
        self.parts.resize(pieces.parts.len(), Vec::new());
        let at = self.len();
        for (to, from) in self.parts.iter_mut().zip(&pieces.parts) {
            to.push(from[first.place]);
        }
        for piece in rest {
            for (column, combine) in pieces.combine.iter().enumerate().rev() {
                let earlier = |before: usize| self.parts[column - before][at];
                let later = |before: usize| pieces.parts[column - before][piece.place];
                self.parts[column][at] = combine.apply(earlier, later);
            }
        }
    }

    /// As columns of the parts.
    fn columns(mut self, held: &Schema) -> Result<Vec<ArrayRef>> {
        let fields = session_parts(held)?;
        self.parts.resize(fields.len(), Vec::new());
        let columns = self.parts.into_iter().zip(fields);
        columns
            .map(|(bits, field)| column_of(bits, field.data_type()))
            .collect()
    }
}

impl Emitted {
    fn push(&mut self, pieces: &SessionPieces<'_>, of: &[SessionPiece], kind: u8) {
        self.keys.extend(of.first().map(|piece| piece.key));
        self.kinds.push(kind);
        self.of.append(pieces, of);
    }
}
