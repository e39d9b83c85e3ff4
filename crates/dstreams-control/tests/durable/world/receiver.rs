//! [`Receiver`]: takes records of its producers in order, each once, and makes blocks of them.
//!
//! A block goes to the journal of its process. The master's are safe when synced; a worker's when the master knows
//! that it is synced.

use std::collections::BTreeMap;
use std::rc::Rc;

use dstreams_control::durable::Entry;
use dstreams_control::{BatchTime, BlockId, BlockMeta, Event, ReceiverId};

use super::client::{Answer, Request};
use super::master::Letter;
use super::{Item, World};
use crate::disk::{Block, Line};
use crate::ledger::Fact;
use crate::plan::INTERVAL_US;
use crate::sabotage::Fault;

pub struct Receiver {
    pub id: ReceiverId,
    pub input: u32,
    /// None: the master's own.
    pub worker: Option<usize>,
    pub journal: usize,
    open: Vec<(usize, u64)>,
    /// By producer: its connection.
    serving: BTreeMap<usize, u64>,
    /// The last number taken of each producer, here or before.
    taken: BTreeMap<usize, u64>,
    sealed: Vec<Sealed>,
    /// Producers that may resume elsewhere when the blocks below this are synced.
    revoking: Vec<(usize, u64)>,
}

struct Sealed {
    block: Rc<Block>,
    at: u64,
    synced: bool,
    reported: bool,
}

impl Receiver {
    pub const fn new(id: ReceiverId, input: u32, worker: Option<usize>, journal: usize) -> Self {
        Self {
            id,
            input,
            worker,
            journal,
            open: Vec::new(),
            serving: BTreeMap::new(),
            taken: BTreeMap::new(),
            sealed: Vec::new(),
            revoking: Vec::new(),
        }
    }
}

impl World {
    /// A client's message arrives.
    pub(super) fn request(&mut self, id: ReceiverId, request: Request) {
        let Some(receiver) = self.receivers.get_mut(&id) else {
            return;
        };
        match request {
            Request::Hello { client, connection } => {
                let claim = Letter::Claim {
                    client,
                    receiver: id,
                    connection,
                };
                self.tell_master(id, claim);
            }
            Request::Record {
                client,
                connection,
                number,
            } => {
                if receiver.serving.get(&client) != Some(&connection) {
                    return;
                }
                let taken = receiver.taken.entry(client).or_default();
                if number <= *taken {
                    self.tally.add("record came twice");
                    if !self.faults.on(Fault::RepeatedTaken) {
                        return;
                    }
                } else if number > *taken + 1 {
                    return;
                }
                *taken = number.max(*taken);
                receiver.open.push((client, number));
                if receiver.open.len() == 1 {
                    let after = self.rng.below(INTERVAL_US / 10);
                    self.push(after, Item::Linger(id));
                }
            }
        }
    }

    /// A producer may send here, after what is known to be safe.
    pub(super) fn granted(&mut self, id: ReceiverId, client: usize, connection: u64, last: u64) {
        let Some(receiver) = self.receivers.get_mut(&id) else {
            return;
        };
        receiver.serving.insert(client, connection);
        let taken = receiver.taken.entry(client).or_default();
        *taken = last.max(*taken);
        self.fact(Fact::Told {
            producer: client,
            last,
        });
        self.send(Item::ToClient(client, Answer::Ready { connection, last }));
    }

    /// A producer resumes elsewhere when its records taken so far are safe.
    pub(super) fn revoke(&mut self, id: ReceiverId, client: usize) {
        self.seal(id);
        let Some(receiver) = self.receivers.get_mut(&id) else {
            return;
        };
        receiver.serving.remove(&client);
        receiver
            .revoking
            .push((client, receiver.sealed.len() as u64));
        self.tally.add("producer revoked");
        self.answer_revokes(id);
    }

    fn answer_revokes(&mut self, id: ReceiverId) {
        let hasty = self.faults.on(Fault::RevokedBeforeSynced);
        let receiver = self.receivers.get_mut(&id).unwrap();
        let synced = receiver.sealed.iter().take_while(|it| it.synced).count() as u64;
        let (done, waiting) = std::mem::take(&mut receiver.revoking)
            .into_iter()
            .partition::<Vec<_>, _>(|(_, below)| *below <= synced || hasty);
        receiver.revoking = waiting;
        let taken = |(client, _)| (client, receiver.taken.get(&client).copied().unwrap_or(0));
        let done: Vec<_> = done.into_iter().map(taken).collect();
        for (client, last) in done {
            self.tell_master(
                id,
                Letter::Revoked {
                    client,
                    receiver: id,
                    last,
                },
            );
        }
    }

    /// The open records become a block.
    pub(super) fn seal(&mut self, id: ReceiverId) {
        let Some(receiver) = self.receivers.get_mut(&id) else {
            return;
        };
        let records = std::mem::take(&mut receiver.open);
        if records.is_empty() {
            return;
        }
        let meta = BlockMeta {
            id: BlockId {
                receiver: id,
                seq: receiver.sealed.len() as u64,
            },
            rows: records.len() as u64,
            bytes: 100,
        };
        let mut offsets: BTreeMap<usize, u64> = BTreeMap::new();
        for (client, number) in &records {
            let last = offsets.entry(*client).or_default();
            *last = (*last).max(*number);
        }
        let input = receiver.input;
        let entry = Entry::Block {
            input,
            meta,
            offsets: offsets
                .iter()
                .map(|(client, last)| (client.to_string().into(), *last))
                .collect(),
        };
        let block = Rc::new(Block {
            meta,
            input,
            records,
        });
        let (journal, worker) = (receiver.journal, receiver.worker);
        self.fact(Fact::Written(&block));
        let line = Line {
            entry,
            block: Some(Rc::clone(&block)),
        };
        let at = self.append(journal, line);
        let hasty = self.faults.on(Fault::AckedBeforeSynced);
        match worker {
            Some(worker) => self.workers[worker].retention.block(meta.id, at),
            None => {
                if let Some(master) = &mut self.master {
                    master.retention.block(meta.id, at);
                }
                if hasty {
                    self.is_safe(&block);
                }
            }
        }
        let sealed = Sealed {
            block,
            at,
            synced: false,
            reported: false,
        };
        self.receivers.get_mut(&id).unwrap().sealed.push(sealed);
    }

    /// A journal was synced, and so the blocks in it.
    pub(super) fn blocks_synced(&mut self, journal: usize) {
        let of = self.receivers.values().filter(|it| it.journal == journal);
        for id in of.map(|receiver| receiver.id).collect::<Vec<_>>() {
            let on_disk = &self.journals[journal];
            let receiver = self.receivers.get_mut(&id).unwrap();
            let mut synced = Vec::new();
            for sealed in receiver.sealed.iter_mut().filter(|it| !it.synced) {
                if on_disk.is_synced(sealed.at) {
                    sealed.synced = true;
                    synced.push(Rc::clone(&sealed.block));
                }
            }
            let worker = receiver.worker;
            for block in synced {
                if worker.is_none() {
                    self.heard(&block);
                    self.is_safe(&block);
                    continue;
                }
                if self.faults.on(Fault::AckedBeforeHeard) {
                    self.is_safe(&block);
                }
                self.tell_master(id, Letter::Stored(block));
            }
            self.answer_revokes(id);
        }
    }

    /// The producers of a block are notified.
    pub(super) fn is_safe(&mut self, block: &Block) {
        let leaving = self.master.as_ref().map(|master| &master.leaving);
        self.delicate = leaving.is_some_and(|leaving| !leaving.is_empty());
        let Some(receiver) = self.receivers.get(&block.meta.id.receiver) else {
            return;
        };
        let mut last = BTreeMap::new();
        for (client, number) in &block.records {
            if let Some(connection) = receiver.serving.get(client) {
                let known = last.entry(*client).or_insert((*connection, 0));
                known.1 = (*number).max(known.1);
            }
        }
        for (client, (connection, last)) in last {
            self.fact(Fact::Told {
                producer: client,
                last,
            });
            self.send(Item::ToClient(client, Answer::Safe { connection, last }));
        }
    }

    /// A receiver answers a `Seal`: a worker's with synced blocks only.
    pub(super) fn report(&mut self, id: ReceiverId, batch: BatchTime) {
        self.seal(id);
        let Some(receiver) = self.receivers.get_mut(&id) else {
            return;
        };
        let mut blocks = Vec::new();
        for sealed in receiver.sealed.iter_mut().filter(|it| !it.reported) {
            if receiver.worker.is_none()
                || sealed.synced
                || self.faults.on(Fault::ReportedBeforeSynced)
            {
                sealed.reported = true;
                blocks.push(sealed.block.meta);
            }
        }
        let event = Event::Reported {
            batch,
            receiver: id,
            blocks,
        };
        self.tell_master(id, Letter::Event(event));
    }

    /// A message of a receiver to the master.
    fn tell_master(&mut self, id: ReceiverId, letter: Letter) {
        match self.receivers[&id].worker {
            None => {
                let Some(life) = self.master.as_ref().map(|master| master.life) else {
                    return;
                };
                let after = self.rng.below(INTERVAL_US / 50);
                self.push(after, Item::ToMaster(life, letter));
            }
            Some(at) => {
                let worker = &self.workers[at];
                if worker.alive {
                    let life = worker.master;
                    self.link(at, true, Item::ToMaster(life, letter));
                }
            }
        }
    }
}
