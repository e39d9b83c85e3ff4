//! Node: wires the stages of one process together.
//!
//! **In**: a described program. **Out**: a [`Running`] one. **Promise**: what the controller decides
//! is carried out in its order; whatever takes time runs beside it. **On failure**: a batch that
//! cannot be run or committed stops the context, with the batch, the operator and the cause.

mod context;
mod durable;
mod journal;
#[allow(missing_docs)] // public to `cluster` only
mod lane;
mod listener;
mod local;
mod master;
mod parts;
mod receivers;
mod replay;
mod running;
mod set_aside;
mod source;
mod sources_end;
mod start;
mod workers;

pub use context::{Named, StreamContext};
pub use durable::CheckpointFailures;
pub use durable::inspect::{CheckpointInfo, Inspection, JournalInfo, inspect};
pub use durable::lineage::{BatchLineage, Lineage};
pub use listener::Listener;
pub use running::{Running, Status, Summary};

pub use durable::Durable;
pub use durable::checkpoint::{
    CheckpointPlan, PartAt, READ_AT_ONCE, Writing, WrittenFile, blocking, load, on_disk, write,
};
pub use durable::manifest::state_file;
pub use durable::received::{BlockJournal, dir_of};
pub use durable::restore::Restored;
pub use durable::set_aside::Earlier;
pub use durable::store::Store;
pub use journal::{DirLock, Owner, Ticket};
pub use lane::{LINGER, Seal};
pub use parts::Parts;
pub use receivers::Receivers;
pub use source::{Sources, open_source, run_source, say_reachable};
pub use start::{Inbox, replay, run_on};
pub use workers::{Held, Mailbox, Workers};
