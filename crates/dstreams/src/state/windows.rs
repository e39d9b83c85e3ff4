//! All windows of a context.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::arrow::array::RecordBatch;
use dstreams_control::BatchTime;

use super::window::WindowPartition;
use crate::error::Result;
use crate::execute::Installs;
use crate::plan::WindowSpec;

/// The windows of a context, by number and partition.
pub struct Windows(Vec<Vec<Mutex<WindowPartition>>>);

impl Windows {
    pub fn new(specs: Vec<WindowSpec>, partitions: usize) -> Result<Self> {
        let windows = specs.into_iter().map(|spec| {
            let spec = Arc::new(spec);
            let partition = |_| Ok(Mutex::new(WindowPartition::new(Arc::clone(&spec))?));
            (0..partitions).map(partition).collect()
        });
        Ok(Windows(windows.collect::<Result<_>>()?))
    }

    fn lock(&self, window: usize, partition: usize) -> MutexGuard<'_, WindowPartition> {
        let partition = &self.0[window][partition];
        partition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Installs for Windows {
    fn partitions(&self, window: usize) -> usize {
        self.0[window].len()
    }

    fn install(
        &self,
        window: usize,
        partition: usize,
        batch: BatchTime,
        delta: &[RecordBatch],
    ) -> Result<()> {
        let mut partition = self.lock(window, partition);
        partition.check_next(batch)?;
        partition.install(batch, delta)
    }

    fn read(&self, window: usize, partition: usize) -> Result<Vec<RecordBatch>> {
        self.lock(window, partition).read()
    }
}
