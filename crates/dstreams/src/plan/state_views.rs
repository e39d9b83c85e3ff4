//! [`Views`]: the output of a state for each batch, for readers that want different rows of it.
//!
//! A state has one dataset. If its readers want one view, that is the dataset. If they want several, it has the
//! rows of all, distinguished by a last column. Rows from the batch's closures have other columns than the state,
//! so then each row has nulls in the columns of the other kind.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt8Array, new_null_array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::error::Result;
use crate::stream::graph::View;
use crate::stream::rows::Pick;

/// The name of the column with the view of a row.
const VIEW: &str = "$view";

/// The rows of a state that readers want for each batch; each kind of rows is computed once.
#[derive(Clone)]
pub(crate) struct Views {
    /// Sorted and distinct.
    views: Vec<View>,
    /// The columns of the state.
    state: SchemaRef,
    /// The columns of the closures' outputs, if there are any.
    mapped: Option<SchemaRef>,
}

impl Views {
    pub fn new(
        views: impl IntoIterator<Item = View>,
        state: SchemaRef,
        mapped: Option<SchemaRef>,
    ) -> Self {
        let mut views: Vec<View> = views.into_iter().collect();
        views.sort_unstable();
        views.dedup();
        Views {
            views,
            state,
            mapped,
        }
    }

    /// Whether a reader wants rows that are not in the state itself.
    pub fn beyond_state(&self) -> bool {
        let beyond = |view: &View| matches!(view, View::TimedOut | View::Mapped);
        self.views.iter().any(beyond)
    }

    fn of(&self, view: View) -> &SchemaRef {
        match (view, &self.mapped) {
            (View::Mapped, Some(mapped)) => mapped,
            _ => &self.state,
        }
    }

    /// The columns of the dataset.
    pub fn schema(&self) -> SchemaRef {
        let [_, _, ..] = self.views[..] else {
            let only = self.views.first().copied().unwrap_or(View::Changes);
            return Arc::clone(self.of(only));
        };
        let apart = self.views.contains(&View::Mapped);
        let nulls = |field: &Field| field.is_nullable() || apart;
        let own = self.state.fields().iter();
        let mut fields: Vec<Field> = own
            .map(|field| field.as_ref().clone().with_nullable(nulls(field)))
            .collect();
        for (at, field) in self.others().iter().enumerate() {
            let name = format!("$mapped{at}");
            fields.push(Field::new(name, field.data_type().clone(), true));
        }
        fields.push(Field::new(VIEW, DataType::UInt8, false));
        Arc::new(Schema::new(fields))
    }

    /// The columns of mapped rows, besides the state's.
    fn others(&self) -> &[Arc<Field>] {
        match &self.mapped {
            Some(mapped) if self.views.contains(&View::Mapped) => mapped.fields(),
            _ => &[],
        }
    }

    /// The places of a view's columns in a dataset of several views.
    fn columns(&self, view: View) -> Range<usize> {
        let state = self.state.fields().len();
        match view {
            View::Mapped => state..state + self.others().len(),
            _ => 0..state,
        }
    }

    /// The dataset, from the rows of each view.
    pub fn join(
        &self,
        rows: impl Fn(View) -> Result<Vec<RecordBatch>>,
    ) -> Result<Vec<RecordBatch>> {
        match self.views[..] {
            [] => return rows(View::Changes),
            [only] => return rows(only),
            _ => {}
        }
        let schema = self.schema();
        let mut joined = Vec::new();
        for view in &self.views {
            let columns = self.columns(*view);
            for rows in rows(*view)? {
                let count = rows.num_rows();
                let before = schema.fields()[..columns.start].iter();
                let last = schema.fields().len() - 1;
                let after = schema.fields()[columns.end..last].iter();
                let absent = |field: &Arc<Field>| new_null_array(field.data_type(), count);
                let mut all: Vec<ArrayRef> = before.map(absent).collect();
                all.extend(rows.columns().iter().cloned());
                all.extend(after.map(absent));
                all.push(Arc::new(UInt8Array::from(vec![*view as u8; count])));
                joined.push(RecordBatch::try_new(Arc::clone(&schema), all)?);
            }
        }
        Ok(joined)
    }

    /// Extracts the rows of a view from the dataset, if it has several.
    pub(super) fn pick(&self, view: View) -> Option<Pick> {
        (self.views.len() > 1).then(|| Pick {
            view: view as u8,
            columns: self.columns(view),
            schema: Arc::clone(self.of(view)),
        })
    }
}
