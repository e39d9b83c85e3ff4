//! [`States`]: the partitions of state that a worker has, as the list of changes it has applied.
//!
//! A change is applied on top of the one before it or not at all, so a worker that misses one gets no further. While a
//! copy of the state is on its way, changes wait for it.

use std::collections::BTreeMap;

use dstreams_control::BatchTime;
use dstreams_control::cluster::{ClusterEvent, WorkerId};

use super::{End, Letter};

enum State {
    Has {
        copy: u64,
        versions: Vec<BatchTime>,
    },
    Waits {
        copy: u64,
        changes: Vec<(Option<BatchTime>, BatchTime)>,
    },
}

#[derive(Default)]
pub struct States(BTreeMap<u32, State>);

type Letters = Vec<(End, Letter)>;

impl States {
    /// Whether the worker has all these changes.
    pub fn has(&self, partition: u32, wanted: &[BatchTime]) -> bool {
        match self.0.get(&partition) {
            Some(State::Has { versions, .. }) => versions.starts_with(wanted),
            Some(State::Waits { .. }) => false,
            None => wanted.is_empty(),
        }
    }

    pub fn take(&mut self, me: WorkerId, from: End, letter: Letter, out: &mut Letters) {
        match letter {
            Letter::CopyState {
                partition,
                from,
                copy,
            } => {
                let changes = Vec::new();
                self.0.insert(partition, State::Waits { copy, changes });
                out.push((End::Worker(from), Letter::WantState { partition, copy }));
            }
            Letter::WantState { partition, copy } => {
                let versions = match self.0.get(&partition) {
                    Some(State::Has { versions, .. }) => versions.clone(),
                    Some(State::Waits { .. }) => {
                        return out.push((from, Letter::NoState { partition, copy }));
                    }
                    None => Vec::new(),
                };
                let state = Letter::HaveState {
                    partition,
                    copy,
                    versions,
                };
                out.push((from, state));
            }
            Letter::HaveState {
                partition,
                copy,
                versions,
            } => self.arrived(me, partition, copy, versions, out),
            Letter::NoState { partition, copy } => {
                if self.waits_for(partition, copy).is_some() {
                    self.0.remove(&partition);
                    let failed = ClusterEvent::StateCopyFailed {
                        partition,
                        to: me,
                        copy,
                    };
                    out.push((End::Master, Letter::Said(failed)));
                }
            }
            Letter::Install {
                partition,
                before,
                version,
            } => self.install(me, partition, (before, version), out),
            Letter::Remade {
                partition,
                copy,
                versions,
            } => {
                let last = versions.last().copied().unwrap_or(BatchTime(0));
                self.0.insert(partition, State::Has { copy, versions });
                out.push(installed(me, partition, last, copy));
            }
            Letter::Release { partition } => {
                self.0.remove(&partition);
            }
            letter => panic!("{me} from {from:?}: {letter:?}"),
        }
    }

    fn waits_for(
        &mut self,
        partition: u32,
        number: u64,
    ) -> Option<Vec<(Option<BatchTime>, BatchTime)>> {
        match self.0.get_mut(&partition) {
            Some(State::Waits { copy, changes }) if *copy == number => {
                Some(std::mem::take(changes))
            }
            _ => None,
        }
    }

    fn arrived(
        &mut self,
        me: WorkerId,
        partition: u32,
        copy: u64,
        versions: Vec<BatchTime>,
        out: &mut Letters,
    ) {
        let Some(changes) = self.waits_for(partition, copy) else {
            return;
        };
        self.0.insert(partition, State::Has { copy, versions });
        for change in changes {
            self.install(me, partition, change, &mut Vec::new());
        }
        if let Some(State::Has { versions, .. }) = self.0.get(&partition) {
            let last = versions.last().copied().unwrap_or(BatchTime(0));
            out.push(installed(me, partition, last, copy));
        }
    }

    fn install(
        &mut self,
        me: WorkerId,
        partition: u32,
        (before, version): (Option<BatchTime>, BatchTime),
        out: &mut Letters,
    ) {
        let state = self.0.entry(partition).or_insert_with(|| State::Has {
            copy: 0,
            versions: Vec::new(),
        });
        match state {
            State::Has { copy, versions } => {
                if versions.last().copied() == before {
                    versions.push(version);
                }
                if versions.last() == Some(&version) {
                    out.push(installed(me, partition, version, *copy));
                }
            }
            State::Waits { changes, .. } => changes.push((before, version)),
        }
    }
}

fn installed(worker: WorkerId, partition: u32, version: BatchTime, copy: u64) -> (End, Letter) {
    let event = ClusterEvent::Installed {
        worker,
        partition,
        version,
        copy,
    };
    (End::Master, Letter::Said(event))
}
