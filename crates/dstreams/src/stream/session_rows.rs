//! What sessions do to rows before and after their state.

use std::marker::PhantomData;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{Int64Type, SchemaRef, UInt8Type};
use dstreams_control::BatchTime;

use super::record::{ColumnReader, Columns, Record};
use super::rows::{Closure, RowsFn, RowsTask};
use super::session_rule::{SessionRule, SessionStatus};
use crate::error::Result;

/// Adds the event times of records, and the intervals that these are in, behind their keys.
pub(super) struct OwnTimes<V, F> {
    pub time: Arc<F>,
    pub rule: SessionRule,
    pub skip: usize,
    pub schema: SchemaRef,
    pub value: PhantomData<fn() -> V>,
}

impl<V: Record, F: for<'a> Fn(V::Ref<'a>) -> i64 + Closure> RowsFn for OwnTimes<V, F> {
    fn start(&self, _: BatchTime) -> Box<dyn RowsTask> {
        Box::new(OwnTimes::<V, F> {
            time: Arc::clone(&self.time),
            schema: Arc::clone(&self.schema),
            ..*self
        })
    }

    fn unchanged_columns(&self) -> usize {
        self.skip
    }
}

impl<V: Record, F: for<'a> Fn(V::Ref<'a>) -> i64 + Closure> RowsTask for OwnTimes<V, F> {
    fn run(&mut self, input: &RecordBatch, _: usize, _: usize) -> Result<(RecordBatch, usize)> {
        let rows = input.num_rows();
        let (keys, values) = input.columns().split_at(self.skip);
        let of = V::Cols::try_new(&mut ColumnReader::new(values))?;
        let times: Int64Array = (0..rows).map(|row| (self.time)(of.get(row))).collect();
        let intervals = times.values().iter();
        let intervals = intervals.map(|time| self.rule.interval_of(*time));
        let intervals = Int64Array::from_iter_values(intervals);
        let mut columns = keys.to_vec();
        columns.push(Arc::new(intervals) as ArrayRef);
        columns.push(Arc::new(times));
        columns.extend_from_slice(values);
        Ok((
            RecordBatch::try_new(Arc::clone(&self.schema), columns)?,
            rows,
        ))
    }
}

/// Selects the records whose own session would have ended with an earlier batch, without their times.
#[derive(Clone)]
pub(super) struct PerhapsLate {
    pub keys: usize,
    pub rule: SessionRule,
    pub schema: SchemaRef,
}

struct PerhapsLateTask(PerhapsLate, BatchTime);

impl RowsFn for PerhapsLate {
    fn start(&self, at: BatchTime) -> Box<dyn RowsTask> {
        Box::new(PerhapsLateTask(self.clone(), at))
    }

    fn unchanged_columns(&self) -> usize {
        self.keys
    }
}

impl RowsTask for PerhapsLateTask {
    fn run(&mut self, input: &RecordBatch, _: usize, _: usize) -> Result<(RecordBatch, usize)> {
        let PerhapsLateTask(of, batch) = self;
        let mut columns = input.columns().to_vec();
        let times = columns.remove(of.keys + 1);
        let times = times.as_primitive::<Int64Type>().values();
        let is_old = |row| of.rule.status(times[row], *batch) == SessionStatus::WasOver;
        let old = BooleanBuffer::collect_bool(times.len(), is_old);
        let rows = RecordBatch::try_new(Arc::clone(&of.schema), columns)?;
        let rows = filter_record_batch(&rows, &BooleanArray::new(old, None))?;
        Ok((rows, input.num_rows()))
    }
}

/// Drops the column with the interval.
#[derive(Clone)]
pub(super) struct WithoutInterval {
    pub keys: usize,
    pub schema: SchemaRef,
}

impl RowsFn for WithoutInterval {
    fn start(&self, _: BatchTime) -> Box<dyn RowsTask> {
        Box::new(self.clone())
    }

    fn unchanged_columns(&self) -> usize {
        self.keys
    }
}

impl RowsTask for WithoutInterval {
    fn run(&mut self, input: &RecordBatch, _: usize, _: usize) -> Result<(RecordBatch, usize)> {
        let mut columns = input.columns().to_vec();
        columns.remove(self.keys);
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        Ok((rows, input.num_rows()))
    }
}

/// Selects what a batch emits of one kind.
#[derive(Clone)]
pub(super) struct OfOneKind {
    pub keys: usize,
    pub kind: u8,
    pub schema: SchemaRef,
}

impl RowsFn for OfOneKind {
    fn start(&self, _: BatchTime) -> Box<dyn RowsTask> {
        Box::new(self.clone())
    }
}

impl RowsTask for OfOneKind {
    fn run(&mut self, input: &RecordBatch, _: usize, _: usize) -> Result<(RecordBatch, usize)> {
        let mut columns = input.columns().to_vec();
        let kinds = columns.remove(self.keys);
        let kinds = kinds.as_primitive::<UInt8Type>().values();
        let wanted = BooleanBuffer::collect_bool(kinds.len(), |row| kinds[row] == self.kind);
        columns.truncate(self.schema.fields().len());
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        let rows = filter_record_batch(&rows, &BooleanArray::new(wanted, None))?;
        Ok((rows, input.num_rows()))
    }
}
