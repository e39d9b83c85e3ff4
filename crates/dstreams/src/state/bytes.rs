//! Reading and writing the bytes of a partition's state: numbers, lists of numbers, texts, keys.
//!
//! All numbers are little-endian; a list begins with its length. A length that says more than there
//! are bytes is an error before anything is allocated for it.

use bytes::{Buf, TryGetError};

use crate::error::{Error, Result};
use crate::replicate::Format;

/// The bytes of a partition's state.
pub(super) const STATE: Format = Format {
    what: "a partition's states",
    magic: *b"dstr-win",
    version: 1,
};

pub(super) fn put_number(to: &mut Vec<u8>, number: u64) {
    to.extend(number.to_le_bytes());
}

pub(super) fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    put_number(to, bytes.len() as u64);
    to.extend(bytes);
}

pub(super) fn put_numbers<'a>(to: &mut Vec<u8>, numbers: impl ExactSizeIterator<Item = &'a u64>) {
    put_number(to, numbers.len() as u64);
    to.reserve(8 * numbers.len());
    numbers.for_each(|number| to.extend(number.to_le_bytes()));
}

pub(super) fn put_slots(to: &mut Vec<u8>, slots: &[u32]) {
    put_number(to, slots.len() as u64);
    to.reserve(4 * slots.len());
    slots.iter().for_each(|slot| to.extend(slot.to_le_bytes()));
}

/// What is left to read.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn number(&mut self) -> Result<u64> {
        self.0.try_get_u64_le().map_err(short)
    }

    /// The bytes of a list of items of `width` bytes.
    fn list(&mut self, width: usize) -> Result<&'a [u8]> {
        let items = usize::try_from(self.number()?).ok();
        let bytes = items.and_then(|items| items.checked_mul(width));
        let split = bytes.and_then(|bytes| self.0.split_at_checked(bytes));
        let Some((list, rest)) = split else {
            return Err(wrong("a list is longer than the bytes that are left"));
        };
        self.0 = rest;
        Ok(list)
    }

    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        self.list(1)
    }

    pub fn text(&mut self) -> Result<&'a str> {
        str::from_utf8(self.bytes()?).map_err(|error| wrong(error.to_string()))
    }

    /// A list of `count` numbers.
    pub fn numbers<T: FromIterator<u64>>(&mut self, count: usize) -> Result<T> {
        let list = self.list(8)?.as_chunks().0;
        if list.len() != count {
            let found = list.len();
            return Err(wrong(format!("{found} numbers where {count} belong")));
        }
        Ok(list
            .iter()
            .map(|number| u64::from_le_bytes(*number))
            .collect())
    }

    /// A list of slots, all below `slots`.
    pub fn slots(&mut self, slots: usize) -> Result<Vec<u32>> {
        let list = self.list(4)?.as_chunks().0;
        let list: Vec<u32> = list.iter().map(|slot| u32::from_le_bytes(*slot)).collect();
        match list.iter().find(|slot| **slot as usize >= slots) {
            Some(slot) => Err(wrong(format!("slot {slot} where there are {slots} slots"))),
            None => Ok(list),
        }
    }

    /// Nothing may be left.
    pub fn end(&self) -> Result<()> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(wrong(format!("{left} bytes after the end"))),
        }
    }
}

pub(super) fn wrong(message: impl Into<String>) -> Error {
    STATE.wrong(message)
}

fn short(error: TryGetError) -> Error {
    wrong(error.to_string())
}
