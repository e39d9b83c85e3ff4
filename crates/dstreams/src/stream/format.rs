//! Formats of files, for reading and writing records.

use datafusion::arrow::datatypes::Schema;

/// The format of records in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Each line of UTF-8 text is a record. Read-only: the stream has the type `String`.
    Text,
    /// One JSON object per line, with a member for each column. A null is a missing member. Numbers that JSON does
    /// not have (`NaN`, infinite) are written as null. Times are written as
    /// `2026-11-29T16:44:00.500Z`, and as `+300000-01-01T00:00:00Z` where the year has more digits; bytes and UUIDs as
    /// hexadecimal digits. What else is read is in the documentation of [`Files`](crate::files::Files).
    JsonLines,
    /// Comma-separated values; the first line names the columns. Text is quoted where needed and may contain line
    /// feeds. Lists are not supported; all other values are written as in JSON lines. An empty field is a null if the
    /// column is nullable, so an empty text in an `Option<String>`, and no bytes in an `Option<Bytes>`, come back as
    /// `None`.
    Csv,
    /// [Apache Parquet](https://parquet.apache.org/), written with Snappy; read with Snappy, Zstandard
    /// or LZ4. Needs the feature `parquet` of this crate.
    #[cfg(feature = "parquet")]
    Parquet,
}

impl Format {
    /// File name extension, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Text => "txt",
            Format::JsonLines => "jsonl",
            Format::Csv => "csv",
            #[cfg(feature = "parquet")]
            Format::Parquet => "parquet",
        }
    }

    /// Why files of this format cannot store such columns, if they cannot.
    pub(crate) fn refuses(self, columns: &Schema) -> Option<String> {
        let mut fields = columns.fields().iter();
        let found = fields.find(|field| field.data_type().is_nested());
        match (self, found) {
            (Format::Csv, Some(field)) => Some(format!(
                "CSV cannot represent column `{}`, which is {}; use JSON lines or Parquet",
                field.name(),
                field.data_type()
            )),
            _ => None,
        }
    }
}
