//! [`Marked`]: of what a state gives, the rows that one of its readers wants.

use datafusion::arrow::array::{AsArray, BooleanArray, RecordBatch};
use datafusion::arrow::compute::{filter_record_batch, not};

use crate::error::Result;
use crate::stream::rows::{RowsFn, RowsTask};

/// Keeps what the last column says is the whole state, or what it says is not, without that column.
#[derive(Clone)]
pub(super) struct Marked {
    pub whole: bool,
}

impl RowsFn for Marked {
    fn start(&self) -> Box<dyn RowsTask> {
        Box::new(self.clone())
    }
}

impl RowsTask for Marked {
    fn run(&mut self, input: &RecordBatch, from: usize, _: usize) -> Result<(RecordBatch, usize)> {
        let rows = input.slice(from, input.num_rows() - from);
        let last = rows.num_columns() - 1;
        let whole: &BooleanArray = rows.column(last).as_boolean();
        let wanted = match self.whole {
            true => whole.clone(),
            false => not(whole)?,
        };
        let columns: Vec<usize> = (0..last).collect();
        let rows = filter_record_batch(&rows.project(&columns)?, &wanted)?;
        Ok((rows, input.num_rows()))
    }
}
