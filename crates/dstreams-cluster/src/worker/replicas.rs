//! [`Replicas`]: the blocks of a worker: its own, and copies of others'. Makes its own blocks safe.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dstreams::internal::{Block, Durability, Intake, ReportedWhen};
use dstreams::{BatchTime, Result};
use dstreams_control::{BlockId, BlockMeta, ReceiverId};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tonic::Status;

use super::journal::WorkerJournal;
use super::replicate::{block_report, replicate};
use crate::data::{CopyHeader, Received};
use crate::execute::TaskRunner;
use crate::link::{BlockReport, Sender, ToMaster};

/// The blocks of a worker between the master's welcome and the end of the link.
pub struct Replicas {
    /// This worker's number.
    worker: u32,
    site: Arc<TaskRunner>,
    pub link: Sender<ToMaster>,
    /// The worker that gets copies of new blocks.
    pub peer: watch::Sender<Option<(u32, String)>>,
    copies: Mutex<Copies>,
    /// Number of `Hear` messages sent to the master.
    asked: AtomicU64,
    pub processed: watch::Sender<u64>,
    pub journal: Option<Arc<WorkerJournal>>,
    /// A failed write, which ends this worker.
    pub failed: watch::Sender<Option<dstreams::Error>>,
    /// Whether the last spill failed.
    no_room: AtomicBool,
}

/// Blocks that other workers received.
#[derive(Default)]
struct Copies {
    /// Blocks by the worker that received them.
    of: HashMap<u32, BTreeMap<BlockId, BlockReport>>,
    /// Worker and input of each receiver: our own, and those whose blocks are stored here.
    receivers: HashMap<ReceiverId, Received>,
    lost: Vec<u32>,
    /// No copy is taken any more: this worker is about to leave.
    retired: bool,
}

impl Replicas {
    /// No blocks yet.
    pub fn new(
        worker: u32,
        site: &Arc<TaskRunner>,
        link: &Sender<ToMaster>,
        journal: Option<Arc<WorkerJournal>>,
    ) -> Self {
        Replicas {
            worker,
            site: Arc::clone(site),
            link: link.clone(),
            peer: watch::Sender::new(None),
            copies: Mutex::default(),
            asked: AtomicU64::new(0),
            processed: watch::Sender::new(0),
            journal,
            failed: watch::Sender::new(None),
            no_room: AtomicBool::new(false),
        }
    }

    /// Lock order: this before the store's lock.
    fn lock(&self) -> MutexGuard<'_, Copies> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends this worker, which cannot make blocks durable any more; never returns.
    pub async fn fail(&self, error: dstreams::Error) {
        self.failed.send_replace(Some(error));
        std::future::pending().await
    }

    /// The master has processed all messages before the question of this number, and so before earlier ones: these may be
    /// answered later.
    pub fn heard(&self, number: u64) {
        self.processed.send_if_modified(|processed| {
            let is_newer = number > *processed;
            *processed = number.max(*processed);
            is_newer
        });
    }

    /// Waits until the master has processed all messages so far. Never returns if it has given this worker up.
    pub async fn master_caught_up(&self) {
        let number = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.link.send(&ToMaster::Hear { number });
        // Cannot fail: `self` owns the sender.
        let _ = self
            .processed
            .subscribe()
            .wait_for(|processed| *processed >= number)
            .await;
    }

    /// Registers a receiver of this worker.
    pub fn receives(&self, input: u32, receiver: ReceiverId) {
        let received = Received {
            worker: self.worker,
            input,
        };
        self.lock().receivers.insert(receiver, received);
    }

    /// Stores a copy, sent by `sender`, of another worker's block.
    pub async fn store_copy(
        &self,
        sender: u32,
        received: Received,
        block: Block,
    ) -> Result<(), Status> {
        let held = block_report(received.input, &block);
        let id = block.meta.id;
        let block = Arc::new(block);
        {
            // Before the fence every copy is accepted, after it none: so the fence's report is complete.
            let mut copies = self.lock();
            if copies.retired {
                let id = self.worker;
                return Err(Status::failed_precondition(format!("worker {id} leaves")));
            }
            if copies.lost.contains(&sender) {
                return Err(Status::failed_precondition(format!(
                    "worker {sender} no longer belongs to this cluster"
                )));
            }
            copies.receivers.insert(id.receiver, received);
            let of = copies.of.entry(received.worker).or_default();
            of.insert(id, held.clone());
            self.site.store.insert(block);
        }
        self.make_room().await;
        self.link.send(&ToMaster::Stored { blocks: vec![held] });
        Ok(())
    }

    /// Stores a block; spills others if memory is full.
    pub async fn store_block(&self, block: Arc<Block>) {
        self.site.store.insert(block);
        self.make_room().await;
    }

    /// Spills blocks. On failure they stay in memory, and receivers apply backpressure once it is full.
    async fn make_room(&self) {
        let made = self.site.store.make_room().await;
        let stayed = self.no_room.swap(made.is_err(), Ordering::Relaxed);
        match made {
            // Logged once, not for each block.
            Err(error) if !stayed => {
                tracing::warn!(%error, "cannot spill blocks: they stay in memory")
            }
            Ok(()) if stayed => tracing::info!("blocks can be spilled again"),
            _ => {}
        }
    }

    /// Sends a copy of a block to another worker, to replace a lost one.
    pub fn copy(self: &Arc<Self>, id: BlockId, to: u32, address: String) {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let copied = match this.site.store.fetch(id).await {
                Ok(Some(block)) => this.send_copy(&block, &address).await,
                Ok(None) => Err(Status::not_found("it is not stored here")),
                Err(error) => Err(Status::internal(error.to_string())),
            };
            if let Err(status) = copied {
                tracing::warn!(block = %id, to, %status, "cannot copy a block");
                this.link.send(&ToMaster::CopyFailed { block: id, to });
            }
        });
    }

    /// Sends a block to the worker at `address`; returns once it is stored there.
    pub async fn send_copy(&self, block: &Block, address: &str) -> Result<(), Status> {
        let received = self.lock().receivers.get(&block.meta.id.receiver).copied();
        let received =
            received.ok_or_else(|| Status::not_found("a block of an unknown receiver"))?;
        let header = CopyHeader::of(self.worker, received, block);
        self.site.peers.copy(&header, block, address).await
    }

    /// Refuses copies from this worker from now on, and reports its blocks stored here.
    pub fn fence(&self, lost: u32) {
        let mut copies = self.lock();
        copies.lost.push(lost);
        let blocks = copies.of.remove(&lost).unwrap_or_default();
        let blocks = blocks.into_values().collect();
        self.link.send(&ToMaster::Fenced { lost, blocks });
    }

    /// Refuses all copies from now on, and says which are held: this worker is about to leave.
    pub fn retire(&self) {
        let mut copies = self.lock();
        copies.retired = true;
        let all = copies.of.values().flat_map(BTreeMap::values);
        let blocks = all.cloned().collect();
        self.link.send(&ToMaster::Retired { blocks });
    }

    /// Whether the master has given the worker up, and has been told which of its blocks are held here; or is told nothing
    /// more, since this one is about to leave.
    pub fn refuses(&self, worker: u32) -> bool {
        let copies = self.lock();
        copies.retired || copies.lost.contains(&worker)
    }

    /// Drops blocks that no batch needs.
    pub fn drop_blocks(&self, blocks: &[BlockId]) {
        self.site.store.forget(blocks);
        let mut copies = self.lock();
        for of in copies.of.values_mut() {
            for block in blocks {
                of.remove(block);
            }
        }
    }
}

/// A block is safe once a peer stores it too and the master knows, and, with a state directory, once it is durable.
impl Durability for Replicas {
    fn reported_when(&self) -> ReportedWhen {
        ReportedWhen::Safe
    }

    fn store(
        self: Arc<Self>,
        input: u32,
        intake: &Intake,
        blocks: Vec<Arc<Block>>,
    ) -> BoxFuture<'static, Result<()>> {
        let schema = Arc::clone(&intake.schema);
        async move {
            replicate(&self, input, &schema, &blocks).await;
            Ok(())
        }
        .boxed()
    }

    fn report(&self, batch: BatchTime, receiver: ReceiverId, blocks: Vec<BlockMeta>) {
        self.link.send(&ToMaster::Reported {
            batch,
            receiver,
            blocks,
        });
    }

    fn forget(&self, input: u32, parts: &[Arc<str>]) {
        let parts = parts.iter().map(|part| part.to_string()).collect();
        self.link.send(&ToMaster::PartsGone { input, parts });
    }
}
