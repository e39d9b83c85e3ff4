//! [`CogroupExec`]: for each key, the lists of all its records in one or several inputs.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, ListArray, RecordBatch, StructArray, UInt32Array};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::error::Result as EngineResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, PlanProperties};
use futures::TryStreamExt;

use super::exec_node::{internal, leaf_node, properties};
use super::key_groups::{GroupedRows, KeyGroups};
use crate::error::{Error, Operator};

/// Groups partition i of all inputs by key. The result has the keys, then a list column for each input.
pub(crate) struct CogroupExec {
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    keys: usize,
    operator: Operator,
    properties: Arc<PlanProperties>,
}

impl fmt::Debug for CogroupExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CogroupExec({})", self.operator)
    }
}

impl CogroupExec {
    /// The inputs have as many partitions, and equal keys in the same one.
    pub fn new(
        inputs: Vec<Arc<dyn ExecutionPlan>>,
        keys: usize,
        schema: SchemaRef,
        operator: Operator,
    ) -> Self {
        let partitions = inputs[0].properties().partitioning.partition_count();
        CogroupExec {
            inputs,
            keys,
            operator,
            properties: properties(schema, partitions),
        }
    }

    fn with_inputs(&self, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Self {
        let schema = self.schema();
        CogroupExec::new(inputs, self.keys, schema, self.operator.clone())
    }

    fn run(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> EngineResult<SendableRecordBatchStream> {
        let target = context.session_config().batch_size();
        let inputs = self.inputs.iter();
        let inputs = inputs.map(|input| input.execute(partition, Arc::clone(&context)));
        let inputs = inputs.collect::<EngineResult<Vec<_>>>()?;
        let schema = self.schema();
        let columns = Arc::clone(&schema);
        let read = CogroupTask::read(inputs, self.keys, columns, self.operator.clone());
        let groups = futures::stream::once(read).map_ok(move |mut task| {
            futures::stream::iter(std::iter::from_fn(move || task.next(target).transpose()))
        });
        let stream = groups.try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }
}

leaf_node!(CogroupExec, inputs, |group: &CogroupExec| group
    .operator
    .to_string());

struct CogroupTask {
    inputs: Vec<GroupedRows>,
    keys: usize,
    /// The input and the row with which each key comes first; in this order.
    firsts: Vec<(usize, u32)>,
    /// The next of them.
    next: usize,
    schema: SchemaRef,
    operator: Operator,
}

impl CogroupTask {
    async fn read(
        inputs: Vec<SendableRecordBatchStream>,
        keys: usize,
        schema: SchemaRef,
        operator: Operator,
    ) -> EngineResult<Self> {
        let mut groups = KeyGroups::new(&schema, keys)?;
        let mut read = Vec::with_capacity(inputs.len());
        for input in inputs {
            read.push(GroupedRows::read(input, &mut groups, &operator).await?);
        }
        let (mut seen, mut firsts) = (vec![false; groups.len()], Vec::new());
        for (input, rows) in read.iter().enumerate() {
            for (row, number) in (0u32..).zip(rows.key_of()) {
                if !std::mem::replace(&mut seen[*number as usize], true) {
                    firsts.push((input, row));
                }
            }
        }
        Ok(CogroupTask {
            inputs: read,
            keys,
            firsts,
            next: 0,
            schema,
            operator,
        })
    }

    /// The lists of the next keys: of at least one, and of about `target` records.
    fn next(&mut self, target: usize) -> EngineResult<Option<RecordBatch>> {
        let Some((input, _)) = self.firsts.get(self.next).copied() else {
            return Ok(None);
        };
        let (from, mut records) = (self.next, 0);
        let key_of = self.inputs[input].key_of();
        let mut numbers = Vec::new();
        while let Some((of, row)) = self.firsts.get(self.next)
            && *of == input
            && records < target
        {
            let number = key_of[*row as usize] as usize;
            records += self
                .inputs
                .iter()
                .map(|rows| rows.of(number).len())
                .sum::<usize>();
            numbers.push(number);
            self.next += 1;
        }
        let rows = self.firsts[from..self.next].iter().map(|(_, row)| *row);
        let rows = UInt32Array::from_iter_values(rows);
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for key in &self.inputs[input].rows.columns()[..self.keys] {
            columns.push(take(key, &rows, None)?);
        }
        for at in 0..self.inputs.len() {
            columns.push(self.lists(at, &numbers)?);
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        Ok(Some(rows))
    }

    /// The lists of the records of keys in one input.
    fn lists(&self, input: usize, numbers: &[usize]) -> EngineResult<ArrayRef> {
        let grouped = &self.inputs[input];
        let lengths = numbers.iter().map(|number| grouped.of(*number).len());
        let total = lengths.clone().sum::<usize>();
        if total > i32::MAX as usize {
            return Err(self.too_long(total).into());
        }
        let mut rows = Vec::with_capacity(total);
        for number in numbers {
            rows.extend_from_slice(grouped.of(*number));
        }
        let rows = UInt32Array::from(rows);
        let values = grouped.rows.columns()[self.keys..].iter();
        let mut values = values
            .map(|column| take(column, &rows, None))
            .collect::<Result<Vec<_>, _>>()?;
        let DataType::List(item) = self.schema.field(self.keys + input).data_type() else {
            return internal(format!("column {} is not a list", self.keys + input));
        };
        let items: ArrayRef = match item.data_type() {
            DataType::Struct(fields) => {
                let fields = fields.clone();
                Arc::new(StructArray::try_new_with_length(
                    fields, values, None, total,
                )?)
            }
            _ => values.swap_remove(0),
        };
        let offsets = OffsetBuffer::from_lengths(lengths);
        let lists = ListArray::try_new(Arc::clone(item), offsets, items, None)?;
        Ok(Arc::new(lists))
    }

    fn too_long(&self, records: usize) -> Error {
        Error::Record {
            operator: self.operator.clone(),
            message: format!(
                "one key has {records} records in a batch, and a list at most 2,147,483,647; \
                 aggregate them, or use a finer key"
            ),
        }
    }
}
