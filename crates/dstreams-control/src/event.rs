//! [`Event`]: what the node reports to the controller.
//!
//! Events may come late, repeatedly and in any order; one that does not match (an old attempt, an unknown batch or
//! receiver) is ignored.

use serde::{Deserialize, Serialize};

use crate::{BatchTime, BlockMeta, ReceiverId, Timestamp};

/// A run of intervals that need their batches, even if no record comes.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub struct Due {
    /// The first of them. Intervals before it need no batch.
    pub from: BatchTime,
    /// The last for which that is known; after it, the controller asks again.
    pub to: BatchTime,
}

impl Due {
    /// One interval.
    #[must_use]
    pub const fn at(batch: BatchTime) -> Self {
        Self {
            from: batch,
            to: batch,
        }
    }

    /// The earlier run of the two, joined with the other if they overlap.
    #[must_use]
    pub fn or_earlier(self, other: Self) -> Self {
        let (first, second) = match self.from <= other.from {
            true => (self, other),
            false => (other, self),
        };
        let to = match second.from <= first.to {
            true => first.to.max(second.to),
            false => first.to,
        };
        Self {
            from: first.from,
            to,
        }
    }
}

/// Something happened. See [`Controller::step`](crate::Controller::step).
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum Event {
    /// The first event. Boundaries start with the first multiple of the interval strictly after `now`.
    Start {
        /// All receivers that will answer `Seal`, beside those that joined before. Blocks of other receivers are
        /// ignored.
        receivers: Vec<ReceiverId>,
    },
    /// A new receiver: every `Seal` from the next on waits for it; before `Start`, as if listed there. The id must
    /// be new: a receiver that left never joins again.
    Joined {
        /// The new receiver.
        receiver: ReceiverId,
    },
    /// A receiver is gone for good: nothing waits for it, and its later reports are ignored. One that never joined
    /// counts as joined just before.
    Left {
        /// The receiver.
        receiver: ReceiverId,
        /// All its surviving blocks, reported or not, in any order. Unreported ones go into the cut of the
        /// outstanding `Seal`, or else into the next. Reported ones missing here are lost; if they are in no cut
        /// yet, they never will be.
        blocks: Vec<BlockMeta>,
    },
    /// Time has passed (the answer to `WakeAt`); harmless at any time.
    Tick,
    /// A receiver's answer to `Seal`: its blocks that no earlier report named. Each `Seal` must be answered
    /// eventually, by this or by [`Left`](Event::Left).
    Reported {
        /// The batch of the `Seal`.
        batch: BatchTime,
        /// The receiver that answers.
        receiver: ReceiverId,
        /// The blocks, in any order.
        blocks: Vec<BlockMeta>,
    },
    /// The answer to [`AskDue`](crate::Command::AskDue).
    Due {
        /// The batch of the `AskDue`.
        after: BatchTime,
        /// The first intervals after it in which something happens without records: a state changes, or an output has
        /// rows. None if nothing ever does. Where that is not known, the next interval is named.
        due: Option<Due>,
    },
    /// The engine ran the batch: outputs are prepared, nothing is visible yet.
    Finished {
        /// The batch of the `Run`.
        batch: BatchTime,
        /// The attempt of the `Run`.
        attempt: u32,
    },
    /// The engine could not run it, or a sink could not prepare its output. Ignored after `Commit`: from then on
    /// only [`Committed`](Event::Committed) and [`CommitFailed`](Event::CommitFailed) count.
    Failed {
        /// The batch of the `Run`.
        batch: BatchTime,
        /// The attempt of the `Run`.
        attempt: u32,
        /// Whether another attempt may succeed.
        retryable: bool,
        /// Whether the batch itself failed, not its environment: only then may it be set aside.
        of_batch: bool,
    },
    /// The records of the batch are set aside, durably.
    SetAside {
        /// The batch of the `SetAside`.
        batch: BatchTime,
    },
    /// Setting the records aside failed.
    SetAsideFailed {
        /// The batch of the `SetAside`.
        batch: BatchTime,
    },
    /// All outputs of the batch took effect.
    Committed {
        /// The batch of the `Commit`.
        batch: BatchTime,
    },
    /// Some outputs of the batch are not known to have taken effect; others may have.
    CommitFailed {
        /// The batch of the `Commit`.
        batch: BatchTime,
        /// Whether committing the same attempt again may succeed.
        retryable: bool,
    },
    /// Stop. A second one may shorten the first (graceful to abrupt, an earlier deadline), never lengthen it.
    Stop {
        /// Close the receivers, then cut, run and commit everything received. Otherwise drop all batches but the
        /// one being committed; wait for that one, and retry its commit on failure, since its effect may be
        /// visible.
        graceful: bool,
        /// Wait no longer than that. The remaining time is fixed when the event is taken: a later backward step of
        /// the clock does not lengthen it.
        deadline: Option<Timestamp>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_of_two_ends_before_the_other_begins() {
        let due = |from, to| Due {
            from: BatchTime(from),
            to: BatchTime(to),
        };
        for (one, two, first) in [
            (due(1, 3), due(5, 9), due(1, 3)),
            (due(1, 3), due(3, 9), due(1, 9)),
            (due(1, 9), due(3, 4), due(1, 9)),
            (due(2, 2), due(2, 2), Due::at(BatchTime(2))),
        ] {
            assert_eq!((one.or_earlier(two), two.or_earlier(one)), (first, first));
        }
    }
}
