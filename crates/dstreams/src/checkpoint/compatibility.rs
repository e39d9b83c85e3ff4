//! Whether a program can resume from a checkpoint of another version of it.

use serde::{Deserialize, Serialize};

use super::location::Store;
use super::manifest::{Manifest, Program, StateId, StateParts};
use crate::error::{Error, Result};
use crate::journal::JournalContents;

/// The changes that a program declares to states of earlier versions. Each takes effect once: it is done if the
/// program that wrote the checkpoint declared it too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChanges {
    /// The names of dropped states.
    pub dropped: Vec<String>,
    /// The old name and the new one.
    pub renamed: Vec<(String, String)>,
}

/// The pending changes to the states of a checkpoint.
struct PendingChanges<'a> {
    changes: &'a StateChanges,
    /// The changes declared by the program that wrote the checkpoint. Earlier formats lack them: then compatible
    /// state is kept.
    done: Option<StateChanges>,
    written: &'a [StateParts],
    states: &'a [StateId],
}

impl PendingChanges<'_> {
    /// The name that a state has now.
    fn name_of(&self, written: &StateId) -> String {
        let renamed = self.changes.renamed.iter();
        let mut renamed = renamed.filter(|(from, _)| *from == written.name);
        let pending = |(from, to): &&(String, String)| match &self.done {
            Some(done) => !done.renamed.iter().any(|it| (&it.0, &it.1) == (from, to)),
            None => !self.written.iter().any(|state| state.state.name == *to),
        };
        match renamed.find(pending) {
            Some((_, to)) => to.clone(),
            None => self.own_name(written).to_owned(),
        }
    }

    /// Earlier programs numbered states with equal contents: also those with their own names, and windows of any
    /// stream.
    fn own_name<'a>(&'a self, written: &'a StateId) -> &'a str {
        if let Some(name) = self.window_by_number(written) {
            return name;
        }
        let is = |name: &str, it: &StateId| it.name == name && it.holds == written.holds;
        let without = || {
            let (name, number) = written.name.strip_suffix(')')?.rsplit_once(" (")?;
            number.parse::<u32>().ok()?;
            let is_keyed = name != written.holds;
            let is_ours = self.states.iter().any(|it| is(name, it));
            let is_theirs = self.written.iter().any(|it| it.state.name == name);
            (is_keyed && is_ours && !is_theirs).then_some(name)
        };
        match self.states.iter().any(|it| it.name == written.name) {
            true => &written.name,
            false => without().unwrap_or(&written.name),
        }
    }

    /// The name of the n-th window with these contents, for a window that an earlier program numbered.
    fn window_by_number(&self, written: &StateId) -> Option<&str> {
        let rest = written.name.strip_prefix(&written.holds)?;
        let number = match rest {
            "" => 1,
            _ => rest.strip_prefix(" (")?.strip_suffix(')')?.parse().ok()?,
        };
        let is_window = |it: &&StateId| {
            it.holds == written.holds && it.name.starts_with(&format!("{} of ", it.holds))
        };
        let mut windows = self.states.iter().filter(is_window);
        windows
            .nth(usize::checked_sub(number, 1)?)
            .map(|it| &*it.name)
    }

    fn is_dropped(&self, written: &StateId) -> bool {
        let names = |changes: &StateChanges| changes.dropped.contains(&written.name);
        let name = self.name_of(written);
        let fits = || (self.states.iter()).any(|it| it.name == name && it.holds == written.holds);
        names(self.changes) && (self.done.as_ref().is_some_and(|done| !names(done)) || !fits())
    }

    /// The times with which batches ran after the checkpoint, for a state that it does not have. A dropped state is
    /// not that of the journal, and neither is one with the name of a written state.
    fn times_since<'a>(&self, state: &StateId, journal: &'a [(String, String)]) -> Option<&'a str> {
        let names = |changes: &StateChanges| changes.dropped.contains(&state.name);
        let is_dropped = names(self.changes) && !self.done.as_ref().is_some_and(names);
        if is_dropped || self.written.iter().any(|it| it.state.name == state.name) {
            return None;
        }
        let of_journal = |name: &str| journal.iter().find(|(of, _)| of == name);
        let renamed = self.changes.renamed.iter();
        let mut before = renamed.filter(|(_, to)| *to == state.name);
        let (_, times) =
            of_journal(&state.name).or_else(|| before.find_map(|(from, _)| of_journal(from)))?;
        Some(times)
    }
}

impl Program {
    /// Refuses a program with another interval, or one whose inputs are not the first of this one.
    fn check_compatible(&self, interval_ms: u64, inputs: &[String]) -> Result<()> {
        let differs = |what: &str, then: &str, now: &str| {
            refused(format!(
                "its {what} were [{then}], this program's are [{now}]; start the program that wrote it, or give this \
                 one a directory of its own"
            ))
        };
        if interval_ms != self.interval_ms {
            let ms = |interval: u64| format!("{interval} ms");
            return Err(differs(
                "batch intervals",
                &ms(interval_ms),
                &ms(self.interval_ms),
            ));
        }
        if !self.inputs.starts_with(inputs) {
            return Err(differs(
                "inputs",
                &inputs.join(", "),
                &self.inputs.join(", "),
            ));
        }
        Ok(())
    }

    /// Refuses a journal after which this program with this checkpoint cannot resume.
    pub(super) fn check_journal(
        &self,
        journal: &JournalContents,
        states: &[StateId],
        newest: Option<&Manifest>,
        store: &Store,
    ) -> Result<()> {
        let opening = journal.opening();
        if let Some(opening) = opening {
            self.check_compatible(opening.interval_ms, &opening.inputs)?;
        }
        // With a checkpoint, its manifest has the times.
        if let (Some(opening), None) = (opening, newest) {
            for (name, then) in &opening.times {
                let remedy =
                    "keep the times that it had, or give this program a directory of its own";
                for state in states.iter().filter(|state| state.name == *name) {
                    refusal_of_times(state, Some(then), remedy).map_or(Ok(()), Err)?;
                }
            }
        }
        let there = store.place();
        let of = opening.map(|opening| &opening.directory);
        let theirs = newest.and_then(|newest| newest.directory.as_ref());
        if let (Some(of), Some(theirs)) = (of, theirs)
            && of != theirs
        {
            return Err(not_ours(format!(
                "the checkpoints at {there} are of another directory; name this program's own, or use an empty \
                 directory and another place"
            )));
        }
        let needed = match opening {
            Some(opening) => opening.checkpoint,
            // Earlier programs did not record it; but some checkpoint covers a removed file.
            None => journal.first.filter(|first| *first > 1).map(|_| 1),
        };
        let found = newest.map(|newest| newest.number);
        if found >= needed {
            return Ok(());
        }
        let found = found.map_or_else(|| "none".to_owned(), |found| format!("number {found}"));
        let needed = needed.unwrap_or_default();
        let place = opening.map(|opening| format!(", which was at {}", opening.checkpoints));
        Err(not_ours(format!(
            "the journal continues checkpoint {needed}{}; the newest at {there} is {found}; name the right place, copy \
             them there, or start with an empty directory",
            place.unwrap_or_default()
        )))
    }
}

fn not_ours(message: String) -> Error {
    Error::Checkpoints { message }
}

impl Manifest {
    /// The manifest for a program with these states, with the parts of those that remain. New states begin empty. With an
    /// error if a state has other times than `journal` says, or this manifest for states that the journal does not name: it
    /// stands if any batch runs again.
    ///
    /// Refuses a program with another batch interval or without an earlier input, and state that the program lacks
    /// or holds differently, unless it is dropped.
    pub fn fit(
        mut self,
        program: &Program,
        states: &[StateId],
        changes: &StateChanges,
        journal: &[(String, String)],
    ) -> Result<(Self, Option<Error>)> {
        let mut other_times = None;
        program.check_compatible(self.program.interval_ms, &self.program.inputs)?;
        let partitions = self.program.partitions;
        let mut kept: Vec<Option<StateParts>> = vec![None; states.len()];
        let pending = PendingChanges {
            changes,
            done: self.changes.take(),
            written: &self.states,
            states,
        };
        for written in &self.states {
            let name = pending.name_of(&written.state);
            if pending.is_dropped(&written.state) {
                let bytes: u64 = written.parts().map(|part| part.bytes).sum();
                tracing::warn!(
                    state = written.state.name,
                    bytes,
                    "dropping state, as `drop_state` declares"
                );
                continue;
            }
            let place = states.iter().position(|state| state.name == name);
            let Some(place) = place else {
                let ours: Vec<_> = states.iter().map(|state| &*state.name).collect();
                return Err(refused(format!(
                    "this program has no state {name}, it has [{}]; drop it with `drop_state`, give its \
                     new name with `rename_state`, or give this program a directory of its own",
                    ours.join("; ")
                )));
            };
            if states[place].holds != written.state.holds {
                let (then, now) = (&written.state.holds, &states[place].holds);
                return Err(refused(format!(
                    "state {name} was {then} and is {now} now; keep its contents the same, or drop it with \
                     `drop_state`"
                )));
            }
            // Those with which the batches after the checkpoint ran, under the old name or the new one.
            let exchanged = name != written.state.name
                && self.states.iter().any(|other| other.state.name == name);
            let of_journal = |name: &str| journal.iter().find(|(of, _)| of == name);
            let of_journal = of_journal(&name).or_else(|| of_journal(&written.state.name));
            let of_journal = of_journal.filter(|_| !exchanged);
            let then = of_journal.map(|(_, times)| times.as_str());
            let then = then.or(written.state.times.as_deref());
            let (may_change, remedy) = (states[place].may_change, remedy_of(&states[place]));
            match refusal_of_times(&states[place], then, remedy) {
                Some(refusal) if may_change => other_times = other_times.or(Some(refusal)),
                refusal => refusal.map_or(Ok(()), Err)?,
            }
            if name != written.state.name {
                tracing::info!(from = written.state.name, to = name, "state is renamed");
            }
            if let Some(other) = kept[place].replace(written.clone()) {
                return Err(refused(format!(
                    "its states {} and {} would both be {name} now; drop one of them with `drop_state`",
                    other.state.name, written.state.name
                )));
            }
        }
        // It is empty in the checkpoint: other times are of account only for batches that run again.
        let new = states.iter().zip(&kept).filter(|(_, kept)| kept.is_none());
        for (state, _) in new {
            let then = pending.times_since(state, journal);
            other_times = other_times.or_else(|| refusal_of_times(state, then, remedy_of(state)));
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
        self.changes = Some(changes.clone());
        self.program = Program {
            partitions,
            ..program.clone()
        };
        Ok((self, other_times))
    }
}

/// The advice to a program that has changed the times of a state.
fn remedy_of(state: &StateId) -> &'static str {
    match state.may_change {
        true => {
            "batches since the last checkpoint would run again with other times than they had: run the program with the \
             times of before and `Config::checkpoint_every = 1`, stop it gracefully, and then change them; or drop the \
             state with `drop_state`"
        }
        false => "keep the times that it had, or drop it with `drop_state`",
    }
}

/// The refusal of other times of a state: batches that run again would give other results than they did, so that some
/// took effect twice and others never.
fn refusal_of_times(state: &StateId, then: Option<&str>, remedy: &str) -> Option<Error> {
    match (then, &state.times) {
        (Some(then), Some(now)) if now != then => Some(refused(format!(
            "the times of state {} were [{then}], and are [{now}] now; {remedy}",
            state.name
        ))),
        _ => None,
    }
}

fn refused(message: String) -> Error {
    Error::OtherProgram { message }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::PartitionPart;
    use super::*;

    fn id(name: &str, holds: &str) -> StateId {
        StateId {
            name: name.into(),
            holds: holds.into(),
            times: None,
            may_change: false,
        }
    }

    fn ids(states: &[(&str, &str)]) -> Vec<StateId> {
        states.iter().map(|(name, holds)| id(name, holds)).collect()
    }

    fn changes(dropped: &[&str], renamed: &[(&str, &str)]) -> StateChanges {
        let renamed = renamed
            .iter()
            .map(|(from, to)| ((*from).into(), (*to).into()));
        StateChanges {
            dropped: dropped.iter().map(|name| (*name).into()).collect(),
            renamed: renamed.collect(),
        }
    }

    fn program() -> Program {
        Program {
            interval_ms: 100,
            partitions: 1,
            inputs: Vec::new(),
        }
    }

    /// A checkpoint with these states, each with one part whose place identifies the state.
    fn written(states: &[(&str, &str)], said: Option<StateChanges>) -> Manifest {
        let mut manifest = Manifest::empty(program(), ids(states), &StateChanges::default());
        manifest.changes = said;
        for (at, state) in manifest.states.iter_mut().enumerate() {
            state.partitions[0].push(PartitionPart {
                file: 0,
                from: at as u64,
                bytes: 1,
                xxh3: 0,
                version: 100,
                whole: true,
                more: false,
            });
        }
        manifest
    }

    /// Which of the written states each state of the program takes over.
    fn fit(
        written: &Manifest,
        states: &[(&str, &str)],
        changes: &StateChanges,
    ) -> Result<(Vec<Option<u64>>, Manifest)> {
        let fit = written
            .clone()
            .fit(&program(), &ids(states), changes, &[])?
            .0;
        let from = |state: &StateParts| state.parts().next().map(|part| part.from);
        Ok((fit.states.iter().map(from).collect(), fit))
    }

    /// The code stays the same when a program restarts, and so do the changes it declares.
    #[test]
    fn a_change_takes_effect_once() {
        let drop = changes(&["a"], &[]);
        let (had, next) = fit(
            &written(&[("a", "count")], Some(StateChanges::default())),
            &[("a", "sum")],
            &drop,
        )
        .unwrap();
        assert_eq!((had, &next.changes), (vec![None], &Some(drop.clone())));
        let again = written(&[("a", "sum")], next.changes);
        assert_eq!(fit(&again, &[("a", "sum")], &drop).unwrap().0, [Some(0)]);
        // Declared for another change of the same state.
        assert_eq!(fit(&again, &[("a", "max")], &drop).unwrap().0, [None]);
        // After one version without it, it may be declared again.
        let (_, without) = fit(&again, &[("a", "sum")], &changes(&[], &[])).unwrap();
        assert_eq!(fit(&without, &[("a", "sum")], &drop).unwrap().0, [None]);

        let rename = changes(&[], &[("a", "b")]);
        let first = written(&[("a", "count")], Some(StateChanges::default()));
        let (had, next) = fit(&first, &[("b", "count"), ("a", "sum")], &rename).unwrap();
        assert_eq!(had, [Some(0), None]);
        let both = [("b", "count"), ("a", "sum")];
        let again = written(&both, next.changes);
        assert_eq!(fit(&again, &both, &rename).unwrap().0, [Some(0), Some(1)]);
    }

    #[test]
    fn names_may_be_swapped() {
        let both = [("a", "count"), ("b", "count")];
        let exchanged = changes(&[], &[("a", "b"), ("b", "a")]);
        let first = written(&both, Some(StateChanges::default()));
        let (had, next) = fit(&first, &both, &exchanged).unwrap();
        assert_eq!(had, [Some(1), Some(0)]);
        let again = written(&both, next.changes);
        assert_eq!(
            fit(&again, &both, &exchanged).unwrap().0,
            [Some(0), Some(1)]
        );
    }

    /// Checkpoints of earlier programs do not record the changes that were done: compatible state is kept.
    #[test]
    fn without_recorded_changes_compatible_state_is_kept() {
        let both = [("a", "sum"), ("b", "count")];
        let said = changes(&["a"], &[("a", "b")]);
        let (had, next) = fit(&written(&both, None), &both, &said).unwrap();
        assert_eq!((had, next.changes), (vec![Some(0), Some(1)], Some(said)));
        let drop = changes(&["a"], &[]);
        let other = written(&[("a", "count")], None);
        assert_eq!(fit(&other, &[("a", "sum")], &drop).unwrap().0, [None]);
        let rename = changes(&[], &[("a", "b")]);
        assert_eq!(
            fit(&other, &[("b", "count")], &rename).unwrap().0,
            [Some(0)]
        );
    }

    /// As earlier programs numbered states.
    #[test]
    fn a_numbered_state_gets_its_own_name() {
        let old = written(
            &[
                ("a", "count"),
                ("b (2)", "count"),
                ("W", "W"),
                ("W (2)", "W"),
            ],
            None,
        );
        let now = [("b", "count"), ("W", "W"), ("a", "count"), ("W (2)", "W")];
        let none = StateChanges::default();
        let had = fit(&old, &now, &none).unwrap().0;
        assert_eq!(had, [Some(1), Some(2), Some(0), Some(3)]);
        let refused = fit(&old, &now[..3], &none).unwrap_err().to_string();
        assert!(refused.contains("no state W (2)"), "{refused}");
    }

    #[test]
    fn other_times_are_refused() {
        let of = |ms| StateId {
            times: Some(format!("slack {ms} ms")),
            ..id("timed", "rows")
        };
        let times = of(500).times;
        assert!(refusal_of_times(&of(500), times.as_deref(), "").is_none());
        assert!(refusal_of_times(&of(500), None, "").is_none());
        let refused = refusal_of_times(&of(400), times.as_deref(), "do this");
        let refused = refused.unwrap().to_string();
        for part in ["timed", "500 ms", "400 ms", "do this"] {
            assert!(refused.contains(part), "{refused}");
        }
    }

    /// Those that may change are refused if a batch runs again; the journal says with which times batches ran.
    #[test]
    fn times_that_may_change_are_those_of_the_journal() {
        let of = |ms, may_change| StateId {
            times: Some(format!("timeout {ms} ms")),
            may_change,
            ..id("visits", "rows")
        };
        let manifest =
            |ms| Manifest::empty(program(), vec![of(ms, false)], &StateChanges::default());
        let fit = |ms, now: StateId, journal: Option<u32>| {
            let journal = journal.map(|ms| ("visits".to_owned(), format!("timeout {ms} ms")));
            let journal: Vec<_> = journal.into_iter().collect();
            let changes = StateChanges::default();
            manifest(ms).fit(&program(), &[now], &changes, &journal)
        };
        assert!(fit(500, of(400, false), None).is_err());
        let (_, refusal) = fit(500, of(400, true), None).unwrap();
        let refusal = refusal.unwrap().to_string();
        assert!(
            refusal.contains("`Config::checkpoint_every = 1`"),
            "{refusal}"
        );
        for (then, journal, now, fits) in [
            (500, None, 500, true),
            (500, Some(400), 400, true),
            (500, Some(400), 500, false),
        ] {
            let (_, refusal) = fit(then, of(now, true), journal).unwrap();
            assert_eq!(refusal.is_none(), fits, "{then} {journal:?} {now}");
        }
    }

    /// It began after the checkpoint, so only the journal has its times.
    #[test]
    fn times_of_a_state_that_the_checkpoint_lacks_are_those_of_the_journal() {
        let of = |name: &str, ms, may_change| StateId {
            times: Some(format!("timeout {ms} ms")),
            may_change,
            ..id(name, "rows")
        };
        let none = StateChanges::default();
        let manifest = |done: &StateChanges| Manifest::empty(program(), Vec::new(), done);
        let journal = [("visits".to_owned(), "timeout 500 ms".to_owned())];
        let refusal = |done: &StateChanges, now: StateId, changes: &StateChanges| {
            let fit = manifest(done).fit(&program(), &[now], changes, &journal);
            fit.unwrap().1.map(|refusal| refusal.to_string())
        };
        for may_change in [true, false] {
            let other = of("visits", 400, may_change);
            let refused = refusal(&none, other.clone(), &none).unwrap();
            for part in ["visits", "500 ms", "400 ms", remedy_of(&other)] {
                assert!(refused.contains(part), "{refused}");
            }
            assert_eq!(refusal(&none, of("visits", 500, may_change), &none), None);
            assert_eq!(refusal(&none, of("views", 400, may_change), &none), None);
        }
        let drop = changes(&["visits"], &[]);
        let other = || of("visits", 400, true);
        assert_eq!(refusal(&none, other(), &drop), None);
        // It was dropped before it began again.
        assert!(refusal(&drop, other(), &drop).is_some());
        let rename = changes(&[], &[("visits", "views")]);
        assert!(refusal(&none, of("views", 400, true), &rename).is_some());
    }

    #[test]
    fn two_states_with_one_name_are_refused() {
        let both = written(
            &[("a", "count"), ("b", "count")],
            Some(StateChanges::default()),
        );
        let rename = changes(&[], &[("a", "b")]);
        let refused = fit(&both, &[("b", "count")], &rename)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("a and b would both be b"), "{refused}");
    }
}
