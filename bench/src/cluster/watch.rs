//! The notifications of listeners about batches, with their times.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use dstreams::{BatchReport, BatchTime, Listener};

/// Readings of this process's clock; that of the program may stand still.
#[derive(Debug, Clone)]
pub struct Times {
    /// Its blocks were fixed.
    pub cut: Instant,
    /// Its first attempt began.
    pub started: Option<Instant>,
    /// It had taken effect.
    pub completed: Option<Instant>,
}

/// A listener that stores all notifications.
#[derive(Clone, Default)]
pub struct Watch(Arc<Mutex<Told>>);

/// The stored notifications.
#[derive(Default)]
pub struct Told {
    /// By batch.
    pub times: BTreeMap<BatchTime, Times>,
    /// Of completed batches, in their order.
    pub reports: Vec<BatchReport>,
}

impl Watch {
    /// The notifications so far.
    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Watch {
    fn batch_submitted(&self, batch: BatchTime, _records: u64) {
        let times = Times {
            cut: Instant::now(),
            started: None,
            completed: None,
        };
        self.told().times.insert(batch, times);
    }

    fn batch_started(&self, batch: BatchTime, _attempt: u32) {
        let now = Instant::now();
        if let Some(times) = self.told().times.get_mut(&batch) {
            times.started.get_or_insert(now);
        }
    }

    fn batch_completed(&self, report: &BatchReport) {
        let now = Instant::now();
        let mut told = self.told();
        if let Some(times) = told.times.get_mut(&report.batch) {
            times.completed = Some(now);
        }
        told.reports.push(report.clone());
    }
}
