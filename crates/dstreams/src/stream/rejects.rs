//! Rows of two kinds in one dataset: the results of an operator, and the records it rejected.
//!
//! The columns of results come first, then the reason, the rejected record and the kind of the row. Each row has
//! nulls in the columns of the other kind. If nothing is rejected, those are slices of one array.

use std::fmt::{self, Display, Write};
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use datafusion::arrow::array::{
    Array, ArrayRef, BooleanArray, RecordBatch, StringViewArray, UInt8Array, UInt32Array,
    new_null_array,
};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::{concat, filter, filter_record_batch, take};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::json::WriterBuilder;
use datafusion::arrow::json::writer::LineDelimited;
use dstreams_control::BatchTime;

use super::far_times::with_far_times_as_text;
use super::record::{Builder, Columns, Out, Record, columns_of};
use super::rows::{Closure, RowsFn, RowsTask, panic_message, text_buffers};
use crate::error::{Error, Operator, Result};

/// Kind of a result row.
pub(super) const OK: u8 = 0;
/// Counts the readers of an operator's rejected records, and the records that nothing reads.
#[derive(Debug)]
pub(crate) struct Readers {
    operator: String,
    are_there: AtomicBool,
    missed: AtomicU64,
}

impl Readers {
    pub fn new(operator: String) -> Self {
        Readers {
            operator,
            are_there: AtomicBool::new(false),
            missed: AtomicU64::new(0),
        }
    }

    /// Adds a reader.
    pub fn add(&self) {
        self.are_there.store(true, Ordering::Relaxed);
    }

    fn are_there(&self) -> bool {
        self.are_there.load(Ordering::Relaxed)
    }

    /// Counts records of one task, unless something reads them. Logs them whenever their number has doubled.
    pub fn miss(&self, records: usize, why: impl Display) {
        if records == 0 || self.are_there() {
            return;
        }
        let before = self.missed.fetch_add(records as u64, Ordering::Relaxed);
        let missed = before + records as u64;
        if before.checked_ilog2() != missed.checked_ilog2() {
            let operator = &self.operator;
            tracing::warn!(%operator, missed, %why, "records are in no result, and nothing reads them");
        }
    }

    /// The operator and its number of rejected, unread records in this process, if there are any.
    pub fn missed(&self) -> Option<(String, u64)> {
        match self.missed.load(Ordering::Relaxed) {
            0 => None,
            missed => Some((self.operator.clone(), missed)),
        }
    }
}

/// The readers of records that are late or ahead in event time.
#[derive(Debug, Clone)]
pub(crate) struct OffTimeReaders {
    pub late: Arc<Readers>,
    pub ahead: Arc<Readers>,
}

impl OffTimeReaders {
    pub fn of(operator: &Operator) -> Self {
        let readers = |what: &str| Arc::new(Readers::new(format!("{what} of {operator}")));
        OffTimeReaders {
            late: readers("late records"),
            ahead: readers("records ahead"),
        }
    }

    /// Counts records of one task, unless something reads them.
    pub fn miss(&self, late: usize, ahead: usize) {
        self.late.miss(late, "their interval is over");
        (self.ahead).miss(ahead, "their interval is too far in the future");
    }
}

/// Kind of a rejected row.
pub(super) const REJECTED: u8 = 1;
/// Maximum length of a reason, in bytes: an error message may contain the whole record.
const MAX_REASON: usize = 1024;

/// The text of an error, truncated to [`MAX_REASON`] bytes; more is never in memory.
pub(super) fn bounded(error: &impl Display) -> String {
    struct Bounded {
        text: String,
        beyond: usize,
    }
    impl Write for Bounded {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            let room = match self.beyond {
                0 => MAX_REASON - self.text.len(),
                _ => 0,
            };
            let end = part.floor_char_boundary(room);
            self.text.push_str(&part[..end]);
            self.beyond += part.len() - end;
            Ok(())
        }
    }
    let mut reason = Bounded {
        text: String::new(),
        beyond: 0,
    };
    if write!(reason, "{error}").is_err() {
        reason.text.push_str(" (the error has no text)");
    }
    if reason.beyond > 0 {
        reason.text += &format!(" .. and {} bytes more", reason.beyond);
    }
    reason.text
}

/// The columns of both kinds.
#[derive(Clone)]
pub(super) struct Both {
    schema: SchemaRef,
    /// Number of columns of results.
    made: usize,
}

impl Both {
    /// The layout for these columns of results and of rejected records.
    pub fn new(made: &Schema, record: &Schema) -> Self {
        let reason = Field::new("", DataType::Utf8View, true);
        let made_fields = made.fields().iter().map(|field| field.as_ref());
        let of_record = record.fields().iter().map(|field| field.as_ref());
        let all = made_fields.chain([&reason]).chain(of_record);
        let all = all.enumerate().map(|(at, field)| {
            let name = format!("${at}");
            field.clone().with_name(name).with_nullable(true)
        });
        let mut all: Vec<Field> = all.collect();
        all.push(Field::new("$view", DataType::UInt8, false));
        Both {
            schema: Arc::new(Schema::new(all)),
            made: made.fields().len(),
        }
    }

    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The columns of a kind; of rejected rows the reason, then the record.
    pub fn columns(&self, kind: u8) -> Range<usize> {
        match kind {
            OK => 0..self.made,
            _ => self.made..self.schema.fields().len() - 1,
        }
    }
}

/// One task's rows of both kinds.
struct Joining {
    both: Both,
    /// The columns of the other kind for result rows, and the kind itself: as long as the longest batch so far.
    absent: Vec<ArrayRef>,
    read: Arc<Readers>,
    /// Number of rejected records, and the first reason.
    rejected: usize,
    first: Option<String>,
}

impl Joining {
    fn new(both: &Both, read: &Arc<Readers>) -> Self {
        Joining {
            both: both.clone(),
            absent: Vec::new(),
            read: Arc::clone(read),
            rejected: 0,
            first: None,
        }
    }

    /// Joins the result rows `made` with the rejected rows and their reasons.
    fn join(
        &mut self,
        made: (usize, Vec<ArrayRef>),
        reasons: Vec<String>,
        records: impl FnOnce() -> Result<Vec<ArrayRef>>,
    ) -> Result<RecordBatch> {
        let (rows, mut columns) = made;
        columns.extend(self.absent(rows));
        let schema = self.both.schema();
        if reasons.is_empty() {
            return Ok(RecordBatch::try_new(schema, columns)?);
        }
        self.rejected += reasons.len();
        self.first = self.first.take().or_else(|| reasons.first().cloned());
        let count = reasons.len();
        let fields = schema.fields()[..self.both.made].iter();
        let mut others: Vec<ArrayRef> = fields
            .map(|field| new_null_array(field.data_type(), count))
            .collect();
        others.push(Arc::new(StringViewArray::from_iter_values(reasons)));
        others.extend(records()?);
        others.push(Arc::new(UInt8Array::from(vec![REJECTED; count])));
        let both = columns.iter().zip(&others);
        let both = both.map(|(made, other)| concat(&[made.as_ref(), other.as_ref()]));
        Ok(RecordBatch::try_new(
            schema,
            both.collect::<Result<_, _>>()?,
        )?)
    }

    fn absent(&mut self, rows: usize) -> Vec<ArrayRef> {
        if self.absent.first().is_none_or(|column| column.len() < rows) {
            let fields = &self.both.schema.fields()[self.both.columns(REJECTED)];
            let absent = fields.iter().map(|f| new_null_array(f.data_type(), rows));
            self.absent = absent.collect();
            (self.absent).push(Arc::new(UInt8Array::from(vec![OK; rows])));
        }
        let columns = self.absent.iter();
        columns.map(|column| column.slice(0, rows)).collect()
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        if let Some(first) = self.first.take() {
            self.read.miss(self.rejected, first);
        }
    }
}

/// A closure that makes results of a record, or returns the reason why it cannot.
pub(super) struct Attempt<T, U, F> {
    call: Arc<F>,
    both: Both,
    read: Arc<Readers>,
    types: PhantomData<fn() -> (T, U)>,
}

impl<T, U, F> Attempt<T, U, F> {
    pub fn new(call: F, both: Both, read: Arc<Readers>) -> Self {
        Attempt {
            call: Arc::new(call),
            both,
            read,
            types: PhantomData,
        }
    }
}

struct AttemptTask<T: Record, U: Record, F> {
    call: Arc<F>,
    builder: U::Builder,
    joining: Joining,
    record: PhantomData<fn() -> T>,
}

impl<T, U, F> RowsFn for Attempt<T, U, F>
where
    T: Record,
    U: Record,
    F: for<'a> Fn(T::Ref<'a>, &mut Out<'_, U>) -> Result<(), String> + Closure,
{
    fn start(&self, _: BatchTime) -> Box<dyn RowsTask> {
        Box::new(AttemptTask::<T, U, F> {
            call: Arc::clone(&self.call),
            builder: U::Builder::default(),
            joining: Joining::new(&self.both, &self.read),
            record: PhantomData,
        })
    }
}

impl<T, U, F> RowsTask for AttemptTask<T, U, F>
where
    T: Record,
    U: Record,
    F: for<'a> Fn(T::Ref<'a>, &mut Out<'_, U>) -> Result<(), String> + Closure,
{
    fn run(
        &mut self,
        input: &RecordBatch,
        from: usize,
        target: usize,
    ) -> Result<(RecordBatch, usize)> {
        let columns = columns_of::<T>(input)?;
        let (builder, call) = (&mut self.builder, &self.call);
        builder.attach(&text_buffers(input));
        let (mut rejected, mut reasons) = (Vec::new(), Vec::new());
        // Results pushed by failing calls, to be removed.
        let mut back: Vec<Range<usize>> = Vec::new();
        let (mut row, mut before) = (from, 0);
        while row < input.num_rows() && builder.len() < target {
            // One guard for all rows: a panic ends it, and the row is known.
            let calls = catch_unwind(AssertUnwindSafe(|| {
                while row < input.num_rows() && builder.len() < target {
                    before = builder.len();
                    call(columns.get(row), &mut Out::new(builder))?;
                    row += 1;
                }
                Ok(())
            }));
            let reason = match calls {
                Ok(Ok(())) => break,
                Ok(Err(reason)) => reason,
                Err(panic) => bounded(&format_args!("panic: {}", panic_message(&*panic))),
            };
            rejected.push(row as u32);
            reasons.push(reason);
            if builder.len() > before {
                back.push(before..builder.len());
            }
            row += 1;
        }
        let rows = builder.len();
        let mut made = Vec::new();
        builder.finish(&mut made)?;
        let made = without(rows, made, &back)?;
        let records = || {
            let rows = UInt32Array::from(rejected);
            let columns = input.columns().iter();
            let taken = columns.map(|column| take(column, &rows, None));
            Ok(taken.collect::<Result<Vec<_>, _>>()?)
        };
        Ok((self.joining.join(made, reasons, records)?, row))
    }
}

/// The columns without some of their rows, and the number of rows left.
fn without(
    rows: usize,
    columns: Vec<ArrayRef>,
    back: &[Range<usize>],
) -> Result<(usize, Vec<ArrayRef>)> {
    if back.is_empty() {
        return Ok((rows, columns));
    }
    let mut stays = vec![true; rows];
    back.iter().for_each(|rows| stays[rows.clone()].fill(false));
    let stays = BooleanArray::from(stays);
    let columns = columns.iter().map(|column| filter(column, &stays));
    Ok((stays.true_count(), columns.collect::<Result<_, _>>()?))
}

/// Rejects rows with a null in a column that the record has without `Option`.
#[derive(Clone)]
pub(super) struct NoNulls {
    record: SchemaRef,
    both: Both,
    read: Arc<Readers>,
}

impl NoNulls {
    pub fn new(record: SchemaRef, both: Both, read: Arc<Readers>) -> Self {
        NoNulls { record, both, read }
    }
}

struct NoNullsTask {
    record: SchemaRef,
    joining: Joining,
}

impl RowsFn for NoNulls {
    fn start(&self, _: BatchTime) -> Box<dyn RowsTask> {
        Box::new(NoNullsTask {
            record: Arc::clone(&self.record),
            joining: Joining::new(&self.both, &self.read),
        })
    }
}

impl RowsTask for NoNullsTask {
    fn run(&mut self, input: &RecordBatch, from: usize, _: usize) -> Result<(RecordBatch, usize)> {
        let rows = input.slice(from, input.num_rows() - from);
        let fits = fits(&self.record, &rows);
        let next = input.num_rows();
        if fits.count_set_bits() == rows.num_rows() {
            let made = (rows.num_rows(), rows.columns().to_vec());
            let none = || Ok(Vec::new());
            return Ok((self.joining.join(made, Vec::new(), none)?, next));
        }
        let others = filter_record_batch(&rows, &BooleanArray::new(!&fits, None))?;
        let made = filter_record_batch(&rows, &BooleanArray::new(fits, None))?;
        let reasons = (0..others.num_rows()).map(|row| nulls_of(&self.record, &others, row));
        let reasons = reasons.map(|reason| bounded(&reason)).collect();
        let made = (made.num_rows(), made.columns().to_vec());
        let lines = || {
            let lines = json_lines(&others)?;
            let lines = StringViewArray::from_iter_values(lines.lines());
            Ok(vec![Arc::new(lines) as ArrayRef])
        };
        Ok((self.joining.join(made, reasons, lines)?, next))
    }
}

/// A mask of the rows without nulls in the columns that `record` has without `Option`.
fn fits(record: &Schema, rows: &RecordBatch) -> BooleanBuffer {
    let columns = record.fields().iter().zip(rows.columns());
    let columns = columns.filter(|(field, _)| !field.is_nullable());
    let nulls = columns.filter_map(|(_, column)| column.logical_nulls());
    let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
    let all = BooleanBuffer::new_set(rows.num_rows());
    nulls.fold(all, |fits, nulls| &fits & nulls.inner())
}

/// The columns of a row that are null and must not be, as text; empty if there are none.
fn nulls_of(record: &Schema, rows: &RecordBatch, row: usize) -> String {
    let columns = record.fields().iter().zip(rows.columns());
    let nulls = columns.filter(|(field, column)| {
        let nulls = || column.logical_nulls();
        !field.is_nullable() && nulls().is_some_and(|nulls| nulls.is_null(row))
    });
    let names: Vec<_> = nulls
        .map(|(field, _)| format!("`{}`", field.name()))
        .collect();
    match names.len() {
        0 => String::new(),
        1 => format!("column {} is null", names[0]),
        _ => format!("columns {} are null", names.join(", ")),
    }
}

/// Fails at the first row with a null in a column that `record` has without `Option`.
pub(super) fn check_nulls(record: &Schema, rows: &RecordBatch) -> Result<()> {
    let mut columns = record.fields().iter().zip(rows.columns());
    if !columns.any(|(field, column)| !field.is_nullable() && column.null_count() > 0) {
        return Ok(());
    }
    let fits = fits(record, rows);
    let Some(row) = (0..rows.num_rows()).find(|row| !fits.value(*row)) else {
        return Ok(());
    };
    let line = json_lines(&rows.slice(row, 1))?;
    Err(Error::Schema {
        what: "a row of the result".into(),
        expected: "no null where the record has no `Option`".into(),
        found: format!(
            "that {} in {}; use `coalesce`, or `Option`, or `try_sql`, which rejects such rows",
            nulls_of(record, rows, row),
            bounded(&line.trim_end())
        ),
    })
}

/// Rows as lines of JSON, nulls included.
fn json_lines(rows: &RecordBatch) -> Result<String> {
    let builder = WriterBuilder::new().with_explicit_nulls(true);
    let mut lines = builder.build::<_, LineDelimited>(Vec::new());
    let rows = with_far_times_as_text(rows)?;
    lines.write(&rows)?;
    lines.finish()?;
    Ok(String::from_utf8_lossy(&lines.into_inner()).into_owned())
}
