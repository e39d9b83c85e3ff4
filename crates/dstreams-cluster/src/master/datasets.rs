//! [`BatchRows`]: input and output rows of a batch: which task reads which, and how the master fetches them.

use std::sync::Arc;
use std::time::Instant;

use dstreams::arrow::array::RecordBatch;
use dstreams::internal::{Block, BlockStore, Dataset, Run, split};
use dstreams::{Error, Result};
use dstreams_control::{BatchTime, BlockMeta, Due};

use super::batch::{PAUSE, RETRY_TIMEOUT};
use super::batch_state::Snapshot;
use super::hub::Hub;
use crate::data::Peers;
use crate::plan::{CachedId, Part, Slice, Source, due_of};
use crate::retry::retryable;
use crate::worker::engine_name;

/// The rows of batches: blocks, cached datasets and partitions of state, on workers and in this process.
pub struct BatchRows {
    pub hub: Arc<Hub>,
    pub peers: Peers,
    /// Blocks in this process.
    pub store: Arc<BlockStore>,
    /// Address at which this process serves them.
    pub address: String,
    /// By output: its name, if workers prepare it.
    pub sinks: Vec<Option<String>>,
}

impl BatchRows {
    /// The rows of each task, for each input; split by row counts alone, as on one machine.
    ///
    /// Fails if no worker has a block, or its receiver is no longer known: the block was lost.
    pub fn inputs(&self, blocks: &[BlockMeta], tasks: usize) -> Result<Vec<Vec<Vec<Slice>>>> {
        let inputs = self.hub.inputs.len();
        let mut of: Vec<Vec<(BlockMeta, Vec<String>)>> = vec![Vec::new(); inputs];
        for meta in blocks {
            let (input, mut at) = self.hub.lock().block(meta.id);
            let lost = Error::LostBlock { block: meta.id };
            if self.store.get(meta.id).is_some() {
                at.push(self.address.clone());
            }
            if at.is_empty() {
                // Or its worker was lost just now, and the one with the replica has not reported it yet.
                return Err(retryable(lost.to_string()));
            }
            of.get_mut(input as usize).ok_or(lost)?.push((*meta, at));
        }
        Ok(of.iter().map(|blocks| slices(blocks, tasks)).collect())
    }

    /// The partitions of an output's dataset: for a sink, prepared where they are stored; else their rows.
    pub async fn dataset(
        &self,
        (batch, attempt): (BatchTime, u32),
        (output, slot): (usize, usize),
        parts: &[(usize, &String)],
    ) -> Result<Dataset> {
        let cached = |partition| CachedId {
            batch,
            attempt,
            slot,
            partition,
        };
        if let Some(Some(name)) = self.sinks.get(output) {
            let prepare = parts
                .iter()
                .map(|(partition, at)| self.peers.prepare((output, name), cached(*partition), at));
            let prepared = futures::future::try_join_all(prepare).await?;
            return Ok(Dataset::Prepared(prepared));
        }
        let fetches = parts.iter().map(|(partition, at)| async move {
            let part = Source::Kept(cached(*partition)).into();
            self.peers.fetch(&[part], std::iter::once(*at)).await
        });
        let rows = futures::future::try_join_all(fetches).await?;
        Ok(Dataset::Rows(Arc::new(rows)))
    }

    /// Fetches the partitions of a state as of a batch.
    pub async fn state(
        &self,
        state: usize,
        batch: BatchTime,
        snapshot: &Snapshot,
    ) -> Result<Vec<Vec<RecordBatch>>> {
        let fetches = snapshot.assignments.iter().enumerate();
        let fetches = fetches.map(|(partition, of)| async move {
            let part = Source::State {
                state,
                partition,
                batch,
            };
            let at = snapshot.addresses.get(&engine_name(of.primary.0));
            self.peers.fetch(&[part.into()], at.into_iter()).await
        });
        futures::future::try_join_all(fetches).await
    }

    /// Asks the primaries of all partitions what is due after a batch.
    pub async fn due(&self, after: BatchTime, snapshot: &Snapshot) -> Result<Option<Due>> {
        let fetches = snapshot.assignments.iter().enumerate();
        let fetches = fetches.map(|(partition, of)| async move {
            let part = Source::Due { partition, after };
            let at = snapshot.addresses.get(&engine_name(of.primary.0));
            self.peers.fetch(&[part.into()], at.into_iter()).await
        });
        let rows = futures::future::try_join_all(fetches).await?;
        let mut first: Option<Due> = None;
        for rows in rows.iter().flatten() {
            let due = due_of(rows)?;
            first = Some(first.map_or(due, |first| first.or_earlier(due)));
        }
        Ok(first)
    }

    /// Fetches blocks, for an output that prints an input unchanged.
    pub async fn blocks(&self, tasks: &[Vec<Slice>]) -> Result<Vec<Vec<RecordBatch>>> {
        let mut parts = Vec::new();
        for slices in tasks {
            let held = slices
                .iter()
                .map(|slice| self.local_rows(&slice.part.source));
            parts.push(self.peers.read(slices, held.collect()).await?);
        }
        Ok(parts)
    }

    /// Fetches a block. Retries, since its worker may be lost meanwhile and the other replica not be known yet.
    pub async fn block(&self, meta: BlockMeta) -> Result<(u32, Arc<Block>)> {
        let began = Instant::now();
        loop {
            let (input, stored_on) = self.hub.lock().block(meta.id);
            if let Some(block) = self.store.get(meta.id) {
                return Ok((input, block));
            }
            let part = Source::Block(meta.id).into();
            let error = match self.peers.fetch(&[part], stored_on.iter()).await {
                Ok(rows) => {
                    let block = Block::new(meta.id, rows, meta.bytes as usize, Vec::new());
                    if block.meta.rows == meta.rows {
                        return Ok((input, Arc::new(block)));
                    }
                    let (has, rows) = (block.meta.rows, meta.rows);
                    return Err(Error::Bytes {
                        what: format!("block {}", meta.id),
                        message: format!("they have {has} records, and it had {rows}"),
                    });
                }
                Err(error) => error,
            };
            if let Some(broken) = self.hub.lock().broken() {
                return Err(broken);
            }
            if began.elapsed() >= RETRY_TIMEOUT {
                return Err(match stored_on.is_empty() {
                    true => Error::LostBlock { block: meta.id },
                    false => error,
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The rows of a source, if they are in this process.
    pub fn local_rows(&self, source: &Source) -> Option<Vec<RecordBatch>> {
        match source {
            Source::Block(id) => self.store.get(*id).map(|block| block.batches.clone()),
            Source::Kept(_) | Source::State { .. } | Source::Due { .. } => None,
        }
    }
}

/// The rows of blocks that each task reads.
fn slices(blocks: &[(BlockMeta, Vec<String>)], tasks: usize) -> Vec<Vec<Slice>> {
    let lengths: Vec<_> = blocks.iter().map(|(meta, _)| meta.rows).collect();
    let slice = |run: &Run| {
        let (meta, at) = &blocks[run.part];
        let part = Part {
            source: Source::Block(meta.id),
            from: run.from,
            rows: Some(run.rows),
        };
        let at = at.clone();
        Slice { part, at }
    };
    let tasks = split(&lengths, tasks);
    tasks
        .iter()
        .map(|runs| runs.iter().map(slice).collect())
        .collect()
}
