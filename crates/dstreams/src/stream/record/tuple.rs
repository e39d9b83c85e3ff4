//! Tuples: the columns of their parts. A pair is `key` and `value`; `()` has no columns.

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::Field;

use super::{Builder, ColumnReader, Columns, Key, Push, Record, field_name};
use crate::error::Result;

/// No columns.
#[derive(Debug)]
pub struct UnitCols;

/// Counts the rows of a record without columns.
#[derive(Debug, Default)]
pub struct UnitBuilder(usize);

impl Record for () {
    type Ref<'a> = ();
    type Cols = UnitCols;
    type Builder = UnitBuilder;
    fn fields(_: &str, _: &mut Vec<Field>) {}
    fn own(_: ()) -> Self {}
    fn append(self, to: &mut UnitBuilder) {
        to.0 += 1
    }
    fn append_ref(_: (), to: &mut UnitBuilder) {
        to.0 += 1
    }
    fn append_null(to: &mut UnitBuilder) {
        to.0 += 1
    }
}

impl Columns<()> for UnitCols {
    fn try_new(_: &mut ColumnReader<'_>) -> Result<Self> {
        Ok(UnitCols)
    }
    fn get(&self, _: usize) {}
}

impl Builder for UnitBuilder {
    fn len(&self) -> usize {
        self.0
    }
    fn finish(&mut self, _: &mut Vec<ArrayRef>) -> Result<()> {
        self.0 = 0;
        Ok(())
    }
}

impl Push<()> for () {
    fn push_to(self, to: &mut UnitBuilder) {
        to.0 += 1
    }
}

macro_rules! tuple {
    ($(($part:ident, $push:ident, $index:tt, $name:literal)),*) => {
        impl<$($part: Record),*> Record for ($($part,)*) {
            type Ref<'a> = ($($part::Ref<'a>,)*);
            type Cols = ($($part::Cols,)*);
            type Builder = ($($part::Builder,)*);
            fn fields(name: &str, out: &mut Vec<Field>) {
                $($part::fields(&field_name(name, $name), out);)*
            }
            fn own(row: Self::Ref<'_>) -> Self { ($($part::own(row.$index),)*) }
            #[inline]
            fn append(self, to: &mut Self::Builder) { $(self.$index.append(&mut to.$index);)* }
            #[inline]
            fn append_ref(row: Self::Ref<'_>, to: &mut Self::Builder) {
                $($part::append_ref(row.$index, &mut to.$index);)*
            }
            fn append_null(to: &mut Self::Builder) { $($part::append_null(&mut to.$index);)* }
        }
        impl<$($part: Key),*> Key for ($($part,)*) {}
        impl<$($part: Record),*> Columns<($($part,)*)> for ($($part::Cols,)*) {
            fn try_new(reader: &mut ColumnReader<'_>) -> Result<Self> {
                Ok(($($part::Cols::try_new(reader)?,)*))
            }
            #[inline]
            fn get(&self, row: usize) -> ($($part::Ref<'_>,)*) { ($(self.$index.get(row),)*) }
        }
        impl<$($part: Builder),*> Builder for ($($part,)*) {
            fn len(&self) -> usize { self.0.len() }
            fn attach(&mut self, buffers: &[Buffer]) { $(self.$index.attach(buffers);)* }
            fn finish(&mut self, out: &mut Vec<ArrayRef>) -> Result<()> {
                $(self.$index.finish(out)?;)*
                Ok(())
            }
        }
        impl<$($part: Record, $push: Push<$part>),*> Push<($($part,)*)> for ($($push,)*) {
            #[inline]
            fn push_to(self, to: &mut ($($part::Builder,)*)) { $(self.$index.push_to(&mut to.$index);)* }
        }
    };
}

tuple!((A, P, 0, "key"), (B, Q, 1, "value"));
tuple!((A, P, 0, "_1"), (B, Q, 1, "_2"), (C, R, 2, "_3"));
tuple!(
    (A, P, 0, "_1"),
    (B, Q, 1, "_2"),
    (C, R, 2, "_3"),
    (D, S, 3, "_4")
);
tuple!(
    (A, P, 0, "_1"),
    (B, Q, 1, "_2"),
    (C, R, 2, "_3"),
    (D, S, 3, "_4"),
    (E, T, 4, "_5")
);
tuple!(
    (A, P, 0, "_1"),
    (B, Q, 1, "_2"),
    (C, R, 2, "_3"),
    (D, S, 3, "_4"),
    (E, T, 4, "_5"),
    (F, U, 5, "_6")
);
tuple!(
    (A, P, 0, "_1"),
    (B, Q, 1, "_2"),
    (C, R, 2, "_3"),
    (D, S, 3, "_4"),
    (E, T, 4, "_5"),
    (F, U, 5, "_6"),
    (G, V, 6, "_7")
);
tuple!(
    (A, P, 0, "_1"),
    (B, Q, 1, "_2"),
    (C, R, 2, "_3"),
    (D, S, 3, "_4"),
    (E, T, 4, "_5"),
    (F, U, 5, "_6"),
    (G, V, 6, "_7"),
    (H, W, 7, "_8")
);
tuple!(
    (A, P, 0, "_1"),
    (B, Q, 1, "_2"),
    (C, R, 2, "_3"),
    (D, S, 3, "_4"),
    (E, T, 4, "_5"),
    (F, U, 5, "_6"),
    (G, V, 6, "_7"),
    (H, W, 7, "_8"),
    (I, X, 8, "_9")
);
tuple!(
    (A, P, 0, "_1"),
    (B, Q, 1, "_2"),
    (C, R, 2, "_3"),
    (D, S, 3, "_4"),
    (E, T, 4, "_5"),
    (F, U, 5, "_6"),
    (G, V, 6, "_7"),
    (H, W, 7, "_8"),
    (I, X, 8, "_9"),
    (J, Y, 9, "_10")
);
tuple!(
    (A, P, 0, "_1"),
    (B, Q, 1, "_2"),
    (C, R, 2, "_3"),
    (D, S, 3, "_4"),
    (E, T, 4, "_5"),
    (F, U, 5, "_6"),
    (G, V, 6, "_7"),
    (H, W, 7, "_8"),
    (I, X, 8, "_9"),
    (J, Y, 9, "_10"),
    (K, Z, 10, "_11")
);
tuple!(
    (A, P, 0, "_1"),
    (B, Q, 1, "_2"),
    (C, R, 2, "_3"),
    (D, S, 3, "_4"),
    (E, T, 4, "_5"),
    (F, U, 5, "_6"),
    (G, V, 6, "_7"),
    (H, W, 7, "_8"),
    (I, X, 8, "_9"),
    (J, Y, 9, "_10"),
    (K, Z, 10, "_11"),
    (L, O, 11, "_12")
);
