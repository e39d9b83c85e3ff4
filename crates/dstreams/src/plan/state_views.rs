//! [`Views`]: what a state gives with each batch, for readers that want different rows of it.
//!
//! A state has one dataset. Where its readers want one view, that is the dataset. Where they want several,
//! the rows of all are in it, told apart by a last column; rows that the batch's closures made have other
//! columns than the state's, so then each row has nulls in the columns of the other kind.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt8Array, new_null_array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::error::Result;
use crate::stream::graph::View;
use crate::stream::rows::Pick;

/// Name of the column that says of which view a row is.
const VIEW: &str = "$view";

/// The rows that readers want of a state with each batch; each kind of rows is computed once.
#[derive(Clone)]
pub(crate) struct Views {
    /// In their order, each once.
    views: Vec<View>,
    /// Columns of the state.
    state: SchemaRef,
    /// Columns of what its closures make, if they do.
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

    /// Whether a reader wants what is not in the state itself.
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

    /// Columns of the dataset.
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

    /// Columns of mapped rows that stand beside the state's.
    fn others(&self) -> &[Arc<Field>] {
        match &self.mapped {
            Some(mapped) if self.views.contains(&View::Mapped) => mapped.fields(),
            _ => &[],
        }
    }

    /// Where the columns of a view stand in a dataset of several.
    fn columns(&self, view: View) -> Range<usize> {
        let state = self.state.fields().len();
        match view {
            View::Mapped => state..state + self.others().len(),
            _ => 0..state,
        }
    }

    /// The dataset, of the rows of each view.
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

    /// Takes the rows of a view out of the dataset, where it has others too.
    pub(super) fn pick(&self, view: View) -> Option<Pick> {
        (self.views.len() > 1).then(|| Pick {
            view: view as u8,
            columns: self.columns(view),
            schema: Arc::clone(self.of(view)),
        })
    }
}
