//! What is in the directory of a program, without its program.

use std::collections::BTreeSet;
use std::path::Path;

use dstreams_control::BatchTime;
use serde::Serialize;

use super::checkpoint;
use crate::error::{Error, Result};
use crate::node::journal::{Entry, look};

/// What [`inspect`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// The newest checkpoint, if there is one.
    pub checkpoint: Option<CheckpointInfo>,
    /// The journal.
    pub journal: JournalInfo,
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CheckpointInfo {
    /// The batch whose state it has, in milliseconds since the epoch.
    pub batch: u64,
    /// How many processes there were before the one that wrote it.
    pub incarnation: u64,
    /// The batch interval, in milliseconds.
    pub interval_ms: u64,
    /// Partitions of keyed data.
    pub partitions: usize,
    /// Name and columns of each input.
    pub inputs: Vec<String>,
    /// What each state holds.
    pub states: Vec<String>,
    /// Producers, or parts of sources, whose last number is known.
    pub producers: usize,
    /// Bytes of its files.
    pub bytes: u64,
}

/// A journal: what came after the checkpoint, and some of what came before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JournalInfo {
    /// Processes that wrote what is there.
    pub processes: usize,
    /// Blocks of records.
    pub blocks: usize,
    /// Bytes of these.
    pub block_bytes: u64,
    /// Batches that were cut after the checkpoint, in milliseconds since the epoch.
    pub cut: Vec<u64>,
    /// Of those, how many took effect.
    pub committed: usize,
    /// Bytes at its end that were never synced.
    pub torn: u64,
}

/// Reads what is in the directory of a program ([`StreamContext::restore_or_new`]), and checks it as a restart
/// would: damage is an error that names file and place. Changes nothing, and may be called while the program
/// runs; what is written meanwhile may then look torn.
///
/// [`StreamContext::restore_or_new`]: crate::StreamContext::restore_or_new
pub fn inspect(dir: impl AsRef<Path>) -> Result<Inspection> {
    let dir = dir.as_ref();
    let newest = checkpoint::newest(dir)?;
    let state = newest.as_ref().map(|(manifest, _)| manifest.batch());
    let found = look(dir)?;
    if newest.is_none() && found.last.is_none() {
        return Err(Error::Config {
            setting: "checkpoint directory",
            message: format!("{} has neither a checkpoint nor a journal", dir.display()),
        });
    }
    let mut journal = JournalInfo {
        torn: found.torn,
        ..JournalInfo::default()
    };
    let (mut cut, mut committed) = (BTreeSet::new(), BTreeSet::new());
    for (_, entry) in found.entries {
        match entry {
            Entry::Opened { .. } => journal.processes += 1,
            Entry::Block { bytes, .. } => {
                journal.blocks += 1;
                journal.block_bytes += bytes.len() as u64;
            }
            Entry::Cut { batch, .. } => drop(cut.insert(batch)),
            Entry::Committed { batch } => drop(committed.insert(batch)),
        }
    }
    let later = |batch: &&BatchTime| Some(**batch) > state;
    journal.cut = cut.iter().filter(later).map(|batch| batch.0).collect();
    journal.committed = committed.iter().filter(later).count();
    let checkpoint = newest.map(|(manifest, _)| CheckpointInfo {
        batch: manifest.batch,
        incarnation: manifest.incarnation,
        interval_ms: manifest.program.interval_ms,
        partitions: manifest.program.partitions,
        inputs: manifest.program.inputs,
        states: manifest.program.states,
        producers: manifest.marks.len(),
        bytes: manifest.files.iter().map(|file| file.bytes).sum(),
    });
    Ok(Inspection {
        checkpoint,
        journal,
    })
}
