//! [`Command`]: what the controller tells the node to do.
//!
//! Execute commands in list order. Whatever takes time is started, not awaited; its end comes back as an
//! [`Event`](crate::Event).

use crate::{BatchReport, BatchTime, BlockId, BlockMeta, Timestamp};

/// An instruction to the node. See [`Controller::step`](crate::Controller::step).
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum Command {
    /// Call `step(Tick)` at that time or later; at once if it is past. Replaces the earlier `WakeAt`.
    WakeAt(Timestamp),
    /// Every receiver seals its open block and answers with `Reported`. The next `Seal` comes after this one's
    /// `Cut`.
    Seal {
        /// The batch the sealed blocks go into.
        batch: BatchTime,
    },
    /// Sources have had their time to end after the last `Seal`: every receiver that has not answered seals its
    /// open block now, without waiting for its source, and answers. Given once at most.
    StopWaiting {
        /// The batch of the last `Seal`.
        batch: BatchTime,
    },
    /// Receive nothing more. Given once, with a stop or a failure.
    CloseReceivers,
    /// The batch is fixed now: journal it. It follows the batch of the `Cut` before it; intervals in between were
    /// skipped.
    Cut {
        /// The batch.
        batch: BatchTime,
        /// Its blocks, sorted by id; possibly none.
        blocks: Vec<BlockMeta>,
    },
    /// Many intervals were missed, and all batches that were cut took effect: say what happens next without records,
    /// given the state as of this batch. Answered by [`Due`](crate::Event::Due). Only where
    /// [`Config::skip_missed`](crate::Config::skip_missed) allows it.
    AskDue {
        /// The last batch that was cut.
        after: BatchTime,
    },
    /// Run the batch, possibly beside earlier ones. Answered by `Finished` or `Failed`.
    Run {
        /// The batch.
        batch: BatchTime,
        /// Counts from 1.
        attempt: u32,
    },
    /// Stop working on it; its answer will be ignored.
    Abort {
        /// The batch.
        batch: BatchTime,
        /// The attempt that was running.
        attempt: u32,
    },
    /// Set the batch's records aside, durably, with the reason of the failure, and undo what its attempts did to
    /// the state. Given when all batches before it took effect. Answered by `SetAside` or `SetAsideFailed`; after
    /// the former, its next `Run` has no records. Must be idempotent.
    SetAside {
        /// The batch.
        batch: BatchTime,
        /// How many times it was run.
        attempts: u32,
    },
    /// Make the outputs take effect; given in batch order. Must be idempotent. Answered by `Committed` or
    /// `CommitFailed`; after the latter it may be given again, for the same attempt.
    Commit {
        /// The batch.
        batch: BatchTime,
        /// The attempt that finished: the same in every `Commit` of a batch.
        attempt: u32,
    },
    /// A batch is done; for listeners.
    Completed(BatchReport),
    /// The input of a committed batch may be released.
    Forget {
        /// The batch.
        batch: BatchTime,
        /// All blocks of its cut.
        blocks: Vec<BlockId>,
    },
    /// The batch is given up. Nothing later runs or commits; its blocks and all later ones stay.
    Fail {
        /// The batch.
        batch: BatchTime,
        /// How many times it was run.
        attempts: u32,
    },
    /// The very last command.
    Stopped {
        /// Batches sealed or cut, but not committed; plus one if the last cut of a graceful stop lacked reports,
        /// since received blocks may then be in no batch.
        unfinished: u64,
    },
}
