//! [`DirLock`]: one process at a time works in a directory. [`Owner`]: which one, for all who write there.
//!
//! The lock of the system is not enough: a directory may be removed, renamed or replaced while its program runs, and some
//! network file systems have locks that other machines do not see. So the process that takes a directory writes a random
//! name of its own into the file `lock`, and whoever has written something looks whether that is still there before it
//! says so. The file is opened for each look, for which a network file system asks its server.

use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::sync::sync_dir;
use crate::error::{Error, Result};

/// The name of the file.
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
        // All names are equally long: there is no time at which the file has half a name, or, unless it was damaged, more.
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

    /// This process.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }
}

/// Makes a directory and those above it, and has their names on disk.
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
    /// The process of this name.
    pub fn new(dir: &Path, name: String) -> Self {
        Owner {
            dir: dir.to_owned(),
            name,
        }
    }

    /// Who works in this directory now, as this process sees it.
    pub fn of(dir: &Path) -> Result<Self> {
        let path = dir.join(LOCK);
        let name = std::fs::read_to_string(&path);
        Ok(Owner {
            dir: dir.to_owned(),
            name: name.map_err(|error| Error::file("read", &path, error))?,
        })
    }

    /// Whether it still does: the directory is where it was, and nobody has taken it since. An error where that cannot
    /// be known.
    pub fn is_there(&self) -> Result<bool> {
        let path = self.dir.join(LOCK);
        match std::fs::read(&path) {
            Ok(name) => Ok(name == self.name.as_bytes()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::file("read", &path, error)),
        }
    }

    /// Fails where it does not.
    pub fn check(&self) -> Result<()> {
        match self.is_there()? {
            true => Ok(()),
            false => Err(Error::LostDirectory {
                path: self.dir.display().to_string(),
            }),
        }
    }
}

/// A name that nothing else has.
pub(crate) fn random_name() -> String {
    // The keys of a RandomState come from the operating system's randomness.
    let half = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", half(), half())
}
