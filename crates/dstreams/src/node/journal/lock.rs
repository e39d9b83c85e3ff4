//! [`DirLock`]: one process at a time works in a directory.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::error::{Error, Result};

/// Held for as long as this process works in the directory.
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Makes the directory if it is missing, and takes it. Fails if another process has it.
    pub fn take(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|error| Error::file("make", dir, error))?;
        let path = dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| Error::file("open", &path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(DirLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Error::Config {
                setting: "checkpoint directory",
                message: format!(
                    "{} is used by another process; stop it, or give each program a directory of its own",
                    dir.display()
                ),
            }),
            Err(TryLockError::Error(error)) => Err(Error::file("lock", &path, error)),
        }
    }
}
