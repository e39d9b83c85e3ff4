//! All schedules of a small model of batches that run and are committed, and of state that is lost and recovered.
//!
//! The state is as of some batch, or lost. A run of the next batch begins on a state as of the last commit, and changes
//! it when it ends; it is then asked for whether it may be committed. Its output reads the state, or is refused, and then
//! it is committed. State is lost at any time.
//! A recovery reads the last commit when it begins, and restores the state as of that before it ends. If state is lost
//! again before it is restored, the recovery cannot end.
//!
//! | sabotage | found by |
//! |---|---|
//! | a recovery does not wait for batches that are about to be committed | wrong state |
//! | a batch of an earlier era is committed; one is committed although state was lost | wrong state |
//! | a batch that ends during a recovery is committed | wrong state |
//! | a loss during a recovery is forgotten; an output waits until it can read the state | stuck |

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dstreams_control::BatchTime;
use dstreams_control::cluster::{Finish, Recovery};

/// Batches of a schedule.
const BATCHES: u64 = 3;
/// Losses of a schedule.
const LOSSES: u32 = 2;

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum Fault {
    FinishedNotAwaited,
    OldEraCommitted,
    CommittedAfterLoss,
    CommittedDuringRecovery,
    LossDuringRecoveryForgotten,
    ReadsWaitForCommit,
}

const FAULTS: &[Fault] = &[
    Fault::FinishedNotAwaited,
    Fault::OldEraCommitted,
    Fault::CommittedAfterLoss,
    Fault::CommittedDuringRecovery,
    Fault::LossDuringRecoveryForgotten,
    Fault::ReadsWaitForCommit,
];

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum Action {
    Run,
    /// The tasks are done: the state has the changes of the batch, if they are of the present era.
    Ran,
    Finish,
    Read,
    Commit,
    Lose,
    Begin,
    Restore,
    End,
}

use Action::{Begin, Commit, End, Finish as Ask, Lose, Ran, Read, Restore, Run};

/// What may happen now depends on the history alone, so a history is a state.
#[derive(Clone, Debug)]
struct World {
    machine: Recovery,
    fault: Option<Fault>,
    /// The batch as of which the state is; `None` if it is lost.
    state: Option<u64>,
    committed: u64,
    /// The batch that runs, its era, and whether its tasks are done.
    run: Option<(u64, u32, bool)>,
    /// A batch that may be committed.
    finished: Option<u64>,
    /// Whether its output has read the state, or was refused.
    read: bool,
    /// What the recovery began with, whether state was lost since, and whether it was restored.
    recovering: Option<u64>,
    lost_since: bool,
    restored: bool,
    losses: u32,
}

impl World {
    fn new(fault: Option<Fault>) -> Self {
        World {
            machine: Recovery::default(),
            fault,
            state: Some(0),
            committed: 0,
            run: None,
            finished: None,
            read: false,
            recovering: None,
            lost_since: false,
            restored: false,
            losses: 0,
        }
    }

    /// All that two worlds can differ in.
    fn key(&self) -> String {
        format!("{self:?}")
    }

    fn is_over(&self) -> bool {
        self.committed == BATCHES
    }

    fn may(&self, action: Action) -> bool {
        match action {
            // It waits for a state as of the last commit.
            Run => {
                let free = self.run.is_none() && self.finished.is_none() && !self.is_over();
                free && self.state == Some(self.committed)
            }
            Ran => self.run.is_some_and(|(_, _, ran)| !ran),
            Ask => self.run.is_some_and(|(_, _, ran)| ran),
            Read => {
                let refused = self.machine.waits_for_commit()
                    && self.fault != Some(Fault::ReadsWaitForCommit);
                self.finished.is_some() && !self.read && (self.state.is_some() || refused)
            }
            Commit => self.finished.is_some() && self.read,
            Lose => self.losses < LOSSES,
            Begin => {
                let anew = self.recovering.is_some() && self.machine.is_lost();
                let early = self.fault == Some(Fault::FinishedNotAwaited)
                    && self.machine.is_lost()
                    && self.recovering.is_none();
                self.machine.may_begin() || anew || early
            }
            Restore => self.recovering.is_some() && !self.restored && !self.lost_since,
            End => self.recovering.is_some() && self.restored,
        }
    }

    /// Takes an action; `Err` says what is wrong then.
    fn take(&mut self, action: Action) -> Result<(), String> {
        match action {
            Run => self.run = Some((self.committed + 1, self.machine.era(), false)),
            Ran => {
                if let Some((batch, era, ran)) = &mut self.run {
                    *ran = true;
                    if *era == self.machine.era() && self.state == Some(*batch - 1) {
                        self.state = Some(*batch);
                    }
                }
            }
            Ask => self.ask(),
            Read => self.read = true,
            Commit => {
                self.read = false;
                if let Some(batch) = self.finished.take() {
                    self.committed = batch;
                    self.machine.committed(BatchTime(batch));
                }
            }
            Lose => {
                self.losses += 1;
                (self.state, self.lost_since) = (None, true);
                let forgotten = self.fault == Some(Fault::LossDuringRecoveryForgotten);
                if !(forgotten && self.recovering.is_some()) {
                    self.machine.lost();
                }
            }
            Begin => {
                self.machine.begin();
                self.recovering = Some(self.committed);
                (self.state, self.lost_since, self.restored) = (None, false, false);
            }
            Restore => (self.state, self.restored) = (self.recovering, true),
            End => {
                self.recovering = None;
                self.machine.end();
            }
        }
        let has = self.state;
        match self.finished {
            // What is lost after the batch ran is recovered after its commit.
            Some(batch) if has.is_some_and(|has| has != batch) => Err(format!(
                "batch {batch} is to be committed, and the state is as of {has:?}"
            )),
            _ => Ok(()),
        }
    }

    fn ask(&mut self) {
        let Some((batch, era, _)) = self.run else {
            return;
        };
        let finish = self.machine.finish(BatchTime(batch), era);
        let commits = match (finish, self.fault) {
            (Finish::Commit, _) => true,
            (Finish::RunAgain, Some(Fault::OldEraCommitted)) => era != self.machine.era(),
            (Finish::RunAgain, Some(Fault::CommittedAfterLoss)) => era == self.machine.era(),
            (Finish::Wait, Some(Fault::CommittedDuringRecovery)) => true,
            _ => false,
        };
        match finish {
            _ if commits => (self.run, self.finished) = (None, Some(batch)),
            Finish::RunAgain => self.run = None,
            Finish::Wait | Finish::Commit => {}
        }
    }
}

/// Walks through all worlds that can be reached; returns their number, or what is wrong with one.
fn explore(fault: Option<Fault>) -> Result<usize, String> {
    let first = World::new(fault);
    let mut known: BTreeMap<String, usize> = BTreeMap::from([(first.key(), 0)]);
    let (mut worlds, mut queue) = (vec![first], VecDeque::from([0]));
    // By world: those that lead to it.
    let mut before: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    while let Some(at) = queue.pop_front() {
        for action in [Run, Ran, Ask, Read, Commit, Lose, Begin, Restore, End] {
            if !worlds[at].may(action) {
                continue;
            }
            let mut next = worlds[at].clone();
            let taken = next.take(action);
            taken.map_err(|wrong| {
                format!("wrong state: {wrong} after {action:?} in {:?}", worlds[at])
            })?;
            let number = *known.entry(next.key()).or_insert(worlds.len());
            if number == worlds.len() {
                worlds.push(next);
                queue.push_back(number);
            }
            before.entry(number).or_default().push(at);
        }
    }
    // From each one, all batches can still be committed.
    let over = (0..worlds.len()).filter(|at| worlds[*at].is_over());
    let mut live: BTreeSet<usize> = over.collect();
    let mut queue: VecDeque<usize> = live.iter().copied().collect();
    while let Some(at) = queue.pop_front() {
        for &earlier in before.get(&at).into_iter().flatten() {
            if live.insert(earlier) {
                queue.push_back(earlier);
            }
        }
    }
    match (0..worlds.len()).find(|at| !live.contains(at)) {
        Some(stuck) => Err(format!("stuck: {:?}", worlds[stuck])),
        None => Ok(worlds.len()),
    }
}

#[test]
fn every_schedule_commits_all_batches_on_the_right_state() {
    let worlds = explore(None).unwrap();
    println!("{worlds} worlds");
    assert!(worlds > 100, "only {worlds} worlds");
}

#[test]
fn sabotage_is_found() {
    for &fault in FAULTS {
        let found = explore(Some(fault)).unwrap_err();
        println!("{fault:?}: {found}");
    }
}
