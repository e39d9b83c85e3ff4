//! What a master and its workers say to each other.

use std::collections::BTreeMap;

use dstreams::internal::{PartAt, WrittenFile};
use dstreams_control::cluster::{Mark, StoredBlock};
use dstreams_control::durable::Covered;
use dstreams_control::{BatchTime, BlockId, BlockMeta, ReceiverId};
use serde::{Deserialize, Serialize};

use super::directory::Directory;

/// Version of these messages.
pub const VERSION: u32 = 8;

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
    /// It has built the program that the arguments describe.
    Join {
        fingerprint: String,
        /// Where it serves what it holds, and clients.
        address: String,
        /// Where its program is persisted, if it is.
        directory: Option<Directory>,
    },
    /// It can run tasks.
    Ready,
    /// It holds these blocks now.
    Stored { blocks: Vec<HeldBlock> },
    /// Answered by `Heard`: then the master knows all that was said before.
    Hear { number: u64 },
    /// A receiver's answer to a seal.
    Reported {
        batch: BatchTime,
        receiver: ReceiverId,
        blocks: Vec<BlockMeta>,
    },
    /// Copies of the lost worker are refused from now on; these of its blocks are held.
    Fenced { lost: u32, blocks: Vec<HeldBlock> },
    /// Copies of all others are refused from now on; these of their blocks are held.
    Retired { blocks: Vec<HeldBlock> },
    /// A block that was to be copied was not.
    CopyFailed { block: BlockId, to: u32 },
    /// A producer has connected.
    Claim {
        input: u32,
        producer: String,
        token: u64,
    },
    /// No more batches of this producer are taken here.
    Revoked {
        input: u32,
        producer: String,
        grant: u64,
        last: u64,
    },
    /// A partition of state is held as of this batch; it began with this copy, or empty (0).
    Installed {
        partition: u32,
        version: BatchTime,
        copy: u64,
    },
    /// A partition of state could not be had from its holder.
    StateCopyFailed { partition: u32, copy: u64 },
    /// A partition of state could not be made from a checkpoint.
    RestoreFailed { partition: u32, message: String },
    /// What a batch added to a partition of state could not be had from its holder.
    InstallFailed { partition: u32, batch: BatchTime },
    /// A source listens there.
    Listening { input: u32, address: String },
    /// A source has ended: by itself, or with an error.
    SourceEnded { input: u32, failure: Option<String> },
    /// Parts of a source are no more, and never come again.
    PartsGone { input: u32, parts: Vec<String> },
    /// What it holds, now and then.
    Holds(Holds),
    /// The state for a checkpoint was taken: what is installed later is not in it.
    Taken { checkpoint: u64 },
    /// It is on disk, or why not.
    Written {
        checkpoint: u64,
        written: Result<Vec<WrittenFile>, String>,
    },
}

/// A block that a worker holds: its size, and for each producer of records in it (by input and
/// name) the number of the last.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HeldBlock {
    pub meta: BlockMeta,
    pub marks: Vec<(u32, String, u64)>,
}

impl From<HeldBlock> for StoredBlock {
    fn from(held: HeldBlock) -> Self {
        let marks = held.marks.into_iter().map(|(input, producer, last)| Mark {
            input,
            producer: producer.into(),
            last,
        });
        StoredBlock {
            meta: held.meta,
            marks: marks.collect(),
        }
    }
}

/// What a worker holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Holds {
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
    /// It cannot be a worker of this program.
    Refused { reason: String },
    /// The program begins.
    Begin {
        /// Partitions of keyed data, and tasks of a large batch.
        partitions: usize,
        /// Host and port of the engine's scheduler.
        engine: String,
        /// Which process of the program the master is, where that is kept in a directory.
        incarnation: Option<u64>,
    },
    /// Receive an input here.
    Receive {
        input: u32,
        receiver: ReceiverId,
        /// How far each part of the source had come, where it ran before.
        positions: BTreeMap<String, u64>,
    },
    /// Where copies of new blocks go.
    Peer { to: Option<(u32, String)> },
    /// Seal what was received.
    Seal { batch: BatchTime, last: bool },
    /// The answer to `Hear`.
    Heard { number: u64 },
    /// Take in nothing more.
    Close,
    /// Sources have had their time: answer the last `Seal`.
    Hurry,
    /// Refuse copies of this worker, and say which are held.
    Fence { lost: u32 },
    /// Refuse copies of everybody, and say which are held: what drains is about to leave.
    Retire,
    /// Copy a block.
    Copy {
        block: BlockId,
        to: u32,
        address: String,
    },
    /// Blocks that no batch needs.
    Drop { blocks: Vec<BlockId> },
    /// A claim is granted: batches up to `last` were taken.
    Grant { token: u64, last: u64 },
    /// A claim is not granted: its producer has connected elsewhere since.
    Refuse { token: u64 },
    /// Take no more batches of this producer, on this grant or an earlier one.
    Revoke {
        input: u32,
        producer: String,
        grant: u64,
    },
    /// Get a partition of state from its holder.
    CopyState {
        partition: u32,
        from: String,
        copy: u64,
    },
    /// Install what a batch added, which its holder keeps.
    Install {
        batch: BatchTime,
        attempt: u32,
        partition: u32,
        /// States and the slots of what they get.
        states: Vec<(usize, usize)>,
        from: String,
    },
    /// The batch has taken effect: nothing of it or of those before is read again, except what they changed of these
    /// partitions of state after these versions, which is in these slots.
    Forget {
        batch: BatchTime,
        but: Vec<(u32, BatchTime)>,
        slots: Vec<usize>,
    },
    /// What is held of states is void; what tasks change whose runs began before is void too.
    Void { era: u32 },
    /// Make a partition of state from a checkpoint.
    Restore {
        partition: u32,
        batch: BatchTime,
        /// By state.
        sources: Vec<Vec<PartAt>>,
        copy: u64,
    },
    /// Take the state for a checkpoint, and write it to a file of this name.
    Checkpoint {
        checkpoint: u64,
        file: String,
        /// Partitions, and by state the version that the last checkpoint has.
        since: Vec<(u32, Vec<Option<BatchTime>>)>,
    },
    /// A checkpoint of this batch is there, with these blocks.
    Covered { batch: BatchTime, blocks: Covered },
    /// The program has ended.
    End,
}
