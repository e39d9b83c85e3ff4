//! `Vec`: a list column, read as [`Items`]. The items of a record of several columns are structs.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, ListArray, StructArray};
use datafusion::arrow::buffer::{Buffer, OffsetBuffer};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};

use super::items::{same_items, without_hidden_items};
use super::{
    Builder, ColumnReader, Columns, Leaf, Push, Record, RecordShape, leaf_name, plain_field,
};
use crate::debug::debug_as;
use crate::error::{Error, Result};

/// The values of a list column.
pub struct ListCols<T: Record> {
    offsets: OffsetBuffer<i32>,
    /// The offset of the first item.
    first: usize,
    items: T::Cols,
}

debug_as!([T: Record] ListCols<T>);

/// Builder of a list column.
pub struct ListBuilder<T: Record> {
    lengths: Vec<usize>,
    items: T::Builder,
}

debug_as!([T: Record] ListBuilder<T>);

impl<T: Record> Default for ListBuilder<T> {
    fn default() -> Self {
        ListBuilder {
            lengths: Vec::new(),
            items: T::Builder::default(),
        }
    }
}

/// The items of one row of a list column. They can be pushed as a `Vec` of the same records.
///
/// ```
/// use dstreams::record::Items;
///
/// fn longest(urls: Items<'_, String>) -> usize {
///     urls.iter().map(str::len).max().unwrap_or(0)
/// }
/// ```
pub struct Items<'a, T: Record> {
    items: &'a T::Cols,
    start: usize,
    end: usize,
}

debug_as!([T: Record] Items<'_, T> { start, end });

impl<T: Record> Clone for Items<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Record> Copy for Items<'_, T> {}

impl<'a, T: Record> Items<'a, T> {
    /// Number of items.
    pub fn len(&self) -> usize {
        self.end - self.start
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The items in order.
    pub fn iter(self) -> impl Iterator<Item = T::Ref<'a>> {
        (self.start..self.end).map(move |row| self.items.get(row))
    }
    /// The item at `place`, from 0; `None` behind the last.
    pub fn get(self, place: usize) -> Option<T::Ref<'a>> {
        (place < self.len()).then(|| self.items.get(self.start + place))
    }
}

fn item_field<T: Record>() -> FieldRef {
    Arc::new(plain_field(&checked_item_field::<T>()))
}

/// The same with the texts of enums.
fn checked_item_field<T: Record>() -> FieldRef {
    let mut fields = Vec::new();
    Arc::new(match T::SHAPE {
        RecordShape::Composite => {
            T::fields("", &mut fields);
            Field::new("item", DataType::Struct(Fields::from(fields)), false)
        }
        RecordShape::Leaf | RecordShape::Nullable => {
            T::fields("item", &mut fields);
            fields.swap_remove(0)
        }
    })
}

impl<T: Record> Record for Vec<T> {
    type Ref<'a> = Items<'a, T>;
    type Cols = ListCols<T>;
    type Builder = ListBuilder<T>;
    const SHAPE: RecordShape = RecordShape::Leaf;
    fn fields(name: &str, out: &mut Vec<Field>) {
        let list = DataType::List(checked_item_field::<T>());
        out.push(Field::new(leaf_name(name), list, false));
    }
    fn own(row: Items<'_, T>) -> Self {
        row.iter().map(T::own).collect()
    }
    fn append(self, to: &mut Self::Builder) {
        to.lengths.push(self.len());
        for item in self {
            item.append(&mut to.items);
        }
    }
    fn append_ref(row: Items<'_, T>, to: &mut Self::Builder) {
        to.lengths.push(row.len());
        for item in row.iter() {
            T::append_ref(item, &mut to.items);
        }
    }
    fn append_null(to: &mut Self::Builder) {
        to.lengths.push(0)
    }
}

impl<T: Record> Leaf for Vec<T> {}

impl<T: Record> Columns<Vec<T>> for ListCols<T> {
    fn try_new(reader: &mut ColumnReader<'_>) -> Result<Self> {
        let kind = DataType::List(item_field::<T>());
        let list = reader.column::<ListArray>(&kind)?;
        if !same_items(list.data_type(), &kind) {
            return Err(Error::Schema {
                what: "a column of lists".into(),
                expected: kind.to_string(),
                found: list.data_type().to_string(),
            });
        }
        let list = without_hidden_items(list, reader.present())?;
        let (first, last) = (list.value_offsets()[0], list.value_offsets()[list.len()]);
        let items = list.values().slice(first as usize, (last - first) as usize);
        let items = items_of::<T>(items).map_err(|error| match error {
            Error::Schema {
                what,
                expected,
                found,
            } => Error::Schema {
                what: format!("{what} of the items of a list"),
                expected,
                found,
            },
            other => other,
        })?;
        Ok(ListCols {
            offsets: list.offsets().clone(),
            first: first as usize,
            items,
        })
    }
    fn get(&self, row: usize) -> Items<'_, T> {
        Items {
            items: &self.items,
            start: self.offsets[row] as usize - self.first,
            end: self.offsets[row + 1] as usize - self.first,
        }
    }
}

/// Reads the items, which are one array.
fn items_of<T: Record>(items: ArrayRef) -> Result<T::Cols> {
    let items = [items];
    let mut reader = ColumnReader::new(&items);
    match T::SHAPE {
        RecordShape::Composite => {
            let structs = reader.column::<StructArray>(item_field::<T>().data_type())?;
            T::Cols::try_new(&mut ColumnReader::new(structs.columns()))
        }
        RecordShape::Leaf | RecordShape::Nullable => T::Cols::try_new(&mut reader),
    }
}

impl<T: Record> Builder for ListBuilder<T> {
    fn len(&self) -> usize {
        self.lengths.len()
    }
    fn attach(&mut self, buffers: &[Buffer]) {
        self.items.attach(buffers)
    }
    fn finish(&mut self, out: &mut Vec<ArrayRef>) -> Result<()> {
        let field = item_field::<T>();
        let rows = self.items.len();
        let mut columns = Vec::new();
        self.items.finish(&mut columns)?;
        let items = match field.data_type() {
            DataType::Struct(fields) if T::SHAPE == RecordShape::Composite => {
                let fields = fields.clone();
                Arc::new(StructArray::try_new_with_length(
                    fields, columns, None, rows,
                )?)
            }
            _ => columns.swap_remove(0),
        };
        let offsets = OffsetBuffer::from_lengths(std::mem::take(&mut self.lengths));
        let list = ListArray::try_new(field, offsets, items, None)?;
        out.push(Arc::new(list));
        Ok(())
    }
}

impl<T: Record, P: Push<T>> Push<Vec<T>> for Vec<P> {
    fn push_to(self, to: &mut ListBuilder<T>) {
        to.lengths.push(self.len());
        for item in self {
            item.push_to(&mut to.items);
        }
    }
}

impl<T: Record> Push<Vec<T>> for Items<'_, T> {
    fn push_to(self, to: &mut ListBuilder<T>) {
        <Vec<T>>::append_ref(self, to)
    }
}
