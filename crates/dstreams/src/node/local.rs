//! [`LocalWorkers`]: receivers and tasks in the process of the master.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use dstreams_control::durable::CheckpointedBlocks;
use dstreams_control::{BatchTime, BlockId, BlockMeta, Due, ReceiverId};
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::durability::of_master;
use super::mailbox::Mailbox;
use super::receivers::{NewReceiver, Receivers};
use super::source::open_source;
use super::workers::{Usage, Workers};
use crate::blocks::{Block, BlockStore, Budget};
use crate::checkpoint::Durable;
use crate::checkpoint::location::Store;
use crate::checkpoint::manifest::{Manifest, state_file};
use crate::checkpoint::recover::Restored;
use crate::checkpoint::set_aside::{Blocks, RecoverySource};
use crate::checkpoint::writer;
use crate::checkpoint::writer::{CONCURRENT_READS, CheckpointPlan, Writing, blocking, on_disk};
use crate::commit::Dataset;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::execute::{Job, LocalEngine, PreviousBatch, StateInstaller};
use crate::plan::split::{split_blocks, tasks_for};
use crate::plan::{Partitions, Plans};
use crate::program::Description;
use crate::receive::Intake;
use crate::state::{StateMemoryBudget, States};

/// Receivers, blocks and tasks of one process.
pub(super) struct LocalWorkers {
    receivers: Arc<Receivers>,
    store: Arc<BlockStore>,
    engine: Arc<LocalEngine>,
    plans: Plans,
    /// Replaced when the state is recovered.
    states: Mutex<Arc<States>>,
    config: Config,
    /// The input of each receiver, including those of earlier processes.
    inputs: HashMap<ReceiverId, usize>,
}

impl LocalWorkers {
    /// Plans the graph, opens the sources and runs them; resumes from what an earlier process left, if there is a
    /// directory. Also returns the addresses they listen on.
    pub async fn start(
        parts: &mut Description,
        mailbox: Mailbox,
        persisted: Option<(&Arc<Durable>, &Restored)>,
    ) -> Result<(Self, BTreeMap<String, SocketAddr>)> {
        let restored = persisted.map(|(_, restored)| restored);
        let config = &parts.config;
        let partitions = restored.and_then(Restored::partitions);
        let partitions = partitions.unwrap_or(config.threads);
        let plans = parts.plans(partitions)?;
        let states = new_states(&plans, config, partitions)?;
        if let Some((manifest, store)) = restored.and_then(|restored| restored.state.as_ref()) {
            load_all(store, manifest, &states).await?;
        }
        let engine = Arc::new(LocalEngine::new(config)?);
        let store = Arc::new(BlockStore::default());
        let budget = Budget::new(config.block_memory);
        let receivers = Receivers::new(config, budget).with_clock(&parts.clock);
        let durability = of_master(&store, &mailbox, persisted.map(|(durable, _)| durable));
        let intakes = (0..).zip(parts.inputs()).map(|(input, (name, schema))| {
            let receiver = NewReceiver::of_master(input, restored);
            receivers.add(receiver, (&name, schema), &durability)
        });
        let intakes: Vec<Arc<Intake>> = intakes.collect();
        let of = |(at, intake): (usize, &Arc<Intake>)| (intake.receiver(), at);
        let mut inputs: HashMap<_, _> = intakes.iter().enumerate().map(of).collect();
        for (input, block) in restored.iter().flat_map(|restored| &restored.blocks) {
            inputs.insert(block.meta.id.receiver, *input as usize);
            store.insert(Arc::clone(block));
        }
        if let Some(at) = parts.dead_letter_input {
            receivers.take_dead_letters(&intakes[at]);
        }
        let mut addresses = BTreeMap::new();
        let mut sources = std::mem::take(&mut parts.sources);
        let mut opened = Ok(());
        let mut running = sources.len();
        for (at, (source, intake)) in sources.iter_mut().zip(&intakes).enumerate() {
            match open_source(source.as_mut(), intake).await {
                Ok(address) => {
                    addresses.extend(address.map(|address| (intake.stream.clone(), address)))
                }
                Err(error) => {
                    (opened, running) = (Err(error), at);
                    receivers.close();
                    break;
                }
            }
        }
        for (source, intake) in sources.into_iter().zip(&intakes).take(running) {
            receivers.run(source, intake, &parts.listeners);
        }
        if let Err(error) = opened {
            // Open sources are closed as at the end of a program: their addresses are free when this returns.
            receivers.end().await;
            return Err(error);
        }
        let workers = LocalWorkers {
            receivers: Arc::new(receivers),
            store,
            inputs,
            engine,
            plans,
            states: Mutex::new(states),
            config: parts.config.clone(),
        };
        Ok((workers, addresses))
    }
}

impl LocalWorkers {
    fn states(&self) -> Arc<States> {
        Arc::clone(&self.states.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn block_of(&self, meta: &BlockMeta) -> Result<(u32, Arc<Block>)> {
        let input = self.inputs.get(&meta.id.receiver).copied();
        let block = self.store.get(meta.id);
        let block = block.ok_or(Error::LostBlock { block: meta.id })?;
        Ok((input.unwrap_or_default() as u32, block))
    }
}

/// Empty states.
pub(super) fn new_states(plans: &Plans, config: &Config, partitions: usize) -> Result<Arc<States>> {
    let room = StateMemoryBudget::of(config, config.spill_dir.clone())?;
    let states = States::new(plans.states.clone(), partitions, room)?;
    Ok(Arc::new(states))
}

/// Runs a batch with these blocks over states; returns the rows of each output.
pub(super) async fn run_on(
    engine: &Arc<LocalEngine>,
    plans: &Plans,
    config: &Config,
    states: &Arc<States>,
    (batch, before): (BatchTime, Option<PreviousBatch>),
    blocks: &Blocks,
) -> Result<Vec<Option<Partitions>>> {
    let rows = blocks.iter().map(|(_, block)| block.meta.rows).sum();
    let tasks = tasks_for(rows, config.rows_per_task, plans.tasks);
    let template = Arc::clone(plans.of(tasks > 1));
    let mut inputs: Vec<Vec<Arc<Block>>> = vec![Vec::new(); template.inputs.len()];
    for (input, block) in blocks {
        inputs[*input as usize].push(Arc::clone(block));
    }
    let inputs = inputs
        .iter()
        .map(|blocks| Arc::new(split_blocks(blocks, tasks)));
    let job = Job {
        batch,
        before,
        inputs: inputs.collect(),
        template,
        installs: Arc::clone(states) as Arc<dyn StateInstaller>,
    };
    Ok(engine.run(job).await?.0)
}

/// Loads all partitions from a checkpoint, several at once: each needs memory for the bytes of its file beside its
/// state.
async fn load_all(store: &Store, manifest: &Manifest, states: &Arc<States>) -> Result<()> {
    let partitions = 0..manifest.program.partitions;
    let loads = partitions.map(|partition| {
        let (store, states) = (store.clone(), Arc::clone(states));
        let sources = manifest.sources(partition);
        blocking(move |runtime| writer::load(&store, runtime, &states, partition, &sources))
    });
    let loads = futures::stream::iter(loads).buffer_unordered(CONCURRENT_READS);
    loads.try_for_each(|()| async { Ok(()) }).await
}

#[async_trait]
impl Workers for LocalWorkers {
    fn plans(&self) -> &Plans {
        &self.plans
    }

    fn receivers(&self) -> Vec<ReceiverId> {
        self.receivers.ids()
    }

    fn seal(&self, batch: BatchTime) {
        self.receivers.seal(batch, self.receivers.is_closing());
    }

    fn close(&self) {
        self.receivers.close();
    }

    fn stop_waiting(&self) {
        self.receivers.stop_waiting();
    }

    async fn run(
        &self,
        batch: BatchTime,
        before: Option<PreviousBatch>,
        _attempt: u32,
        blocks: &[BlockMeta],
    ) -> Result<Vec<Option<Dataset>>> {
        let blocks: Result<Blocks> = blocks.iter().map(|meta| self.block_of(meta)).collect();
        let blocks = blocks?;
        let outputs = run_on(
            &self.engine,
            &self.plans,
            &self.config,
            &self.states(),
            (batch, before),
            &blocks,
        )
        .await?;
        Ok(outputs
            .into_iter()
            .map(|rows| rows.map(Dataset::Rows))
            .collect())
    }

    async fn due(&self, after: BatchTime) -> Result<Option<Due>> {
        Ok(self.states().all_due(after))
    }

    async fn block(&self, block: BlockMeta) -> Result<(u32, Arc<Block>)> {
        self.block_of(&block)
    }

    async fn recover_state(&self, from: RecoverySource) -> Result<()> {
        let begun = Instant::now();
        let states = new_states(&self.plans, &self.config, self.plans.tasks)?;
        if let Some((manifest, store)) = &from.state {
            load_all(store, manifest, &states).await?;
        }
        let mut batches = from.sequence(self.config.interval.as_millis() as u64);
        for batch in &from.batches {
            let blocks = from.blocks(batch).await?;
            let batch = batch.batch;
            run_on(
                &self.engine,
                &self.plans,
                &self.config,
                &states,
                (batch, batches.next(batch)),
                &blocks,
            )
            .await?;
        }
        // Failed attempts that are still running install into the old states.
        *self.states.lock().unwrap_or_else(PoisonError::into_inner) = states;
        let (batches, took) = (from.batches.len(), begun.elapsed());
        tracing::info!(batches, ?took, "the state was recovered");
        Ok(())
    }

    fn forget(&self, _batch: BatchTime, blocks: &[BlockId]) {
        self.store.forget(blocks);
    }

    async fn table(&self, state: usize, batch: BatchTime) -> Result<Vec<Vec<RecordBatch>>> {
        let (partitions, states) = (0..self.plans.tasks, self.states());
        // Reads all rows, some of which may be in files.
        on_disk(async move {
            let rows = partitions.map(|partition| states.table(state, partition, batch));
            rows.collect()
        })
        .await
    }

    fn capture(&self, plan: &CheckpointPlan) -> Result<Writing> {
        let captured = self.states().capture(plan.since.iter().enumerate())?;
        let name = state_file(plan.tried, &plan.incarnation.to_string());
        let store = plan.store.clone();
        let write = blocking(move |runtime| writer::write(&store, runtime, name, captured));
        Ok(write.boxed())
    }

    fn checkpointed(&self, batch: BatchTime, _blocks: &CheckpointedBlocks) {
        self.states().checkpointed(batch);
    }

    async fn end(&self, _failed: bool) {
        self.receivers.end().await;
        self.store.clear();
    }

    fn usage(&self) -> Usage {
        Usage {
            rejected: self.plans.rejected(),
            ..self.receivers.usage(self.store.len())
        }
    }
}
