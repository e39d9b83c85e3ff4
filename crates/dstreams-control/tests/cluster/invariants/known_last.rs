//! A producer goes on after the greatest number that is in a block that is held, with all before it, or was forgotten, or
//! that its owner gave up with. What is lost does not count.

use dstreams_control::cluster::ClusterCommand;

use super::{Invariant, Scene, Verdict, ensure};

pub struct KnownLast;

impl Invariant for KnownLast {
    fn name(&self) -> &'static str {
        "known-last"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        let ClusterCommand::Grant { token, last, .. } = command else {
            return Ok(());
        };
        let ledger = scene.ledger;
        let Some((producer, _)) = ledger.claims.get(token) else {
            return Ok(());
        };
        let follow = ledger.marks.iter().filter(|(id, _)| ledger.follows(**id));
        let marks = follow.flat_map(|(_, marks)| marks);
        let of_producer = marks.filter(|mark| mark.producer == *producer);
        let in_blocks = of_producer.map(|mark| mark.last).max().unwrap_or_default();
        let revoked = ledger.revoked.get(producer).copied().unwrap_or_default();
        ensure(*last == in_blocks.max(revoked), || {
            format!(
                "token {token} is granted from {last} on; {in_blocks} is in blocks, {revoked} was told"
            )
        })
    }
}
