//! No acknowledged block goes without a word: where a receiver is gone without one that a peer had, the block was said to
//! be lost, or its worker's survivors to be unknown; and that only where one was lost that had not answered.

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
                let untold = ledger.untold.contains(lost);
                ensure(untold, || format!("all is known of {lost}"))
            }
            ClusterCommand::Gone { receiver, blocks } => {
                let Some((worker, _)) = ledger.receivers.get(receiver) else {
                    return Ok(());
                };
                if ledger.unknown.contains(worker) {
                    return Ok(());
                }
                let mut safe = truth.safe.intersection(&truth.copied);
                let silent = safe.find(|id| {
                    id.receiver == *receiver
                        && blocks.binary_search_by_key(*id, |block| block.id).is_err()
                        && !ledger.forgotten.contains(id)
                        && !ledger.lost_blocks.contains(id)
                });
                ensure(silent.is_none(), || {
                    format!("{receiver} of {worker} is gone, and nothing was said of {silent:?}")
                })
            }
            _ => Ok(()),
        }
    }
}
