//! The batches of text.

use crate::expected::{Expected, Written};
use crate::rng::Rng;
use crate::vocabulary::{SLOT, Vocabulary};
use crate::{Args, LINE_BYTES};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// All batches in memory, and the answers they must give.
#[derive(Debug)]
pub struct Input {
    /// The lines of each batch, one after the other, each with its newline.
    pub batches: Vec<Vec<u8>>,
    /// The expected answers.
    pub expected: Expected,
}

impl Input {
    /// Writes the batches of `args`, on all cores.
    pub fn generate(args: &Args) -> Self {
        let vocabulary = Vocabulary::new(args.seed);
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<(usize, Vec<u8>, Written)>> =
            Mutex::new(Vec::with_capacity(args.batches));
        let worker = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= args.batches {
                    return;
                }
                let (bytes, written) = batch(&vocabulary, args, index);
                done.lock()
                    .unwrap_or_else(|lock| lock.into_inner())
                    .push((index, bytes, written));
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(worker))));
        let mut done = done.into_inner().unwrap_or_else(|lock| lock.into_inner());
        done.sort_unstable_by_key(|(index, ..)| *index);
        let (batches, written): (Vec<_>, Vec<_>) = done
            .into_iter()
            .map(|(_, bytes, written)| (bytes, written))
            .unzip();
        Self {
            expected: Expected::new(args, &vocabulary, &written),
            batches,
        }
    }
}

/// The lines `range` of a batch, as bytes: lines have one length, so a cut is a multiplication.
pub fn lines(batch: &[u8], range: Range<usize>) -> &[u8] {
    &batch[range.start * LINE_BYTES..range.end * LINE_BYTES]
}

/// Part `part` of `parts` of a batch, cut between lines, as even as can be.
pub fn part(batch: &[u8], part: usize, parts: usize) -> &[u8] {
    let count = batch.len() / LINE_BYTES;
    lines(batch, count * part / parts..count * (part + 1) / parts)
}

fn batch(vocabulary: &Vocabulary, args: &Args, index: usize) -> (Vec<u8>, Written) {
    let mut rng = Rng::new(args.seed, index as u64);
    let mut counts = vec![0u32; vocabulary.words().len()];
    let mut grep = 0;
    let count = args.batch_lines();
    let mut bytes = vec![0; count * LINE_BYTES + SLOT];
    for line in 0..count {
        let end = (line + 1) * LINE_BYTES - 1;
        let mut at = line * LINE_BYTES;
        let mut needle = false;
        while at < end {
            let mut rank = vocabulary.draw(&mut rng);
            let left = end - at;
            // A word ends the line exactly, or leaves room for a space and one letter more; else another takes its place.
            let len = usize::from(vocabulary.words()[rank].len);
            if len > left || len + 1 == left {
                match vocabulary.of_len(left, rank) {
                    Some(exact) => rank = exact,
                    None => continue,
                }
            }
            let word = &vocabulary.words()[rank];
            bytes[at..at + SLOT].copy_from_slice(&word.bytes);
            at += usize::from(word.len);
            bytes[at] = b' ';
            at += 1;
            counts[rank] += 1;
            needle |= word.needle;
        }
        bytes[end] = b'\n';
        grep += u64::from(needle);
    }
    bytes.truncate(count * LINE_BYTES);
    let counts = (0u32..)
        .zip(counts)
        .filter(|(_, count)| *count > 0)
        .collect();
    (bytes, Written { grep, counts })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::expected::Words;
    use std::collections::{HashMap, HashSet};

    fn args(work: &str) -> Args {
        let flags = format!("--work {work} --lines 24000 --batches 12 --seed 7");
        Args::parse(flags.split(' ').map(str::to_owned)).unwrap()
    }

    fn split(batch: &[u8]) -> impl Iterator<Item = &[u8]> {
        batch
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .flat_map(|l| l.split(|b| *b == b' '))
    }

    #[test]
    fn lines_have_exactly_one_hundred_bytes_and_no_empty_word() {
        let input = Input::generate(&args("grep"));
        assert_eq!(input.batches.len(), 12);
        for batch in &input.batches {
            assert_eq!(batch.len(), 2_000 * LINE_BYTES);
            assert!(
                batch
                    .chunks(LINE_BYTES)
                    .all(|l| l[LINE_BYTES - 1] == b'\n' && !l[..LINE_BYTES - 1].contains(&b'\n'))
            );
            assert!(
                split(batch)
                    .all(|word| !word.is_empty() && word.iter().all(u8::is_ascii_lowercase))
            );
        }
    }

    #[test]
    fn the_vocabulary_has_distinct_words_of_both_kinds() {
        let vocabulary = Vocabulary::new(1);
        let words: HashSet<&[u8]> = vocabulary.words().iter().map(|w| w.as_bytes()).collect();
        assert_eq!(words.len(), crate::VOCABULARY);
        let long = words.iter().filter(|w| w.len() > 12).count();
        assert!((5_000..20_000).contains(&long), "{long}");
        assert!((1..=crate::vocabulary::LONGEST).all(|len| vocabulary.of_len(len, 0).is_some()));
    }

    #[test]
    fn the_answers_are_those_of_the_text() {
        let text = Input::generate(&args("wordcount"));
        let counts: Vec<HashMap<&[u8], u64>> =
            text.batches.iter().map(|batch| count(&[batch])).collect();
        let words: Vec<Words> = counts
            .iter()
            .map(|map| map.iter().map(|(w, n)| (*w, *n)).collect())
            .collect();
        text.expected.check_words(&words).unwrap();

        let running = Input::generate(&args("running"));
        let so_far: Vec<Words> = (0..12)
            .map(|at| {
                let totals = count(&text.batches[..=at].iter().collect::<Vec<_>>());
                counts[at].keys().map(|w| (*w, totals[w])).collect()
            })
            .collect();
        running.expected.check_words(&so_far).unwrap();

        let grep = Input::generate(&args("grep"));
        let has = |line: &&[u8]| std::str::from_utf8(line).unwrap().contains(crate::NEEDLE);
        let found: Vec<u64> = grep
            .batches
            .iter()
            .map(|batch| batch.split(|b| *b == b'\n').filter(has).count() as u64)
            .collect();
        grep.expected.check_grep(&found).unwrap();
        let share = found.iter().sum::<u64>() as f64 / 24_000.0;
        assert!((0.02..0.05).contains(&share), "{share}");

        let window = Input::generate(&args("window"));
        let top = Input::generate(&args("topk"));
        for at in 0..12 {
            let last: Vec<&Vec<u8>> = text.batches[at.max(9) - 9..=at].iter().collect();
            let counts = count(&last);
            assert_eq!(
                window.expected.window[at],
                counts.iter().map(|(w, n)| (*w, *n)).collect()
            );
            let mut all: Vec<(&[u8], u64)> = counts.into_iter().collect();
            all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
            let ranked = |(w, n): &(&[u8], u64)| (String::from_utf8_lossy(w).into_owned(), *n);
            assert_eq!(
                top.expected.top[at],
                all[..10].iter().map(ranked).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn a_wrong_answer_names_its_batch() {
        let grep = Input::generate(&args("grep"));
        let mut got = grep.expected.grep.clone();
        got[3] += 1;
        assert!(
            grep.expected
                .check_grep(&got)
                .unwrap_err()
                .contains("batch 3")
        );
        assert!(grep.expected.check_grep(&got[1..]).is_err());
    }

    fn count<'a>(batches: &[&'a Vec<u8>]) -> HashMap<&'a [u8], u64> {
        let mut counts = HashMap::new();
        batches
            .iter()
            .flat_map(|batch| split(batch))
            .for_each(|word| *counts.entry(word).or_default() += 1);
        counts
    }
}
