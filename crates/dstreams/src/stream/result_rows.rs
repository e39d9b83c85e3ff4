//! The rows that aggregates by event time tell with a batch, and the streams that select from them.
//!
//! There is one row for each result that is first emitted, corrected or final with the batch: the key (the interval
//! first), the version, the kind, the result, and what the result was before the batch, with nulls where there was
//! none.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int8Array, RecordBatch, UInt64Array,
};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::{concat, filter_record_batch, take};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt8Type, UInt32Type};
use dstreams_control::BatchTime;

use super::rows::{RowsFn, RowsTask};
use crate::error::Result;

/// The result is emitted for the first time, when the slack of its interval ends.
pub(crate) const FIRST: u8 = 1;
/// The result is emitted after that, because records changed it.
pub(crate) const CORRECTED: u8 = 2;
/// The result is final.
pub(crate) const FINAL: u8 = 4;

/// The columns of these rows.
#[derive(Debug, Clone)]
pub(crate) struct ResultRows {
    keys: usize,
    results: usize,
    schema: SchemaRef,
}

impl ResultRows {
    /// For results with the columns of `results`, of which the first `keys` are the key.
    pub fn new(results: &Schema, keys: usize) -> Self {
        let (key, results) = results.fields().split_at(keys);
        let fields =
            |of: &[Arc<Field>]| of.iter().map(|it| it.as_ref().clone()).collect::<Vec<_>>();
        let mut all = fields(key);
        all.push(Field::new("", DataType::UInt32, false));
        all.push(Field::new("", DataType::UInt8, false));
        all.extend(fields(results));
        all.extend(
            fields(results)
                .into_iter()
                .map(|field| field.with_nullable(true)),
        );
        let named = all.into_iter().enumerate();
        let named = named.map(|(at, field)| field.with_name(format!("${at}")));
        ResultRows {
            keys,
            results: results.len(),
            schema: Arc::new(Schema::new(named.collect::<Vec<_>>())),
        }
    }

    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn kind(&self) -> usize {
        self.keys + 1
    }

    fn after(&self) -> Range<usize> {
        let from = self.keys + 2;
        from..from + self.results
    }

    fn before(&self) -> Range<usize> {
        let from = self.after().end;
        from..from + self.results
    }
}

/// The columns of a stream of emitted rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Showing {
    /// Key and result.
    Results,
    /// Key, version and result.
    Versions,
    /// Key, version, what the result was (after whether it was, unless nulls say that), and what it is.
    Corrections { with_is: bool },
    /// What a changed result was, with -1, and what it is, with +1: sign, key and result.
    Signed,
}

/// Selects emitted rows of some kinds.
#[derive(Clone)]
pub(super) struct Select {
    pub emitted: ResultRows,
    /// The kinds.
    pub kinds: u8,
    pub showing: Showing,
    pub schema: SchemaRef,
}

impl RowsFn for Select {
    fn start(&self, _: BatchTime) -> Box<dyn RowsTask> {
        Box::new(self.clone())
    }
}

impl RowsTask for Select {
    fn run(&mut self, input: &RecordBatch, _: usize, _: usize) -> Result<(RecordBatch, usize)> {
        let kinds = input
            .column(self.emitted.kind())
            .as_primitive::<UInt8Type>();
        let wanted: BooleanArray = (kinds.values().iter())
            .map(|kind| Some(kind & self.kinds > 0))
            .collect();
        let rows = filter_record_batch(input, &wanted)?;
        let columns = rows.columns();
        let results = &columns[self.emitted.after()];
        let keys = &columns[..self.emitted.keys];
        let columns = match self.showing {
            Showing::Results => [keys, results].concat(),
            Showing::Versions => [&columns[..=self.emitted.keys], results].concat(),
            Showing::Corrections { with_is } => {
                let mut all = columns[..=self.emitted.keys].to_vec();
                let versions = columns[self.emitted.keys]
                    .as_primitive::<UInt32Type>()
                    .values();
                let was = BooleanBuffer::collect_bool(versions.len(), |row| versions[row] > 1);
                let is = with_is.then(|| Arc::new(BooleanArray::new(was, None)) as ArrayRef);
                all.extend(is);
                all.extend_from_slice(&columns[self.emitted.before()]);
                all.extend_from_slice(results);
                all
            }
            Showing::Signed => self.signed(&rows)?,
        };
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        Ok((rows, input.num_rows()))
    }
}

impl Select {
    fn signed(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let count = rows.num_rows() as u64;
        let versions = rows.column(self.emitted.keys).as_primitive::<UInt32Type>();
        let (mut signs, mut keys, mut results) = (Vec::new(), Vec::new(), Vec::new());
        for (row, version) in (0u64..).zip(versions.values()) {
            if *version > 1 {
                signs.push(-1);
                keys.push(row);
                results.push(count + row);
            }
            signs.push(1);
            keys.push(row);
            results.push(row);
        }
        let (keys, results) = (UInt64Array::from(keys), UInt64Array::from(results));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int8Array::from(signs))];
        for key in &rows.columns()[..self.emitted.keys] {
            columns.push(take(key, &keys, None)?);
        }
        for (after, before) in self.emitted.after().zip(self.emitted.before()) {
            let both = concat(&[rows.column(after).as_ref(), rows.column(before).as_ref()])?;
            columns.push(take(&both, &results, None)?);
        }
        Ok(columns)
    }
}
