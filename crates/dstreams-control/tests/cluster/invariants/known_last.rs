//! A producer resumes after its safe offset: the greatest number in a stored block with all blocks before it, in a
//! forgotten block, or reported by the owner that gave it up. So does the source of an input with one receiver. Lost
//! blocks do not count.

use std::collections::BTreeMap;
use std::sync::Arc;

use dstreams_control::cluster::{ClusterCommand, ProducerOffset};

use super::{Invariant, Scene, Verdict, ensure};

pub struct KnownLast;

impl Invariant for KnownLast {
    fn name(&self) -> &'static str {
        "known-last"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        let ledger = scene.ledger;
        let follow = ledger.offsets.iter().filter(|(id, _)| ledger.follows(**id));
        let stored_offsets = || {
            follow
                .clone()
                .flat_map(|(_, stored_offsets)| stored_offsets)
        };
        if let ClusterCommand::Receive { input, offsets, .. } = command {
            return sources_resume(
                scene,
                stored_offsets().filter(|offset| offset.input == *input),
                offsets,
            );
        }
        let ClusterCommand::Grant { token, last, .. } = command else {
            return Ok(());
        };
        let Some((producer, _)) = ledger.claims.get(token) else {
            return Ok(());
        };
        let of_producer = stored_offsets().filter(|offset| offset.producer == *producer);
        let in_blocks = of_producer
            .map(|offset| offset.last)
            .max()
            .unwrap_or_default();
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
    stored_offsets: impl Iterator<Item = &'a ProducerOffset>,
    offsets: &[(Arc<str>, u64)],
) -> Verdict {
    let mut wanted = BTreeMap::<Arc<str>, u64>::new();
    for offset in stored_offsets.filter(|offset| offset.input != scene.truth.clients()) {
        let last = wanted.entry(Arc::clone(&offset.producer)).or_default();
        *last = (*last).max(offset.last);
    }
    ensure(
        wanted.clone().into_iter().eq(offsets.iter().cloned()),
        || format!("a source resumes at {offsets:?}, but blocks have {wanted:?}"),
    )
}
