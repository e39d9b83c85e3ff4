//! [`ColumnReader`]: hands out the columns of a batch, and checks their types and nulls.

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch};
use datafusion::arrow::buffer::{BooleanBuffer, NullBuffer};
use datafusion::arrow::datatypes::{DataType, Schema};

use crate::debug::debug_as;
use crate::error::{Error, Result};

/// Returns the columns of a batch one by one.
pub struct ColumnReader<'a> {
    columns: &'a [ArrayRef],
    /// Where the columns have names.
    names: Option<&'a Schema>,
    next: usize,
    nullable: bool,
    /// The rows that are there, below an `Option` of several columns; all of them without one.
    present: Option<BooleanBuffer>,
}

debug_as!(ColumnReader<'_> { next, nullable });

impl<'a> ColumnReader<'a> {
    /// Reads `columns` from the first on.
    pub fn new(columns: &'a [ArrayRef]) -> Self {
        ColumnReader {
            columns,
            names: None,
            next: 0,
            nullable: false,
            present: None,
        }
    }

    /// Reads the columns of `batch`.
    pub(super) fn of(batch: &'a RecordBatch) -> Self {
        ColumnReader {
            names: Some(batch.schema_ref()),
            ..Self::new(batch.columns())
        }
    }

    /// The nulls of the next column.
    pub fn peek_nulls(&self) -> Option<NullBuffer> {
        self.columns.get(self.next)?.logical_nulls()
    }

    /// Allows nulls in the next column.
    pub fn allow_null(&mut self) {
        self.nullable = true;
    }

    /// Reads columns that may be null in the rows that are not `there`.
    pub fn lenient<R>(
        &mut self,
        present: &BooleanBuffer,
        read: impl FnOnce(&mut Self) -> Result<R>,
    ) -> Result<R> {
        let inner = match &self.present {
            None => present.clone(),
            Some(outer) => outer & present,
        };
        let outer = self.present.replace(inner);
        let read = read(self);
        self.present = outer;
        read
    }

    /// The rows that are there; all of them if `None`.
    pub(super) fn present(&self) -> Option<&BooleanBuffer> {
        self.present.as_ref()
    }

    /// The next column, which must be an `A`, without nulls unless they were allowed.
    pub fn column<A: Array + Clone + 'static>(&mut self, expected: &DataType) -> Result<A> {
        let index = self.next;
        self.next += 1;
        let nullable = std::mem::take(&mut self.nullable);
        let name = || match self.names.and_then(|names| names.fields().get(index)) {
            Some(field) => format!("column `{}`", field.name()),
            None => format!("column {index}"),
        };
        let array = self.columns.get(index).ok_or_else(|| Error::Schema {
            what: name(),
            expected: expected.to_string(),
            found: "no column".into(),
        })?;
        let nulls = match nullable {
            true => 0,
            false => self.nulls_there(array),
        };
        if nulls > 0 {
            return Err(Error::Schema {
                what: name(),
                expected: format!("{expected} without nulls"),
                found: format!(
                    "{nulls} null(s) in {} rows; use Option for a column with nulls",
                    array.len()
                ),
            });
        }
        let typed = array.as_any().downcast_ref::<A>();
        typed.cloned().ok_or_else(|| Error::Schema {
            what: name(),
            expected: expected.to_string(),
            found: array.data_type().to_string(),
        })
    }

    fn nulls_there(&self, array: &ArrayRef) -> usize {
        match (array.null_count(), array.nulls(), &self.present) {
            (0, ..) => 0,
            (_, Some(nulls), Some(present)) => (present & &!nulls.inner()).count_set_bits(),
            (nulls, ..) => nulls,
        }
    }
}
