//! Text: splits lines into words, for closures ([`words`]) and for queries (`words(column)`).

use std::iter::FusedIterator;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, ListArray, StringViewArray};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use wide::u8x16;

use super::record::{Builder, TextBuilder};
use crate::error::Error;

/// Bytes classified at once.
const CHUNK: usize = 64;

/// The words of a text: runs of bytes other than space, tab, line feed, vertical tab, form feed
/// and carriage return.
///
/// As `split_ascii_whitespace` (which does not split at vertical tabs), at a fraction of its cost: it classifies 64
/// bytes at a time. Unicode white space does not separate words.
///
/// ```
/// let words: Vec<_> = dstreams::text::words(" to be\tor  not ").collect();
/// assert_eq!(words, ["to", "be", "or", "not"]);
/// ```
#[inline]
pub fn words(text: &str) -> Words<'_> {
    Words {
        text,
        edges: 0,
        base: 0,
        next: 0,
        inside: 0,
    }
}

/// Iterator of [`words`].
#[derive(Debug, Clone)]
pub struct Words<'a> {
    text: &'a str,
    /// Bit i: the kind of byte changes at `base + i`.
    edges: u64,
    base: usize,
    next: usize,
    /// Whether the last byte of the previous chunk is part of a word (0 or 1).
    inside: u64,
}

impl Words<'_> {
    /// The next place where a word begins or ends.
    #[inline]
    fn edge(&mut self) -> Option<usize> {
        while self.edges == 0 {
            if !self.load() {
                return None;
            }
        }
        let bit = self.edges.trailing_zeros() as usize;
        self.edges &= self.edges - 1;
        Some(self.base + bit)
    }

    #[inline]
    fn load(&mut self) -> bool {
        let rest = &self.text.as_bytes()[self.next..];
        if rest.is_empty() {
            return false;
        }
        let word = match rest.first_chunk::<CHUNK>() {
            Some(chunk) => !spaces(chunk),
            None => {
                let mut chunk = [b' '; CHUNK];
                chunk[..rest.len()].copy_from_slice(rest);
                // The end of the text is not an edge here: `next` ends the last word there.
                let tail = !0 << (rest.len() - 1) << 1;
                let last = !spaces(&chunk) & !tail;
                match last >> (rest.len() - 1) {
                    0 => last,
                    _ => last | tail,
                }
            }
        };
        self.edges = word ^ (word << 1 | self.inside);
        self.inside = word >> (CHUNK - 1);
        self.base = self.next;
        self.next += rest.len().min(CHUNK);
        true
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    #[inline]
    #[allow(unsafe_code)]
    fn next(&mut self) -> Option<&'a str> {
        let start = self.edge()?;
        let end = self.edge().unwrap_or(self.text.len());
        debug_assert!(self.text.get(start..end).is_some());
        // SAFETY: edges ascend and are inside the text. Before or behind each is white space of one byte, or the
        // beginning or the end of the text, so that no character is cut.
        Some(unsafe { self.text.get_unchecked(start..end) })
    }
}

impl FusedIterator for Words<'_> {}

/// Bit i: byte i is white space.
#[inline]
fn spaces(chunk: &[u8; CHUNK]) -> u64 {
    let mut bits = 0;
    for (place, part) in chunk.chunks_exact(16).enumerate() {
        let mut bytes = [0u8; 16];
        bytes.copy_from_slice(part);
        let bytes = u8x16::new(bytes);
        // 9 to 13 are the control characters that separate words.
        let control = bytes - u8x16::splat(9);
        let space =
            bytes.simd_eq(u8x16::splat(b' ')) | control.min(u8x16::splat(4)).simd_eq(control);
        bits |= u64::from(space.to_bitmask()) << (16 * place);
    }
    bits
}

/// The query function `words(text)`: the words of each text as a list, for `unnest`. The words are not copied.
pub(crate) fn words_udf() -> ScalarUDF {
    let texts = vec![DataType::Utf8View, DataType::Utf8, DataType::LargeUtf8];
    ScalarUDF::new_from_impl(WordsFunction {
        signature: Signature::uniform(1, texts, Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct WordsFunction {
    signature: Signature,
}

fn item() -> FieldRef {
    Arc::new(Field::new("item", DataType::Utf8View, false))
}

impl ScalarUDFImpl for WordsFunction {
    fn name(&self) -> &str {
        "words"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> EngineResult<DataType> {
        Ok(DataType::List(item()))
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let texts = cast(&arrays[0], &DataType::Utf8View)?;
        Ok(ColumnarValue::Array(word_lists(texts.as_string_view())?))
    }
}

fn word_lists(texts: &StringViewArray) -> Result<ArrayRef, Error> {
    let mut builder = TextBuilder::default();
    builder.attach(texts.data_buffers());
    let mut offsets = Vec::with_capacity(texts.len() + 1);
    offsets.push(0i32);
    for text in texts {
        for word in words(text.unwrap_or_default()) {
            builder.push_str(word);
        }
        offsets.push(builder.len() as i32);
    }
    let mut columns = Vec::with_capacity(1);
    builder.finish(&mut columns)?;
    let offsets = OffsetBuffer::new(offsets.into());
    let nulls = texts.nulls().cloned();
    let lists = ListArray::try_new(item(), offsets, columns.swap_remove(0), nulls)?;
    Ok(Arc::new(lists))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn naive(text: &str) -> Vec<&str> {
        let space = |c: char| matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r');
        text.split(space).filter(|word| !word.is_empty()).collect()
    }

    proptest! {
        #[test]
        fn words_are_those_of_a_naive_split(text in "[ab ä\t\r\n\u{b}\u{c}\u{1}\u{e}\u{2003}]{0,200}") {
            prop_assert_eq!(super::words(&text).collect::<Vec<_>>(), naive(&text));
        }
    }

    #[test]
    fn words_at_every_place_around_a_chunk_boundary() {
        for before in 0..140 {
            for len in 1..70 {
                let text = format!("{}{}", " ".repeat(before), "x".repeat(len));
                for text in [text.clone(), text + " y"] {
                    assert_eq!(super::words(&text).collect::<Vec<_>>(), naive(&text));
                }
            }
        }
    }
}
