//! From what is on disk to where a program goes on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::{BatchTime, BlockId, BlockMeta};

use super::fit::StateChanges;
use super::manifest::{Manifest, Program, StateId, StateParts};
use super::marks::Marks;
use super::store::Store;
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
    /// The checkpoint, and where it is.
    pub state: Option<(Manifest, Store)>,
    /// Blocks that the state does not have, with their inputs.
    pub blocks: Vec<(u32, Arc<Block>)>,
    /// Batches after the checkpoint that took effect, in order.
    pub committed: Vec<(BatchTime, Vec<BlockMeta>)>,
    pub controller: dstreams_control::Restored,
    /// By input: the last of each producer that is in the state or in a block.
    pub marks: BTreeMap<(u32, String), u64>,
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

/// Where a program is kept.
#[derive(Clone)]
pub struct Kept {
    /// The journal, and checkpoints if they are nowhere else.
    pub dir: PathBuf,
    pub checkpoints: Option<Store>,
    pub changes: StateChanges,
}

impl Kept {
    /// All in one directory.
    pub fn at(dir: PathBuf) -> Self {
        Kept {
            dir,
            checkpoints: None,
            changes: StateChanges::default(),
        }
    }

    /// Where checkpoints are.
    pub fn store(&self) -> Store {
        let here = || Store::Dir(self.dir.clone());
        self.checkpoints.clone().unwrap_or_else(here)
    }
}

impl Manifest {
    /// Before the first checkpoint.
    fn of_nothing(program: Program, states: Vec<StateId>) -> Self {
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
            files: Vec::new(),
            states: states.collect(),
            program,
        }
    }
}

impl Durable {
    /// Takes a directory, and reads what is in it and, if they are elsewhere, what is in the place of
    /// checkpoints. `program` is this program; its partitions count only where there was none before.
    pub(crate) async fn open(
        kept: &Kept,
        every: u64,
        program: Program,
        states: Vec<StateId>,
        schemas: &[SchemaRef],
    ) -> Result<(Arc<Self>, Restored)> {
        let dir = &kept.dir;
        let lock = DirLock::take(dir)?;
        let store = kept.store();
        let mut restored = Restored::default();
        let newest = match Manifest::newest(&store).await? {
            Some(written) => {
                let manifest = written.fit(&program, &states, &kept.changes)?;
                restored.partitions = Some(manifest.program.partitions);
                restored.incarnation = manifest.incarnation + 1;
                let marks = manifest.marks.iter().cloned();
                restored.marks = marks
                    .map(|(input, name, last)| ((input, name), last))
                    .collect();
                restored.state = Some((manifest.clone(), store.clone()));
                manifest
            }
            None => Manifest::of_nothing(program, states),
        };
        newest.remove_others(&store).await?;
        let marks = Marks::of(restored.marks.clone());
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
        let mut durable = Durable {
            store,
            _lock: lock,
            journal,
            every: every.max(1),
            incarnation: restored.incarnation,
            newest: Mutex::new(newest),
            tickets: Mutex::new(tickets),
            marks: Mutex::new(marks),
        };
        let marks = durable
            .marks
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for (input, block) in &restored.blocks {
            marks.received(*input, block);
        }
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
        let state = self.state.as_ref().map(|(manifest, _)| manifest.batch());
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
