//! The values of a window: one column of 64-bit numbers for each part of its aggregate.
//!
//! Counts and sums of integers add and subtract (wrapping, as the sums themselves). Sums of
//! floating-point numbers do not subtract exactly, and least and greatest values not at all: these
//! combine only.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, PrimitiveArray};
use datafusion::arrow::buffer::ScalarBuffer;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type, Int64Type, UInt64Type};

use crate::error::{Error, Result};
use crate::stream::agg::Function;

/// How values of a column combine. Values are kept as the bits of 64-bit numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Combine {
    /// Adds; can be subtracted again.
    Add,
    AddFloat,
    Min(Kind),
    Max(Kind),
}

/// Kind of number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Signed,
    Unsigned,
    Float,
}

impl Kind {
    fn of(kind: &DataType) -> Result<Kind> {
        match kind {
            kind if kind.is_unsigned_integer() => Ok(Kind::Unsigned),
            kind if kind.is_floating() => Ok(Kind::Float),
            kind if kind.is_signed_integer() || kind.is_temporal() => Ok(Kind::Signed),
            other => Err(Error::Schema {
                what: "column of a window".into(),
                expected: "a number of up to 64 bits".into(),
                found: other.to_string(),
            }),
        }
    }
}

impl Combine {
    pub fn new(function: Function, kind: &DataType) -> Result<Self> {
        let number = Kind::of(kind)?;
        Ok(match function {
            Function::Count | Function::Sum if number != Kind::Float => Combine::Add,
            Function::Count | Function::Sum => Combine::AddFloat,
            Function::Min => Combine::Min(number),
            Function::Max => Combine::Max(number),
        })
    }

    pub fn invertible(self) -> bool {
        self == Combine::Add
    }

    /// Combines an earlier value with a later one.
    #[inline]
    pub fn apply(self, earlier: u64, later: u64) -> u64 {
        match self {
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

#[inline]
fn less(kind: Kind, one: u64, other: u64) -> bool {
    match kind {
        Kind::Signed => (one as i64) < other as i64,
        Kind::Unsigned => one < other,
        Kind::Float => f64::from_bits(one)
            .total_cmp(&f64::from_bits(other))
            .is_lt(),
    }
}

/// The values of a column as bits.
pub(super) fn bits_of(column: &ArrayRef) -> Result<ScalarBuffer<u64>> {
    let buffer = match Kind::of(column.data_type())? {
        Kind::Signed => {
            let wide = cast(column, &DataType::Int64)?;
            wide.as_primitive::<Int64Type>().values().inner().clone()
        }
        Kind::Unsigned => {
            let wide = cast(column, &DataType::UInt64)?;
            wide.as_primitive::<UInt64Type>().values().inner().clone()
        }
        Kind::Float => {
            let wide = cast(column, &DataType::Float64)?;
            wide.as_primitive::<Float64Type>().values().inner().clone()
        }
    };
    let rows = column.len();
    Ok(ScalarBuffer::new(buffer, 0, rows))
}

/// A column of type `kind` from bits.
pub(super) fn column_of(bits: Vec<u64>, kind: &DataType) -> Result<ArrayRef> {
    let rows = bits.len();
    let buffer = ScalarBuffer::<u64>::from(bits).into_inner();
    let wide: ArrayRef = match Kind::of(kind)? {
        Kind::Signed => {
            let values = ScalarBuffer::new(buffer, 0, rows);
            Arc::new(PrimitiveArray::<Int64Type>::new(values, None))
        }
        Kind::Unsigned => {
            let values = ScalarBuffer::new(buffer, 0, rows);
            Arc::new(PrimitiveArray::<UInt64Type>::new(values, None))
        }
        Kind::Float => {
            let values = ScalarBuffer::new(buffer, 0, rows);
            Arc::new(PrimitiveArray::<Float64Type>::new(values, None))
        }
    };
    Ok(cast(&wide, kind)?)
}
