//! Input and output rows of a batch: which task reads which, and how the master fetches them.

use std::sync::Arc;

use dstreams::arrow::array::RecordBatch;
use dstreams::internal::{Dataset, Run, split};
use dstreams::{Error, Result};
use dstreams_control::{BatchTime, BlockMeta};

use super::batch::Remote;
use super::batch_state::Snapshot;
use crate::plan::{CachedId, Part, Slice, Source};
use crate::retry::retryable;
use crate::worker::engine_name;

impl Remote {
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
        let kept = |partition| CachedId {
            batch,
            attempt,
            slot,
            partition,
        };
        if let Some(Some(name)) = self.sinks.get(output) {
            let prepare = parts
                .iter()
                .map(|(partition, at)| self.peers.prepare((output, name), kept(*partition), at));
            let prepared = futures::future::try_join_all(prepare).await?;
            return Ok(Dataset::Prepared(prepared));
        }
        let fetches = parts.iter().map(|(partition, at)| async move {
            let part = Source::Kept(kept(*partition)).into();
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
        let fetches = snapshot.holders.iter().enumerate();
        let fetches = fetches.map(|(partition, of)| async move {
            let part = Source::State {
                state,
                partition,
                batch,
            };
            let at = snapshot.addresses.get(&engine_name(of.holder.0));
            self.peers.fetch(&[part.into()], at.into_iter()).await
        });
        futures::future::try_join_all(fetches).await
    }

    /// Fetches blocks, for an output that prints an input unchanged.
    pub async fn blocks(&self, tasks: &[Vec<Slice>]) -> Result<Vec<Vec<RecordBatch>>> {
        let mut parts = Vec::new();
        for slices in tasks {
            let held = slices.iter().map(|slice| self.here(&slice.part.source));
            parts.push(self.peers.read(slices, held.collect()).await?);
        }
        Ok(parts)
    }

    /// The rows of a source, if they are in this process.
    pub fn here(&self, source: &Source) -> Option<Vec<RecordBatch>> {
        match source {
            Source::Block(id) => self.store.get(*id).map(|block| block.batches.clone()),
            Source::Kept(_) | Source::State { .. } => None,
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
