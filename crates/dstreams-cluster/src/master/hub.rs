//! [`Hub`]: where the master's tasks meet the cluster. They report events to it, and wait for its changes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dstreams::internal::{Description, Durable, Mailbox, Restored};
use dstreams::{Error, Listener};
use dstreams_control::Event;
use dstreams_control::cluster::{ClusterEvent, StoredBlock, WorkerId};
use tokio::sync::watch;
use tonic::Status;

use super::cluster_state::ClusterState;
use super::inputs::{InputOf, config, inputs_of};
use crate::link::{BlockReport, ToMaster, ToWorker};

/// The state of a cluster, with its changes and the messages of its workers.
pub struct Hub {
    pub mailbox: Mailbox,
    pub inputs: Vec<InputOf>,
    /// Listeners for the ends of sources.
    listeners: Vec<Arc<dyn Listener>>,
    /// Number of workers that store each block, and that follow each partition's primary.
    copies: (usize, usize),
    /// The most disconnected producers to remember, of all streams together.
    producers: usize,
    // Lock order L1 in ARCHITECTURE.md: before the locks of `Durable` and `BatchStates`.
    state: Mutex<ClusterState>,
    /// Counts changes of the state.
    changes: watch::Sender<u64>,
}

impl Hub {
    pub fn new(parts: &Description, copies: (usize, usize), mailbox: Mailbox) -> Self {
        let inputs = inputs_of(parts);
        let state = ClusterState::new(config(&inputs, copies, 0), mailbox.clone());
        Hub {
            mailbox,
            inputs,
            listeners: parts.listeners.clone(),
            copies,
            producers: parts.config.producers,
            state: Mutex::new(state),
            changes: watch::Sender::new(0),
        }
    }

    /// Sets the number of partitions of state and the restored data of an earlier process, before any worker joins.
    pub fn begin(&self, partitions: usize, persisted: Option<(&Arc<Durable>, &Restored)>) {
        let mut config = config(&self.inputs, self.copies, partitions as u32);
        config.max_producers = self.producers;
        let mut state = self.lock();
        if let Some((durable, restored)) = persisted {
            config.first_receiver = restored.first_receiver() + self.inputs.len() as u64;
            config.producer_offsets = restored.producer_offsets().collect();
            config.restored = restored.batch();
            config.journals = true;
            state.durable = Some(Arc::clone(durable));
            state.receivers.add_of_masters(restored.receivers());
            if let Some(batch) = restored.batch() {
                let sources = |partition| restored.sources(partition);
                let all = (0..partitions as u32).map(|partition| (partition, 1));
                state.versions.restore(all, batch, sources);
            }
        }
        state.configure(config);
    }

    /// The state now. A change that others may wait for goes through [`change`](Self::change).
    pub fn lock(&self) -> MutexGuard<'_, ClusterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes all waiters.
    pub fn change<T>(&self, change: impl FnOnce(&mut ClusterState) -> T) -> T {
        let done = change(&mut self.lock());
        self.changed();
        done
    }

    /// Passes an event to the cluster state machine, carries out its commands, and wakes all waiters.
    pub fn step(&self, event: ClusterEvent) {
        self.change(|state| state.step(event));
    }

    /// Wakes all waiters, since something has changed.
    pub fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Waits until `what` returns a value. It runs under the lock.
    pub async fn until<T>(&self, mut what: impl FnMut(&ClusterState) -> Option<T>) -> T {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let found = what(&self.lock());
            if let Some(found) = found {
                return found;
            }
            // Cannot fail: `self` owns the sender.
            let _ = changes.changed().await;
        }
    }

    /// Sends a message to every worker that has joined.
    pub fn broadcast(&self, message: &ToWorker) {
        self.lock().roster.broadcast(message);
    }

    /// Stops acting on events. Workers end too, unless another process `resumes` the program.
    pub fn end(&self, resumes: bool) {
        self.change(|state| {
            state.end();
            if !resumes {
                for (_, worker) in state.roster.all() {
                    worker.link.send(&ToWorker::End);
                }
            }
        });
    }

    /// Moves a worker's blocks and state to others, then ends it. Returns when it is drained, or lost meanwhile.
    ///
    /// Fails if there is no such worker or no other one that stays, or if blocks have one copy only: the records that
    /// it acknowledges last would be lost.
    pub async fn drain(&self, worker: WorkerId) -> Result<(), Status> {
        if self.copies.0 < 2 {
            return Err(Status::failed_precondition(
                "this cluster stores one copy of each block, so the last blocks of the worker would be lost with it; \
                 stop the program, or start it with two copies",
            ));
        }
        self.change(|state| {
            state.roster.drain(worker)?;
            state.step(ClusterEvent::Drain { worker });
            Ok::<_, Status>(())
        })?;
        self.until(|state| state.roster.may_leave(worker).then_some(()))
            .await;
        Ok(())
    }

    /// Handles a message of a worker.
    pub fn handle(&self, id: WorkerId, message: ToMaster) {
        match message {
            ToMaster::Stored { blocks } => {
                let blocks = self.stored(blocks);
                self.step(ClusterEvent::Stored { worker: id, blocks });
            }
            ToMaster::Hear { number } => self.lock().roster.send(id, &ToWorker::Heard { number }),
            ToMaster::Reported {
                batch,
                receiver,
                blocks,
            } => self.mailbox.send(Event::Reported {
                batch,
                receiver,
                blocks,
            }),
            ToMaster::Fenced { lost, blocks } => {
                let (lost, blocks) = (WorkerId(lost), self.stored(blocks));
                self.step(ClusterEvent::Fenced {
                    worker: id,
                    lost,
                    blocks,
                });
            }
            ToMaster::Retired { blocks } => {
                let blocks = self.stored(blocks);
                self.step(ClusterEvent::Retired { worker: id, blocks });
            }
            ToMaster::CopyFailed { block, to } => self.step(ClusterEvent::CopyFailed {
                block,
                to: WorkerId(to),
            }),
            ToMaster::Claim {
                input,
                producer,
                token,
            } => self.change(|state| state.claim(id, input, producer, token)),
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
            } => self.change(|state| state.installed(id, partition, version, Some(copy))),
            ToMaster::StateCopyFailed { partition, copy } => {
                self.step(ClusterEvent::StateCopyFailed {
                    partition,
                    to: id,
                    copy,
                });
            }
            ToMaster::InstallFailed { partition, batch } => {
                self.change(|state| state.versions.miss(id, partition, batch));
            }
            ToMaster::RestoreFailed { partition, message } => {
                self.restore_failed(id, partition, &message);
            }
            ToMaster::Taken { checkpoint } => {
                self.change(|state| state.round.taken(id, checkpoint));
            }
            ToMaster::Written {
                checkpoint,
                written,
            } => self.change(|state| state.round.written(id, checkpoint, written)),
            ToMaster::Listening { input, address } => {
                self.change(|state| state.receivers.listens(input, address));
            }
            ToMaster::SourceEnded { input, failure } => self.source_ended(id, input, failure),
            ToMaster::PartsGone { input, parts } => {
                let parts: Vec<Arc<str>> = parts.into_iter().map(Into::into).collect();
                if let Some(durable) = self.durable() {
                    durable.forget(input, &parts);
                }
                self.step(ClusterEvent::PartsRemoved { input, parts });
            }
            ToMaster::Holds(usage) => self.lock().roster.usage(id, usage),
            ToMaster::Hello { .. }
            | ToMaster::Join { .. }
            | ToMaster::Ready
            | ToMaster::Answer { .. } => {}
        }
    }

    /// The state directory, if there is one. Work on it does not need the lock.
    pub fn durable(&self) -> Option<Arc<Durable>> {
        self.lock().durable.clone()
    }

    /// Records blocks that a worker has stored: the offsets of their producers go into the next checkpoint.
    fn stored(&self, blocks: Vec<BlockReport>) -> Vec<StoredBlock> {
        if let Some(durable) = self.durable() {
            for block in &blocks {
                let marks = block.marks.iter();
                let marks = marks.map(|(input, by, last)| ((*input, by.clone()), *last));
                durable.stored(block.meta.id, marks);
            }
        }
        blocks.into_iter().map(Into::into).collect()
    }

    /// A worker could not read its part of a checkpoint: the program ends.
    fn restore_failed(&self, worker: WorkerId, partition: u32, message: &str) {
        tracing::error!(%worker, partition, message, "cannot restore state");
        let message = format!("state could not be made from one: {message}");
        self.change(|state| state.end_with_error(Error::Checkpoints { message }));
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
        let error = Error::Source {
            stream: stream.clone(),
            cause: dstreams::BoxError::from(failure).into(),
        };
        self.listeners
            .iter()
            .for_each(|l| l.source_failed(stream, &error));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use dstreams::internal::Inbox;
    use dstreams::{Clients, StreamContext};
    use futures::StreamExt;
    use futures::executor::block_on;

    use super::*;
    use crate::link::channel;
    use crate::master::roster::Worker;

    #[test]
    fn a_lost_worker_does_not_join() {
        let mut ctx = StreamContext::new(Duration::from_secs(1)).unwrap();
        let (_, lines) = ctx.queue::<String>("lines");
        lines.for_each_rdd(|_| ());
        let inbox = Inbox::new();
        let hub = Hub::new(&Description::of(ctx).unwrap(), (2, 1), inbox.mailbox());
        let mut state = hub.lock();
        let add = |state: &mut ClusterState| {
            let id = state.roster.number();
            state.roster.add(id, Worker::unlinked());
            id
        };
        let gone = add(&mut state);
        state.lose(gone);
        state.join(gone);
        assert_eq!(state.machine().workers().count(), 0);
        let there = add(&mut state);
        assert_ne!(there, gone);
        state.join(there);
        assert_eq!(state.machine().workers().collect::<Vec<_>>(), [there]);
        state.lose(there);
        assert_eq!(state.machine().workers().count(), 0);
    }

    #[test]
    fn a_worker_that_joins_while_the_program_stops_is_told_so_first() {
        let mut ctx = StreamContext::new(Duration::from_secs(1)).unwrap();
        let clients = Clients::listen("127.0.0.1:0");
        ctx.clients::<String>("lines", &clients)
            .for_each_rdd(|_| ());
        let inbox = Inbox::new();
        let hub = Hub::new(&Description::of(ctx).unwrap(), (2, 1), inbox.mailbox());
        let (link, said) = channel();
        let id = hub.change(|state| {
            state.stop(ToWorker::Close);
            let id = state.roster.number();
            let worker = Worker {
                link,
                ..Worker::unlinked()
            };
            state.roster.add(id, worker);
            state.join(id);
            id
        });
        drop(hub);
        let messages: Vec<_> = block_on(said.collect());
        let names = messages.iter().map(|frame| {
            let message: ToWorker = serde_json::from_slice(&frame.app_metadata).unwrap();
            format!("{message:?}")
        });
        let names: Vec<String> = names.collect();
        let at = |name: &str| names.iter().position(|message| message.starts_with(name));
        assert_eq!(at("Close"), Some(0), "{id}: {names:?}");
        assert!(at("Receive").is_some(), "{names:?}");
    }
}
