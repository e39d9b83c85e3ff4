//! Counts as fast as we know how on this kind of machine.
//!
//! Separators are found 64 bytes at a time (AVX2 where the processor has it); a word of up to 16 bytes is its own key, in
//! two registers, hashed by one multiplication; slots are prefetched for a group of words before the first is looked up.
//! Longer words, about one in fifty, go through the plain table.

use crate::plain::{self, partition};
use crate::works::{Counts, Family};
use std::arch::x86_64::{
    __m256i, _MM_HINT_T0, _mm_prefetch, _mm256_cmpgt_epi8, _mm256_loadu_si256,
    _mm256_movemask_epi8, _mm256_set1_epi8,
};

/// Words whose slots are fetched together.
const GROUP: usize = 32;
/// Bytes of an inline key.
const INLINE: usize = 16;

/// A word's bytes, then zeros; no word is empty, so `low` is zero only in an empty slot.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Key {
    low: u64,
    high: u64,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    key: Key,
    /// Zero for a word whose counts were all subtracted; it goes when the table grows.
    count: u64,
}

/// Counts of words: open addressing, linear probing, at most three quarters full.
pub struct Table<'a> {
    slots: Vec<Slot>,
    used: usize,
    live: usize,
    long: plain::Table<&'a [u8]>,
}

/// Tables with inline keys.
pub struct Tuned;

impl<'x> Family<'x> for Tuned {
    type Of = Table<'x>;
}

impl Key {
    /// The first `len` bytes of `text`, at most [`INLINE`].
    #[inline(always)]
    fn new(text: &[u8], len: usize) -> Self {
        let bytes: [u8; INLINE] = match text.first_chunk() {
            Some(chunk) => *chunk,
            None => {
                let mut bytes = [0; INLINE];
                bytes[..len].copy_from_slice(&text[..len]);
                bytes
            }
        };
        let all = u128::from_le_bytes(bytes) & (u128::MAX >> ((INLINE - len) * 8));
        Self {
            low: all as u64,
            high: (all >> 64) as u64,
        }
    }

    #[inline(always)]
    fn hash(self) -> u64 {
        let product = u128::from(self.low ^ 0x9E37_79B9_7F4A_7C15)
            * u128::from(self.high ^ 0xD6E8_FEB8_6659_FD93);
        product as u64 ^ (product >> 64) as u64
    }
}

/// Words on their way into tables, with their slots on their way into the cache.
struct Group {
    words: [(Key, u64, u64); GROUP],
    len: usize,
}

impl Group {
    fn new() -> Self {
        Self {
            words: [(Key::default(), 0, 0); GROUP],
            len: 0,
        }
    }

    /// Adds a word; true when the group is full.
    #[inline(always)]
    fn push(&mut self, table: &Table<'_>, key: Key, hash: u64, count: u64) -> bool {
        table.prefetch(hash);
        self.words[self.len] = (key, hash, count);
        self.len += 1;
        self.len == GROUP
    }

    #[inline(always)]
    fn drain(&mut self) -> &[(Key, u64, u64)] {
        let len = std::mem::take(&mut self.len);
        &self.words[..len]
    }
}

impl Table<'_> {
    #[inline(always)]
    fn prefetch(&self, hash: u64) {
        let at = hash as usize & (self.slots.len() - 1);
        // SAFETY: a prefetch of any address is harmless; this one is inside the vector.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(self.slots.as_ptr().add(at).cast()) };
    }

    /// The slot of a key, or the empty one where it belongs.
    #[inline(always)]
    fn slot(&mut self, key: Key, hash: u64) -> &mut Slot {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            // SAFETY: the mask keeps `at` inside; the length is a power of two.
            let slot = unsafe { self.slots.get_unchecked(at) };
            if slot.key == key || slot.key.low == 0 {
                break;
            }
            at = (at + 1) & mask;
        }
        &mut self.slots[at]
    }

    /// Adds to the count of a key; returns what it is then.
    #[inline(always)]
    fn bump(&mut self, key: Key, hash: u64, count: u64) -> u64 {
        let slot = self.slot(key, hash);
        let (new, dead) = (slot.key.low == 0, slot.count == 0);
        slot.key = key;
        slot.count += count;
        let sum = slot.count;
        self.live += usize::from(dead);
        if new {
            self.used += 1;
            if self.used * 4 > self.slots.len() * 3 {
                self.grow();
            }
        }
        sum
    }

    #[cold]
    fn grow(&mut self) {
        let size = if self.live * 2 > self.slots.len() {
            self.slots.len() * 2
        } else {
            self.slots.len()
        };
        let old = std::mem::replace(&mut self.slots, vec![Slot::default(); size]);
        self.used = self.live;
        for slot in old.into_iter().filter(|slot| slot.count > 0) {
            *self.slot(slot.key, slot.key.hash()) = slot;
        }
    }

    /// Adds the inline words of another table; returns the sum of their counts.
    fn add_inline(&mut self, other: &Table<'_>) -> u64 {
        let (mut group, mut sum) = (Group::new(), 0);
        for slot in other.slots.iter().filter(|slot| slot.count > 0) {
            sum += slot.count;
            if group.push(self, slot.key, slot.key.hash(), slot.count) {
                group
                    .drain()
                    .iter()
                    .for_each(|(key, hash, count)| drop(self.bump(*key, *hash, *count)));
            }
        }
        group
            .drain()
            .iter()
            .for_each(|(key, hash, count)| drop(self.bump(*key, *hash, *count)));
        sum
    }

    /// Adds the inline words of another table, and puts the sums in their place there.
    fn run_inline(&mut self, other: &mut Table<'_>) {
        for slots in other.slots.chunks_mut(GROUP) {
            let live = slots.iter().filter(|slot| slot.count > 0);
            live.for_each(|slot| self.prefetch(slot.key.hash()));
            for slot in slots.iter_mut().filter(|slot| slot.count > 0) {
                slot.count = self.bump(slot.key, slot.key.hash(), slot.count);
            }
        }
    }

    fn take(&mut self, words: &[(Key, u64, u64)]) {
        for (key, hash, count) in words {
            let slot = self.slot(*key, *hash);
            slot.count -= count;
            self.live -= usize::from(slot.count == 0);
        }
    }
}

/// One bit per byte of the block: whether it separates words.
#[inline(always)]
fn separators(block: &[u8; 64]) -> u64 {
    block
        .iter()
        .rev()
        .fold(0, |mask, byte| mask << 1 | u64::from(*byte <= b' '))
}

#[inline]
#[target_feature(enable = "avx2")]
fn separators_avx2(block: &[u8; 64]) -> u64 {
    let limit = _mm256_set1_epi8(b' ' as i8 + 1);
    let half = |at: usize| {
        // SAFETY: both halves are inside the block. Letters are ASCII, so that signed comparison is right.
        let bytes = unsafe { _mm256_loadu_si256(block.as_ptr().add(at).cast::<__m256i>()) };
        u64::from(_mm256_movemask_epi8(_mm256_cmpgt_epi8(limit, bytes)) as u32)
    };
    half(0) | half(32) << 32
}

#[inline(always)]
fn count<'a>(tables: &mut [Table<'a>], text: &'a [u8], separators: impl Fn(&[u8; 64]) -> u64) {
    let partitions = tables.len();
    let mut group = Group::new();
    let mut start = 0;
    let mut blocks = text.chunks_exact(64);
    let mut base = 0;
    let mut last = [b'a'; 64];
    loop {
        let mut mask = match blocks.next().and_then(|block| block.first_chunk()) {
            Some(block) => separators(block),
            None if base < text.len() => {
                let rest = &text[base..];
                last[..rest.len()].copy_from_slice(rest);
                separators(&last)
            }
            None => break,
        };
        while mask != 0 {
            let at = base + mask.trailing_zeros() as usize;
            mask &= mask - 1;
            let len = at - start;
            if (1..=INLINE).contains(&len) {
                let key = Key::new(&text[start..], len);
                let hash = key.hash();
                if group.push(&tables[partition(hash, partitions)], key, hash, 1) {
                    for (key, hash, _) in group.drain() {
                        tables[partition(*hash, partitions)].bump(*key, *hash, 1);
                    }
                }
            } else if len > INLINE {
                let word = &text[start..at];
                let hash = plain::hash(word);
                tables[partition(hash, partitions)].long.bump(word, hash);
            }
            start = at + 1;
        }
        base += 64;
    }
    for (key, hash, _) in group.drain() {
        tables[partition(*hash, partitions)].bump(*key, *hash, 1);
    }
}

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn count_avx2<'a>(tables: &mut [Table<'a>], text: &'a [u8]) {
    count(tables, text, |block| separators_avx2(block));
}

impl<'a> Counts<'a> for Table<'a> {
    fn with_capacity(words: usize) -> Self {
        let slots = vec![Slot::default(); (words * 4 / 3 + 1).next_power_of_two().max(64)];
        Self {
            slots,
            used: 0,
            live: 0,
            long: plain::Table::with_capacity(words / 32),
        }
    }

    fn len(&self) -> usize {
        self.live + self.long.len()
    }

    fn count(tables: &mut [Self], text: &'a [u8]) {
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
        {
            // SAFETY: the processor has all of them.
            unsafe { count_avx2(tables, text) }
        } else {
            count(tables, text, separators);
        }
    }

    fn merge(&mut self, other: &mut Self) {
        self.add_inline(other);
        other.slots.fill(Slot::default());
        (other.used, other.live) = (0, 0);
        self.long.merge(&mut other.long);
    }

    fn add(&mut self, other: &Self) -> u64 {
        self.add_inline(other) + self.long.add(&other.long)
    }

    fn run(&mut self, other: &mut Self) {
        self.run_inline(other);
        self.long.run(&mut other.long);
    }

    fn subtract(&mut self, other: &Self) -> u64 {
        let (mut group, mut sum) = (Group::new(), 0);
        for slot in other.slots.iter().filter(|slot| slot.count > 0) {
            sum += slot.count;
            if group.push(self, slot.key, slot.key.hash(), slot.count) {
                self.take(group.drain());
            }
        }
        self.take(group.drain());
        sum + self.long.subtract(&other.long)
    }

    fn each(&self, mut f: impl FnMut(&[u8], u64)) {
        for Slot { key, count } in self.slots.iter().filter(|slot| slot.count > 0) {
            let all = u128::from(key.high) << 64 | u128::from(key.low);
            let len = INLINE - all.leading_zeros() as usize / 8;
            f(&all.to_le_bytes()[..len], *count);
        }
        self.long.each(f);
    }
}
