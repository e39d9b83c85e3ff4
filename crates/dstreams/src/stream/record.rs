//! Records: the elements of a stream, stored as rows of Arrow columns.
//!
//! A [`Record`] type defines its columns, a view of a row without a copy ([`Record::Ref`]), and how to append a row
//! to column builders. Numbers, `bool`, `String`, `Option`, `Vec` and tuples are records; structs become records by
//! `#[derive(Record)]`.
//!
//! Composite records are flat: each leaf is one column. A pair has the columns `key` and `value`, a longer tuple
//! `_1`, `_2`, ..., a struct its field names, a single value `value`. If such a part is itself composite, the names
//! are joined by `_`.

mod list;
mod number;
mod option;
mod text;
mod tuple;

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::buffer::{Buffer, NullBuffer};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::debug::debug_as;
use crate::error::{Error, Result};

pub use list::Items;
pub use text::TextBuilder;
pub(crate) use text::{trusted_views, view_at};

/// An element of a stream.
///
/// Derive it for structs with named fields:
///
/// ```
/// use dstreams::Record;
///
/// #[derive(Record)]
/// struct View { url: String, user: i64, referrer: Option<String> }
///
/// assert_eq!(View::schema().field(1).name(), "user");
/// ```
///
/// A column has the name of its field, with upper case, unless `#[record(name = "user-agent")]` gives it another name
/// for files, queries and aggregates. Queries must quote such names (`select "userId" from this`), since SQL reads
/// unquoted names in lower case.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a record",
    label = "not stored as columns",
    note = "derive it for a struct with named fields: `#[derive(dstreams::Record)]`",
    note = "numbers, `bool`, `String`, and `Option`s, `Vec`s and tuples of records are records; push borrowed text, or convert it to a `String`"
)]
pub trait Record: Send + Sync + Sized + 'static {
    /// A borrowed view of one row, passed to closures.
    type Ref<'a>: Copy;
    /// Typed access to the columns of one Arrow batch.
    type Cols: Columns<Self>;
    /// Builders of the columns.
    type Builder: Builder;

    /// Appends the leaf columns to `out`; `name` is empty at the top.
    fn fields(name: &str, out: &mut Vec<Field>);
    /// Makes an owned record from a row view.
    fn own(row: Self::Ref<'_>) -> Self;
    /// Appends an owned record.
    fn append(self, to: &mut Self::Builder);
    /// Appends a row view.
    fn append_ref(row: Self::Ref<'_>, to: &mut Self::Builder);

    /// The columns of this record as a schema.
    fn schema() -> SchemaRef {
        let mut fields = Vec::new();
        Self::fields("", &mut fields);
        Arc::new(Schema::new(fields))
    }
}

/// A record that can be a key: values are equal if their columns are.
///
/// Floating-point numbers cannot be keys (`NaN`, `-0.0`); convert them first.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a key",
    label = "cannot be a key",
    note = "keys are integers, `bool`, `String`, and `Option`s and tuples of keys; convert floating-point numbers first",
    note = "a struct becomes one by `#[derive(dstreams::Record)]` with `#[record(key)]`"
)]
pub trait Key: Record {}

/// A record of a single column, which may be null in an `Option` and may be an item of a `Vec`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not have exactly one column",
    label = "cannot be null or an item of a list",
    note = "`Option`s and `Vec`s contain numbers, `bool` or `String`; make the fields of a struct with `#[derive(dstreams::Record)]` optional, not the struct"
)]
pub trait Leaf: Record {
    /// Appends a null; the value underneath is unspecified.
    fn append_null(to: &mut Self::Builder);
}

/// Typed access to the columns of one Arrow batch. Types and nulls are checked once, when it is
/// made; reading a row cannot fail.
pub trait Columns<T: Record>: Sized + Send + Sync + 'static {
    /// Takes its columns from `reader`.
    fn try_new(reader: &mut ColumnReader<'_>) -> Result<Self>;
    /// The view of row `row`.
    ///
    /// # Panics
    /// When `row` is not below the number of rows.
    fn get(&self, row: usize) -> T::Ref<'_>;
}

/// Builders of the columns of a record.
pub trait Builder: Default + Send {
    /// Rows appended since the last `finish`.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Adds buffers that appended text may point into without being copied.
    fn attach(&mut self, _buffers: &[Buffer]) {}
    /// Appends the finished columns to `out`, and resets the builder.
    fn finish(&mut self, out: &mut Vec<ArrayRef>) -> Result<()>;
}

/// A value that can be appended as a record of type `U`: the record itself, or something
/// borrowed such as `&str` for `String`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be pushed as a `{U}`",
    label = "neither a `{U}` nor borrowed from one",
    note = "push the record itself, or its borrowed form, such as `&str` for `String`; for a tuple, a tuple of those"
)]
pub trait Push<U: Record> {
    /// Appends the value.
    fn push_to(self, to: &mut U::Builder);
}

/// Takes the results of a closure.
pub struct Out<'b, U: Record> {
    builder: &'b mut U::Builder,
}

debug_as!([U: Record] Out<'_, U>);

impl<'b, U: Record> Out<'b, U> {
    pub(crate) fn new(builder: &'b mut U::Builder) -> Self {
        Out { builder }
    }

    pub(crate) fn append(&mut self, record: U) {
        record.append(self.builder)
    }

    /// Appends one record.
    #[inline]
    pub fn push(&mut self, value: impl Push<U>) {
        value.push_to(self.builder)
    }
}

/// Returns the columns of a batch one by one.
pub struct ColumnReader<'a> {
    columns: &'a [ArrayRef],
    next: usize,
    nullable: bool,
}

debug_as!(ColumnReader<'_> { next, nullable });

impl<'a> ColumnReader<'a> {
    /// Reads `columns` from the first on.
    pub fn new(columns: &'a [ArrayRef]) -> Self {
        ColumnReader {
            columns,
            next: 0,
            nullable: false,
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

    /// The next column, which must be an `A`, without nulls unless they were allowed.
    pub fn column<A: Array + Clone + 'static>(&mut self, expected: &DataType) -> Result<A> {
        let index = self.next;
        self.next += 1;
        let nullable = std::mem::take(&mut self.nullable);
        let array = self.columns.get(index).ok_or_else(|| Error::Schema {
            what: format!("column {index}"),
            expected: expected.to_string(),
            found: "no column".into(),
        })?;
        if !nullable && array.null_count() > 0 {
            return Err(Error::Schema {
                what: format!("column {index}"),
                expected: format!("{expected} without nulls"),
                found: format!(
                    "{} null(s) in {} rows; use Option for a column with nulls",
                    array.null_count(),
                    array.len()
                ),
            });
        }
        let typed = array.as_any().downcast_ref::<A>();
        typed.cloned().ok_or_else(|| Error::Schema {
            what: format!("column {index}"),
            expected: expected.to_string(),
            found: array.data_type().to_string(),
        })
    }
}

/// Typed columns of a whole batch.
pub(crate) fn columns_of<T: Record>(batch: &RecordBatch) -> Result<T::Cols> {
    T::Cols::try_new(&mut ColumnReader::new(batch.columns()))
}

/// Makes a batch of the appended rows.
pub(crate) fn finish_batch<B: Builder>(schema: &SchemaRef, builder: &mut B) -> Result<RecordBatch> {
    let rows = builder.len();
    let mut columns = Vec::with_capacity(schema.fields().len());
    builder.finish(&mut columns)?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &options,
    )?)
}

/// One Arrow batch of owned records.
pub fn batch_of<T: Record>(rows: impl IntoIterator<Item = T>) -> Result<RecordBatch> {
    let mut builder = T::Builder::default();
    for row in rows {
        row.append(&mut builder);
    }
    finish_batch(&T::schema(), &mut builder)
}

/// The owned records of an Arrow batch whose columns are those of `T`.
pub fn records_of<T: Record>(batch: &RecordBatch) -> Result<Vec<T>> {
    let columns = columns_of::<T>(batch)?;
    Ok((0..batch.num_rows())
        .map(|row| T::own(columns.get(row)))
        .collect())
}

/// Name of a leaf or a nested record: `inner` below `outer`.
pub fn field_name(outer: &str, inner: &str) -> String {
    match (outer.is_empty(), inner.starts_with('_')) {
        (true, _) => inner.to_owned(),
        (false, true) => format!("{outer}{inner}"),
        (false, false) => format!("{outer}_{inner}"),
    }
}

/// Name of a single column: `value` at the top.
pub(crate) fn leaf_name(name: &str) -> &str {
    if name.is_empty() { "value" } else { name }
}
