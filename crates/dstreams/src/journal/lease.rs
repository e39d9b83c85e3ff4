//! The lease on a directory: how a standby knows that the process which works there is gone.
//!
//! The process renews a small file, `lease`, as long as it has the directory. [`stand_by`] looks at it, and at the lock;
//! [`LeaseWatch`] decides. The lease protects nothing: a process that lost the directory is fenced by [`Owner`]. So it is
//! never synced, and a renewal that comes late does no harm.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dstreams_control::cluster::{Lease, LeaseLook, LeaseVerdict, LeaseWatch, lease_tick};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::lock::{DirLock, LOCK, Owner, lock_file, make_dir};
use super::sync::remove_unfinished;
use crate::error::{Error, Result};

/// The name of the file.
const LEASE: &str = "lease";
/// Bounds of what a lease may say of its length.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(3600);
/// A standby looks at least as often: the end of a process is to be noticed soon, however long the lease is.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Locked by the standby that replaces the lock of the directory.
const STANDBY: &str = "standby";

/// The contents of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeaseFile {
    /// The name of the owner.
    holder: String,
    /// Identifies the boot of the machine: only there does the lock say whether the process runs. Empty if unknown.
    machine: String,
    pub(super) renewals: u64,
    length_ms: u64,
    /// The program has ended without a failure.
    ended: bool,
}

impl LeaseFile {
    /// The lease of a directory; one that is damaged counts as one of this length.
    pub(super) fn read(dir: &Path, length: Duration) -> Result<Option<Self>> {
        let path = dir.join(LEASE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("read", &path, error)),
        };
        // It is never synced, so a machine that lost power may leave anything. Nobody renews that.
        Ok(Some(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(file = %path.display(), %error, "the lease cannot be read: waiting for its length");
            LeaseFile {
                holder: String::new(),
                machine: String::new(),
                renewals: 0,
                length_ms: millis(length),
                ended: false,
            }
        })))
    }

    /// Whether the lock of the directory says that the holder runs, or not.
    fn is_local(&self) -> bool {
        !self.machine.is_empty() && self.machine == machine()
    }

    fn lease(&self) -> Lease {
        Lease {
            holder: self.holder.clone(),
            renewals: self.renewals,
            length: Duration::from_millis(self.length_ms).clamp(SHORTEST, LONGEST),
            ended: self.ended,
        }
    }

    /// Replaces the file at once: nobody reads half of it.
    fn write(&self, dir: &Path) -> Result<()> {
        let (path, hidden) = (
            dir.join(LEASE),
            dir.join(format!(".{LEASE}.{}.tmp", self.holder)),
        );
        let bytes = serde_json::to_vec(self)
            .map_err(|error| Error::internal(format!("a lease cannot be written: {error}")))?;
        let written = std::fs::write(&hidden, bytes);
        let written = written.and_then(|()| std::fs::rename(&hidden, &path));
        written.map_err(|error| Error::file("write", &path, error))
    }
}

/// Removes the lease of an earlier process.
pub(super) fn remove(dir: &Path) -> Result<()> {
    let path = dir.join(LEASE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::file("remove", &path, error))
        }
        _ => Ok(()),
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

/// Identifies the boot of this machine; empty if that is unknown.
fn machine() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    boot.map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

/// Renews a lease, from a thread of its own, until it is dropped or the directory has another owner.
#[derive(Debug)]
pub(super) struct LeaseKeeper(Arc<Keeper>);

#[derive(Debug)]
struct Keeper {
    owner: Owner,
    dir: PathBuf,
    /// The lease as it was written; `None` once it is renewed no more. Locked while it is written.
    lease: Mutex<Option<LeaseFile>>,
    over: Condvar,
}

impl LeaseKeeper {
    /// Writes the first lease of this owner: before its name is in the lock, so that no standby finds it without one.
    pub fn first(dir: &Path, owner: &Owner, length: Duration) -> Result<Self> {
        remove_unfinished(dir, &[".lease.", ".lock."])?;
        let lease = LeaseFile {
            holder: owner.name.clone(),
            machine: machine(),
            renewals: 0,
            length_ms: millis(length),
            ended: false,
        };
        lease.write(dir)?;
        Ok(LeaseKeeper(Arc::new(Keeper {
            owner: owner.clone(),
            dir: dir.to_owned(),
            lease: Mutex::new(Some(lease)),
            over: Condvar::new(),
        })))
    }

    /// Begins to renew it.
    pub fn begin(&self) -> Result<()> {
        let keeper = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name("dstreams-lease".into());
        let thread = thread.spawn(move || keeper.run());
        thread.map(drop).map_err(|error| Error::Thread {
            what: "the thread of the lease",
            source: Arc::new(error),
        })
    }

    /// The program has ended: no standby takes it over.
    pub fn end(&self) {
        let owns = || self.0.owner.still_owns().unwrap_or(false);
        if let Some(mut lease) = self.0.lock().take().filter(|_| owns()) {
            lease.renewals += 1;
            lease.ended = true;
            if let Err(error) = lease.write(&self.0.dir) {
                tracing::warn!(%error, "standbys do not learn that the program has ended");
            }
        }
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        self.0.lock().take();
        self.0.over.notify_all();
    }
}

impl Keeper {
    fn lock(&self) -> MutexGuard<'_, Option<LeaseFile>> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut lease = self.lock();
        while let Some(held) = &mut *lease {
            match self.owner.still_owns() {
                Ok(false) => {
                    tracing::warn!(directory = %self.dir.display(), "another process has taken the directory");
                    *lease = None;
                    return;
                }
                // The journal fails if the directory stays unreadable.
                Err(error) => tracing::warn!(%error, "the lease is not renewed"),
                Ok(true) => {
                    held.renewals += 1;
                    if let Err(error) = held.write(&self.dir) {
                        tracing::warn!(%error, "the lease is not renewed");
                    }
                }
            }
            let tick = lease_tick(Duration::from_millis(held.length_ms));
            let waited = self.over.wait_timeout(lease, tick);
            lease = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Waits until no other process leads the program of a directory, and leads it, with a lease of this length. `None` if
/// the program has ended meanwhile.
///
/// Of several standbys one leads, and the others go on waiting. The process that led before may still run: nothing that it
/// writes from now on is acknowledged.
pub async fn stand_by(dir: &Path, length: Duration) -> Result<Option<DirLock>> {
    make_dir(dir).map_err(|error| Error::file("make", dir, error))?;
    let (mut watch, mut looked) = (LeaseWatch::default(), Instant::now());
    let (mut has_seen, mut warned) = (false, false);
    loop {
        let elapsed = looked.elapsed();
        looked = Instant::now();
        let of = dir.to_owned();
        let look = spawn_blocking(move || look(&of, length)).await;
        let look = look.map_err(|error| Error::internal(error.to_string()))?;
        let mut tick = lease_tick(length);
        let tried = match look {
            // Probably it is the wrong directory.
            Err(error) if !has_seen => return Err(error),
            Err(error) => Err(error),
            Ok((lease, lock)) => {
                has_seen = true;
                tick = lease.as_ref().map_or(tick, |lease| lease.lease().tick());
                let found = LeaseLook {
                    is_free: lock.is_some(),
                    is_local: lease.as_ref().is_some_and(LeaseFile::is_local),
                    lease: lease.as_ref().map(LeaseFile::lease),
                };
                match (watch.look(found, elapsed), lock, lease) {
                    (LeaseVerdict::End, ..) => return Ok(None),
                    (LeaseVerdict::Take, Some(lock), _) => {
                        DirLock::begin(dir, lock, Some(length)).map(Some)
                    }
                    (LeaseVerdict::Replace, _, Some(lease)) => {
                        replace(dir, &lease, watch.silent(), length)
                    }
                    _ => {
                        warned = false;
                        Ok(None)
                    }
                }
            }
        };
        match tried {
            Ok(None) => {}
            // Another process was faster.
            Err(Error::LostDirectory { .. }) => {}
            Ok(led) => return Ok(led),
            Err(error) => {
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!(%error, "a standby cannot see who leads, or take over; it tries again");
                }
            }
        }
        // The lock is not held while this waits.
        sleep(tick.min(MAX_PAUSE)).await;
    }
}

/// The lease, and the lock of the directory if it is free.
fn look(dir: &Path, length: Duration) -> Result<(Option<LeaseFile>, Option<File>)> {
    let lock = lock_file(&dir.join(LOCK))?;
    Ok((LeaseFile::read(dir, length)?, lock))
}

/// Replaces the lock of a directory; `None` if another standby does, or the lease has changed.
fn replace(
    dir: &Path,
    lease: &LeaseFile,
    silent: Duration,
    length: Duration,
) -> Result<Option<DirLock>> {
    let alone = lock_file(&dir.join(STANDBY))?;
    // Of two that do it at once the last one leads. The other standby may be stopped: it is not waited for twice as long.
    if alone.is_none() && silent < 2 * lease.lease().length {
        return Ok(None);
    }
    if LeaseFile::read(dir, length)?.as_ref() != Some(lease) {
        return Ok(None);
    }
    tracing::warn!(?silent, directory = %dir.display(), "the process that leads is silent: taking over");
    DirLock::replace(dir, length).map(Some)
}
