//! The input of the benchmarks and its expected answers: one generator for every program, whatever it is built on.
//!
//! Lines of exactly 100 bytes with their newline, words drawn by Zipf's law from a seeded vocabulary
//! of 100,000 ASCII words, cut into batches of equal line counts, one contiguous buffer per batch. The same
//! `(seed, lines, batches)` gives the same bytes everywhere. The generator knows which words it wrote, so the
//! expected answers come from its own counts and not from splitting the text again.

pub mod args;
pub mod columns;
pub mod expected;
pub mod input;
pub mod nexmark;
pub mod report;
pub mod rng;
pub mod vocabulary;

pub use args::{Args, Work};
pub use expected::{Expected, Words, fnv1a64};
pub use input::Input;
pub use report::{Latency, Report};

/// Bytes of a line, its newline included.
pub const LINE_BYTES: usize = 100;
/// Distinct words of the vocabulary.
pub const VOCABULARY: usize = 100_000;
/// What `grep` looks for; about three lines in a hundred contain it.
pub const NEEDLE: &str = "error";
/// Batches a window covers.
pub const WINDOW: usize = 10;
/// Words in an answer of `topk`.
pub const TOP: usize = 10;
/// Lines of a batch of `small`.
pub const SMALL_LINES: usize = 1_000;
