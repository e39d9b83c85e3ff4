//! [`Node`]: the model of the node that executes commands: receivers that come and go, with random arrivals, an
//! engine and sinks that take random time and may fail. Every `Seal`, `Run` and `Commit` is answered eventually.

use std::collections::{BTreeMap, BTreeSet};

use dstreams_control::{BatchTime, BlockId, BlockMeta, Command, Due, Event, ReceiverId};

use crate::ledger::Ledger;
use crate::plan::{Plan, Rates};
use crate::rng::Rng;
use crate::tally::Tally;

/// A message on its way to the controller.
#[derive(Clone, Debug)]
pub struct Sent {
    pub event: Event,
    /// Microseconds until it arrives.
    pub after: u64,
    /// It is a copy.
    pub again: bool,
}

struct Receiver {
    id: ReceiverId,
    /// Every block it took in.
    all: Vec<BlockMeta>,
    /// Received and not reported.
    held: Vec<BlockMeta>,
}

pub struct Node {
    interval_us: u64,
    receivers: Vec<Receiver>,
    /// The next to join.
    next_receiver: u64,
    /// Receivers whose leaving was reported to the controller.
    gone: BTreeSet<ReceiverId>,
    /// Receivers take in blocks: from the start until they are closed.
    open: bool,
    /// Every block that a receiver took in and that was not lost when it left.
    pub received: BTreeSet<BlockId>,
    /// Reports and `Left` events in flight.
    on_their_way: BTreeMap<ReceiverId, usize>,
    /// How many of those at the latest cut.
    pub behind_last_cut: usize,
    /// Answers to the last `Seal` of receivers whose sources do not end.
    stuck: Vec<Sent>,
    /// Answers given, to repeat as noise.
    said: Vec<Event>,
}

impl Receiver {
    fn new(id: ReceiverId) -> Self {
        let (all, held) = (Vec::new(), Vec::new());
        Self { id, all, held }
    }
}

impl Node {
    pub fn new(plan: &Plan) -> Self {
        let receivers: Vec<_> = plan.receivers.iter().map(|&id| Receiver::new(id)).collect();
        Self {
            interval_us: plan.config.interval_ms * 1_000,
            next_receiver: u64::try_from(receivers.len()).unwrap(),
            receivers,
            gone: BTreeSet::new(),
            open: false,
            received: BTreeSet::new(),
            on_their_way: BTreeMap::new(),
            behind_last_cut: 0,
            stuck: Vec::new(),
            said: Vec::new(),
        }
    }

    /// Receivers begin to take in blocks.
    pub fn start(&mut self) {
        self.open = true;
    }

    /// A receiver joins, if they are open.
    pub fn join(&mut self, tally: &mut Tally) -> Option<Sent> {
        if !self.open {
            return None;
        }
        let receiver = ReceiverId(self.next_receiver);
        self.next_receiver += 1;
        self.receivers.push(Receiver::new(receiver));
        tally.add("receiver joined");
        let sent = Sent {
            event: Event::Joined { receiver },
            after: 0,
            again: false,
        };
        self.said.push(sent.event.clone());
        Some(sent)
    }

    /// A receiver leaves, if there is one; not all of its blocks may survive.
    pub fn leave(&mut self, rates: &Rates, rng: &mut Rng, tally: &mut Tally) -> Option<Sent> {
        self.take_in(rng);
        let at = rng.below(self.receivers.len() as u64);
        if self.receivers.is_empty() {
            return None;
        }
        let leaver = self.receivers.remove(usize::try_from(at).unwrap());
        let (lost, mut blocks): (Vec<_>, Vec<_>) =
            (leaver.all.into_iter()).partition(|_| rng.chance(rates.block_lost));
        if rng.chance(500) {
            blocks.reverse();
        }
        for block in &lost {
            self.received.remove(&block.id);
        }
        tally.add("receiver left");
        if !leaver.held.is_empty() {
            tally.add("receiver left with unreported blocks");
        }
        if !lost.is_empty() {
            tally.add("receiver left and blocks were lost");
        }
        *self.on_their_way.entry(leaver.id).or_default() += 1;
        Some(Sent {
            event: Event::Left {
                receiver: leaver.id,
                blocks,
            },
            after: rng.below(3 * self.interval_us),
            again: false,
        })
    }

    /// Executes a command: what will be answered, and when.
    pub fn carry_out(&mut self, command: Command, rates: &Rates, rng: &mut Rng) -> Vec<Sent> {
        let sent = match command {
            Command::Seal { batch } => self.seal(batch, rates, rng),
            Command::StopWaiting { .. } => std::mem::take(&mut self.stuck),
            Command::CloseReceivers => {
                self.take_in(rng);
                self.open = false;
                Vec::new()
            }
            Command::Run { batch, attempt } => vec![self.run(batch, attempt, rates, rng)],
            Command::SetAside { batch, .. } => vec![self.set_aside(batch, rates, rng)],
            Command::Commit { batch, .. } => vec![self.commit(batch, rates, rng)],
            _ => Vec::new(),
        };
        self.said.extend(sent.iter().map(|sent| sent.event.clone()));
        sent
    }

    /// Some blocks arrive at each receiver, if they are open.
    fn take_in(&mut self, rng: &mut Rng) {
        for receiver in self.receivers.iter_mut().filter(|_| self.open) {
            for _ in 0..rng.below(4) {
                let id = BlockId {
                    receiver: receiver.id,
                    seq: receiver.all.len() as u64,
                };
                let block = BlockMeta {
                    id,
                    rows: rng.below(100),
                    bytes: rng.below(10_000),
                };
                receiver.all.push(block);
                receiver.held.push(block);
                self.received.insert(id);
            }
        }
    }

    fn seal(&mut self, batch: BatchTime, rates: &Rates, rng: &mut Rng) -> Vec<Sent> {
        self.take_in(rng);
        for receiver in &self.receivers {
            *self.on_their_way.entry(receiver.id).or_default() += 1;
        }
        let interval = self.interval_us;
        let report = |receiver: &mut Receiver| {
            let mut blocks = std::mem::take(&mut receiver.held);
            if rng.chance(500) {
                blocks.reverse();
            }
            let after = if rng.chance(rates.very_late_report) {
                rng.below(20 * interval)
            } else if rng.chance(rates.late_report) {
                rng.below(3 * interval)
            } else {
                rng.below(interval / 10)
            };
            Sent {
                event: Event::Reported {
                    batch,
                    receiver: receiver.id,
                    blocks,
                },
                after,
                again: false,
            }
        };
        let reports = self.receivers.iter_mut().map(report);
        let reports: Vec<_> = reports.collect();
        if self.open {
            return reports;
        }
        let (stuck, reports) = reports.into_iter().partition(|_| rng.chance(200));
        self.stuck = stuck;
        reports
    }

    fn run(&self, batch: BatchTime, attempt: u32, rates: &Rates, rng: &mut Rng) -> Sent {
        let event = if rng.chance(rates.run_fails_for_good) {
            Event::Failed {
                batch,
                attempt,
                retryable: false,
                of_batch: rng.chance(800),
            }
        } else if rng.chance(rates.run_fails) {
            Event::Failed {
                batch,
                attempt,
                retryable: true,
                of_batch: rng.chance(500),
            }
        } else {
            Event::Finished { batch, attempt }
        };
        let most = if rng.chance(rates.slow_run) {
            2 * self.interval_us
        } else {
            self.interval_us / 3
        };
        Sent {
            event,
            after: rng.below(most),
            again: false,
        }
    }

    fn set_aside(&self, batch: BatchTime, rates: &Rates, rng: &mut Rng) -> Sent {
        let event = match rng.chance(rates.set_aside_fails) {
            true => Event::SetAsideFailed { batch },
            false => Event::SetAside { batch },
        };
        Sent {
            event,
            after: rng.below(self.interval_us),
            again: false,
        }
    }

    fn commit(&self, batch: BatchTime, rates: &Rates, rng: &mut Rng) -> Sent {
        let event = if rng.chance(rates.commit_fails_for_good) {
            Event::CommitFailed {
                batch,
                retryable: false,
            }
        } else if rng.chance(rates.commit_fails) {
            Event::CommitFailed {
                batch,
                retryable: true,
            }
        } else {
            Event::Committed { batch }
        };
        Sent {
            event,
            after: rng.below(self.interval_us / 5),
            again: false,
        }
    }

    /// The answer to an `AskDue`, from the batches that were cut until now.
    pub fn due(&mut self, after: BatchTime, ledger: &Ledger, rates: &Rates, rng: &mut Rng) -> Sent {
        let interval = ledger.config.interval_ms;
        let mut due = ledger.program.due(&ledger.cuts, interval);
        if rng.chance(rates.due_unknown) {
            let next = BatchTime(after.0 + interval);
            due = Some(Due {
                from: next,
                to: next,
            });
        }
        let event = Event::Due { after, due };
        self.said.push(event.clone());
        Sent {
            event,
            after: rng.below(self.interval_us / 5),
            again: false,
        }
    }

    /// A meaningless message: one already answered, or about things that never existed.
    pub fn noise(&self, rng: &mut Rng) -> Event {
        let never = BatchTime(1 + rng.below(1_000));
        let foreign = ReceiverId(1_000);
        let block = BlockMeta {
            id: BlockId {
                receiver: foreign,
                seq: rng.below(9),
            },
            rows: 1,
            bytes: 1,
        };
        match rng.below(13) {
            0 => Event::Tick,
            1 => Event::Start {
                receivers: vec![foreign],
            },
            2 => Event::Reported {
                batch: never,
                receiver: foreign,
                blocks: vec![block],
            },
            3 => Event::Finished {
                batch: never,
                attempt: 1,
            },
            4 => Event::Failed {
                batch: never,
                attempt: 1,
                retryable: rng.chance(500),
                of_batch: rng.chance(500),
            },
            5 => Event::Committed { batch: never },
            6 => Event::CommitFailed {
                batch: never,
                retryable: rng.chance(500),
            },
            7 => match self.gone.first() {
                Some(&receiver) if rng.chance(500) => Event::Joined { receiver },
                Some(&receiver) => Event::Left {
                    receiver,
                    blocks: Vec::new(),
                },
                None => Event::Tick,
            },
            8 => Event::SetAside { batch: never },
            9 => Event::SetAsideFailed { batch: never },
            10 => Event::Due {
                after: never,
                due: None,
            },
            _ => self.said_long_ago(rng).unwrap_or(Event::Tick),
        }
    }

    /// An old answer again; a report as if for a batch that never existed.
    fn said_long_ago(&self, rng: &mut Rng) -> Option<Event> {
        let old = self.said.len().checked_sub(12)?;
        match self
            .said
            .get(usize::try_from(rng.below(old as u64)).unwrap())?
            .clone()
        {
            Event::Reported {
                receiver, blocks, ..
            } => {
                let held_back = blocks
                    .iter()
                    .any(|block| !self.received.contains(&block.id));
                (!held_back).then_some(Event::Reported {
                    batch: BatchTime(1),
                    receiver,
                    blocks,
                })
            }
            event => Some(event),
        }
    }

    /// A message arrives.
    pub fn arrives(&mut self, sent: &Sent, ledger: &Ledger, tally: &mut Tally) {
        if sent.again {
            return tally.add("duplicate delivered");
        }
        let waits = |batch: &BatchTime| {
            let attempt = ledger.attempts.get(batch);
            let first = ledger.first_pending().map(|cut| cut.batch);
            attempt.is_some_and(|it| it.outcome.is_none()) && first != Some(*batch)
        };
        match &sent.event {
            Event::Finished { batch, .. } if waits(batch) => {
                tally.add("finished before the one before it");
            }
            Event::Left { receiver, .. } => {
                self.on_their_way.remove(receiver);
                self.gone.insert(*receiver);
                if ledger.open.is_some() {
                    tally.add("receiver left with a Seal outstanding");
                }
            }
            Event::Reported {
                batch, receiver, ..
            } => {
                match self.on_their_way.get_mut(receiver) {
                    Some(count) => *count -= 1,
                    None => tally.add("report of one that has left"),
                }
                if ledger.cuts.last().is_some_and(|cut| cut.batch >= *batch) {
                    tally.add("report after its cut");
                }
            }
            Event::Failed {
                retryable: true, ..
            } => tally.add("Failed retryable"),
            Event::Failed {
                batch,
                retryable: false,
                of_batch,
                ..
            } => {
                tally.add("Failed for good");
                if !of_batch {
                    tally.add("Failed for good, not of the batch");
                }
                if waits(batch) {
                    tally.add("lost before the one before it");
                }
            }
            Event::Due { after, due } => match due {
                None => tally.add("Due never"),
                Some(due) if due.from.0 > after.0 + ledger.config.interval_ms => {
                    tally.add("Due for a time-out");
                }
                Some(due) if !ledger.is_due(due.from) => tally.add("Due that is not known"),
                Some(_) => tally.add("Due given"),
            },
            Event::CommitFailed {
                retryable: true, ..
            } => tally.add("CommitFailed retryable"),
            Event::CommitFailed {
                retryable: false, ..
            } => tally.add("CommitFailed for good"),
            _ => {}
        }
    }

    /// A command was given; `ledger` does not have it yet.
    pub fn note(&mut self, command: &Command, ledger: &Ledger, tally: &mut Tally) {
        let later = |batch: &BatchTime| ledger.expected.is_some_and(|first| first < *batch);
        match command {
            Command::Seal { batch } if later(batch) => tally.add("intervals skipped"),
            Command::Cut { batch, blocks } => {
                if ledger.open.is_none() {
                    tally.add("cut without a Seal of its own");
                    if later(batch) {
                        tally.add("intervals skipped");
                    }
                }
                self.behind_last_cut = self.on_their_way.values().sum();
                if blocks.is_empty() {
                    tally.add("cut of no blocks");
                }
                if ledger.awaited.iter().any(|(awaited, _)| awaited == batch) {
                    tally.add("cut without all reports");
                }
            }
            Command::Abort { .. } => {
                tally.add("Abort given");
                let running = ledger.attempts.values().filter(|it| it.outcome.is_none());
                if running.count() > 1 {
                    tally.add("Abort of several");
                }
            }
            Command::StopWaiting { .. } => tally.add("sources were not waited for any longer"),
            Command::SetAside { .. } => tally.add("SetAside given"),
            Command::Run { batch, .. }
                if ledger
                    .attempts
                    .get(batch)
                    .is_some_and(|it| it.set_aside.is_some()) =>
            {
                tally.add("run of what was set aside");
            }
            Command::Fail { .. } => tally.add("Fail given"),
            Command::Stopped { .. } if ledger.deadline_passed() => tally.add("deadline passed"),
            _ => {}
        }
    }
}
