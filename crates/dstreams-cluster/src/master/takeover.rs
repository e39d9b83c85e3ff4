//! Recovers from losses that the copies do not cover, in a master with a state directory: it reads the journals of lost
//! workers, and rebuilds lost state.

use std::sync::Arc;

use dstreams::Error;
use dstreams::arrow::datatypes::SchemaRef;
use dstreams::internal::{Description, Durable, point};

use super::cluster_state::ClusterState;
use super::cluster_workers::{ClusterWorkers, over};
use crate::plan::states_are_chained;

/// Takes over from workers that were lost at once, until the program ends.
#[derive(Clone)]
pub struct Takeover {
    workers: Arc<ClusterWorkers>,
    durable: Arc<Durable>,
    /// The columns of each input.
    schemas: Vec<SchemaRef>,
}

impl Takeover {
    /// Begins to read journals where they are needed, before any worker joins; `None` without a state directory.
    pub fn begin(
        workers: &Arc<ClusterWorkers>,
        durable: Option<&Arc<Durable>>,
        parts: &Description,
    ) -> Option<Self> {
        let inputs = parts.inputs().into_iter();
        let takeover = Takeover {
            workers: Arc::clone(workers),
            durable: Arc::clone(durable?),
            schemas: inputs.map(|(_, schema)| schema).collect(),
        };
        tokio::spawn(takeover.clone().adopt());
        Some(takeover)
    }

    /// Rebuilds lost state from now on: the program has resumed.
    pub fn rebuild_lost_state(self) {
        let hub = &self.workers.hub;
        hub.change(|state| state.versions.recoverable = true);
        tokio::spawn(self.rebuild());
    }

    /// Reads the journals of lost workers whose blocks are stored nowhere else.
    async fn adopt(self) {
        let hub = &self.workers.hub;
        let next = |state: &ClusterState| {
            let lost = || state.adopting.first().copied().map(Ok);
            over(state).map(Err).or_else(lost)
        };
        while let Ok(lost) = hub.until(next).await {
            let store = &self.workers.batches.rows.store;
            let of = Arc::clone(hub);
            // A journal has much that no batch needs any more.
            let wanted = move |block| of.lock().machine().wants(block);
            let blocks = self
                .durable
                .adopt(lost.0, self.schemas.clone(), wanted)
                .await;
            hub.change(|state| match blocks {
                Ok(blocks) => state.adopt(lost, blocks, store),
                Err(error) => {
                    tracing::error!(worker = %lost, %error, "cannot read the journal of a lost worker");
                    state.end_with_error(error);
                }
            });
        }
    }

    /// Rebuilds the state whenever all workers that had a partition are lost.
    async fn rebuild(self) {
        let hub = &self.workers.hub;
        let states = &self.workers.batches.states;
        // Also where a worker is primary that will never have all.
        let stuck = |state: &ClusterState| {
            !state.versions.recovery.is_running() && states.stuck(state).is_some()
        };
        let lost = |state: &ClusterState| {
            let lost = state.versions.recovery.is_lost() || stuck(state);
            over(state).map(Err).or(lost.then_some(Ok(())))
        };
        while let Ok(()) = hub.until(lost).await {
            hub.change(|state| {
                if stuck(state) {
                    state.versions.recovery.lost();
                }
            });
            if let Err(error) = self.rebuild_once().await {
                if over(&hub.lock()).is_some() {
                    return;
                }
                tracing::error!(%error, "cannot rebuild the state");
                hub.change(|state| state.end_with_error(error));
            }
        }
    }

    /// Rebuilds the state as of the last commit, once no batch is about to be committed.
    async fn rebuild_once(&self) -> Result<(), Error> {
        let hub = &self.workers.hub;
        let ready = |state: &ClusterState| {
            let recovery = &state.versions.recovery;
            // Or a batch was set aside meanwhile, and the state rebuilt for that.
            let ready = recovery.may_begin() || !recovery.is_lost();
            over(state).map(Err).or(ready.then_some(Ok(())))
        };
        hub.until(ready).await?;
        let _alone = self.workers.rebuilds.lock().await;
        if !hub.lock().versions.recovery.may_begin() {
            return Ok(());
        }
        let states = &self.workers.batches.states;
        // A primary that will never have all is not known as lost.
        let all = states.stuck(&hub.lock()).is_some() || states_are_chained(&states.plans)?;
        tracing::warn!("state is rebuilt: all workers that had a partition were lost");
        // What was committed last must be among the entries that are read.
        self.durable.flush().await?;
        let from = self.durable.recovery_source(self.schemas.clone()).await?;
        point("takeover:read");
        self.workers.rebuild(&from, all).await
    }
}
