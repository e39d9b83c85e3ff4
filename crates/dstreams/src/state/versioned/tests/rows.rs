//! Rows of numbered keys and values, for states of several shapes.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, RecordBatch, StringViewArray,
    UInt64Array,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::physical_plan::aggregates::group_values::new_group_values;
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use crate::state::versioned::Shape;

/// The columns of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Number,
    Small,
    Text,
    Float,
    TextAndNumber,
    FloatAndNumber,
    TruthAndBytes,
    Wide,
    Plain,
}

impl Kind {
    pub const ALL: [Kind; 9] = [
        Kind::Number,
        Kind::Small,
        Kind::Text,
        Kind::Float,
        Kind::TextAndNumber,
        Kind::FloatAndNumber,
        Kind::TruthAndBytes,
        Kind::Wide,
        Kind::Plain,
    ];

    fn key_kinds(self) -> Vec<(DataType, bool)> {
        match self {
            Kind::Number => vec![(DataType::UInt64, false)],
            Kind::Small => vec![(DataType::Int16, true)],
            Kind::Text => vec![(DataType::Utf8View, true)],
            Kind::Float => vec![(DataType::Float64, false)],
            Kind::TextAndNumber => vec![(DataType::Utf8View, true), (DataType::Int32, false)],
            Kind::FloatAndNumber => vec![(DataType::Float64, false), (DataType::Int32, true)],
            Kind::TruthAndBytes => vec![(DataType::Boolean, false), (DataType::BinaryView, false)],
            Kind::Wide => vec![(DataType::Decimal128(20, 0), true)],
            Kind::Plain => vec![(DataType::Utf8, true)],
        }
    }

    fn values(self, values: &[u32]) -> Vec<(DataType, ArrayRef)> {
        let texts = || -> ArrayRef {
            Arc::new(StringViewArray::from_iter(
                values
                    .iter()
                    .map(|value| (value % 5 > 0).then(|| text(*value as u16))),
            ))
        };
        let numbers = || -> ArrayRef {
            Arc::new(UInt64Array::from_iter_values(
                values.iter().map(|value| u64::from(*value)),
            ))
        };
        let columns: Vec<ArrayRef> = match self {
            Kind::Number | Kind::Wide => vec![numbers()],
            Kind::Plain => vec![],
            Kind::Small => vec![texts(), numbers()],
            Kind::Text | Kind::Float => vec![texts()],
            Kind::TextAndNumber | Kind::TruthAndBytes => {
                let lengths = values.iter().map(|value| *value as usize % 3);
                let lists = OffsetBuffer::from_lengths(lengths.clone());
                let items = values.iter().zip(lengths);
                let items = items.flat_map(|(value, length)| vec![text(*value as u16); length]);
                let items: ArrayRef = Arc::new(StringViewArray::from_iter_values(items));
                let item = Arc::new(Field::new("item", DataType::Utf8View, true));
                vec![
                    numbers(),
                    Arc::new(ListArray::new(item, lists, items, None)),
                ]
            }
            Kind::FloatAndNumber => vec![
                Arc::new(Float64Array::from_iter_values(
                    values.iter().map(|v| f64::from(*v) / 7.0),
                )),
                Arc::new(BooleanArray::from_iter(
                    values.iter().map(|v| (v % 3 > 0).then_some(v % 2 > 0)),
                )),
            ],
        };
        let columns = columns.into_iter();
        columns
            .map(|column| (column.data_type().clone(), column))
            .collect()
    }

    pub fn shape(self) -> Arc<Shape> {
        let keys = self.key_kinds();
        let key_fields = keys.iter().enumerate();
        let key_fields = key_fields
            .map(|(at, (kind, nulls))| Field::new(format!("key{at}"), kind.clone(), *nulls));
        let values = self.values(&[]);
        let values = values.iter().enumerate();
        let values =
            values.map(|(at, (kind, _))| Field::new(format!("value{at}"), kind.clone(), true));
        let schema = Schema::new(key_fields.chain(values).collect::<Vec<_>>());
        Shape::new(Arc::new(schema), keys.len()).unwrap()
    }

    pub fn keys(self, keys: &[u16]) -> Vec<ArrayRef> {
        let kinds = self.key_kinds();
        kinds
            .iter()
            .map(|(kind, nulls)| key_column(kind, *nulls, keys))
            .collect()
    }

    pub fn value_columns(self, values: &[u32]) -> Vec<ArrayRef> {
        self.values(values)
            .into_iter()
            .map(|(_, column)| column)
            .collect()
    }

    /// Keys and values.
    pub fn batch(self, rows: &[(u16, u32)]) -> RecordBatch {
        let (keys, values): (Vec<_>, Vec<_>) = rows.iter().copied().unzip();
        let columns = [self.keys(&keys), self.value_columns(&values)].concat();
        RecordBatch::try_new(Arc::clone(self.shape().schema()), columns).unwrap()
    }

    /// The groups that DataFusion assigns to keys.
    pub fn groups(self, keys: &[u16]) -> Vec<usize> {
        let schema = Arc::clone(self.shape().key_schema());
        let mut groups = Vec::new();
        let mut values = new_group_values(schema, &GroupOrdering::None).unwrap();
        values.intern(&self.keys(keys), &mut groups).unwrap();
        groups
    }
}

pub fn text(key: u16) -> String {
    match key % 3 {
        0 => format!("k{key}"),
        1 => format!("a key that does not fit a view, number {key}"),
        _ => format!("{key:012}"),
    }
}

fn key_column(kind: &DataType, nulls: bool, keys: &[u16]) -> ArrayRef {
    let null = |key: u16| nulls && key % 7 == 3;
    let keys = keys.iter().copied();
    match kind {
        DataType::Boolean => Arc::new(BooleanArray::from_iter(keys.map(|key| Some(key % 2 == 0)))),
        DataType::Float64 => {
            let special = |key| match key {
                0 => -0.0,
                1 => 0.0,
                2 => f64::NAN,
                4 => f64::from_bits(f64::NAN.to_bits() ^ 1),
                5 => -f64::NAN,
                key => f64::from(key) / 8.0,
            };
            Arc::new(Float64Array::from_iter_values(keys.map(special)))
        }
        DataType::Utf8 | DataType::Utf8View | DataType::BinaryView => {
            let texts = keys.map(|key| (!null(key)).then(|| text(key)));
            cast(&StringViewArray::from_iter(texts), kind).unwrap()
        }
        _ => {
            let numbers = keys.map(|key| (!null(key)).then_some(i64::from(key)));
            cast(&Int64Array::from_iter(numbers), kind).unwrap()
        }
    }
}

/// Rows as bytes that are equal if and only if all bits are.
pub fn bits(batches: &[RecordBatch]) -> Vec<Vec<u8>> {
    let mut rows = Vec::new();
    for batch in batches {
        let fields = batch.columns().iter();
        let fields = fields.map(|column| SortField::new(column.data_type().clone()));
        let converter = RowConverter::new(fields.collect()).unwrap();
        let converted = converter.convert_columns(batch.columns()).unwrap();
        rows.extend(converted.iter().map(|row| row.data().to_vec()));
    }
    rows
}
