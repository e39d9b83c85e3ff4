//! The journal: the write-ahead log of a program.
//!
//! **In**: received blocks, the cut of each batch, its commit. **Out**: after a restart, the same in the same
//! order. **Promise**: an entry for which [`Journal::synced`] has returned survives the loss of the process and of
//! power. Entries are written in the order of [`Journal::append`]; the journal's own thread syncs many at once,
//! while batches run. **On failure**: a failed write or sync ends the journal permanently: no later entry is ever
//! acknowledged, and the program stops.
//!
//! A directory has one journal, of files `journal-<number>.log` of some 64 MiB: a header, then entries
//! ([`segment`]), of which the first identifies the program ([`Opening`]). A file is removed when checkpoints
//! cover all its entries. An unsynced entry may be missing or torn after a crash: the end of the last file is cut
//! there. Damage before that is an error that names file and place. Each entry records how much was synced before
//! it, so the two can be told apart.
//!
//! Not promised: telling damage of the very last synced entries from a torn end if the machine lost power before
//! it wrote anything more.

mod entry;
mod lease;
mod lock;
mod output;
mod read;
mod segment;
mod sync;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use entry::{JournalEntry, Opening};
pub use lease::stand_by;
pub use lock::{DirLock, Owner};
pub(crate) use lock::{make_dir, random_name};
pub(crate) use read::{
    EntryPlace, JournalContents, NextSegment, look, look_at_each, read, read_each_taken,
    read_entry, read_shared, read_taken,
};
pub(crate) use sync::sync_dir;
pub(crate) use write::Journal;
pub use write::Ticket;
