//! Keys whose columns fit an integer: numbers, times, booleans, short binary values, and texts by their numbers.

use std::sync::Arc;

use datafusion::arrow::array::UInt32Array;
use datafusion::arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, make_array,
};
use datafusion::arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{ArrowNativeType, DataType, Schema};

use super::index::{KeyIndex, KeyRows, hash_of};
use super::texts::Texts;
use crate::error::Result;

/// An unsigned integer that contains keys.
pub(super) trait Word: Copy + Default + Eq + std::ops::BitOrAssign {
    fn of(wide: u128) -> Self;
    fn wide(self) -> u128;
}

impl Word for u64 {
    #[inline]
    fn of(wide: u128) -> Self {
        wide as u64
    }
    #[inline]
    fn wide(self) -> u128 {
        self.into()
    }
}

impl Word for u128 {
    #[inline]
    fn of(wide: u128) -> Self {
        wide
    }
    #[inline]
    fn wide(self) -> u128 {
        self
    }
}

/// How the columns of a key fill an integer, from its lowest bit.
#[derive(Debug)]
pub(super) struct Layout {
    fields: Vec<PackedField>,
    pub bits: u32,
}

#[derive(Debug)]
struct PackedField {
    kind: DataType,
    /// Bits of the value.
    bits: u32,
    shift: u32,
    /// A bit that is set for null, whose value is zero.
    null: Option<u32>,
}

impl Layout {
    /// None if a column has another type, or if they do not fit 128 bits.
    pub fn of(schema: &Schema) -> Option<Self> {
        let (mut fields, mut end) = (Vec::new(), 0);
        for field in schema.fields() {
            let bits = bits_of(field.data_type())?;
            // The number of a text is that of null, too.
            let has_null = field.is_nullable() && !is_text(field.data_type());
            let (shift, null) = (end, has_null.then_some(end + bits));
            end += bits + u32::from(has_null);
            fields.push(PackedField {
                kind: field.data_type().clone(),
                bits,
                shift,
                null,
            });
        }
        (1..=128)
            .contains(&end)
            .then_some(Layout { fields, bits: end })
    }
}

/// Bits of a value of a type whose equality is that of its bits.
fn bits_of(kind: &DataType) -> Option<u32> {
    match kind {
        DataType::Boolean => Some(1),
        // The number of a text.
        DataType::Utf8View | DataType::BinaryView => Some(32),
        DataType::FixedSizeBinary(bytes @ 1..=16) => Some(8 * *bytes as u32),
        DataType::Decimal128(..) => Some(128),
        // Its bytes need not be aligned like those of an integer.
        DataType::Interval(_) => None,
        kind if kind.is_integer() || kind.is_temporal() => match kind.primitive_width()? {
            bytes @ 1..=8 => Some(8 * bytes as u32),
            _ => None,
        },
        _ => None,
    }
}

/// Keys in integers, by number.
#[derive(Debug)]
pub(super) struct PackedKeys<W> {
    layout: Layout,
    /// Of each text column.
    texts: Vec<Texts>,
    index: KeyIndex,
    keys: PackedRows<W>,
    /// The numbers of the current rows' texts.
    numbers: Vec<usize>,
}

/// The known keys by number, and those of the current rows.
#[derive(Debug, Default)]
struct PackedRows<W> {
    known: Vec<W>,
    rows: Vec<W>,
}

impl<W: Word> KeyRows for PackedRows<W> {
    type Key = W;

    #[inline]
    fn key(&self, row: usize) -> W {
        self.rows[row]
    }
    #[inline]
    fn known(&self) -> &[W] {
        &self.known
    }
    #[inline]
    fn hash(key: W) -> u32 {
        hash_of(key.wide())
    }
    #[inline]
    fn is_whole(_: W) -> bool {
        true
    }
    #[inline]
    fn is_equal(&self, _: u32, _: usize) -> bool {
        true
    }
    #[inline]
    fn push(&mut self, key: W, _: usize) {
        self.known.push(key);
    }
}

impl<W: Word> PackedKeys<W> {
    /// With room for some keys.
    pub fn new(layout: Layout, room: usize) -> Self {
        let kinds = layout.fields.iter().map(|field| &field.kind);
        let texts = kinds.filter(|kind| is_text(kind));
        PackedKeys {
            texts: texts.map(|kind| Texts::new(kind.clone(), 0)).collect(),
            layout,
            index: KeyIndex::with_room(room),
            keys: PackedRows::default(),
            numbers: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.keys.known.len()
    }

    pub fn number(&mut self, columns: &[ArrayRef], numbers: &mut Vec<usize>) -> Result<()> {
        numbers.resize(self.pack(columns)?, 0);
        self.index.number(&mut self.keys, numbers)
    }

    pub fn add(&mut self, columns: &[ArrayRef], value: impl Fn(usize) -> i64) -> Result<()> {
        let rows = self.pack(columns)?;
        self.index.add(&mut self.keys, rows, value)
    }

    pub fn take_sums(&mut self) -> Vec<i64> {
        self.index.take_sums()
    }

    /// Packs the keys of all rows; returns their number.
    fn pack(&mut self, columns: &[ArrayRef]) -> Result<usize> {
        let rows = columns.first().map_or(0, |column| column.len());
        let keys = &mut self.keys.rows;
        keys.clear();
        keys.resize(rows, W::default());
        let mut texts = self.texts.iter_mut();
        for (column, field) in columns.iter().zip(&self.layout.fields) {
            match is_text(&field.kind).then(|| texts.next()).flatten() {
                Some(texts) => {
                    texts.number(column, &mut self.numbers)?;
                    let values = self.numbers.iter().map(|number| *number as u128);
                    field.pack(values, column, keys);
                }
                None => field.pack_column(column, keys),
            }
        }
        Ok(rows)
    }

    /// The keys by number, as columns; none remain.
    pub fn take(&mut self) -> Result<Vec<ArrayRef>> {
        let keys = std::mem::take(&mut self.keys.known);
        self.index = KeyIndex::with_room(0);
        let mut texts = self.texts.iter_mut();
        let columns = self.layout.fields.iter().map(|field| {
            match is_text(&field.kind).then(|| texts.next()).flatten() {
                Some(texts) => {
                    let numbers = keys.iter().map(|key| field.value(*key) as u32);
                    let numbers =
                        UInt32Array::new(numbers.collect::<Vec<_>>().into(), field.nulls(&keys));
                    Ok(take(&texts.take()?, &numbers, None)?)
                }
                None => field.column(&keys),
            }
        });
        columns.collect()
    }
}

fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8View | DataType::BinaryView)
}

impl PackedField {
    fn pack_column<W: Word>(&self, column: &ArrayRef, keys: &mut [W]) {
        match self.kind {
            DataType::Boolean => {
                let values = column.as_boolean().values();
                self.pack(values.iter().map(u128::from), column, keys);
            }
            DataType::FixedSizeBinary(_) => {
                let values = column.as_fixed_size_binary();
                let wide = |row| {
                    let mut bytes = [0; 16];
                    let value: &[u8] = values.value(row);
                    bytes[..value.len()].copy_from_slice(value);
                    u128::from_le_bytes(bytes)
                };
                self.pack((0..values.len()).map(wide), column, keys);
            }
            _ => {
                let data = column.to_data();
                match self.bits {
                    8 => self.pack(wide::<u8>(&data), column, keys),
                    16 => self.pack(wide::<u16>(&data), column, keys),
                    32 => self.pack(wide::<u32>(&data), column, keys),
                    64 => self.pack(wide::<u64>(&data), column, keys),
                    _ => {
                        let values = data.buffer::<i128>(0).iter();
                        self.pack(values.map(|value| *value as u128), column, keys);
                    }
                }
            }
        }
    }

    #[inline]
    fn pack<W: Word>(&self, values: impl Iterator<Item = u128>, column: &ArrayRef, keys: &mut [W]) {
        match (column.nulls(), self.null) {
            (Some(nulls), Some(null)) => {
                for ((key, value), is_valid) in keys.iter_mut().zip(values).zip(nulls) {
                    *key |= W::of(match is_valid {
                        true => value << self.shift,
                        false => 1 << null,
                    });
                }
            }
            _ => {
                // Texts have a number for null; other columns have none, as the schema says.
                debug_assert!(is_text(&self.kind) || column.null_count() == 0);
                for (key, value) in keys.iter_mut().zip(values) {
                    *key |= W::of(value << self.shift);
                }
            }
        }
    }

    fn value<W: Word>(&self, key: W) -> u128 {
        key.wide() >> self.shift & (u128::MAX >> (128 - self.bits))
    }

    fn nulls<W: Word>(&self, keys: &[W]) -> Option<NullBuffer> {
        let null = self.null?;
        let is_valid = |at: usize| keys[at].wide() >> null & 1 == 0;
        let nulls = NullBuffer::new(BooleanBuffer::collect_bool(keys.len(), is_valid));
        (nulls.null_count() > 0).then_some(nulls)
    }

    fn column<W: Word>(&self, keys: &[W]) -> Result<ArrayRef> {
        let nulls = self.nulls(keys);
        let values = keys.iter().map(|key| self.value(*key));
        let buffer = match self.kind {
            DataType::Boolean => {
                let set = BooleanBuffer::collect_bool(keys.len(), |at| self.value(keys[at]) == 1);
                return Ok(Arc::new(BooleanArray::new(set, nulls)));
            }
            DataType::FixedSizeBinary(bytes) => {
                let bytes = bytes as usize;
                let all: Vec<u8> = values
                    .flat_map(|value| value.to_le_bytes().into_iter().take(bytes))
                    .collect();
                let array = FixedSizeBinaryArray::try_new(bytes as i32, all.into(), nulls)?;
                return Ok(Arc::new(array));
            }
            _ => match self.bits {
                8 => buffer_of(values.map(|value| value as u8)),
                16 => buffer_of(values.map(|value| value as u16)),
                32 => buffer_of(values.map(|value| value as u32)),
                64 => buffer_of(values.map(|value| value as u64)),
                _ => buffer_of(values.map(|value| value as i128)),
            },
        };
        let data = ArrayData::builder(self.kind.clone())
            .len(keys.len())
            .add_buffer(buffer)
            .nulls(nulls);
        Ok(make_array(data.build()?))
    }
}

fn wide<T: ArrowNativeType + Into<u128>>(data: &ArrayData) -> impl Iterator<Item = u128> {
    data.buffer::<T>(0).iter().map(|value| (*value).into())
}

fn buffer_of<T: ArrowNativeType>(values: impl Iterator<Item = T>) -> Buffer {
    Buffer::from_vec(values.collect::<Vec<T>>())
}
