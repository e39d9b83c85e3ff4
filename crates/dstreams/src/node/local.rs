//! [`ThisProcess`]: receivers and tasks in the process of the master.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use dstreams_control::durable::Covered;
use dstreams_control::{BatchTime, BlockId, BlockMeta, Event, ReceiverId};
use futures::FutureExt;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::durable::Durable;
use super::durable::checkpoint::{self, CheckpointPlan, Writing};
use super::durable::manifest::{Manifest, state_file};
use super::durable::restore::Restored;
use super::durable::store::Store;
use super::lane::{Lane, Seal};
use super::listener::Listener;
use super::parts::Parts;
use super::workers::{Held, Mailbox, Workers};
use crate::batch::{split, tasks_for};
use crate::commit::Dataset;
use crate::error::{BoxError, Error, Result};
use crate::execute::{Installs, Job, LocalEngine};
use crate::plan::Plans;
use crate::receive::{Block, Budget, Closing, DeadLetters, Ingest, Intake, Source};
use crate::replicate::BlockStore;
use crate::state::{StateTable, States};
use crate::stream::rows::panic_message;

/// Receivers, blocks and tasks of one process.
pub(super) struct ThisProcess {
    intakes: Vec<Arc<Intake>>,
    store: Arc<BlockStore>,
    budget: Budget,
    dead_letters: DeadLetters,
    closing: Closing,
    sources: TaskTracker,
    engine: Arc<LocalEngine>,
    plans: Plans,
    states: Arc<States>,
    rows_per_task: usize,
    mailbox: Mailbox,
    /// The input of each receiver, those of earlier processes included.
    inputs: HashMap<ReceiverId, usize>,
    /// Where there is a journal.
    lanes: Vec<mpsc::UnboundedSender<Seal>>,
    running_lanes: TaskTracker,
}

impl ThisProcess {
    /// Plans the graph, opens the sources and runs them; with what an earlier process left, where there is a
    /// directory for that. Also returns where they listen.
    pub async fn start(
        parts: &mut Parts,
        mailbox: Mailbox,
        kept: Option<(Arc<Durable>, &Restored)>,
    ) -> Result<(Self, BTreeMap<String, SocketAddr>)> {
        let (durable, restored) = kept.unzip();
        let config = &parts.config;
        let partitions = restored.and_then(|restored| restored.partitions);
        let partitions = partitions.unwrap_or(config.threads);
        let plans = parts.plans(partitions)?;
        let states = States::new(plans.states.clone(), partitions)?;
        let states = Arc::new(states);
        if let Some((manifest, store)) = restored.and_then(|restored| restored.state.as_ref()) {
            load_all(store, manifest, &states).await?;
        }
        let engine = Arc::new(LocalEngine::new(config)?);
        let budget = Budget::new(config.block_memory);
        let dead_letters = DeadLetters::default();
        let names = parts.inputs();
        // Receivers of each process have names of their own: their blocks may be in one batch.
        let first = restored.map_or(0, Restored::first_receiver);
        let intakes = names.into_iter().enumerate();
        let intakes = intakes.map(|(at, (name, schema))| {
            let (budget, dead) = (budget.clone(), dead_letters.clone());
            let receiver = ReceiverId(first + at as u32);
            let intake = Intake::new(receiver, &name, schema, config, budget, dead);
            Arc::new(match restored {
                Some(restored) => intake
                    .with_copies()
                    .with_positions(restored.positions(at as u32)),
                None => intake,
            })
        });
        let intakes: Vec<Arc<Intake>> = intakes.collect();
        let of = |(at, intake): (usize, &Arc<Intake>)| (intake.receiver(), at);
        let mut inputs: HashMap<_, _> = intakes.iter().enumerate().map(of).collect();
        let store = Arc::new(BlockStore::default());
        for (input, block) in restored.iter().flat_map(|restored| &restored.blocks) {
            inputs.insert(block.meta.id.receiver, *input as usize);
            store.insert(Arc::clone(block));
        }
        let (mut lanes, running_lanes) = (Vec::new(), TaskTracker::new());
        for (intake, durable) in intakes.iter().zip(durable.iter().cycle()) {
            let lane = Lane {
                input: lanes.len() as u32,
                intake: Arc::clone(intake),
                store: Arc::clone(&store),
                durable: Arc::clone(durable),
                mailbox: mailbox.clone(),
            };
            let (seals, asked) = mpsc::unbounded_channel();
            running_lanes.spawn(lane.run(asked));
            lanes.push(seals);
        }
        if let Some(at) = parts.dead_letter_input {
            dead_letters.connect(Arc::clone(&intakes[at]));
        }
        let mut addresses = BTreeMap::new();
        let mut sources = std::mem::take(&mut parts.sources);
        for (source, intake) in sources.iter_mut().zip(&intakes) {
            let address = open_source(source.as_mut(), intake).await?;
            addresses.extend(address.map(|address| (intake.stream.clone(), address)));
        }
        let closing = Closing::default();
        let running = TaskTracker::new();
        for (source, intake) in sources.into_iter().zip(&intakes) {
            let (closing, listeners) = (closing.clone(), parts.listeners.clone());
            running.spawn(run_source(
                source,
                Ingest(Arc::clone(intake)),
                closing,
                listeners,
            ));
        }
        running.close();
        let workers = ThisProcess {
            intakes,
            store,
            inputs,
            lanes,
            running_lanes,
            budget,
            dead_letters,
            closing,
            sources: running,
            engine,
            plans,
            states,
            rows_per_task: config.rows_per_task,
            mailbox,
        };
        Ok((workers, addresses))
    }
}

/// Takes all partitions from a checkpoint, several at once.
async fn load_all(store: &Store, manifest: &Manifest, states: &Arc<States>) -> Result<()> {
    let partitions = 0..manifest.program.partitions;
    let loads = partitions.map(|partition| {
        let (store, states) = (store.clone(), Arc::clone(states));
        let sources = manifest.sources(partition);
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            runtime.block_on(checkpoint::load(&store, &states, partition, &sources))
        })
    });
    for load in loads.collect::<Vec<_>>() {
        load.await.map_err(|_| Error::NotRunning)??;
    }
    Ok(())
}

#[async_trait]
impl Workers for ThisProcess {
    fn receivers(&self) -> Vec<ReceiverId> {
        let receivers = self.intakes.iter().map(|intake| intake.receiver());
        receivers.collect()
    }

    /// When receivers are closing, once they have pushed what they had.
    fn seal(self: Arc<Self>, batch: BatchTime) {
        if !self.closing.is_requested() {
            return self.seal_all(batch, false);
        }
        tokio::spawn(async move {
            self.sources.wait().await;
            self.seal_all(batch, true);
        });
    }

    fn close(&self) {
        self.budget.lift();
        self.closing.request();
    }

    async fn run(
        &self,
        batch: BatchTime,
        _after: Option<BatchTime>,
        _attempt: u32,
        blocks: &[BlockMeta],
    ) -> Result<Vec<Option<Dataset>>> {
        let rows = blocks.iter().map(|block| block.rows).sum();
        let tasks = tasks_for(rows, self.rows_per_task, self.plans.tasks);
        let template = Arc::clone(self.plans.of(tasks > 1));
        let mut inputs: Vec<Vec<Arc<Block>>> = vec![Vec::new(); template.inputs.len()];
        for meta in blocks {
            let Some(block) = self.store.get(meta.id) else {
                return Err(Error::LostBlock { block: meta.id });
            };
            let input = self.inputs.get(&meta.id.receiver).copied();
            inputs[input.unwrap_or_default()].push(block);
        }
        let inputs = inputs.iter().map(|blocks| Arc::new(split(blocks, tasks)));
        let job = Job {
            batch,
            inputs: inputs.collect(),
            template,
            installs: Arc::clone(&self.states) as Arc<dyn Installs>,
        };
        let outputs = self.engine.run(job).await?.0.into_iter();
        Ok(outputs.map(|rows| rows.map(Dataset::Rows)).collect())
    }

    fn forget(&self, _batch: BatchTime, blocks: &[BlockId]) {
        self.store.forget(blocks);
    }

    fn tables(&self, batch: BatchTime) -> Result<Vec<StateTable>> {
        self.states.tables(batch)
    }

    fn capture(&self, plan: &CheckpointPlan) -> Result<Option<Writing>> {
        let mut captured = Vec::new();
        for (partition, since) in plan.since.iter().enumerate() {
            let of = self.states.capture(partition, since)?;
            captured.extend(of.into_iter().map(|captured| (partition, captured)));
        }
        let name = state_file(plan.number, &plan.incarnation.to_string());
        let store = plan.store.clone();
        let write = async move {
            let written = checkpoint::write(&store, name, captured).await?;
            Ok(written.into_iter().collect())
        };
        Ok(Some(write.boxed()))
    }

    fn covered(&self, batch: BatchTime, _blocks: &Covered) {
        let partitions = 0..self.plans.tasks;
        partitions.for_each(|partition| self.states.covered(partition, batch));
    }

    /// What no batch will take gives its memory back, and whoever pushes is told; where there is a journal,
    /// it is there for the next process.
    async fn end(&self) {
        for seals in &self.lanes {
            let (batch, last) = (BatchTime(u64::MAX), true);
            let _ = seals.send(Seal { batch, last });
        }
        self.running_lanes.close();
        self.running_lanes.wait().await;
        self.intakes
            .iter()
            .for_each(|intake| drop(intake.seal(true)));
        self.store.clear();
    }

    fn held(&self) -> Held {
        Held {
            block_memory: self.budget.used(),
            blocks: self.store.len(),
            dead_letters: self.dead_letters.counts(),
        }
    }
}

impl ThisProcess {
    /// Has every receiver seal: its lane where there is a journal.
    fn seal_all(&self, batch: BatchTime, last: bool) {
        for seals in &self.lanes {
            // A lane ends with its last seal.
            let _ = seals.send(Seal { batch, last });
        }
        if !self.lanes.is_empty() {
            return;
        }
        for intake in &self.intakes {
            self.mailbox.send(Event::Reported {
                batch,
                receiver: intake.receiver(),
                blocks: self.store.seal(intake, last),
            });
        }
    }
}

/// Opens a source; returns where it listens, if it does.
pub async fn open_source(
    source: &mut dyn Source,
    intake: &Arc<Intake>,
) -> Result<Option<SocketAddr>> {
    source.connect(&Ingest(Arc::clone(intake)));
    let opened = source.open().await;
    opened.map_err(|error| source_error(&intake.stream, error))
}

fn source_error(stream: &str, error: BoxError) -> Error {
    Error::Source {
        stream: stream.to_owned(),
        cause: error.into(),
    }
}

/// Runs a source to its end; an error or a panic is told to the listeners.
pub async fn run_source(
    source: Box<dyn Source>,
    ingest: Ingest,
    closing: Closing,
    listeners: Vec<Arc<dyn Listener>>,
) {
    let stream = ingest.stream().to_owned();
    let ran = AssertUnwindSafe(source.run(ingest, closing.clone()))
        .catch_unwind()
        .await;
    let ended = ran.unwrap_or_else(|panic| Err(panic_message(&*panic).into()));
    if let Err(error) = ended {
        let error = source_error(&stream, error);
        tracing::error!(%error, "source ended");
        listeners
            .iter()
            .for_each(|l| l.source_failed(&stream, &error));
    } else if !closing.is_requested() {
        listeners.iter().for_each(|l| l.source_ended(&stream));
    }
}
