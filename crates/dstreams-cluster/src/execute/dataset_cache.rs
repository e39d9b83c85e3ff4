//! Cached output partitions of tasks, until their batch is forgotten. Deltas of state stay longer, while a standby
//! lacks them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::arrow::array::RecordBatch;
use dstreams_control::BatchTime;

use crate::plan::CachedId;

type Rows = Arc<Vec<RecordBatch>>;

/// Bytes of deltas per partition of state that are cached for standbys after their batches committed; or the size of
/// the state as last sent, if that is larger. Beyond the limit all are dropped: a standby that lacks them gets the
/// whole state again, which is less.
const STANDBY_DELTA_BYTES: usize = 64 << 20;

/// Cached output partitions of this worker's tasks, until their batch is forgotten.
#[derive(Debug, Default)]
pub struct DatasetCache(Mutex<CacheEntries>);

#[derive(Debug, Default)]
struct CacheEntries {
    rows: BTreeMap<CachedId, Rows>,
    /// Bytes of the state as last sent to a standby, by partition.
    sent: HashMap<usize, usize>,
}

impl DatasetCache {
    fn lock(&self) -> MutexGuard<'_, CacheEntries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Caches a partition. A rerun of a task caches the same rows again.
    pub fn insert(&self, id: CachedId, rows: Vec<RecordBatch>) {
        self.lock().rows.insert(id, Arc::new(rows));
    }

    /// The partition, if it is cached.
    pub fn get(&self, id: &CachedId) -> Option<Rows> {
        self.lock().rows.get(id).cloned()
    }

    /// Records the bytes of a partition's state that were sent to a standby.
    pub fn sent(&self, partition: usize, bytes: usize) {
        self.lock().sent.insert(partition, bytes);
    }

    /// Records the bytes sent so far.
    pub fn sending(&self, partition: usize, bytes: usize) {
        let mut entries = self.lock();
        let sent = entries.sent.entry(partition).or_default();
        *sent = bytes.max(*sent);
    }

    /// Drops everything up to this batch, except deltas in these slots of these partitions after these versions.
    pub fn forget_to(&self, batch: BatchTime, but: &[(u32, BatchTime)], slots: &[usize]) {
        let mut entries = self.lock();
        if but.is_empty() {
            entries.rows.retain(|id, _| id.batch > batch);
            return;
        }
        let since: HashMap<_, _> = but
            .iter()
            .map(|(of, since)| (*of as usize, *since))
            .collect();
        let needed = |id: &CachedId| {
            let after = |since: &BatchTime| id.batch > *since;
            slots.contains(&id.slot) && since.get(&id.partition).is_some_and(after)
        };
        let mut bytes = HashMap::<usize, usize>::new();
        entries.rows.retain(|id, rows| {
            let keep = id.batch > batch || needed(id);
            if keep && id.batch <= batch {
                let size = rows.iter().map(RecordBatch::get_array_memory_size);
                *bytes.entry(id.partition).or_default() += size.sum::<usize>();
            }
            keep
        });
        for (partition, bytes) in bytes {
            let most = entries.sent.get(&partition).copied();
            if bytes > most.unwrap_or_default().max(STANDBY_DELTA_BYTES) {
                tracing::debug!(
                    partition,
                    bytes,
                    "dropped deltas that a standby lacks: it will get the whole state"
                );
                entries
                    .rows
                    .retain(|id, _| id.partition != partition || id.batch > batch);
            }
        }
    }

    /// Number of cached partitions.
    pub fn len(&self) -> usize {
        self.lock().rows.len()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn id(batch: u64, slot: usize, partition: usize) -> CachedId {
        CachedId {
            batch: BatchTime(batch),
            attempt: 1,
            slot,
            partition,
        }
    }

    fn rows(count: usize) -> Vec<RecordBatch> {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![7; count]));
        vec![RecordBatch::try_from_iter([("n", column)]).unwrap()]
    }

    #[test]
    fn only_deltas_that_a_standby_lacks_stay_cached() {
        let store = DatasetCache::default();
        for batch in 1..=4 {
            for (slot, partition) in [(0, 0), (0, 1), (5, 1)] {
                store.insert(id(batch, slot, partition), rows(1));
            }
        }
        store.forget_to(BatchTime(3), &[(1, BatchTime(1))], &[5]);
        let left =
            |batch| [(0, 0), (0, 1), (5, 1)].map(|(s, p)| store.get(&id(batch, s, p)).is_some());
        assert_eq!(left(1), [false; 3]);
        assert_eq!(left(2), [false, false, true]);
        assert_eq!(left(3), [false, false, true]);
        assert_eq!(left(4), [true; 3]);
        store.forget_to(BatchTime(4), &[], &[]);
        assert_eq!(store.len(), 0);
    }

    #[test]
    fn deltas_for_standbys_are_bounded_by_the_size_of_the_state() {
        let store = DatasetCache::default();
        let (half, since) = (STANDBY_DELTA_BYTES / 8, [(0, BatchTime(0))]);
        store.insert(id(1, 5, 0), rows(half));
        store.insert(id(2, 5, 0), rows(half));
        store.sent(0, 3 * STANDBY_DELTA_BYTES);
        store.forget_to(BatchTime(2), &since, &[5]);
        assert_eq!(store.len(), 2);
        store.sent(0, 1000);
        store.forget_to(BatchTime(2), &since, &[5]);
        assert_eq!(store.len(), 0);
    }
}
