//! Rows of a state in columns: keys, values, and the last event of each key.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array, UInt64Array,
};
use datafusion::arrow::buffer::ScalarBuffer;
use datafusion::arrow::compute::{filter, take};
use dstreams_control::BatchTime;

use super::keys::KeyColumns;
use super::shape::Shape;
use crate::encoding::compact_column;
use crate::error::Result;

/// The batch of the last event of each row's key.
#[derive(Debug, Clone)]
pub(super) enum Last {
    /// The same for all rows: most deltas, which then need no column for it.
    Same(BatchTime),
    Each(ScalarBuffer<u64>),
}

impl Last {
    pub fn of(times: ScalarBuffer<u64>) -> Self {
        match times.first() {
            Some(first) if times.iter().all(|time| time == first) => Last::Same(BatchTime(*first)),
            _ => Last::Each(times),
        }
    }

    #[inline]
    pub fn at(&self, row: usize) -> BatchTime {
        match self {
            Last::Same(time) => *time,
            Last::Each(times) => BatchTime(times[row]),
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Last::Same(_) => 0,
            Last::Each(times) => times.inner().capacity(),
        }
    }
}

/// Some rows. Cheap to clone: the columns are shared.
#[derive(Debug, Clone)]
pub(super) struct RowChunk {
    pub keys: KeyColumns,
    /// Empty for deleted keys.
    pub values: Vec<ArrayRef>,
    pub last: Last,
}

impl RowChunk {
    /// The rows of a batch with a state's columns, in buffers of their own. They are due by their last events,
    /// unless the state has another rule.
    pub fn new(shape: &Shape, rows: &RecordBatch, last: Last) -> Result<Self> {
        let last = shape.due(rows).unwrap_or(last);
        let (keys, values) = rows.columns().split_at(shape.key_columns_len());
        let values = values.iter().map(owned).collect::<Result<_>>()?;
        Ok(RowChunk {
            keys: own_keys(shape.keys(keys)?)?,
            values,
            last,
        })
    }

    /// Keys without values.
    pub fn of_keys(shape: &Shape, keys: &[ArrayRef], batch: BatchTime) -> Result<Self> {
        Ok(RowChunk {
            keys: own_keys(shape.keys(keys)?)?,
            values: Vec::new(),
            last: Last::Same(batch),
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
            last: match &self.last {
                Last::Same(time) => Last::Same(*time),
                Last::Each(times) => Last::of(times[from..from + rows].to_vec().into()),
            },
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
            last: match &self.last {
                Last::Same(time) => Last::Same(*time),
                Last::Each(times) => {
                    let rows = times.iter().zip(shown.values());
                    Last::of(
                        rows.filter(|(_, shown)| *shown)
                            .map(|(time, _)| *time)
                            .collect(),
                    )
                }
            },
        })
    }

    /// Keys and values, as a batch with the state's columns.
    pub fn batch(&self, shape: &Shape) -> Result<RecordBatch> {
        let mut columns = shape.key_columns(&self.keys)?;
        columns.extend(self.values.iter().cloned());
        shape.rows(columns)
    }

    /// The batch of each row's last event.
    pub fn last(&self) -> UInt64Array {
        match &self.last {
            Last::Same(time) => UInt64Array::from(vec![time.0; self.rows()]),
            Last::Each(times) => UInt64Array::new(times.clone(), None),
        }
    }

    pub fn key_bytes(&self) -> usize {
        self.keys.array().get_buffer_memory_size()
    }

    /// Bytes of values and last events.
    pub fn value_bytes(&self) -> usize {
        let values = self.values.iter().map(|c| c.get_buffer_memory_size());
        values.sum::<usize>() + self.last.bytes()
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
