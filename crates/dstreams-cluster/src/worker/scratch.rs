//! [`Scratch`]: a temporary directory of a process.
//!
//! Its name is random, and a lock on the file beside it shows that its process lives. Process ids would not do, since
//! containers may share the directory. The next process removes leftovers of killed ones.

use std::fs::{DirBuilder, File, TryLockError, remove_dir_all, remove_file};
use std::hash::{BuildHasher, RandomState};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const PREFIX: &str = "dstreams-scratch-";
const LOCK: &str = "lock";
/// Names to try; hardly any is ever taken.
const TRIES: u64 = 8;

/// A temporary directory, removed when this value is dropped, or else by a later process.
#[derive(Debug)]
pub struct Scratch {
    pub path: PathBuf,
    /// Locked while it is open.
    _lock: File,
}

impl Scratch {
    /// Creates a directory in `root`, which is created too if it is missing.
    pub fn new(root: &Path) -> Result<Self> {
        std::fs::create_dir_all(root)?;
        remove_leftovers(root);
        for at in 0..TRIES {
            let name = RandomState::new().hash_one(at);
            let path = root.join(format!("{PREFIX}{name:016x}"));
            let beside = path.with_extension(LOCK);
            let lock = match File::create_new(&beside) {
                Ok(lock) => lock,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            };
            // Before it was locked, another process may have considered it a leftover and removed it.
            let locked = lock.try_lock().is_ok() && beside.exists();
            if locked {
                // Other users must not read records there.
                DirBuilder::new().mode(0o700).create(&path)?;
                return Ok(Scratch { path, _lock: lock });
            }
        }
        Err(Error::other(
            "cannot find a free name for a directory there",
        ))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    let _ = remove_dir_all(path);
    let _ = remove_file(path.with_extension(LOCK));
}

/// Removes leftovers of processes that are gone.
fn remove_leftovers(root: &Path) {
    let Ok(entries) = std::fs::read_dir(root) else {
        return;
    };
    for entry in entries.flatten() {
        let beside = entry.path();
        let ours = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(PREFIX));
        if !ours || beside.extension().is_none_or(|extension| extension != LOCK) {
            continue;
        }
        let Ok(lock) = File::open(&beside) else {
            continue;
        };
        match lock.try_lock() {
            Ok(()) => remove(&beside.with_extension("")),
            // Its process lives, or may live.
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn names(root: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(root).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names
    }

    #[test]
    fn directories_in_use_stay_and_leftovers_are_removed() {
        let root = Scratch::new(&std::env::temp_dir()).unwrap();
        let first = Scratch::new(&root.path).unwrap();
        let second = Scratch::new(&root.path).unwrap();
        assert_ne!(first.path, second.path);
        // The leftover of a killed process.
        let left = root.path.join(format!("{PREFIX}left"));
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join("block"), "rows").unwrap();
        File::create(left.with_extension(LOCK)).unwrap();
        // The lock of another, live process; `flock` may not be installed.
        let beside = root.path.join(format!("{PREFIX}other.{LOCK}"));
        File::create(&beside).unwrap();
        let mut other = Command::new("flock");
        let other = other
            .arg(&beside)
            .arg("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let other = other.spawn().ok();
        if other.is_some() {
            let file = File::open(&beside).unwrap();
            while file.try_lock().is_ok() {
                file.unlock().unwrap();
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        let not_ours = root.path.join("something.lock");
        std::fs::write(&not_ours, "").unwrap();

        let third = Scratch::new(&root.path).unwrap();
        assert!(first.path.exists() && second.path.exists() && not_ours.exists());
        assert!(!left.exists() && !left.with_extension(LOCK).exists());
        assert_eq!(beside.exists(), other.is_some());
        drop((first, second, third));
        if let Some(mut other) = other {
            drop(other.stdin.take());
            other.wait().unwrap();
        }
        drop(Scratch::new(&root.path).unwrap());
        assert_eq!(names(&root.path), [not_ours]);
    }
}
