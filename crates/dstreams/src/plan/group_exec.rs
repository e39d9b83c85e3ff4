//! Groups rows by their keys and aggregates each group, with our own table of keys.
//!
//! It takes the place of DataFusion's `AggregateExec` and has its columns, modes and order of rows: that in which the
//! groups appear. The functions are DataFusion's (and ours): this numbers the groups, they count and sum by number.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use datafusion::arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt64Array,
};
use datafusion::arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef, UInt64Type};
use datafusion::error::Result as EngineResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::functions_aggregate::{count, sum};
use datafusion::logical_expr::{AggregateUDF, EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::aggregates::{
    AggregateExec, AggregateInputMode, AggregateMode, AggregateOutputMode, aggregate_expressions,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, InputOrderMode, PhysicalExpr, PlanProperties};
use futures::StreamExt;

use super::exec_node::{leaf_node, properties};
use crate::error::Result;
use crate::group::KeyTable;

/// Rows after which a partial aggregation stops if it does not pay, and the share of them that are groups of their own
/// then. The rest of the rows pass through, each as a group.
const TRIAL: (usize, f64) = (100_000, 0.8);

/// Groups that a task has room for from the start, at most: an earlier batch may have been far larger.
const MOST_ROOM: usize = 1 << 20;

/// Aggregates the rows of each partition by their keys.
#[derive(Debug)]
pub(super) struct GroupExec {
    input: Arc<dyn ExecutionPlan>,
    functions: Arc<Functions>,
    /// The number of groups of a task of an earlier batch.
    room: Arc<AtomicUsize>,
    properties: Arc<PlanProperties>,
}

/// The keys and the aggregate functions of a [`GroupExec`].
#[derive(Debug)]
struct Functions {
    mode: AggregateMode,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    key_schema: SchemaRef,
    calls: Vec<AggregateCall>,
    /// How to compute the only function in the table of keys itself.
    sum: Option<Sum>,
    schema: SchemaRef,
}

/// How the table computes a single `count` or `sum` of values without nulls. A sum is of 64-bit integers.
#[derive(Debug, Clone, Copy)]
enum Sum {
    /// One for each row.
    Ones,
    /// The values of its argument.
    Values,
}

/// A function with its arguments.
#[derive(Debug)]
struct AggregateCall {
    function: Arc<AggregateFunctionExpr>,
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    filter: Option<Arc<dyn PhysicalExpr>>,
}

/// The same aggregation on our table, if it can be.
pub(super) fn group(aggregate: &AggregateExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(functions) = Functions::of(aggregate)? else {
        return Ok(None);
    };
    let input = Arc::clone(aggregate.input());
    let exec = GroupExec::new(input, Arc::new(functions), Arc::default());
    Ok(Some(Arc::new(exec)))
}

impl Functions {
    fn of(aggregate: &AggregateExec) -> Result<Option<Self>> {
        let (by, functions) = (aggregate.group_expr(), aggregate.aggr_expr());
        let is_plain = |function: &Arc<AggregateFunctionExpr>| {
            function.groups_accumulator_supported() && function.order_bys().is_empty()
        };
        let is_supported = by.is_single()
            && !by.is_empty()
            && aggregate.limit_options().is_none()
            && *aggregate.input_order_mode() == InputOrderMode::Linear
            && functions.iter().all(is_plain);
        if !is_supported {
            return Ok(None);
        }
        let (mode, schema) = (*aggregate.mode(), aggregate.schema());
        let keys = by.input_exprs();
        let is_raw = mode.input_mode() == AggregateInputMode::Raw;
        let arguments = aggregate_expressions(functions, &mode, keys.len())?;
        let filters = aggregate.filter_expr();
        let calls = functions.iter().zip(arguments).zip(filters);
        let calls = calls.map(|((function, arguments), filter)| AggregateCall {
            function: Arc::clone(function),
            arguments,
            filter: filter.clone().filter(|_| is_raw),
        });
        let key_schema = Schema::new(schema.fields()[..keys.len()].to_vec());
        let functions = Functions {
            mode,
            key_schema: Arc::new(key_schema),
            calls: calls.collect(),
            sum: None,
            keys,
            schema,
        };
        let sum = functions.sum_of(&aggregate.input_schema(), is_raw)?;
        Ok(Some(Functions { sum, ..functions }))
    }

    /// `before` has the columns before aggregation.
    fn sum_of(&self, before: &Schema, is_raw: bool) -> Result<Option<Sum>> {
        let [call] = &self.calls[..] else {
            return Ok(None);
        };
        let (function, arguments) = (&call.function, call.function.expressions());
        let [argument] = &arguments[..] else {
            return Ok(None);
        };
        if function.is_distinct() || call.filter.is_some() || argument.nullable(before)? {
            return Ok(None);
        }
        let is_wide = |kind: DataType| matches!(kind, DataType::Int64 | DataType::UInt64);
        // A function of the user may have the same name.
        let is = |known: Arc<AggregateUDF>| *function.fun() == *known;
        Ok(match is_raw {
            true if is(count::count_udaf()) => Some(Sum::Ones),
            false if is(count::count_udaf()) => Some(Sum::Values),
            // A partial sum may be null: the rows of its group may all have been filtered out.
            true if is(sum::sum_udaf()) && is_wide(argument.data_type(before)?) => {
                Some(Sum::Values)
            }
            _ => None,
        })
    }
}

impl GroupExec {
    fn new(
        input: Arc<dyn ExecutionPlan>,
        functions: Arc<Functions>,
        room: Arc<AtomicUsize>,
    ) -> Self {
        let partitions = input.properties().partitioning.partition_count();
        GroupExec {
            properties: properties(Arc::clone(&functions.schema), partitions),
            input,
            functions,
            room,
        }
    }

    fn with_input(&self, input: Arc<dyn ExecutionPlan>) -> Self {
        let room = Arc::clone(&self.room);
        GroupExec::new(input, Arc::clone(&self.functions), room)
    }

    fn run(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> EngineResult<SendableRecordBatchStream> {
        let mut groups = GroupTask::new(self, context.session_config().batch_size())?;
        let input = self.input.execute(partition, context)?.map(Some);
        let ended = futures::stream::once(std::future::ready(None));
        let output = input.chain(ended).flat_map(move |rows| {
            let output = match rows {
                Some(Ok(rows)) => groups.add(&rows),
                Some(Err(error)) => Err(error.into()),
                None => groups.finish(),
            };
            futures::stream::iter(match output {
                Ok(batches) => batches.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error.into())],
            })
        });
        let schema = Arc::clone(&self.functions.schema);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, output)))
    }
}

leaf_node!(GroupExec, input, |exec: &GroupExec| {
    let calls = exec.functions.calls.iter();
    let calls: Vec<_> = calls.map(|call| call.function.name()).collect();
    let keys = exec.functions.keys.iter();
    let keys: Vec<_> = keys.map(ToString::to_string).collect();
    let (keys, calls) = (keys.join(", "), calls.join(", "));
    format!(
        "mode={:?}, by=[{keys}], aggr=[{calls}]",
        exec.functions.mode
    )
});

/// The run of one task.
struct GroupTask {
    functions: Arc<Functions>,
    room: Arc<AtomicUsize>,
    table: KeyTable,
    /// The function that the table computes, in place of its accumulator.
    sum: Option<Sum>,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    /// The number of each row's group.
    numbers: Vec<usize>,
    /// Rows of an output batch.
    target: usize,
    seen: usize,
    /// Whether rows pass through.
    passes: bool,
}

impl GroupTask {
    fn new(exec: &GroupExec, target: usize) -> Result<Self> {
        let functions = &exec.functions;
        let table = KeyTable::with_room(&functions.key_schema, exec.room.load(Relaxed))?;
        Ok(GroupTask {
            sum: functions.sum.filter(|_| table.has_sums()),
            table,
            accumulators: accumulators(functions)?,
            functions: Arc::clone(functions),
            room: Arc::clone(&exec.room),
            numbers: Vec::new(),
            target,
            seen: 0,
            passes: false,
        })
    }

    fn add(&mut self, rows: &RecordBatch) -> Result<Vec<RecordBatch>> {
        let keys = evaluate(&self.functions.keys, rows)?;
        let is_raw = self.functions.mode.input_mode() == AggregateInputMode::Raw;
        if self.passes {
            return Ok(vec![self.pass(keys, rows)?]);
        }
        match self.sum {
            Some(sum) => self.sum(sum, &keys, rows)?,
            None => self.accumulate(&keys, rows, is_raw)?,
        }
        let groups = self.table.len();
        self.seen += rows.num_rows();
        let (trial, share) = TRIAL;
        // Only what another aggregation merges. Variances end with `PartialReduce`.
        let is_first = self.functions.mode == AggregateMode::Partial;
        let pays = (groups as f64) < share * self.seen as f64;
        if !is_first || self.seen < trial || pays {
            return Ok(Vec::new());
        }
        self.passes = true;
        self.finish()
    }

    fn sum(&mut self, sum: Sum, keys: &[ArrayRef], rows: &RecordBatch) -> Result<()> {
        let Sum::Values = sum else {
            return self.table.add(keys, |_| 1);
        };
        let values = evaluate(&self.functions.calls[0].arguments, rows)?;
        match values[0].as_primitive_opt::<Int64Type>() {
            Some(values) => self.table.add(keys, |row| values.value(row)),
            None => {
                let values = values[0].as_primitive::<UInt64Type>();
                self.table.add(keys, |row| values.value(row) as i64)
            }
        }
    }

    fn accumulate(&mut self, keys: &[ArrayRef], rows: &RecordBatch, is_raw: bool) -> Result<()> {
        self.table.number(keys, &mut self.numbers)?;
        let (numbers, groups) = (&self.numbers, self.table.len());
        for (call, accumulator) in self.functions.calls.iter().zip(&mut self.accumulators) {
            let values = evaluate(&call.arguments, rows)?;
            let filter = call.filter(rows)?;
            match is_raw {
                true => accumulator.update_batch(&values, numbers, filter.as_ref(), groups)?,
                false => accumulator.merge_batch(&values, numbers, groups)?,
            }
        }
        Ok(())
    }

    /// The rows, each as a group.
    fn pass(&self, keys: Vec<ArrayRef>, rows: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = keys;
        for (call, accumulator) in self.functions.calls.iter().zip(&self.accumulators) {
            let values = evaluate(&call.arguments, rows)?;
            let filter = call.filter(rows)?;
            columns.extend(accumulator.convert_to_state(&values, filter.as_ref())?);
        }
        let schema = Arc::clone(&self.functions.schema);
        Ok(RecordBatch::try_new(schema, columns)?)
    }

    fn sums(&mut self) -> ArrayRef {
        let sums = self.table.take_sums();
        let column = self.functions.schema.field(self.functions.keys.len());
        match column.data_type() {
            DataType::UInt64 => {
                let sums = sums.into_iter().map(|sum| sum as u64);
                Arc::new(UInt64Array::from_iter_values(sums))
            }
            _ => Arc::new(Int64Array::from(sums)),
        }
    }

    /// The groups, in pieces of the best size for what reads them.
    fn finish(&mut self) -> Result<Vec<RecordBatch>> {
        let room = self.table.len().min(MOST_ROOM);
        self.room.store(room, Relaxed);
        if self.table.len() == 0 {
            return Ok(Vec::new());
        }
        let sums = self.sum.map(|_| self.sums());
        let mut columns = self.table.take()?;
        match sums {
            Some(sums) => columns.push(sums),
            None => {
                for accumulator in &mut self.accumulators {
                    match self.functions.mode.output_mode() {
                        AggregateOutputMode::Partial => {
                            columns.extend(accumulator.state(EmitTo::All)?);
                        }
                        AggregateOutputMode::Final => {
                            columns.push(accumulator.evaluate(EmitTo::All)?);
                        }
                    }
                }
            }
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.functions.schema), columns)?;
        let pieces = (0..rows.num_rows()).step_by(self.target);
        let size = |from| self.target.min(rows.num_rows() - from);
        Ok(pieces.map(|from| rows.slice(from, size(from))).collect())
    }
}

fn accumulators(functions: &Functions) -> Result<Vec<Box<dyn GroupsAccumulator>>> {
    let calls = functions.calls.iter();
    let made = calls.map(|call| Ok(call.function.create_groups_accumulator()?));
    made.collect()
}

fn evaluate(expressions: &[Arc<dyn PhysicalExpr>], rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
    let evaluated = expressions
        .iter()
        .map(|expression| Ok(expression.evaluate(rows)?.into_array(rows.num_rows())?));
    evaluated.collect()
}

impl AggregateCall {
    /// The rows that count; all of them without a filter.
    fn filter(&self, rows: &RecordBatch) -> Result<Option<BooleanArray>> {
        let Some(filter) = &self.filter else {
            return Ok(None);
        };
        let chosen = filter.evaluate(rows)?.into_array(rows.num_rows())?;
        Ok(Some(chosen.as_boolean().clone()))
    }
}

#[cfg(test)]
mod tests;
