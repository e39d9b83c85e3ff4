//! Carries out the commands of the cluster state machine: each is a message to a worker or to the master's loop.

use std::sync::Arc;

use dstreams_control::cluster::{ClusterCommand, WorkerId};
use dstreams_control::{Event, ReceiverId};

use super::hub::{Hub, HubState, lost_state};
use crate::link::ToWorker;

impl Hub {
    /// Carries out a command, under the lock.
    pub(super) fn carry_out(&self, state: &mut HubState, command: ClusterCommand) {
        match command {
            ClusterCommand::Receive {
                worker,
                input,
                receiver,
                positions,
            } => self.receive(state, worker, (input, receiver), &positions),
            ClusterCommand::Peer { worker, to } => {
                let to = to.and_then(|to| Some((to.0, state.address(to)?)));
                state.say(worker, &ToWorker::Peer { to });
            }
            ClusterCommand::Fence { at, lost } => {
                state.say(at, &ToWorker::Fence { lost: lost.0 });
            }
            ClusterCommand::Gone { receiver, blocks } => {
                if let Some(durable) = self.durable.get() {
                    state.gone = Some(durable.gone(receiver, &blocks));
                }
                self.mailbox.send(Event::Left { receiver, blocks });
            }
            ClusterCommand::Copy { block, from, to } => {
                let address = state.address(to).unwrap_or_default();
                let to = to.0;
                state.say(from, &ToWorker::Copy { block, to, address });
            }
            ClusterCommand::Drop { worker, blocks } => {
                state.say(worker, &ToWorker::Drop { blocks });
            }
            ClusterCommand::BlockLost { block } => {
                tracing::error!(%block, "all replicas of a block are lost");
                self.blocks_lost(state, || format!("block {block} is"));
            }
            ClusterCommand::SurvivorsUnknown { lost } => {
                self.blocks_lost(state, || format!("blocks of worker {lost} may be"));
            }
            ClusterCommand::Grant {
                token,
                worker,
                last,
            } => {
                if let Some((_, token)) = state.claims.remove(&token) {
                    self.grant(state, worker, ToWorker::Grant { token, last });
                }
            }
            ClusterCommand::Refuse { token, worker } => {
                if let Some((_, token)) = state.claims.remove(&token) {
                    state.say(worker, &ToWorker::Refuse { token });
                }
            }
            ClusterCommand::Revoke {
                worker,
                input,
                producer,
                token,
            } => {
                let revoke = ToWorker::Revoke {
                    input,
                    producer: producer.to_string(),
                    grant: token,
                };
                state.say(worker, &revoke);
            }
            ClusterCommand::Assign {
                partition,
                holder,
                standby,
                next,
            } => {
                tracing::debug!(partition, %holder, ?standby, ?next, "partition assigned");
                restore(state, partition, holder);
            }
            ClusterCommand::CopyState {
                partition,
                from,
                to,
                copy,
            } => {
                let from = state.address(from).unwrap_or_default();
                let copy_state = ToWorker::CopyState {
                    partition,
                    from,
                    copy,
                };
                state.say(to, &copy_state);
            }
            ClusterCommand::StateLost { partition, copy } => {
                match state.restoring.get_mut(&partition) {
                    Some(restoring) => restoring.copy = copy,
                    None if state.remaking.is_some() => state.remaking = Some(true),
                    None => self.end_with_error(state, lost_state(partition)),
                }
            }
            ClusterCommand::Retire { worker } => state.say(worker, &ToWorker::Retire),
            ClusterCommand::Drained { worker } => {
                tracing::info!(%worker, "drained");
                state.drained.insert(worker);
            }
        }
    }

    /// Has a worker run the receiver of an input.
    fn receive(
        &self,
        state: &mut HubState,
        worker: WorkerId,
        (input, receiver): (u32, ReceiverId),
        positions: &[(Arc<str>, u64)],
    ) {
        let positions = positions.iter().map(|(part, at)| (part.to_string(), *at));
        let receive = ToWorker::Receive {
            input,
            receiver,
            positions: positions.collect(),
        };
        state.say(worker, &receive);
        state.receivers.entry(worker).or_default().insert(receiver);
        self.mailbox.send(Event::Joined { receiver });
    }
}

/// Has the primary of a partition take its state from a checkpoint, where the program has just begun.
fn restore(state: &mut HubState, partition: u32, primary: WorkerId) {
    if let Some(restoring) = state.restoring.get(&partition) {
        let restore = ToWorker::Restore {
            partition,
            batch: restoring.batch,
            sources: restoring.sources.clone(),
            copy: restoring.copy,
        };
        state.say(primary, &restore);
    }
}
