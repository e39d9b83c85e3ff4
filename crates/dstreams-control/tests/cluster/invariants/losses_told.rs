//! No acknowledged block vanishes silently: if a gone receiver's survivors omit one that a peer had, the block was
//! reported lost, or the worker's survivors unknown; the latter only where a worker was lost before it answered. Where
//! workers have journals, that of the lost one is read instead, once, and nothing acknowledged is missing.
//! Nothing is promised about the blocks after one that a worker without a peer acknowledged before the master heard
//! of it.

use dstreams_control::BlockId;
use dstreams_control::cluster::ClusterCommand;

use super::{Invariant, Scene, Verdict, ensure};

pub struct LossesTold;

impl Invariant for LossesTold {
    fn name(&self) -> &'static str {
        "losses-told"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        let (ledger, truth) = (scene.ledger, scene.truth);
        match command {
            ClusterCommand::SurvivorsUnknown { lost } => {
                let untold = ledger.untold.contains(lost) && !ledger.config.journals;
                ensure(untold, || format!("the survivors of {lost} are all known"))
            }
            ClusterCommand::Adopt { lost } => {
                let again = ledger.adopting.contains(lost) || ledger.adopted.contains(lost);
                ensure(!again && ledger.gone.contains(lost), || {
                    format!("the journal of {lost} is read again, or it is not lost")
                })?;
                let of_lost = |block: &BlockId| {
                    let receiver = ledger.receivers.get(&block.receiver);
                    receiver.is_some_and(|(worker, _)| worker == lost)
                };
                let mut held = ledger.held.iter();
                let lacks = held.any(|(id, stored_on)| stored_on.is_empty() && of_lost(id));
                let needed = lacks || ledger.untold.contains(lost);
                ensure(ledger.config.journals && needed, || {
                    format!("the journal of {lost} is not needed")
                })
            }
            ClusterCommand::ReceiverLost { receiver, blocks } => {
                let Some((worker, _)) = ledger.receivers.get(receiver) else {
                    return Ok(());
                };
                if ledger.unknown.contains(worker) {
                    return Ok(());
                }
                let adopted = ledger.adopted.contains(worker);
                let unread = ledger.config.journals && ledger.untold.contains(worker) && !adopted;
                ensure(!unread, || {
                    format!("nobody knows the survivors of {worker}, and its journal was not read")
                })?;
                // A block stored only once, of which the master never heard: the blocks after it are not taken.
                let known = ledger.known.get(receiver);
                let alone = |id: &&BlockId| {
                    id.receiver == *receiver
                        && !truth.copied.contains(id)
                        && known.is_none_or(|known| !known.contains(&id.seq))
                };
                let alone = truth.safe.iter().find(alone).filter(|_| !adopted);
                let mut safe = truth.safe.iter();
                let silent = safe.find(|id| {
                    (adopted || truth.copied.contains(id))
                        && id.receiver == *receiver
                        && alone.is_none_or(|alone| *id < alone)
                        && blocks.binary_search_by_key(*id, |block| block.id).is_err()
                        && !ledger.forgotten.contains(id)
                        && !ledger.lost_blocks.contains(id)
                });
                ensure(silent.is_none(), || {
                    format!("{receiver} of {worker} is gone without a report about {silent:?}")
                })
            }
            _ => Ok(()),
        }
    }
}
