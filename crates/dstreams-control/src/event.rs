//! [`Event`]: what the node tells the controller.
//!
//! Events may come late, twice and in any order; one that does not fit (an old attempt, an unknown batch or
//! receiver) changes nothing.

use crate::{BatchTime, BlockMeta, ReceiverId, Timestamp};

/// Something happened. See [`Controller::step`](crate::Controller::step).
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum Event {
    /// The first event. Boundaries start with the first multiple of the interval strictly after `now`.
    Start {
        /// Everyone who will answer `Seal`, beside those who joined before. Blocks of other receivers are ignored.
        receivers: Vec<ReceiverId>,
    },
    /// A receiver has come: it is waited for from the next `Seal` on; before `Start`, as if in its list. The id must be
    /// new: one that has left never joins again.
    Joined {
        /// Who has come.
        receiver: ReceiverId,
    },
    /// A receiver is gone for good and waited for no longer; reports of it that come later are ignored. One that never
    /// joined leaves as if it had joined just before.
    Left {
        /// Who is gone.
        receiver: ReceiverId,
        /// All its blocks that survive, whether a report named them or not, in any order. Those that no report named
        /// go into the cut of the outstanding `Seal`, or else into the next. Those that a report named and that are
        /// not here are lost; if they are in no cut yet, they never will be.
        blocks: Vec<BlockMeta>,
    },
    /// Time has passed (the answer to `WakeAt`); harmless at any time.
    Tick,
    /// A receiver's answer to `Seal`: the blocks it holds that no earlier report named. Each `Seal` must be answered
    /// in the end, by this or by [`Left`](Event::Left).
    Reported {
        /// The batch of the `Seal`.
        batch: BatchTime,
        /// Who answers.
        receiver: ReceiverId,
        /// The blocks, in any order.
        blocks: Vec<BlockMeta>,
    },
    /// The engine ran the batch: outputs are prepared, nothing is visible yet.
    Finished {
        /// The batch of the `Run`.
        batch: BatchTime,
        /// The attempt of the `Run`.
        attempt: u32,
    },
    /// The engine could not run it, or a sink could not prepare its output. Ignored once `Commit` was given: from
    /// then on only [`Committed`](Event::Committed) and [`CommitFailed`](Event::CommitFailed) count.
    Failed {
        /// The batch of the `Run`.
        batch: BatchTime,
        /// The attempt of the `Run`.
        attempt: u32,
        /// Whether another attempt may succeed.
        retryable: bool,
        /// Whether the batch itself failed, and not what it ran on: only then may it be set aside.
        of_batch: bool,
    },
    /// The records of the batch are set aside, and it will stay so after a restart.
    SetAside {
        /// The batch of the `SetAside`.
        batch: BatchTime,
    },
    /// They could not be set aside.
    SetAsideFailed {
        /// The batch of the `SetAside`.
        batch: BatchTime,
    },
    /// All outputs of the batch took effect.
    Committed {
        /// The batch of the `Commit`.
        batch: BatchTime,
    },
    /// Not all outputs of the batch are known to have taken effect; some may have.
    CommitFailed {
        /// The batch of the `Commit`.
        batch: BatchTime,
        /// Whether committing the same attempt again may succeed.
        retryable: bool,
    },
    /// Stop. A second one may shorten the first (graceful to abrupt, an earlier deadline), never lengthen it.
    Stop {
        /// Close the receivers, take what was received, run and commit everything. Otherwise drop what is not
        /// being committed; that one is waited for, and its commit repeated if it fails, since its effect may be
        /// visible.
        graceful: bool,
        /// Wait no longer than that. The time left is fixed when the event is taken: a clock that steps back later
        /// does not lengthen it.
        deadline: Option<Timestamp>,
    },
}
