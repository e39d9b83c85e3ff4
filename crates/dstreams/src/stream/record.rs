//! Records: the elements of a stream, stored as rows of Arrow columns.
//!
//! A [`Record`] type defines its columns, a view of a row without a copy ([`Record::Ref`]), and how to append a row
//! to column builders. Numbers, `bool`, `String`, `Option`, `Vec` and tuples are records; structs become records by
//! `#[derive(Record)]`.
//!
//! Composite records are flat: each leaf is one column. A pair has the columns `key` and `value`, a longer tuple
//! `_1`, `_2`, ..., a struct its field names, a single value `value`. If such a part is itself composite, the names
//! are joined by `_`. An `Option` of a composite record has a column `_is` before those of the record, and a `Vec` of
//! one is a column of structs.

mod bytes;
mod column_reader;
mod items;
mod list;
mod number;
mod option;
mod scalars;
mod text;
mod tuple;
mod variants;

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::{Field, SchemaRef};

use crate::debug::debug_as;
use crate::error::Result;

pub use bytes::{Bytes, Uuid};
pub use column_reader::ColumnReader;
pub(crate) use items::{refits, refitted};
pub use list::Items;
pub use scalars::{Date, Decimal, Millis};
pub use text::TextBuilder;
pub(crate) use text::{trusted_views, view_at};
pub(crate) use variants::{AllowedTexts, checked_schema, plain_field, plain_schema};
pub use variants::{VariantCols, Variants, variant_field};

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
/// An enum without fields is a column of text, and a key. Its variants are `Copy`.
///
/// ```
/// use dstreams::{Record, StreamContext};
///
/// #[derive(Record, Clone, Copy, PartialEq)]
/// enum Level { Info, Warn, #[record(name = "fatal")] Fatal }
///
/// #[derive(Record)]
/// struct Line { level: Level, text: String }
///
/// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
/// let (_, lines) = ctx.queue::<Line>("lines");
/// let bad = lines.filter(|line| line.level != Level::Info);
/// let counts = lines.sql::<(Level, i64)>("select level, count(*) from this group by level")?;
/// # bad.print(1); counts.print(1);
/// # Ok::<(), dstreams::Error>(())
/// ```
///
/// In JSON lines and CSV, a text that names no variant makes its line a dead letter. Elsewhere it is an error with the
/// text, when the rows are read.
///
/// # Records that may be absent, and lists of records
///
/// Any record may be in an `Option` or a `Vec`, in any combination.
///
/// | type | columns of a field `x` |
/// |---|---|
/// | `Option<i64>` | `x`, with nulls |
/// | `Option<(String, i64)>` | `x_is: Boolean`, then `x_key` and `x_value`, which are null where `x_is` is false |
/// | `Option<Option<i64>>` | `x_is: Boolean`, then `x`, with nulls |
/// | `Option<Option<(String, i64)>>` | `x_is`, then `x_some_is`, `x_some_key`, `x_some_value`: names are unique |
/// | `Vec<i64>` | `x: List<Int64>` |
/// | `Vec<Option<i64>>` | `x: List<Int64>`, whose items may be null |
/// | `Vec<(String, i64)>` | `x: List<Struct<key, value>>` |
/// | `Vec<Vec<i64>>` | `x: List<List<Int64>>` |
///
/// Rows of an outer join in SQL are read as an `Option` if the query says which rows are there: `v.key is not null as
/// x_is`. Where `x_is` is true, a column is null only if its own type is an `Option`; another null is an error when
/// the rows are read. Queries read lists by `unnest(x)` and `x[1]['key']`, and make them by `array_agg`.
///
/// ```
/// use dstreams::Record;
///
/// #[derive(Record)]
/// struct Visit { user: i64, from: Option<(String, u16)>, views: Vec<(String, i64)> }
///
/// let schema = Visit::schema();
/// let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
/// assert_eq!(names, ["user", "from_is", "from_key", "from_value", "views"]);
/// ```
///
/// # Names
///
/// A column has the name of its field, with upper case, unless `#[record(name = "user-agent")]` gives it another name
/// for files, queries and aggregates. Queries must quote such names (`select "userId" from this`), since SQL reads
/// unquoted names in lower case.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a record",
    label = "not stored as columns",
    note = "derive it for a struct with named fields: `#[derive(dstreams::Record)]`",
    note = "numbers, `bool`, `String`, `Millis`, `Date`, `Decimal`, `Bytes`, `Uuid`, and `Option`s, `Vec`s and tuples of records are records; push borrowed text, or convert it to a `String`"
)]
pub trait Record: Send + Sync + Sized + 'static {
    /// A borrowed view of one row, passed to closures.
    type Ref<'a>: Copy;
    /// Typed access to the columns of one Arrow batch.
    type Cols: Columns<Self>;
    /// Builders of the columns.
    type Builder: Builder;
    /// How many columns it has. A derived record and a tuple are composite, even with a single column.
    const SHAPE: RecordShape = RecordShape::Composite;

    /// Appends the leaf columns to `out`; `name` is empty at the top.
    fn fields(name: &str, out: &mut Vec<Field>);
    /// Makes an owned record from a row view.
    fn own(row: Self::Ref<'_>) -> Self;
    /// Appends an owned record.
    fn append(self, to: &mut Self::Builder);
    /// Appends a row view.
    fn append_ref(row: Self::Ref<'_>, to: &mut Self::Builder);
    /// Appends a row that is absent, below an `Option`. Its values are unspecified: the `Option` makes them null.
    fn append_null(to: &mut Self::Builder);

    /// The columns of this record as a schema.
    fn schema() -> SchemaRef {
        plain_schema(&checked_schema::<Self>())
    }
}

/// How many columns a record has, and whether they may be null: the layout of an `Option` and a `Vec` depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordShape {
    /// One column, never null: a number, text or a list.
    Leaf,
    /// One column with nulls: an `Option` of a leaf.
    Nullable,
    /// Any number of columns.
    Composite,
}

/// A record that can be a key: values are equal if their columns are.
///
/// Floating-point numbers cannot be keys (`NaN`, `-0.0`); convert them first.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a key",
    label = "cannot be a key",
    note = "keys are integers, `bool`, `String`, `Millis`, `Date`, `Decimal`, `Bytes`, `Uuid`, `Option`s of these, and tuples of keys; convert floating-point numbers first",
    note = "a struct becomes one by `#[derive(dstreams::Record)]` with `#[record(key)]`"
)]
pub trait Key: Record {}

/// A record of a single column without nulls.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not have exactly one column without nulls",
    label = "a single column without nulls is needed here",
    note = "numbers, `bool`, `String` and `Vec`s have one; of a struct or a tuple, name the column"
)]
pub trait Leaf: Record {}

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

    pub(crate) fn builder(&mut self) -> &mut U::Builder {
        self.builder
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

/// Typed columns of a whole batch.
pub(crate) fn columns_of<T: Record>(batch: &RecordBatch) -> Result<T::Cols> {
    T::Cols::try_new(&mut ColumnReader::of(batch))
}

/// Fails unless every row of a batch is a record, for sources: which columns may be null can depend on the row.
pub(crate) type RowCheck = fn(&RecordBatch) -> Result<()>;

/// The check of a type of records.
pub(crate) fn check_rows<T: Record>(batch: &RecordBatch) -> Result<()> {
    columns_of::<T>(batch).map(drop)
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
