//! Tables of whole numbers in files, column by column: what programs in any language read in one go.
//!
//! A file is little-endian 64-bit numbers: how many columns, how many rows, then one column after the other.

use std::fs::File;
use std::io::{BufWriter, Error, ErrorKind, Result, Write};
use std::path::Path;

/// A table of whole numbers, by column; all columns are equally long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns(pub Vec<Vec<i64>>);

impl Columns {
    /// A table without rows.
    pub fn new(columns: usize) -> Self {
        Self(vec![Vec::new(); columns])
    }

    /// Adds a row, which has a number for each column.
    pub fn push(&mut self, row: &[i64]) {
        for (column, value) in self.0.iter_mut().zip(row) {
            column.push(*value);
        }
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.0.first().map_or(0, Vec::len)
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes it to a file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        let mut write = |value: i64| file.write_all(&value.to_le_bytes());
        write(self.0.len() as i64)?;
        write(self.len() as i64)?;
        for column in &self.0 {
            column.iter().try_for_each(|value| write(*value))?;
        }
        file.flush()
    }

    /// Reads it from a file.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path)?;
        let (numbers, rest) = bytes.as_chunks::<8>();
        let mut numbers = numbers.iter().map(|bytes| i64::from_le_bytes(*bytes));
        let (columns, rows) = (numbers.next(), numbers.next());
        let (columns, rows) = (columns.unwrap_or(0) as usize, rows.unwrap_or(0) as usize);
        if !rest.is_empty() || numbers.len() != columns * rows {
            let message = format!("{} is not {columns} columns of {rows} rows", path.display());
            return Err(Error::new(ErrorKind::InvalidData, message));
        }
        let column = |_| numbers.by_ref().take(rows).collect();
        Ok(Self((0..columns).map(column).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_what_was_written() {
        let path = std::env::temp_dir().join(format!("columns-{}", std::process::id()));
        let mut table = Columns::new(2);
        for row in [[1, -2], [i64::MIN, i64::MAX], [0, 7]] {
            table.push(&row);
        }
        table.write(&path).unwrap();
        assert_eq!(Columns::read(&path).unwrap(), table);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 8]).unwrap();
        let error = Columns::read(&path).unwrap_err().to_string();
        assert!(error.contains("not 2 columns of 3 rows"), "{error}");
        std::fs::remove_file(&path).unwrap();
    }
}
