//! Observes a running program: its batches, and the files that it writes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use dstreams::{BatchReport, Listener};
use tokio::sync::Notify;

use super::Outcome;

/// The batches that took effect.
#[derive(Clone, Default)]
pub struct Reports(Arc<Seen>);

#[derive(Default)]
struct Seen {
    reports: Mutex<Vec<BatchReport>>,
    more: Notify,
}

impl Listener for Reports {
    fn batch_completed(&self, report: &BatchReport) {
        self.lock().push(report.clone());
        self.0.more.notify_one();
    }
}

/// Only one task may wait.
impl Reports {
    fn lock(&self) -> MutexGuard<'_, Vec<BatchReport>> {
        let reports = self.0.reports.lock();
        reports.unwrap_or_else(PoisonError::into_inner)
    }

    /// All reports so far.
    pub fn all(&self) -> Vec<BatchReport> {
        self.lock().clone()
    }

    async fn until(&self, is: impl Fn(&Self) -> bool) {
        while !is(self) {
            self.0.more.notified().await;
        }
    }

    /// Waits for the first report.
    pub async fn first(&self) {
        self.until(|seen| !seen.lock().is_empty()).await;
    }

    /// Waits until this many batches took effect.
    pub async fn count(&self, batches: usize) {
        self.until(|seen| seen.lock().len() >= batches).await;
    }

    /// Waits until batches with this many records took effect.
    pub async fn reach(&self, records: u64) {
        let done = |seen: &Self| seen.lock().iter().map(|report| report.records).sum::<u64>();
        self.until(|seen| done(seen) >= records).await;
    }
}

/// How often a directory is listed.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Watches a directory: records the size of each file that ever existed, however short-lived.
pub struct Files {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeMap<String, u64>>,
}

impl Files {
    /// Starts to watch; ignores existing files if `new` is set.
    pub fn watch(directory: &Path, new: bool) -> Self {
        let (directory, stop) = (directory.to_owned(), Arc::new(AtomicBool::new(false)));
        let ended = Arc::clone(&stop);
        let mut before = BTreeMap::new();
        if new {
            look(&directory, &mut before);
        }
        let thread = std::thread::spawn(move || {
            let mut files = BTreeMap::new();
            loop {
                let last = ended.load(Relaxed);
                look(&directory, &mut files);
                if last {
                    files.retain(|name, _| !before.contains_key(name));
                    return files;
                }
                std::thread::sleep(POLL_INTERVAL);
            }
        });
        Files { stop, thread }
    }

    /// Sizes of all files, summed by the prefixes of their names.
    pub fn end<const N: usize>(self, names: [&str; N]) -> Outcome<[u64; N]> {
        self.stop.store(true, Relaxed);
        let files = self.thread.join().map_err(|_| "the watch has panicked")?;
        Ok(names.map(|begin| {
            let named = files.iter().filter(|(name, _)| name.starts_with(begin));
            named.map(|(_, bytes)| bytes).sum()
        }))
    }
}

fn look(directory: &PathBuf, files: &mut BTreeMap<String, u64>) {
    // Files that do not exist yet, or any more, are not an error.
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if let Ok(found) = entry.metadata() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let bytes = files.entry(name).or_default();
            *bytes = found.len().max(*bytes);
        }
    }
}

/// A directory for one measurement, deleted with this value.
pub struct Place(pub PathBuf);

impl Place {
    /// Below the given directory, or the system's for temporary files.
    pub fn new(below: &str, name: &str) -> Outcome<Self> {
        let below = match below {
            "" => std::env::temp_dir(),
            below => below.into(),
        };
        let path = below.join(format!("bench-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Place(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Files that cannot be removed are left.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
