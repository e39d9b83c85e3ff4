//! [`Shape`]: the columns of a keyed state, those of its key, and the conversion of keys to one array and back.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, new_empty_array};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt32Type};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::utils::normalize_float_zero;

use super::keys::KeyColumns;
use super::times::TimeColumn;
use crate::encoding::columns;
use crate::error::{Error, Result};
use crate::stream::event_time::IntervalRule;
use crate::stream::lifetime::Lifetime;
use crate::stream::session_rule::SessionRule;

/// The encoded column with the batch of a key's last event.
const LAST: &str = "__last";
/// That with the batch of its first event.
const FIRST: &str = "__first";
/// That with the time of its timer.
const TIMER: &str = "__timer";

/// The columns of a state: those of its key first, then its values.
pub struct Shape {
    schema: SchemaRef,
    key_schema: SchemaRef,
    /// Encodes keys that are not one plain column as bytes.
    converter: Option<RowConverter>,
    /// See [`Shape::highs`].
    highs: Vec<(usize, usize)>,
    due: DueRule,
}

/// When rows are due. Nowhere is that persisted as such where the program says it, so that a changed program finds its
/// rows when they are due by its own rule.
#[derive(Debug, Clone, Copy)]
pub(in crate::state) enum DueRule {
    /// By the last event of their key, or what the operator stores in its place.
    LastEvent,
    /// By the life of their key, and by its timer if the state has timers.
    Keys { lifetime: Lifetime, timers: bool },
    /// That follows from columns of the state. What is persisted besides is ignored.
    Columns(DueColumns),
}

/// The columns from which it follows when rows are due.
#[derive(Debug, Clone, Copy)]
pub(in crate::state) enum DueColumns {
    /// Results by intervals of event time.
    Interval {
        /// The column of the interval, `Int64`.
        interval: usize,
        /// The column of the version, `UInt32`.
        version: usize,
        rule: IntervalRule,
    },
    /// Open sessions: the first is over.
    Sessions {
        /// The column of the sessions, a list.
        list: usize,
        /// The column of its items with the times of the last records, `Int64`.
        last: usize,
        rule: SessionRule,
    },
}

impl DueColumns {
    fn of(&self, rows: &RecordBatch) -> Option<Vec<u64>> {
        match *self {
            DueColumns::Interval {
                interval,
                version,
                rule,
            } => {
                let intervals = rows.column(interval).as_primitive_opt::<Int64Type>()?;
                let versions = rows.column(version).as_primitive_opt::<UInt32Type>()?;
                let times = intervals.values().iter().zip(versions.values());
                let times = times.map(|(interval, version)| rule.due(*interval, *version).millis());
                Some(times.collect())
            }
            DueColumns::Sessions { list, last, rule } => {
                let lists = rows.column(list).as_list_opt::<i32>()?;
                let items = lists.values().as_struct_opt()?;
                let last = items.column(last).as_primitive_opt::<Int64Type>()?.values();
                let of_lists = lists.value_offsets().windows(2);
                let times = of_lists.map(|of| {
                    let first = last[of[0] as usize..of[1] as usize].iter().min();
                    first.map_or(0, |first| rule.over_at(*first).max(0) as u64)
                });
                Some(times.collect())
            }
        }
    }
}

/// The times that are encoded with rows, besides last events.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TimesStored {
    pub first: bool,
    pub timer: bool,
}

impl Shape {
    /// A state with the columns of `schema`, of which the first `keys` are its key.
    ///
    /// # Errors
    ///
    /// [`Error::Schema`] if there is no key column, or one of a type without comparison (maps, unions), or any
    /// column has dictionaries, which the encoding of a state does not support.
    pub fn new(schema: SchemaRef, keys: usize) -> Result<Arc<Self>> {
        Shape::of_state(schema, keys, &[], DueRule::LastEvent)
    }

    /// The same for partial results with high halves of sums (pairs of value columns), or whose rows are due by
    /// another rule.
    pub(in crate::state) fn of_state(
        schema: SchemaRef,
        keys: usize,
        highs: &[(usize, usize)],
        due: DueRule,
    ) -> Result<Arc<Self>> {
        let wrong = |found: String| Error::Schema {
            what: "key of a state".into(),
            expected: "one or more columns that can be compared".into(),
            found,
        };
        if keys == 0 || keys > schema.fields().len() {
            return Err(wrong(format!("{keys} of {}", columns(&schema))));
        }
        if let Some(found) = schema.fields().iter().find(|f| encoded(f.data_type())) {
            return Err(Error::Schema {
                what: format!("column `{}` of a state", found.name()),
                expected: "plain values".into(),
                found: found.data_type().to_string(),
            });
        }
        let key_schema = Arc::new(Schema::new(schema.fields()[..keys].to_vec()));
        let kinds = key_schema.fields().iter().map(|field| field.data_type());
        let converter = match keys == 1 && kinds.clone().all(KeyColumns::takes) {
            true => None,
            false => {
                let fields: Vec<_> = kinds.cloned().map(SortField::new).collect();
                if !RowConverter::supports_fields(&fields) {
                    return Err(wrong(columns(&key_schema)));
                }
                Some(RowConverter::new(fields)?)
            }
        };
        let shape = Shape {
            schema,
            key_schema,
            converter,
            highs: highs
                .iter()
                .map(|(high, sum)| (keys + high, keys + sum))
                .collect(),
            due,
        };
        // Finds types that do not survive the conversion here, not at the first read.
        let empty = shape.key_schema.fields().iter();
        let empty: Vec<_> = empty
            .map(|field| new_empty_array(field.data_type()))
            .collect();
        let back = shape
            .keys(&empty)
            .and_then(|keys| shape.key_columns(&keys))
            .map_err(|_| wrong(columns(&shape.key_schema)))?;
        match RecordBatch::try_new(Arc::clone(&shape.key_schema), back) {
            Ok(_) => Ok(Arc::new(shape)),
            Err(_) => Err(wrong(columns(&shape.key_schema))),
        }
    }

    /// The encoded columns that are derived from others if an earlier version wrote the rows: see
    /// [`AggPlan::highs`](crate::stream::agg::AggPlan::highs).
    pub(super) fn highs(&self) -> &[(usize, usize)] {
        &self.highs
    }

    /// When rows are due, if that follows from their columns.
    pub(super) fn due(&self, rows: &RecordBatch) -> Option<TimeColumn> {
        match &self.due {
            DueRule::Columns(columns) => Some(TimeColumn::of(columns.of(rows)?.into())),
            DueRule::LastEvent | DueRule::Keys { .. } => None,
        }
    }

    /// Whether [`Shape::due`] says when rows are due.
    pub(super) fn has_due(&self) -> bool {
        matches!(self.due, DueRule::Columns(_))
    }

    /// How long keys are held, if rows are due by that.
    pub(super) fn lifetime(&self) -> Option<Lifetime> {
        match self.due {
            DueRule::Keys { lifetime, .. } => Some(lifetime),
            DueRule::LastEvent | DueRule::Columns(_) => None,
        }
    }

    /// Whether the first events of keys are stored.
    pub(super) fn has_first(&self) -> bool {
        self.lifetime()
            .is_some_and(|lifetime| lifetime.live_ms.is_some())
    }

    /// Whether keys may have timers.
    pub(super) fn has_timers(&self) -> bool {
        matches!(self.due, DueRule::Keys { timers: true, .. })
    }

    /// Keys, then values.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The columns of the key.
    pub fn key_schema(&self) -> &SchemaRef {
        &self.key_schema
    }

    /// The number of key columns.
    pub fn key_columns_len(&self) -> usize {
        self.key_schema.fields().len()
    }

    /// The number of value columns.
    pub fn values_len(&self) -> usize {
        self.schema.fields().len() - self.key_columns_len()
    }

    /// Keys, values, the batch of the last event, and perhaps that of the first and the timer: the columns of encoded
    /// rows.
    pub(super) fn row_schema(&self, with: TimesStored) -> SchemaRef {
        let mut fields = self.schema.fields().to_vec();
        let stored = [(LAST, true), (FIRST, with.first), (TIMER, with.timer)];
        let stored = stored.into_iter().filter(|(_, stored)| *stored);
        fields.extend(stored.map(|(name, _)| Arc::new(Field::new(name, DataType::UInt64, false))));
        Arc::new(Schema::new(fields))
    }

    /// Columns as rows of the state, checked against its types and nullability.
    pub(super) fn rows(&self, of: Vec<ArrayRef>) -> Result<RecordBatch> {
        batch("rows of a state", &self.schema, of)
    }

    /// Columns as keys of the state.
    pub(super) fn key_rows(&self, of: Vec<ArrayRef>) -> Result<RecordBatch> {
        batch("keys of a state", &self.key_schema, of)
    }

    /// Keys from columns of exactly the key's types.
    pub(super) fn keys(&self, of: &[ArrayRef]) -> Result<KeyColumns> {
        let kinds = self.key_schema.fields().iter().map(|f| f.data_type());
        if !kinds.eq(of.iter().map(|column| column.data_type())) {
            let found = of.iter().map(|column| column.data_type().to_string());
            return Err(Error::Schema {
                what: "key of a state".into(),
                expected: columns(&self.key_schema),
                found: found.collect::<Vec<_>>().join(", "),
            });
        }
        let of: Vec<_> = of.iter().map(normalize_float_zero).collect();
        KeyColumns::new(match &self.converter {
            None => Arc::clone(&of[0]),
            Some(converter) => Arc::new(converter.convert_columns(&of)?.try_into_binary()?),
        })
    }

    /// The key columns of `of`.
    pub(super) fn key_columns(&self, of: &KeyColumns) -> Result<Vec<ArrayRef>> {
        let Some(converter) = &self.converter else {
            return Ok(vec![Arc::clone(of.array())]);
        };
        let rows = converter.from_binary(of.array().as_binary::<i32>().clone());
        Ok(converter.convert_rows(&rows)?)
    }
}

fn batch(what: &str, schema: &SchemaRef, of: Vec<ArrayRef>) -> Result<RecordBatch> {
    RecordBatch::try_new(Arc::clone(schema), of).map_err(|error| Error::Schema {
        what: what.into(),
        expected: columns(schema),
        found: error.to_string(),
    })
}

/// Whether values of a type are encoded as references to others.
fn encoded(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(..) | DataType::RunEndEncoded(..) => true,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => encoded(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| encoded(field.data_type())),
        _ => false,
    }
}

impl PartialEq for Shape {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
            || (self.schema == other.schema && self.key_schema == other.key_schema)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (keys, all) = (columns(&self.key_schema), columns(&self.schema));
        write!(f, "Shape {{ keys: {keys}, columns: {all} }}")
    }
}
