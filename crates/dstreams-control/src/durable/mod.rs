//! What a program that was killed goes on with, and what must stay on disk for that.
//!
//! Two pure halves of one promise. [`Needs`] watches what is written to a journal and says which of it must stay;
//! [`Replay`] takes what was found and decides where the next process goes on. They do no I/O: entries come without
//! their records, and a place in a journal is whatever the caller numbers places with.
//!
//! A machine has one journal. A cluster has several: the master's own, with [`Opened`](Entry::Opened),
//! [`Cut`](Entry::Cut), [`Committed`](Entry::Committed) and [`Gone`](Entry::Gone), and one of each worker's life, with the
//! blocks it received. In which order entries of different journals were written nobody knows, so [`Replay`] takes
//! all of them first, in any order, and decides then.
//!
//! # What the writer keeps to
//!
//! * A record is acknowledged, and a producer is told how far it came, when its block is synced.
//! * A batch takes effect when its cut and its blocks are synced. Where these are in several journals, a block is
//!   reported for a batch when it is synced; in one journal the order does.
//! * `Opened` is synced before another journal has a block of the process.
//! * `Gone` is synced before a producer of that receiver may go on elsewhere. That a worker that was given up lives on
//!   and writes to its journal does no harm then.
//! * After a restart, what was read is synced before a producer is told how far it came; it may have been in memory
//!   only. All journals are read, and nobody writes to one that was.
//! * A checkpoint as of a batch is written when the batch has taken effect, with [`Needs::covered`] as it was then; what
//!   [`Needs::let_go`] names may go when the checkpoint is on disk, from the oldest entry on.
//!
//! # Promises
//!
//! * Of several processes one after the other, each killed at any moment, a block is in one batch at most, and exactly
//!   one if it was acknowledged; a batch that took effect has the same blocks for ever.
//! * A journal that lost what [`Needs`] did not name gives the same restart.

mod covered;
mod entry;
mod needs;
mod replay;
mod restart;

pub use covered::Covered;
pub use entry::{Entry, Marks, Point};
pub use needs::Needs;
pub use replay::{Replay, ReplayError};
pub use restart::Restart;
