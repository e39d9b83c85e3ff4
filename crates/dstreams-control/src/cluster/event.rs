//! [`ClusterEvent`]: what the master reports to the cluster machine.
//!
//! Events may come late, repeatedly and in any order; one that does not match (an absent worker, a forgotten block,
//! an old token) is ignored.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{StoredBlock, WorkerId};
use crate::{BatchTime, BlockId};

/// Something happened. See [`Cluster::step`](super::Cluster::step).
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum ClusterEvent {
    /// A worker has registered.
    Joined {
        /// Its id, which no worker had before.
        worker: WorkerId,
    },
    /// A worker is given up for good. It may still run: `Fence` makes the others refuse it.
    Lost {
        /// The worker.
        worker: WorkerId,
    },
    /// Move everything this worker has to others. It receives until it leaves, which is a `Lost` after `Drained`.
    /// With one copy of each block, let it first stop receiving and report all its blocks, or its last ones are lost
    /// with it.
    Drain {
        /// The worker.
        worker: WorkerId,
    },
    /// These workers are slow, and no others: state moves to the others, which also become the peers of all. Slow workers
    /// still receive and store blocks, and are given state where there are too few others. Replaces what was said before.
    Slow {
        /// The workers.
        workers: BTreeSet<WorkerId>,
    },
    /// A worker stores these blocks. The worker that received them reports this once its peer (`Peer`) has them too
    /// or there is none, and the peer reports it before that; otherwise blocks are copied twice. The receiving worker
    /// numbers a receiver's blocks from 0 without gaps. In that order it acknowledges their records, reports
    /// `Stored`, and reports them for batches; it may copy them in any order.
    Stored {
        /// The worker that stores them.
        worker: WorkerId,
        /// The blocks, in any order.
        blocks: Vec<StoredBlock>,
    },
    /// The answer to `Fence`: from now on the worker accepts no block from `lost`, and no block of its own is
    /// acknowledged because `lost` has it, unless the master has heard that it is stored.
    Fenced {
        /// The worker that answers.
        worker: WorkerId,
        /// The worker that it refuses.
        lost: WorkerId,
        /// All blocks it stores that `lost` received.
        blocks: Vec<StoredBlock>,
    },
    /// The answer to `Adopt`: the lost worker acknowledges nothing more, and the master itself stores these blocks from
    /// now on, of those that it [`wants`](super::Cluster::wants). They need no copies.
    Adopted {
        /// The lost worker.
        lost: WorkerId,
        /// The blocks that it received, from its journal: all that others had of it or that it acknowledged. Ones that
        /// are in a checkpoint may be missing.
        blocks: Vec<StoredBlock>,
    },
    /// The answer to `Retire`, and to every later `Fence`: from now on the worker accepts no block from another
    /// worker, and no block of its own is acknowledged because another has it, unless the master has heard that it is
    /// stored.
    Retired {
        /// The worker that answers.
        worker: WorkerId,
        /// All blocks it stores that others received.
        blocks: Vec<StoredBlock>,
    },
    /// A `Copy` failed. Report it after a pause: the next attempt may be the same. Each `Copy` is answered, by this
    /// or by `Stored`, unless one of the two workers is lost.
    CopyFailed {
        /// The block.
        block: BlockId,
        /// The target.
        to: WorkerId,
    },
    /// The batch of these blocks is committed.
    Forgotten {
        /// The blocks.
        blocks: Vec<BlockId>,
    },
    /// The source of an input has ended on its worker, and its records are safe: it runs nowhere else.
    SourceEnded {
        /// The input.
        input: u32,
    },
    /// Parts of an input's source no longer exist, and never return: where the source resumes, their offsets are left
    /// out.
    PartsRemoved {
        /// The input; one whose source runs on one worker.
        input: u32,
        /// Their names.
        parts: Vec<Arc<str>>,
    },
    /// A client with this producer name connected to a worker, which takes nothing from it before `Grant`. Each claim
    /// is answered, by `Grant` or `Refuse`, unless the worker is lost.
    Claim {
        /// The input.
        input: u32,
        /// The producer.
        producer: Arc<str>,
        /// The worker.
        worker: WorkerId,
        /// The number of the claim. The tokens of a producer grow; one not above the last marks a stale claim.
        token: u64,
    },
    /// The answer to `Revoke`, or unasked when a client has been gone for long: the worker takes nothing more from
    /// the producer under that grant. Records up to `last` are safe (copied to its peer); later ones are dropped.
    Revoked {
        /// The worker that answers.
        worker: WorkerId,
        /// The input.
        input: u32,
        /// The producer.
        producer: Arc<str>,
        /// The token of the grant that ends.
        token: u64,
        /// The greatest number that is safe; 0 if none.
        last: u64,
    },
    /// The worker has a partition's whole state as of a batch, after an install, or after a state copy and every
    /// install that reached it meanwhile.
    Installed {
        /// The worker.
        worker: WorkerId,
        /// The partition.
        partition: u32,
        /// The batch; 0 after a copy of a state that no batch has changed.
        version: BatchTime,
        /// The number of the `CopyState` or `StateLost` that the worker's state began with in its present role; 0 if
        /// it began empty. A different number marks a stale message; it is ignored.
        copy: u64,
    },
    /// A `CopyState` failed. Report it after a pause. Each `CopyState` is answered, by this or by `Installed`, unless
    /// a newer `Assign` of the partition leaves `to` out.
    StateCopyFailed {
        /// The partition.
        partition: u32,
        /// The target.
        to: WorkerId,
        /// The number of the `CopyState`.
        copy: u64,
    },
    /// All states on the workers are void, since a batch that is set aside may have changed them: they must be
    /// recovered as of the last commit, as after a loss (`StateLost`). Earlier reports about them are stale.
    StateInvalidated,
    /// A batch is committed. Not before the present primary of each partition that it changed has installed it, as
    /// [`version`](super::Cluster::version) says; if the primary changes first, the new one must install it too.
    Committed {
        /// The batch.
        batch: BatchTime,
    },
}
