//! Sessions as a keyed state: its columns, and results from them.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion::error::DataFusionError;
use dstreams_control::BatchTime;

use super::aggregate::Results;
use crate::error::Result;
use crate::stream::rows::{RowsFn, RowsTask};
use crate::stream::sessions::SessionOp;

/// The columns of the state, from those of partial results by key and interval: the key, and its open sessions as a
/// list, each with the columns of its parts.
pub(crate) fn session_state_schema(partial: &Schema, keys: usize) -> SchemaRef {
    let (key, parts) = partial.fields().split_at(keys);
    let parts: Fields = parts[1..].iter().cloned().collect();
    let item = Field::new_list_field(DataType::Struct(parts), false);
    let list = Field::new("$sessions", DataType::List(Arc::new(item)), false);
    let mut fields = key.to_vec();
    fields.push(Arc::new(list));
    Arc::new(Schema::new(fields))
}

/// The first and the last time of sessions and their results, from the columns of their parts.
pub(crate) fn session_results(op: &SessionOp, parts: &RecordBatch) -> Result<Vec<ArrayRef>> {
    let results = Results {
        keys: 0,
        finish: op.plan.finish.clone(),
        schema: Arc::new(Schema::empty()),
    };
    let mut columns = [op.start, op.last]
        .map(|at| Arc::clone(parts.column(at)))
        .to_vec();
    columns.extend(results.columns(parts)?);
    Ok(columns)
}

/// The fields of the parts of sessions, from the columns of the state.
pub(crate) fn session_parts(held: &Schema) -> Result<&Fields> {
    let list = held.fields().last().map(|field| field.data_type());
    if let Some(DataType::List(item)) = list
        && let DataType::Struct(parts) = item.data_type()
    {
        return Ok(parts);
    }
    Err(DataFusionError::Internal("sessions are not a list".into()).into())
}

/// Rows of the state as one row for each session.
#[derive(Clone)]
pub(super) struct EachSession {
    pub op: Arc<SessionOp>,
    pub schema: SchemaRef,
}

impl RowsFn for EachSession {
    fn start(&self, _: BatchTime) -> Box<dyn RowsTask> {
        Box::new(self.clone())
    }
}

impl RowsTask for EachSession {
    fn run(&mut self, rows: &RecordBatch, _: usize, _: usize) -> Result<(RecordBatch, usize)> {
        let parts = session_parts(&rows.schema())?.clone();
        let lists = rows.column(self.op.keys).as_list::<i32>();
        let offsets = lists.value_offsets();
        let (from, to) = (offsets[0] as usize, offsets[lists.len()] as usize);
        let items = lists.values().slice(from, to - from);
        let lengths = offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize);
        let places = (0u32..).zip(lengths);
        let places = places.flat_map(|(row, length)| std::iter::repeat_n(row, length));
        let places: UInt32Array = places.map(Some).collect();
        let keys = rows.columns()[..self.op.keys].iter();
        let keys = keys.map(|key| take(key, &places, None));
        let mut columns = keys.collect::<Result<Vec<_>, _>>()?;
        let items = items.as_struct().columns().to_vec();
        let items = RecordBatch::try_new(Arc::new(Schema::new(parts)), items)?;
        columns.extend(session_results(&self.op, &items)?);
        let sessions = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        Ok((sessions, rows.num_rows()))
    }
}
