//! Make before break: where two workers that are there have all of a partition's state, two still have it after it is
//! assigned to others. Only a loss takes one away, or the wish that all but one leave.

use dstreams_control::cluster::{ClusterCommand, WorkerId};

use super::{Invariant, Scene, Verdict, ensure};

pub struct TwoCopies;

impl Invariant for TwoCopies {
    fn name(&self) -> &'static str {
        "two-copies"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        let ClusterCommand::Assign {
            partition,
            holder,
            standby,
            next,
        } = command
        else {
            return Ok(());
        };
        let ledger = scene.ledger;
        let has = |worker: &WorkerId| ledger.has_all(*partition, *worker);
        let before: Vec<_> = ledger.parts_of(*partition).filter(has).collect();
        let now = [Some(*holder), *standby, *next].into_iter().flatten();
        let now: Vec<_> = now.filter(has).collect();
        let all = ledger.newest(*partition).is_none() || now.len() >= 2 || before.len() < 2;
        ensure(all || ledger.open().count() < 2, || {
            format!("{before:?} have partition {partition}, and {now:?} when it is assigned")
        })
    }
}
