//! Closures over rows, as functions over Arrow batches.
//!
//! The engine runs boxed functions per batch: an operator does not compile engine code for each closure, and the
//! closure is inlined into a loop over rows.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, StringViewArray,
};
use datafusion::arrow::buffer::{BooleanBuffer, Buffer};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{SchemaRef, UInt8Type};
use datafusion::error::DataFusionError;
use dstreams_control::BatchTime;

use super::record::{Builder, Columns, Out, Record, columns_of, finish_batch};
use super::rejects::check_nulls;
use crate::error::Result;

/// Bounds of closures, which tasks share.
pub trait Closure: Send + Sync + 'static {}
impl<T: Send + Sync + 'static> Closure for T {}

/// A closure over rows; each task gets its own state.
pub(crate) trait RowsFn: Send + Sync {
    /// Starts a task of batch `at`.
    fn start(&self, at: BatchTime) -> Box<dyn RowsTask>;

    /// Whether its rows are in the order of the input's, so that the number of tasks does not change it.
    fn as_received(&self) -> bool {
        true
    }

    /// How many of the first columns are the same in the output, row by row.
    fn unchanged_columns(&self) -> usize {
        0
    }
}

/// One task's run of a closure.
pub(crate) trait RowsTask: Send {
    /// Runs over the rows of `input` from row `from` on, until there are about `target` rows of output or no rows
    /// left. Returns the output and the next row.
    fn run(
        &mut self,
        input: &RecordBatch,
        from: usize,
        target: usize,
    ) -> Result<(RecordBatch, usize)>;

    /// The rows that it adds after all input.
    fn finish(&mut self) -> Result<Option<RecordBatch>> {
        Ok(None)
    }
}

/// A closure that combines two values, for all rows of a batch.
pub(crate) trait Reducer: Send + Sync {
    /// Starts a run in which values belong to groups; `skip` columns precede the value's.
    fn start(&self, skip: usize) -> Box<dyn ReducerTask>;
}

/// One task's run of a reduction.
pub(crate) trait ReducerTask: Send {
    /// Combines row `i` of `input` with group `groups[i]`; a group starts with its first row.
    fn update(&mut self, input: &RecordBatch, groups: &[usize]) -> Result<()>;
    /// The columns of the values, one row per group.
    fn finish(&mut self) -> Result<Vec<ArrayRef>>;
}

type Marker<T> = PhantomData<fn() -> T>;

/// `filter`.
pub(crate) struct Filter<T, F>(pub Arc<F>, pub Marker<T>);

impl<T: Record, F: for<'a> Fn(T::Ref<'a>) -> bool + Closure> RowsFn for Filter<T, F> {
    fn start(&self, _: BatchTime) -> Box<dyn RowsTask> {
        Box::new(Filter::<T, F>(Arc::clone(&self.0), PhantomData))
    }
}

impl<T: Record, F: for<'a> Fn(T::Ref<'a>) -> bool + Closure> RowsTask for Filter<T, F> {
    fn run(&mut self, input: &RecordBatch, _: usize, _: usize) -> Result<(RecordBatch, usize)> {
        let columns = columns_of::<T>(input)?;
        let keep = BooleanBuffer::collect_bool(input.num_rows(), |row| (self.0)(columns.get(row)));
        let output = match keep.count_set_bits() {
            0 => input.slice(0, 0),
            all if all == input.num_rows() => input.clone(),
            _ => filter_record_batch(input, &BooleanArray::new(keep, None))?,
        };
        Ok((output, input.num_rows()))
    }
}

/// `map`, `flat_map`, `key_by`: a closure that appends to builders. `pass_through` selects columns of the input for the
/// output (`key_by` puts its key first, so it keeps them behind).
pub(crate) struct Emit<T, U: Record, F> {
    pub call: Arc<F>,
    pub schema: SchemaRef,
    pub pass_through: PassThrough,
    pub types: PhantomData<fn() -> (T, U)>,
}

/// The columns of the input that the output contains besides the closure's.
#[derive(Clone, Copy)]
pub(crate) enum PassThrough {
    None,
    /// All of them, behind the closure's; each row must give exactly one.
    AllAfter,
    /// The first ones, before the closure's; each row must give exactly one.
    Before(usize),
}

struct EmitTask<T, U: Record, F> {
    emit: Emit<T, U, F>,
    own: SchemaRef,
    builder: U::Builder,
}

impl<T, U, F> RowsFn for Emit<T, U, F>
where
    T: Record,
    U: Record,
    F: for<'a> Fn(T::Ref<'a>, &mut Out<'_, U>) + Closure,
{
    fn start(&self, _: BatchTime) -> Box<dyn RowsTask> {
        Box::new(EmitTask {
            emit: Emit::<T, U, F> {
                call: Arc::clone(&self.call),
                schema: Arc::clone(&self.schema),
                pass_through: self.pass_through,
                types: PhantomData,
            },
            own: U::schema(),
            builder: U::Builder::default(),
        })
    }

    fn unchanged_columns(&self) -> usize {
        match self.pass_through {
            PassThrough::Before(columns) => columns,
            PassThrough::None | PassThrough::AllAfter => 0,
        }
    }
}

impl<T, U, F> RowsTask for EmitTask<T, U, F>
where
    T: Record,
    U: Record,
    F: for<'a> Fn(T::Ref<'a>, &mut Out<'_, U>) + Closure,
{
    fn run(
        &mut self,
        input: &RecordBatch,
        from: usize,
        target: usize,
    ) -> Result<(RecordBatch, usize)> {
        let skip = match self.emit.pass_through {
            PassThrough::Before(columns) => columns,
            _ => 0,
        };
        let columns = T::Cols::try_new(&mut super::record::ColumnReader::new(
            &input.columns()[skip..],
        ))?;
        self.builder.attach(&text_buffers(input));
        let exactly_one = !matches!(self.emit.pass_through, PassThrough::None);
        let mut row = from;
        while row < input.num_rows() && self.builder.len() < target {
            (self.emit.call)(columns.get(row), &mut Out::new(&mut self.builder));
            row += 1;
            if exactly_one && self.builder.len() != row - from {
                return Err(crate::Error::Schema {
                    what: "rows pushed by the closure".into(),
                    expected: "exactly one for each record".into(),
                    found: (self.builder.len() + 1 + from - row).to_string(),
                });
            }
        }
        let built = finish_batch(&self.own, &mut self.builder)?;
        let kept = input.slice(from, row - from);
        let columns: Vec<ArrayRef> = match self.emit.pass_through {
            PassThrough::None => return Ok((built, row)),
            PassThrough::AllAfter => [built.columns(), kept.columns()].concat(),
            PassThrough::Before(n) => [&kept.columns()[..n], built.columns()].concat(),
        };
        let schema = Arc::clone(&self.emit.schema);
        Ok((RecordBatch::try_new(schema, columns)?, row))
    }
}

/// Gives columns the names of a schema.
#[derive(Clone)]
pub(crate) struct Rename(pub SchemaRef);

impl RowsFn for Rename {
    fn start(&self, _: BatchTime) -> Box<dyn RowsTask> {
        Box::new(self.clone())
    }
}

impl RowsTask for Rename {
    fn run(&mut self, input: &RecordBatch, _: usize, _: usize) -> Result<(RecordBatch, usize)> {
        let options = RecordBatchOptions::new().with_row_count(Some(input.num_rows()));
        let columns = input.columns().to_vec();
        check_nulls(&self.0, input)?;
        let renamed = RecordBatch::try_new_with_options(Arc::clone(&self.0), columns, &options)?;
        Ok((renamed, input.num_rows()))
    }
}

/// Selects the rows of one kind from a dataset with several kinds, without the columns of the others. The last column
/// is the kind of the row.
#[derive(Clone)]
pub(crate) struct Pick {
    pub view: u8,
    pub columns: Range<usize>,
    pub schema: SchemaRef,
}

impl RowsFn for Pick {
    fn start(&self, _: BatchTime) -> Box<dyn RowsTask> {
        Box::new(self.clone())
    }
}

impl RowsTask for Pick {
    fn run(&mut self, input: &RecordBatch, from: usize, _: usize) -> Result<(RecordBatch, usize)> {
        let mut rows = input.slice(from, input.num_rows() - from);
        let Some(views) = rows.columns().last() else {
            let message = "rows of several kinds lack the column of their kind";
            return Err(DataFusionError::Internal(message.into()).into());
        };
        let views = views.as_primitive::<UInt8Type>().values();
        let wanted = BooleanBuffer::collect_bool(views.len(), |row| views[row] == self.view);
        let count = wanted.count_set_bits();
        let columns: Vec<usize> = self.columns.clone().collect();
        rows = rows.project(&columns)?;
        if count < rows.num_rows() {
            rows = filter_record_batch(&rows, &BooleanArray::new(wanted, None))?;
        }
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let columns = rows.columns().to_vec();
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        Ok((rows, input.num_rows()))
    }
}

/// The message of a caught panic.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a value that is not text".to_owned())
}

/// The data buffers of all text columns.
pub(super) fn text_buffers(batch: &RecordBatch) -> Vec<Buffer> {
    texts_of(batch.columns())
}

/// The data buffers of the text columns among these.
pub(super) fn texts_of(columns: &[ArrayRef]) -> Vec<Buffer> {
    let texts = columns.iter();
    let texts = texts.filter_map(|c| c.as_any().downcast_ref::<StringViewArray>());
    texts.flat_map(|t| t.data_buffers().to_vec()).collect()
}
