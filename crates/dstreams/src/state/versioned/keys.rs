//! The keys of rows as one array, whatever their columns, hashed and compared independently of their types.
//!
//! A single column of fixed width (up to 8 bytes) or of views is used unchanged; anything else becomes the bytes
//! of `arrow-row`. Equality is that of DataFusion's grouping: null is one key, signed zeros are equal, and NaNs
//! compare bitwise. The hash is for indexes in memory only: it is fixed, is in no format, and differs from the one
//! for routing.

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BinaryArray, ByteView};
use datafusion::arrow::buffer::{Buffer, NullBuffer, ScalarBuffer};
use datafusion::arrow::datatypes::{DataType, ToByteSlice};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::{Error, Result};

/// Differs from the seed for routing: all keys of a partition have routing hashes with the same prefix.
const SEED: u64 = 0x6b65_7965_6420_7374;
/// The most bytes that are inline in a view.
const INLINE: u32 = 12;

/// Keys by row. Cheap to clone: the values are shared.
#[derive(Debug, Clone)]
pub(super) struct KeyColumns {
    array: ArrayRef,
    nulls: Option<NullBuffer>,
    bits: Bits,
}

/// The array in comparable form.
#[derive(Debug, Clone)]
enum Bits {
    One(ScalarBuffer<u8>),
    Two(ScalarBuffer<u16>),
    Four(ScalarBuffer<u32>),
    Eight(ScalarBuffer<u64>),
    Views(ScalarBuffer<u128>, Vec<Buffer>),
    Rows(BinaryArray),
}

impl Bits {
    fn of(array: &ArrayRef) -> Option<Bits> {
        Some(match array.data_type() {
            DataType::Utf8View => {
                let texts = array.as_string_view();
                Bits::Views(texts.views().clone(), texts.data_buffers().to_vec())
            }
            DataType::BinaryView => {
                let bytes = array.as_binary_view();
                Bits::Views(bytes.views().clone(), bytes.data_buffers().to_vec())
            }
            DataType::Binary => Bits::Rows(array.as_binary::<i32>().clone()),
            kind => {
                let (width, data, rows) = (kind.primitive_width()?, array.to_data(), array.len());
                let (from, buffer) = (data.offset(), data.buffers().first()?.clone());
                match width {
                    1 => Bits::One(ScalarBuffer::new(buffer, from, rows)),
                    2 => Bits::Two(ScalarBuffer::new(buffer, from, rows)),
                    4 => Bits::Four(ScalarBuffer::new(buffer, from, rows)),
                    8 => Bits::Eight(ScalarBuffer::new(buffer, from, rows)),
                    _ => return None,
                }
            }
        })
    }
}

impl KeyColumns {
    /// Whether a column of this type serves as an array of keys unchanged.
    pub fn takes(kind: &DataType) -> bool {
        let narrow = kind.primitive_width().is_some_and(|width| width <= 8);
        narrow || matches!(kind, DataType::Utf8View | DataType::BinaryView)
    }

    /// The keys of a column that [`KeyColumns::takes`], or of encoded rows.
    pub fn new(array: ArrayRef) -> Result<KeyColumns> {
        let bits = Bits::of(&array).ok_or_else(|| Error::Schema {
            what: "keys of a state".into(),
            expected: "a column of up to 64 bits, of views, or rows as bytes".into(),
            found: array.data_type().to_string(),
        })?;
        Ok(KeyColumns {
            nulls: array
                .nulls()
                .filter(|nulls| nulls.null_count() > 0)
                .cloned(),
            array,
            bits,
        })
    }

    pub fn array(&self) -> &ArrayRef {
        &self.array
    }

    pub fn len(&self) -> usize {
        self.array.len()
    }

    #[inline]
    fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    /// The hash of a row's key. Not secure against chosen collisions.
    #[inline]
    pub fn hash(&self, row: usize) -> u64 {
        if self.is_null(row) {
            return SEED;
        }
        match &self.bits {
            Bits::One(values) => mix(values[row].into()),
            Bits::Two(values) => mix(values[row].into()),
            Bits::Four(values) => mix(values[row].into()),
            Bits::Eight(values) => mix(values[row]),
            Bits::Views(views, data) => match views[row] as u32 {
                0..=INLINE => {
                    let view = views[row];
                    mix((view as u64) ^ mix((view >> 64) as u64))
                }
                _ => xxh3_64_with_seed(far(views[row], data), SEED),
            },
            Bits::Rows(rows) => xxh3_64_with_seed(rows.value(row), SEED),
        }
    }

    /// The hashes of all rows.
    pub fn hashes(&self) -> Vec<u64> {
        (0..self.len()).map(|row| self.hash(row)).collect()
    }

    /// Whether a row here and a row of `other` have the same key. Keys of different columns are never equal.
    #[inline]
    pub fn equal(&self, row: usize, other: &KeyColumns, their: usize) -> bool {
        if self.nulls.is_some() || other.nulls.is_some() {
            match (self.is_null(row), other.is_null(their)) {
                (false, false) => {}
                (ours, theirs) => return ours == theirs,
            }
        }
        match (&self.bits, &other.bits) {
            (Bits::One(ours), Bits::One(theirs)) => ours[row] == theirs[their],
            (Bits::Two(ours), Bits::Two(theirs)) => ours[row] == theirs[their],
            (Bits::Four(ours), Bits::Four(theirs)) => ours[row] == theirs[their],
            (Bits::Eight(ours), Bits::Eight(theirs)) => ours[row] == theirs[their],
            (Bits::Views(ours, data), Bits::Views(theirs, their_data)) => {
                let (ours, theirs) = (ours[row], theirs[their]);
                match ours as u32 {
                    0..=INLINE => ours == theirs,
                    // Length and first four bytes, before the rest is compared.
                    _ if ours as u64 != theirs as u64 => false,
                    _ => far(ours, data) == far(theirs, their_data),
                }
            }
            (Bits::Rows(ours), Bits::Rows(theirs)) => ours.value(row) == theirs.value(their),
            _ => false,
        }
    }
}

/// The bytes of a view that are not inline.
#[inline]
fn far(view: u128, data: &[Buffer]) -> &[u8] {
    let view = ByteView::from(view);
    let from = view.offset as usize;
    &data[view.buffer_index as usize].to_byte_slice()[from..from + view.length as usize]
}

/// Every bit of the number affects about half of the bits of the result; no two numbers give the same.
#[inline]
fn mix(mut number: u64) -> u64 {
    number = (number ^ SEED ^ (number >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    number = (number ^ (number >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    number ^ (number >> 33)
}
