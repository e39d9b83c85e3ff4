//! Counts frequent strings before they are grouped: a combiner of fixed size.
//!
//! Word counts and the like see few keys very often. A table with one place for each hash has the last key seen
//! there with its count; a different key evicts it, and the evicted count is sent on. The output is partial
//! counts, fewer than the records, for DataFusion's aggregate to merge: each of its lookups costs several times
//! one here, since this table fits a core's cache. If most keys miss, the rest of the partition passes through
//! unchanged.

use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray,
};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::Result as EngineResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, PlanProperties};
use futures::StreamExt;

use super::exec_node::{leaf_node, properties};
use crate::error::Result;
use crate::stream::record::{Builder, TextBuilder};

/// Places of the table, of 32 bytes: a quarter of a core's L2 cache, leaving space for the data.
const PLACES: usize = 1 << 14;
/// Records after which combining stops if it does not pay.
const TRIAL_RECORDS: usize = 1 << 16;

/// Turns records whose first column is a string key into partial counts of keys.
#[derive(Debug)]
pub(super) struct CombineExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    tables: Arc<Tables>,
}

/// Unused tables, so that batches need not allocate them.
#[derive(Debug, Default)]
struct Tables(Mutex<Vec<Vec<RowPlace>>>);

#[derive(Debug, Clone, Copy, Default)]
struct RowPlace {
    view: u128,
    count: i64,
}

impl CombineExec {
    /// `schema` has the key and its count.
    pub fn new(input: Arc<dyn ExecutionPlan>, schema: SchemaRef) -> Self {
        let partitions = input.properties().partitioning.partition_count();
        CombineExec {
            input,
            properties: properties(schema, partitions),
            tables: Arc::default(),
        }
    }

    fn with_input(&self, input: Arc<dyn ExecutionPlan>) -> Self {
        CombineExec {
            input,
            properties: Arc::clone(&self.properties),
            tables: Arc::clone(&self.tables),
        }
    }

    fn run(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> EngineResult<SendableRecordBatchStream> {
        let schema = self.schema();
        let mut combiner = Combiner {
            places: self.tables.take(),
            tables: Arc::clone(&self.tables),
            schema: Arc::clone(&schema),
            target: context.session_config().batch_size(),
            keys: TextBuilder::default(),
            counts: Vec::new(),
            long: Vec::new(),
            seen: 0,
            sent: 0,
        };
        let input = self.input.execute(partition, context)?.map(Some);
        let ended = futures::stream::once(std::future::ready(None));
        let output = input.chain(ended).flat_map(move |batch| {
            let output = match batch {
                Some(Ok(batch)) => combiner.add(&batch),
                Some(Err(error)) => return futures::stream::iter(vec![Err(error)]),
                None => combiner.finish(),
            };
            futures::stream::iter(match output {
                Ok(batches) => batches.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error.into())],
            })
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, output)))
    }
}

leaf_node!(CombineExec, input, |_: &CombineExec| format!(
    "places={PLACES}"
));

impl Tables {
    fn take(&self) -> Vec<RowPlace> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        table.unwrap_or_else(|| vec![RowPlace::default(); PLACES])
    }

    fn give_back(&self, table: Vec<RowPlace>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(table);
    }
}

/// The run of one task.
struct Combiner {
    /// A place with a count of 0 is free. All places of a returned table are.
    places: Vec<RowPlace>,
    tables: Arc<Tables>,
    schema: SchemaRef,
    target: usize,
    keys: TextBuilder,
    counts: Vec<i64>,
    /// Rows of the current batch whose strings do not fit a place.
    long: Vec<usize>,
    seen: usize,
    sent: usize,
}

impl Combiner {
    fn add(&mut self, batch: &RecordBatch) -> Result<Vec<RecordBatch>> {
        let keys = batch.column(0).as_string_view();
        let misses = self.sent > self.seen / 4 * 3;
        self.seen += keys.len();
        if keys.null_count() > 0 || (self.seen > TRIAL_RECORDS && misses) {
            self.sent += keys.len();
            let ones: ArrayRef = Arc::new(Int64Array::from_value(1, keys.len()));
            let columns = vec![Arc::clone(batch.column(0)), ones];
            return Ok(vec![RecordBatch::try_new(
                Arc::clone(&self.schema),
                columns,
            )?]);
        }
        self.combine(keys);
        match self.counts.len() >= self.target {
            true => Ok(vec![self.take()?]),
            false => Ok(Vec::new()),
        }
    }

    /// Avoids a branch on whether a key is the one in its place: it is hard to predict, and a misprediction costs
    /// more than writing out each key and retaining it only if it was evicted.
    fn combine(&mut self, keys: &StringViewArray) {
        let before = self.counts.len();
        self.counts.resize(before + keys.len(), 0);
        let sent_keys = self.keys.grow(keys.len());
        let sent_counts = &mut self.counts[before..];
        let mut sent = 0;
        for (row, view) in keys.views().iter().enumerate() {
            if !TextBuilder::is_inline(*view) {
                self.long.push(row);
                continue;
            }
            let place = &mut self.places[place_of(*view)];
            let hit = place.view == *view;
            sent_keys[sent] = place.view;
            sent_counts[sent] = place.count;
            sent += usize::from(!hit & (place.count > 0));
            place.view = *view;
            place.count = if hit { place.count + 1 } else { 1 };
        }
        self.keys.truncate(before + sent);
        self.counts.truncate(before + sent);
        self.keys.attach(keys.data_buffers());
        for row in self.long.drain(..) {
            self.keys.push_str(keys.value(row));
            self.counts.push(1);
        }
        self.sent += self.counts.len() - before;
    }

    fn take(&mut self) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(2);
        self.keys.finish(&mut columns)?;
        columns.push(Arc::new(Int64Array::from(std::mem::take(&mut self.counts))));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    fn finish(&mut self) -> Result<Vec<RecordBatch>> {
        for place in &mut self.places {
            if place.count > 0 {
                self.keys.push_inline(place.view);
                self.counts.push(std::mem::take(&mut place.count));
            }
        }
        self.tables.give_back(std::mem::take(&mut self.places));
        let rows = self.take()?;
        // In pieces of the best size for the aggregate.
        let pieces = (0..rows.num_rows()).step_by(self.target);
        let size = |from| self.target.min(rows.num_rows() - from);
        Ok(pieces.map(|from| rows.slice(from, size(from))).collect())
    }
}

/// The place of an inline string.
#[inline]
fn place_of(view: u128) -> usize {
    let (low, high) = (view as u64, (view >> 64) as u64);
    let mixed = low ^ high.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    (mixed >> (u64::BITS - PLACES.trailing_zeros())) as usize
}
