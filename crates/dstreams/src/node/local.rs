//! [`ThisProcess`]: receivers and tasks in the process of the master.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use dstreams_control::{BatchTime, BlockId, BlockMeta, Event, ReceiverId};
use futures::FutureExt;
use tokio_util::task::TaskTracker;

use super::listener::Listener;
use super::parts::Parts;
use super::workers::{Held, Mailbox, Workers};
use crate::batch::{split, tasks_for};
use crate::error::{BoxError, Error, Result};
use crate::execute::{Installs, Job, LocalEngine};
use crate::plan::{Partitions, Plans};
use crate::receive::{Block, Budget, Closing, DeadLetters, Ingest, Intake, Source};
use crate::replicate::BlockStore;
use crate::state::Windows;
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
    installs: Arc<dyn Installs>,
    rows_per_task: usize,
    mailbox: Mailbox,
}

impl ThisProcess {
    /// Plans the graph, opens the sources and runs them. Also returns where they listen.
    pub async fn start(
        parts: &mut Parts,
        mailbox: Mailbox,
    ) -> Result<(Self, BTreeMap<String, SocketAddr>)> {
        let config = &parts.config;
        let plans = parts.plans(config.threads)?;
        let windows = Windows::new(plans.windows.clone(), config.threads)?;
        let engine = Arc::new(LocalEngine::new(config)?);
        let budget = Budget::new(config.block_memory);
        let dead_letters = DeadLetters::default();
        let intakes = parts.inputs().into_iter().enumerate();
        let intakes = intakes.map(|(at, (name, schema))| {
            let (budget, dead) = (budget.clone(), dead_letters.clone());
            let receiver = ReceiverId(at as u32);
            Arc::new(Intake::new(receiver, &name, schema, config, budget, dead))
        });
        let intakes: Vec<Arc<Intake>> = intakes.collect();
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
            store: Arc::default(),
            budget,
            dead_letters,
            closing,
            sources: running,
            engine,
            plans,
            installs: Arc::new(windows),
            rows_per_task: config.rows_per_task,
            mailbox,
        };
        Ok((workers, addresses))
    }
}

#[async_trait]
impl Workers for ThisProcess {
    fn receivers(&self) -> Vec<ReceiverId> {
        (0..self.intakes.len() as u32).map(ReceiverId).collect()
    }

    /// When receivers are closing, once they have pushed what they had.
    fn seal(self: Arc<Self>, batch: BatchTime) {
        if !self.closing.is_requested() {
            return seal_all(
                &self.intakes,
                Intake::seal,
                &self.store,
                batch,
                &self.mailbox,
            );
        }
        tokio::spawn(async move {
            self.sources.wait().await;
            let seal = Intake::seal_last;
            seal_all(&self.intakes, seal, &self.store, batch, &self.mailbox);
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
    ) -> Result<Vec<Option<Partitions>>> {
        let rows = blocks.iter().map(|block| block.rows).sum();
        let tasks = tasks_for(rows, self.rows_per_task, self.plans.tasks);
        let template = Arc::clone(self.plans.of(tasks > 1));
        let mut inputs: Vec<Vec<Arc<Block>>> = vec![Vec::new(); template.inputs.len()];
        for meta in blocks {
            let Some(block) = self.store.get(meta.id) else {
                return Err(Error::LostBlock { block: meta.id });
            };
            inputs[meta.id.receiver.0 as usize].push(block);
        }
        let inputs = inputs.iter().map(|blocks| Arc::new(split(blocks, tasks)));
        let job = Job {
            batch,
            inputs: inputs.collect(),
            template,
            installs: Arc::clone(&self.installs),
        };
        Ok(self.engine.run(job).await?.0)
    }

    fn forget(&self, _batch: BatchTime, blocks: &[BlockId]) {
        self.store.forget(blocks);
    }

    /// What no batch will take gives its memory back, and whoever pushes is told.
    fn end(&self) {
        self.intakes
            .iter()
            .for_each(|intake| drop(intake.seal_last()));
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

fn seal_all(
    intakes: &[Arc<Intake>],
    seal: impl Fn(&Intake) -> Vec<Arc<Block>>,
    store: &BlockStore,
    batch: BatchTime,
    mailbox: &Mailbox,
) {
    for (at, intake) in intakes.iter().enumerate() {
        let blocks = seal(intake);
        let metas = blocks.iter().map(|block| block.meta).collect();
        blocks.into_iter().for_each(|block| store.insert(block));
        mailbox.send(Event::Reported {
            batch,
            receiver: ReceiverId(at as u32),
            blocks: metas,
        });
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
