//! [`ClusterEvent`]: what the master tells the cluster machine.
//!
//! Events may come late, twice and in any order; one that does not fit (of a worker that is not there, about a block
//! that was forgotten, an old token) changes nothing.

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
    /// A worker is given up for good. It may still run: the others are told to refuse it (`Fence`).
    Lost {
        /// Which.
        worker: WorkerId,
    },
    /// Give away everything this worker has. It receives until it leaves, which is a `Lost` after `Drained`. With one
    /// copy of each block, let it first take in nothing more and tell all its blocks, or its last ones go with it.
    Drain {
        /// Which.
        worker: WorkerId,
    },
    /// A worker holds these blocks now. A worker that received them tells it when its peer (`Peer`) has them too or
    /// there is none, and the peer before that; otherwise blocks are copied that are being copied. It numbers the blocks
    /// of a receiver from 0 without gaps, and in that order it acknowledges their records, tells `Stored` and reports
    /// them; it may copy them in any order.
    Stored {
        /// Who holds them.
        worker: WorkerId,
        /// The blocks, in any order.
        blocks: Vec<StoredBlock>,
    },
    /// The answer to `Fence`: from now on the worker takes no block from `lost`, and of its own blocks none is
    /// acknowledged because `lost` has it unless the master has heard that it is stored.
    Fenced {
        /// Who answers.
        worker: WorkerId,
        /// Who is refused.
        lost: WorkerId,
        /// All blocks it holds that `lost` received.
        blocks: Vec<StoredBlock>,
    },
    /// The answer to `Retire`, and to every `Fence` that is to come: from now on the worker takes no block of another
    /// worker, and of its own blocks none is acknowledged because another has it unless the master has heard that it is
    /// stored.
    Retired {
        /// Who answers.
        worker: WorkerId,
        /// All blocks it holds that others received.
        blocks: Vec<StoredBlock>,
    },
    /// A `Copy` failed. Wait a while before telling it: the next try may be the same again. Each `Copy` is answered, by
    /// this or by `Stored`, unless one of the two workers is lost.
    CopyFailed {
        /// The block.
        block: BlockId,
        /// Who should have got it.
        to: WorkerId,
    },
    /// The batch of these blocks is committed.
    Forgotten {
        /// The blocks.
        blocks: Vec<BlockId>,
    },
    /// The source of an input has ended where it ran, and what it brought is safe: it runs nowhere else.
    SourceEnded {
        /// The input.
        input: u32,
    },
    /// Parts of the source of an input are no more, and never come again: where it goes on elsewhere, it is not told how
    /// far they had come.
    PartsGone {
        /// The input; one whose source runs on one worker.
        input: u32,
        /// Their names.
        parts: Vec<Arc<str>>,
    },
    /// A client with this producer name connected to this worker, which takes nothing of it before `Grant`. Each claim is
    /// answered, by `Grant` or `Refuse`, unless the worker is lost.
    Claim {
        /// The input.
        input: u32,
        /// The producer.
        producer: Arc<str>,
        /// Where it connected.
        worker: WorkerId,
        /// Names the claim. The tokens of a producer grow; one that is not above the last is a claim of the past.
        token: u64,
    },
    /// The answer to `Revoke`, or given unasked when a client is gone for long: the worker takes nothing more of the
    /// producer on that grant. What it took up to `last` is safe (copied to its peer), what it took after that is
    /// dropped.
    Revoked {
        /// Who answers.
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
    /// The worker holds a partition's whole state as of that batch, after an install, or after a state copy and every
    /// install that reached it meanwhile.
    Installed {
        /// Who.
        worker: WorkerId,
        /// The partition.
        partition: u32,
        /// The batch; 0 after a copy of a state that no batch has changed.
        version: BatchTime,
        /// The number of the `CopyState` or `StateLost` that the worker's state of this partition began with, since it
        /// has a part in it; 0 if it began empty. With another number, this is news of the past.
        copy: u64,
    },
    /// A `CopyState` failed. Wait a while before telling it. Each `CopyState` is answered, by this or by `Installed`,
    /// unless a newer `Assign` of the partition leaves `to` out.
    StateCopyFailed {
        /// The partition.
        partition: u32,
        /// Who should have got it.
        to: WorkerId,
        /// The number of the `CopyState`.
        copy: u64,
    },
    /// What the workers have of all states is void, since a batch that is set aside may have changed it: it must be made
    /// again as of the last commit, as after a loss (`StateLost`). What workers said of it before is news of the past.
    StateVoid,
    /// A batch is committed. Not before each partition that it changed is installed by its present holder, as
    /// [`version`](super::Cluster::version) says; if the holder changes before, the new one must install it too.
    Committed {
        /// The batch.
        batch: BatchTime,
    },
}
