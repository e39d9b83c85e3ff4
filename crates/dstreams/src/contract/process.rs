//! A source that runs for [`source()`](super::source()), and the blocks that survive it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use dstreams_control::ReceiverId;
use tokio::task::{JoinError, JoinHandle};

use super::{MONOTONIC_OFFSETS, RUNS_WITHOUT_ERROR, Violation};
use crate::blocks::{Block, Budget};
use crate::config::Config;
use crate::error::BoxError;
use crate::receive::{DeadLetters, Ingest, Intake, Source, StopSignal};
use crate::stream::record::{Record, records_of};
use crate::stream::relational::describe;

/// The records and offsets that survived the processes so far.
#[derive(Default)]
pub(super) struct Survivors {
    /// As text.
    pub records: Vec<String>,
    pub offsets: BTreeMap<String, u64>,
    /// The offsets that the running process has reported.
    reported: BTreeMap<Arc<str>, u64>,
}

/// How a source ended.
pub(super) type SourceOutcome = Result<Result<(), BoxError>, JoinError>;

/// A running source.
pub(super) struct Process {
    pub intake: Arc<Intake>,
    budget: Budget,
    closing: StopSignal,
    pub run: JoinHandle<Result<(), BoxError>>,
    ended: Option<SourceOutcome>,
    /// Number of blocks taken from it.
    pub taken: u64,
}

/// The next step of a source.
pub(super) enum SourceStep {
    Blocks(Vec<Arc<Block>>),
    Ended(SourceOutcome),
    Nothing,
}

impl Survivors {
    /// Adds blocks that survive their process.
    pub fn take<T: Record + Debug>(
        &mut self,
        blocks: &[Arc<Block>],
        step: &str,
    ) -> Result<(), Violation> {
        for (key, done) in blocks.iter().flat_map(|block| &block.offsets) {
            if let Some(reported) = self.reported.insert(Arc::clone(key), *done)
                && reported > *done
            {
                let found = format!("the offset of `{key}` was {reported}, and is {done} now");
                return Err(violation(MONOTONIC_OFFSETS, step, found));
            }
            let known = self.offsets.entry(key.to_string()).or_default();
            *known = (*known).max(*done);
        }
        for rows in blocks.iter().flat_map(|block| &block.batches) {
            let records = records_of::<T>(rows)
                .map_err(|error| violation(RUNS_WITHOUT_ERROR, step, error))?;
            let texts = records.iter().map(|record| format!("{record:?}"));
            self.records.extend(texts);
        }
        Ok(())
    }

    /// Describes how the surviving records differ from all records.
    pub fn differs(&self, all: &[String], promise: &'static str, step: &str) -> Violation {
        let (wanted, found) = (counts(all), counts(&self.records));
        let records = wanted.keys().chain(found.keys());
        let times = |of: &BTreeMap<&str, usize>, record| of.get(record).copied().unwrap_or(0);
        let mut records =
            records.filter(|record| times(&wanted, *record) != times(&found, *record));
        let found = match records.next() {
            Some(record) => format!(
                "{record} came {} times, expected {}; {} records in all, expected {}",
                times(&found, record),
                times(&wanted, record),
                self.records.len(),
                all.len(),
            ),
            None => "it waits for something".into(),
        };
        violation(promise, step, found)
    }
}

fn counts(records: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        *counts.entry(record.as_str()).or_default() += 1;
    }
    counts
}

impl Process {
    /// Starts a source with the surviving offsets. Each push is a block, and returns when the block is reported
    /// safe.
    pub async fn begin<T: Record>(
        mut source: impl Source,
        survivors: &mut Survivors,
        budget: &Budget,
    ) -> Result<Self, Violation> {
        survivors.reported.clear();
        let (schema, found) = (T::schema(), source.schema());
        if found.fields() != schema.fields() {
            let (wanted, found) = (describe(&schema), describe(&found));
            let found = format!("its columns are {found}, expected {wanted}");
            return Err(violation(RUNS_WITHOUT_ERROR, "made", found));
        }
        let mut config = Config::new(Duration::from_secs(1));
        config.block_bytes = 1;
        let (receiver, dead) = (ReceiverId(0), DeadLetters::default());
        let intake = Intake::new(receiver, "contract", schema, &config, budget.clone(), dead);
        let intake = Arc::new(intake.with_copies().with_offsets(survivors.offsets.clone()));
        let (ingest, closing) = (Ingest::of(Arc::clone(&intake)), StopSignal::default());
        source.connect(&ingest);
        let opened = source.open().await;
        opened.map_err(|error| violation(RUNS_WITHOUT_ERROR, "opened", error))?;
        Ok(Process {
            run: tokio::spawn(Box::new(source).run(ingest, closing.clone())),
            ended: None,
            intake,
            budget: budget.clone(),
            closing,
            taken: 0,
        })
    }

    /// Waits for the next step.
    pub async fn next(&mut self, patience: Duration) -> SourceStep {
        loop {
            let blocks = self.seal();
            if !blocks.is_empty() {
                return SourceStep::Blocks(blocks);
            }
            if let Some(ended) = self.ended.take() {
                return SourceStep::Ended(ended);
            }
            tokio::select! {
                biased;
                () = self.intake.fresh() => {}
                // Pushed blocks come first.
                ended = &mut self.run => self.ended = Some(ended),
                () = tokio::time::sleep(patience) => return SourceStep::Nothing,
            }
        }
    }

    /// Seals and returns the pushed blocks.
    pub fn seal(&mut self) -> Vec<Arc<Block>> {
        let blocks = self.intake.seal(false);
        self.taken += blocks.len() as u64;
        blocks
    }

    /// Reports that all blocks taken so far are safe.
    pub fn report_safe(&self) {
        self.intake.set_safe_below(self.taken);
    }

    pub fn request_stop(&self) {
        self.budget.lift();
        self.closing.request();
    }
}

/// A source does not continue after its process was dropped.
impl Drop for Process {
    fn drop(&mut self) {
        self.run.abort();
        drop(self.intake.seal(true));
    }
}

pub(super) fn violation(promise: &'static str, step: &str, found: impl ToString) -> Violation {
    Violation {
        promise,
        batch: None,
        step: step.to_owned(),
        found: found.to_string(),
    }
}
