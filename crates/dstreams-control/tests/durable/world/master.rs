//! [`Master`]: a process of the master: the real [`Controller`] and the real [`JournalRetention`], the receivers, and
//! the owner of each producer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use dstreams_control::durable::{Entry, JournalRetention, ProducerOffsets};
use dstreams_control::{
    BatchTime, BlockId, BlockMeta, Command, Controller, Due, Event, ReceiverId,
};

use super::engine::Partition;
use super::members::Told;
use super::{Item, MASTERS, World};
use crate::disk::{Block, Checkpoint};
use crate::ledger::Fact;
use crate::plan::{DUE_EVERY, INTERVAL_MS, INTERVAL_US, PARTITIONS};
use crate::sabotage::Fault;

/// A message to the master.
#[derive(Clone, Debug)]
pub enum Letter {
    Event(Event),
    /// A client wants to send to a receiver.
    Claim {
        client: usize,
        receiver: ReceiverId,
        connection: u64,
    },
    /// A receiver takes no more of a producer, at this offset.
    Revoked {
        client: usize,
        receiver: ReceiverId,
        last: u64,
    },
    /// A worker has synced a block.
    Stored(Rc<Block>),
}

pub struct Master {
    /// Different for each process.
    pub life: u64,
    pub incarnation: u64,
    /// Where its first entry is.
    pub opened: u64,
    /// None until it has resumed.
    pub controller: Option<Controller>,
    pub wakes: u64,
    pub retention: JournalRetention<u64>,
    /// Journals of workers that have ended.
    pub old: Vec<(usize, JournalRetention<u64>)>,
    pub restored: dstreams_control::Restored,
    pub last_cut: Option<BatchTime>,
    /// Batches before which intervals were skipped, each with the batch before it.
    pub skipped: BTreeMap<BatchTime, BatchTime>,
    pub replaying: VecDeque<(BatchTime, Vec<BlockMeta>)>,
    pub partitions: [Partition; PARTITIONS],
    /// Batches that were cut and did not take effect.
    pub cuts: BTreeMap<BatchTime, Cut>,
    pub checkpoint_offsets: ProducerOffsets,
    /// The last safe number of each producer.
    pub known: BTreeMap<usize, u64>,
    /// Safe blocks that are in no batch that took effect.
    pub heard: BTreeMap<BlockId, BlockMeta>,
    /// The receivers.
    pub members: BTreeSet<ReceiverId>,
    pub next_receiver: u64,
    /// The receiver that each producer sends, or sent, to.
    pub owners: BTreeMap<usize, ReceiverId>,
    /// Producers whose receiver was asked to give them up.
    pub revoking: BTreeSet<usize>,
    /// Receivers that producers want to send to.
    pub claims: BTreeMap<usize, (ReceiverId, u64)>,
    /// Receivers that are lost, until their `ReceiverLost` is synced.
    pub leaving: Vec<(ReceiverId, u64)>,
    pub since: u64,
    pub writing: Option<Checkpoint>,
}

/// A batch that was cut.
pub struct Cut {
    pub blocks: Vec<BlockMeta>,
    /// Its place in the journal; None: an earlier process cut it.
    pub at: Option<u64>,
    pub attempt: u32,
    /// To be committed when the cut is synced.
    pub waits: bool,
    /// Its records are set aside; attempts up to this one are void.
    pub set_aside: Option<u32>,
    /// An earlier process may have committed it.
    pub committing: bool,
}

impl World {
    pub(super) fn step(&mut self, event: Event) {
        let now = self.now();
        let controller = self.master.as_mut().and_then(|it| it.controller.as_mut());
        let Some(controller) = controller else { return };
        for command in controller.step(event, now) {
            if self.judge.trace {
                println!("               -> {command:?}");
            }
            self.carry_out(command);
        }
    }

    pub(super) fn wake(&mut self, number: u64) {
        if self.master.as_ref().is_some_and(|it| it.wakes == number) {
            self.step(Event::Tick);
        }
    }

    pub(super) fn reaches_master(&mut self, letter: Letter) {
        let Some(master) = &mut self.master else {
            return;
        };
        match letter {
            Letter::Event(event) => self.step(event),
            Letter::Claim {
                client,
                receiver,
                connection,
            } => {
                if master.members.contains(&receiver) {
                    master.claims.insert(client, (receiver, connection));
                    self.claim(client);
                }
            }
            Letter::Revoked {
                client,
                receiver,
                last,
            } => {
                let heard = master.members.contains(&receiver) || self.faults.on(Fault::LostHeard);
                let owner = master.owners.get(&client) == Some(&receiver);
                if heard && owner && master.revoking.remove(&client) {
                    master.owners.remove(&client);
                    let known = master.known.entry(client).or_default();
                    *known = last.max(*known);
                    self.claim(client);
                }
            }
            Letter::Stored(block) => {
                let receiver = block.meta.id.receiver;
                if master.members.contains(&receiver) || self.faults.on(Fault::LostHeard) {
                    self.heard(&block);
                    self.tell_worker(receiver, Told::Safe(block));
                }
            }
        }
    }

    /// A block is safe.
    pub(super) fn heard(&mut self, block: &Block) {
        let Some(master) = &mut self.master else {
            return;
        };
        master.heard.insert(block.meta.id, block.meta);
        for (client, number) in &block.records {
            let known = master.known.entry(*client).or_default();
            *known = (*number).max(*known);
        }
    }

    /// Grants a producer's claim when no other receiver takes its records.
    fn claim(&mut self, client: usize) {
        let Some(master) = &mut self.master else {
            return;
        };
        let Some(&(receiver, connection)) = master.claims.get(&client) else {
            return;
        };
        match master.owners.get(&client).copied() {
            Some(_) if master.revoking.contains(&client) => {}
            Some(owner) if owner != receiver => {
                if master.members.contains(&owner) {
                    master.revoking.insert(client);
                    let receiver = owner;
                    self.tell_worker(owner, Told::Revoke { client, receiver });
                } else {
                    self.tally.add("producer waits for a ReceiverLost");
                }
            }
            _ => {
                master.claims.remove(&client);
                if !master.members.contains(&receiver) {
                    return;
                }
                master.owners.insert(client, receiver);
                let last = master.known.get(&client).copied().unwrap_or(0);
                let granted = Told::Granted {
                    client,
                    receiver,
                    connection,
                    last,
                };
                self.tell_worker(receiver, granted);
            }
        }
    }

    /// Tells the process of a receiver, which may be the master itself.
    fn tell_worker(&mut self, receiver: ReceiverId, told: Told) {
        match self.receivers.get(&receiver).map(|it| it.worker) {
            Some(Some(worker)) => self.link(worker, false, Item::ToWorker(worker, told)),
            Some(None) => self.obey(told),
            None => {}
        }
    }

    /// The master's journal was synced.
    pub(super) fn master_synced(&mut self) {
        let Some(master) = &mut self.master else {
            return;
        };
        let on_disk = &self.journals[MASTERS];
        let synced = |at: u64| on_disk.is_synced(at);
        let (gone, leaving) = std::mem::take(&mut master.leaving)
            .into_iter()
            .partition::<Vec<_>, _>(|(_, at)| synced(*at));
        master.leaving = leaving;
        let ready = master.cuts.iter_mut().filter(|(_, cut)| cut.waits);
        let ready = ready.filter(|(_, cut)| cut.at.is_none_or(synced));
        let ready: Vec<_> = ready
            .map(|(batch, cut)| {
                cut.waits = false;
                *batch
            })
            .collect();
        let life = master.life;
        let ready = if self.faults.on(Fault::CutSyncIgnored) {
            Vec::new()
        } else {
            ready
        };
        for (receiver, _) in gone {
            self.release(receiver);
        }
        for batch in ready {
            let after = self.takes();
            self.push(after, Item::Effect(life, batch, 0));
        }
    }

    /// The producers of a gone receiver may resume elsewhere.
    pub(super) fn release(&mut self, receiver: ReceiverId) {
        let Some(master) = &mut self.master else {
            return;
        };
        master
            .revoking
            .retain(|client| master.owners.get(client) != Some(&receiver));
        master.owners.retain(|_, owner| *owner != receiver);
        for client in master.claims.keys().copied().collect::<Vec<_>>() {
            self.claim(client);
        }
    }

    fn carry_out(&mut self, command: Command) {
        let Some(master) = &mut self.master else {
            return;
        };
        let life = master.life;
        match command {
            Command::WakeAt(at) => {
                master.wakes += 1;
                let number = master.wakes;
                let after = at.0.saturating_sub(self.now().0) + self.rng.below(INTERVAL_US / 20);
                self.push(after, Item::Wake(life, number));
            }
            Command::Seal { batch } => {
                for receiver in master.members.clone() {
                    self.tell_worker(receiver, Told::Seal { receiver, batch });
                }
            }
            Command::Cut { batch, blocks } => self.cut(batch, blocks),
            Command::AskDue { after } => {
                let every = DUE_EVERY * INTERVAL_MS;
                let due = BatchTime((after.0 + 1).next_multiple_of(every));
                let due = Some(Due { from: due, to: due });
                let takes = self.takes();
                self.tell_controller(takes, Event::Due { after, due });
            }
            Command::Run { batch, attempt } => {
                if let Some(cut) = master.cuts.get_mut(&batch) {
                    cut.attempt = attempt;
                    let after = self.takes();
                    self.push(after, Item::Compute(life, batch, attempt));
                }
            }
            Command::SetAside { batch, attempts } => {
                let after = self.takes();
                self.push(after, Item::SetAside(life, batch, attempts));
            }
            Command::Commit { batch, .. } => {
                let entry = Entry::Committing { batch };
                let at = self.append_entry(MASTERS, entry);
                let Some(master) = &mut self.master else {
                    return;
                };
                if let Some(cut) = master.cuts.get_mut(&batch) {
                    cut.waits = true;
                    if !self.faults.on(Fault::CommittingNotSynced) {
                        cut.at = Some(at);
                    }
                    let hasty = self.faults.on(Fault::EffectBeforeSynced);
                    if hasty || cut.at.is_none_or(|at| self.journals[MASTERS].is_synced(at)) {
                        cut.waits = false;
                        let after = self.takes();
                        self.push(after, Item::Effect(life, batch, 0));
                    } else {
                        self.tally.add("commit waited for its cut");
                    }
                }
            }
            Command::Forget { batch, blocks } => self.forget(batch, &blocks),
            Command::Fail { batch, .. } => {
                self.judge
                    .broken("liveness", format!("{batch} was given up"));
            }
            Command::Stopped { .. } => self.stopped(),
            Command::Completed(_)
            | Command::Abort { .. }
            | Command::CloseReceivers
            | Command::StopWaiting { .. } => {}
        }
    }

    fn cut(&mut self, batch: BatchTime, blocks: Vec<BlockMeta>) {
        self.fact(Fact::Cut(batch));
        let ids: Vec<_> = blocks.iter().map(|block| block.id).collect();
        let Some(master) = &mut self.master else {
            return;
        };
        let before = master.last_cut.replace(batch);
        let after = before.filter(|before| before.0 + INTERVAL_MS < batch.0);
        if after.is_some() {
            self.tally.add("intervals skipped");
        }
        let entry = Entry::Cut {
            batch,
            after,
            blocks: ids.clone(),
        };
        let at = self.append_entry(MASTERS, entry);
        let Some(master) = &mut self.master else {
            return;
        };
        master.retention.cut(batch, ids, at);
        let cut = Cut {
            blocks,
            at: Some(at),
            attempt: 0,
            waits: false,
            set_aside: None,
            committing: false,
        };
        master.cuts.insert(batch, cut);
    }
}
