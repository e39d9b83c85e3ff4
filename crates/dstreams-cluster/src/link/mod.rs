//! Link: the connection between a worker and its master, with messages in both directions.
//!
//! Messages arrive in order or the link breaks. A broken link is never used again: the worker rejoins
//! under a new number.

mod directory;
mod frames;
mod message;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Arc, OnceLock};

use xxhash_rust::xxh3::Xxh3;

pub use directory::Directory;
pub use frames::{LinkReceiver, Sender, channel};
pub use message::{BlockReport, ToMaster, ToWorker, VERSION, WorkerUsage};

/// Number and size of the samples of the program's file that its build id hashes: some milliseconds
/// of reading, even for a file of hundreds of megabytes.
const PIECES: u64 = 4096;
const PIECE: usize = 1024;

/// Identifies this build: all processes of a cluster run the same. A hash of samples all over the
/// file, so that another or a changed program has another id.
pub fn build_id() -> Arc<str> {
    static ID: OnceLock<Arc<str>> = OnceLock::new();
    let id = ID.get_or_init(|| {
        let version = env!("CARGO_PKG_VERSION");
        match hash_of_program() {
            Ok(hash) => format!("{version}-{hash:016x}").into(),
            Err(_) => version.into(),
        }
    });
    Arc::clone(id)
}

fn hash_of_program() -> io::Result<u64> {
    let mut file = File::open(std::env::current_exe()?)?;
    let length = file.metadata()?.len();
    let mut hash = Xxh3::new();
    hash.update(&length.to_le_bytes());
    let mut piece = [0; PIECE];
    for number in 0..PIECES {
        file.seek(SeekFrom::Start(length / PIECES * number))?;
        let read = file.read(&mut piece)?;
        hash.update(&piece[..read]);
    }
    Ok(hash.digest())
}

#[cfg(test)]
mod tests;
