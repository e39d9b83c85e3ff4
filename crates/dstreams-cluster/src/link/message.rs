//! The messages between a master and its workers.

use std::collections::BTreeMap;

use dstreams::internal::{PartAt, PreviousBatch, WrittenFile};
use dstreams_control::cluster::{ProducerOffset, StoredBlock};
use dstreams_control::durable::CheckpointedBlocks;
use dstreams_control::{BatchTime, BlockId, BlockMeta, ReceiverId};
use serde::{Deserialize, Serialize};

use super::directory::Directory;

/// Version of this protocol.
pub const VERSION: u32 = 10;

/// From a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToMaster {
    /// The first message.
    Hello {
        version: u32,
        /// Name of the program's build.
        build: String,
        pid: u32,
        cores: usize,
    },
    /// The worker has built the program from the arguments.
    Join {
        fingerprint: String,
        /// Its address for peers and clients.
        address: String,
        /// The state directory of its program, if there is one.
        directory: Option<Directory>,
    },
    /// The worker can run tasks.
    Ready,
    /// The worker has stored these blocks.
    Stored { blocks: Vec<BlockReport> },
    /// The master answers with `Heard` once it has processed all earlier messages.
    Hear { number: u64 },
    /// A receiver's answer to a seal.
    Reported {
        batch: BatchTime,
        receiver: ReceiverId,
        blocks: Vec<BlockMeta>,
    },
    /// Copies from the lost worker are refused from now on; these of its blocks are stored here.
    Fenced { lost: u32, blocks: Vec<BlockReport> },
    /// Copies of all others are refused from now on; these of their blocks are held.
    Retired { blocks: Vec<BlockReport> },
    /// A block that was to be copied was not.
    CopyFailed { block: BlockId, to: u32 },
    /// A producer has connected.
    Claim {
        input: u32,
        producer: String,
        token: u64,
    },
    /// Batches of this producer are no longer accepted here.
    Revoked {
        input: u32,
        producer: String,
        grant: u64,
        last: u64,
    },
    /// A partition of state is here as of this batch; it started from this copy, or empty (0).
    Installed {
        partition: u32,
        version: BatchTime,
        copy: u64,
    },
    /// A partition of state could not be copied from its primary.
    StateCopyFailed { partition: u32, copy: u64 },
    /// A partition of state could not be restored from a checkpoint.
    RestoreFailed { partition: u32, message: String },
    /// The delta of a batch for a partition of state could not be fetched from its primary.
    InstallFailed { partition: u32, batch: BatchTime },
    /// A source listens at this address.
    Listening { input: u32, address: String },
    /// A source has ended, by itself or with an error.
    SourceEnded { input: u32, failure: Option<String> },
    /// Parts of a source are gone for good.
    PartsGone { input: u32, parts: Vec<String> },
    /// Periodic numbers for the status.
    Holds(WorkerUsage),
    /// The answer to a probe: the worker hears the master, and handles its messages.
    Answer { probe: u64 },
    /// The snapshot of state for a checkpoint is complete: later installs are not in it.
    Taken { checkpoint: u64 },
    /// The checkpoint's file is written, or why not.
    Written {
        checkpoint: u64,
        written: Result<Vec<WrittenFile>, String>,
    },
}

/// A block that a worker stores: its size, and for each producer of its records (by input and
/// name) the number of the last batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockReport {
    pub meta: BlockMeta,
    pub marks: Vec<(u32, String, u64)>,
}

impl From<BlockReport> for StoredBlock {
    fn from(held: BlockReport) -> Self {
        let marks = held
            .marks
            .into_iter()
            .map(|(input, producer, last)| ProducerOffset {
                input,
                producer: producer.into(),
                last,
            });
        StoredBlock {
            meta: held.meta,
            offsets: marks.collect(),
        }
    }
}

/// Counts and sizes of the data on a worker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerUsage {
    pub blocks: usize,
    pub block_memory: usize,
    pub kept: usize,
    pub dead_letters: BTreeMap<String, u64>,
    pub rejected: BTreeMap<String, u64>,
    pub resident_memory: u64,
}

/// From the master.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToWorker {
    /// The worker's number, and the arguments of the program.
    Welcome { worker: u32, arguments: Vec<String> },
    /// The worker cannot join, for this reason.
    Refused { reason: String },
    /// The program starts.
    Begin {
        /// Partitions of keyed data, and tasks of a large batch.
        partitions: usize,
        /// Host and port of the engine's scheduler.
        engine: String,
        /// Number of the master's process among those of its state directory, if there is one.
        incarnation: Option<u64>,
        /// Milliseconds of silence after which a worker is given up.
        silence_ms: u64,
    },
    /// To be answered at once.
    Probe { number: u64 },
    /// The worker at this address was given up: calls to it fail now, and not when its connection does.
    GivenUp { address: String },
    /// Receive an input here.
    Receive {
        input: u32,
        receiver: ReceiverId,
        /// Offset of each part of the source, from where it ran before.
        positions: BTreeMap<String, u64>,
    },
    /// The worker that gets copies of new blocks.
    Peer { to: Option<(u32, String)> },
    /// Seal the open blocks.
    Seal { batch: BatchTime, last: bool },
    /// The answer to `Hear`.
    Heard { number: u64 },
    /// Accept no more records.
    Close,
    /// Sources have had their time to end: answer the last `Seal` now.
    Hurry,
    /// Refuse copies from this worker, and report its blocks stored here.
    Fence { lost: u32 },
    /// Refuse copies of everybody, and say which are held: what drains is about to leave.
    Retire,
    /// Copy a block.
    Copy {
        block: BlockId,
        to: u32,
        address: String,
    },
    /// Drop blocks that no batch needs.
    Drop { blocks: Vec<BlockId> },
    /// A claim is granted: batches up to `last` have been received.
    Grant { token: u64, last: u64 },
    /// A claim is refused: its producer has since connected elsewhere.
    Refuse { token: u64 },
    /// Accept no more batches of this producer under this grant or an earlier one.
    Revoke {
        input: u32,
        producer: String,
        grant: u64,
    },
    /// Copy a partition of state from its primary.
    CopyState {
        partition: u32,
        from: String,
        copy: u64,
    },
    /// Install the delta of a batch, which its primary caches.
    Install {
        batch: BatchTime,
        /// The batch before it, if that is known.
        before: Option<PreviousBatch>,
        attempt: u32,
        partition: u32,
        /// States and the slots of their deltas.
        states: Vec<(usize, usize)>,
        from: String,
    },
    /// The batch has committed: its datasets and earlier ones are released, except the deltas (in these slots) of these
    /// partitions of state after these versions.
    Forget {
        batch: BatchTime,
        but: Vec<(u32, BatchTime)>,
        slots: Vec<usize>,
    },
    /// Discard all state, and all changes by tasks of runs that began before this.
    Void { era: u32 },
    /// Restore a partition of state from a checkpoint.
    Restore {
        partition: u32,
        batch: BatchTime,
        /// By state.
        sources: Vec<Vec<PartAt>>,
        copy: u64,
    },
    /// Snapshot the state for a checkpoint, and write it to a file of this name.
    Checkpoint {
        checkpoint: u64,
        file: String,
        /// Partitions, and by state the version in the last checkpoint.
        since: Vec<(u32, Vec<Option<BatchTime>>)>,
    },
    /// There is a checkpoint of this batch; it covers these blocks.
    Covered {
        batch: BatchTime,
        blocks: CheckpointedBlocks,
    },
    /// The program has ended.
    End,
}
