//! The flags of `bench cluster`.

use std::path::PathBuf;

use crate::own::Outcome;
use crate::{machine, programs};

/// What to measure, and where the results go.
#[derive(Debug, Default)]
pub struct Options {
    /// Short and small, as a smoke test.
    pub quick: bool,
    /// The measurements; empty for all.
    pub only: Vec<String>,
    /// Number of rounds, if it differs from that of each measurement.
    pub rounds: Option<usize>,
    out: Option<PathBuf>,
}

impl Options {
    /// Reads the flags.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut options = Self::default();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--quick" => options.quick = true,
                "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
                "--rounds" => options.rounds = Some(value()?.parse()?),
                "--out" => options.out = Some(value()?.into()),
                _ => return Err(format!("unknown flag {word}; usage:\n{}", crate::USAGE).into()),
            }
        }
        let known: Vec<_> = super::measurements::all(true)
            .iter()
            .map(|m| m.name)
            .collect();
        match options
            .only
            .iter()
            .find(|only| !known.contains(&only.as_str()))
        {
            Some(other) => Err(format!("no measurement {other:?}; there are {known:?}").into()),
            None => Ok(options),
        }
    }

    /// The folder of the results: a new one under `bench/runs/`, for `--quick` one outside the repository's
    /// history.
    pub fn folder(&self) -> PathBuf {
        if let Some(out) = &self.out {
            return out.clone();
        }
        if self.quick {
            return programs::folder().join("../target/bench-cluster-quick");
        }
        let runs = programs::folder().join("runs");
        let name = |n: u32| match n {
            1 => format!("{}-cluster", machine::slug()),
            n => format!("{}-cluster-{n}", machine::slug()),
        };
        let free = (1..)
            .map(|n| runs.join(name(n)))
            .find(|path| !path.exists());
        free.unwrap_or(runs)
    }
}
