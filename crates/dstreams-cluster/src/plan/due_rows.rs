//! A [`Due`] as a row, so that it travels as rows of a state do.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, UInt64Array};
use datafusion::arrow::datatypes::UInt64Type;
use dstreams::{Error, Result};
use dstreams_control::{BatchTime, Due};

/// One row: the two times.
pub fn due_rows(due: Due) -> Result<RecordBatch> {
    let time = |batch: BatchTime| Arc::new(UInt64Array::from(vec![batch.millis()])) as ArrayRef;
    let columns = [("from", time(due.from)), ("to", time(due.to))];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// From such a row.
pub fn due_of(rows: &RecordBatch) -> Result<Due> {
    let time = |column: usize| {
        let times = rows
            .columns()
            .get(column)?
            .as_primitive_opt::<UInt64Type>()?;
        times.iter().next().flatten().map(BatchTime)
    };
    match (time(0), time(1)) {
        (Some(from), Some(to)) => Ok(Due { from, to }),
        _ => Err(Error::Bytes {
            what: "what is due".into(),
            message: format!("they have the columns {:?}", rows.schema().fields()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_due_comes_back_from_its_row() {
        let due = Due {
            from: BatchTime(100),
            to: BatchTime(u64::MAX),
        };
        assert_eq!(due_of(&due_rows(due).unwrap()).unwrap(), due);
        let none = due_rows(due).unwrap().slice(0, 0);
        assert!(due_of(&none).unwrap_err().to_string().contains("due"));
    }
}
