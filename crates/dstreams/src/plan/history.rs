//! [`HistorySpec`]: a state that keeps the rows of earlier batches as they are.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use dstreams_control::BatchTime;

use super::state_views::Views;
use super::template::fields;
use crate::debug::debug_as;
use crate::stream::history::{BATCH_TIME, Recall};
use crate::stream::rejects::OffTimeReaders;
use crate::stream::timetable::Timetable;

/// The specification of a state that keeps rows as they are.
pub struct HistorySpec {
    /// The name from the program, if any.
    pub name: Option<String>,
    /// The source streams of its rows, and what is recalled: they tell apart histories without a name.
    pub streams: String,
    /// The columns of its rows.
    pub schema: SchemaRef,
    /// Rows are in partitions by so many columns; by turns if it is zero.
    pub keys: usize,
    /// The time between two RDDs of its input, in milliseconds.
    pub every_ms: u64,
    /// The batch times at which its input has RDDs.
    pub(crate) input_at: Timetable,
    pub(crate) recall: Recall,
    /// The views that its readers want, of records by event time.
    pub(crate) views: Option<Views>,
    /// The readers of records that are in no interval.
    pub(crate) off_time: Option<OffTimeReaders>,
    /// The columns of the table that a running program can be asked for.
    pub(crate) table: Option<SchemaRef>,
}

debug_as!(HistorySpec { name });

impl HistorySpec {
    /// A history of `streams` with these columns, of which the first so many are keys.
    pub(super) fn new(
        name: Option<String>,
        streams: String,
        (schema, keys): (SchemaRef, usize),
        input_at: Timetable,
        recall: Recall,
    ) -> Self {
        let table = matches!(recall, Recall::Asked { .. }).then(|| {
            let time = Field::new(BATCH_TIME, DataType::Int64, false);
            let columns = schema.fields().iter().map(|field| field.as_ref().clone());
            let columns = std::iter::once(time).chain(columns);
            Arc::new(Schema::new(columns.collect::<Vec<_>>()))
        });
        HistorySpec {
            name,
            streams: format!("{streams}, {}", recall.describe()),
            schema,
            keys,
            every_ms: input_at.slide_ms,
            input_at,
            recall,
            views: None,
            off_time: None,
            table,
        }
    }

    /// The columns of its dataset.
    pub fn dataset(&self) -> SchemaRef {
        match &self.views {
            Some(views) => views.schema(),
            None => Arc::clone(&self.schema),
        }
    }

    /// Whether no version that can still be read has the rows of `interval`, once `batch` is installed.
    ///
    /// The version before the newest can be read.
    pub(crate) fn evicts(&self, interval: i64, batch: BatchTime) -> bool {
        let keep = self
            .recall
            .keep_ms(self.every_ms)
            .saturating_add(self.every_ms);
        interval.saturating_add_unsigned(keep) <= batch.millis() as i64
    }

    /// A description of everything on which its bytes depend. How long rows are kept may change.
    pub(crate) fn contents(&self) -> String {
        let (every, fields) = (self.every_ms, fields(&self.schema));
        match self.keys {
            0 => format!("rows every {every} ms, {fields:?}"),
            keys => format!("rows by {keys} key(s) every {every} ms, {fields:?}"),
        }
    }
}
