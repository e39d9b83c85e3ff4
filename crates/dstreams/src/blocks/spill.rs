//! Spill files of blocks.
//!
//! They add capacity, not durability: nothing is synced, and files of an earlier process are removed. One store
//! uses a directory at a time; a locked file in it ensures that.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dstreams_control::{BlockId, ReceiverId};

use crate::error::{Error, Result};

/// The name of the lock file.
const LOCK: &str = "dstreams-blocks.lock";

/// A directory of spill files.
pub(super) struct SpillDir {
    path: PathBuf,
    /// Files created so far: a block that is spilled again gets another file.
    created: AtomicU64,
    lock: Arc<File>,
    #[cfg(test)]
    pub pause: std::sync::Mutex<Option<Arc<std::sync::Barrier>>>,
}

/// The file of a block; removed when dropped, so that a reader has it until the end.
pub(super) struct SpillFile {
    path: PathBuf,
    pub bytes: u64,
    /// Keeps the directory locked until the last file is gone, so that no other store reuses its name earlier.
    _lock: Arc<File>,
}

impl SpillDir {
    /// Creates the directory if it is missing, locks it, and removes the blocks of an earlier process; other files
    /// stay.
    pub fn open(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path)
            .map_err(|error| Error::file("make the directory", &path, error))?;
        let lock = path.join(LOCK);
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock);
        let file = file.map_err(|error| Error::file("open", &lock, error))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                let error = "another store uses this directory; give each its own";
                Error::file("lock", &lock, io::Error::other(error))
            }
            TryLockError::Error(error) => Error::file("lock", &lock, error),
        })?;
        let entries = fs::read_dir(&path).map_err(|error| Error::file("list", &path, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| Error::file("list", &path, error))?;
            let name = entry.file_name();
            let file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if file && name.to_str().and_then(block_of).is_some() {
                let left = entry.path();
                fs::remove_file(&left).map_err(|error| Error::file("remove", &left, error))?;
            }
        }
        Ok(SpillDir {
            path,
            created: AtomicU64::new(0),
            lock: Arc::new(file),
            #[cfg(test)]
            pause: Default::default(),
        })
    }

    /// Writes the bytes of a block to a new file. A failure leaves no file.
    pub fn write(&self, id: BlockId, bytes: &[u8]) -> Result<SpillFile> {
        let created = self.created.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(name_of(id, created));
        let file = File::create_new(&path);
        let mut file = file.map_err(|error| Error::file("make the file", &path, error))?;
        // From here on, dropping this removes the file.
        let written = SpillFile {
            path,
            bytes: bytes.len() as u64,
            _lock: Arc::clone(&self.lock),
        };
        #[cfg(test)]
        self.pause();
        file.write_all(bytes)
            .map_err(|error| Error::file("write", &written.path, error))?;
        Ok(written)
    }

    /// Tests stop here, with the file created and not yet written.
    #[cfg(test)]
    fn pause(&self) {
        let pause = self.pause.lock().unwrap().take();
        if let Some(barrier) = pause {
            barrier.wait();
            barrier.wait();
        }
    }
}

impl SpillFile {
    pub fn read(&self) -> Result<Vec<u8>> {
        fs::read(&self.path).map_err(|error| Error::file("read", &self.path, error))
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        // Its directory may be gone already, with its process.
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            let path = self.path.display();
            tracing::warn!(%path, %error, "cannot remove the spill file of a released block");
        }
    }
}

fn name_of(id: BlockId, created: u64) -> String {
    format!(
        "dstreams-block-{}-{}-{created}.spill",
        id.receiver.0, id.seq
    )
}

/// The block of a file name.
fn block_of(name: &str) -> Option<BlockId> {
    let numbers = name
        .strip_prefix("dstreams-block-")?
        .strip_suffix(".spill")?;
    let mut numbers = numbers.split('-');
    let (receiver, seq, created) = (numbers.next()?, numbers.next()?, numbers.next()?);
    let id = BlockId {
        receiver: ReceiverId(receiver.parse().ok()?),
        seq: seq.parse().ok()?,
    };
    (name == name_of(id, created.parse().ok()?)).then_some(id)
}
