//! A producer resumes after its safe offset: the greatest number in a stored block with all blocks before it, in a
//! forgotten block, or reported by the owner that gave it up. So does the source of an input with one receiver. Lost
//! blocks do not count.

use std::collections::BTreeMap;
use std::sync::Arc;

use dstreams_control::cluster::{ClusterCommand, Mark};

use super::{Invariant, Scene, Verdict, ensure};

pub struct KnownLast;

impl Invariant for KnownLast {
    fn name(&self) -> &'static str {
        "known-last"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        let ledger = scene.ledger;
        let follow = ledger.marks.iter().filter(|(id, _)| ledger.follows(**id));
        let marks = || follow.clone().flat_map(|(_, marks)| marks);
        if let ClusterCommand::Receive {
            input, positions, ..
        } = command
        {
            return sources_resume(
                scene,
                marks().filter(|mark| mark.input == *input),
                positions,
            );
        }
        let ClusterCommand::Grant { token, last, .. } = command else {
            return Ok(());
        };
        let Some((producer, _)) = ledger.claims.get(token) else {
            return Ok(());
        };
        let of_producer = marks().filter(|mark| mark.producer == *producer);
        let in_blocks = of_producer.map(|mark| mark.last).max().unwrap_or_default();
        let revoked = ledger.revoked.get(producer).copied().unwrap_or_default();
        ensure(*last == in_blocks.max(revoked), || {
            format!(
                "token {token} is granted from {last} on; blocks have {in_blocks}, the owner reported {revoked}"
            )
        })
    }
}

/// Receivers on every worker begin without offsets: clients bring theirs.
fn sources_resume<'a>(
    scene: &Scene,
    marks: impl Iterator<Item = &'a Mark>,
    positions: &[(Arc<str>, u64)],
) -> Verdict {
    let mut wanted = BTreeMap::<Arc<str>, u64>::new();
    for mark in marks.filter(|mark| mark.input != scene.truth.clients()) {
        let last = wanted.entry(Arc::clone(&mark.producer)).or_default();
        *last = (*last).max(mark.last);
    }
    ensure(
        wanted.clone().into_iter().eq(positions.iter().cloned()),
        || format!("a source resumes at {positions:?}, but blocks have {wanted:?}"),
    )
}
