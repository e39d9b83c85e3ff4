//! [`Epoch`]: a worker between its welcome and the end of its link.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dstreams::internal::{
    Description, Durability, Embedded, NewReceiver, Outputs, Receivers, SourcePlacement,
};
use dstreams::{Clients, Listener, Result, Source};

use super::claims::{MasterClaims, PendingClaims, superseded};
use super::journal::{CheckpointVersions, WorkerJournal};
use super::memory::Memory;
use super::replicas::Replicas;
use super::state::Standbys;
use crate::data::{CLIENT_MESSAGE, RECORD};
use crate::execute::TaskRunner;
use crate::link::{Sender, ToMaster, ToWorker, WorkerUsage};

/// A worker from the master's welcome to the end of the link.
pub struct Epoch {
    pub site: Arc<TaskRunner>,
    pub link: Sender<ToMaster>,
    pub memory: Memory,
    pub replicas: Arc<Replicas>,
    receivers: Arc<Receivers>,
    dead_letter_input: Option<usize>,
    pub(super) inputs: Vec<(String, dstreams::arrow::datatypes::SchemaRef)>,
    sources: Mutex<Vec<Option<Box<dyn Source>>>>,
    clients: Mutex<Option<Arc<Embedded>>>,
    pub(super) claims: PendingClaims,
    states: Standbys,
    pub journal: Option<Arc<WorkerJournal>>,
    pub outputs: Outputs,
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
        (journal, silence): (Option<Arc<WorkerJournal>>, Duration),
    ) -> Arc<Self> {
        let checkpoints = journal.as_ref().map(|it| it.checkpoints.clone());
        let memory = Memory::new(&parts.config);
        let receivers = Receivers::new(&parts.config, memory.received.clone());
        let sources = std::mem::take(&mut parts.sources);
        Arc::new(Epoch {
            states: Standbys::new(Arc::clone(&site), link.clone(), (checkpoints, silence)),
            memory,
            replicas: Arc::new(Replicas::new(worker, &site, &link, journal.clone())),
            receivers: Arc::new(receivers.with_record_bytes(RECORD)),
            site,
            link,
            dead_letter_input: parts.dead_letter_input,
            inputs: parts.inputs(),
            sources: Mutex::new(sources.into_iter().map(Some).collect()),
            clients: Mutex::default(),
            claims: PendingClaims::default(),
            journal,
            outputs: parts.take_outputs(),
        })
    }

    /// Carries out a message of the master, except the end of the program.
    pub fn handle(self: &Arc<Self>, message: ToWorker) {
        match message {
            ToWorker::Receive {
                input,
                receiver,
                positions,
            } => {
                let receiver = NewReceiver {
                    input,
                    id: receiver,
                    offsets: positions.into_iter().collect(),
                };
                if let Err(error) = self.receive(receiver) {
                    let failure = Some(error.to_string());
                    self.link.send(&ToMaster::SourceEnded { input, failure });
                }
            }
            ToWorker::Probe { number } => self.link.send(&ToMaster::Answer { probe: number }),
            ToWorker::GivenUp { address } => self.site.peers.forget(&address),
            ToWorker::Peer { to } => {
                self.replicas.peer.send_replace(to);
            }
            ToWorker::Heard { number } => self.replicas.heard(number),
            ToWorker::Seal { batch, last } => self.receivers.seal(batch, last),
            ToWorker::Hurry => self.receivers.stop_waiting(),
            ToWorker::Close => {
                self.memory.lift();
                self.receivers.close();
            }
            ToWorker::Fence { lost } => self.replicas.fence(lost),
            ToWorker::Retire => self.replicas.retire(),
            ToWorker::Copy { block, to, address } => self.replicas.copy(block, to, address),
            ToWorker::Drop { blocks } => self.replicas.drop_blocks(&blocks),
            ToWorker::Grant { token, last } => self.claims.answer(token, Ok(last)),
            ToWorker::Refuse { token } => self.claims.answer(token, Err(superseded())),
            ToWorker::Revoke {
                input,
                producer,
                grant,
            } => self.revoke(input, producer, grant),
            ToWorker::Forget { batch, but, slots } => {
                self.site.cache.forget_to(batch, &but, &slots);
            }
            ToWorker::Void { era } => self.site.invalidate(era),
            ToWorker::CopyState { .. } | ToWorker::Install { .. } | ToWorker::Restore { .. } => {
                self.states.take(message);
            }
            ToWorker::Checkpoint {
                checkpoint,
                file,
                since,
            } => self.checkpoint((checkpoint, file), since),
            ToWorker::Covered { batch, blocks } => {
                if let Some(journal) = &self.journal {
                    journal.checkpointed(&self.site, batch, &blocks);
                }
            }
            ToWorker::Welcome { .. }
            | ToWorker::Refused { .. }
            | ToWorker::Begin { .. }
            | ToWorker::End => {}
        }
    }

    fn checkpoint(self: &Arc<Self>, of: (u64, String), since: CheckpointVersions) {
        let epoch = Arc::clone(self);
        tokio::spawn(async move {
            if let Some(journal) = &epoch.journal {
                journal
                    .checkpoint(&epoch.site, &epoch.link, of, since)
                    .await;
            }
        });
    }

    /// Runs the receiver of an input here.
    fn receive(self: &Arc<Self>, receiver: NewReceiver) -> Result<()> {
        let (input, at) = (receiver.input, receiver.input as usize);
        let (Some((name, schema)), Some(source)) = (
            self.inputs.get(at),
            lock(&self.sources).get_mut(at).and_then(Option::take),
        ) else {
            let what = format!("input {input} is received twice, or not one of the program");
            return Err(dstreams::Error::internal(what));
        };
        if let SourcePlacement::Everywhere(clients) = source.place() {
            self.embed(clients)?;
        }
        self.replicas.receives(input, receiver.id);
        let durability: Arc<dyn Durability> = Arc::clone(&self.replicas) as _;
        let stream = (name.as_str(), Arc::clone(schema));
        let intake = self.receivers.add(receiver, stream, &durability);
        if self.dead_letter_input == Some(at) {
            self.receivers.take_dead_letters(&intake);
        }
        let reports = Arc::new(SourceReport {
            input,
            link: self.link.clone(),
        });
        let link = self.link.clone();
        let listens = move |address: SocketAddr| {
            let address = address.to_string();
            link.send(&ToMaster::Listening { input, address });
        };
        self.receivers
            .open_and_run(source, &intake, reports, listens);
        Ok(())
    }

    /// Starts answering calls of clients.
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
                let claims = Arc::new(MasterClaims::new(self));
                *embedded = Some(Arc::new(clients.embed(claims, CLIENT_MESSAGE)));
                Ok(())
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
            // Without an answer, the master uses its own number; this worker is ending.
            let Ok(last) = last else { return };
            epoch.link.send(&ToMaster::Revoked {
                input,
                producer,
                grant,
                last,
            });
        });
    }

    /// The handler of clients' calls, once this worker receives a stream of clients.
    pub fn clients(&self) -> Option<Arc<Embedded>> {
        lock(&self.clients).clone()
    }

    /// The current counts and sizes of data.
    pub fn usage(&self) -> WorkerUsage {
        WorkerUsage {
            blocks: self.site.store.len(),
            block_memory: self.memory.used(),
            kept: self.site.cache.len(),
            dead_letters: self.receivers.dead_letters(),
            rejected: self.site.plans.rejected(),
            resident_memory: resident_memory(),
        }
    }
}

/// Bytes of memory of this process; 0 if the system does not say.
fn resident_memory() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or_default() * 4096
}

/// Reports the end of a source to the master.
struct SourceReport {
    input: u32,
    link: Sender<ToMaster>,
}

impl SourceReport {
    fn report(&self, failure: Option<String>) {
        let input = self.input;
        self.link.send(&ToMaster::SourceEnded { input, failure });
    }
}

impl Listener for SourceReport {
    fn source_ended(&self, _stream: &str) {
        self.report(None);
    }

    fn source_failed(&self, _stream: &str, error: &dstreams::Error) {
        // The master adds the name of the stream.
        let cause = match error {
            dstreams::Error::Source { cause, .. } => cause.to_string(),
            error => error.to_string(),
        };
        self.report(Some(cause));
    }
}
