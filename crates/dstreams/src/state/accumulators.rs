//! The values of a window or a running aggregate: columns of 64-bit numbers, one or more for each part.
//!
//! Counts and sums of integers can be added and subtracted (wrapping, like the sums themselves). Floating-point
//! sums cannot be subtracted exactly, and minima and maxima not at all: these only combine.
//!
//! Moments are three columns: the number of values, their mean, and the sum of their squared differences from it.
//! They combine by the formula of Chan, Golub and LeVeque, which loses no digits if the mean is large and the
//! differences are small; the new value of a column depends on the columns before it too.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, RecordBatch};
use datafusion::arrow::buffer::ScalarBuffer;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, FieldRef, Float64Type, Int64Type, SchemaRef, UInt64Type,
};

use crate::encoding::ByteInput;
use crate::encoding::each_batch;
use crate::error::{Error, Result};
use crate::stream::agg::{AggPlan, Function};

/// The way in which values of a column combine. Values are stored as the bits of 64-bit numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Combine {
    /// Adds; values can be subtracted again.
    Add,
    AddFloat,
    Min(NumberKind),
    Max(NumberKind),
    Moment(Moment),
}

/// The columns of moments, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    Count,
    Mean,
    Squares,
}

/// The kind of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NumberKind {
    Signed,
    Unsigned,
    Float,
}

impl NumberKind {
    fn of(kind: &DataType) -> Result<NumberKind> {
        match kind {
            kind if kind.is_unsigned_integer() => Ok(NumberKind::Unsigned),
            kind if kind.is_floating() => Ok(NumberKind::Float),
            kind if kind.is_signed_integer() || kind.is_temporal() => Ok(NumberKind::Signed),
            other => Err(Error::Schema {
                what: "column of a window".into(),
                expected: "a number of up to 64 bits".into(),
                found: other.to_string(),
            }),
        }
    }
}

impl Combine {
    /// How each column of an aggregate's parts combines.
    pub fn of_plan(plan: &AggPlan, fields: &[FieldRef]) -> Result<Vec<Self>> {
        let mut all = Vec::with_capacity(fields.len());
        for (part, columns) in plan.columns() {
            for (place, field) in fields[columns].iter().enumerate() {
                all.push(Combine::new(part.function, place, field.data_type())?);
            }
        }
        Ok(all)
    }

    fn new(function: Function, place: usize, kind: &DataType) -> Result<Self> {
        let number = NumberKind::of(kind)?;
        Ok(match function {
            Function::Count | Function::Sum | Function::High if number != NumberKind::Float => {
                Combine::Add
            }
            Function::Count | Function::Sum | Function::High | Function::Rough => Combine::AddFloat,
            Function::Min => Combine::Min(number),
            Function::Max => Combine::Max(number),
            Function::Moments => Combine::Moment(match place {
                0 => Moment::Count,
                1 => Moment::Mean,
                _ => Moment::Squares,
            }),
        })
    }

    pub fn invertible(self) -> bool {
        self == Combine::Add
    }

    /// Combines an earlier row with a later one: the value of this column. The argument of a row is the number of
    /// columns before this one; so if the earlier row is overwritten, the last column goes first.
    #[inline]
    pub fn apply(
        self,
        earlier_row: impl Fn(usize) -> u64,
        later_row: impl Fn(usize) -> u64,
    ) -> u64 {
        let (earlier, later) = (earlier_row(0), later_row(0));
        match self {
            Combine::Moment(moment) => moment.apply(earlier_row, later_row),
            Combine::Add => earlier.wrapping_add(later),
            Combine::AddFloat => (f64::from_bits(earlier) + f64::from_bits(later)).to_bits(),
            Combine::Min(kind) => {
                if less(kind, later, earlier) {
                    later
                } else {
                    earlier
                }
            }
            Combine::Max(kind) => {
                if less(kind, earlier, later) {
                    later
                } else {
                    earlier
                }
            }
        }
    }
}

impl Moment {
    fn apply(self, earlier: impl Fn(usize) -> u64, later: impl Fn(usize) -> u64) -> u64 {
        let place = self as usize;
        let counts = [earlier(place), later(place)];
        let count = counts[0].wrapping_add(counts[1]);
        if self == Moment::Count || count == 0 {
            return count;
        }
        let means = [earlier(place - 1), later(place - 1)].map(f64::from_bits);
        let apart = means[1] - means[0];
        // The share of the later values in the total.
        let share = counts[1] as f64 / count as f64;
        let value = match self {
            Moment::Squares => {
                let squares = f64::from_bits(earlier(0)) + f64::from_bits(later(0));
                squares + apart * apart * counts[0] as f64 * share
            }
            _ => means[0] + apart * share,
        };
        value.to_bits()
    }
}

#[inline]
fn less(kind: NumberKind, one: u64, other: u64) -> bool {
    match kind {
        NumberKind::Signed => (one as i64) < other as i64,
        NumberKind::Unsigned => one < other,
        NumberKind::Float => {
            // NaN of either sign is the greatest.
            let (one, other) = (f64::from_bits(one), f64::from_bits(other));
            match (one.is_nan(), other.is_nan()) {
                (false, false) => one.total_cmp(&other).is_lt(),
                (one, other) => !one && other,
            }
        }
    }
}

/// The values of a column of partial results, as bits. Nulls are refused: they would read as arbitrary numbers.
pub(super) fn bits_of_partial(column: &ArrayRef) -> Result<ScalarBuffer<u64>> {
    match column.null_count() {
        0 => bits_of(column),
        nulls => Err(Error::Schema {
            what: "partial results of an aggregate".into(),
            expected: "no nulls".into(),
            found: format!("{nulls} in {} rows", column.len()),
        }),
    }
}

/// The values of a column as bits; arbitrary for nulls.
pub(super) fn bits_of(column: &ArrayRef) -> Result<ScalarBuffer<u64>> {
    let buffer = match NumberKind::of(column.data_type())? {
        NumberKind::Signed => {
            let wide = cast(column, &DataType::Int64)?;
            wide.as_primitive::<Int64Type>().values().inner().clone()
        }
        NumberKind::Unsigned => {
            let wide = cast(column, &DataType::UInt64)?;
            wide.as_primitive::<UInt64Type>().values().inner().clone()
        }
        NumberKind::Float => {
            let wide = cast(column, &DataType::Float64)?;
            wide.as_primitive::<Float64Type>().values().inner().clone()
        }
    };
    let rows = column.len();
    Ok(ScalarBuffer::new(buffer, 0, rows))
}

/// Calls `each` with the next rows in `from`, with the columns of `schema`.
///
/// Earlier versions lack the high halves of sums (`highs` lists their columns, each with that of its sum): these
/// follow from the sums, which had 64 bits then.
pub(super) fn each_partial(
    what: &str,
    from: &mut ByteInput<'_>,
    schema: &SchemaRef,
    highs: &[(usize, usize)],
    mut each: impl FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let is_high = |at: usize| highs.iter().any(|(high, _)| *high == at);
    let places = 0..schema.fields().len();
    let earlier: Vec<_> = places.clone().filter(|at| !is_high(*at)).collect();
    let schemas = [Arc::clone(schema), Arc::new(schema.project(&earlier)?)];
    let with_highs = |found: RecordBatch| -> Result<RecordBatch> {
        // The place of a column in that version.
        let before = |at: usize| found.column(earlier.partition_point(|place| *place < at));
        let columns = places.clone().map(|at| {
            let Some((_, sum)) = highs.iter().find(|(high, _)| *high == at) else {
                return Ok(Arc::clone(before(at)));
            };
            let (sums, kind) = (bits_of(before(*sum))?, schema.field(at).data_type());
            column_of(sums.iter().map(|sum| high_of(*sum, kind)).collect(), kind)
        });
        let columns = columns.collect::<Result<_>>()?;
        Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
    };
    each_batch(what, from, &schemas, |rows| {
        match rows.num_columns() < places.len() {
            true => each(with_highs(rows)?),
            false => each(rows),
        }
    })
}

/// The high half of a 64-bit sum as plans compute it: rounded to nearest.
pub(super) fn high_of(sum: u64, kind: &DataType) -> u64 {
    match kind.is_unsigned_integer() {
        true => ((sum >> 31) + 1) >> 1,
        false => (((sum as i64 >> 31) + 1) >> 1) as u64,
    }
}

/// A column of type `kind` from bits.
pub(super) fn column_of(bits: Vec<u64>, kind: &DataType) -> Result<ArrayRef> {
    let rows = bits.len();
    let buffer = ScalarBuffer::<u64>::from(bits).into_inner();
    let wide: ArrayRef = match NumberKind::of(kind)? {
        NumberKind::Signed => {
            let values = ScalarBuffer::new(buffer, 0, rows);
            Arc::new(PrimitiveArray::<Int64Type>::new(values, None))
        }
        NumberKind::Unsigned => {
            let values = ScalarBuffer::new(buffer, 0, rows);
            Arc::new(PrimitiveArray::<UInt64Type>::new(values, None))
        }
        NumberKind::Float => {
            let values = ScalarBuffer::new(buffer, 0, rows);
            Arc::new(PrimitiveArray::<Float64Type>::new(values, None))
        }
    };
    Ok(cast(&wide, kind)?)
}
