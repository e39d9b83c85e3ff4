//! [`ColumnBuilder`]: builds records column by column, from JSON values or CSV fields.
//!
//! A value that does not fit its column makes its record a dead letter: the row is filtered out at the end. Reasons
//! name the column and never repeat the value.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayBuilder, ArrayRef, BooleanArray, BooleanBuilder, ListBuilder, PrimitiveBuilder,
    RecordBatch, StringViewBuilder,
};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, FieldRef, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, SchemaRef, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use super::json::{self, JsonType, Value};
use super::number::{self, ParsedNumber};
use crate::error::Result;
use crate::stream::record::{AllowedTexts, plain_field, plain_schema};

/// Builds the columns of a batch from JSON values or CSV fields, record by record.
pub(super) struct ColumnBuilder {
    schema: SchemaRef,
    columns: Vec<Column>,
    /// Whether each row is a record.
    good: Vec<bool>,
    bad: usize,
}

impl ColumnBuilder {
    /// For the columns of a [`checked_schema`](crate::stream::record::checked_schema). Fails with the first column whose
    /// type is not supported here.
    pub fn new(schema: &SchemaRef) -> std::result::Result<Self, FieldRef> {
        let column = |field: &FieldRef| Column::of(field).ok_or_else(|| Arc::clone(field));
        Ok(ColumnBuilder {
            schema: plain_schema(schema),
            columns: schema
                .fields()
                .iter()
                .map(column)
                .collect::<Result<_, _>>()?,
            good: Vec::new(),
            bad: 0,
        })
    }

    /// Adds a row, with the cell of each column; returns the reason if it is not a record.
    #[inline]
    pub fn add<'a>(&mut self, mut cell: impl FnMut(usize) -> Cell<'a>) -> Result<(), String> {
        let mut failed = None;
        let columns = self.columns.iter_mut().zip(self.schema.fields());
        for (place, (column, field)) in columns.enumerate() {
            match failed {
                None => {
                    if let Err(why) = column.add(cell(place), field) {
                        failed = Some(format!("column `{}`: {why}", field.name()));
                    }
                }
                Some(_) => column.add_nothing(),
            }
        }
        self.good.push(failed.is_none());
        self.bad += usize::from(failed.is_some());
        failed.map_or(Ok(()), Err)
    }

    /// Returns the records so far and starts a new batch.
    pub fn finish(&mut self) -> Result<Option<RecordBatch>> {
        let (good, bad) = (
            std::mem::take(&mut self.good),
            std::mem::take(&mut self.bad),
        );
        let columns = self.columns.iter_mut().map(Column::finish).collect();
        if good.len() == bad {
            return Ok(None);
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        Ok(Some(match bad {
            0 => rows,
            _ => filter_record_batch(&rows, &BooleanArray::from(good))?,
        }))
    }
}

/// The value of one cell, not yet converted to the column's type.
#[derive(Clone, Copy)]
pub(super) enum Cell<'a> {
    Json(Value<'a>),
    /// No member has the column's name.
    Missing,
    /// Two members have the column's name.
    Twice,
    /// A CSV field without its quotes.
    Csv(&'a str),
}

enum Column {
    I8(PrimitiveBuilder<Int8Type>),
    I16(PrimitiveBuilder<Int16Type>),
    I32(PrimitiveBuilder<Int32Type>),
    I64(PrimitiveBuilder<Int64Type>),
    U8(PrimitiveBuilder<UInt8Type>),
    U16(PrimitiveBuilder<UInt16Type>),
    U32(PrimitiveBuilder<UInt32Type>),
    U64(PrimitiveBuilder<UInt64Type>),
    F32(PrimitiveBuilder<Float32Type>),
    F64(PrimitiveBuilder<Float64Type>),
    Bool(BooleanBuilder),
    /// With a buffer for texts without their escapes.
    Text(StringViewBuilder, String),
    /// A text of an enum.
    Variant(StringViewBuilder, String, AllowedTexts),
    List(FieldRef, Box<ListBuilder<Column>>),
}

/// Applies an expression to whatever builder a column has; numbers have their own arm.
macro_rules! of_each {
    ($column:expr, $number:ident => $of_number:expr, $other:ident => $of_other:expr) => {
        match $column {
            Column::I8($number) => $of_number,
            Column::I16($number) => $of_number,
            Column::I32($number) => $of_number,
            Column::I64($number) => $of_number,
            Column::U8($number) => $of_number,
            Column::U16($number) => $of_number,
            Column::U32($number) => $of_number,
            Column::U64($number) => $of_number,
            Column::F32($number) => $of_number,
            Column::F64($number) => $of_number,
            Column::Bool($other) => $of_other,
            Column::Text($other, _) => $of_other,
            Column::Variant($other, ..) => $of_other,
            Column::List(_, $other) => $of_other,
        }
    };
}

impl Column {
    fn of(field: &Field) -> Option<Self> {
        Some(match field.data_type() {
            DataType::Int8 => Column::I8(PrimitiveBuilder::new()),
            DataType::Int16 => Column::I16(PrimitiveBuilder::new()),
            DataType::Int32 => Column::I32(PrimitiveBuilder::new()),
            DataType::Int64 => Column::I64(PrimitiveBuilder::new()),
            DataType::UInt8 => Column::U8(PrimitiveBuilder::new()),
            DataType::UInt16 => Column::U16(PrimitiveBuilder::new()),
            DataType::UInt32 => Column::U32(PrimitiveBuilder::new()),
            DataType::UInt64 => Column::U64(PrimitiveBuilder::new()),
            DataType::Float32 => Column::F32(PrimitiveBuilder::new()),
            DataType::Float64 => Column::F64(PrimitiveBuilder::new()),
            DataType::Boolean => Column::Bool(BooleanBuilder::new()),
            DataType::Utf8View => match AllowedTexts::of(field) {
                None => Column::Text(StringViewBuilder::new(), String::new()),
                Some(allowed) => Column::Variant(StringViewBuilder::new(), String::new(), allowed),
            },
            DataType::List(item) => {
                let items = Column::of(item)?;
                let item = Arc::new(plain_field(item));
                let items = ListBuilder::new(items).with_field(Arc::clone(&item));
                Column::List(item, Box::new(items))
            }
            _ => return None,
        })
    }

    /// Adds one value; a null if it does not fit.
    #[inline]
    fn add(&mut self, cell: Cell<'_>, field: &Field) -> Result<(), String> {
        let added = match cell {
            Cell::Json(value) if value.kind != JsonType::Null => self.add_json(value),
            Cell::Csv(text) if !text.is_empty() => self.add_csv(text),
            Cell::Twice => Err("two members have this name".into()),
            _ if field.is_nullable() => {
                of_each!(self, number => number.append_null(), other => other.append_null());
                return Ok(());
            }
            Cell::Json(_) => Err("it is null".into()),
            Cell::Missing => Err("no member has this name".into()),
            Cell::Csv(_) => match self {
                Column::Text(texts, _) => {
                    texts.append_value("");
                    return Ok(());
                }
                _ => Err("it is empty".into()),
            },
        };
        if added.is_err() {
            self.add_nothing();
        }
        added
    }

    /// Adds a placeholder for a row that is left out.
    fn add_nothing(&mut self) {
        match self {
            Column::Bool(values) => values.append_value(false),
            Column::Text(texts, _) | Column::Variant(texts, ..) => texts.append_value(""),
            Column::List(_, lists) => lists.append(true),
            numbers => {
                of_each!(numbers, number => number.append_value(Default::default()), _ignored => {})
            }
        }
    }

    /// Adds nothing if it fails.
    #[inline]
    fn add_json(&mut self, value: Value<'_>) -> Result<(), String> {
        let wrong = |wanted: &str| Err(format!("it is {}, not {wanted}", name_of(value.kind)));
        match self {
            Column::Text(texts, unescaped) => match value.kind {
                JsonType::Text(escapes) => {
                    if escapes {
                        unescaped.clear();
                        json::unescape(value.text, unescaped)?;
                        texts.append_value(unescaped);
                    } else {
                        texts.append_value(value.text);
                    }
                    Ok(())
                }
                _ => wrong("a text"),
            },
            Column::Variant(texts, unescaped, allowed) => match value.kind {
                JsonType::Text(escapes) => {
                    let mut text = value.text;
                    if escapes {
                        unescaped.clear();
                        json::unescape(value.text, unescaped)?;
                        text = unescaped;
                    }
                    allowed.check(text)?;
                    texts.append_value(text);
                    Ok(())
                }
                _ => wrong("a text"),
            },
            Column::Bool(values) => match value.kind {
                JsonType::True | JsonType::False => {
                    values.append_value(value.kind == JsonType::True);
                    Ok(())
                }
                _ => wrong("true or false"),
            },
            Column::List(item, lists) => match value.kind {
                JsonType::List => {
                    let items = lists.values();
                    let added = json::items(value.text, |value| items.add(Cell::Json(value), item));
                    added.map_err(|why| format!("an item of the list: {why}"))?;
                    lists.append(true);
                    Ok(())
                }
                _ => wrong("a list"),
            },
            numbers => match value.kind {
                JsonType::Number => numbers.add_number(value.text),
                _ => wrong("a number"),
            },
        }
    }

    fn add_csv(&mut self, text: &str) -> Result<(), String> {
        match self {
            Column::Text(texts, _) => {
                texts.append_value(text);
                Ok(())
            }
            Column::Variant(texts, _, allowed) => {
                allowed.check(text)?;
                texts.append_value(text);
                Ok(())
            }
            Column::Bool(values) => {
                let value = [false, true]
                    .into_iter()
                    .find(|value| text.eq_ignore_ascii_case(if *value { "true" } else { "false" }));
                values.append_value(value.ok_or("it is neither true nor false")?);
                Ok(())
            }
            Column::List(..) => Err("CSV has no lists".into()),
            numbers => numbers.add_number(text.trim_ascii()),
        }
    }

    #[inline]
    fn add_number(&mut self, text: &str) -> Result<(), String> {
        fn add<P>(to: &mut PrimitiveBuilder<P>, text: &str) -> Result<(), String>
        where
            P: ArrowPrimitiveType,
            P::Native: ParsedNumber,
        {
            let read = P::Native::read(text);
            to.append_value(read.map_err(|why| why.describe(&P::DATA_TYPE))?);
            Ok(())
        }
        of_each!(self, numbers => add(numbers, text), _other => Err(number::NO_NUMBER.into()))
    }

    fn finish(&mut self) -> ArrayRef {
        of_each!(self, numbers => Arc::new(numbers.finish()), other => Arc::new(other.finish()))
    }
}

/// For the items of a list.
impl ArrayBuilder for Column {
    fn len(&self) -> usize {
        of_each!(self, numbers => numbers.len(), other => other.len())
    }

    fn finish(&mut self) -> ArrayRef {
        Column::finish(self)
    }

    fn finish_cloned(&self) -> ArrayRef {
        of_each!(self, numbers => Arc::new(numbers.finish_cloned()), other => Arc::new(other.finish_cloned()))
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn std::any::Any {
        self
    }

    fn into_box_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

fn name_of(kind: JsonType) -> &'static str {
    match kind {
        JsonType::Null => "null",
        JsonType::True | JsonType::False => "true or false",
        JsonType::Number => "a number",
        JsonType::Text(_) => "a text",
        JsonType::List => "a list",
        JsonType::Object => "an object",
    }
}
