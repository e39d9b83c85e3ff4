//! Datasets of a batch, by slot; and the leaf that reads one.

use std::sync::{Arc, OnceLock};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::Result as EngineResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, PlanProperties};
use dstreams_control::BatchTime;

use super::exec_node::{internal, leaf_node, properties};
use crate::debug::debug_as;

/// The place of a dataset in a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub usize);

/// The partitions of a dataset.
pub type Partitions = Arc<Vec<Vec<RecordBatch>>>;

/// A batch: its time and its datasets. Tasks find it in their session's configuration.
pub struct Datasets {
    batch: BatchTime,
    slots: Vec<OnceLock<Partitions>>,
}

debug_as!(Datasets { batch });

impl Datasets {
    pub fn new(batch: BatchTime, slots: usize) -> Self {
        Datasets {
            batch,
            slots: (0..slots).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The batch that a task belongs to.
    pub(crate) fn of(task: &TaskContext) -> EngineResult<Arc<Self>> {
        match task.session_config().get_extension() {
            Some(batch) => Ok(batch),
            None => internal("a task without a batch".into()),
        }
    }

    pub(crate) fn batch(&self) -> BatchTime {
        self.batch
    }

    /// Fills a slot, which is done once per batch.
    pub fn set(&self, slot: Slot, partitions: Partitions) {
        let _ = self.slots[slot.0].set(partitions);
    }

    pub fn get(&self, slot: Slot) -> Option<&Partitions> {
        self.slots.get(slot.0)?.get()
    }
}

/// Reads a dataset: partition i of the node is partition i of the dataset.
#[derive(Debug)]
pub struct DatasetScanExec {
    slot: Slot,
    rows_per_batch: usize,
    properties: Arc<PlanProperties>,
}

impl DatasetScanExec {
    pub fn new(slot: Slot, schema: SchemaRef, partitions: usize, rows_per_batch: usize) -> Self {
        DatasetScanExec {
            slot,
            rows_per_batch,
            properties: properties(schema, partitions),
        }
    }

    /// The slot that it reads.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    fn run(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> EngineResult<SendableRecordBatchStream> {
        let datasets = Datasets::of(&context)?;
        let Some(dataset) = datasets.get(self.slot) else {
            return internal(format!("dataset {:?} was not computed", self.slot));
        };
        let Some(rows) = dataset.get(partition) else {
            return internal(format!(
                "dataset {:?} has no partition {partition}",
                self.slot
            ));
        };
        let pieces = Rebatch {
            rows: rows.clone().into_iter(),
            size: self.rows_per_batch,
            rest: None,
        };
        let schema = self.schema();
        let stream = futures::stream::iter(pieces);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }
}

/// Batches of exactly `size` rows, except the last, whatever the sizes of the source batches: some operators
/// (joins without keys) order rows by batches, and the same rows arrive in other batches over a network. Batches
/// that fit the caches are also faster. Slicing copies nothing; only rows across batches are concatenated.
struct Rebatch {
    rows: std::vec::IntoIter<RecordBatch>,
    size: usize,
    /// The rest of a batch.
    rest: Option<RecordBatch>,
}

impl Iterator for Rebatch {
    type Item = EngineResult<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut parts: Vec<RecordBatch> = Vec::new();
        let mut missing = self.size;
        while missing > 0
            && let Some(batch) = self.rest.take().or_else(|| self.rows.next())
        {
            let taken = missing.min(batch.num_rows());
            missing -= taken;
            if taken < batch.num_rows() {
                self.rest = Some(batch.slice(taken, batch.num_rows() - taken));
            }
            match taken == batch.num_rows() {
                true if taken == 0 => {}
                true => parts.push(batch),
                false => parts.push(batch.slice(0, taken)),
            }
        }
        match parts.len() {
            0 => None,
            1 => parts.pop().map(Ok),
            _ => Some(concat_batches(&parts[0].schema(), &parts).map_err(Into::into)),
        }
    }
}

leaf_node!(DatasetScanExec, |scan: &DatasetScanExec| format!(
    "slot={}",
    scan.slot.0
));
