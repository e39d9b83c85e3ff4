//! Datasets of a batch, by slot; and the leaf that reads one.

use std::sync::{Arc, OnceLock};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::Result as EngineResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, PlanProperties};

use super::node::{internal, leaf_node, properties};

/// Place of a dataset in a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub usize);

/// The partitions of a dataset.
pub type Partitions = Arc<Vec<Vec<RecordBatch>>>;

/// The datasets of one batch. Tasks find them in their session's configuration.
pub struct Datasets(Vec<OnceLock<Partitions>>);

impl Datasets {
    pub fn new(slots: usize) -> Self {
        Datasets((0..slots).map(|_| OnceLock::new()).collect())
    }

    /// Fills a slot; a slot is filled once a batch.
    pub fn set(&self, slot: Slot, partitions: Partitions) {
        let _ = self.0[slot.0].set(partitions);
    }

    pub fn get(&self, slot: Slot) -> Option<&Partitions> {
        self.0.get(slot.0)?.get()
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

    /// The dataset it reads.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    fn run(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> EngineResult<SendableRecordBatchStream> {
        let datasets = context.session_config().get_extension::<Datasets>();
        let dataset = datasets.as_ref().and_then(|all| all.get(self.slot));
        let Some(dataset) = dataset else {
            return internal(format!("dataset {:?} was not computed", self.slot));
        };
        let Some(rows) = dataset.get(partition) else {
            return internal(format!(
                "dataset {:?} has no partition {partition}",
                self.slot
            ));
        };
        // Large batches come in pieces that fit the caches; slicing copies nothing.
        let size = self.rows_per_batch;
        let pieces = rows.clone().into_iter().flat_map(move |rows| {
            let count = rows.num_rows().div_ceil(size).max(1);
            (0..count).map(move |piece| {
                let from = piece * size;
                Ok(rows.slice(from, size.min(rows.num_rows() - from)))
            })
        });
        let schema = Arc::clone(self.properties.equivalence_properties().schema());
        let stream = futures::stream::iter(pieces);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }
}

leaf_node!(DatasetScanExec, |scan: &DatasetScanExec| format!(
    "slot={}",
    scan.slot.0
));
