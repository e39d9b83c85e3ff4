//! Partitions that tasks left on their worker, until their batch is forgotten.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::arrow::array::RecordBatch;
use dstreams_control::BatchTime;

use crate::plan::KeptId;

type Rows = Arc<Vec<RecordBatch>>;

/// See the module.
#[derive(Debug, Default)]
pub struct KeptStore(Mutex<BTreeMap<KeptId, Rows>>);

impl KeptStore {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<KeptId, Rows>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a partition. A task that runs again keeps the same rows again.
    pub fn insert(&self, id: KeptId, rows: Vec<RecordBatch>) {
        self.lock().insert(id, Arc::new(rows));
    }

    /// The partition, if it is kept.
    pub fn get(&self, id: &KeptId) -> Option<Rows> {
        self.lock().get(id).cloned()
    }

    /// Lets go of everything up to this batch.
    pub fn forget_to(&self, batch: BatchTime) {
        self.lock().retain(|id, _| id.batch > batch);
    }

    /// Number of partitions kept.
    pub fn len(&self) -> usize {
        self.lock().len()
    }
}
