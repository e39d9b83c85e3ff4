//! Counts in a `hashbrown` table, split by a byte loop.
//!
//! The key is a copy of the word that is inline up to 24 bytes (`plain`) or a slice of the input (`slices`), which costs
//! another cache miss per word.

use crate::works::{Counts, Family};
use compact_str::CompactString;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::hash::{BuildHasher, Hasher};

/// A word as a key.
pub trait Key<'a>: Clone + Send {
    fn new(word: &'a [u8]) -> Self;
    fn bytes(&self) -> &[u8];
}

impl<'a> Key<'a> for &'a [u8] {
    fn new(word: &'a [u8]) -> Self {
        word
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl<'a> Key<'a> for CompactString {
    fn new(word: &'a [u8]) -> Self {
        Self::from_utf8_lossy(word)
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
}

#[derive(Clone)]
struct Entry<K> {
    word: K,
    hash: u64,
    count: u32,
}

/// Counts of words.
pub struct Table<K>(HashTable<Entry<K>>);

/// Tables keyed by slices.
pub struct Slices;

/// Tables keyed by copies.
pub struct Owned;

impl<'x> Family<'x> for Slices {
    type Of = Table<&'x [u8]>;
}

impl Family<'_> for Owned {
    type Of = Table<CompactString>;
}

impl<K> Table<K> {
    /// Counts one more of a word.
    #[inline]
    pub fn bump<'a>(&mut self, word: &'a [u8], hash: u64)
    where
        K: Key<'a>,
    {
        match self.0.find_mut(hash, |entry| entry.word.bytes() == word) {
            Some(entry) => entry.count += 1,
            None => {
                let entry = Entry {
                    word: K::new(word),
                    hash,
                    count: 1,
                };
                self.0.insert_unique(hash, entry, |entry| entry.hash);
            }
        }
    }

    #[inline]
    fn add_entry<'a>(&mut self, entry: Entry<K>)
    where
        K: Key<'a>,
    {
        match self
            .0
            .find_mut(entry.hash, |e| e.word.bytes() == entry.word.bytes())
        {
            Some(found) => found.count += entry.count,
            None => {
                self.0.insert_unique(entry.hash, entry, |entry| entry.hash);
            }
        }
    }
}

/// The hash of a word.
#[inline]
pub fn hash(word: &[u8]) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write(word);
    hasher.finish()
}

/// By bits that the table uses neither for the bucket nor for the tag.
#[inline]
pub fn partition(hash: u64, partitions: usize) -> usize {
    ((hash >> 40 & 0xFFFF) as usize * partitions) >> 16
}

impl<'a, K: Key<'a>> Counts<'a> for Table<K> {
    fn with_capacity(words: usize) -> Self {
        Self(HashTable::with_capacity(words))
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn count(tables: &mut [Self], text: &'a [u8]) {
        let partitions = tables.len();
        let mut start = 0;
        for (at, byte) in text.iter().enumerate() {
            if *byte <= b' ' {
                if at > start {
                    let word = &text[start..at];
                    let hash = hash(word);
                    tables[partition(hash, partitions)].bump(word, hash);
                }
                start = at + 1;
            }
        }
    }

    fn merge(&mut self, other: &mut Self) {
        other.0.drain().for_each(|entry| self.add_entry(entry));
    }

    fn add(&mut self, other: &Self) -> u64 {
        other
            .0
            .iter()
            .for_each(|entry| self.add_entry(entry.clone()));
        other.0.iter().map(|entry| u64::from(entry.count)).sum()
    }

    fn run(&mut self, other: &mut Self) {
        for entry in &mut other.0 {
            match self
                .0
                .find_mut(entry.hash, |e| e.word.bytes() == entry.word.bytes())
            {
                Some(found) => {
                    found.count += entry.count;
                    entry.count = found.count;
                }
                None => {
                    self.0
                        .insert_unique(entry.hash, entry.clone(), |entry| entry.hash);
                }
            }
        }
    }

    fn subtract(&mut self, other: &Self) -> u64 {
        let mut sum = 0;
        for entry in &other.0 {
            sum += u64::from(entry.count);
            if let Ok(mut found) = self
                .0
                .find_entry(entry.hash, |e| e.word.bytes() == entry.word.bytes())
            {
                found.get_mut().count -= entry.count;
                if found.get().count == 0 {
                    found.remove();
                }
            }
        }
        sum
    }

    fn each(&self, mut f: impl FnMut(&[u8], u64)) {
        self.0
            .iter()
            .for_each(|entry| f(entry.word.bytes(), u64::from(entry.count)));
    }
}
