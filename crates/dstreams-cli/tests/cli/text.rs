//! Generated text, and a naive count of its words.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Lines of many words, few of them frequent, with many ties.
pub fn text(producer: u64, lines: u64) -> String {
    let mut state = producer + 1;
    let mut word = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let random = state >> 40;
        format!("w{}", random % (1 << (random % 11)))
    };
    let line = |n: u64| (0..n % 9).map(|_| word()).collect::<Vec<_>>().join(" ") + "\n";
    (0..lines).map(line).collect()
}

/// The number of words and the top ten, as the command should print them.
pub fn naive(texts: &[&str]) -> (u64, Value) {
    let mut counts = BTreeMap::<&str, u64>::new();
    for word in texts.iter().flat_map(|text| text.split_whitespace()) {
        *counts.entry(word).or_default() += 1;
    }
    let total = counts.values().sum();
    let mut top: Vec<_> = counts.into_iter().collect();
    top.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    top.truncate(10);
    (total, json!(top))
}
