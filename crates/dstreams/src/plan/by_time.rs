//! Aggregates by intervals of event time, as a keyed state: its columns, and results from them.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use dstreams_control::BatchTime;

use super::aggregate::Results;
use crate::error::Result;
use crate::stream::agg::{AggPart, AggPlan, Finish, Function};
use crate::stream::event_time::IntervalRule;
use crate::stream::result_rows::ResultRows;
use crate::stream::rows::{RowsFn, RowsTask};

/// The name of the column with the version of a result.
const VERSION: &str = "$version";

/// How partial results change an aggregate by intervals of event time.
///
/// The first column of the state is the end of the interval. The rest of the key and the columns of the parts follow, then
/// the version of the result emitted last, or 0.
pub(crate) struct ByTimeSpec {
    pub plan: AggPlan,
    pub rule: IntervalRule,
    pub emitted: ResultRows,
    /// The column of the parts with the number of records, if results cover several intervals.
    pub count: Option<usize>,
}

impl ByTimeSpec {
    pub fn new(plan: AggPlan, rule: IntervalRule, emitted: ResultRows) -> Self {
        let is_count = |part: &AggPart| part.function == Function::Count && part.column.is_none();
        let count = plan.columns().find(|(part, _)| is_count(part));
        let count = count.map(|(_, columns)| columns.start);
        ByTimeSpec {
            count: count.filter(|_| rule.panes() > 1),
            plan,
            rule,
            emitted,
        }
    }

    /// The columns of the state, from those of partial results.
    pub fn state_schema(&self, partial: &Schema) -> SchemaRef {
        let mut fields: Vec<FieldRef> = partial.fields().to_vec();
        fields.push(Arc::new(Field::new(VERSION, DataType::UInt32, false)));
        Arc::new(Schema::new(fields))
    }

    /// The results of rows of the state, without keys and versions.
    pub fn results(&self, rows: &RecordBatch, keys: usize) -> Result<Vec<ArrayRef>> {
        results(&self.plan.finish, rows, keys)
    }
}

fn results(finish: &[Finish], rows: &RecordBatch, keys: usize) -> Result<Vec<ArrayRef>> {
    let results = Results {
        keys,
        finish: finish.to_vec(),
        schema: Arc::new(Schema::empty()),
    };
    Ok(results.columns(rows)?.split_off(keys))
}

/// Rows of the state as keys, version and results.
#[derive(Clone)]
pub(super) struct VersionedResults {
    keys: usize,
    finish: Vec<Finish>,
    schema: SchemaRef,
}

impl VersionedResults {
    pub fn new(of: &ByTimeSpec, keys: usize, schema: &SchemaRef) -> Self {
        VersionedResults::of_plan(&of.plan, keys, schema)
    }

    pub fn of_plan(plan: &AggPlan, keys: usize, schema: &SchemaRef) -> Self {
        VersionedResults {
            keys,
            finish: plan.finish.clone(),
            schema: Arc::clone(schema),
        }
    }
}

impl RowsFn for VersionedResults {
    fn start(&self, _: BatchTime) -> Box<dyn RowsTask> {
        Box::new(self.clone())
    }
}

impl RowsTask for VersionedResults {
    fn run(&mut self, rows: &RecordBatch, _: usize, _: usize) -> Result<(RecordBatch, usize)> {
        let mut columns: Vec<ArrayRef> = rows.columns()[..self.keys].to_vec();
        columns.extend(rows.columns().last().cloned());
        columns.extend(results(&self.finish, rows, self.keys)?);
        let results = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        Ok((results, rows.num_rows()))
    }
}
