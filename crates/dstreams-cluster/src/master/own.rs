//! [`Own`]: the inputs that the master itself receives.

use std::sync::Arc;

use dstreams::cluster::{
    BlockStore, Budget, DeadLetters, Durable, Intake, Lane, Mailbox, Parts, Restored, Seal,
    open_source, run_source,
};
use dstreams::{BatchTime, Closing, Ingest, Result};
use dstreams_control::{Event, ReceiverId};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::calls::is_own;
use super::hub::Hub;

/// See the module.
pub struct Own {
    intakes: Vec<Arc<Intake>>,
    store: Arc<BlockStore>,
    mailbox: Mailbox,
    /// Where the program is kept: what makes its blocks safe.
    lanes: Vec<mpsc::UnboundedSender<Seal>>,
    running: TaskTracker,
    running_lanes: TaskTracker,
}

impl Own {
    /// Opens the inputs and runs them, after an earlier process where one left something.
    pub async fn begin(
        parts: &mut Parts,
        hub: &Hub,
        store: &Arc<BlockStore>,
        closing: &Closing,
        kept: Option<(&Arc<Durable>, &Restored)>,
    ) -> Result<Self> {
        let budget = Budget::new(parts.config.block_memory);
        let mut own = Own {
            intakes: Vec::new(),
            store: Arc::clone(store),
            mailbox: hub.mailbox.clone(),
            lanes: Vec::new(),
            running: TaskTracker::new(),
            running_lanes: TaskTracker::new(),
        };
        let sources = std::mem::take(&mut parts.sources);
        let inputs = parts.inputs().into_iter().zip(sources);
        for (at, ((name, schema), mut source)) in (0u32..).zip(inputs) {
            if !is_own(hub.inputs[at as usize].kind) {
                continue;
            }
            let (budget, dead) = (budget.clone(), DeadLetters::default());
            let first = kept.map_or(0, |(_, restored)| restored.first_receiver());
            let receiver = ReceiverId(first + at);
            let intake = Intake::new(receiver, &name, schema, &parts.config, budget, dead);
            let intake = Arc::new(match kept {
                Some((_, restored)) => intake.with_copies().with_positions(restored.positions(at)),
                None => intake,
            });
            hub.is_own(receiver, at);
            open_source(source.as_mut(), &intake).await?;
            if let Some((durable, _)) = kept {
                own.lane(at, &intake, durable);
            }
            let ingest = Ingest::of(Arc::clone(&intake));
            let listeners = parts.listeners.clone();
            own.running
                .spawn(run_source(source, ingest, closing.clone(), listeners));
            own.intakes.push(intake);
        }
        own.running.close();
        Ok(own)
    }

    fn lane(&mut self, input: u32, intake: &Arc<Intake>, durable: &Arc<Durable>) {
        let lane = Lane {
            input,
            intake: Arc::clone(intake),
            store: Arc::clone(&self.store),
            durable: Arc::clone(durable),
            mailbox: self.mailbox.clone(),
        };
        let (seals, asked) = mpsc::unbounded_channel();
        self.running_lanes.spawn(lane.run(asked));
        self.lanes.push(seals);
    }

    pub fn receivers(&self) -> Vec<ReceiverId> {
        let receivers = self.intakes.iter().map(|intake| intake.receiver());
        receivers.collect()
    }

    /// Has every receiver seal what it has, and answer.
    pub fn seal(&self, batch: BatchTime, last: bool) {
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

    /// Waits until the sources have pushed what they had.
    pub async fn closed(&self) {
        self.running.wait().await;
    }

    /// What no batch will take goes; where the program is kept, the next process has it.
    pub async fn end(&self) {
        for seals in &self.lanes {
            let (batch, last) = (BatchTime(u64::MAX), true);
            let _ = seals.send(Seal { batch, last });
        }
        self.running_lanes.close();
        self.running_lanes.wait().await;
        self.intakes
            .iter()
            .for_each(|intake| drop(intake.seal(true)));
    }
}
