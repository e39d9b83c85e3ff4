//! Rows of a state in columns: keys, values, and the times of each key.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{filter, take};
use dstreams_control::BatchTime;

use super::keys::KeyColumns;
use super::shape::Shape;
use super::times::{RowTimes, TimeColumn};
use crate::encoding::compact_column;
use crate::error::Result;

/// Some rows. Cheap to clone: the columns are shared.
#[derive(Debug, Clone)]
pub(super) struct RowChunk {
    pub keys: KeyColumns,
    /// Empty for deleted keys.
    pub values: Vec<ArrayRef>,
    pub times: RowTimes,
}

impl RowChunk {
    /// The rows of a batch with a state's columns, in buffers of their own. They are due by their times, unless that
    /// follows from their columns.
    pub fn new(shape: &Shape, rows: &RecordBatch, mut times: RowTimes) -> Result<Self> {
        if let Some(due) = shape.due(rows) {
            times.last = due;
        }
        let (keys, values) = rows.columns().split_at(shape.key_columns_len());
        let values = values.iter().map(owned).collect::<Result<_>>()?;
        Ok(RowChunk {
            keys: own_keys(shape.keys(keys)?)?,
            values,
            times,
        })
    }

    /// Keys without values.
    pub fn of_keys(shape: &Shape, keys: &[ArrayRef], batch: BatchTime) -> Result<Self> {
        Ok(RowChunk {
            keys: own_keys(shape.keys(keys)?)?,
            values: Vec::new(),
            times: RowTimes::new(shape, TimeColumn::Same(batch)),
        })
    }

    pub fn rows(&self) -> usize {
        self.keys.len()
    }

    /// A copy of consecutive rows.
    pub fn slice(&self, from: usize, rows: usize) -> Result<Self> {
        let values = self.values.iter();
        let values = values.map(|column| owned(&column.slice(from, rows)));
        Ok(RowChunk {
            keys: own_keys(KeyColumns::new(self.keys.array().slice(from, rows))?)?,
            values: values.collect::<Result<_>>()?,
            times: self.times.slice(from, rows),
        })
    }

    /// The rows in the mask `shown`, in order; a clone if all are. Strings still point into its buffers.
    pub fn shown(&self, shown: &BooleanArray) -> Result<Self> {
        if shown.true_count() == self.rows() {
            return Ok(self.clone());
        }
        let values = self.values.iter();
        let values = values.map(|column| Ok(filter(column, shown)?));
        Ok(RowChunk {
            keys: KeyColumns::new(filter(self.keys.array(), shown)?)?,
            values: values.collect::<Result<_>>()?,
            times: self.times.shown(shown),
        })
    }

    /// Keys and values, as a batch with the state's columns.
    pub fn batch(&self, shape: &Shape) -> Result<RecordBatch> {
        let mut columns = shape.key_columns(&self.keys)?;
        columns.extend(self.values.iter().cloned());
        shape.rows(columns)
    }

    pub fn key_bytes(&self) -> usize {
        self.keys.array().get_buffer_memory_size()
    }

    /// Bytes of values and times.
    pub fn value_bytes(&self) -> usize {
        let values = self.values.iter().map(|c| c.get_buffer_memory_size());
        values.sum::<usize>() + self.times.bytes()
    }
}

/// Rows with a mask. Cheap to create: rows are shared, and copied when needed.
#[derive(Debug)]
pub(super) struct MaskedRows {
    pub piece: RowChunk,
    /// The mask; none if all rows are shown.
    pub rows: Option<BooleanArray>,
}

impl MaskedRows {
    pub fn all(piece: RowChunk) -> Self {
        MaskedRows { piece, rows: None }
    }

    /// The rows in the mask, in order.
    pub fn shown(&self) -> Result<RowChunk> {
        match &self.rows {
            Some(rows) => self.piece.shown(rows),
            None => Ok(self.piece.clone()),
        }
    }
}

fn own_keys(keys: KeyColumns) -> Result<KeyColumns> {
    let array = owned(keys.array())?;
    match Arc::ptr_eq(&array, keys.array()) {
        true => Ok(keys),
        false => KeyColumns::new(array),
    }
}

/// The column in buffers of its own: a slice, or a view, would retain the whole array it was cut from.
pub(super) fn owned(column: &ArrayRef) -> Result<ArrayRef> {
    let column = compact_column(column)?;
    let needed = column.to_data().get_slice_memory_size()?;
    // Buffers are rounded up to 64 bytes.
    if column.get_buffer_memory_size() <= needed + needed / 8 + 256 {
        return Ok(column);
    }
    let all = UInt32Array::from_iter_values(0..column.len() as u32);
    Ok(take(&column, &all, None)?)
}
