//! [`DirLock`]: only one process at a time works in a directory. [`Owner`] names it, for everything that writes
//! there.
//!
//! The system's file lock is not enough: a directory may be removed, renamed or replaced while its program runs,
//! and the locks of some network file systems are not seen by other machines. So the process that takes a
//! directory writes a random name into the file `lock`. After each write, and before it is acknowledged, the
//! writer checks that this name is still there. Each check opens the file, which makes a network file system ask
//! its server.

use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::sync::sync_dir;
use crate::error::{Error, Result};

/// The name of the lock file.
const LOCK: &str = "lock";

/// Held for as long as this process works in the directory.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
    owner: Owner,
}

impl DirLock {
    /// Makes the directory if it is missing, and takes it. Fails if another process has it.
    pub fn take(dir: &Path) -> Result<Self> {
        make_dir(dir).map_err(|error| Error::file("make", dir, error))?;
        let path = dir.join(LOCK);
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| Error::file("open", &path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message =
                    "used by another process; stop it, or give each program a directory of its own";
                return Err(Error::Locked {
                    path: dir.display().to_string(),
                    message: message.into(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(Error::file("lock", &path, error)),
        }
        let name = random_name();
        // All names have the same length: the file never has half a name, nor, unless it was damaged, anything
        // after it.
        let written = file.write_all(name.as_bytes());
        let written = written.and_then(|()| file.set_len(name.len() as u64));
        let written = written.and_then(|()| file.sync_all());
        written.map_err(|error| Error::file("write", &path, error))?;
        sync_dir(dir)?;
        Ok(DirLock {
            _file: file,
            owner: Owner::new(dir, name),
        })
    }

    /// The owner that this process is.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }
}

/// Creates a directory and its parents, and syncs their names.
pub(crate) fn make_dir(dir: &Path) -> std::io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => make_dir(parent)?,
        None => return std::fs::create_dir_all(dir),
    }
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    match dir.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// The process that works in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    dir: PathBuf,
    /// A random name.
    pub name: String,
}

impl Owner {
    /// The process with this name.
    pub fn new(dir: &Path, name: String) -> Self {
        Owner {
            dir: dir.to_owned(),
            name,
        }
    }

    /// The current owner of this directory, as this process sees it.
    pub fn of(dir: &Path) -> Result<Self> {
        let path = dir.join(LOCK);
        let name = std::fs::read_to_string(&path);
        Ok(Owner {
            dir: dir.to_owned(),
            name: name.map_err(|error| Error::file("read", &path, error))?,
        })
    }

    /// Whether this process still owns the directory: it is where it was, and no process has taken it since. An
    /// error if that cannot be determined.
    pub fn still_owns(&self) -> Result<bool> {
        let path = self.dir.join(LOCK);
        match std::fs::read(&path) {
            Ok(name) => Ok(name == self.name.as_bytes()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::file("read", &path, error)),
        }
    }

    /// Fails if it does not.
    pub fn check(&self) -> Result<()> {
        match self.still_owns()? {
            true => Ok(()),
            false => Err(Error::LostDirectory {
                path: self.dir.display().to_string(),
            }),
        }
    }
}

/// A name that is unique.
pub(crate) fn random_name() -> String {
    // The keys of a RandomState come from the operating system's randomness.
    let half = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", half(), half())
}
