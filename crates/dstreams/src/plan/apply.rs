//! Runs a closure over the rows of its input.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::Result as EngineResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, PlanProperties};
use futures::StreamExt;

use super::datasets::Datasets;
use super::exec_node::{leaf_node, properties};
use crate::error::{Error, Operator, Result};
use crate::stream::rows::{RowsFn, RowsTask, panic_message};

/// One node type for all closures: a boxed function, called for each Arrow batch.
pub(crate) struct ApplyExec {
    input: Arc<dyn ExecutionPlan>,
    rows: Arc<dyn RowsFn>,
    operator: Operator,
    properties: Arc<PlanProperties>,
}

impl fmt::Debug for ApplyExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApplyExec({})", self.operator)
    }
}

impl ApplyExec {
    pub fn new(
        input: Arc<dyn ExecutionPlan>,
        rows: Arc<dyn RowsFn>,
        schema: SchemaRef,
        operator: Operator,
    ) -> Self {
        let partitions = input.properties().partitioning.partition_count();
        ApplyExec {
            input,
            rows,
            operator,
            properties: properties(schema, partitions),
        }
    }

    fn with_input(&self, input: Arc<dyn ExecutionPlan>) -> Self {
        let schema = self.schema();
        ApplyExec::new(input, Arc::clone(&self.rows), schema, self.operator.clone())
    }

    fn run(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> EngineResult<SendableRecordBatchStream> {
        let target = context.session_config().batch_size();
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let mut task = Task {
            rows: self.rows.start(Datasets::of(&context)?.batch()),
            operator: self.operator.clone(),
            target,
        };
        let input = input.map(Some).chain(futures::stream::iter([None]));
        let output = input.flat_map(move |batch| {
            futures::stream::iter(match batch {
                Some(Ok(batch)) => task.run(&batch),
                Some(Err(error)) => vec![Err(Error::from(error).of(&task.operator).into())],
                None => task.finish(),
            })
        });
        let schema = self.schema();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, output)))
    }
}

leaf_node!(ApplyExec, input, |apply: &ApplyExec| apply
    .operator
    .to_string());

struct Task {
    rows: Box<dyn RowsTask>,
    operator: Operator,
    target: usize,
}

impl Task {
    fn run(&mut self, input: &RecordBatch) -> Vec<EngineResult<RecordBatch>> {
        let mut output = Vec::new();
        let mut from = 0;
        while from < input.num_rows() {
            match self.step(input, from) {
                Ok((batch, next)) => {
                    from = next;
                    if batch.num_rows() > 0 {
                        output.push(Ok(batch));
                    }
                }
                Err(error) => {
                    output.push(Err(error.into()));
                    break;
                }
            }
        }
        output
    }

    /// The rows that the closure adds after all input, in batches of about the target size.
    fn finish(&mut self) -> Vec<EngineResult<RecordBatch>> {
        let rows = match self.guarded(|rows, _| rows.finish()) {
            Ok(Some(rows)) => rows,
            Ok(None) => return Vec::new(),
            Err(error) => return vec![Err(error.into())],
        };
        let starts = (0..rows.num_rows()).step_by(self.target.max(1));
        let pieces = starts.map(|from| {
            let length = self.target.min(rows.num_rows() - from);
            Ok(rows.slice(from, length))
        });
        pieces.collect()
    }

    fn step(&mut self, input: &RecordBatch, from: usize) -> Result<(RecordBatch, usize)> {
        self.guarded(|rows, target| rows.run(input, from, target))
    }

    /// Calls the closure; its panics and errors name the operator.
    fn guarded<T>(&mut self, f: impl FnOnce(&mut dyn RowsTask, usize) -> Result<T>) -> Result<T> {
        let (rows, target) = (&mut *self.rows, self.target);
        match catch_unwind(AssertUnwindSafe(|| f(rows, target))) {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(Error::Record {
                operator: self.operator.clone(),
                message: error.to_string(),
            }),
            Err(panic) => Err(Error::Panic {
                operator: self.operator.clone(),
                message: panic_message(&*panic),
            }),
        }
    }
}
