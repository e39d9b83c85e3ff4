//! `String`: a `Utf8View` column, read as `&str`.
//!
//! Text appended from an attached buffer (the input of the closure) is not copied: the new view
//! points into that buffer, or holds the text itself when it has up to 12 bytes.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, StringViewArray};
use datafusion::arrow::buffer::{Buffer, ScalarBuffer};
use datafusion::arrow::datatypes::{DataType, Field};

use super::{Builder, ColumnReader, Columns, Key, Leaf, Push, Record, RecordShape, leaf_name};
use crate::debug::debug_as;
use crate::error::Result;

/// Longest text that a view holds itself, in bytes (Arrow's columnar format).
const INLINE: usize = 12;
/// How many input buffers are searched for a text; with more of them, text is copied, since the search would cost
/// more.
const MAX_ATTACHED: usize = 8;
/// Initial size of the buffer for copied text, in bytes.
const COPY_BUFFER: usize = 8 << 10;

/// The values of a text column.
pub struct TextCols(StringViewArray);

debug_as!(TextCols);

impl Record for String {
    type Ref<'a> = &'a str;
    type Cols = TextCols;
    type Builder = TextBuilder;
    const SHAPE: RecordShape = RecordShape::Leaf;
    fn fields(name: &str, out: &mut Vec<Field>) {
        out.push(Field::new(leaf_name(name), DataType::Utf8View, false));
    }
    fn own(row: &str) -> Self {
        row.to_owned()
    }
    fn append(self, to: &mut TextBuilder) {
        to.push_str(&self)
    }
    #[inline]
    fn append_ref(row: &str, to: &mut TextBuilder) {
        to.push_str(row)
    }
    fn append_null(to: &mut TextBuilder) {
        to.push_str("")
    }
}

impl Key for String {}

impl Leaf for String {}

impl Columns<String> for TextCols {
    fn try_new(reader: &mut ColumnReader<'_>) -> Result<Self> {
        Ok(TextCols(
            reader.column::<StringViewArray>(&DataType::Utf8View)?,
        ))
    }
    #[inline]
    fn get(&self, row: usize) -> &str {
        self.0.value(row)
    }
}

impl Push<String> for &str {
    #[inline]
    fn push_to(self, to: &mut TextBuilder) {
        to.push_str(self)
    }
}

impl Push<String> for String {
    fn push_to(self, to: &mut TextBuilder) {
        to.push_str(&self)
    }
}

impl Push<String> for &String {
    fn push_to(self, to: &mut TextBuilder) {
        to.push_str(self)
    }
}

/// Builder of a text column.
#[derive(Default)]
pub struct TextBuilder {
    views: Vec<u128>,
    /// Finished buffers: attached ones that views point into, and full copy buffers.
    buffers: Vec<Buffer>,
    /// Input buffers; the number is the index in `buffers` once a view points into it.
    attached: Vec<(Buffer, Option<u32>)>,
    copies: Vec<u8>,
}

debug_as!(TextBuilder);

impl TextBuilder {
    /// Appends one text.
    #[inline]
    pub fn push_str(&mut self, text: &str) {
        // Most texts are short, and from the one buffer of the input.
        if let [(buffer, _), ..] = self.attached.as_slice()
            && text.len() <= INLINE
        {
            let offset = offset_in(buffer, text);
            let rest = buffer.as_slice().get(offset..).unwrap_or_default();
            if let Some(word) = rest.first_chunk() {
                self.views.push(inline_view(word, text.len()));
                return;
            }
        }
        self.push_any(text)
    }

    #[inline(never)]
    fn push_any(&mut self, text: &str) {
        for at in 0..self.attached.len() {
            let buffer = self.attached[at].0.as_slice();
            let offset = offset_in(&self.attached[at].0, text);
            if offset < buffer.len() {
                if text.len() <= INLINE
                    && let Some(word) = buffer[offset..].first_chunk()
                {
                    self.views.push(inline_view(word, text.len()));
                    return;
                }
                // A buffer may be only a part of the memory that contains the text.
                let is_inside = text.len() <= buffer.len() - offset;
                if text.len() > INLINE && offset <= u32::MAX as usize && is_inside {
                    let prefix = prefix_of(text.as_bytes());
                    let index = self.index_of(at);
                    self.views
                        .push(reference_view(text.len(), prefix, index, offset as u32));
                    return;
                }
            }
        }
        self.copy_str(text)
    }

    /// Whether a view contains its text inline.
    #[inline]
    pub(crate) fn is_inline(view: u128) -> bool {
        view as u32 as usize <= INLINE
    }

    fn copy_str(&mut self, text: &str) {
        if text.len() <= INLINE {
            let mut word = [0u8; 16];
            word[..text.len()].copy_from_slice(text.as_bytes());
            self.views.push(inline_view(&word, text.len()));
            return;
        }
        if self.copies.len() + text.len() > self.copies.capacity() {
            let capacity = (self.copies.capacity() * 2).clamp(COPY_BUFFER, 1 << 20);
            let fresh = Vec::with_capacity(capacity.max(text.len()));
            let full = std::mem::replace(&mut self.copies, fresh);
            if !full.is_empty() {
                self.close_copies(full);
            }
        }
        // The buffer's number is known only when it is complete: use `OPEN` until then.
        let offset = self.copies.len() as u32;
        self.copies.extend_from_slice(text.as_bytes());
        let prefix = prefix_of(text.as_bytes());
        self.views
            .push(reference_view(text.len(), prefix, OPEN, offset));
    }

    fn index_of(&mut self, attached: usize) -> u32 {
        if let Some(index) = self.attached[attached].1 {
            return index;
        }
        let index = self.buffers.len() as u32;
        self.buffers.push(self.attached[attached].0.clone());
        self.attached[attached].1 = Some(index);
        index
    }

    fn close_copies(&mut self, copies: Vec<u8>) {
        let index = self.buffers.len() as u128;
        for view in &mut self.views {
            if (*view as u32) as usize > INLINE && (*view >> 64) as u32 == OPEN {
                *view = (*view & !(u128::from(u32::MAX) << 64)) | (index << 64);
            }
        }
        self.buffers.push(Buffer::from_vec(copies));
    }
}

/// Number of the copy buffer while it is still being filled.
const OPEN: u32 = u32::MAX;

/// Where a text begins in a buffer; not below the buffer's length if it is elsewhere.
#[inline]
fn offset_in(buffer: &Buffer, text: &str) -> usize {
    (text.as_ptr() as usize).wrapping_sub(buffer.as_ptr() as usize)
}

/// View of a text of up to 12 bytes: its length, then its bytes, then zeros. `word` begins with
/// the text.
#[inline]
fn inline_view(word: &[u8; 16], len: usize) -> u128 {
    ((u128::from_le_bytes(*word) & MASKS[len]) << 32) | len as u128
}

/// The first bytes of sixteen, by their number. Faster than a shift of 128 bits.
const MASKS: [u128; INLINE + 1] = {
    let mut masks = [0; INLINE + 1];
    let mut len = 1;
    while len <= INLINE {
        masks[len] = masks[len - 1] << 8 | 0xFF;
        len += 1;
    }
    masks
};

#[inline]
fn prefix_of(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// View of a longer text: length, first four bytes, buffer, offset.
#[inline]
fn reference_view(len: usize, prefix: u32, buffer: u32, offset: u32) -> u128 {
    // A longer length would overflow into the other parts, so that the view points anywhere.
    assert!(
        len <= i32::MAX as usize,
        "texts must have less than 2 GiB; this one has {len} bytes"
    );
    len as u128 | (prefix as u128) << 32 | (buffer as u128) << 64 | (offset as u128) << 96
}

/// A view array over text known to be UTF-8, at the places given by the views.
///
/// `try_new` would validate each text again, which takes as long as the rest of a flat_map of words.
#[allow(unsafe_code)]
pub(crate) fn trusted_views(views: Vec<u128>, buffers: Vec<Buffer>) -> StringViewArray {
    let views = ScalarBuffer::from(views);
    debug_assert!(StringViewArray::try_new(views.clone(), buffers.clone(), None).is_ok());
    // SAFETY: callers make each view from a `&str` (or from text they validated): its length,
    // prefix, buffer and offset are those of that text, and the buffer is the one it lies in.
    unsafe { StringViewArray::new_unchecked(views, buffers, None) }
}

/// View of `bytes[offset..offset + len]` of buffer `buffer`, for [`trusted_views`].
#[inline]
pub(crate) fn view_at(bytes: &[u8], offset: usize, len: usize, buffer: u32) -> u128 {
    if len > INLINE {
        return reference_view(len, prefix_of(&bytes[offset..]), buffer, offset as u32);
    }
    match bytes[offset..].first_chunk() {
        Some(word) => inline_view(word, len),
        None => {
            let mut word = [0u8; 16];
            word[..len].copy_from_slice(&bytes[offset..offset + len]);
            inline_view(&word, len)
        }
    }
}

impl Builder for TextBuilder {
    fn len(&self) -> usize {
        self.views.len()
    }

    fn attach(&mut self, buffers: &[Buffer]) {
        self.attached.clear();
        if buffers.len() <= MAX_ATTACHED {
            let known = buffers.iter().filter(|b| !b.is_empty());
            self.attached.extend(known.map(|b| (b.clone(), None)));
        }
    }

    fn finish(&mut self, out: &mut Vec<ArrayRef>) -> Result<()> {
        let copies = std::mem::take(&mut self.copies);
        if !copies.is_empty() {
            self.close_copies(copies);
        }
        for (_, index) in &mut self.attached {
            *index = None;
        }
        let capacity = self.views.len();
        let views = std::mem::replace(&mut self.views, Vec::with_capacity(capacity));
        let buffers = std::mem::take(&mut self.buffers);
        out.push(Arc::new(trusted_views(views, buffers)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::Array;

    use super::*;

    fn built(builder: &mut TextBuilder) -> StringViewArray {
        let mut out = Vec::new();
        builder.finish(&mut out).unwrap();
        out[0]
            .as_any()
            .downcast_ref::<StringViewArray>()
            .unwrap()
            .clone()
    }

    #[test]
    fn text_of_every_length_comes_back_copied_or_pointed_to() {
        let long = "abcdefghijklmnopqrstuvwxyzäöü".repeat(40);
        let buffer = Buffer::from_vec(long.clone().into_bytes());
        let inside = std::str::from_utf8(buffer.as_slice()).unwrap().to_owned();
        let text = std::str::from_utf8(buffer.as_slice()).unwrap();
        let mut builder = TextBuilder::default();
        for round in 0..2 {
            builder.attach(std::slice::from_ref(&buffer));
            let mut wanted = Vec::new();
            for len in 0..40 {
                for start in [0, 26, text.len() - 60] {
                    let Some(part) = text.get(start..start + len) else {
                        continue;
                    };
                    builder.push_str(part);
                    builder.push_str(&part.to_uppercase());
                    wanted.push(part.to_owned());
                    wanted.push(part.to_uppercase());
                }
                let Some(tail) = text.get(text.len() - len..) else {
                    continue;
                };
                builder.push_str(tail);
                wanted.push(tail.to_owned());
            }
            let array = built(&mut builder);
            let got: Vec<_> = (0..array.len())
                .map(|i| array.value(i).to_owned())
                .collect();
            assert_eq!(got, wanted, "round {round}");
            StringViewArray::try_new(array.views().clone(), array.data_buffers().to_vec(), None)
                .expect("views are valid by Arrow's own check");
        }
        assert_eq!(inside, long);
    }

    /// A source may push a part of memory that it shares; a closure may push a text that starts in that part and ends
    /// after it.
    #[test]
    fn a_text_that_ends_behind_a_buffer_is_copied() {
        let all = bytes::Bytes::from("a text that is cut into two parts".as_bytes());
        let buffer = Buffer::from(all.slice(..20));
        let mut builder = TextBuilder::default();
        builder.attach(std::slice::from_ref(&buffer));
        let whole = std::str::from_utf8(&all).unwrap();
        let wanted = [
            whole,
            &whole[..20],
            &whole[5..],
            &whole[19..],
            &whole[15..20],
        ];
        wanted.iter().for_each(|text| builder.push_str(text));
        let array = built(&mut builder);
        let got: Vec<_> = array.iter().map(Option::unwrap).collect();
        assert_eq!(got, wanted);
    }

    #[test]
    #[should_panic(expected = "less than 2 GiB")]
    fn a_text_too_long_for_a_view_has_none() {
        reference_view(1 << 31, 0, 0, 0);
    }

    #[test]
    fn copied_text_spans_many_buffers() {
        let mut builder = TextBuilder::default();
        let wanted: Vec<String> = (0..5000)
            .map(|i| format!("text number {i} of many"))
            .collect();
        wanted.iter().for_each(|t| builder.push_str(t));
        let array = built(&mut builder);
        assert!(array.data_buffers().len() > 1);
        for (i, text) in wanted.iter().enumerate() {
            assert_eq!(array.value(i), text);
        }
    }
}
