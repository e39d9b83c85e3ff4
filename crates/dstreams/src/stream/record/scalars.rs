//! Times, dates and decimal numbers: one column each, of an Arrow type that SQL calculates with.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, ArrowPrimitiveType, PrimitiveArray};
use datafusion::arrow::buffer::{BooleanBuffer, ScalarBuffer};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, TimeUnit, TimestampMillisecondType,
};

use super::{Builder, ColumnReader, Columns, Key, Leaf, Push, Record, RecordShape, leaf_name};
use crate::debug::debug_as;
use crate::error::{Error, Result};

/// A point in time, in milliseconds since the Unix epoch: a column `Timestamp(Millisecond, "+00:00")`.
///
/// ```
/// use dstreams::{Millis, Record, StreamContext};
///
/// #[derive(Record)]
/// struct Click { at: Millis, page: String }
///
/// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
/// let (_, clicks) = ctx.queue::<Click>("clicks");
/// let minutes = clicks.sql::<(Millis, i64)>(
///     "select date_trunc('minute', at) as minute, count(*) as n from this group by minute",
/// )?;
/// # minutes.print(1);
/// # Ok::<(), dstreams::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub i64);

/// A day, in days since 1970-01-01: a column `Date32`.
///
/// ```
/// use dstreams::{Date, Millis, StreamContext};
///
/// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
/// let (_, times) = ctx.queue::<Millis>("times");
/// let days = times.sql::<Date>("select cast(value as date) as value from this")?;
/// # days.print(1);
/// # Ok::<(), dstreams::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Date(pub i32);

/// A number with `P` decimal digits, `S` of them behind the point: a column `Decimal128(P, S)`.
///
/// The field is the number without its point: `Decimal::<10, 2>(1995)` is 19.95. `P` is at most 38, and `S` at most
/// `P`; other numbers do not compile. A value with more than `P` digits is an error when it is put into a column or read
/// from one.
///
/// ```
/// use dstreams::{Decimal, StreamContext};
///
/// type Price = Decimal<10, 2>;
/// assert_eq!(Price::MAX.0, 9_999_999_999);
/// assert_eq!(Decimal::<10, 2>(-1995).to_string(), "-19.95");
/// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
/// let (_, prices) = ctx.queue::<(String, Price)>("prices");
/// let most = prices.by_key().agg(dstreams::agg::max::<Price>())?;
/// # most.print(1);
/// # Ok::<(), dstreams::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Decimal<const P: u8, const S: i8>(pub i128);

impl<const P: u8, const S: i8> Decimal<P, S> {
    const DIGITS: () = assert!(
        P >= 1 && P <= 38 && S >= 0 && S as u8 <= P,
        "a Decimal<P, S> has 1 to 38 digits (P), of which 0 to P are behind the point (S)"
    );

    /// The greatest number of `P` digits.
    pub const MAX: Self = {
        let () = Self::DIGITS;
        Decimal(10i128.pow(P as u32) - 1)
    };
}

impl<const P: u8, const S: i8> fmt::Display for Decimal<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = S.max(0) as usize;
        let unit = 10u128.pow(digits as u32);
        let (all, sign) = (self.0.unsigned_abs(), if self.0 < 0 { "-" } else { "" });
        match digits {
            0 => write!(f, "{sign}{all}"),
            _ => write!(f, "{sign}{}.{:0digits$}", all / unit, all % unit),
        }
    }
}

/// A value of fixed width whose Arrow type has parameters.
pub trait Scalar: Copy + Default + Send + Sync + 'static {
    /// The Arrow type, without its parameters.
    type Arrow: ArrowPrimitiveType;
    /// The Arrow type.
    fn data_type() -> DataType;
    /// The value of a column.
    fn of(native: <Self::Arrow as ArrowPrimitiveType>::Native) -> Self;
    /// The value in a column.
    fn native(self) -> <Self::Arrow as ArrowPrimitiveType>::Native;
    /// Whether columns of another type have the same values.
    fn reads(found: &DataType) -> bool {
        *found == Self::data_type()
    }
    /// Refuses values that the type does not have, except where a row is null or not there.
    fn check(_: &PrimitiveArray<Self::Arrow>, _there: Option<&BooleanBuffer>) -> Result<()> {
        Ok(())
    }
}

impl Scalar for Millis {
    type Arrow = TimestampMillisecondType;
    fn data_type() -> DataType {
        DataType::Timestamp(TimeUnit::Millisecond, Some("+00:00".into()))
    }
    fn of(native: i64) -> Self {
        Millis(native)
    }
    fn native(self) -> i64 {
        self.0
    }
    fn reads(found: &DataType) -> bool {
        matches!(found, DataType::Timestamp(TimeUnit::Millisecond, _))
    }
}

impl Scalar for Date {
    type Arrow = Date32Type;
    fn data_type() -> DataType {
        DataType::Date32
    }
    fn of(native: i32) -> Self {
        Date(native)
    }
    fn native(self) -> i32 {
        self.0
    }
}

impl<const P: u8, const S: i8> Scalar for Decimal<P, S> {
    type Arrow = Decimal128Type;
    fn data_type() -> DataType {
        let () = Self::DIGITS;
        DataType::Decimal128(P, S)
    }
    fn of(native: i128) -> Self {
        Decimal(native)
    }
    fn native(self) -> i128 {
        self.0
    }
    fn check(values: &PrimitiveArray<Decimal128Type>, there: Option<&BooleanBuffer>) -> Result<()> {
        let most = Self::MAX.0.unsigned_abs();
        let is_wrong = |value: i128| value.unsigned_abs() > most;
        let all = values.values();
        // All without a branch: it runs for each batch that is read, and wrong values are rare.
        if !all.iter().fold(false, |any, value| any | is_wrong(*value)) {
            return Ok(());
        }
        let is_there =
            |row: usize| values.is_valid(row) && there.is_none_or(|there| there.value(row));
        let mut rows = all.iter().enumerate();
        match rows.find(|(row, value)| is_wrong(**value) && is_there(*row)) {
            None => Ok(()),
            Some((_, value)) => Err(Error::Schema {
                what: format!("a value of `Decimal<{P}, {S}>`"),
                expected: format!("{P} digits at most"),
                found: format!("{value} without its point"),
            }),
        }
    }
}

type Native<T> = <<T as Scalar>::Arrow as ArrowPrimitiveType>::Native;

/// The values of a column of a [`Scalar`].
pub struct ScalarCols<T: Scalar>(ScalarBuffer<Native<T>>);

debug_as!([T: Scalar] ScalarCols<T>);

/// Builder of a column of a [`Scalar`].
pub struct ScalarBuilder<T: Scalar>(Vec<Native<T>>);

debug_as!([T: Scalar] ScalarBuilder<T>);

impl<T: Scalar> Default for ScalarBuilder<T> {
    fn default() -> Self {
        ScalarBuilder(Vec::new())
    }
}

impl<T: Scalar> Builder for ScalarBuilder<T> {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn finish(&mut self, out: &mut Vec<ArrayRef>) -> Result<()> {
        let values = std::mem::take(&mut self.0);
        let column = PrimitiveArray::<T::Arrow>::new(values.into(), None);
        T::check(&column, None)?;
        out.push(Arc::new(column.with_data_type(T::data_type())));
        Ok(())
    }
}

macro_rules! scalar {
    ([$($parameters:tt)*] $name:ty) => {
        impl<$($parameters)*> Record for $name {
            type Ref<'a> = $name;
            type Cols = ScalarCols<$name>;
            type Builder = ScalarBuilder<$name>;
            const SHAPE: RecordShape = RecordShape::Leaf;
            fn fields(name: &str, out: &mut Vec<Field>) {
                out.push(Field::new(leaf_name(name), <$name>::data_type(), false));
            }
            fn own(row: $name) -> Self { row }
            #[inline]
            fn append(self, to: &mut Self::Builder) { to.0.push(self.native()) }
            #[inline]
            fn append_ref(row: $name, to: &mut Self::Builder) { to.0.push(row.native()) }
            fn append_null(to: &mut Self::Builder) { to.0.push(Default::default()) }
        }
        impl<$($parameters)*> Columns<$name> for ScalarCols<$name> {
            fn try_new(reader: &mut ColumnReader<'_>) -> Result<Self> {
                let wanted = <$name>::data_type();
                let column =
                    reader.column::<PrimitiveArray<<$name as Scalar>::Arrow>>(&wanted)?;
                match <$name>::reads(column.data_type()) {
                    true => {
                        <$name>::check(&column, reader.present())?;
                        Ok(ScalarCols(column.values().clone()))
                    }
                    false => Err(Error::Schema {
                        what: "a column".into(),
                        expected: wanted.to_string(),
                        found: column.data_type().to_string(),
                    }),
                }
            }
            #[inline]
            fn get(&self, row: usize) -> $name { <$name>::of(self.0[row]) }
        }
        impl<$($parameters)*> Push<$name> for $name {
            #[inline]
            fn push_to(self, to: &mut ScalarBuilder<$name>) { to.0.push(self.native()) }
        }
        impl<$($parameters)*> Leaf for $name {}
        impl<$($parameters)*> Key for $name {}
    };
}

scalar!([] Millis);
scalar!([] Date);
scalar!([const P: u8, const S: i8] Decimal<P, S>);

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        BooleanArray, Decimal128Array, Int64Array, ListArray, RecordBatch,
    };
    use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};

    use super::*;
    use crate::stream::record::check_rows;

    type Price = Decimal<4, 0>;

    /// A column as another writer may have made it.
    fn prices(values: Vec<i128>, nulls: Option<NullBuffer>) -> ArrayRef {
        let column = Decimal128Array::new(values.into(), nulls);
        Arc::new(column.with_data_type(Price::data_type()))
    }

    fn check<T: Record>(columns: Vec<ArrayRef>) -> Result<()> {
        check_rows::<T>(&RecordBatch::try_new(T::schema(), columns).unwrap())
    }

    #[test]
    fn a_column_with_too_many_digits_has_no_records() {
        assert!(check::<Price>(vec![prices(vec![-9_999, 0, 9_999], None)]).is_ok());
        for wrong in [10_000, -10_000, i128::MIN] {
            let error = check::<Price>(vec![prices(vec![1, wrong], None)]).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains("4 digits at most") && error.contains(&wrong.to_string()),
                "{error}"
            );
        }
    }

    /// Other writers leave anything there.
    #[test]
    fn values_that_are_not_there_may_have_any_digits() {
        let column = |valid: [bool; 2]| {
            let nulls = NullBuffer::from(valid.to_vec());
            vec![prices(vec![10_000, 5], Some(nulls))]
        };
        assert!(check::<Option<Price>>(column([false, true])).is_ok());
        assert!(check::<Option<Price>>(column([true, false])).is_err());

        let columns = |is: [bool; 2]| -> Vec<ArrayRef> {
            vec![
                Arc::new(BooleanArray::from(is.to_vec())),
                Arc::new(Int64Array::from(vec![1, 2])),
                prices(vec![10_000, 5], None),
            ]
        };
        assert!(check::<Option<(i64, Price)>>(columns([false, true])).is_ok());
        assert!(check::<Option<(i64, Price)>>(columns([true, false])).is_err());

        let lists = |valid: [bool; 2]| -> Vec<ArrayRef> {
            let item = Arc::new(Field::new("item", Price::data_type(), false));
            let offsets = OffsetBuffer::from_lengths([1, 1]);
            let nulls = NullBuffer::from(valid.to_vec());
            let items = prices(vec![10_000, 5], None);
            vec![Arc::new(ListArray::new(item, offsets, items, Some(nulls)))]
        };
        assert!(check::<Option<Vec<Price>>>(lists([false, true])).is_ok());
        assert!(check::<Option<Vec<Price>>>(lists([true, false])).is_err());
    }
}
