//! The words and how often each is drawn: Zipf's law with exponent 1 over 100,000 ranks.
//!
//! The word of rank r (from 1) is drawn with probability 1 / (r H), H = 12.09. The exponent is exactly 1, so that the
//! table needs only exact arithmetic and not `powf`. Frequent words are short, as in a language: the first 100 ranks have
//! 1 to 5 bytes; the others mostly 3 to 12, and about one in nine has 13 to 20.

use crate::rng::Rng;
use crate::{NEEDLE, VOCABULARY};
use std::collections::HashSet;

/// The longest word, in bytes.
pub const LONGEST: usize = 20;
/// Bytes that are copied at once when a word is written; at least [`LONGEST`].
pub const SLOT: usize = 24;
/// The rank (from 0) that is the needle.
const NEEDLE_RANK: usize = 39;
/// Lengths of the most frequent words, used again and again.
const SHORT: [usize; 20] = [3, 2, 3, 2, 1, 2, 4, 3, 3, 2, 4, 3, 5, 3, 4, 4, 5, 4, 3, 5];
/// Weights of the lengths 3..=20 of all other words, in thousandths.
const WEIGHTS: [usize; 18] = [
    30, 70, 105, 130, 140, 130, 110, 85, 60, 30, 25, 20, 17, 14, 12, 10, 7, 5,
];

/// One word, laid out to be copied with one fixed-size move.
#[derive(Debug, Clone, Copy)]
pub struct Word {
    /// The bytes, then zeros.
    pub bytes: [u8; SLOT],
    /// The number of bytes.
    pub len: u8,
    /// Whether the word contains the needle.
    pub needle: bool,
}

impl Word {
    /// The word itself.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The words by rank, and the table they are drawn from.
#[derive(Debug)]
pub struct Vocabulary {
    words: Vec<Word>,
    /// Walker's alias table: threshold in the upper half, the other rank in the lower.
    alias: Vec<u64>,
    /// Ranks by length of the word, ascending.
    by_len: Vec<Vec<u32>>,
}

impl Vocabulary {
    /// The vocabulary of a seed.
    pub fn new(seed: u64) -> Self {
        let words = words(&mut Rng::new(seed, u64::MAX));
        let mut by_len = vec![Vec::new(); LONGEST + 1];
        for (rank, word) in (0u32..).zip(&words) {
            by_len[usize::from(word.len)].push(rank);
        }
        Self {
            words,
            alias: alias(VOCABULARY),
            by_len,
        }
    }

    /// The words by rank.
    pub fn words(&self) -> &[Word] {
        &self.words
    }

    /// Draws a rank.
    #[inline]
    pub fn draw(&self, rng: &mut Rng) -> usize {
        let bits = rng.bits();
        let column = (((bits >> 32) * self.alias.len() as u64) >> 32) as usize;
        let entry = self.alias[column];
        if (bits & 0xFFFF_FFFF) < (entry >> 32) {
            column
        } else {
            (entry & 0xFFFF_FFFF) as usize
        }
    }

    /// The word of exactly `len` bytes that follows `rank`, starting over at the end; none has that length: `None`.
    pub fn of_len(&self, len: usize, rank: usize) -> Option<usize> {
        let ranks = self.by_len.get(len)?;
        let at = ranks.partition_point(|r| (*r as usize) < rank);
        ranks.get(at).or(ranks.first()).map(|r| *r as usize)
    }
}

fn words(rng: &mut Rng) -> Vec<Word> {
    const CONSONANTS: &[u8] = b"tnshrdlcmwfgypbvkjxqz";
    const VOWELS: &[u8] = b"eaoiu";
    let mut seen = HashSet::with_capacity(VOCABULARY);
    let mut words = Vec::with_capacity(VOCABULARY);
    seen.insert(NEEDLE.as_bytes().to_vec());
    while words.len() < VOCABULARY {
        let rank = words.len();
        let word = if rank == NEEDLE_RANK {
            NEEDLE.as_bytes().to_vec()
        } else {
            let len = if rank < 100 {
                SHORT[rank % SHORT.len()]
            } else {
                length(rng)
            };
            let mut vowel = rng.below(2) == 0;
            let mut word = Vec::with_capacity(len);
            while word.len() < len {
                let letters = if vowel { VOWELS } else { CONSONANTS };
                // The lesser of two draws: letters at the front of the list are more frequent.
                word.push(letters[rng.below(letters.len()).min(rng.below(letters.len()))]);
                vowel = if rng.below(8) == 0 { vowel } else { !vowel };
            }
            if !seen.insert(word.clone()) {
                continue;
            }
            word
        };
        let mut bytes = [0; SLOT];
        bytes[..word.len()].copy_from_slice(&word);
        let needle = word.windows(NEEDLE.len()).any(|w| w == NEEDLE.as_bytes());
        words.push(Word {
            bytes,
            len: word.len() as u8,
            needle,
        });
    }
    words
}

fn length(rng: &mut Rng) -> usize {
    let mut left = rng.below(WEIGHTS.iter().sum());
    for (len, weight) in (3..).zip(WEIGHTS) {
        if left < weight {
            return len;
        }
        left -= weight;
    }
    LONGEST
}

/// Vose's construction for the weights 1/1, 1/2, ... 1/n.
fn alias(n: usize) -> Vec<u64> {
    let weight = |rank: usize| 1.0 / (rank + 1) as f64;
    let sum: f64 = (0..n).map(weight).sum();
    let mut share: Vec<f64> = (0..n).map(|r| weight(r) * n as f64 / sum).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..n).partition(|r| share[*r] < 1.0);
    let mut table: Vec<u64> = (0..n as u64).map(|r| 0xFFFF_FFFF << 32 | r).collect();
    while let (Some(less), Some(more)) = (small.pop(), large.last().copied()) {
        table[less] = ((share[less] * 4_294_967_295.0) as u64) << 32 | more as u64;
        share[more] -= 1.0 - share[less];
        if share[more] < 1.0 {
            large.pop();
            small.push(more);
        }
    }
    table
}
