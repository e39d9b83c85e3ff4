//! Random lines with word frequencies as in a language (Zipf): the word of rank r is 1/r as frequent as
//! the first. The same lines in every run.

use std::collections::HashMap;

/// Number of different words.
const WORDS: usize = 20_000;
/// Words per line.
const WORDS_PER_LINE: usize = 8;
/// The most frequent words of English; the others are made of syllables.
const FREQUENT: &str = "the of and to in a is that for it as was with be by on not he his but at are \
    this have from or had an they which one you were all her she there would their we him been has \
    when who will no more if out so up said what its about than into them can only other time new \
    some could these two may first then do any like my now over such our man me even most made";
const SYLLABLES: &str = "ba be bi bo bu da de di do du fa fe fi fo fu ka ke ki ko ku la le li lo lu \
    ma me mi mo mu na ne ni no nu ra re ri ro ru sa se si so su ta te ti to tu va ve vi vo vu";

/// Generates lines.
pub struct Lines {
    words: Vec<String>,
    /// For each word, the sum of the weights up to it.
    sums: Vec<f64>,
    /// For each word, how often it was drawn.
    drawn: Vec<i64>,
    random: u64,
}

impl Lines {
    /// The lines of `seed`.
    pub fn new(seed: u64) -> Self {
        let syllables: Vec<&str> = SYLLABLES.split_whitespace().collect();
        let made = (0..).map(|n| made_word(n, &syllables));
        let words = FREQUENT
            .split_whitespace()
            .map(str::to_owned)
            .chain(made)
            .take(WORDS);
        let mut sum = 0.0;
        let sums = (1..=WORDS).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Lines {
            words: words.collect(),
            sums: sums.collect(),
            drawn: vec![0; WORDS],
            random: seed,
        }
    }

    /// Appends a line to `text`.
    pub fn write(&mut self, text: &mut Vec<u8>) {
        for place in 0..WORDS_PER_LINE {
            if place > 0 {
                text.push(b' ');
            }
            let word = self.draw();
            text.extend_from_slice(word.as_bytes());
        }
        text.push(b'\n');
    }

    /// How often each word is in the lines so far.
    pub fn counts(&self) -> HashMap<String, i64> {
        let mut counts = HashMap::new();
        let drawn = self.words.iter().zip(&self.drawn);
        for (word, drawn) in drawn.filter(|(_, drawn)| **drawn > 0) {
            *counts.entry(word.clone()).or_default() += drawn;
        }
        counts
    }

    fn draw(&mut self) -> &str {
        let whole = self.sums.last().copied().unwrap_or_default();
        let at = whole * (self.bits() >> 11) as f64 / (1u64 << 53) as f64;
        let rank = self.sums.partition_point(|sum| *sum <= at);
        if let Some(drawn) = self.drawn.get_mut(rank) {
            *drawn += 1;
        }
        self.words.get(rank).map_or("", String::as_str)
    }

    /// The next 64 random bits (splitmix64).
    fn bits(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Word number `n`: three syllables, sometimes with an `n`; numbers of one length yield different words.
fn made_word(n: usize, syllables: &[&str]) -> String {
    let base = syllables.len();
    let places = [n, n / base, n / base / base];
    let mut word: String = places
        .iter()
        .map(|place| syllables[(place + n) % base])
        .collect();
    if n.is_multiple_of(5) {
        word += "n";
    }
    word
}
