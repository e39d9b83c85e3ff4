//! Whether a program can go on from a checkpoint of another one.

use super::manifest::{Manifest, Program, StateId, StateParts};
use crate::error::{Error, Result};

/// What a program says about state that it does not have under its old name any more.
#[derive(Debug, Clone, Default)]
pub struct StateChanges {
    /// Let go on purpose.
    pub dropped: Vec<String>,
    /// From, to.
    pub renamed: Vec<(String, String)>,
}

impl StateChanges {
    fn name_of<'a>(&'a self, written: &'a str) -> &'a str {
        let renamed = self.renamed.iter().find(|(from, _)| from == written);
        renamed.map_or(written, |(_, to)| to)
    }
}

impl Manifest {
    /// The manifest for a program with these states, with the parts of those that it has kept. State of the
    /// program that was not there before begins empty.
    ///
    /// Refuses a program with another batch interval or without an input that there was, and state that has no
    /// place in the program or holds something else there, unless it is dropped.
    pub fn fit(
        mut self,
        program: &Program,
        states: &[StateId],
        changes: &StateChanges,
    ) -> Result<Self> {
        let (then, now) = (&self.program, program);
        let differs = |what: &str, then: &str, now: &str| {
            refused(format!(
                "its {what} were [{then}], this program's are [{now}]; start the program that wrote it, or give this \
                 one a directory of its own"
            ))
        };
        if then.interval_ms != now.interval_ms {
            let ms = |program: &Program| format!("{} ms", program.interval_ms);
            return Err(differs("batch intervals", &ms(then), &ms(now)));
        }
        if !now.inputs.starts_with(&then.inputs) {
            return Err(differs(
                "inputs",
                &then.inputs.join(", "),
                &now.inputs.join(", "),
            ));
        }
        let partitions = then.partitions;
        let mut kept: Vec<Option<StateParts>> = vec![None; states.len()];
        for written in self.states {
            let name = changes.name_of(&written.state.name).to_owned();
            if changes.dropped.contains(&written.state.name) {
                continue;
            }
            let place = states.iter().position(|state| state.name == name);
            let Some(place) = place else {
                let ours: Vec<_> = states.iter().map(|state| &*state.name).collect();
                return Err(refused(format!(
                    "this program has no state {name}, it has [{}]; drop it on purpose with `drop_state`, say with \
                     `rename_state` what it is now, or give this program a directory of its own",
                    ours.join("; ")
                )));
            };
            if states[place].holds != written.state.holds {
                let (then, now) = (&written.state.holds, &states[place].holds);
                return Err(refused(format!(
                    "state {name} was {then} and is {now} now; keep what it holds, or drop it on purpose with \
                     `drop_state`"
                )));
            }
            kept[place] = Some(written);
        }
        let kept = kept
            .into_iter()
            .zip(states)
            .map(|(kept, state)| StateParts {
                state: state.clone(),
                partitions: kept
                    .map_or_else(|| vec![Vec::new(); partitions], |kept| kept.partitions),
            });
        self.states = kept.collect();
        self.program = Program {
            partitions,
            ..program.clone()
        };
        Ok(self)
    }
}

fn refused(why: String) -> Error {
    Error::Config {
        setting: "checkpoint directory",
        message: format!("it is of another program: {why}"),
    }
}
