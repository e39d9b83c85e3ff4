//! The master's loop: feeds events to the two machines and executes their commands.
//!
//! An event's commands are executed before the next event; meanwhile, what the machines have for each other waits in
//! a queue.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use dstreams_control::cluster::{ClusterCommand, ClusterEvent, InputKind, WorkerId};
use dstreams_control::{BatchTime, BlockId, BlockMeta, Command, Event, ReceiverId};

use super::letter::{Change, name};
use super::truth::{NOBODY, SOURCE};
use super::{Block, End, Item, Letter, World};
use crate::judge::Violation;

/// A step to take.
pub(super) enum Do {
    Cluster(ClusterEvent),
    Control(Event),
}

/// A batch that runs, or is being committed.
#[derive(Debug)]
struct Job {
    batch: BatchTime,
    attempt: u32,
    /// All tasks are done except those on state.
    ran: bool,
    finished: bool,
    committed: bool,
    changes: BTreeSet<u32>,
    /// It fails once those tasks' changes are installed.
    bad: bool,
    /// The worker that ran the task on state of each partition.
    run_by: BTreeMap<u32, WorkerId>,
    /// Partitions whose other workers were told so.
    told: BTreeSet<(u32, WorkerId)>,
    /// Standbys that had all earlier changes: the commit waits, or waited, for them.
    waited: BTreeSet<(u32, WorkerId)>,
}

#[derive(Default)]
pub(super) struct Master {
    tokens: u64,
    /// The producer and connection of each claim, by token.
    claims: BTreeMap<u64, (usize, u64)>,
    wakes: u64,
    cuts: BTreeMap<BatchTime, Vec<BlockMeta>>,
    job: Option<Job>,
    /// The workers with a role in each partition, the primary first.
    assigned: BTreeMap<u32, Vec<WorkerId>>,
    /// Partitions whose state the next primary recovers.
    recovering: BTreeMap<u32, u64>,
    /// The number that the state of a partition at a worker began with, as last reported.
    began: BTreeMap<(u32, WorkerId), u64>,
    /// Workers that could not get a batch's changes, and have lacked them since.
    behind: BTreeMap<(u32, WorkerId), BatchTime>,
    /// The changes of a committed batch, until the cluster machine hears of its commit.
    changed: BTreeMap<BatchTime, BTreeSet<u32>>,
    /// Blocks of the master's own receivers.
    made: BTreeMap<ReceiverId, u64>,
    /// The engine postpones all its answers.
    pub engine_stands: bool,
    /// Blocks from the journals of lost workers.
    adopted: BTreeSet<BlockId>,
    held_back: Vec<(BatchTime, u32)>,
    /// Batches whose records are set aside.
    set_aside: BTreeSet<BatchTime>,
    pub stopped: bool,
}

impl Master {
    /// The batch in progress, for failure texts.
    pub fn job(&self) -> String {
        format!("{:?}", self.job)
    }
}

impl World<'_> {
    /// Takes all steps that are due.
    pub(super) fn settle(&mut self) -> Result<(), Violation> {
        while let Some(step) = self.todo.pop_front() {
            match step {
                Do::Cluster(event) => self.step_cluster(event)?,
                Do::Control(event) => self.step_control(event)?,
            }
        }
        Ok(())
    }

    fn step_cluster(&mut self, event: ClusterEvent) -> Result<(), Violation> {
        match &event {
            ClusterEvent::Stored { worker, blocks }
            | ClusterEvent::Fenced { worker, blocks, .. }
            | ClusterEvent::Retired { worker, blocks } => {
                for block in blocks {
                    let worker = self.workers.get_mut(worker);
                    let held = worker.and_then(|worker| worker.store.get_mut(&block.meta.id));
                    held.into_iter().for_each(|held| held.counts = true);
                }
            }
            ClusterEvent::Installed {
                worker,
                partition,
                version,
                copy,
            } => {
                let part = (*partition, *worker);
                let known = self.master.began.insert(part, *copy);
                // A new copy lacks nothing, nor does a worker that got the changes in the end.
                let missed = self.master.behind.get(&part);
                if known != Some(*copy) || missed.is_some_and(|missed| missed <= version) {
                    self.master.behind.remove(&part);
                }
            }
            ClusterEvent::StateInvalidated => {
                self.master.began.clear();
                self.master.behind.clear();
            }
            ClusterEvent::Committed { batch } => {
                for partition in self.master.changed.remove(batch).unwrap_or_default() {
                    self.truth.states.entry(partition).or_default().push(*batch);
                }
            }
            _ => {}
        }
        let installed = match event {
            ClusterEvent::Installed {
                worker, partition, ..
            } => Some((partition, worker)),
            _ => None,
        };
        let committed = match event {
            ClusterEvent::Committed { batch } => Some(batch),
            _ => None,
        };
        let commands = self.judge.step(
            self.machine,
            event,
            (&self.workers, &self.truth, &self.clients[..]),
            &mut self.tally,
        )?;
        for command in commands {
            self.carry_out(command);
        }
        if let Some((partition, worker)) = installed {
            self.has_installed(partition, worker);
        }
        if let Some(batch) = committed {
            let but = self.machine.missing_changes();
            let there: Vec<_> = self.judge.ledger.live.iter().copied().collect();
            for worker in there {
                let but = but.clone();
                self.order(worker, Letter::Forget { batch, but });
            }
        }
        self.advance_job()
    }

    fn step_control(&mut self, event: Event) -> Result<(), Violation> {
        for command in self.controller.step(event, self.now()) {
            if let Command::Cut { batch, blocks } = &command {
                self.judge.cut(
                    *batch,
                    blocks,
                    (&self.workers, &self.truth, &self.clients[..]),
                    self.machine.state(),
                )?;
            }
            self.carry_out_control(command);
        }
        Ok(())
    }

    fn order(&mut self, worker: WorkerId, letter: Letter) {
        self.send(End::Master, End::Worker(worker), letter);
    }

    fn carry_out(&mut self, command: ClusterCommand) {
        match command {
            ClusterCommand::Receive {
                worker,
                input,
                receiver,
                offsets,
            } => {
                self.todo.push_back(Do::Control(Event::Joined { receiver }));
                let position = offsets.first().map_or(0, |(_, last)| *last);
                if position > 0 {
                    self.tally.add("source resumed elsewhere");
                    let lost = &self.judge.ledger.lost_blocks;
                    self.truth
                        .is_granted((SOURCE, position), lost, &self.workers);
                }
                let receive = Letter::Receive {
                    receiver,
                    input,
                    position,
                };
                self.order(worker, receive);
            }
            ClusterCommand::Peer { worker, to } => self.order(worker, Letter::Peer(to)),
            ClusterCommand::Fence { at, lost } => self.order(at, Letter::Fence(lost)),
            ClusterCommand::ReceiverLost { receiver, blocks } => {
                let before = self.truth.safe.len();
                self.truth.alone(&self.judge.ledger);
                self.truth.is_gone(receiver, &blocks);
                if self.truth.safe.len() > before {
                    self.tally.add("block survived that was not acknowledged");
                }
                let there = self.workers.values().filter(|worker| worker.is_in());
                let mut held = there.flat_map(|worker| worker.store.keys());
                if held.any(|id| id.receiver == receiver && blocks.iter().all(|it| it.id != *id)) {
                    self.tally.add("block after a gap given up");
                }
                self.todo
                    .push_back(Do::Control(Event::Left { receiver, blocks }));
            }
            ClusterCommand::Copy { block, from, to } => {
                self.order(to, Letter::Copy { block, from })
            }
            ClusterCommand::Drop { worker, blocks } => self.order(worker, Letter::Drop(blocks)),
            ClusterCommand::BlockLost { .. } => self.tally.add("block lost"),
            ClusterCommand::SurvivorsUnknown { .. } => self.tally.add("survivors unknown"),
            ClusterCommand::Adopt { lost } => {
                let after = self.rng.below(2 * crate::plan::INTERVAL_US);
                self.push(after, Item::ReadJournal(lost));
            }
            ClusterCommand::Grant {
                token,
                worker,
                last,
            } => {
                if let Some(&(producer, connection)) = self.master.claims.get(&token) {
                    let lost = &self.judge.ledger.lost_blocks;
                    self.truth.is_granted((producer, last), lost, &self.workers);
                    let grant = Letter::Grant {
                        producer,
                        connection,
                        token,
                        last,
                    };
                    self.order(worker, grant);
                }
            }
            ClusterCommand::Refuse { token, worker } => {
                self.tally.add("claim refused");
                if let Some((producer, connection)) = self.master.claims.remove(&token) {
                    let refuse = Letter::Refuse {
                        producer,
                        connection,
                    };
                    self.order(worker, refuse);
                }
            }
            ClusterCommand::Revoke {
                worker,
                producer,
                token,
                ..
            } => {
                self.tally.add("producer revoked");
                let producer = producer.parse().unwrap();
                self.order(worker, Letter::Revoke { producer, token });
            }
            ClusterCommand::Assign {
                partition,
                primary,
                standby,
                next,
            } => {
                let parts = [Some(primary), standby, next].into_iter().flatten();
                self.assign(partition, primary, parts.collect());
            }
            ClusterCommand::CopyState {
                partition,
                from,
                to,
                copy,
            } => {
                let copy_state = Letter::CopyState {
                    partition,
                    from,
                    copy,
                };
                self.order(to, copy_state);
            }
            ClusterCommand::StateLost { partition, copy } => {
                self.tally.add("state lost");
                self.master.recovering.insert(partition, copy);
            }
            ClusterCommand::Retire { worker } => self.order(worker, Letter::Retire),
            ClusterCommand::Drained { worker } => {
                self.tally.add("worker drained");
                let after = self.rng.below(crate::plan::INTERVAL_US);
                self.push(after, Item::Ends(worker));
            }
        }
    }

    pub(super) fn read_journal(&mut self, lost: WorkerId) {
        self.tally.add("journal read");
        let Some(worker) = self.workers.get_mut(&lost) else {
            return;
        };
        worker.journal_taken = true;
        if worker.alive {
            self.tally.add("journal read of a worker that still runs");
        }
        let blocks: Vec<_> = worker.journal.values().map(|it| it.stored()).collect();
        let wanted = blocks.iter().map(|block| block.meta.id);
        let wanted: Vec<_> = wanted
            .filter(|id| self.machine.state().wants(*id))
            .collect();
        if !wanted.is_empty() {
            self.tally.add("block adopted");
        }
        self.master.adopted.extend(wanted);
        self.tell(ClusterEvent::Adopted { lost, blocks });
    }

    fn assign(&mut self, partition: u32, primary: WorkerId, parts: Vec<WorkerId>) {
        let before = self.master.assigned.insert(partition, parts.clone());
        for worker in before.into_iter().flatten() {
            if !parts.contains(&worker) {
                self.order(worker, Letter::Release { partition });
            }
        }
        let remade = self.master.recovering.remove(&partition);
        if let Some(copy) = remade {
            let remade = Letter::Remade {
                partition,
                copy,
                versions: self.truth.states[&partition].clone(),
            };
            self.order(primary, remade);
        }
        // A prepared task is not run again, except where only lost workers had its changes: really, by another
        // process.
        let again = |job: &Job| {
            let ran_there = job.run_by.get(&partition) == Some(&primary);
            let alone = !job.waited.contains(&(partition, primary));
            job.ran && job.changes.contains(&partition) && !ran_there && (!job.finished || alone)
        };
        let job = self.master.job.as_ref();
        if job.is_some_and(again) || remade.is_some() && job.is_some_and(|job| job.ran) {
            self.run(partition);
        }
    }

    /// Orders the primary of a partition to run the task of the batch.
    fn run(&mut self, partition: u32) {
        let parts = self.master.assigned.get(&partition);
        let Some((job, &primary)) = self
            .master
            .job
            .as_mut()
            .zip(parts.and_then(|it| it.first()))
        else {
            return;
        };
        if !job.changes.contains(&partition) {
            return;
        }
        job.run_by.insert(partition, primary);
        let change = Change {
            before: self.truth.states[&partition].last().copied(),
            version: job.batch,
            bad: job.bad,
        };
        self.order(primary, Letter::Run { partition, change });
    }

    /// Once the task has run, tells all others with a role in the partition to fetch its changes.
    fn has_installed(&mut self, partition: u32, worker: WorkerId) {
        let machine = self.machine.state();
        let Some(job) = self.master.job.as_mut() else {
            return;
        };
        let version = job.batch;
        let ran = job.run_by.get(&partition) == Some(&worker)
            && self.workers[&worker].states.keeps(partition, version)
            && machine.primary(partition) == Some(worker)
            && machine.version(partition) >= Some(version);
        if !ran || job.finished || !job.told.insert((partition, worker)) {
            return;
        }
        let parts = self.master.assigned.get(&partition);
        let others: Vec<_> = parts.into_iter().flatten().copied().collect();
        let others: Vec<_> = others
            .into_iter()
            .filter(|other| *other != worker)
            .collect();
        let behind = &self.master.behind;
        let complete = others.iter().filter(|other| {
            self.machine.has_all(partition, **other) && !behind.contains_key(&(partition, **other))
        });
        let complete = complete.map(|other| (partition, *other));
        job.waited.extend(complete);
        for other in others {
            let install = Letter::Install {
                partition,
                version,
                from: worker,
            };
            self.order(other, install);
        }
    }

    /// Finishes or commits the batch once the primaries have its changes.
    fn advance_job(&mut self) -> Result<(), Violation> {
        let Some(job) = self.master.job.as_mut().filter(|job| job.ran) else {
            return Ok(());
        };
        let (batch, attempt) = (job.batch, job.attempt);
        let machine = self.machine.state();
        let ledger = &self.judge.ledger;
        let told = |partition: u32, worker: WorkerId| {
            let part = ledger.parts.get(&(partition, worker));
            part.is_some_and(|part| part.version >= Some(batch))
        };
        let has = |partition: &u32| {
            // The worker that ran its task has reported it, unless it has no role any more.
            let ran = job.run_by.get(partition).copied();
            let ran = ran.filter(|ran| ledger.parts_of(*partition).any(|with| with == *ran));
            machine.version(*partition) >= Some(batch)
                && ran.is_none_or(|ran| told(*partition, ran))
        };
        let behind = &self.master.behind;
        let lacks = |&(partition, worker): &(u32, WorkerId)| {
            !told(partition, worker)
                && !behind.contains_key(&(partition, worker))
                && ledger.parts_of(partition).any(|with| with == worker)
                && ledger.live.contains(&worker)
        };
        // A worker that has since become standby, and had all before it, is waited for too.
        let standbys = || {
            let standby = |&partition: &u32| Some((partition, machine.standby(partition)?));
            let standbys = job.changes.iter().filter_map(standby);
            standbys.filter(|&(partition, standby)| self.machine.has_all(partition, standby))
        };
        let waits = || job.waited.iter().any(lacks) || standbys().any(|standby| lacks(&standby));
        if !job.changes.iter().all(has) || (!job.finished && waits()) {
            return Ok(());
        }
        if job.bad {
            self.tally.add("bad batch");
            self.master.job = None;
            self.todo.push_back(Do::Control(Event::Failed {
                batch,
                attempt,
                retryable: false,
                of_batch: true,
            }));
        } else if !std::mem::replace(&mut job.finished, true) {
            let behind = behind.keys().copied().collect();
            let facts = (&self.workers, &self.truth, &self.clients[..]);
            self.judge.finished(batch, &behind, facts, machine)?;
            self.todo
                .push_back(Do::Control(Event::Finished { batch, attempt }));
        } else if job.committed {
            let changes = std::mem::take(&mut job.changes);
            self.master.changed.insert(batch, changes);
            self.master.job = None;
            // Before anything else happens to the primaries.
            self.todo
                .push_front(Do::Control(Event::Committed { batch }));
            self.todo
                .push_front(Do::Cluster(ClusterEvent::Committed { batch }));
        }
        Ok(())
    }

    fn carry_out_control(&mut self, command: Command) {
        match command {
            Command::WakeAt(at) => {
                self.master.wakes += 1;
                let after = at.0.saturating_sub(self.now().0);
                self.push(after, Item::Wake(self.master.wakes));
            }
            Command::Seal { batch } => self.seal(batch),
            Command::Cut { batch, blocks } => drop(self.master.cuts.insert(batch, blocks)),
            Command::Run { batch, attempt } => {
                self.master.job = Some(Job {
                    batch,
                    attempt,
                    ran: false,
                    finished: false,
                    committed: false,
                    changes: BTreeSet::new(),
                    bad: false,
                    run_by: BTreeMap::new(),
                    told: BTreeSet::new(),
                    waited: BTreeSet::new(),
                });
                self.send(End::Master, End::Master, Letter::Ran { batch, attempt });
            }
            Command::Commit { .. } => self.send(End::Master, End::Master, Letter::Committed),
            Command::Forget { batch, blocks } => {
                self.master.cuts.remove(&batch);
                self.todo
                    .push_back(Do::Cluster(ClusterEvent::Forgotten { blocks }));
            }
            Command::Stopped { .. } => self.master.stopped = true,
            Command::CloseReceivers | Command::StopWaiting { .. } | Command::Completed(_) => {}
            Command::SetAside { batch, .. } => {
                self.master.set_aside.insert(batch);
                self.todo
                    .push_back(Do::Cluster(ClusterEvent::StateInvalidated));
                self.todo.push_back(Do::Control(Event::SetAside { batch }));
            }
            Command::Abort { .. } | Command::Fail { .. } | Command::AskDue { .. } => {
                panic!("{command:?}")
            }
        }
    }

    pub(super) fn wake(&mut self, number: u64) {
        if number == self.master.wakes {
            self.todo.push_back(Do::Control(Event::Tick));
        }
    }

    fn seal(&mut self, batch: BatchTime) {
        let there: Vec<_> = self.judge.ledger.live.iter().copied().collect();
        for &worker in &there {
            self.order(worker, Letter::Seal(batch));
        }
        let inputs: Vec<_> = self.truth.inputs_of(InputKind::Master).collect();
        for input in inputs {
            let receiver = ReceiverId(u64::from(input));
            let mut blocks = Vec::new();
            if self.truth.flows(input) && self.rng.chance(500) {
                let made = self.master.made.entry(receiver).or_default();
                let seq = *made;
                *made += 1;
                let block = Rc::new(Block {
                    meta: BlockMeta {
                        id: BlockId { receiver, seq },
                        rows: 1,
                        bytes: 8,
                    },
                    input,
                    origin: None,
                    records: vec![(NOBODY, seq)],
                });
                self.truth.blocks.insert(block.meta.id, Rc::clone(&block));
                blocks.push(block.meta);
                for &worker in there.iter().take(self.plan.cluster.copies) {
                    self.order(worker, Letter::Keep(Rc::clone(&block)));
                }
            }
            let reported = Event::Reported {
                batch,
                receiver,
                blocks,
            };
            self.todo.push_back(Do::Control(reported));
        }
    }

    pub(super) fn reaches_master(&mut self, from: End, letter: Letter) -> Result<(), Violation> {
        let worker = match from {
            End::Worker(worker) => self.workers.get(&worker),
            End::Master | End::Client(_) => None,
        };
        let given_up = worker.is_some_and(|worker| worker.given_up);
        match letter {
            Letter::Said(event) => self.todo.push_back(Do::Cluster(event)),
            Letter::Reported {
                batch,
                receiver,
                blocks,
            } if !given_up => {
                let metas = blocks.iter().map(|block| block.meta).collect();
                if let End::Worker(worker) = from
                    && !blocks.is_empty()
                {
                    // Before a cut can name them.
                    self.todo
                        .push_back(Do::Cluster(ClusterEvent::Stored { worker, blocks }));
                }
                self.todo.push_back(Do::Control(Event::Reported {
                    batch,
                    receiver,
                    blocks: metas,
                }));
            }
            Letter::Connected {
                producer,
                connection,
            } if !given_up => {
                self.master.tokens += 1;
                let token = self.master.tokens;
                self.master.claims.insert(token, (producer, connection));
                if let End::Worker(worker) = from {
                    self.tell(ClusterEvent::Claim {
                        input: self.truth.clients(),
                        producer: name(producer),
                        worker,
                        token,
                    });
                }
            }
            Letter::InstallFailed { partition, version } => {
                if let End::Worker(worker) = from {
                    let part = self.judge.ledger.parts.get(&(partition, worker));
                    if part.is_none_or(|part| part.version < Some(version)) {
                        self.master.behind.insert((partition, worker), version);
                    }
                    self.advance_job()?;
                }
            }
            Letter::Ran { batch, attempt } => self.ran(batch, attempt)?,
            Letter::Committed => {
                if let Some(job) = &mut self.master.job {
                    job.committed = true;
                }
                self.advance_job()?;
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn resume(&mut self) -> Result<(), Violation> {
        let held_back = std::mem::take(&mut self.master.held_back);
        let mut held_back = held_back.into_iter();
        held_back.try_for_each(|(batch, attempt)| self.ran(batch, attempt))
    }

    fn ran(&mut self, batch: BatchTime, attempt: u32) -> Result<(), Violation> {
        if self.master.engine_stands {
            self.master.held_back.push((batch, attempt));
            return Ok(());
        }
        let ready = self.master.cuts[&batch]
            .iter()
            .all(|block| self.is_at_hand(block.id));
        if !ready || self.rng.chance(self.rates.run_fails) {
            self.tally.add(if ready {
                "run failed"
            } else {
                "run without a block"
            });
            self.todo.push_back(Do::Control(Event::Failed {
                batch,
                attempt,
                retryable: true,
                of_batch: false,
            }));
            return Ok(());
        }
        let partitions = 0..self.plan.cluster.partitions;
        let changes: BTreeSet<_> = partitions.filter(|_| self.rng.chance(600)).collect();
        let once = !self.master.set_aside.contains(&batch);
        let bad = once && self.rng.chance(self.rates.bad_batch);
        if let Some(job) = &mut self.master.job {
            job.ran = true;
            job.bad = bad;
            job.changes = changes.clone();
        }
        changes
            .into_iter()
            .for_each(|partition| self.run(partition));
        self.advance_job()
    }

    /// Whether a block can be read where the cluster machine says, or its loss is excused.
    fn is_at_hand(&self, block: BlockId) -> bool {
        let holds = |worker: &WorkerId| {
            let worker = &self.workers[worker];
            worker.alive && worker.store.contains_key(&block)
        };
        self.truth.blocks[&block].origin.is_none()
            || self.judge.ledger.lost_blocks.contains(&block)
            || self.truth.excused.contains(&block)
            || self.machine.state().is_adopted(block) && self.master.adopted.contains(&block)
            || self.machine.state().stored_on(block).iter().any(holds)
    }
}
