//! The journal: what a program must not forget, on disk.
//!
//! **In**: received blocks, the cut of each batch, its commit. **Out**: after a restart, the same in the
//! same order. **Promise**: what [`Journal::synced`] has returned for survives the loss of the process and
//! of power. Entries are written in the order of [`Journal::append`]; many are synced at once, by a thread
//! of the journal's own, while batches run. **On failure**: a write or sync that fails ends the journal for
//! good: nothing after it is ever promised, and the program stops.
//!
//! A directory has one journal, of files `journal-<number>.log` of some 64 MiB: a header, then entries
//! ([`segment`]), the first of which says which program it is of ([`Opening`]). A file is let go when all it has is in a checkpoint. An entry that was not synced may be
//! missing or torn after a crash: the end of the last file is cut there. Damage before that is an error that
//! names file and place: each entry says how much was synced before it, so the two can be told apart.
//!
//! Not promised: that damage to the very last synced entries is told from a torn end when the machine lost
//! power before it wrote anything more.

mod entry;
mod lock;
mod output;
mod read;
mod segment;
mod sync;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use entry::{JournalEntry, Opening};
pub use lock::{DirLock, Owner};
pub(crate) use lock::{make_dir, random_name};
#[cfg(test)]
use read::NextSegment;
pub(crate) use read::{JournalContents, look, read, read_taken};
pub(crate) use sync::sync_dir;
pub(crate) use write::Journal;
pub use write::Ticket;
