//! [`Initial`]: the initial rows of a state.

use std::collections::HashSet;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::row::{RowConverter, Rows, SortField};
use datafusion::arrow::util::display::array_value_to_string;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::far_times::with_far_times_as_text;
use super::record::{Key, Record, batch_of};
use crate::error::{Error, Result};

/// Initial rows of a state: keys, then values; each key once.
#[derive(Clone)]
pub(crate) struct Initial {
    pub rows: RecordBatch,
    /// Hash of all rows in order, to compare the processes of a cluster.
    digest: u64,
}

impl Initial {
    pub fn new<K: Key, S: Record>(rows: impl IntoIterator<Item = (K, S)>) -> Result<Self> {
        let rows = batch_of(rows)?;
        let keys: Vec<usize> = (0..K::schema().fields().len()).collect();
        let keys = rows.project(&keys)?;
        let mut seen = HashSet::with_capacity(rows.num_rows());
        let bytes = as_bytes(&keys)?;
        for (row, key) in bytes.iter().enumerate() {
            if !seen.insert(key) {
                let key = keys.slice(row, 1);
                let key = with_far_times_as_text(&key)?;
                let texts = key.columns().iter();
                let texts = texts.map(|column| array_value_to_string(column, 0));
                return Err(Error::Schema {
                    what: "initial rows of a state".into(),
                    expected: "each key once".into(),
                    found: format!(
                        "`{}` again",
                        texts.collect::<Result<Vec<_>, _>>()?.join(", ")
                    ),
                });
            }
        }
        let all = as_bytes(&rows)?;
        let digest = all
            .iter()
            .fold(0, |digest, row| xxh3_64_with_seed(row.as_ref(), digest));
        Ok(Initial { rows, digest })
    }

    /// Describes the rows: equal for equal rows.
    pub fn describe(&self) -> String {
        format!("{} rows, {:016x}", self.rows.num_rows(), self.digest)
    }
}

fn as_bytes(rows: &RecordBatch) -> Result<Rows> {
    let kinds = rows
        .columns()
        .iter()
        .map(|column| column.data_type().clone());
    let converter = RowConverter::new(kinds.map(SortField::new).collect())?;
    Ok(converter.convert_columns(rows.columns())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::record::Millis;

    #[test]
    fn a_key_that_is_there_twice_is_named() {
        let twice = [
            (Millis(i64::MAX), 1i64),
            (Millis(0), 2),
            (Millis(i64::MAX), 3),
        ];
        let why = Initial::new(twice).err().unwrap().to_string();
        assert!(
            why.contains("`+292278994-08-17T07:12:55.807Z` again"),
            "{why}"
        );
    }
}
