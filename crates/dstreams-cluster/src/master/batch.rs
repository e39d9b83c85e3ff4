//! [`Remote`]: carries out the controller's decisions on the workers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use dstreams::arrow::array::RecordBatch;
use dstreams::internal::{
    Block, BlockStore, CheckpointPlan, Dataset, Earlier, Plans, Receivers, Usage, Workers, Writing,
    tasks_for,
};
use dstreams::{Error, Result};
use dstreams_control::cluster::ClusterEvent;
use dstreams_control::durable::Covered;
use dstreams_control::{BatchTime, BlockId, BlockMeta, ReceiverId};

use super::batch_state::{Snapshot, states};
use super::cluster_state::ClusterState;
use super::hub::Hub;
use super::state_versions::lost_state;
use crate::data::Peers;
use crate::execute::{ClusterEngine, session_config};
use crate::link::ToWorker;
use crate::plan::check;
use crate::plan::{Binding, Gate, Job, Shapes, Way};
use crate::retry::retryable;
use crate::worker::engine_name;

/// How long a batch is retried here after failures of machines and of the engine, before they cost it an attempt:
/// longer than it takes to notice a loss.
pub(super) const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause before a retry: the first, and the longest.
pub(super) const PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// The [`Workers`] of a cluster: carries out the controller's decisions on other machines.
pub struct Remote {
    pub hub: Arc<Hub>,
    pub engine: ClusterEngine,
    pub plans: Arc<Plans>,
    pub peers: Peers,
    pub rows_per_task: usize,
    /// Address at which this process serves its own blocks.
    pub address: String,
    pub own: Arc<Receivers>,
    pub store: Arc<BlockStore>,
    pub shapes: Shapes,
    /// The newest committed batch. A later one that was already installed can run again on a state without it.
    pub committed: Mutex<Option<BatchTime>>,
    /// By output: its name, if workers prepare it.
    pub sinks: Vec<Option<String>>,
    /// Number of this process among those of the state directory, if there is one.
    pub incarnation: Option<u64>,
}

impl Remote {
    pub fn has_state(&self) -> bool {
        !self.plans.states.is_empty()
    }

    pub(super) fn committed_mut(&self) -> MutexGuard<'_, Option<BatchTime>> {
        self.committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub fn committed(&self) -> Option<BatchTime> {
        *self.committed_mut()
    }

    /// Reads a state from its primaries; fails if one has changed meanwhile: its rows may not be those of the batch.
    async fn read_state(&self, state: usize, batch: BatchTime) -> Result<Vec<Vec<RecordBatch>>> {
        let snapshot = self.snapshot(Some(batch)).await;
        let rows = self.state(state, batch, &snapshot).await?;
        let state = self.hub.lock();
        let now = state.holders(snapshot.holders.len());
        let mut all = snapshot.holders.iter().zip(now);
        match all.all(|(then, now)| now.is_some_and(|now| now.holder == then.holder)) {
            true => Ok(rows),
            false => Err(retryable("a partition of the state has moved")),
        }
    }

    async fn run_for(
        &self,
        batch: BatchTime,
        after: Option<BatchTime>,
        attempt: u32,
        wanted: (&[BlockMeta], Wanted),
    ) -> Result<Vec<Option<Dataset>>> {
        let over = self.hub.until(|state| {
            let stuck = || Some(lost_state(self.stuck(state)?));
            state
                .broken()
                .or_else(|| self.has_state().then(stuck).flatten())
        });
        tokio::select! {
            done = self.run_here(batch, after, attempt, wanted) => done,
            error = over => Err(error),
        }
    }

    async fn run_here(
        &self,
        batch: BatchTime,
        after: Option<BatchTime>,
        attempt: u32,
        (blocks, wanted): (&[BlockMeta], Wanted),
    ) -> Result<Vec<Option<Dataset>>> {
        let (began, mut pause) = (Instant::now(), PAUSE);
        loop {
            let snapshot = self.snapshot(None).await;
            let gate = Gate::default();
            let run = self.run_jobs((batch, attempt), (blocks, wanted), &snapshot, &gate);
            tokio::pin!(run);
            let run = async {
                tokio::select! {
                    biased;
                    opened = self.open_gate(&gate, after, &snapshot) => match opened {
                        true => Some((&mut run).await),
                        false => None,
                    },
                    done = &mut run => Some(done),
                }
            };
            // Tasks on state run only on its primary; the engine moves all others to other workers.
            let done = tokio::select! {
                done = run => done,
                lost = self.hub.until(|state| snapshot.lost_holder(state)) => {
                    let message = format!("worker {lost}, the primary of a partition of state, was lost");
                    Some(Err(retryable(message)))
                }
            };
            let Some(done) = done else {
                continue;
            };
            match done {
                Err(error) if of_machines(&error) && began.elapsed() < RETRY_TIMEOUT => {
                    tracing::warn!(%batch, %error, ?pause, "retrying a batch");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
                done => return done,
            }
        }
    }

    async fn run_jobs(
        &self,
        (batch, attempt): (BatchTime, u32),
        (blocks, wanted): (&[BlockMeta], Wanted),
        snapshot: &Snapshot,
        gate: &Gate,
    ) -> Result<Vec<Option<Dataset>>> {
        let rows = blocks.iter().map(|block| block.rows).sum();
        let many = tasks_for(rows, self.rows_per_task, self.plans.tasks) > 1;
        let template = self.plans.of(many);
        let inputs = self.inputs(blocks, if many { self.plans.tasks } else { 1 })?;
        let (shape, new) = self.shapes.of(&self.plans, many, batch)?;
        let holders: Vec<_> = snapshot
            .holders
            .iter()
            .map(|h| engine_name(h.holder.0))
            .collect();
        let mut kept = HashMap::new();
        for roots in &shape.jobs {
            let binding = Binding {
                plans: &self.plans,
                many,
                batch,
                attempt,
                era: snapshot.era,
                inputs: &inputs,
                holders: &holders,
                gate,
                kept: &kept,
                names: &snapshot.names,
            };
            let job = Job::new(&shape, roots, &binding)?;
            if new {
                check(&job.plan, &session_config(self.plans.tasks))?;
            }
            let done = self.engine.run(batch, job.plan).await?;
            // Workers that joined since the run began may have run tasks too.
            let addresses: HashMap<_, _> = {
                let state = self.hub.lock();
                let workers = state.roster.all();
                let named = workers.map(|(id, w)| (engine_name(id.0), w.address.clone()));
                named.collect()
            };
            for (at, output) in job.outputs.iter().enumerate() {
                let worker = done.workers.get(&at);
                let address = worker.and_then(|name| addresses.get(name));
                let Some(address) = address else {
                    return Err(retryable(format!(
                        "the worker that ran partition {output:?} was lost"
                    )));
                };
                kept.insert(*output, address.clone());
            }
        }
        if self.has_state() {
            gate.opened().await;
            let due = states(template, &shape);
            self.install(batch, attempt, &due, snapshot).await;
        }
        let mut outputs = Vec::new();
        if wanted == Wanted::States {
            // Outputs are committed already: sinks must not prepare them again.
            return Ok(outputs);
        }
        for (at, (slot, slide)) in template.outputs.iter().enumerate() {
            if !batch.is_multiple_of(*slide) {
                outputs.push(None);
                continue;
            }
            let dataset = match (shape.ways[slot.0], inputs.get(slot.0)) {
                (Some(Way::Input), Some(input)) => {
                    Dataset::Rows(Arc::new(self.blocks(input).await?))
                }
                _ => {
                    let parts = kept.iter().filter(|((of, _), _)| *of == slot.0);
                    let mut parts: Vec<_> = parts.map(|((_, p), at)| (*p, at)).collect();
                    parts.sort_by_key(|(partition, _)| *partition);
                    self.dataset((batch, attempt), (at, slot.0), &parts).await?
                }
            };
            outputs.push(Some(dataset));
        }
        Ok(outputs)
    }
}

/// The results that a run of a batch is for.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    All,
    /// Only states: the batch has committed already.
    States,
}

/// Whether a machine or the engine failed, not the program or a sink.
fn of_machines(error: &Error) -> bool {
    let of_engine = match error {
        Error::Task { cause, .. } => &**cause,
        other => other,
    };
    let of_engine = matches!(of_engine, Error::Engine(_) | Error::Operator { .. });
    of_engine && error.is_retryable() && !error.is_of_batch()
}

#[async_trait]
impl Workers for Remote {
    fn plans(&self) -> &Plans {
        &self.plans
    }

    fn receivers(&self) -> Vec<ReceiverId> {
        self.own.ids()
    }

    fn seal(&self, batch: BatchTime) {
        let last = self.own.is_closing();
        self.hub.broadcast(&ToWorker::Seal { batch, last });
        self.own.seal(batch, last);
    }

    fn close(&self) {
        self.own.close();
        self.hub.broadcast(&ToWorker::Close);
    }

    fn hurry(&self) {
        self.own.hurry();
        self.hub.broadcast(&ToWorker::Hurry);
    }

    /// The first stages of a batch run while the previous batch finishes.
    fn max_running(&self) -> usize {
        2
    }

    /// When a worker is lost, the engine runs its tasks elsewhere; but tasks on its state cannot move, so
    /// the batch is retried with the standby.
    async fn run(
        &self,
        batch: BatchTime,
        after: Option<BatchTime>,
        attempt: u32,
        blocks: &[BlockMeta],
    ) -> Result<Vec<Option<Dataset>>> {
        self.run_for(batch, after, attempt, (blocks, Wanted::All))
            .await
    }

    async fn replay_batch(
        &self,
        batch: BatchTime,
        attempt: u32,
        blocks: &[BlockMeta],
    ) -> Result<()> {
        let wanted = (blocks, Wanted::States);
        self.run_for(batch, None, attempt, wanted).await.map(drop)
    }

    async fn block(&self, block: BlockMeta) -> Result<(u32, Arc<Block>)> {
        self.fetch_block(block).await
    }

    async fn recover_state(&self, from: Earlier) -> Result<()> {
        self.remake(from).await
    }

    fn forget(&self, batch: BatchTime, blocks: &[BlockId]) {
        *self.committed_mut() = Some(batch);
        self.hub.step(ClusterEvent::Committed { batch });
        self.hub.step(ClusterEvent::Forgotten {
            blocks: blocks.to_vec(),
        });
        let but = self.hub.lock().machine().needs();
        let slots = match but.is_empty() {
            true => Vec::new(),
            false => self.changes(),
        };
        self.hub.broadcast(&ToWorker::Forget { batch, but, slots });
        self.store.forget(blocks);
    }

    async fn table(&self, state: usize, batch: BatchTime) -> Result<Vec<Vec<RecordBatch>>> {
        let over = |state: &ClusterState| {
            let ended = || state.has_ended().then_some(Error::NotRunning);
            state.broken().or_else(ended)
        };
        tokio::select! {
            rows = self.read_state(state, batch) => rows,
            error = self.hub.until(over) => Err(error),
        }
    }

    fn capture(&self, plan: &CheckpointPlan) -> Result<Writing> {
        let partitions = if self.has_state() {
            self.plans.tasks
        } else {
            0
        };
        self.hub
            .change(|state| state.checkpoint(plan, partitions))?;
        let hub = Arc::clone(&self.hub);
        Ok(Box::pin(async move {
            hub.until(|state| state.round.done()).await
        }))
    }

    fn covered(&self, batch: BatchTime, blocks: &Covered) {
        let blocks = blocks.clone();
        self.hub.broadcast(&ToWorker::Covered { batch, blocks });
    }

    async fn end(&self, failed: bool) {
        self.own.end().await;
        self.store.clear();
        // With a state directory, workers wait for the next process, which resumes the program.
        self.hub.end(failed && self.incarnation.is_some());
    }

    fn held(&self) -> Usage {
        let mut held = self.own.held(self.store.len());
        let state = self.hub.lock();
        held.forgotten_producers += state.machine().forgotten_producers();
        for (_, worker) in state.roster.all() {
            held.blocks += worker.holds.blocks;
            held.block_memory += worker.holds.block_memory;
            for (stream, count) in &worker.holds.dead_letters {
                *held.dead_letters.entry(stream.clone()).or_default() += count;
            }
            for (operator, count) in &worker.holds.rejected {
                *held.rejected.entry(operator.clone()).or_default() += count;
            }
        }
        held
    }
}
