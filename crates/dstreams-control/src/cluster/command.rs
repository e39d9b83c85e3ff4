//! [`ClusterCommand`]: what the cluster machine tells the master to do.
//!
//! Carried out in the order of the list. What takes time is started, not awaited; its end comes back as an event.

use std::sync::Arc;

use super::WorkerId;
use crate::{BlockId, BlockMeta, ReceiverId};

/// Something to do. See [`Cluster::step`](super::Cluster::step).
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum ClusterCommand {
    /// Open a receiver there. The controller is told `Joined`.
    Receive {
        /// Where.
        worker: WorkerId,
        /// Of this input.
        input: u32,
        /// Under this id, which is new.
        receiver: ReceiverId,
        /// How far each part of the source had come, where the input has one receiver: the greatest number that is safe.
        /// It goes on from there, since what is not safe was in no batch and never will be.
        positions: Vec<(Arc<str>, u64)>,
    },
    /// Where the worker copies the blocks it receives; given when that changes, none at first. Copies name whom they
    /// are for, so that a worker that came back under a new id refuses those meant for the old one.
    Peer {
        /// Who copies.
        worker: WorkerId,
        /// To whom; `None`: a block is stored when this worker has it.
        to: Option<WorkerId>,
    },
    /// Take no block from `lost` from now on. Answered by `Fenced`.
    Fence {
        /// Who refuses.
        at: WorkerId,
        /// Whom.
        lost: WorkerId,
    },
    /// A receiver is gone, and everyone was asked what survives of it. The controller is told `Left`.
    Gone {
        /// Which.
        receiver: ReceiverId,
        /// Its blocks that survive and are not forgotten, sorted by id. What comes after a block that nobody ever held
        /// is not among them: it was not acknowledged, and is sent again.
        blocks: Vec<BlockMeta>,
    },
    /// Copy a block. Answered by `Stored` of `to` (at once if it holds the block already) or by `CopyFailed`.
    Copy {
        /// The block.
        block: BlockId,
        /// Who holds it.
        from: WorkerId,
        /// Who should.
        to: WorkerId,
    },
    /// Let these blocks go. A copy of them that is under way may go on; it will be dropped when it is stored.
    Drop {
        /// Who.
        worker: WorkerId,
        /// The blocks, sorted.
        blocks: Vec<BlockId>,
    },
    /// Another worker that could have told what survives of this one was lost before it answered, or this one was lost
    /// before it answered for a peer: blocks that were acknowledged may be gone that nobody has heard of. Said before
    /// the `Gone` of any of its receivers.
    SurvivorsUnknown {
        /// Whose blocks.
        lost: WorkerId,
    },
    /// No copy of the block is left. If it is in no batch yet, it never will be.
    BlockLost {
        /// The block.
        block: BlockId,
    },
    /// The claim is granted: the client may send from `last + 1` on. The worker may know of later records it took
    /// itself on an earlier grant.
    Grant {
        /// Which claim.
        token: u64,
        /// Where.
        worker: WorkerId,
        /// Everything up to this number is safe; 0 if nothing is known.
        last: u64,
    },
    /// The claim will never be granted: a newer one of the same producer has taken its place, or clients do not send to this
    /// input.
    Refuse {
        /// Which claim.
        token: u64,
        /// Where.
        worker: WorkerId,
    },
    /// Take nothing more of the producer on this grant or an earlier one. Answered by `Revoked`, even if the grant has
    /// not arrived.
    Revoke {
        /// Where.
        worker: WorkerId,
        /// The input.
        input: u32,
        /// The producer.
        producer: Arc<str>,
        /// The token of the grant.
        token: u64,
    },
    /// Who holds a partition of state, and who holds it as standby; given when that changes. Installs go to all of them
    /// from now on; who had a part in it and has none now may let its state go.
    Assign {
        /// The partition.
        partition: u32,
        /// Runs its tasks.
        holder: WorkerId,
        /// Takes over when the holder is lost.
        standby: Option<WorkerId>,
        /// Is sent the state, and becomes the standby when it has all of it: until then the present one stays.
        next: Option<WorkerId>,
    },
    /// Copy the whole state of a partition to its next standby, replacing what it has of it; it may be empty. Answered
    /// by `Installed` or `StateCopyFailed`.
    CopyState {
        /// The partition.
        partition: u32,
        /// Its holder.
        from: WorkerId,
        /// Its next standby.
        to: WorkerId,
        /// Names this copy; grows, from 1.
        copy: u64,
    },
    /// Nobody has the whole state of the partition as of the last commit: it must be made again, on the holder that is
    /// assigned next, which says `Installed` then; a copy that this one was being sent is void. Given again if that one
    /// is lost before. After `StateVoid` that may be the same holder.
    StateLost {
        /// The partition.
        partition: u32,
        /// Names what is made, as the number of a `CopyState` does.
        copy: u64,
    },
    /// The worker has nothing more to give, as far as is known: from now on it takes no block of another. Answered by
    /// `Retired`; given once.
    Retire {
        /// Which.
        worker: WorkerId,
    },
    /// The worker has nothing that others do not have: it may leave. Given once, after `Retired`.
    Drained {
        /// Which.
        worker: WorkerId,
    },
}
