//! [`Command`]: what the controller tells the node to do.
//!
//! Commands are carried out in the order of the list. What takes time is started, not awaited; its end comes back
//! as an [`Event`](crate::Event).

use crate::{BatchReport, BatchTime, BlockId, BlockMeta, Timestamp};

/// Something to do. See [`Controller::step`](crate::Controller::step).
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum Command {
    /// Call `step(Tick)` then, or later; at once if it is past. Replaces the earlier `WakeAt`.
    WakeAt(Timestamp),
    /// Every receiver seals what it has and answers with `Reported`. The next `Seal` comes after the `Cut` of this.
    Seal {
        /// The batch the sealed blocks go into.
        batch: BatchTime,
    },
    /// Sources have had their time to end after the last `Seal`: every receiver that has not answered it seals what it
    /// has now, without waiting for its source, and answers. Given once at most.
    Hurry {
        /// The batch of the last `Seal`.
        batch: BatchTime,
    },
    /// Take in nothing more. Given once, with a stop or a failure.
    CloseReceivers,
    /// The batch is fixed now: journal it.
    Cut {
        /// The batch.
        batch: BatchTime,
        /// Its blocks, sorted by id; possibly none.
        blocks: Vec<BlockMeta>,
    },
    /// Run the batch, possibly beside earlier ones. Answered by `Finished` or `Failed`.
    Run {
        /// The batch.
        batch: BatchTime,
        /// Counts from 1.
        attempt: u32,
    },
    /// Do not go on with it; its report will be ignored.
    Abort {
        /// The batch.
        batch: BatchTime,
        /// The attempt that was running.
        attempt: u32,
    },
    /// Set the records of a batch aside, durably, with the reason why it failed, and undo what its attempts did to the
    /// state. Given when all batches before it took effect. Answered by `SetAside` or `SetAsideFailed`; after the
    /// former its next `Run` is one without records. Must be idempotent.
    SetAside {
        /// The batch.
        batch: BatchTime,
        /// How many times it was run.
        attempts: u32,
    },
    /// Make the outputs take effect; given in the order of the batches. Must be idempotent. Answered by `Committed` or `CommitFailed`; after the latter
    /// it may be given again, for the same attempt.
    Commit {
        /// The batch.
        batch: BatchTime,
        /// The attempt that finished: the same in every `Commit` of a batch.
        attempt: u32,
    },
    /// A batch is done; for listeners.
    Completed(BatchReport),
    /// The input of a committed batch may go.
    Forget {
        /// The batch.
        batch: BatchTime,
        /// All blocks of its cut.
        blocks: Vec<BlockId>,
    },
    /// Given up on it. Nothing later runs or commits; its blocks and all later ones are kept.
    Fail {
        /// The batch.
        batch: BatchTime,
        /// How many times it was run.
        attempts: u32,
    },
    /// The last command ever.
    Stopped {
        /// Batches sealed or cut, but not committed; and one more if the last cut of a graceful stop was made without
        /// all reports, since blocks may have been received that are in no batch.
        unfinished: u64,
    },
}
