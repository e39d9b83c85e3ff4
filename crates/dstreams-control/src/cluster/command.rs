//! [`ClusterCommand`]: instructions from the cluster machine to the master.
//!
//! Execute commands in list order. Whatever takes time is started, not awaited; its end comes back as an event.

use std::sync::Arc;

use super::WorkerId;
use crate::{BlockId, BlockMeta, ReceiverId};

/// An instruction to the master. See [`Cluster::step`](super::Cluster::step).
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum ClusterCommand {
    /// Open a receiver on a worker. Tell the controller `Joined`.
    Receive {
        /// The worker.
        worker: WorkerId,
        /// The input.
        input: u32,
        /// Its id, which is new.
        receiver: ReceiverId,
        /// For an input with one receiver: the safe offset of each part of its source, where the source resumes.
        /// Records beyond it were in no batch and never will be.
        offsets: Vec<(Arc<str>, u64)>,
    },
    /// The peer to which a worker copies the blocks it receives; given when it changes, none at first. Copies name
    /// their addressee, so a worker that returned under a new id refuses those meant for the old one.
    Peer {
        /// The worker that copies.
        worker: WorkerId,
        /// Its peer; `None`: a block is stored when this worker has it.
        to: Option<WorkerId>,
    },
    /// Accept no more blocks from `lost`. Answered by `Fenced`.
    Fence {
        /// The worker that refuses.
        at: WorkerId,
        /// The lost worker.
        lost: WorkerId,
    },
    /// A receiver is gone, and every worker was asked which of its blocks survive. Tell the controller `Left`.
    ReceiverLost {
        /// The receiver.
        receiver: ReceiverId,
        /// Its surviving blocks that are not forgotten, sorted by id. Blocks after one that was never stored are left
        /// out: they were not acknowledged, and are sent again.
        blocks: Vec<BlockMeta>,
    },
    /// Copy a block. Answered by `Stored` from `to` (at once if it has the block already) or by `CopyFailed`.
    Copy {
        /// The block.
        block: BlockId,
        /// The source, which stores it.
        from: WorkerId,
        /// The target.
        to: WorkerId,
    },
    /// Release these blocks. A copy of them in progress may continue; it is dropped when it is stored.
    Drop {
        /// The worker.
        worker: WorkerId,
        /// The blocks, sorted.
        blocks: Vec<BlockId>,
    },
    /// Blocks that this lost worker received may be stored nowhere else, or the master has not heard of all. Take its
    /// journal away from it, so that it acknowledges nothing more, then read it. Answered by `Adopted`; given once for a
    /// worker at most, with [`ClusterConfig::journals`](super::ClusterConfig::journals), in the place of
    /// `SurvivorsUnknown` and `BlockLost`. Until the answer, its receivers are not gone.
    Adopt {
        /// The lost worker.
        lost: WorkerId,
    },
    /// Acknowledged blocks of a lost worker may be gone that the master never heard of: a worker that could have
    /// reported its survivors was lost before it answered, or this one was lost before it answered for a peer. Given
    /// before the `ReceiverLost` of any of its receivers.
    SurvivorsUnknown {
        /// The lost worker.
        lost: WorkerId,
    },
    /// No copy of the block is left, nor is it in the journal of the worker that received it. If it is in no batch yet,
    /// it never will be.
    BlockLost {
        /// The block.
        block: BlockId,
    },
    /// The claim is granted: the client may send from `last + 1` on. The worker may know of later records that it
    /// took itself under an earlier grant.
    Grant {
        /// The token of the claim.
        token: u64,
        /// The worker.
        worker: WorkerId,
        /// Everything up to this number is safe; 0 if nothing is known.
        last: u64,
    },
    /// The claim will never be granted: a newer one of the same producer has replaced it, or clients do not send to
    /// this input.
    Refuse {
        /// The token of the claim.
        token: u64,
        /// The worker.
        worker: WorkerId,
    },
    /// Take nothing more from the producer under this grant or an earlier one. Answered by `Revoked`, even if the
    /// grant has not arrived.
    Revoke {
        /// The worker.
        worker: WorkerId,
        /// The input.
        input: u32,
        /// The producer.
        producer: Arc<str>,
        /// The token of the grant.
        token: u64,
    },
    /// The primary and the standby of a partition of state; given when they change. From now on installs go to every
    /// worker named here; one that had a role in the partition and has none now may release its state.
    Assign {
        /// The partition.
        partition: u32,
        /// The primary: runs its tasks.
        primary: WorkerId,
        /// Takes over when the primary is lost.
        standby: Option<WorkerId>,
        /// Receives a copy of the state and becomes the standby once it has all of it; until then the present one
        /// stays.
        next: Option<WorkerId>,
    },
    /// Copy the whole state of a partition, possibly empty, to its next standby, replacing the state there. Answered
    /// by `Installed` or `StateCopyFailed`.
    CopyState {
        /// The partition.
        partition: u32,
        /// Its primary.
        from: WorkerId,
        /// Its next standby.
        to: WorkerId,
        /// The number of this copy; grows, from 1.
        copy: u64,
    },
    /// No worker has the whole state of the partition as of the last commit. The primary that is assigned next must
    /// recover it, then report `Installed`; a copy that it was receiving is void. Given again if that primary is lost
    /// first. After `StateInvalidated` it may be the same worker.
    StateLost {
        /// The partition.
        partition: u32,
        /// The number of the recovered state, in the sequence of `CopyState`.
        copy: u64,
    },
    /// As far as is known, the worker has nothing more to give away: from now on it accepts no blocks from others.
    /// Answered by `Retired`; given once.
    Retire {
        /// The worker.
        worker: WorkerId,
    },
    /// Other workers have everything this one has: it may leave. Given once, after `Retired`.
    Drained {
        /// The worker.
        worker: WorkerId,
    },
}
