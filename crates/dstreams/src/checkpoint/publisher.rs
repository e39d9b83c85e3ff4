//! [`Publisher`]: the newest checkpoint, and how the next one replaces it.

use std::sync::Mutex;

use dstreams_control::BatchTime;
use dstreams_control::durable::CheckpointedBlocks;

use super::location::Store;
use super::manifest::Manifest;
use super::writer::{CheckpointPlan, Writing, write_offsets};
use super::{lock, offsets};
use crate::crash::point;
use crate::error::{Error, Result};
use crate::journal::{DirLock, Owner};

/// The newest checkpoint of a program, and where the next one is written.
pub(super) struct Publisher {
    store: Store,
    owner: Owner,
    /// Whether a process before this one may still run.
    is_shared: bool,
    /// The newest checkpoint, or an empty one.
    newest: Mutex<Manifest>,
    /// A manifest whose write was reported as failed.
    unconfirmed: Mutex<Option<Manifest>>,
}

impl Publisher {
    /// The checkpoints in this place, up to the newest.
    pub fn new(store: Store, lock: &DirLock, newest: Manifest) -> Self {
        Publisher {
            store,
            owner: lock.owner().clone(),
            is_shared: lock.has_standbys(),
            newest: Mutex::new(newest),
            unconfirmed: Mutex::default(),
        }
    }

    /// This process, as the owner of the directory.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The number of the newest checkpoint; 0 if there is none.
    pub fn number(&self) -> u64 {
        lock(&self.newest).number
    }

    /// The newest checkpoint and its store, if there is one.
    pub fn newest(&self) -> Option<(Manifest, Store)> {
        let newest = lock(&self.newest).clone();
        (newest.number > 0).then(|| (newest, self.store.clone()))
    }

    /// Whether the next checkpoint needs all offsets.
    pub fn needs_all_offsets(&self) -> bool {
        !lock(&self.newest).offsets_can_be_incremental()
    }

    /// The contents of the next checkpoint, as of a batch.
    pub fn plan(
        &self,
        (batch, checkpointed_blocks): (BatchTime, CheckpointedBlocks),
        tried: u64,
        incarnation: u64,
    ) -> CheckpointPlan {
        let newest = lock(&self.newest);
        // Each process before this one may have been stopped before it published its first, and still do that.
        let skipped = match self.is_shared {
            true => incarnation.saturating_sub(newest.incarnation),
            false => 0,
        };
        CheckpointPlan {
            batch,
            checkpointed_blocks,
            number: newest.number + 1 + skipped,
            tried,
            incarnation,
            store: self.store.clone(),
            since: newest.since(newest.program.partitions),
        }
    }

    /// Writes a checkpoint and publishes it. It is the newest one then, and earlier ones are removed.
    pub async fn write(
        &self,
        plan: &CheckpointPlan,
        (offsets, whole): (Vec<offsets::Written>, bool),
        states: Writing,
    ) -> Result<()> {
        let written = states.await?;
        let offsets = write_offsets(plan, &offsets, whole).await?;
        let mut next = lock(&self.newest).clone().next(plan, written)?;
        offsets.into_iter().for_each(|file| next.add_offsets(file));
        next.covered = plan.checkpointed_blocks.clone();
        // A fenced process may still write state files; no manifest names them.
        self.owner.check()?;
        match self.store.publish(&next.name(), next.to_bytes()?).await {
            Ok(true) => point("checkpoint:visible"),
            Ok(false) => return self.follow(&next.name()).await,
            Err(error) => {
                // It may have been written nevertheless; then the next attempt with this number finds it.
                *lock(&self.unconfirmed) = Some(next);
                return Err(error);
            }
        }
        // A process that was stopped meanwhile: another one may go on from the checkpoint before this one.
        self.owner.check()?;
        *lock(&self.newest) = next.clone();
        // I11 (ARCHITECTURE.md): the new manifest is visible.
        next.remove_others(&self.store, &self.owner).await
    }

    /// A checkpoint of this name exists. If it is ours, reported as failed, the next attempt follows it.
    async fn follow(&self, name: &str) -> Result<()> {
        let ours = lock(&self.unconfirmed).clone();
        let there = self.store.read(name, None).await?;
        let path = self.store.path(name).display().to_string();
        let message = match ours {
            Some(ours) if ours.name() == name && ours.to_bytes()? == there => {
                *lock(&self.newest) = ours;
                format!(
                    "{path} exists, though the write was reported as failed; the next checkpoint follows it"
                )
            }
            _ => format!(
                "{path} already exists: another program writes its checkpoints to the same place"
            ),
        };
        Err(Error::Checkpoints { message })
    }
}
