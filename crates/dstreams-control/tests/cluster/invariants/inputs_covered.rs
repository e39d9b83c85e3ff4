//! When calm, every worker has one receiver for each input that is received everywhere, and each input with one
//! receiver has it on one worker.

use dstreams_control::cluster::{InputKind, WorkerId};

use super::{Calm, Invariant, Scene, Verdict, ensure};

pub struct InputsCovered;

impl Invariant for InputsCovered {
    fn name(&self) -> &'static str {
        "inputs-covered"
    }

    fn calm(&self, scene: &Scene, _: Calm) -> Verdict {
        let ledger = scene.ledger;
        let count = |input: u32, at: &dyn Fn(WorkerId) -> bool| {
            let receivers = ledger.receivers.iter();
            let open = receivers.filter(|(receiver, _)| !ledger.left.contains_key(receiver));
            open.filter(|&(_, &(worker, of))| of == input && at(worker))
                .count()
        };
        for input in scene.truth.inputs_of(InputKind::Everywhere) {
            for &worker in &ledger.live {
                let receivers = count(input, &|at| at == worker);
                ensure(receivers == 1, || {
                    format!("{worker} has {receivers} receivers of {input}")
                })?;
            }
        }
        for input in scene.truth.inputs_of(InputKind::One) {
            let (all, live) = (
                count(input, &|_| true),
                count(input, &|at| ledger.live.contains(&at)),
            );
            ensure((all, live) == (1, 1), || {
                format!("{input} has {all} receivers, {live} on live workers")
            })?;
        }
        Ok(())
    }
}
