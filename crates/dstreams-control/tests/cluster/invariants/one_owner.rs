//! A producer is granted to a worker only when no other may take its records: the previous owner has given it up, or
//! is lost and every worker has answered that it refuses it.

use dstreams_control::cluster::ClusterCommand;

use super::{Invariant, Scene, Verdict, ensure};

pub struct OneOwner;

impl Invariant for OneOwner {
    fn name(&self) -> &'static str {
        "one-owner"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        let ClusterCommand::Grant { token, worker, .. } = command else {
            return Ok(());
        };
        let claim = scene.ledger.claims.get(token);
        let owner = claim.and_then(|(producer, _)| scene.ledger.owners.get(producer));
        ensure(owner.is_none_or(|(owner, _)| owner == worker), || {
            format!("token {token} is granted to {worker}, but the owner is {owner:?}")
        })
    }
}
