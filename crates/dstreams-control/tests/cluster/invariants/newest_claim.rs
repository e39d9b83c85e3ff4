//! Only the newest claim of a producer is granted, to the worker that made it, and once. Older ones are refused; when
//! calm, none waits.

use dstreams_control::cluster::ClusterCommand;

use super::{Calm, Invariant, Scene, Verdict, ensure};

pub struct NewestClaim;

impl Invariant for NewestClaim {
    fn name(&self) -> &'static str {
        "newest-claim"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        let ledger = scene.ledger;
        if let ClusterCommand::Refuse { token, worker } = command {
            let claim = ledger.claims.get(token);
            let at = claim.is_none_or(|(_, claimant)| claimant == worker);
            let newest = claim.and_then(|(producer, _)| ledger.newest_claims.get(producer));
            return ensure(at && newest != Some(token), || {
                format!("token {token} is refused at {worker}; the newest is {newest:?}")
            });
        }
        let ClusterCommand::Grant { token, worker, .. } = command else {
            return Ok(());
        };
        let Some((producer, claimant)) = ledger.claims.get(token) else {
            return Err(format!("token {token} is granted, but nobody claimed it"));
        };
        ensure(claimant == worker, || {
            format!("token {token} of {claimant} is granted to {worker}")
        })?;
        let newest = ledger.newest_claims.get(producer);
        ensure(newest == Some(token), || {
            format!("token {token} is granted, but the newest is {newest:?}")
        })?;
        ensure(!ledger.granted.contains(token), || {
            format!("token {token} is granted again")
        })
    }

    fn calm(&self, scene: &Scene, _: Calm) -> Verdict {
        let ledger = scene.ledger;
        let waits = ledger.claims.iter().find(|(token, (_, worker))| {
            let answered = ledger.granted.contains(token) || ledger.refused.contains(token);
            ledger.live.contains(worker) && !answered
        });
        ensure(waits.is_none(), || {
            format!("claim {waits:?} is not answered")
        })
    }
}
