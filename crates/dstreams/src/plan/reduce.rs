//! Reduces the values of each key with a closure.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::error::Result as EngineResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, PlanProperties};
use futures::{StreamExt, TryStreamExt};

use super::exec_node::{leaf_node, properties};
use crate::error::{Error, Operator, Result};
use crate::group::KeyTable;
use crate::stream::rows::{Reducer, panic_message};

/// Reduces the values of each key of a partition, or all its rows: before the shuffle, and again after it.
pub(crate) struct ReduceExec {
    input: Arc<dyn ExecutionPlan>,
    keys: usize,
    reducer: Arc<dyn Reducer>,
    operator: Operator,
    properties: Arc<PlanProperties>,
}

impl fmt::Debug for ReduceExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReduceExec({})", self.operator)
    }
}

impl ReduceExec {
    pub fn new(
        input: Arc<dyn ExecutionPlan>,
        schema: SchemaRef,
        keys: usize,
        reducer: Arc<dyn Reducer>,
        operator: Operator,
    ) -> Self {
        let partitions = input.properties().partitioning.partition_count();
        let properties = properties(schema, partitions);
        ReduceExec {
            input,
            keys,
            reducer,
            operator,
            properties,
        }
    }

    fn with_input(&self, input: Arc<dyn ExecutionPlan>) -> Self {
        let reducer = Arc::clone(&self.reducer);
        let (schema, operator) = (self.schema(), self.operator.clone());
        ReduceExec::new(input, schema, self.keys, reducer, operator)
    }

    fn run(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> EngineResult<SendableRecordBatchStream> {
        let size = context.session_config().batch_size();
        let input = self.input.execute(partition, context)?;
        let schema = self.schema();
        let output = reduce(
            input,
            Arc::clone(&schema),
            self.keys,
            Arc::clone(&self.reducer),
            self.operator.clone(),
        );
        let pieces = futures::stream::once(output).map_ok(move |rows| {
            let count = rows.num_rows().div_ceil(size);
            futures::stream::iter((0..count).map(move |piece| {
                let from = piece * size;
                Ok(rows.slice(from, size.min(rows.num_rows() - from)))
            }))
        });
        let stream = pieces.try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }
}

leaf_node!(ReduceExec, input, |reduce: &ReduceExec| reduce
    .operator
    .to_string());

async fn reduce(
    mut input: SendableRecordBatchStream,
    schema: SchemaRef,
    keys: usize,
    reducer: Arc<dyn Reducer>,
    operator: Operator,
) -> EngineResult<RecordBatch> {
    let key_schema = Arc::new(Schema::new(schema.fields()[..keys].to_vec()));
    // Without keys, all rows are one group.
    let mut groups = match keys {
        0 => None,
        _ => Some(KeyTable::new(&key_schema)?),
    };
    let mut task = reducer.start(keys);
    let mut group_of_row = Vec::new();
    let mut count = 0;
    while let Some(batch) = input.next().await {
        let batch = batch?;
        match &mut groups {
            Some(groups) => groups.number(&batch.columns()[..keys], &mut group_of_row)?,
            None => {
                group_of_row.clear();
                group_of_row.resize(batch.num_rows(), 0);
            }
        }
        count += batch.num_rows();
        guard(&operator, || task.update(&batch, &group_of_row))?;
    }
    if count == 0 {
        return Ok(RecordBatch::new_empty(schema));
    }
    let rows = groups.as_ref().map_or(1, KeyTable::len);
    let mut columns = match &mut groups {
        Some(groups) => groups.take()?,
        None => Vec::new(),
    };
    columns.extend(guard(&operator, || task.finish())?);
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(
        schema, columns, &options,
    )?)
}

fn guard<T>(operator: &Operator, f: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        Err(Error::Panic {
            operator: operator.clone(),
            message: panic_message(&*panic),
        })
    })
}
