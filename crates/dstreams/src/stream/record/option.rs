//! `Option`: of a single column, a column with nulls; of any other record, a column `_is` and the record's columns,
//! which are null where the record is absent.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray};
use datafusion::arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use datafusion::arrow::compute::nullif;
use datafusion::arrow::datatypes::{DataType, Field};

use super::{Builder, ColumnReader, Columns, Key, Leaf, Push, Record, RecordShape, field_name};
use crate::debug::debug_as;
use crate::error::Result;

/// Whether the record is there, and its values.
pub struct OptionCols<T: Record> {
    nulls: Option<NullBuffer>,
    values: T::Cols,
}

debug_as!([T: Record] OptionCols<T>);

/// Builder of the columns of a record that may be absent.
pub struct OptionBuilder<T: Record> {
    valid: Vec<bool>,
    values: T::Builder,
}

debug_as!([T: Record] OptionBuilder<T>);

impl<T: Record> Default for OptionBuilder<T> {
    fn default() -> Self {
        OptionBuilder {
            valid: Vec::new(),
            values: T::Builder::default(),
        }
    }
}

/// Whether an `Option<T>` has a column of its own; otherwise the nulls of the only column say which rows are there.
const fn has_own_column<T: Record>() -> bool {
    !matches!(T::SHAPE, RecordShape::Leaf)
}

impl<T: Record> Record for Option<T> {
    type Ref<'a> = Option<T::Ref<'a>>;
    type Cols = OptionCols<T>;
    type Builder = OptionBuilder<T>;
    const SHAPE: RecordShape = match T::SHAPE {
        RecordShape::Leaf => RecordShape::Nullable,
        _ => RecordShape::Composite,
    };
    fn fields(name: &str, out: &mut Vec<Field>) {
        let mut fields = Vec::new();
        T::fields(name, &mut fields);
        if has_own_column::<T>() {
            let is = field_name(name, "_is");
            if fields.iter().any(|field| *field.name() == is) {
                fields.clear();
                T::fields(&field_name(name, "_some"), &mut fields);
            }
            out.push(Field::new(is, DataType::Boolean, false));
        }
        out.extend(fields.into_iter().map(|field| field.with_nullable(true)));
    }
    fn own(row: Self::Ref<'_>) -> Self {
        row.map(T::own)
    }
    fn append(self, to: &mut Self::Builder) {
        to.valid.push(self.is_some());
        match self {
            Some(value) => value.append(&mut to.values),
            None => T::append_null(&mut to.values),
        }
    }
    fn append_ref(row: Self::Ref<'_>, to: &mut Self::Builder) {
        to.valid.push(row.is_some());
        match row {
            Some(value) => T::append_ref(value, &mut to.values),
            None => T::append_null(&mut to.values),
        }
    }
    fn append_null(to: &mut Self::Builder) {
        to.valid.push(false);
        T::append_null(&mut to.values)
    }
}

impl<T: Key + Leaf> Key for Option<T> {}

impl<T: Record> Columns<Option<T>> for OptionCols<T> {
    fn try_new(reader: &mut ColumnReader<'_>) -> Result<Self> {
        if has_own_column::<T>() {
            let is = reader.column::<BooleanArray>(&DataType::Boolean)?;
            let values = reader.lenient(is.values(), |reader| T::Cols::try_new(reader))?;
            let nulls = Some(NullBuffer::new(is.values().clone()));
            return Ok(OptionCols { nulls, values });
        }
        let nulls = reader.peek_nulls();
        reader.allow_null();
        Ok(OptionCols {
            nulls,
            values: T::Cols::try_new(reader)?,
        })
    }
    #[inline]
    fn get(&self, row: usize) -> Option<T::Ref<'_>> {
        match &self.nulls {
            Some(nulls) if nulls.is_null(row) => None,
            _ => Some(self.values.get(row)),
        }
    }
}

impl<T: Record> Builder for OptionBuilder<T> {
    fn len(&self) -> usize {
        self.valid.len()
    }
    fn attach(&mut self, buffers: &[Buffer]) {
        self.values.attach(buffers)
    }
    fn finish(&mut self, out: &mut Vec<ArrayRef>) -> Result<()> {
        let there = BooleanBuffer::from(std::mem::take(&mut self.valid));
        if has_own_column::<T>() {
            out.push(Arc::new(BooleanArray::new(there.clone(), None)));
        }
        let values = out.len();
        self.values.finish(out)?;
        if there.count_set_bits() < there.len() {
            let absent = BooleanArray::new(!&there, None);
            for column in &mut out[values..] {
                *column = nullif(column, &absent)?;
            }
        }
        Ok(())
    }
}

impl<T: Record, P: Push<T>> Push<Option<T>> for Option<P> {
    #[inline]
    fn push_to(self, to: &mut OptionBuilder<T>) {
        to.valid.push(self.is_some());
        match self {
            Some(value) => value.push_to(&mut to.values),
            None => T::append_null(&mut to.values),
        }
    }
}
