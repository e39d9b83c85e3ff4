//! [`Disk`]: the file system operations of a sink. Tests end a process between any two.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Steps on the file system; each may fail.
#[derive(Default)]
pub(super) struct Disk {
    /// The number of steps that still succeed, and the error of later ones.
    #[cfg(test)]
    pub fails: std::sync::Mutex<Option<(usize, ErrorKind)>>,
}

impl Disk {
    fn step<T>(
        &self,
        action: &'static str,
        path: &Path,
        work: impl FnOnce() -> io::Result<T>,
    ) -> Result<T> {
        let done = self.allow().and_then(|()| work());
        done.map_err(|source| Error::file(action, path, source))
    }

    #[cfg(not(test))]
    #[inline]
    fn allow(&self) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn allow(&self) -> io::Result<()> {
        match &mut *self.fails.lock().unwrap_or_else(|e| e.into_inner()) {
            Some((0, kind)) => Err((*kind).into()),
            Some((left, _)) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Creates a directory and its missing parents, and syncs their names.
    pub fn make_dir(&self, path: &Path) -> Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let above = match path.parent() {
            Some(above) if !above.as_os_str().is_empty() => above,
            _ => Path::new("."),
        };
        self.make_dir(above)?;
        self.add_dir(path)?;
        self.sync_dir(above)
    }

    /// Creates a directory in an existing one, unless it exists.
    pub fn add_dir(&self, path: &Path) -> Result<()> {
        self.step("make the directory", path, || match fs::create_dir(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => match path.is_dir() {
                true => Ok(()),
                false => Err(ErrorKind::NotADirectory.into()),
            },
            done => done,
        })
    }

    /// Creates a file; fails if the name exists.
    pub fn create(&self, path: &Path) -> Result<File> {
        self.step("make", path, || File::create_new(path))
    }

    /// A file locked by this process as long as it is open; `None` if another process has locked it.
    pub fn lock(&self, path: &Path) -> Result<Option<File>> {
        self.step("lock", path, || {
            let mut options = File::options();
            let file = options.create(true).truncate(false).write(true);
            let file = file.open(path)?;
            match file.try_lock() {
                Ok(()) => Ok(Some(file)),
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                    let path = path.display();
                    tracing::warn!(%path, "this file system has no locks: a second program would not be noticed");
                    Ok(Some(file))
                }
                Err(TryLockError::Error(error)) => Err(error),
            }
        })
    }

    /// A new lock file in the place of one that another process has locked.
    pub fn replace_lock(&self, path: &Path, holder: &str) -> Result<File> {
        let hidden = path.with_extension(format!("{}.tmp", std::process::id()));
        self.step("replace", path, || {
            let mut file = File::create(&hidden)?;
            file.write_all(holder.as_bytes())?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(ErrorKind::WouldBlock.into()),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            fs::rename(&hidden, path)?;
            Ok(file)
        })
    }

    /// Replaces the contents of a file.
    pub fn rewrite(&self, file: &mut File, path: &Path, bytes: &[u8]) -> Result<()> {
        self.step("write", path, || {
            // Never empty in between.
            file.write_all(bytes)?;
            file.set_len(bytes.len() as u64)
        })
    }

    /// The contents of a file, if it exists and is text.
    pub fn read(&self, path: &Path) -> Result<Option<String>> {
        self.step("read", path, || match fs::read_to_string(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if [ErrorKind::NotFound, ErrorKind::InvalidData].contains(&error.kind()) => {
                Ok(None)
            }
            Err(error) => Err(error),
        })
    }

    pub fn write(&self, file: &mut File, path: &Path, bytes: &[u8]) -> Result<()> {
        self.step("write", path, || file.write_all(bytes))
    }

    /// Syncs the bytes of a file.
    pub fn sync(&self, file: &File, path: &Path) -> Result<()> {
        self.step("sync", path, || file.sync_all())
    }

    /// Syncs the names in a directory.
    pub fn sync_dir(&self, path: &Path) -> Result<()> {
        self.step("sync the directory", path, || match cfg!(unix) {
            true => File::open(path)?.sync_all(),
            false => Ok(()), // only Unix has it
        })
    }

    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.step("rename to", to, || fs::rename(from, to))
    }

    /// The contents of a directory; empty if there is none.
    pub fn list(&self, path: &Path) -> Result<Vec<PathBuf>> {
        self.step("list", path, || match fs::read_dir(path) {
            Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        })
    }

    /// Removes a file, or a directory with its contents.
    pub fn remove(&self, path: &Path) -> Result<()> {
        self.step("remove", path, || match path.is_dir() {
            true => fs::remove_dir_all(path),
            false => fs::remove_file(path),
        })
    }
}
