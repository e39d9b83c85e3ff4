//! Inspecting the directory of a program without the program.

use std::collections::BTreeSet;
use std::path::Path;

use dstreams_control::BatchTime;
use serde::Serialize;

use super::location::Store;
use super::manifest::{Manifest, StateParts};
use super::set_aside;
use crate::error::{Error, Result};
use crate::journal::{JournalEntry, look};

/// The result of [`inspect`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// The newest checkpoint, if there is one.
    pub checkpoint: Option<CheckpointInfo>,
    /// The journal.
    pub journal: JournalInfo,
    /// Batches that are set aside, in milliseconds since the epoch.
    pub set_aside: Vec<u64>,
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CheckpointInfo {
    /// The batch of this state, in milliseconds since the epoch.
    pub batch: u64,
    /// The number of processes before the one that wrote it.
    pub incarnation: u64,
    /// The batch interval, in milliseconds.
    pub interval_ms: u64,
    /// Partitions of keyed data.
    pub partitions: usize,
    /// Name and columns of each input.
    pub inputs: Vec<String>,
    /// Its states.
    pub states: Vec<StateInfo>,
    /// Producers and parts of sources with a known offset.
    pub producers: usize,
    /// Bytes of its states.
    pub bytes: u64,
    /// The files with these bytes; they may be older than the checkpoint.
    pub files: usize,
}

/// A state in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StateInfo {
    /// Its name: that of a keyed state; for a window, its description.
    pub name: String,
    /// A description of its contents. A program resumes with the state if its own is the same.
    pub holds: String,
    /// Bytes of full parts: each partition as of when it was last written completely.
    pub whole_bytes: u64,
    /// Bytes of incremental parts.
    pub changed_bytes: u64,
    /// The number of parts, over all partitions.
    pub parts: usize,
}

impl StateInfo {
    fn of(state: &StateParts) -> Self {
        let bytes = |whole| {
            let parts = state.parts().filter(|part| part.whole == whole);
            parts.map(|part| part.bytes).sum()
        };
        StateInfo {
            name: state.state.name.clone(),
            holds: state.state.holds.clone(),
            whole_bytes: bytes(true),
            changed_bytes: bytes(false),
            parts: state.parts().count(),
        }
    }
}

/// Reads all parts, as a restart would; returns the number of offsets.
async fn check(manifest: &Manifest, store: &Store) -> Result<usize> {
    for part in manifest.parts() {
        let file = &manifest.files[part.file];
        part.read(store, file).await?;
    }
    Ok(manifest.offsets(store).await?.len())
}

/// A journal: the entries after the checkpoint, and some before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JournalInfo {
    /// Processes that wrote these entries.
    pub processes: usize,
    /// Blocks of records.
    pub blocks: usize,
    /// Bytes of these.
    pub block_bytes: u64,
    /// Batches that were cut after the checkpoint, in milliseconds since the epoch.
    pub cut: Vec<u64>,
    /// How many of those took effect.
    pub committed: usize,
    /// Bytes at its end that were never synced.
    pub torn: u64,
}

/// Reads the directory of a program ([`StreamContext::persist_in`]), and checks it as a restart would: damage
/// is an error that names file and place. For a cluster, it reads the checkpoint and the master's journal, not
/// those of the workers. Changes nothing, and may be called while the program runs; concurrent writes may then
/// look torn.
///
/// [`StreamContext::persist_in`]: crate::StreamContext::persist_in
pub fn inspect(dir: impl AsRef<Path>) -> Result<Inspection> {
    let dir = dir.as_ref();
    let store = Store::Dir(dir.to_owned());
    // The futures of a directory never wait.
    let newest = futures::executor::block_on(Manifest::newest(&store))?;
    let mut producers = 0;
    if let Some(manifest) = &newest {
        producers = futures::executor::block_on(check(manifest, &store))?;
    }
    let state = newest.as_ref().map(Manifest::batch);
    let found = look(dir)?;
    if newest.is_none() && found.last.is_none() {
        let message = format!(
            "{} has neither a checkpoint nor a journal; give the directory that a program is kept in",
            dir.display()
        );
        return Err(Error::Checkpoints { message });
    }
    let mut journal = JournalInfo {
        torn: found.torn,
        ..JournalInfo::default()
    };
    let (mut cut, mut committed) = (BTreeSet::new(), BTreeSet::new());
    let mut processes = BTreeSet::new();
    for (_, entry) in found.entries {
        match entry {
            JournalEntry::Opening(opening) => drop(processes.insert(opening.incarnation)),
            JournalEntry::Opened { incarnation } => drop(processes.insert(incarnation)),
            JournalEntry::Block { bytes, .. } | JournalEntry::SealedBlock { bytes, .. } => {
                journal.blocks += 1;
                journal.block_bytes += bytes.len() as u64;
            }
            JournalEntry::Cut { batch, .. } => drop(cut.insert(batch)),
            JournalEntry::Committed { batch } => drop(committed.insert(batch)),
            JournalEntry::SetAside { .. }
            | JournalEntry::Committing { .. }
            | JournalEntry::ReceiverLost { .. } => {}
        }
    }
    journal.processes = processes.len();
    let later = |batch: &&BatchTime| Some(**batch) > state;
    journal.cut = cut
        .iter()
        .filter(later)
        .map(|batch| batch.millis())
        .collect();
    journal.committed = committed.iter().filter(later).count();
    let checkpoint = newest.map(|manifest| CheckpointInfo {
        batch: manifest.batch,
        incarnation: manifest.incarnation,
        interval_ms: manifest.program.interval_ms,
        partitions: manifest.program.partitions,
        producers,
        bytes: manifest
            .states
            .iter()
            .flat_map(StateParts::parts)
            .map(|part| part.bytes)
            .sum(),
        files: manifest.files.len(),
        states: manifest.states.iter().map(StateInfo::of).collect(),
        inputs: manifest.program.inputs,
    });
    Ok(Inspection {
        checkpoint,
        journal,
        set_aside: set_aside::list(dir)?,
    })
}
