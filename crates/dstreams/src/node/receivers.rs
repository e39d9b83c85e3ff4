//! [`Receivers`]: the receivers of one process, from the first record to the last.

use std::sync::Arc;
use std::time::Duration;

use dstreams_control::{BatchTime, Event, ReceiverId};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::lane::{Lane, Seal};
use super::mailbox::Mailbox;
use super::source::{Sources, run_source};
use super::workers::Usage;
use crate::blocks::BlockStore;
use crate::blocks::Budget;
use crate::checkpoint::Durable;
use crate::checkpoint::recover::Restored;
use crate::error::Error;
use crate::program::Description;
use crate::program::Listener;
use crate::receive::{Closing, DeadLetters, Ingest, Intake, Source};

/// How long the last blocks may take to the disk when the program has ended.
const LAST_SYNC: Duration = Duration::from_secs(5);

/// The receivers of one process.
pub struct Receivers {
    intakes: Vec<Arc<Intake>>,
    store: Arc<BlockStore>,
    mailbox: Mailbox,
    /// Where the program is kept: what makes its blocks safe.
    lanes: Vec<mpsc::UnboundedSender<Seal>>,
    running_lanes: TaskTracker,
    sources: Sources,
    budget: Budget,
    dead_letters: DeadLetters,
    closing: Closing,
    record_bytes: usize,
}

impl Receivers {
    /// None yet; so many bytes is what they may hold.
    pub fn new(store: &Arc<BlockStore>, mailbox: &Mailbox, bytes: usize) -> Self {
        Receivers {
            intakes: Vec::new(),
            store: Arc::clone(store),
            mailbox: mailbox.clone(),
            lanes: Vec::new(),
            running_lanes: TaskTracker::new(),
            sources: Sources::default(),
            budget: Budget::new(bytes),
            dead_letters: DeadLetters::default(),
            closing: Closing::default(),
            record_bytes: usize::MAX,
        }
    }

    /// Records that are larger are refused.
    pub fn with_record_bytes(mut self, bytes: usize) -> Self {
        self.record_bytes = bytes;
        self
    }

    /// Adds the receiver of an input; with a lane, and what an earlier process left, where the program is kept.
    pub fn add(
        &mut self,
        input: u32,
        parts: &Description,
        kept: Option<(&Arc<Durable>, &Restored)>,
    ) -> Arc<Intake> {
        let (name, schema) = parts.inputs().swap_remove(input as usize);
        // Receivers of each process have names of their own: their blocks may be in one batch.
        let first = kept.map_or(0, |(_, restored)| restored.first_receiver());
        let receiver = ReceiverId(first + u64::from(input));
        let (budget, dead) = (self.budget.clone(), self.dead_letters.clone());
        let intake = Intake::new(receiver, &name, schema, &parts.config, budget, dead)
            .with_record_bytes(self.record_bytes);
        let intake = Arc::new(match kept {
            Some((_, restored)) => intake
                .with_copies()
                .with_positions(restored.positions(input)),
            None => intake,
        });
        if let Some((durable, _)) = kept {
            let lane = Lane {
                input,
                intake: Arc::clone(&intake),
                store: Arc::clone(&self.store),
                durable: Arc::clone(durable),
                mailbox: self.mailbox.clone(),
            };
            let (seals, asked) = mpsc::unbounded_channel();
            self.running_lanes.spawn(lane.run(asked));
            self.lanes.push(seals);
        }
        self.intakes.push(Arc::clone(&intake));
        intake
    }

    /// Dead letters go to this receiver from now on.
    pub fn take_dead_letters(&self, intake: &Arc<Intake>) {
        self.dead_letters.connect(Arc::clone(intake));
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

    /// Their names.
    pub fn ids(&self) -> Vec<ReceiverId> {
        let ids = self.intakes.iter().map(|intake| intake.receiver());
        ids.collect()
    }

    /// Takes in nothing more than sources have already; they must not wait for room any more.
    pub fn close(&self) {
        self.budget.lift();
        self.closing.request();
    }

    /// Whether nothing more is taken in.
    pub fn is_closing(&self) -> bool {
        self.closing.is_requested()
    }

    /// Has every receiver seal what it has, and answer. When they are closing, each once its source has ended: it has
    /// pushed what it had. That of dead letters is last, when all have.
    pub fn seal(self: &Arc<Self>, batch: BatchTime) {
        for at in 0..self.intakes.len() {
            if !self.is_closing() {
                self.seal_one(at, batch, false);
                continue;
            }
            let this = Arc::clone(self);
            tokio::spawn(async move {
                let receiver = this.intakes[at].receiver();
                let of_all = this.dead_letters.receiver() == Some(receiver);
                this.sources.ended(Some(receiver).filter(|_| !of_all)).await;
                this.seal_one(at, batch, true);
            });
        }
    }

    /// Sources that have not ended are waited for no longer: what they have pushed is sealed, and they can push no more.
    pub fn hurry(&self) {
        self.sources.hurry();
    }

    /// Its lane does that where there is one.
    fn seal_one(&self, at: usize, batch: BatchTime, last: bool) {
        if let Some(lane) = self.lanes.get(at) {
            // A lane ends with its last seal.
            let _ = lane.send(Seal { batch, last });
            return;
        }
        let intake = &self.intakes[at];
        self.mailbox.send(Event::Reported {
            batch,
            receiver: intake.receiver(),
            blocks: self.store.insert_all(intake.seal(last)),
        });
    }

    /// What they hold, and their dead letters.
    pub fn held(&self) -> Usage {
        Usage {
            block_memory: self.budget.used(),
            blocks: self.store.len(),
            dead_letters: self.dead_letters.counts(),
            rejected: Default::default(),
            forgotten_producers: self.intakes.iter().map(|intake| intake.forgotten()).sum(),
        }
    }

    /// What no batch will take gives its memory back, and whoever pushes gets an error; where the program is kept,
    /// the next process has it. Sources end.
    pub async fn end(&self) {
        for lane in &self.lanes {
            let _ = lane.send(Seal {
                batch: BatchTime(u64::MAX),
                last: true,
            });
        }
        self.running_lanes.close();
        // The disk may take no more; then nothing is acknowledged.
        let _ = tokio::time::timeout(LAST_SYNC, self.running_lanes.wait()).await;
        for intake in &self.intakes {
            drop(intake.seal(true));
            intake.fail(Error::NotRunning);
        }
        self.sources.end().await;
        self.dead_letters.end();
    }
}
