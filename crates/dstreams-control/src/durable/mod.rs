//! Where a killed program resumes, and what must stay on disk for that.
//!
//! Two pure halves of one promise. [`JournalRetention`] watches what is written to a journal and says which entries
//! must stay; [`Replay`] takes what was found on disk and decides where the next process resumes. They do no I/O:
//! entries come without their records, and the caller numbers the places in a journal as it likes.
//!
//! One machine has one journal. A cluster has several: the master's, with [`Opened`](Entry::Opened),
//! [`Cut`](Entry::Cut), [`Committed`](Entry::Committed) and [`ReceiverLost`](Entry::ReceiverLost), and one per life of
//! a worker, with the blocks it received. The order of entries of different journals is unknown, so [`Replay`] first
//! takes all of them, in any order, and then decides.
//!
//! # Obligations of the writer
//!
//! * Records are acknowledged, and offsets reported to their producer, when their block is synced.
//! * A batch takes effect when its cut and its blocks are synced. With several journals, a block is reported for a
//!   batch when it is synced; in one journal the order ensures it.
//! * `Opened` is synced before another journal has a block of the process.
//! * `ReceiverLost` is synced before a producer of that receiver may resume elsewhere. A fenced worker that lives and
//!   writes to its journal then does no harm.
//! * After a restart, what was read is synced before offsets are reported to producers; it may have been in memory
//!   only. All journals are read, and none that was read is written again.
//! * A checkpoint of a batch is written after the batch took effect, with [`JournalRetention::checkpointed`] as of
//!   then; what [`JournalRetention::release`] names may be deleted once the checkpoint is on disk, oldest entry first.
//!
//! # Promises
//!
//! * Over several processes in a row, each killed at any moment, a block is in one batch at most, and in exactly
//!   one if it was acknowledged; a batch that took effect keeps its blocks permanently.
//! * A cut that follows skipped intervals names the batch before it: a cut that is missing there is refused.
//! * A journal without the entries that [`JournalRetention`] released gives the same restart.

mod checkpointed_blocks;
mod entry;
mod replay;
mod restart;
mod retention;

pub use checkpointed_blocks::CheckpointedBlocks;
pub use entry::{CheckpointMeta, Entry, ProducerOffsets};
pub use replay::{Replay, ReplayError};
pub use restart::Restart;
pub use retention::JournalRetention;
