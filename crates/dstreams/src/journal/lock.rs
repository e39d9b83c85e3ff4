//! [`DirLock`]: only one process at a time works in a directory. [`Owner`] names it, for everything that writes
//! there.
//!
//! The system's file lock is not enough: a directory may be removed, renamed or replaced while its program runs,
//! and the locks of some network file systems are not seen by other machines. So the process that takes a
//! directory writes a random name into the file `lock`. After each write, and before it is acknowledged, the
//! writer checks that this name is still there. Each check opens the file, which makes a network file system ask
//! its server.
//!
//! So the lock file can be replaced, too: by a standby that takes the directory over from a process that is silent
//! ([`lease`]), though the system still holds its lock.

use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::lease::{self, LeaseKeeper};
use super::sync::sync_dir;
use crate::error::{Error, Result};

/// The name of the lock file.
pub(super) const LOCK: &str = "lock";

/// Held for as long as this process works in the directory.
#[derive(Debug)]
pub struct DirLock {
    // Dropped first: nothing is renewed once the lock is released.
    lease: Option<LeaseKeeper>,
    _file: File,
    owner: Owner,
}

impl DirLock {
    /// Makes the directory if it is missing, and takes it; with a `lease` of this length, which tells standbys that this
    /// process is there. Fails if another process has it.
    pub fn take(dir: &Path, lease: Option<Duration>) -> Result<Self> {
        make_dir(dir).map_err(|error| Error::file("make", dir, error))?;
        let file = lock_file(&dir.join(LOCK))?.ok_or_else(|| Error::Locked {
            path: dir.display().to_string(),
            message:
                "used by another process; stop it, or give each program a directory of its own"
                    .into(),
        })?;
        Self::begin(dir, file, lease)
    }

    /// Takes a directory whose lock file this process has locked.
    pub(super) fn begin(dir: &Path, mut file: File, length: Option<Duration>) -> Result<Self> {
        let owner = Owner::new(dir, random_name());
        let lease = match length {
            Some(length) => Some(LeaseKeeper::first(dir, &owner, length)?),
            None => {
                lease::remove(dir)?;
                None
            }
        };
        owner.write(&mut file)?;
        sync_dir(dir)?;
        DirLock::new(lease, file, owner)
    }

    /// Takes a directory from a process that may still run, and may hold its lock.
    pub(super) fn replace(dir: &Path, length: Duration) -> Result<Self> {
        let owner = Owner::new(dir, random_name());
        let lease = LeaseKeeper::first(dir, &owner, length)?;
        let (path, hidden) = (
            dir.join(LOCK),
            dir.join(format!(".{LOCK}.{}.tmp", owner.name)),
        );
        let failed = |error| Error::file("replace", &path, error);
        let mut file = File::create_new(&hidden).map_err(failed)?;
        file.lock().map_err(failed)?;
        owner.write(&mut file)?;
        // Also into the former file: some file systems show another one late under its name.
        let former = File::options().write(true).open(&path).map_err(failed)?;
        owner.write(&mut { former })?;
        match std::fs::rename(&hidden, &path) {
            // Another process leads, and has removed what seemed to be left by a killed one.
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(owner.lost()),
            renamed => renamed.map_err(failed)?,
        }
        sync_dir(dir)?;
        DirLock::new(Some(lease), file, owner)
    }

    fn new(lease: Option<LeaseKeeper>, file: File, owner: Owner) -> Result<Self> {
        // The file that was locked may have been replaced meanwhile.
        owner.check()?;
        if let Some(lease) = &lease {
            lease.begin()?;
        }
        Ok(DirLock {
            lease,
            _file: file,
            owner,
        })
    }

    /// Whether a standby may replace this process while it runs.
    pub fn has_standbys(&self) -> bool {
        self.lease.is_some()
    }

    /// The program has ended without a failure: standbys end too.
    pub fn end(&self) {
        if let Some(lease) = &self.lease {
            lease.end();
        }
    }

    /// The owner that this process is.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }
}

/// A file that is locked by this process as long as it is open; `None` if another process has locked it.
pub(super) fn lock_file(path: &Path) -> Result<Option<File>> {
    let mut options = File::options();
    let file = options.create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|error| Error::file("open", path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(Error::file("lock", path, error)),
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

    /// Writes the name into a lock file.
    fn write(&self, file: &mut File) -> Result<()> {
        // All names have the same length: the file never has half a name, nor, unless it was damaged, anything
        // after it.
        let written = file.write_all(self.name.as_bytes());
        let written = written.and_then(|()| file.set_len(self.name.len() as u64));
        let written = written.and_then(|()| file.sync_all());
        written.map_err(|error| Error::file("write", &self.dir.join(LOCK), error))
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
            false => Err(self.lost()),
        }
    }

    /// The error of a process that does not own the directory any more.
    pub(super) fn lost(&self) -> Error {
        Error::LostDirectory {
            path: self.dir.display().to_string(),
        }
    }
}

/// A name that is unique.
pub(crate) fn random_name() -> String {
    // The keys of a RandomState come from the operating system's randomness.
    let half = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", half(), half())
}
