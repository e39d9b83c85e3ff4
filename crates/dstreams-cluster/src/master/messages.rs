//! Handles the messages of workers.

use std::sync::Arc;

use dstreams_control::cluster::{ClusterEvent, StoredBlock, WorkerId};
use dstreams_control::{BatchTime, Event};

use super::hub::{Hub, HubState, Restoring};
use crate::link::{BlockReport, ToMaster, ToWorker};

impl Hub {
    /// Grants a producer's claim, once earlier losses of receivers are durable in the journal.
    pub(super) fn grant(&self, state: &HubState, worker: WorkerId, grant: ToWorker) {
        let (Some(durable), Some(gone)) = (self.durable.get(), state.gone) else {
            return state.say(worker, &grant);
        };
        let Some(link) = state.workers.get(&worker).map(|worker| worker.link.clone()) else {
            return;
        };
        let durable = Arc::clone(durable);
        tokio::spawn(async move {
            // If this fails, the next commit ends the program.
            // I3 (ARCHITECTURE.md).
            if durable.synced(gone).await.is_ok() {
                link.say(&grant);
            }
        });
    }

    /// Records blocks that a worker has stored: the offsets of their producers go into the next checkpoint.
    fn stored(&self, blocks: Vec<BlockReport>) -> Vec<StoredBlock> {
        if let Some(durable) = self.durable.get() {
            for block in &blocks {
                let marks = block.marks.iter();
                let marks = marks.map(|(input, by, last)| ((*input, by.clone()), *last));
                durable.stored(block.meta.id, marks);
            }
        }
        blocks.into_iter().map(Into::into).collect()
    }

    /// Handles a message of a worker.
    pub fn hear(&self, id: WorkerId, message: ToMaster) {
        match message {
            ToMaster::Stored { blocks } => {
                let blocks = self.stored(blocks);
                self.step(ClusterEvent::Stored { worker: id, blocks });
            }
            ToMaster::Hear { number } => self.say(id, &ToWorker::Heard { number }),
            ToMaster::Reported {
                batch,
                receiver,
                blocks,
            } => self.mailbox.send(Event::Reported {
                batch,
                receiver,
                blocks,
            }),
            ToMaster::Fenced { lost, blocks } => self.step(ClusterEvent::Fenced {
                worker: id,
                lost: WorkerId(lost),
                blocks: self.stored(blocks),
            }),
            ToMaster::Retired { blocks } => self.step(ClusterEvent::Retired {
                worker: id,
                blocks: self.stored(blocks),
            }),
            ToMaster::CopyFailed { block, to } => self.step(ClusterEvent::CopyFailed {
                block,
                to: WorkerId(to),
            }),
            ToMaster::Claim {
                input,
                producer,
                token,
            } => self.claim(id, input, producer, token),
            ToMaster::Revoked {
                input,
                producer,
                grant,
                last,
            } => self.step(ClusterEvent::Revoked {
                worker: id,
                input,
                producer: producer.into(),
                token: grant,
                last,
            }),
            ToMaster::Installed {
                partition,
                version,
                copy,
            } => self.installed(id, partition, version, Some(copy)),
            ToMaster::StateCopyFailed { partition, copy } => {
                self.step(ClusterEvent::StateCopyFailed {
                    partition,
                    to: id,
                    copy,
                });
            }
            ToMaster::InstallFailed { partition, batch } => {
                // It is behind until it gets a new copy of the state; unless it has become the primary
                // and has run the batch itself.
                if self.version(id, partition) < Some(batch) {
                    self.lock().behind.insert((id, partition), batch);
                    self.changed();
                }
            }
            ToMaster::RestoreFailed { partition, message } => {
                self.restore_failed(id, partition, &message);
            }
            ToMaster::Taken { checkpoint } => {
                self.checkpoints.taken(id, checkpoint);
                self.changed();
            }
            ToMaster::Written {
                checkpoint,
                written,
            } => {
                self.checkpoints.written(id, checkpoint, written);
                self.changed();
            }
            ToMaster::Listening { input, address } => {
                self.lock().listening.insert(input, address);
                self.changed();
            }
            ToMaster::SourceEnded { input, failure } => self.source_ended(id, input, failure),
            ToMaster::PartsGone { input, parts } => {
                let parts: Vec<Arc<str>> = parts.into_iter().map(Into::into).collect();
                if let Some(durable) = self.durable.get() {
                    durable.forget(input, &parts);
                }
                self.step(ClusterEvent::PartsGone { input, parts });
            }
            ToMaster::Holds(holds) => {
                if let Some(worker) = self.lock().workers.get_mut(&id) {
                    worker.holds = holds;
                }
            }
            ToMaster::Hello { .. } | ToMaster::Join { .. } | ToMaster::Ready => {}
        }
    }

    /// A worker could not read its part of a checkpoint: the program ends.
    fn restore_failed(&self, worker: WorkerId, partition: u32, message: &str) {
        tracing::error!(%worker, partition, message, "cannot restore state");
        let message = format!("state could not be made from one: {message}");
        let error = dstreams::Error::Checkpoints { message };
        self.end_with_error(&mut self.lock(), error);
        self.changed();
    }

    /// A worker asks for the right to take the records of a producer.
    fn claim(&self, worker: WorkerId, input: u32, producer: String, token: u64) {
        let mut state = self.lock();
        state.next_claim += 1;
        let number = state.next_claim;
        state.claims.insert(number, (worker, token));
        let claim = ClusterEvent::Claim {
            input,
            producer: producer.into(),
            worker,
            token: number,
        };
        // The order of the numbers is the order of the claims.
        self.step_in(&mut state, claim);
        drop(state);
        self.changed();
    }

    /// A source that ran on a worker has ended.
    fn source_ended(&self, worker: WorkerId, input: u32, failure: Option<String>) {
        self.step(ClusterEvent::SourceEnded { input });
        let Some(input) = self.inputs.get(input as usize) else {
            return;
        };
        let stream = &input.name;
        let Some(failure) = failure else {
            return self.listeners.iter().for_each(|l| l.source_ended(stream));
        };
        tracing::error!(%worker, stream, failure, "source ended");
        let error = dstreams::Error::Source {
            stream: stream.clone(),
            cause: dstreams::BoxError::from(failure).into(),
        };
        self.listeners
            .iter()
            .for_each(|l| l.source_failed(stream, &error));
    }

    /// Records that a worker has a partition of state as of a batch. Without `copy`, it is the primary that ran
    /// the tasks, and started from the copy that it reported last.
    pub fn installed(&self, id: WorkerId, partition: u32, version: BatchTime, copy: Option<u64>) {
        let copy = {
            let mut state = self.lock();
            let restoring = state.restoring.get(&partition).map(|it| it.copy);
            if copy.is_some_and(|copy| restoring.is_some_and(|wanted| wanted != copy)) {
                return; // about a state that it had before
            }
            let known = state.installed.get(&(id, partition)).map(|(_, copy)| *copy);
            // A new copy lacks nothing, nor does a state on which the batch's tasks ran, or that has the missed batch:
            // a later batch is never installed on top of a gap.
            let missed = state.behind.get(&(id, partition));
            if copy.is_none() || copy != known || missed.is_some_and(|missed| *missed <= version) {
                state.behind.remove(&(id, partition));
            }
            let copy = copy.or(known).unwrap_or_default();
            let made = |it: &Restoring| it.copy == copy && it.batch <= version;
            if state.restoring.get(&partition).is_some_and(made) {
                state.restoring.remove(&partition);
            }
            state.installed.insert((id, partition), (version, copy));
            copy
        };
        self.step(ClusterEvent::Installed {
            worker: id,
            partition,
            version,
            copy,
        });
    }
}
