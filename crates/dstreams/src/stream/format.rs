//! Formats of files that records are read from and written to.

use datafusion::arrow::datatypes::{DataType, Schema};

/// How records are laid out in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Each line of UTF-8 text is a record. To read only: the stream is one of `String`.
    Text,
    /// One JSON object a line, a member for each column. A null is a member that is missing. Numbers
    /// that JSON does not have (not a number, infinite) are written as null.
    JsonLines,
    /// Comma-separated values; the first line names the columns. Texts are quoted where they need to
    /// be, and may have line feeds. Lists do not fit. An empty field is a null where the column may
    /// have nulls, so an empty text in an `Option<String>` comes back as `None`.
    Csv,
    /// [Apache Parquet](https://parquet.apache.org/), written with Snappy; read with Snappy, Zstandard
    /// or LZ4. Needs the feature `parquet` of this crate.
    #[cfg(feature = "parquet")]
    Parquet,
}

impl Format {
    /// How names of such files end, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Text => "txt",
            Format::JsonLines => "jsonl",
            Format::Csv => "csv",
            #[cfg(feature = "parquet")]
            Format::Parquet => "parquet",
        }
    }

    /// Why files of this format cannot hold such columns, if they cannot.
    pub(crate) fn refuses(self, columns: &Schema) -> Option<String> {
        let nested = |kind: &DataType| kind.is_nested() || matches!(kind, DataType::Binary);
        let found = columns.fields().iter().find(|f| nested(f.data_type()));
        match (self, found) {
            (Format::Csv, Some(field)) => Some(format!(
                "CSV has no place for column `{}`, which is {}; use JSON lines or Parquet",
                field.name(),
                field.data_type()
            )),
            _ => None,
        }
    }
}
