//! `Vec` of a single column: a list column, read as [`Items`].

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, ListArray};
use datafusion::arrow::buffer::{Buffer, OffsetBuffer};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};

use super::{Builder, ColumnReader, Columns, Leaf, Push, Record, leaf_name};
use crate::debug::debug_as;
use crate::error::Result;

/// The values of a list column.
pub struct ListCols<T: Record> {
    offsets: OffsetBuffer<i32>,
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

/// The items of one row of a list column.
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
}

fn item_field<T: Record>() -> FieldRef {
    let mut fields = Vec::with_capacity(1);
    T::fields("item", &mut fields);
    Arc::new(fields.swap_remove(0))
}

impl<T: Leaf> Record for Vec<T> {
    type Ref<'a> = Items<'a, T>;
    type Cols = ListCols<T>;
    type Builder = ListBuilder<T>;
    fn fields(name: &str, out: &mut Vec<Field>) {
        let list = DataType::List(item_field::<T>());
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
}

impl<T: Leaf> Leaf for Vec<T> {
    fn append_null(to: &mut Self::Builder) {
        to.lengths.push(0)
    }
}

impl<T: Leaf> Columns<Vec<T>> for ListCols<T> {
    fn try_new(reader: &mut ColumnReader<'_>) -> Result<Self> {
        let array = reader.column::<ListArray>(&DataType::List(item_field::<T>()))?;
        let items = [Arc::clone(array.values())];
        Ok(ListCols {
            offsets: array.offsets().clone(),
            items: T::Cols::try_new(&mut ColumnReader::new(&items))?,
        })
    }
    fn get(&self, row: usize) -> Items<'_, T> {
        Items {
            items: &self.items,
            start: self.offsets[row] as usize,
            end: self.offsets[row + 1] as usize,
        }
    }
}

impl<T: Leaf> Builder for ListBuilder<T> {
    fn len(&self) -> usize {
        self.lengths.len()
    }
    fn attach(&mut self, buffers: &[Buffer]) {
        self.items.attach(buffers)
    }
    fn finish(&mut self, out: &mut Vec<ArrayRef>) -> Result<()> {
        let mut items = Vec::with_capacity(1);
        self.items.finish(&mut items)?;
        let offsets = OffsetBuffer::from_lengths(std::mem::take(&mut self.lengths));
        let items = items.swap_remove(0);
        let list = ListArray::try_new(item_field::<T>(), offsets, items, None)?;
        out.push(Arc::new(list));
        Ok(())
    }
}

impl<T: Leaf, P: Push<T>> Push<Vec<T>> for Vec<P> {
    fn push_to(self, to: &mut ListBuilder<T>) {
        to.lengths.push(self.len());
        for item in self {
            item.push_to(&mut to.items);
        }
    }
}
