//! [`Tally`]: how often each thing happened.
//!
//! With it the test asserts that each kind of trouble really struck.

use std::collections::BTreeMap;

#[derive(Default)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub fn add(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub fn merge(&mut self, other: Tally) {
        for (what, count) in other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// The members of `must` that did not happen.
    pub fn missing(&self, must: &[&'static str]) -> Vec<&'static str> {
        must.iter()
            .copied()
            .filter(|what| !self.0.contains_key(what))
            .collect()
    }

    pub fn lines(&self) -> String {
        self.0
            .iter()
            .map(|(what, count)| format!("{count:>9}  {what}\n"))
            .collect()
    }
}
