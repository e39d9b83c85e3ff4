//! [`JoinExec`]: the pairs of records with equal keys of two inputs.
//!
//! Not DataFusion's `HashJoinExec`, because the order of the pairs is promised: the rows of an outer join without a
//! partner would be at the end of their Arrow batch there.

use std::fmt;
use std::iter::repeat_n;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array, UInt32Builder, new_null_array,
};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::Result as EngineResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, PlanProperties};
use futures::{StreamExt, TryStreamExt};

use super::exec_node::{leaf_node, properties};
use super::key_groups::{GroupedRows, KeyGroups};
use crate::error::Operator;
use crate::stream::join::JoinOp;

/// Joins partition i of its first input with partition i of its second, which it reads first, as a table.
pub(crate) struct JoinExec {
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    join: JoinOp,
    operator: Operator,
    properties: Arc<PlanProperties>,
}

impl fmt::Debug for JoinExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinExec({})", self.operator)
    }
}

impl JoinExec {
    /// Both inputs have as many partitions, and equal keys in the same one.
    pub fn new(
        inputs: Vec<Arc<dyn ExecutionPlan>>,
        join: JoinOp,
        schema: SchemaRef,
        operator: Operator,
    ) -> Self {
        let partitions = inputs[0].properties().partitioning.partition_count();
        JoinExec {
            inputs,
            join,
            operator,
            properties: properties(schema, partitions),
        }
    }

    fn with_inputs(&self, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Self {
        let schema = self.schema();
        JoinExec::new(inputs, self.join, schema, self.operator.clone())
    }

    fn run(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> EngineResult<SendableRecordBatchStream> {
        let target = context.session_config().batch_size();
        let first = self.inputs[0].execute(partition, Arc::clone(&context))?;
        let second = self.inputs[1].execute(partition, context)?;
        let schema = self.schema();
        let task = JoinSettings {
            join: self.join,
            schema: Arc::clone(&schema),
            target,
            operator: self.operator.clone(),
        };
        let started = JoinTask::start(task, first, second);
        let pairs = futures::stream::once(started).map_ok(|task| {
            futures::stream::try_unfold(task, |mut task| async move {
                Ok(task.next().await?.map(|rows| (rows, task)))
            })
        });
        let stream = pairs.try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }
}

leaf_node!(JoinExec, inputs, |join: &JoinExec| join
    .operator
    .to_string());

struct JoinSettings {
    join: JoinOp,
    schema: SchemaRef,
    /// Rows of an Arrow batch.
    target: usize,
    operator: Operator,
}

struct JoinTask {
    join: JoinOp,
    schema: SchemaRef,
    target: usize,
    first: SendableRecordBatchStream,
    second: GroupedRows,
    keys: KeyGroups,
    /// Whether the first input has the key of a number.
    met: Vec<bool>,
    batch: Option<FirstBatch>,
    /// The next row of the second input that may be without a partner.
    alone: usize,
}

/// An Arrow batch of the first input, and how far it is joined.
struct FirstBatch {
    rows: RecordBatch,
    numbers: Vec<usize>,
    row: usize,
    /// The next partner of the row.
    partner: usize,
}

impl JoinTask {
    /// Reads the second input.
    async fn start(
        settings: JoinSettings,
        first: SendableRecordBatchStream,
        second: SendableRecordBatchStream,
    ) -> EngineResult<Self> {
        let mut keys = KeyGroups::new(&second.schema(), settings.join.keys)?;
        let second = GroupedRows::read(second, &mut keys, &settings.operator).await?;
        Ok(JoinTask {
            join: settings.join,
            schema: settings.schema,
            target: settings.target,
            first,
            second,
            met: vec![false; keys.len()],
            keys,
            batch: None,
            alone: 0,
        })
    }

    /// The next pairs.
    async fn next(&mut self) -> EngineResult<Option<RecordBatch>> {
        loop {
            if let Some(rows) = self.pairs()? {
                return Ok(Some(rows));
            }
            let Some(rows) = self.first.next().await else {
                return self.without_partner();
            };
            let rows = rows?;
            let numbers = self.keys.numbers(&rows)?.to_vec();
            self.batch = Some(FirstBatch {
                rows,
                numbers,
                row: 0,
                partner: 0,
            });
        }
    }

    /// The next pairs of this batch of the first input.
    fn pairs(&mut self) -> EngineResult<Option<RecordBatch>> {
        let Some(batch) = &mut self.batch else {
            return Ok(None);
        };
        let mut firsts = Vec::with_capacity(self.target);
        let mut seconds = UInt32Builder::with_capacity(self.target);
        while batch.row < batch.rows.num_rows() && firsts.len() < self.target {
            let number = batch.numbers[batch.row];
            let all = self.second.of(number);
            let rest = &all[batch.partner..];
            let now = &rest[..rest.len().min(self.target - firsts.len())];
            let row = batch.row as u32;
            firsts.extend(repeat_n(row, now.len()));
            seconds.append_slice(now);
            if !all.is_empty() {
                self.met[number] = true;
            } else if self.join.first_unmatched {
                firsts.push(row);
                seconds.append_null();
            }
            batch.partner += now.len();
            if batch.partner == all.len() {
                (batch.row, batch.partner) = (batch.row + 1, 0);
            }
        }
        if firsts.is_empty() {
            self.batch = None;
            return Ok(None);
        }
        let (firsts, seconds) = (UInt32Array::from(firsts), seconds.finish());
        let keys = self.join.keys;
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for key in &batch.rows.columns()[..keys] {
            columns.push(take(key, &firsts, None)?);
        }
        let [first, second] = self.join.marked;
        add(&batch.rows.columns()[keys..], &firsts, first, &mut columns)?;
        let partners = &self.second.rows.columns()[keys..];
        add(partners, &seconds, second, &mut columns)?;
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        Ok(Some(rows))
    }

    /// The next rows of the second input without a partner, if they are wanted.
    fn without_partner(&mut self) -> EngineResult<Option<RecordBatch>> {
        if !self.join.second_unmatched {
            return Ok(None);
        }
        let mut seconds = Vec::with_capacity(self.target);
        let key_of = self.second.key_of();
        while self.alone < key_of.len() && seconds.len() < self.target {
            if !self.met[key_of[self.alone] as usize] {
                seconds.push(self.alone as u32);
            }
            self.alone += 1;
        }
        if seconds.is_empty() {
            return Ok(None);
        }
        let (keys, count) = (self.join.keys, seconds.len());
        let seconds = UInt32Array::from(seconds);
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for key in &self.second.rows.columns()[..keys] {
            columns.push(take(key, &seconds, None)?);
        }
        let [first, second] = self.join.marked;
        if first {
            columns.push(Arc::new(BooleanArray::from(vec![false; count])));
        }
        let absent = self.first.schema();
        for field in &absent.fields()[keys..] {
            columns.push(new_null_array(field.data_type(), count));
        }
        let values = &self.second.rows.columns()[keys..];
        add(values, &seconds, second, &mut columns)?;
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        Ok(Some(rows))
    }
}

/// Adds the rows `at` of some columns, nulls where there is none; before them whether each is there, if `marked`.
fn add(
    of: &[ArrayRef],
    at: &UInt32Array,
    marked: bool,
    to: &mut Vec<ArrayRef>,
) -> EngineResult<()> {
    if marked {
        let all = || BooleanBuffer::new_set(at.len());
        let there = at.nulls().map_or_else(all, |nulls| nulls.inner().clone());
        to.push(Arc::new(BooleanArray::new(there, None)));
    }
    for column in of {
        to.push(match column.is_empty() {
            true => new_null_array(column.data_type(), at.len()),
            false => take(column, at, None)?,
        });
    }
    Ok(())
}
