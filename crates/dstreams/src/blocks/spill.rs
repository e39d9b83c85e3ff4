//! Files of blocks that are not in memory.
//!
//! They are room, not safety: nothing is synced, and what an earlier process left is removed. One
//! store uses a directory at a time, which a locked file in it sees to.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dstreams_control::{BlockId, ReceiverId};

use crate::error::{Error, Result};

/// Name of the file that is locked.
const LOCK: &str = "dstreams-blocks.lock";

/// A directory of blocks.
pub(super) struct SpillDir {
    path: PathBuf,
    /// Files made so far: a block that comes again gets another file.
    made: AtomicU64,
    lock: Arc<File>,
    #[cfg(test)]
    pub pause: std::sync::Mutex<Option<Arc<std::sync::Barrier>>>,
}

/// The file of a block; removed when dropped, so that who reads it has it until the end.
pub(super) struct SpillFile {
    path: PathBuf,
    pub bytes: u64,
    /// The directory is locked until the last file is gone, so that no other store makes one of
    /// the same name before.
    _lock: Arc<File>,
}

impl SpillDir {
    /// Makes the directory where it is missing, locks it, and removes the blocks of an earlier
    /// process; other files stay.
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
            made: AtomicU64::new(0),
            lock: Arc::new(file),
            #[cfg(test)]
            pause: Default::default(),
        })
    }

    /// Writes the bytes of a block into a new file. Nothing is left of it after a failure.
    pub fn write(&self, id: BlockId, bytes: &[u8]) -> Result<SpillFile> {
        let made = self.made.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(name_of(id, made));
        let file = File::create_new(&path);
        let mut file = file.map_err(|error| Error::file("make the file", &path, error))?;
        // From here on the file goes when this is dropped.
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

    /// Tests stop here, with the file made and not yet written.
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
        // Its directory may have gone before, with the process that it was for.
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            let path = self.path.display();
            tracing::warn!(%path, %error, "the file of a block that went was not removed");
        }
    }
}

fn name_of(id: BlockId, made: u64) -> String {
    format!("dstreams-block-{}-{}-{made}.spill", id.receiver.0, id.seq)
}

/// The block whose file has this name.
fn block_of(name: &str) -> Option<BlockId> {
    let numbers = name
        .strip_prefix("dstreams-block-")?
        .strip_suffix(".spill")?;
    let mut numbers = numbers.split('-');
    let (receiver, seq, made) = (numbers.next()?, numbers.next()?, numbers.next()?);
    let id = BlockId {
        receiver: ReceiverId(receiver.parse().ok()?),
        seq: seq.parse().ok()?,
    };
    (name == name_of(id, made.parse().ok()?)).then_some(id)
}
