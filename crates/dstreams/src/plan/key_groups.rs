//! [`KeyGroups`] numbers the keys of a partition; [`GroupedRows`] finds the rows of each.
//!
//! Keys are equal as in DataFusion's grouping, so null equals null.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::Schema;
use datafusion::error::Result as EngineResult;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;

use crate::error::{Error, Operator};
use crate::group::KeyTable;

/// Numbers for keys: equal keys have the same number, whichever input they are from.
pub(super) struct KeyGroups {
    table: KeyTable,
    keys: usize,
    numbers: Vec<usize>,
}

impl KeyGroups {
    /// For rows whose first `keys` columns are the key.
    pub fn new(schema: &Schema, keys: usize) -> EngineResult<Self> {
        let schema = Schema::new(schema.fields()[..keys].to_vec());
        Ok(KeyGroups {
            table: KeyTable::new(&schema.into())?,
            keys,
            numbers: Vec::new(),
        })
    }

    /// The number of each row's key, below [`KeyGroups::len`].
    pub fn numbers(&mut self, rows: &RecordBatch) -> EngineResult<&[usize]> {
        let keys = &rows.columns()[..self.keys];
        self.table.number(keys, &mut self.numbers)?;
        Ok(&self.numbers)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }
}

/// All rows of an input, in their order, and the places of those of each key.
pub(super) struct GroupedRows {
    pub rows: RecordBatch,
    /// The number of each row's key.
    key_of: Vec<u32>,
    /// The places of rows by the number of their keys, in order for each.
    places: Vec<u32>,
    /// Where the places of each number begin in `places`, and where the last ones end.
    starts: Vec<u32>,
}

impl GroupedRows {
    /// Reads an input to its end.
    pub async fn read(
        mut input: SendableRecordBatchStream,
        keys: &mut KeyGroups,
        operator: &Operator,
    ) -> EngineResult<Self> {
        let (mut batches, mut key_of) = (Vec::new(), Vec::new());
        while let Some(rows) = input.next().await {
            let rows = rows?;
            if key_of.len() + rows.num_rows() > u32::MAX as usize {
                return Err(too_many_rows(operator).into());
            }
            // Cannot truncate: there are not more keys than rows.
            key_of.extend(keys.numbers(&rows)?.iter().map(|number| *number as u32));
            batches.push(rows);
        }
        let rows = concat_batches(&input.schema(), &batches)?;
        let mut starts = vec![0; keys.len() + 1];
        for number in &key_of {
            starts[*number as usize + 1] += 1;
        }
        for number in 1..starts.len() {
            starts[number] += starts[number - 1];
        }
        let (mut next, mut places) = (starts.clone(), vec![0; key_of.len()]);
        for (row, number) in key_of.iter().enumerate() {
            let next = &mut next[*number as usize];
            places[*next as usize] = row as u32;
            *next += 1;
        }
        Ok(GroupedRows {
            rows,
            key_of,
            places,
            starts,
        })
    }

    /// The rows of the key with a number, in order.
    pub fn of(&self, number: usize) -> &[u32] {
        match self.starts.get(number..number + 2) {
            Some(&[from, to]) => &self.places[from as usize..to as usize],
            // A key that came later.
            _ => &[],
        }
    }

    /// The number of each row's key.
    pub fn key_of(&self) -> &[u32] {
        &self.key_of
    }
}

fn too_many_rows(operator: &Operator) -> Error {
    Error::Record {
        operator: operator.clone(),
        message: "one partition of a batch has more than 4,294,967,295 records; use more threads \
                  (`Config::threads`), or a shorter interval"
            .into(),
    }
}
