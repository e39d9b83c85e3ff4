//! From keys to numbers: open addressing with linear probing, four bytes a slot, at most half of them taken.
//!
//! Rows are looked up in runs. Neither of the loops that read slots and keys has a branch on what it finds, so that the
//! processor waits for many rows at once. Almost all rows are done then; another loop probes on for the rest, and adds
//! new keys. Keys and sums are in the order of numbers: those of frequent keys, which come early, are close together.

use crate::error::{Error, Result};

/// Rows of a run: what is kept of them fits the first-level cache.
const RUN: usize = 256;
/// Slots of an empty index.
const FIRST_SLOTS: usize = 1 << 10;
/// Slots from which on it only doubles; before, it quadruples.
const MANY_SLOTS: usize = 1 << 22;
/// A slot without a number.
const VACANT: u32 = u32::MAX;

/// The current rows, and the keys that have numbers.
pub(super) trait KeyRows {
    /// The part of a key that the index compares: all of it, or a part with a hash.
    type Key: Copy + Default + Eq;

    /// The key of a row.
    fn key(&self, row: usize) -> Self::Key;
    /// The keys by number.
    fn known(&self) -> &[Self::Key];
    fn hash(key: Self::Key) -> u32;
    /// Whether this is all of the key. If not, `is_equal` decides where it is found.
    fn is_whole(key: Self::Key) -> bool;
    /// Whether the key of a row, of which this much is equal, is the one with a number.
    fn is_equal(&self, number: u32, row: usize) -> bool;
    /// Gives the next number to the key of a row.
    fn push(&mut self, key: Self::Key, row: usize);
}

/// The numbers of keys, by their hashes.
#[derive(Debug)]
pub(super) struct KeyIndex {
    slots: Vec<u32>,
    /// By number, as far as there are any.
    sums: Vec<i64>,
}

impl KeyIndex {
    /// With room for some keys.
    pub fn with_room(keys: usize) -> Self {
        let slots = (keys * 2).next_power_of_two().max(FIRST_SLOTS);
        KeyIndex {
            slots: vec![VACANT; slots],
            sums: Vec::new(),
        }
    }

    /// Writes the number of each row's key. New keys get the next numbers, in the order of the rows.
    pub fn number(&mut self, keys: &mut impl KeyRows, numbers: &mut [usize]) -> Result<()> {
        for (run, numbers) in numbers.chunks_mut(RUN).enumerate() {
            let mut found = [0; RUN];
            let found = &mut found[..numbers.len()];
            self.run(run * RUN, keys, found)?;
            for (number, found) in numbers.iter_mut().zip(found) {
                *number = *found as usize;
            }
        }
        Ok(())
    }

    /// Adds a value for each row to the sum of its key; sums wrap around.
    pub fn add(
        &mut self,
        keys: &mut impl KeyRows,
        rows: usize,
        value: impl Fn(usize) -> i64,
    ) -> Result<()> {
        for first in (0..rows).step_by(RUN) {
            let mut found = [0; RUN];
            let found = &mut found[..RUN.min(rows - first)];
            self.run(first, keys, found)?;
            self.sums.resize(keys.known().len(), 0);
            for (row, number) in found.iter().enumerate() {
                let sum = &mut self.sums[*number as usize];
                *sum = sum.wrapping_add(value(first + row));
            }
        }
        Ok(())
    }

    /// The sums by number; none remain.
    pub fn take_sums(&mut self) -> Vec<i64> {
        std::mem::take(&mut self.sums)
    }

    fn run<R: KeyRows>(&mut self, first: usize, keys: &mut R, found: &mut [u32]) -> Result<()> {
        let mut wanted = [(R::Key::default(), 0); RUN];
        let wanted = &mut wanted[..found.len()];
        for (row, (key, hash)) in wanted.iter_mut().enumerate() {
            *key = keys.key(first + row);
            *hash = R::hash(*key);
        }
        let mask = self.slots.len() - 1;
        for ((_, hash), found) in wanted.iter().zip(&mut *found) {
            *found = self.slots[*hash as usize & mask];
        }
        let (mut others, mut count) = ([0u8; RUN], 0);
        let known = keys.known();
        for (row, ((key, _), found)) in wanted.iter().zip(&*found).enumerate() {
            let is_found = (known.get(*found as usize) == Some(key)) & R::is_whole(*key);
            // Listed without a branch.
            others[count % RUN] = row as u8;
            count += usize::from(!is_found);
        }
        for row in &others[..count] {
            let row = usize::from(*row);
            let (key, hash) = wanted[row];
            found[row] = self.find_or_add(hash, key, first + row, keys)?;
        }
        Ok(())
    }

    fn find_or_add<R: KeyRows>(
        &mut self,
        hash: u32,
        key: R::Key,
        row: usize,
        keys: &mut R,
    ) -> Result<u32> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != VACANT {
            let number = self.slots[at];
            let is_found = keys.known()[number as usize] == key;
            if is_found && (R::is_whole(key) || keys.is_equal(number, row)) {
                return Ok(number);
            }
            at = (at + 1) & mask;
        }
        let number = u32::try_from(keys.known().len()).unwrap_or(VACANT);
        if number == VACANT {
            return Err(too_many());
        }
        keys.push(key, row);
        self.slots[at] = number;
        if keys.known().len() * 2 > self.slots.len() {
            self.grow::<R>(keys.known());
        }
        Ok(number)
    }

    #[cold]
    fn grow<R: KeyRows>(&mut self, known: &[R::Key]) {
        let times = if self.slots.len() < MANY_SLOTS { 4 } else { 2 };
        let slots = self.slots.len() * times;
        self.slots.clear();
        self.slots.resize(slots, VACANT);
        let mask = slots - 1;
        for (number, key) in known.iter().enumerate() {
            let mut at = R::hash(*key) as usize & mask;
            while self.slots[at] != VACANT {
                at = (at + 1) & mask;
            }
            self.slots[at] = number as u32;
        }
    }
}

/// The hash of 128 bits: they are mixed, multiplied, and all bits of the product folded.
#[inline]
pub(super) fn hash_of(key: u128) -> u32 {
    let (low, high) = (key as u64, (key >> 64) as u64);
    let mixed = low ^ high.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    let product = u128::from(mixed ^ 0xA076_1D64_78BD_642F) * 0xE703_7ED1_A0B4_28DB;
    let folded = product as u64 ^ (product >> 64) as u64;
    folded as u32 ^ (folded >> 32) as u32
}

fn too_many() -> Error {
    Error::Schema {
        what: "the keys of one partition of a batch or a state".into(),
        expected: "at most 4,294,967,295 different keys; use more threads (`Config::threads`)"
            .into(),
        found: "more".into(),
    }
}
