//! The table of counts that the operators of timely and renoir share, and what travels between their workers.

use bench_input::{TOP, WINDOW, Words};
use compact_str::CompactString;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};

/// A word as a key: a slice of the input, or a copy that is inline up to 24 bytes.
pub trait Key: Clone + Send + Serialize + for<'de> Deserialize<'de> + 'static {
    fn new(word: &'static [u8]) -> Self;
    fn bytes(&self) -> &[u8];
}

/// A slice of the input. It never leaves the process, so it has no serialised form.
#[allow(dead_code)] // renoir's program has no variant with it
#[derive(Clone)]
pub struct Slice(&'static [u8]);

impl Key for Slice {
    fn new(word: &'static [u8]) -> Self {
        Self(word)
    }
    #[inline]
    fn bytes(&self) -> &[u8] {
        self.0
    }
}

impl Serialize for Slice {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("slices stay in the process"))
    }
}

impl<'de> Deserialize<'de> for Slice {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("slices stay in the process"))
    }
}

impl Key for CompactString {
    fn new(word: &'static [u8]) -> Self {
        Self::from_utf8_lossy(word)
    }
    #[inline]
    fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// One word with its count and its hash, computed once, when the word is read.
#[derive(Clone, Serialize, Deserialize)]
#[serde(bound = "K: Key")]
pub struct Entry<K> {
    pub word: K,
    pub hash: u64,
    pub count: u32,
}

/// Counts of words.
#[derive(Clone)]
pub struct Table<K>(pub HashTable<Entry<K>>);

#[inline]
fn hash(word: &[u8]) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write(word);
    hasher.finish()
}

/// The bits that pick a worker: not those that the table uses for buckets and tags.
#[inline]
pub fn route(hash: u64) -> u64 {
    hash >> 40 & 0xFFFF
}

impl<K: Key> Table<K> {
    pub fn with_capacity(words: usize) -> Self {
        Self(HashTable::with_capacity(words))
    }

    /// Counts the words of a block of lines.
    pub fn count(&mut self, text: &'static [u8]) {
        let mut start = 0;
        for (at, byte) in text.iter().enumerate() {
            if *byte <= b' ' {
                if at > start {
                    let word = &text[start..at];
                    let hash = hash(word);
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
                start = at + 1;
            }
        }
    }

    #[inline]
    pub fn add(&mut self, entry: Entry<K>) {
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

    /// Adds the counts of `batch`, and puts the sums in their place there.
    pub fn run(&mut self, batch: &mut Self) {
        for entry in &mut batch.0 {
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

    /// Takes counts away; a word without any leaves.
    pub fn subtract(&mut self, entry: &Entry<K>) {
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
}

/// The words of some tables that have no word in common.
pub fn total<'k, K: Key>(tables: impl IntoIterator<Item = &'k Table<K>>) -> Words {
    let mut words = Words::default();
    for entry in tables.into_iter().flat_map(|table| &table.0) {
        words.add(entry.word.bytes(), u64::from(entry.count));
    }
    words
}

/// The counts over the last batches: new ones are added, expired ones subtracted.
#[derive(Clone)]
pub struct Window<K> {
    pub state: Table<K>,
    pub total: u64,
    batches: VecDeque<Vec<Entry<K>>>,
}

impl<K: Key> Window<K> {
    pub fn new() -> Self {
        Self {
            state: Table::with_capacity(1024),
            total: 0,
            batches: VecDeque::new(),
        }
    }

    /// Slides by the complete counts of one batch; returns the distinct words and the sum of their counts.
    pub fn slide(&mut self, table: Table<K>) -> (u64, u64) {
        let batch: Vec<Entry<K>> = table.0.into_iter().collect();
        for entry in &batch {
            self.total += u64::from(entry.count);
            self.state.add(entry.clone());
        }
        self.batches.push_back(batch);
        if self.batches.len() > WINDOW
            && let Some(old) = self.batches.pop_front()
        {
            for entry in &old {
                self.total -= u64::from(entry.count);
                self.state.subtract(entry);
            }
        }
        (self.state.0.len() as u64, self.total)
    }

    /// The most frequent words, by count descending, then word ascending.
    pub fn top(&self) -> Vec<Entry<K>> {
        let mut top: Vec<&Entry<K>> = Vec::with_capacity(TOP + 1);
        for entry in &self.state.0 {
            if top.len() == TOP && entry.count < top[TOP - 1].count {
                continue;
            }
            let before = |e: &&Entry<K>| {
                e.count > entry.count
                    || e.count == entry.count && e.word.bytes() < entry.word.bytes()
            };
            let at = top.partition_point(before);
            top.insert(at, entry);
            top.truncate(TOP);
        }
        top.into_iter().cloned().collect()
    }
}

/// The first of several lists together, as text.
pub fn first<K: Key>(mut all: Vec<Entry<K>>) -> Vec<(String, u64)> {
    all.sort_unstable_by(|a, b| {
        b.count
            .cmp(&a.count)
            .then_with(|| a.word.bytes().cmp(b.word.bytes()))
    });
    let text = |e: Entry<K>| {
        (
            String::from_utf8_lossy(e.word.bytes()).into_owned(),
            u64::from(e.count),
        )
    };
    all.into_iter().take(TOP).map(text).collect()
}

/// Lines of the text that contain what `finder` looks for.
pub fn search(mut text: &[u8], finder: &memchr::memmem::Finder<'_>) -> u64 {
    let mut found = 0;
    while let Some(at) = finder.find(text) {
        found += 1;
        let end = memchr::memchr(b'\n', &text[at..]).map_or(text.len(), |n| at + n + 1);
        text = &text[end..];
    }
    found
}
