//! Numbers and `bool`: one column each, read and written by value.

use datafusion::arrow::array::{ArrayRef, BooleanArray, PrimitiveArray};
use datafusion::arrow::buffer::{BooleanBuffer, ScalarBuffer};
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use std::sync::Arc;

use super::{Builder, ColumnReader, Columns, Key, Leaf, Push, Record, RecordShape, leaf_name};
use crate::debug::debug_as;
use crate::error::Result;

/// The values of a column of numbers.
pub struct NumberCols<P: ArrowPrimitiveType>(ScalarBuffer<P::Native>);

debug_as!([P: ArrowPrimitiveType] NumberCols<P>);

/// Builder of a column of numbers.
pub struct NumberBuilder<P: ArrowPrimitiveType>(Vec<P::Native>);

debug_as!([P: ArrowPrimitiveType] NumberBuilder<P>);

impl<P: ArrowPrimitiveType> Default for NumberBuilder<P> {
    fn default() -> Self {
        NumberBuilder(Vec::new())
    }
}

impl<P: ArrowPrimitiveType> Builder for NumberBuilder<P> {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn finish(&mut self, out: &mut Vec<ArrayRef>) -> Result<()> {
        let values = std::mem::take(&mut self.0);
        out.push(Arc::new(PrimitiveArray::<P>::new(values.into(), None)));
        Ok(())
    }
}

macro_rules! number {
    ($($native:ty => $arrow:ty),*) => {$(
        impl Record for $native {
            type Ref<'a> = $native;
            type Cols = NumberCols<$arrow>;
            type Builder = NumberBuilder<$arrow>;
            const SHAPE: RecordShape = RecordShape::Leaf;
            fn fields(name: &str, out: &mut Vec<Field>) {
                out.push(Field::new(leaf_name(name), <$arrow>::DATA_TYPE, false));
            }
            fn own(row: $native) -> Self { row }
            #[inline]
            fn append(self, to: &mut Self::Builder) { to.0.push(self) }
            #[inline]
            fn append_ref(row: $native, to: &mut Self::Builder) { to.0.push(row) }
            #[inline]
            fn append_null(to: &mut Self::Builder) { to.0.push(Default::default()) }
        }
        impl Columns<$native> for NumberCols<$arrow> {
            fn try_new(reader: &mut ColumnReader<'_>) -> Result<Self> {
                let array = reader.column::<PrimitiveArray<$arrow>>(&<$arrow>::DATA_TYPE)?;
                Ok(NumberCols(array.values().clone()))
            }
            #[inline]
            fn get(&self, row: usize) -> $native { self.0[row] }
        }
        impl Push<$native> for $native {
            #[inline]
            fn push_to(self, to: &mut NumberBuilder<$arrow>) { to.0.push(self) }
        }
        impl Leaf for $native {}
    )*};
}

number!(
    i8 => Int8Type, i16 => Int16Type, i32 => Int32Type, i64 => Int64Type,
    u8 => UInt8Type, u16 => UInt16Type, u32 => UInt32Type, u64 => UInt64Type,
    f32 => Float32Type, f64 => Float64Type
);

macro_rules! key {
    ($($native:ty),*) => {$(impl Key for $native {})*};
}
key!(i8, i16, i32, i64, u8, u16, u32, u64, bool);

impl Record for bool {
    type Ref<'a> = bool;
    type Cols = BooleanBuffer;
    type Builder = Vec<bool>;
    const SHAPE: RecordShape = RecordShape::Leaf;
    fn fields(name: &str, out: &mut Vec<Field>) {
        out.push(Field::new(leaf_name(name), DataType::Boolean, false));
    }
    fn own(row: bool) -> Self {
        row
    }
    fn append(self, to: &mut Vec<bool>) {
        Vec::push(to, self)
    }
    fn append_ref(row: bool, to: &mut Vec<bool>) {
        Vec::push(to, row)
    }
    fn append_null(to: &mut Vec<bool>) {
        Vec::push(to, false)
    }
}

impl Columns<bool> for BooleanBuffer {
    fn try_new(reader: &mut ColumnReader<'_>) -> Result<Self> {
        let array = reader.column::<BooleanArray>(&DataType::Boolean)?;
        Ok(array.values().clone())
    }
    fn get(&self, row: usize) -> bool {
        self.value(row)
    }
}

impl Builder for Vec<bool> {
    fn len(&self) -> usize {
        Vec::len(self)
    }
    fn finish(&mut self, out: &mut Vec<ArrayRef>) -> Result<()> {
        out.push(Arc::new(BooleanArray::from(std::mem::take(self))));
        Ok(())
    }
}

impl Push<bool> for bool {
    fn push_to(self, to: &mut Vec<bool>) {
        Vec::push(to, self)
    }
}

impl Leaf for bool {}
