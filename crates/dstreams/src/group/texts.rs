//! Texts and binary values by number.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, BooleanArray, GenericByteViewArray,
};
use datafusion::arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use datafusion::arrow::compute::nullif;
use datafusion::arrow::datatypes::{ByteViewType, DataType};
use xxhash_rust::xxh3::xxh3_64;

use super::index::{KeyIndex, KeyRows, hash_of};
use crate::error::Result;
use crate::stream::record::{TextBuilder, trusted_views, view_at};

/// Longest text that a view contains, in bytes.
const INLINE: usize = 12;
/// Longest text that a key contains, in bytes.
const WHOLE: usize = 15;
/// The first byte of the keys of longer texts.
const LONG: u8 = u8::MAX;
/// The key of null.
const NULL: u128 = 254;
/// Size of the first buffer of long texts, and of the largest ones, in bytes.
const BUFFERS: [usize; 2] = [8 << 10, 1 << 20];

/// The texts of a column by number, and how to find it.
#[derive(Debug)]
pub(super) struct Texts {
    kind: DataType,
    index: KeyIndex,
    known: KnownTexts,
}

/// The texts that have numbers.
///
/// A text is looked up by a key of 16 bytes. The first byte says which kind of key it is. A text of up to 12 bytes is its
/// own view: the length in four bytes, then the text. One of 13 to 15 bytes follows one byte with its length. The key of
/// a longer one has a hash, and the texts are compared.
#[derive(Debug, Default)]
struct KnownTexts {
    keys: Vec<u128>,
    /// Views of the same texts, the long ones in `buffers`.
    views: Vec<u128>,
    buffers: Vec<Vec<u8>>,
    /// The number of null.
    null: Option<usize>,
}

impl Texts {
    /// For text, or for binary values, with room for some.
    pub fn new(kind: DataType, room: usize) -> Self {
        Texts {
            kind,
            index: KeyIndex::with_room(room),
            known: KnownTexts::default(),
        }
    }

    pub fn len(&self) -> usize {
        self.known.keys.len()
    }

    /// Null has a number like any text.
    pub fn number(&mut self, column: &ArrayRef, numbers: &mut Vec<usize>) -> Result<()> {
        numbers.resize(column.len(), 0);
        let (known, index) = (&mut self.known, &mut self.index);
        match self.kind {
            DataType::Utf8View => {
                index.number(&mut rows_of(column.as_string_view(), known), numbers)
            }
            _ => index.number(&mut rows_of(column.as_binary_view(), known), numbers),
        }
    }

    pub fn add(&mut self, column: &ArrayRef, value: impl Fn(usize) -> i64) -> Result<()> {
        let (known, index, rows) = (&mut self.known, &mut self.index, column.len());
        match self.kind {
            DataType::Utf8View => {
                index.add(&mut rows_of(column.as_string_view(), known), rows, value)
            }
            _ => index.add(&mut rows_of(column.as_binary_view(), known), rows, value),
        }
    }

    pub fn take_sums(&mut self) -> Vec<i64> {
        self.index.take_sums()
    }

    /// The texts by number; none remain.
    pub fn take(&mut self) -> Result<ArrayRef> {
        self.index = KeyIndex::with_room(0);
        let known = std::mem::take(&mut self.known);
        let buffers = known.buffers.into_iter().map(Buffer::from_vec).collect();
        let count = known.views.len();
        let texts = match self.kind {
            DataType::Utf8View => Arc::new(trusted_views(known.views, buffers)) as ArrayRef,
            _ => Arc::new(BinaryViewArray::try_new(known.views.into(), buffers, None)?),
        };
        Ok(match known.null {
            Some(null) => {
                let is_null = BooleanBuffer::collect_bool(count, |number| number == null);
                nullif(&texts, &BooleanArray::new(is_null, None))?
            }
            None => texts,
        })
    }
}

/// The known texts, and those of the current rows.
struct TextRows<'a, T: ByteViewType> {
    known: &'a mut KnownTexts,
    texts: &'a GenericByteViewArray<T>,
    nulls: Option<&'a NullBuffer>,
}

fn rows_of<'a, T: ByteViewType>(
    texts: &'a GenericByteViewArray<T>,
    known: &'a mut KnownTexts,
) -> TextRows<'a, T> {
    let nulls = texts.nulls().filter(|nulls| nulls.null_count() > 0);
    TextRows {
        known,
        texts,
        nulls,
    }
}

impl<T: ByteViewType> TextRows<'_, T> {
    fn bytes(&self, row: usize) -> &[u8] {
        self.texts.value(row).as_ref()
    }
}

impl<T: ByteViewType> KeyRows for TextRows<'_, T> {
    type Key = u128;

    #[inline]
    fn key(&self, row: usize) -> u128 {
        let view = self.texts.views()[row];
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            return NULL;
        }
        match TextBuilder::is_inline(view) {
            true => view,
            false => key_of(view, self.texts.data_buffers(), || self.bytes(row)),
        }
    }

    #[inline]
    fn known(&self) -> &[u128] {
        &self.known.keys
    }

    #[inline]
    fn hash(key: u128) -> u32 {
        hash_of(key)
    }

    #[inline]
    fn is_whole(key: u128) -> bool {
        key as u8 != LONG
    }

    fn is_equal(&self, number: u32, row: usize) -> bool {
        self.known.long(number as usize) == self.bytes(row)
    }

    fn push(&mut self, key: u128, row: usize) {
        let known = &mut *self.known;
        let view = match key as u8 as usize <= INLINE {
            true => key,
            false if key == NULL => {
                known.null = Some(known.views.len());
                0
            }
            false => known.copy(self.texts.value(row).as_ref()),
        };
        known.keys.push(key);
        known.views.push(view);
    }
}

/// The key of a text that its view does not contain.
fn key_of<'a>(view: u128, buffers: &[Buffer], text: impl Fn() -> &'a [u8]) -> u128 {
    let length = view as u32 as usize;
    if length > WHOLE {
        let low = u64::from(LONG) | (view as u64) << 8;
        return u128::from(low) | u128::from(xxh3_64(text())) << 64;
    }
    let (buffer, offset) = ((view >> 64) as u32 as usize, (view >> 96) as u32 as usize);
    let bytes = buffers[buffer].as_slice()[offset..].first_chunk();
    let bytes = bytes.copied().unwrap_or_else(|| {
        let mut bytes = [0; 16];
        bytes[..length].copy_from_slice(text());
        bytes
    });
    // Shifts the bytes behind the text out, and the length in.
    let behind = 8 * (16 - length as u32);
    (u128::from_le_bytes(bytes) << behind >> (behind - 8)) | length as u128
}

impl KnownTexts {
    fn long(&self, number: usize) -> &[u8] {
        let view = self.views[number];
        let (length, buffer, offset) = (view as u32, (view >> 64) as u32, (view >> 96) as u32);
        &self.buffers[buffer as usize][offset as usize..][..length as usize]
    }

    /// The view of a copy of a text.
    fn copy(&mut self, text: &[u8]) -> u128 {
        let is_full = |buffer: &Vec<u8>| buffer.len() + text.len() > buffer.capacity();
        if self.buffers.last().is_none_or(is_full) {
            let [first, most] = BUFFERS;
            let size = self.buffers.last().map_or(0, Vec::capacity) * 2;
            let size = size.clamp(first, most).max(text.len());
            self.buffers.push(Vec::with_capacity(size));
        }
        let last = self.buffers.len() - 1;
        let buffer = &mut self.buffers[last];
        let offset = buffer.len();
        buffer.extend_from_slice(text);
        view_at(buffer, offset, text.len(), last as u32)
    }
}
