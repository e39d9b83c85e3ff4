//! [`States`]: the partitions of state that a worker has, as the list of changes it has applied.
//!
//! A change is applied on top of the one before it or not at all, so a worker that misses one gets no further. The
//! worker that runs a batch's task retains the change until it is forgotten. The others are told where to fetch it,
//! and do so once their earlier orders are done, a copy of the whole state among them, which may take long.

use std::collections::{BTreeMap, VecDeque};

use dstreams_control::BatchTime;
use dstreams_control::cluster::{ClusterEvent, WorkerId};

use super::letter::Change;
use super::{End, Letter};

/// Requests to a worker that does not answer: they take longer than a loss stays unnoticed.
const MAX_TRIES: u32 = 2_000;

/// An order to a worker to fetch something.
#[derive(Copy, Clone)]
enum Order {
    Copy { from: WorkerId, copy: u64 },
    Install { from: WorkerId, version: BatchTime },
}

#[derive(Default)]
struct State {
    /// The number of the copy that it began with.
    copy: u64,
    versions: Vec<BatchTime>,
    /// The first is in progress.
    orders: VecDeque<Order>,
    /// Requests for the first order that failed.
    tries: u32,
    /// A copy will replace the state here.
    void: bool,
    /// The batch whose changes, of records that are then set aside, it has applied.
    bad: Option<BatchTime>,
}

#[derive(Default)]
pub struct States {
    all: BTreeMap<u32, State>,
    /// The changes of tasks that ran here.
    retained: BTreeMap<(u32, BatchTime), Change>,
}

type Letters = Vec<(End, Letter)>;

impl States {
    /// Whether the worker has all these changes.
    pub fn has(&self, partition: u32, wanted: &[BatchTime]) -> bool {
        match self.all.get(&partition) {
            Some(state) => {
                let is_right = state.bad.is_none_or(|bad| !wanted.contains(&bad));
                !state.void && is_right && state.versions.starts_with(wanted)
            }
            None => wanted.is_empty(),
        }
    }

    /// Whether the batch's task has run here, so that others can get what it changed.
    pub fn keeps(&self, partition: u32, version: BatchTime) -> bool {
        self.retained.contains_key(&(partition, version))
    }

    /// The number of changes retained here.
    pub fn changes(&self) -> usize {
        self.retained.len()
    }

    pub fn take(&mut self, me: WorkerId, from: End, letter: Letter, out: &mut Letters) {
        match letter {
            Letter::CopyState {
                partition,
                from,
                copy,
            } => self.order(me, partition, Order::Copy { from, copy }, out),
            Letter::Install {
                partition,
                version,
                from,
            } => self.order(me, partition, Order::Install { from, version }, out),
            Letter::WantState { partition, copy } => {
                let state = self.all.get(&partition);
                out.push(match state.filter(|state| state.void) {
                    Some(_) => (from, Letter::NoState { partition, copy }),
                    None => {
                        let state = state.map(|state| (state.versions.clone(), state.bad));
                        let (versions, bad) = state.unwrap_or_default();
                        let state = Letter::HaveState {
                            partition,
                            copy,
                            versions,
                            bad,
                        };
                        (from, state)
                    }
                });
            }
            Letter::HaveState {
                partition,
                copy,
                versions,
                bad,
            } => {
                if self.waits_for_copy(partition, copy) {
                    let state = self.all.entry(partition).or_default();
                    (state.copy, state.versions, state.void) = (copy, versions, false);
                    state.bad = bad;
                    out.push(installed(me, partition, state));
                    self.done(me, partition, out);
                }
            }
            Letter::NoState { partition, copy } => {
                if self.waits_for_copy(partition, copy) {
                    let failed = ClusterEvent::StateCopyFailed {
                        partition,
                        to: me,
                        copy,
                    };
                    out.push((End::Master, Letter::Said(failed)));
                    self.done(me, partition, out);
                }
            }
            Letter::WantChange { partition, version } => {
                let letter = match self.retained.get(&(partition, version)) {
                    Some(&change) => Letter::HaveChange { partition, change },
                    None => Letter::NoChange {
                        partition,
                        version,
                        silent: false,
                    },
                };
                out.push((from, letter));
            }
            Letter::HaveChange { partition, change } => {
                if self.waits_for_change(partition, change.version) {
                    self.apply(me, partition, change, out);
                    self.done(me, partition, out);
                }
            }
            Letter::NoChange {
                partition,
                version,
                silent,
            } => {
                if self.waits_for_change(partition, version) {
                    let state = self.all.entry(partition).or_default();
                    let later = || state.orders.iter().skip(1);
                    let replaced = later().any(|order| matches!(order, Order::Copy { .. }));
                    let again = later().any(|order| match order {
                        Order::Copy { .. } => false,
                        Order::Install { version: of, .. } => *of == version,
                    });
                    state.tries += 1;
                    // Must not count as unavailable before the loss of the worker that has it is noticed.
                    if silent && !again && !replaced && state.tries < MAX_TRIES {
                        return self.begin(me, partition, out);
                    }
                    // If it is available elsewhere, the next request goes there.
                    if replaced || !again {
                        self.miss(partition, version, out);
                    }
                    self.done(me, partition, out);
                }
            }
            Letter::Run { partition, change } => {
                self.retained.insert((partition, change.version), change);
                self.apply(me, partition, change, out);
            }
            Letter::Forget { batch, but } => self.retained.retain(|&(partition, version), _| {
                let needed = but
                    .iter()
                    .any(|&(of, since)| of == partition && version > since);
                version > batch || needed
            }),
            Letter::Remade {
                partition,
                copy,
                versions,
            } => {
                let state = State {
                    copy,
                    versions,
                    ..State::default()
                };
                out.push(installed(me, partition, &state));
                self.all.insert(partition, state);
            }
            Letter::Release { partition } => {
                self.all.remove(&partition);
            }
            letter => panic!("{me} from {from:?}: {letter:?}"),
        }
    }

    fn order(&mut self, me: WorkerId, partition: u32, order: Order, out: &mut Letters) {
        let state = self.all.entry(partition).or_default();
        state.orders.push_back(order);
        if state.orders.len() == 1 {
            self.begin(me, partition, out);
        }
    }

    /// Requests what the first order names.
    fn begin(&mut self, me: WorkerId, partition: u32, out: &mut Letters) {
        let state = self.all.entry(partition).or_default();
        // A change that is here, from a copy or its task, is not requested.
        while let Some(Order::Install { version, .. }) = state.orders.front()
            && !state.void
            && state.versions.last() >= Some(version)
        {
            out.push(installed(me, partition, state));
            state.orders.pop_front();
        }
        out.extend(state.orders.front().map(|&order| match order {
            Order::Copy { from, copy } => {
                state.void = true;
                (End::Worker(from), Letter::WantState { partition, copy })
            }
            Order::Install { from, version } => {
                (End::Worker(from), Letter::WantChange { partition, version })
            }
        }));
    }

    fn done(&mut self, me: WorkerId, partition: u32, out: &mut Letters) {
        let state = self.all.entry(partition).or_default();
        state.orders.pop_front();
        state.tries = 0;
        self.begin(me, partition, out);
    }

    fn first(&self, partition: u32) -> Option<Order> {
        self.all.get(&partition)?.orders.front().copied()
    }

    fn waits_for_copy(&self, partition: u32, number: u64) -> bool {
        matches!(self.first(partition), Some(Order::Copy { copy, .. }) if copy == number)
    }

    fn waits_for_change(&self, partition: u32, of: BatchTime) -> bool {
        matches!(self.first(partition), Some(Order::Install { version, .. }) if version == of)
    }

    fn apply(&mut self, me: WorkerId, partition: u32, change: Change, out: &mut Letters) {
        let state = self.all.entry(partition).or_default();
        if !state.void && state.versions.last().copied() == change.before {
            state.versions.push(change.version);
            let bad = change.bad.then_some(change.version);
            state.bad = state.bad.or(bad);
        }
        if state.void || state.versions.last() < Some(&change.version) {
            return self.miss(partition, change.version, out);
        }
        out.push(installed(me, partition, state));
    }

    fn miss(&self, partition: u32, version: BatchTime, out: &mut Letters) {
        out.push((End::Master, Letter::InstallFailed { partition, version }));
    }
}

fn installed(worker: WorkerId, partition: u32, state: &State) -> (End, Letter) {
    let event = ClusterEvent::Installed {
        worker,
        partition,
        version: state.versions.last().copied().unwrap_or(BatchTime(0)),
        copy: state.copy,
    };
    (End::Master, Letter::Said(event))
}
