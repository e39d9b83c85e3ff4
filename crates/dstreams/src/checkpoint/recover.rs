//! From the files of a program to the point at which it resumes. [`Replay`] makes the decisions.

use std::collections::{BTreeSet, HashMap};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::cluster::ProducerOffset;
use dstreams_control::durable::{self, CheckpointedBlocks, JournalRetention, Replay, Restart};
use dstreams_control::{BatchTime, BlockId, BlockMeta, ReceiverId};

use super::block_journal;
use super::block_journal::Ended;
use super::compatibility::StateChanges;
use super::lineage::Lineage;
use super::location::Store;
use super::manifest::{Manifest, Program, StateId, StateParts};
use super::offsets::{Bound, Offset, OffsetTable, Offsets};
use super::retained_journal::RetainedJournal;
use super::set_aside;
use super::writer::PartAt;
use crate::blocks::Block;
use crate::debug::debug_as;
use crate::error::{Error, Result};
use crate::journal::{
    DirLock, Journal, JournalContents, JournalEntry, NextSegment, Opening, Owner, Ticket,
    random_name, read, read_shared, read_taken,
};

/// The data that an earlier process left.
pub struct Restored {
    /// The n-th process of this directory, from 0.
    pub incarnation: u64,
    first_receiver: ReceiverId,
    /// The checkpoint, and its store.
    pub state: Option<(Manifest, Store)>,
    /// Blocks that the state does not cover, with their inputs.
    pub blocks: Vec<(u32, Arc<Block>)>,
    /// Batches after the checkpoint that took effect, in order.
    pub committed: Vec<(BatchTime, Vec<BlockMeta>)>,
    pub controller: dstreams_control::Restored,
    /// By input: the last offset of each producer that is in the state or in a block.
    offsets: Offsets,
}

debug_as!(Restored);

/// An entry without its records, and the block that has them.
pub(super) fn without_records(
    entry: JournalEntry,
    schemas: &[SchemaRef],
) -> Result<(durable::Entry, Option<Arc<Block>>)> {
    let entry = match entry {
        JournalEntry::Opening(opening) => durable::Entry::Opened {
            incarnation: opening.incarnation,
        },
        JournalEntry::Opened { incarnation } => durable::Entry::Opened { incarnation },
        JournalEntry::Block { input, ref bytes }
        | JournalEntry::SealedBlock { input, ref bytes } => {
            let schema = schemas.get(input as usize).ok_or_else(|| {
                wrong(format!(
                    "a block belongs to input {input}, which does not exist"
                ))
            })?;
            let bytes = bytes.whole();
            let block = match &entry {
                JournalEntry::Block { .. } => Block::from_unsealed(&bytes, schema)?,
                _ => Block::from_bytes(&bytes, schema, Vec::new())?,
            };
            let offsets = block.offsets.iter();
            let entry = durable::Entry::Block {
                input,
                meta: block.meta,
                offsets: offsets.map(|(by, last)| (Arc::clone(by), *last)).collect(),
            };
            return Ok((entry, Some(Arc::new(block))));
        }
        JournalEntry::Cut {
            batch,
            after,
            blocks,
        } => durable::Entry::Cut {
            batch,
            after,
            blocks,
        },
        JournalEntry::SetAside { batch } => durable::Entry::SetAside { batch },
        JournalEntry::Committing { batch } => durable::Entry::Committing { batch },
        JournalEntry::Committed { batch } => durable::Entry::Committed { batch },
        JournalEntry::ReceiverLost { receiver, blocks } => {
            durable::Entry::ReceiverLost { receiver, blocks }
        }
    };
    Ok((entry, None))
}

fn wrong(message: String) -> Error {
    Error::Bytes {
        what: "a journal".into(),
        message,
    }
}

/// The place of a program's journal and checkpoints.
#[derive(Clone)]
pub struct StateDirectory {
    /// The journal; also checkpoints, unless they have another place.
    pub dir: PathBuf,
    pub checkpoints: Option<Store>,
    pub changes: StateChanges,
}

debug_as!(StateDirectory);

impl StateDirectory {
    /// The journal and checkpoints in one directory.
    pub fn at(dir: PathBuf) -> Self {
        StateDirectory {
            dir,
            checkpoints: None,
            changes: StateChanges::default(),
        }
    }

    /// The store of checkpoints.
    pub fn store(&self) -> Store {
        let here = || Store::Dir(self.dir.clone());
        self.checkpoints.clone().unwrap_or_else(here)
    }
}

impl Manifest {
    /// The manifest before the first checkpoint.
    pub(super) fn empty(program: Program, states: Vec<StateId>, changes: &StateChanges) -> Self {
        let partitions = vec![Vec::new(); program.partitions];
        let states = states.into_iter().map(|state| StateParts {
            state,
            partitions: partitions.clone(),
        });
        Manifest {
            number: 0,
            batch: 0,
            incarnation: 0,
            marks: Vec::new(),
            offsets: Vec::new(),
            covered: CheckpointedBlocks::default(),
            directory: None,
            files: Vec::new(),
            states: states.collect(),
            program,
            changes: Some(changes.clone()),
        }
    }
}

/// A program as its files describe it, and the journal that continues them.
pub(super) struct Recovered {
    pub journal: RetainedJournal,
    /// The newest checkpoint, or an empty one.
    pub newest: Manifest,
    pub offsets: OffsetTable,
    pub lineage: Lineage,
    pub ended: Ended,
    pub restored: Restored,
}

/// Reads the directory of a program and its checkpoints: see [`Durable::open`](super::Durable::open).
///
/// Where standbys watch, this process may be replaced at any time, and the one before it may still run. So it looks whether it
/// owns the directory after it has read the journal, and makes a new file for it: of two processes that do this at once,
/// one fails, with [`is_ahead`].
pub(super) async fn recover(
    lock: &DirLock,
    state_directory: &StateDirectory,
    program: Program,
    states: Vec<StateId>,
    schemas: &[SchemaRef],
    bound: &Bound,
) -> Result<Recovered> {
    let (dir, owner) = (&state_directory.dir, lock.owner());
    let store = state_directory.store();
    let (mut point, mut state, mut offsets) = (None, None, Offsets::new());
    let (found, next) = read_journal(lock, dir)?;
    store.make()?;
    let newest = Manifest::newest(&store).await?;
    program.check_journal(&found, &states, newest.as_ref(), &store)?;
    let of_journal = found.opening().map(|opening| opening.directory.clone());
    let of_newest = || newest.as_ref().and_then(|newest| newest.directory.clone());
    let directory = of_journal.or_else(of_newest).unwrap_or_else(random_name);
    let begins = Opening {
        incarnation: 0,
        directory: directory.clone(),
        interval_ms: program.interval_ms,
        inputs: program.inputs.clone(),
        checkpoints: store.place(),
        checkpoint: newest.as_ref().map(|newest| newest.number),
        times: states.iter().filter_map(StateId::named_times).collect(),
    };
    let times = found.opening().map(|opening| opening.times.clone());
    let mut other_times = None;
    let mut newest = match newest {
        Some(written) => {
            let times = times.unwrap_or_default();
            let (manifest, refusal) =
                written.fit(&program, &states, &state_directory.changes, &times)?;
            other_times = refusal;
            offsets = manifest.offsets(&store).await?;
            point = Some(manifest.checkpoint_meta(&offsets));
            state = Some((manifest.clone(), store.clone()));
            manifest
        }
        None => Manifest::empty(program, states, &state_directory.changes),
    };
    newest.directory = Some(directory);
    if found.torn > 0 {
        let bytes = found.torn;
        tracing::info!(bytes, "left out the unsynced end of the journal");
    }
    let mut replay = Replay::new(point);
    let (mut blocks, ended) = read_journals(found, (dir, owner), schemas, &mut replay)?;
    let mut restart = replay.decide().map_err(|error| wrong(error.to_string()))?;
    let process = u32::try_from(restart.incarnation)
        .map_err(|_| wrong("restart limit of this directory reached; use an empty one".into()))?;
    let first_receiver = ReceiverId::first_of(process);
    let open = restart.ended.keys().chain(restart.lost_receivers.keys());
    restart
        .checkpointed_blocks
        .close_before(first_receiver, open);
    restart.controller.set_aside_before =
        u32::try_from(set_aside::list(dir)?.len()).unwrap_or(u32::MAX);
    let interval_ms = newest.program.interval_ms;
    check_interval(restart.controller.last_cut, interval_ms)?;
    let checkpoint = state.as_ref().map(|(manifest, _)| manifest.batch());
    check_sequence(checkpoint, &restart, interval_ms)?;
    if let Some(refusal) = other_times
        && !(restart.committed.is_empty() && restart.controller.pending.is_empty())
    {
        return Err(refusal);
    }
    // Nothing is removed, or begun, before it is known that this program can go on here.
    if state.is_some() {
        let shared = lock.has_standbys();
        newest.remove_earlier(&store, owner, shared).await?;
    }
    // Before any other journal has a block of this process.
    let opening = Opening {
        incarnation: restart.incarnation,
        ..begins
    };
    owner.check()?;
    let journal = Journal::open(dir, next, Some(opening), Some(owner.clone()))?;
    let retention = JournalRetention::after(&restart, Ticket::EARLIER);
    let lineage = lineage_of(checkpoint, &restart);
    let block = |(id, input)| blocks.remove(&id).map(|block| (input, block));
    let blocks: Vec<(u32, Arc<Block>)> = restart.blocks.into_iter().filter_map(block).collect();
    let mut table = OffsetTable::of(offsets.clone(), bound.clone());
    for (input, block) in &blocks {
        table.received(*input, block);
    }
    let restored = Restored {
        incarnation: restart.incarnation,
        first_receiver,
        state,
        blocks,
        committed: restart.committed,
        controller: restart.controller,
        offsets: newest_offsets(restart.offsets, &offsets),
    };
    Ok(Recovered {
        journal: RetainedJournal::new(journal, retention),
        newest,
        offsets: table,
        lineage,
        ended,
        restored,
    })
}

/// Reads the journal of the master; returns the file in which it continues too.
fn read_journal(lock: &DirLock, dir: &Path) -> Result<(JournalContents, NextSegment)> {
    if lock.has_standbys() {
        let found = read_shared(dir, lock.owner())?;
        let next = found.follow();
        return Ok((found, next));
    }
    let found = read(dir)?;
    let next = found.next();
    Ok((found, next))
}

/// Whether another process has continued the journal at the same time, or removed files of it: one that was replaced and did
/// not know it yet.
pub(super) fn is_ahead(error: &Error) -> bool {
    let Error::File { source, .. } = error else {
        return false;
    };
    [ErrorKind::AlreadyExists, ErrorKind::NotFound].contains(&source.kind())
}

/// Reads the journal of the master, then those that workers left, into the restart that they describe; returns the blocks
/// that they hold.
fn read_journals(
    found: JournalContents,
    (dir, owner): (&Path, &Owner),
    schemas: &[SchemaRef],
    replay: &mut Replay,
) -> Result<(HashMap<BlockId, Arc<Block>>, Ended)> {
    let mut blocks = HashMap::new();
    let mut take = |entry| -> Result<Option<ReceiverId>> {
        let (entry, block) = without_records(entry, schemas)?;
        replay.take(entry);
        let receiver = block.as_ref().map(|block| block.meta.id.receiver);
        blocks.extend(block.map(|block| (block.meta.id, block)));
        Ok(receiver)
    };
    for (_, entry) in found.entries {
        take(entry)?;
    }
    let mut ended = Ended::default();
    for journal in block_journal::take_all(dir, owner)? {
        let mut receivers = BTreeSet::new();
        for (_, entry) in read_taken(&journal)?.entries {
            receivers.extend(take(entry)?);
        }
        ended.add(journal, receivers);
    }
    Ok((blocks, ended))
}

/// A batch ends at a multiple of the interval.
fn check_interval(last_cut: Option<BatchTime>, interval_ms: u64) -> Result<()> {
    match last_cut {
        Some(last) if !last.is_multiple_of(interval_ms) => Err(wrong(format!(
            "its last batch, {last}, is none of a program with an interval of {interval_ms} ms; start the program that wrote it"
        ))),
        _ => Ok(()),
    }
}

/// Batches follow each other from the checkpoint on, except where a cut says that intervals were skipped.
fn check_sequence(
    checkpoint: Option<BatchTime>,
    restart: &Restart,
    interval_ms: u64,
) -> Result<()> {
    let mut before = checkpoint;
    let batches = restart.committed.iter().chain(&restart.controller.pending);
    for (batch, _) in batches {
        let follows = restart.skipped.contains_key(batch);
        let next = before.map(|before| before.plus(interval_ms));
        if let Some(next) = next.filter(|next| next != batch && !follows) {
            return Err(wrong(format!(
                "batch {next} is missing before batch {batch}"
            )));
        }
        before = Some(*batch);
    }
    Ok(())
}

/// The batches that are known, and the blocks of those since the checkpoint.
fn lineage_of(checkpoint: Option<BatchTime>, restart: &Restart) -> Lineage {
    let mut lineage = Lineage {
        checkpoint,
        ..Lineage::default()
    };
    for (batch, blocks) in &restart.committed {
        lineage.cut(*batch, blocks, true);
    }
    for (batch, blocks) in &restart.controller.pending {
        lineage.cut(*batch, blocks, false);
    }
    lineage
}

/// What is in the state or in a block, where these are in the state. Others are of batches after it.
fn newest_offsets(offsets: durable::ProducerOffsets, of_state: &Offsets) -> Offsets {
    let offset = |(of, last): ((u32, String), u64)| {
        let known = of_state.get(&of).filter(|known| known.last == last);
        let batch = known.map_or(u64::MAX, |known| known.batch);
        (of, Offset { last, batch })
    };
    offsets.into_iter().map(offset).collect()
}

impl Restored {
    /// The number of partitions of the states, if there is a checkpoint.
    pub fn partitions(&self) -> Option<usize> {
        let (manifest, _) = self.state.as_ref()?;
        Some(manifest.program.partitions)
    }

    /// Offsets by input and producer, of the least recently active first.
    pub fn producer_offsets(&self) -> impl Iterator<Item = ProducerOffset> {
        let mut offsets: Vec<_> = self.offsets.iter().collect();
        offsets.sort_by_key(|(_, offset)| offset.batch);
        let offsets = offsets.into_iter();
        offsets.map(|((input, producer), offset)| ProducerOffset {
            input: *input,
            producer: Arc::from(producer.as_str()),
            last: offset.last,
        })
    }

    /// The batch of the checkpoint.
    pub fn batch(&self) -> Option<BatchTime> {
        self.state.as_ref().map(|(manifest, _)| manifest.batch())
    }

    /// The parts from which to restore a partition, by state.
    pub fn sources(&self, partition: usize) -> Vec<Vec<PartAt>> {
        let state = self.state.as_ref();
        state.map_or_else(Vec::new, |(manifest, _)| manifest.sources(partition))
    }

    /// Receivers of earlier processes with blocks, and their inputs.
    pub fn receivers(&self) -> impl Iterator<Item = (ReceiverId, u32)> {
        let blocks = self.blocks.iter();
        blocks.map(|(input, block)| (block.meta.id.receiver, *input))
    }

    /// The first receiver id of this process. Ids are unique across processes, since a batch may have blocks of
    /// several.
    pub fn first_receiver(&self) -> u64 {
        self.first_receiver.0
    }

    /// The offsets of an input by producer, of the least recently active first.
    pub fn offsets(&self, input: u32) -> Vec<(String, u64)> {
        let offsets = self.offsets.iter().filter(|((of, _), _)| *of == input);
        let mut offsets: Vec<_> = offsets.collect();
        offsets.sort_by_key(|(_, offset)| offset.batch);
        let offsets = offsets.into_iter();
        offsets
            .map(|((_, producer), offset)| (producer.clone(), offset.last))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Record, batch_of};
    use dstreams_control::{BlockId, ReceiverId};

    /// Also blocks in the formats of earlier programs.
    #[test]
    fn blocks_are_restored_unchanged() {
        let texts = ["a", "a text that is long enough for a buffer"].map(str::to_owned);
        let rows = batch_of(texts.clone()).unwrap();
        let id = BlockId {
            receiver: ReceiverId(3),
            seq: 5,
        };
        let offsets = [(Arc::from("producer"), 7)].into_iter().collect();
        let block = Block::new(id, vec![rows.clone()], 100, Vec::new()).with_offsets(offsets);
        let schema = String::schema();
        let entries = [
            JournalEntry::Block {
                input: 0,
                bytes: block.to_pieces(&schema).unwrap(),
            },
            JournalEntry::SealedBlock {
                input: 0,
                bytes: block.to_bytes(&schema).unwrap().into(),
            },
        ];
        for entry in entries {
            let bytes = entry.to_pieces();
            let read = JournalEntry::from_bytes(&bytes.whole()).unwrap();
            assert_eq!(read, entry);
            let (_, found) = without_records(read, &[Arc::clone(&schema)]).unwrap();
            let found = found.unwrap();
            assert_eq!((found.meta, &found.offsets), (block.meta, &block.offsets));
            assert_eq!(found.batches, std::slice::from_ref(&rows));
        }
    }
}
