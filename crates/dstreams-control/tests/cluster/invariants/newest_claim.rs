//! Only the newest claim of a producer is granted, where it was made, and once. In the calm, it was.

use dstreams_control::cluster::ClusterCommand;

use super::{Calm, Invariant, Scene, Verdict, ensure};

pub struct NewestClaim;

impl Invariant for NewestClaim {
    fn name(&self) -> &'static str {
        "newest-claim"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        let ClusterCommand::Grant { token, worker, .. } = command else {
            return Ok(());
        };
        let ledger = scene.ledger;
        let Some((producer, claimant)) = ledger.claims.get(token) else {
            return Err(format!("token {token} is granted, nobody claimed it"));
        };
        ensure(claimant == worker, || {
            format!("token {token} of {claimant} is granted to {worker}")
        })?;
        let newest = ledger.newest_claims.get(producer);
        ensure(newest == Some(token), || {
            format!("token {token} is granted, the newest is {newest:?}")
        })?;
        ensure(!ledger.granted.contains(token), || {
            format!("token {token} is granted again")
        })
    }

    fn calm(&self, scene: &Scene, _: Calm) -> Verdict {
        let ledger = scene.ledger;
        let waits = ledger.newest_claims.values().find(|&token| {
            let claim = ledger.claims.get(token);
            let lives = claim.is_some_and(|(_, worker)| ledger.live.contains(worker));
            lives && !ledger.granted.contains(token)
        });
        ensure(waits.is_none(), || {
            format!("claim {waits:?} is not granted")
        })
    }
}
