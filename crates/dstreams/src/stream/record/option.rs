//! `Option` of a single column: a column with nulls.

use datafusion::arrow::array::{Array, ArrayRef, make_array};
use datafusion::arrow::buffer::{Buffer, NullBuffer};
use datafusion::arrow::datatypes::Field;

use super::{Builder, ColumnReader, Columns, Key, Leaf, Push, Record};
use crate::debug::debug_as;
use crate::error::Result;

/// The values of a column with nulls.
pub struct OptionCols<T: Record> {
    nulls: Option<NullBuffer>,
    values: T::Cols,
}

debug_as!([T: Record] OptionCols<T>);

/// Builder of a column with nulls.
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

impl<T: Leaf> Record for Option<T> {
    type Ref<'a> = Option<T::Ref<'a>>;
    type Cols = OptionCols<T>;
    type Builder = OptionBuilder<T>;
    fn fields(name: &str, out: &mut Vec<Field>) {
        let start = out.len();
        T::fields(name, out);
        for field in &mut out[start..] {
            *field = field.clone().with_nullable(true);
        }
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
}

impl<T: Key + Leaf> Key for Option<T> {}

impl<T: Leaf> Columns<Option<T>> for OptionCols<T> {
    fn try_new(reader: &mut ColumnReader<'_>) -> Result<Self> {
        let nulls = reader.peek_nulls();
        reader.allow_null();
        Ok(OptionCols {
            nulls,
            values: T::Cols::try_new(reader)?,
        })
    }
    fn get(&self, row: usize) -> Option<T::Ref<'_>> {
        match &self.nulls {
            Some(nulls) if nulls.is_null(row) => None,
            _ => Some(self.values.get(row)),
        }
    }
}

impl<T: Leaf> Builder for OptionBuilder<T> {
    fn len(&self) -> usize {
        self.valid.len()
    }
    fn attach(&mut self, buffers: &[Buffer]) {
        self.values.attach(buffers)
    }
    fn finish(&mut self, out: &mut Vec<ArrayRef>) -> Result<()> {
        let valid = std::mem::take(&mut self.valid);
        let at = out.len();
        self.values.finish(out)?;
        if valid.iter().all(|valid| *valid) {
            return Ok(());
        }
        let values = out[at].to_data().into_builder();
        let data = values.nulls(Some(NullBuffer::from(valid))).build()?;
        out[at] = make_array(data);
        Ok(())
    }
}

impl<T: Leaf, P: Push<T>> Push<Option<T>> for Option<P> {
    fn push_to(self, to: &mut OptionBuilder<T>) {
        to.valid.push(self.is_some());
        match self {
            Some(value) => value.push_to(&mut to.values),
            None => T::append_null(&mut to.values),
        }
    }
}
