//! [`Receivers`]: the receivers of one process, from the first record to the last.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::{BatchTime, BlockMeta, ReceiverId};
use futures::FutureExt;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::durability::{Durability, ReportedWhen};
use super::lane::{Lane, Seal};
use super::source::{Sources, open_source, run_source};
use super::workers::Usage;
use crate::blocks::Budget;
use crate::checkpoint::recover::Restored;
use crate::config::Config;
use crate::debug::debug_as;
use crate::error::Error;
use crate::program::{Clock, Listener, notify};
use crate::receive::{DeadLetters, Ingest, Intake, Source, SourceTime, StopSignal};

/// How long the last blocks may take to become safe after the program has ended.
const LAST_BLOCKS_TIMEOUT: Duration = Duration::from_secs(5);

/// The receivers of one process, and the sources that push to them.
///
/// Locks: `all` is locked to add a receiver or to copy the list, and no other lock is taken meanwhile. The locks of
/// sources, dead letters and intakes are never taken together either.
pub struct Receivers {
    all: Mutex<Vec<Receiver>>,
    lanes: TaskTracker,
    sources: Sources,
    budget: Budget,
    dead_letters: DeadLetters,
    closing: StopSignal,
    config: Config,
    record_bytes: usize,
    /// The time that sources give, if it is that of the program.
    time: Option<SourceTime>,
}

/// A receiver to create.
#[derive(Debug)]
pub struct NewReceiver {
    /// Its input.
    pub input: u32,
    /// Its identity, part of the names of its blocks.
    pub id: ReceiverId,
    /// The offset of each part of its source, least recently used first.
    pub offsets: Vec<(String, u64)>,
}

impl NewReceiver {
    /// The receiver of an input in the process of the master; resumes where an earlier process ended.
    pub fn of_master(input: u32, restored: Option<&Restored>) -> Self {
        // Receivers of each process have ids of their own: blocks of several processes may be in one batch.
        let first = restored.map_or(0, Restored::first_receiver);
        let offsets = restored.map(|restored| restored.offsets(input));
        NewReceiver {
            input,
            id: ReceiverId(first + u64::from(input)),
            offsets: offsets.into_iter().flatten().collect(),
        }
    }
}

#[derive(Clone)]
struct Receiver {
    intake: Arc<Intake>,
    sealing: Sealing,
}

/// Where a request to seal goes.
#[derive(Clone)]
enum Sealing {
    /// The caller: blocks of the input are safe once they are stored.
    Asker(u32, Arc<dyn Durability>),
    Lane(mpsc::UnboundedSender<Seal>),
}

impl Receiver {
    fn seal(&self, seal: Seal) {
        match &self.sealing {
            // A lane ends with its last seal.
            Sealing::Lane(lane) => drop(lane.send(seal)),
            Sealing::Asker(input, durability) => {
                let blocks = self.intake.seal(seal.last);
                let metas: Vec<BlockMeta> = blocks.iter().map(|block| block.meta).collect();
                let stored = Arc::clone(durability).store(*input, &self.intake, blocks);
                debug_assert!(matches!(stored.now_or_never(), Some(Ok(()))));
                durability.report(seal.batch, self.intake.receiver(), metas);
            }
        }
    }
}

debug_as!(Receivers);

impl Receivers {
    /// No receivers yet, for a program with these settings; the budget is for their blocks.
    pub fn new(config: &Config, budget: Budget) -> Self {
        Receivers {
            all: Mutex::default(),
            lanes: TaskTracker::new(),
            sources: Sources::default(),
            budget,
            dead_letters: DeadLetters::default(),
            closing: StopSignal::default(),
            config: config.clone(),
            record_bytes: usize::MAX,
            time: None,
        }
    }

    /// Refuses records that are larger than `bytes`.
    pub fn with_record_bytes(mut self, bytes: usize) -> Self {
        self.record_bytes = bytes;
        self
    }

    /// Receives on this clock.
    pub fn with_clock(mut self, clock: &Clock) -> Self {
        self.time = clock.source_time().cloned();
        self
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Receiver>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Receiver> {
        self.lock().clone()
    }

    /// Adds the receiver of a stream, whose blocks `durability` makes safe.
    pub fn add(
        &self,
        receiver: NewReceiver,
        (stream, schema): (&str, SchemaRef),
        durability: &Arc<dyn Durability>,
    ) -> Arc<Intake> {
        let NewReceiver { input, id, offsets } = receiver;
        let (budget, dead) = (self.budget.clone(), self.dead_letters.clone());
        let intake = Intake::new(id, stream, schema, &self.config, budget, dead)
            .with_record_bytes(self.record_bytes)
            .with_offsets(offsets);
        let time = self.time.clone().filter(|time| time.has(input));
        let intake = match time {
            Some(time) => intake.with_time(time, input),
            None => intake,
        };
        let (intake, sealing) = match durability.reported_when() {
            ReportedWhen::Stored => {
                let sealing = Sealing::Asker(input, Arc::clone(durability));
                (Arc::new(intake), sealing)
            }
            ReportedWhen::Sealed | ReportedWhen::Safe => {
                let intake = Arc::new(intake.with_copies());
                let lane = Lane::new(input, Arc::clone(&intake), Arc::clone(durability));
                let (seals, asked) = mpsc::unbounded_channel();
                self.lanes.spawn(lane.run(asked));
                (intake, Sealing::Lane(seals))
            }
        };
        self.lock().push(Receiver {
            intake: Arc::clone(&intake),
            sealing,
        });
        intake
    }

    /// Sends dead letters to this receiver from now on.
    pub fn take_dead_letters(&self, intake: &Arc<Intake>) {
        self.dead_letters.connect(intake);
    }

    /// Runs the source that pushes to a receiver.
    pub fn run(
        &self,
        source: Box<dyn Source>,
        intake: &Arc<Intake>,
        listeners: &[Arc<dyn Listener>],
    ) {
        let ingest = Ingest(Arc::clone(intake));
        let (closing, listeners) = (self.closing.clone(), listeners.to_vec());
        let run = run_source(source, ingest, closing, listeners);
        self.sources.spawn(intake, run);
    }

    /// Opens the source that pushes to a receiver, reports the address it listens on, if any, and runs it. A source
    /// that cannot be opened has failed.
    pub fn open_and_run(
        &self,
        mut source: Box<dyn Source>,
        intake: &Arc<Intake>,
        listener: Arc<dyn Listener>,
        listens: impl FnOnce(SocketAddr) + Send + 'static,
    ) {
        let (of, closing) = (Arc::clone(intake), self.closing.clone());
        self.sources.spawn(intake, async move {
            match open_source(source.as_mut(), &of).await {
                Ok(address) => {
                    if let Some(address) = address {
                        listens(address);
                    }
                    run_source(source, Ingest(of), closing, vec![listener]).await;
                }
                Err(error) => notify(&*listener, |l| l.source_failed(&of.stream, &error)),
            }
        });
    }

    /// The ids of all receivers.
    pub fn ids(&self) -> Vec<ReceiverId> {
        let all = self.lock();
        let ids = all.iter().map(|receiver| receiver.intake.receiver());
        ids.collect()
    }

    /// Receives only what sources have accepted already; they no longer wait for memory.
    pub fn close(&self) {
        self.budget.lift();
        self.closing.request();
    }

    /// Whether no new input is accepted.
    pub fn is_closing(&self) -> bool {
        self.closing.is_requested()
    }

    /// Makes every receiver seal its open block, and answer. For the last time, each does so once its source has
    /// ended and pushed everything. The receiver of dead letters comes last, after all others.
    pub fn seal(self: &Arc<Self>, batch: BatchTime, last: bool) {
        let seal = Seal { batch, last };
        for receiver in self.all() {
            if !last {
                receiver.seal(seal);
                continue;
            }
            let this = Arc::clone(self);
            tokio::spawn(async move {
                let id = receiver.intake.receiver();
                let of_all = this.dead_letters.receiver() == Some(id);
                this.sources.ended(Some(id).filter(|_| !of_all)).await;
                receiver.seal(seal);
            });
        }
    }

    /// Stops waiting for sources that have not ended: what they have pushed is sealed, and further pushes are
    /// refused.
    pub fn stop_waiting(&self) {
        self.sources.stop_waiting();
    }

    /// The memory that they use, and their dead letters; `blocks` is the number of sealed blocks.
    pub fn usage(&self, blocks: usize) -> Usage {
        let of = |receiver: &Receiver| receiver.intake.forgotten();
        let forgotten_producers = self.lock().iter().map(of).sum();
        Usage {
            block_memory: self.budget.used(),
            blocks,
            dead_letters: self.dead_letters(),
            rejected: Default::default(),
            forgotten_producers,
        }
    }

    /// Number of dead letters of each stream.
    pub fn dead_letters(&self) -> BTreeMap<String, u64> {
        self.dead_letters.counts()
    }

    /// Releases the memory of records that no batch will contain; pushes fail from now on. If the program has a
    /// directory, the next process recovers the records. Sources end.
    pub async fn end(&self) {
        let all = self.all();
        for receiver in &all {
            if let Sealing::Lane(lane) = &receiver.sealing {
                let _ = lane.send(Seal {
                    batch: BatchTime::MAX,
                    last: true,
                });
            }
        }
        self.lanes.close();
        // The disk may be full; then nothing is acknowledged.
        let _ = tokio::time::timeout(LAST_BLOCKS_TIMEOUT, self.lanes.wait()).await;
        for Receiver { intake, .. } in &all {
            drop(intake.seal(true));
            intake.fail(Error::NotRunning);
        }
        self.sources.end().await;
        self.dead_letters.end();
    }
}

#[cfg(test)]
mod tests;
