//! The expected answers, from the generator's own counts, and the comparison of a program's answers with them.

use crate::vocabulary::Vocabulary;
use crate::{Args, TOP, WINDOW, Work};

/// FNV-1a of 64 bits.
#[inline]
pub fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3)
    })
}

/// A map from word to count, in three numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Words {
    /// Distinct words.
    pub distinct: u64,
    /// Sum of the counts.
    pub total: u64,
    /// Wrapping sum of [`fnv1a64`] of the word times its count; independent of order.
    pub checksum: u64,
}

impl Words {
    /// Adds one word with its count; each word once.
    #[inline]
    pub fn add(&mut self, word: &[u8], count: u64) {
        self.distinct += 1;
        self.total += count;
        self.checksum = self
            .checksum
            .wrapping_add(fnv1a64(word).wrapping_mul(count));
    }
}

impl<'a> FromIterator<(&'a [u8], u64)> for Words {
    fn from_iter<I: IntoIterator<Item = (&'a [u8], u64)>>(words: I) -> Self {
        let mut sum = Self::default();
        words
            .into_iter()
            .for_each(|(word, count)| sum.add(word, count));
        sum
    }
}

/// One word of an answer of `topk`, with its count.
pub type Ranked = (String, u64);

/// What a work's answers must be, per batch; only the work's own list is filled.
#[derive(Debug, Default)]
pub struct Expected {
    /// `grep`: lines that contain the needle.
    pub grep: Vec<u64>,
    /// `wordcount` and `small`: the words of the batch; `running`: these with their counts so far.
    pub words: Vec<Words>,
    /// `window`: the words of the last [`WINDOW`] batches.
    pub window: Vec<Words>,
    /// `topk`: the first [`TOP`] of the window, by count descending, then word ascending.
    pub top: Vec<Vec<Ranked>>,
}

/// What the generator wrote in one batch.
#[derive(Debug, Default)]
pub struct Written {
    /// Lines that contain the needle.
    pub grep: u64,
    /// Ranks and counts, each rank once.
    pub counts: Vec<(u32, u32)>,
}

impl Expected {
    /// The answers to `args.work` over what was written.
    pub fn new(args: &Args, vocabulary: &Vocabulary, written: &[Written]) -> Self {
        let mut expected = Self::default();
        match args.work {
            Work::Grep => expected.grep = written.iter().map(|batch| batch.grep).collect(),
            Work::WordCount | Work::Small => {
                let word = |rank: u32| vocabulary.words()[rank as usize].as_bytes();
                let words = |batch: &Written| {
                    batch
                        .counts
                        .iter()
                        .map(|(rank, n)| (word(*rank), u64::from(*n)))
                        .collect()
                };
                expected.words = written.iter().map(words).collect();
            }
            Work::Running => {
                let mut counts = vec![0u64; vocabulary.words().len()];
                for batch in written {
                    let so_far = batch.counts.iter().map(|(rank, n)| {
                        let (rank, n) = (*rank as usize, u64::from(*n));
                        counts[rank] += n;
                        (vocabulary.words()[rank].as_bytes(), counts[rank])
                    });
                    expected.words.push(so_far.collect());
                }
            }
            Work::Window | Work::TopK => {
                let mut counts = vec![0u64; vocabulary.words().len()];
                for (at, batch) in written.iter().enumerate() {
                    batch
                        .counts
                        .iter()
                        .for_each(|(rank, n)| counts[*rank as usize] += u64::from(*n));
                    if let Some(old) = at.checked_sub(WINDOW) {
                        written[old]
                            .counts
                            .iter()
                            .for_each(|(rank, n)| counts[*rank as usize] -= u64::from(*n));
                    }
                    let present = vocabulary
                        .words()
                        .iter()
                        .zip(&counts)
                        .filter(|(_, n)| **n > 0);
                    if args.work == Work::Window {
                        expected
                            .window
                            .push(present.map(|(word, n)| (word.as_bytes(), *n)).collect());
                    } else {
                        let mut all: Vec<(&[u8], u64)> =
                            present.map(|(word, n)| (word.as_bytes(), *n)).collect();
                        all.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
                        all.truncate(TOP);
                        let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
                        expected
                            .top
                            .push(all.into_iter().map(|(word, n)| (text(word), n)).collect());
                    }
                }
            }
        }
        expected
    }

    /// Compares the answers of `grep`, one number per batch.
    pub fn check_grep(&self, got: &[u64]) -> Result<(), String> {
        same("grep", &self.grep, got)
    }

    /// Compares the answers of `wordcount`, `running` or `small`, one map per batch.
    pub fn check_words(&self, got: &[Words]) -> Result<(), String> {
        same("words", &self.words, got)
    }

    /// Compares one batch of `small`.
    pub fn check_batch(&self, batch: usize, got: Words) -> Result<(), String> {
        same("words of the batch", &self.words[batch..=batch], &[got])
    }

    /// Compares the answers of `window`: distinct words and their total after each batch, all of it after the last.
    pub fn check_window(&self, got: &[(u64, u64)], last: Words) -> Result<(), String> {
        let sizes: Vec<(u64, u64)> = self
            .window
            .iter()
            .map(|words| (words.distinct, words.total))
            .collect();
        same("sizes of the window", &sizes, got)?;
        same(
            "the last window",
            &self.window[self.window.len() - 1..],
            &[last],
        )
    }

    /// Compares the answers of `topk`, one list per batch.
    pub fn check_top(&self, got: &[Vec<Ranked>]) -> Result<(), String> {
        same("top words", &self.top, got)
    }
}

fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: &[T],
    got: &[T],
) -> Result<(), String> {
    if expected.len() != got.len() {
        return Err(format!(
            "wrong answer: {what}: {} batches expected, got {}",
            expected.len(),
            got.len()
        ));
    }
    match expected.iter().zip(got).position(|(e, g)| e != g) {
        None => Ok(()),
        Some(at) => Err(format!(
            "wrong answer: {what}: batch {at}: expected {:?}, got {:?}",
            expected[at], got[at]
        )),
    }
}
