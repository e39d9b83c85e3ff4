//! [`Epoch`]: a worker between its welcome and the end of its link.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dstreams::cluster::{
    Block, DeadLetters, Description, Embedded, Intake, Outputs, Seal, SourcePlacement, Sources,
    open_source, run_source,
};
use dstreams::{Clients, Closing, Ingest, Listener, Result, Source};
use dstreams_control::{BlockId, ReceiverId};
use tokio::sync::{mpsc, watch};
use tonic::Status;

use super::claims::{ClaimsOf, Waiting, superseded};
use super::journal::{OnDisk, Since};
use super::memory::Memory;
use super::replicate;
use super::replicate::held;
use super::state::Standbys;
use crate::data::{CLIENT_MESSAGE, CopyHeader, RECORD, Received};
use crate::execute::TaskRunner;
use crate::link::{HeldBlock, Holds, Sender, ToMaster, ToWorker};

/// A worker from the master's welcome to the end of the link.
pub struct Epoch {
    /// This worker's number.
    pub worker: u32,
    pub site: Arc<TaskRunner>,
    pub link: Sender<ToMaster>,
    /// Where copies of new blocks go.
    pub peer: watch::Sender<Option<(u32, String)>>,
    pub memory: Memory,
    dead_letters: DeadLetters,
    config: dstreams::Config,
    dead_letter_input: Option<usize>,
    pub(super) inputs: Vec<(String, dstreams::arrow::datatypes::SchemaRef)>,
    sources: Mutex<Vec<Option<Box<dyn Source>>>>,
    clients: Mutex<Option<Arc<Embedded>>>,
    closing: Closing,
    running: Sources,
    lanes: Mutex<BTreeMap<ReceiverId, mpsc::UnboundedSender<Seal>>>,
    pub(super) claims: Waiting,
    copies: Mutex<Copies>,
    states: Standbys,
    /// How often the master was asked whether it hears.
    asked: AtomicU64,
    heard: watch::Sender<u64>,
    pub on_disk: Option<Arc<OnDisk>>,
    pub outputs: Outputs,
    /// What could not be written, for which this worker ends.
    pub failed: watch::Sender<Option<dstreams::Error>>,
    /// Whether the last block that was to leave memory could not.
    no_room: AtomicBool,
}

/// Blocks that other workers received.
#[derive(Default)]
struct Copies {
    /// By the worker that received them.
    of: HashMap<u32, BTreeMap<BlockId, HeldBlock>>,
    /// Where receivers are, and of which input: others' that blocks are held of, and ours.
    receivers: HashMap<ReceiverId, Received>,
    lost: Vec<u32>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Epoch {
    pub fn new(
        worker: u32,
        mut parts: Description,
        site: Arc<TaskRunner>,
        link: Sender<ToMaster>,
        on_disk: Option<Arc<OnDisk>>,
    ) -> Arc<Self> {
        let checkpoints = on_disk.as_ref().map(|it| it.checkpoints.clone());
        let config = parts.config.clone();
        let sources = std::mem::take(&mut parts.sources);
        Arc::new(Epoch {
            worker,
            states: Standbys::new(Arc::clone(&site), link.clone(), checkpoints),
            site,
            link,
            peer: watch::Sender::new(None),
            memory: Memory::new(&config),
            dead_letters: DeadLetters::default(),
            dead_letter_input: parts.dead_letter_input,
            inputs: parts.inputs(),
            config,
            sources: Mutex::new(sources.into_iter().map(Some).collect()),
            clients: Mutex::default(),
            closing: Closing::default(),
            running: Sources::default(),
            lanes: Mutex::default(),
            claims: Waiting::default(),
            copies: Mutex::default(),
            asked: AtomicU64::new(0),
            heard: watch::Sender::new(0),
            on_disk,
            outputs: parts.take_outputs(),
            failed: watch::Sender::new(None),
            no_room: AtomicBool::new(false),
        })
    }

    /// Does what the master says. The end of the program is not for here.
    pub fn heed(self: &Arc<Self>, message: ToWorker) {
        match message {
            ToWorker::Receive {
                input,
                receiver,
                positions,
            } => {
                if let Err(error) = self.receive(input, receiver, positions) {
                    let failure = Some(error.to_string());
                    self.link.say(&ToMaster::SourceEnded { input, failure });
                }
            }
            ToWorker::Peer { to } => {
                self.peer.send_replace(to);
            }
            ToWorker::Heard { number } => {
                self.heard.send_replace(number);
            }
            ToWorker::Seal { batch, last } => self.seal(batch, last),
            ToWorker::Hurry => self.running.hurry(),
            ToWorker::Close => {
                self.memory.lift();
                self.closing.request();
            }
            ToWorker::Fence { lost } => {
                let mut copies = lock(&self.copies);
                copies.lost.push(lost);
                let blocks = copies.of.remove(&lost).unwrap_or_default();
                let blocks = blocks.into_values().collect();
                self.link.say(&ToMaster::Fenced { lost, blocks });
            }
            ToWorker::Copy { block, to, address } => self.copy(block, to, address),
            ToWorker::Drop { blocks } => self.drop_blocks(&blocks),
            ToWorker::Grant { token, last } => self.claims.answer(token, Ok(last)),
            ToWorker::Refuse { token } => self.claims.answer(token, Err(superseded())),
            ToWorker::Revoke {
                input,
                producer,
                grant,
            } => self.revoke(input, producer, grant),
            ToWorker::Forget { batch, but, slots } => {
                self.site.kept.forget_to(batch, &but, &slots);
            }
            ToWorker::Void { era } => self.site.void(era),
            ToWorker::CopyState { .. } | ToWorker::Install { .. } | ToWorker::Restore { .. } => {
                self.states.take(message);
            }
            ToWorker::Checkpoint {
                checkpoint,
                file,
                since,
            } => self.checkpoint((checkpoint, file), since),
            ToWorker::Covered { batch, blocks } => {
                if let Some(on_disk) = &self.on_disk {
                    on_disk.covered(&self.site, batch, &blocks);
                }
            }
            ToWorker::Welcome { .. }
            | ToWorker::Refused { .. }
            | ToWorker::Begin { .. }
            | ToWorker::End => {}
        }
    }

    fn checkpoint(self: &Arc<Self>, of: (u64, String), since: Since) {
        let epoch = Arc::clone(self);
        tokio::spawn(async move {
            if let Some(on_disk) = &epoch.on_disk {
                on_disk
                    .checkpoint(&epoch.site, &epoch.link, of, since)
                    .await;
            }
        });
    }

    /// Nothing more can be made safe here.
    pub async fn fail(&self, error: dstreams::Error) {
        self.failed.send_replace(Some(error));
        std::future::pending().await
    }

    /// The columns of an input.
    pub fn schema(&self, input: u32) -> Option<&dstreams::arrow::datatypes::SchemaRef> {
        self.inputs.get(input as usize).map(|(_, schema)| schema)
    }

    /// Waits until the master knows what was said so far. Never, when it has given this worker up.
    pub async fn heard(&self) {
        let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        self.link.say(&ToMaster::Hear { number });
        // The sender is ours.
        let _ = self
            .heard
            .subscribe()
            .wait_for(|heard| *heard >= number)
            .await;
    }

    /// Runs the receiver of an input here.
    fn receive(
        self: &Arc<Self>,
        input: u32,
        receiver: ReceiverId,
        positions: BTreeMap<String, u64>,
    ) -> Result<()> {
        let at = input as usize;
        let (Some((name, schema)), Some(source)) = (
            self.inputs.get(at).cloned(),
            lock(&self.sources).get_mut(at).and_then(Option::take),
        ) else {
            return Err(dstreams::Error::NotRunning);
        };
        let (budget, dead) = (self.memory.received.clone(), self.dead_letters.clone());
        let intake = Intake::new(receiver, &name, schema, &self.config, budget, dead);
        let intake = intake.with_copies().with_record_bytes(RECORD);
        let intake = Arc::new(intake.with_positions(positions));
        if self.dead_letter_input == Some(at) {
            self.dead_letters.connect(Arc::clone(&intake));
        }
        if let SourcePlacement::Everywhere(clients) = source.place() {
            self.embed(clients)?;
        }
        let received = Received {
            worker: self.worker,
            input,
        };
        lock(&self.copies).receivers.insert(receiver, received);
        let (seals, asked) = mpsc::unbounded_channel();
        lock(&self.lanes).insert(receiver, seals);
        let epoch = Arc::clone(self);
        tokio::spawn(replicate::run(epoch, input, Arc::clone(&intake), asked));
        let epoch = Arc::clone(self);
        self.running.spawn(&Arc::clone(&intake), async move {
            epoch.run_source(input, source, intake).await
        });
        Ok(())
    }

    /// Answers the calls of clients.
    fn embed(self: &Arc<Self>, clients: Clients) -> Result<()> {
        let mut embedded = lock(&self.clients);
        match &*embedded {
            Some(first) if !first.is_of(&clients) => Err(dstreams::Error::Config {
                setting: "clients",
                message:
                    "a worker has one address for clients: give all streams the same `Clients`"
                        .into(),
            }),
            Some(_) => Ok(()),
            None => {
                let claims = Arc::new(ClaimsOf::new(self));
                *embedded = Some(Arc::new(clients.embed(claims, CLIENT_MESSAGE)));
                Ok(())
            }
        }
    }

    async fn run_source(&self, input: u32, mut source: Box<dyn Source>, intake: Arc<Intake>) {
        let told = Arc::new(SourceReport {
            input,
            link: self.link.clone(),
        });
        match open_source(source.as_mut(), &intake).await {
            Ok(address) => {
                if let Some(address) = address {
                    let address = address.to_string();
                    self.link.say(&ToMaster::Listening { input, address });
                }
                run_source(source, Ingest::of(intake), self.closing.clone(), vec![told]).await;
            }
            Err(error) => told.source_failed(&intake.stream, &error),
        }
    }

    /// Has every lane seal; for the last time once its source has pushed what it had, that of dead letters once all have.
    fn seal(self: &Arc<Self>, batch: dstreams::BatchTime, last: bool) {
        for (receiver, lane) in lock(&self.lanes).clone() {
            if !last {
                let _ = lane.send(Seal { batch, last });
                continue;
            }
            let epoch = Arc::clone(self);
            tokio::spawn(async move {
                let of_all = epoch.dead_letters.receiver() == Some(receiver);
                let receiver = Some(receiver).filter(|_| !of_all);
                epoch.running.ended(receiver).await;
                let _ = lane.send(Seal { batch, last });
            });
        }
    }

    /// Holds a copy of another worker's block, which `sender` sent.
    pub async fn take_copy(
        &self,
        sender: u32,
        received: Received,
        block: Block,
    ) -> Result<(), Status> {
        let held = held(received.input, &block);
        let id = block.meta.id;
        let block = Arc::new(block);
        {
            // Until the fence nothing is refused, after it everything: what is held then is told.
            let mut copies = lock(&self.copies);
            if copies.lost.contains(&sender) {
                return Err(Status::failed_precondition(format!(
                    "worker {sender} is not of this cluster any more"
                )));
            }
            copies.receivers.insert(id.receiver, received);
            let of = copies.of.entry(received.worker).or_default();
            of.insert(id, held.clone());
            self.site.store.insert(block);
        }
        self.make_room().await;
        self.link.say(&ToMaster::Stored { blocks: vec![held] });
        Ok(())
    }

    /// Holds a block; others leave memory where it is full.
    pub async fn hold(&self, block: Arc<Block>) {
        self.site.store.insert(block);
        self.make_room().await;
    }

    /// A block that cannot be written to a file stays in memory: receiving waits when that is full.
    async fn make_room(&self) {
        let made = self.site.store.make_room().await;
        let stayed = self.no_room.swap(made.is_err(), Ordering::Relaxed);
        match made {
            // Once, and not for each block.
            Err(error) if !stayed => tracing::warn!(%error, "blocks stay in memory"),
            Ok(()) if stayed => tracing::info!("blocks leave memory again"),
            _ => {}
        }
    }

    /// Gives another worker a copy of a block, for one that was lost.
    fn copy(self: &Arc<Self>, id: BlockId, to: u32, address: String) {
        let epoch = Arc::clone(self);
        tokio::spawn(async move {
            let copied = match epoch.site.store.fetch(id).await {
                Ok(Some(block)) => epoch.send_copy(&block, &address).await,
                Ok(None) => Err(Status::not_found("it is not held")),
                Err(error) => Err(Status::internal(error.to_string())),
            };
            if let Err(status) = copied {
                tracing::warn!(block = %id, to, %status, "not copied");
                epoch.link.say(&ToMaster::CopyFailed { block: id, to });
            }
        });
    }

    /// Has the worker at `address` hold a block that is held here.
    pub async fn send_copy(&self, block: &Block, address: &str) -> Result<(), Status> {
        let received = lock(&self.copies)
            .receivers
            .get(&block.meta.id.receiver)
            .copied();
        let received = received.ok_or_else(|| Status::not_found("a block of nobody"))?;
        let header = CopyHeader::of(self.worker, received, block);
        self.site.peers.copy(&header, block, address).await
    }

    /// Whether the master has given this worker up, and has been told what is held of it.
    pub fn refuses(&self, worker: u32) -> bool {
        lock(&self.copies).lost.contains(&worker)
    }

    fn drop_blocks(&self, blocks: &[BlockId]) {
        self.site.store.forget(blocks);
        let mut copies = lock(&self.copies);
        for of in copies.of.values_mut() {
            for block in blocks {
                of.remove(block);
            }
        }
    }

    fn revoke(self: &Arc<Self>, input: u32, producer: String, grant: u64) {
        let epoch = Arc::clone(self);
        tokio::spawn(async move {
            let clients = lock(&epoch.clients).clone();
            let name = epoch
                .inputs
                .get(input as usize)
                .map(|(name, _)| name.as_str());
            let last = match (clients, name) {
                (Some(clients), Some(name)) => clients.revoke(name, &producer).await,
                _ => Ok(0),
            };
            // Without an answer the master keeps to what it knows; this worker ends.
            let Ok(last) = last else { return };
            epoch.link.say(&ToMaster::Revoked {
                input,
                producer,
                grant,
                last,
            });
        });
    }

    /// The calls of clients, once a stream of theirs is received here.
    pub fn clients(&self) -> Option<Arc<Embedded>> {
        lock(&self.clients).clone()
    }

    /// What is held now.
    pub fn holds(&self) -> Holds {
        Holds {
            blocks: self.site.store.len(),
            block_memory: self.memory.used(),
            kept: self.site.kept.len(),
            dead_letters: self.dead_letters.counts(),
            rejected: self.site.plans.rejected(),
            resident_memory: resident_memory(),
        }
    }
}

/// Bytes of memory of this process, where the system says.
fn resident_memory() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or_default() * 4096
}

/// Tells the master how a source ends.
struct SourceReport {
    input: u32,
    link: Sender<ToMaster>,
}

impl SourceReport {
    fn tell(&self, failure: Option<String>) {
        let input = self.input;
        self.link.say(&ToMaster::SourceEnded { input, failure });
    }
}

impl Listener for SourceReport {
    fn source_ended(&self, _stream: &str) {
        self.tell(None);
    }

    fn source_failed(&self, _stream: &str, error: &dstreams::Error) {
        // The stream is named where it is told.
        let cause = match error {
            dstreams::Error::Source { cause, .. } => cause.to_string(),
            error => error.to_string(),
        };
        self.tell(Some(cause));
    }
}
