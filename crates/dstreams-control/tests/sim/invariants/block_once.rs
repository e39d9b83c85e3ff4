//! A block is in one cut at most, and only if a report named it.
//!
//! Cuts are sorted by block id.

use dstreams_control::Command;

use super::{Invariant, Verdict, ensure};
use crate::ledger::Ledger;

pub struct BlockOnce;

impl Invariant for BlockOnce {
    fn name(&self) -> &'static str {
        "block-once"
    }

    fn command(&self, ledger: &Ledger, command: &Command) -> Verdict {
        let Command::Cut { batch, blocks } = command else {
            return Ok(());
        };
        ensure(blocks.is_sorted_by(|a, b| a.id < b.id), || {
            format!("the cut of {batch} is not sorted: {blocks:?}")
        })?;
        for block in blocks {
            let id = block.id;
            ensure(!ledger.cut_blocks.contains(&id), || {
                format!("block {id} is in {batch} and an earlier cut")
            })?;
            ensure(ledger.uncut.get(&id) == Some(block), || {
                format!("block {id} is in {batch}, no report said so")
            })?;
        }
        Ok(())
    }
}
