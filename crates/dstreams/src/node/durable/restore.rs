//! From what is on disk to where a program goes on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};

use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::{BatchTime, BlockId, BlockMeta};

use super::checkpoint::{self, Program};
use super::{Durable, Tickets};
use crate::error::{Error, Result};
use crate::node::journal::{DirLock, Entry, Journal, Ticket, read};
use crate::receive::Block;

/// What an earlier process left.
#[derive(Default)]
pub(crate) struct Restored {
    /// The n-th process of this directory, from 0.
    pub incarnation: u64,
    /// Partitions of keyed data, if there was a process before.
    pub partitions: Option<usize>,
    /// The batch of the checkpoint, and the state of each partition.
    pub state: Option<(BatchTime, Vec<Vec<u8>>)>,
    /// Blocks that the state does not have, with their inputs.
    pub blocks: Vec<(u32, Arc<Block>)>,
    /// Batches after the checkpoint that took effect, in order.
    pub committed: Vec<(BatchTime, Vec<BlockMeta>)>,
    pub controller: dstreams_control::Restored,
    /// By input: the last of each producer that is in the state or in a block.
    pub marks: BTreeMap<(u32, String), u64>,
    /// The same, of the state alone.
    pub marks_of_state: BTreeMap<(u32, String), u64>,
}

/// The blocks of a journal, and what became of them.
#[derive(Default)]
struct Replay {
    incarnations: u64,
    blocks: BTreeMap<BlockId, (u32, Arc<Block>)>,
    cuts: BTreeMap<BatchTime, Vec<BlockId>>,
    committed: BTreeSet<BatchTime>,
}

impl Replay {
    fn take(&mut self, entry: Entry, schemas: &[SchemaRef]) -> Result<()> {
        match entry {
            Entry::Opened { incarnation } => self.incarnations = incarnation + 1,
            Entry::Block { input, bytes } => {
                let Some(schema) = schemas.get(input as usize) else {
                    return Err(Error::Bytes {
                        what: "a journal".into(),
                        message: format!("a block is of input {input}, and there is none"),
                    });
                };
                let block = Block::from_bytes(&bytes, schema, Vec::new())?;
                self.blocks.insert(block.meta.id, (input, Arc::new(block)));
            }
            Entry::Cut { batch, blocks } => drop(self.cuts.insert(batch, blocks)),
            Entry::Committed { batch } => drop(self.committed.insert(batch)),
        }
        Ok(())
    }

    fn metas(&self, batch: BatchTime, ids: &[BlockId]) -> Result<Vec<BlockMeta>> {
        let meta = |id: &BlockId| match self.blocks.get(id) {
            Some((_, block)) => Ok(block.meta),
            None => Err(Error::Bytes {
                what: "a journal".into(),
                message: format!("batch {batch} has block {id}, which it does not have"),
            }),
        };
        ids.iter().map(meta).collect()
    }
}

impl Durable {
    /// Takes a directory, and reads what is in it. `program` is this program; its partitions count only
    /// where there was none before.
    pub(crate) fn open(
        dir: &Path,
        every: u64,
        mut program: Program,
        schemas: &[SchemaRef],
    ) -> Result<(Arc<Self>, Restored)> {
        let lock = DirLock::take(dir)?;
        let mut restored = Restored::default();
        if let Some((manifest, states)) = checkpoint::newest(dir)? {
            program.check(&manifest.program)?;
            program.partitions = manifest.program.partitions;
            restored.partitions = Some(program.partitions);
            restored.incarnation = manifest.incarnation + 1;
            restored.state = Some((manifest.batch(), states));
            let marks = manifest.marks.into_iter();
            restored.marks = marks
                .map(|(input, name, last)| ((input, name), last))
                .collect();
            restored.marks_of_state = restored.marks.clone();
        }
        let found = read(dir)?;
        if found.torn > 0 {
            let bytes = found.torn;
            tracing::info!(bytes, "the journal's end was never synced, and is cut");
        }
        let mut replay = Replay::default();
        for (_, entry) in found.entries {
            replay.take(entry, schemas)?;
        }
        restored.incarnation = restored.incarnation.max(replay.incarnations);
        let journal = Journal::open(dir, found.last)?;
        journal.append(Entry::Opened {
            incarnation: restored.incarnation,
        });
        let tickets = restored.go_on(replay)?;
        let durable = Durable {
            dir: dir.to_owned(),
            _lock: lock,
            journal,
            every: every.max(1),
            incarnation: restored.incarnation,
            program,
            tickets: Mutex::new(tickets),
        };
        Ok((Arc::new(durable), restored))
    }
}

impl Restored {
    /// What was taken of an input, by producer.
    pub fn positions(&self, input: u32) -> BTreeMap<String, u64> {
        let marks = self.marks.iter().filter(|((of, _), _)| *of == input);
        marks
            .map(|((_, producer), last)| (producer.clone(), *last))
            .collect()
    }

    /// Where the controller goes on, and what is needed of the journal.
    fn go_on(&mut self, mut replay: Replay) -> Result<Tickets> {
        let state = self.state.as_ref().map(|(batch, _)| *batch);
        let of_state: BTreeSet<BlockId> = match state {
            Some(batch) => (replay.cuts.range(..=batch).flat_map(|(_, blocks)| blocks))
                .copied()
                .collect(),
            None => BTreeSet::new(),
        };
        replay.blocks.retain(|id, _| !of_state.contains(id));
        replay.cuts.retain(|batch, _| Some(*batch) > state);
        let mut tickets = Tickets::default();
        let mut uncut: HashMap<BlockId, BlockMeta> = HashMap::new();
        for (id, (input, block)) in &replay.blocks {
            uncut.insert(*id, block.meta);
            tickets.blocks.insert(*id, Ticket::EARLIER);
            for (producer, last) in &block.marks {
                let known = self
                    .marks
                    .entry((*input, producer.to_string()))
                    .or_default();
                *known = (*known).max(*last);
            }
        }
        let controller = &mut self.controller;
        controller.last_committed = state;
        controller.last_cut = state;
        for (batch, ids) in &replay.cuts {
            let metas = replay.metas(*batch, ids)?;
            for id in ids {
                uncut.remove(id);
            }
            let first = Ticket::EARLIER;
            tickets.batches.insert(*batch, (ids.clone(), first));
            controller.last_cut = Some(*batch);
            if replay.committed.contains(batch) {
                controller.last_committed = Some(*batch);
                self.committed.push((*batch, metas));
            } else {
                controller.pending.push((*batch, metas));
            }
        }
        controller.uncut = uncut.into_values().collect();
        controller.uncut.sort_unstable_by_key(|block| block.id);
        self.blocks = replay.blocks.into_values().collect();
        Ok(tickets)
    }
}
