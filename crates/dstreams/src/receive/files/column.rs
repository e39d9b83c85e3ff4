//! [`ColumnBuilder`]: builds records column by column, from JSON values or CSV fields.
//!
//! A value that does not fit its column makes its record a dead letter: the row is filtered out at the end. Reasons
//! name the column and never repeat the value.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayBuilder, ArrayRef, BinaryViewBuilder, BooleanArray, BooleanBuilder, Date32Builder,
    Decimal128Builder, FixedSizeBinaryBuilder, ListBuilder, PrimitiveBuilder, RecordBatch,
    StringViewBuilder, TimestampMillisecondBuilder,
};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, FieldRef, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, SchemaRef, TimeUnit, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use super::hex;
use super::json::{self, JsonType, Value};
use super::members::StructColumn;
use super::number::{self, ParsedNumber, Wrong};
use super::time::{self, FinerTimes};
use crate::error::Result;
use crate::stream::record::{AllowedTexts, plain_field, plain_schema};

/// Bytes of a UUID.
const UUID_BYTES: i32 = 16;

/// Builds the columns of a batch from JSON values or CSV fields, record by record.
pub(super) struct ColumnBuilder {
    schema: SchemaRef,
    columns: Vec<Column>,
    /// Buffer for texts without their escapes.
    unescaped: String,
    /// Whether each row is a record.
    good: Vec<bool>,
    bad: usize,
}

impl ColumnBuilder {
    /// For the columns of a [`checked_schema`](crate::stream::record::checked_schema). Fails with the first column whose
    /// type is not supported here.
    pub fn new(schema: &SchemaRef, finer: FinerTimes) -> std::result::Result<Self, FieldRef> {
        let column = |field: &FieldRef| Column::of(field, finer).ok_or_else(|| Arc::clone(field));
        Ok(ColumnBuilder {
            schema: plain_schema(schema),
            columns: schema
                .fields()
                .iter()
                .map(column)
                .collect::<Result<_, _>>()?,
            unescaped: String::new(),
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
                    if let Err(why) = column.add(cell(place), field, &mut self.unescaped) {
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

    /// Whether a record is one text.
    pub fn is_text(&self) -> bool {
        matches!(self.columns[..], [Column::Text(..)])
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

/// Builds one column.
pub(super) enum Column {
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
    Text(StringViewBuilder),
    /// A text of an enum.
    Variant(StringViewBuilder, AllowedTexts),
    Time(TimestampMillisecondBuilder, FinerTimes),
    Date(Date32Builder),
    Decimal(Decimal128Builder, DecimalType),
    /// With a buffer for the bytes of a value.
    Bytes(BinaryViewBuilder, Vec<u8>),
    Uuid(FixedSizeBinaryBuilder),
    List(FieldRef, Box<ListBuilder<Column>>),
    Struct(Box<StructColumn>),
}

/// Digits of a decimal number, and how many of them are behind the point.
#[derive(Clone, Copy)]
pub(super) struct DecimalType {
    digits: u8,
    points: i8,
}

impl DecimalType {
    fn read(self, text: &str) -> Result<i128, String> {
        let DecimalType { digits, points } = self;
        let read = number::decimal(text, digits, points);
        read.map_err(|why| why.describe(&DataType::Decimal128(digits, points)))
    }
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
            Column::Text($other) => $of_other,
            Column::Variant($other, _) => $of_other,
            Column::Time($other, _) => $of_other,
            Column::Date($other) => $of_other,
            Column::Decimal($other, _) => $of_other,
            Column::Bytes($other, _) => $of_other,
            Column::Uuid($other) => $of_other,
            Column::Struct($other) => $of_other,
            Column::List(_, $other) => $of_other,
        }
    };
}

impl Column {
    /// `None` if the type is not supported.
    pub fn of(field: &Field, finer: FinerTimes) -> Option<Self> {
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
                None => Column::Text(StringViewBuilder::new()),
                Some(allowed) => Column::Variant(StringViewBuilder::new(), allowed),
            },
            kind @ DataType::Timestamp(TimeUnit::Millisecond, Some(_)) => {
                let times = TimestampMillisecondBuilder::new();
                Column::Time(times.with_data_type(kind.clone()), finer)
            }
            DataType::Date32 => Column::Date(Date32Builder::new()),
            kind @ DataType::Decimal128(digits, points) => {
                let (digits, points) = (*digits, *points);
                let numbers = Decimal128Builder::new().with_data_type(kind.clone());
                Column::Decimal(numbers, DecimalType { digits, points })
            }
            DataType::BinaryView => Column::Bytes(BinaryViewBuilder::new(), Vec::new()),
            DataType::FixedSizeBinary(UUID_BYTES) => {
                Column::Uuid(FixedSizeBinaryBuilder::new(UUID_BYTES))
            }
            DataType::Struct(fields) => Column::Struct(Box::new(StructColumn::of(fields, finer)?)),
            DataType::List(item) => {
                let items = Column::of(item, finer)?;
                let item = Arc::new(plain_field(item));
                let items = ListBuilder::new(items).with_field(Arc::clone(&item));
                Column::List(item, Box::new(items))
            }
            _ => return None,
        })
    }

    /// Adds one value; a placeholder if it does not fit. Texts lose their escapes in `unescaped`.
    #[inline]
    pub fn add(
        &mut self,
        cell: Cell<'_>,
        field: &Field,
        unescaped: &mut String,
    ) -> Result<(), String> {
        let added = match cell {
            Cell::Json(value) if value.kind != JsonType::Null => self.add_json(value, unescaped),
            Cell::Csv(text) if !text.is_empty() => self.add_csv(text),
            Cell::Twice => Err("two members have this name".into()),
            _ if field.is_nullable() => {
                of_each!(self, number => number.append_null(), other => other.append_null());
                return Ok(());
            }
            Cell::Json(_) => Err("it is null".into()),
            Cell::Missing => Err("no member has this name".into()),
            Cell::Csv(_) => match self {
                Column::Text(texts) => {
                    texts.append_value("");
                    return Ok(());
                }
                Column::Bytes(bytes, _) => {
                    bytes.append_value([]);
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
    pub fn add_nothing(&mut self) {
        match self {
            Column::Bool(values) => values.append_value(false),
            Column::Text(texts) | Column::Variant(texts, _) => texts.append_value(""),
            Column::Time(times, _) => times.append_value(0),
            Column::Date(days) => days.append_value(0),
            Column::Decimal(numbers, _) => numbers.append_value(0),
            Column::Bytes(bytes, _) => bytes.append_value([]),
            // It has the right length.
            Column::Uuid(uuids) => drop(uuids.append_value([0; UUID_BYTES as usize])),
            Column::Struct(structs) => structs.add_nothing(),
            Column::List(_, lists) => lists.append(true),
            numbers => {
                of_each!(numbers, number => number.append_value(Default::default()), _ignored => {})
            }
        }
    }

    /// Adds nothing if it fails.
    #[inline]
    fn add_json(&mut self, value: Value<'_>, unescaped: &mut String) -> Result<(), String> {
        let wrong = |wanted: &str| Err(format!("it is {}, not {wanted}", name_of(value.kind)));
        match self {
            Column::Text(texts) => match value.kind {
                JsonType::Text(_) => {
                    texts.append_value(text_of(value, unescaped)?);
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
                    let added = json::items(value.text, |value| {
                        items.add(Cell::Json(value), item, unescaped)
                    });
                    added.map_err(|why| format!("an item of the list: {why}"))?;
                    lists.append(true);
                    Ok(())
                }
                _ => wrong("a list"),
            },
            Column::Struct(structs) => match value.kind {
                JsonType::Object => structs.add(value.text, unescaped),
                _ => wrong("an object"),
            },
            Column::Time(times, _) if value.kind == JsonType::Number => {
                times.append_value(milliseconds(value.text)?);
                Ok(())
            }
            Column::Decimal(numbers, kind) if value.kind == JsonType::Number => {
                numbers.append_value(kind.read(value.text)?);
                Ok(())
            }
            Column::Time(..) => {
                self.add_text(value, "a time such as 2026-11-29T16:44:00Z", unescaped)
            }
            Column::Date(_) => self.add_text(value, "a date such as 2026-11-29", unescaped),
            Column::Decimal(..) => self.add_text(value, "a number", unescaped),
            Column::Variant(..) => self.add_text(value, "a text", unescaped),
            Column::Bytes(..) | Column::Uuid(_) => {
                self.add_text(value, "a text of hexadecimal digits", unescaped)
            }
            numbers => match value.kind {
                JsonType::Number => numbers.add_number(value.text),
                _ => wrong("a number"),
            },
        }
    }

    /// Adds the value of a text.
    fn add_text(
        &mut self,
        value: Value<'_>,
        wanted: &str,
        unescaped: &mut String,
    ) -> Result<(), String> {
        match value.kind {
            JsonType::Text(false) => self.add_parsed(value.text),
            JsonType::Text(true) => self.add_parsed(text_of(value, unescaped)?),
            other => Err(format!("it is {}, not {wanted}", name_of(other))),
        }
    }

    /// Adds the value of a text in which it has the same form in all formats.
    fn add_parsed(&mut self, text: &str) -> Result<(), String> {
        match self {
            Column::Variant(texts, allowed) => {
                allowed.check(text)?;
                texts.append_value(text);
            }
            Column::Time(times, finer) => times.append_value(time::time(text, *finer)?),
            Column::Date(days) => days.append_value(time::date(text)?),
            Column::Decimal(numbers, kind) => numbers.append_value(kind.read(text)?),
            Column::Bytes(bytes, buffer) => {
                hex::bytes(text, buffer)?;
                bytes.append_value(buffer);
            }
            Column::Uuid(uuids) => {
                let added = uuids.append_value(hex::uuid(text)?);
                added.map_err(|error| error.to_string())?;
            }
            numbers => return numbers.add_number(text),
        }
        Ok(())
    }

    fn add_csv(&mut self, text: &str) -> Result<(), String> {
        match self {
            Column::Text(texts) => {
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
            Column::Struct(_) => Err("CSV has no objects".into()),
            Column::Time(times, finer) => {
                let text = text.trim_ascii();
                let ms = match i64::read(text) {
                    Ok(ms) => ms,
                    Err(Wrong::NoNumber) => time::time(text, *finer)?,
                    Err(_) => milliseconds(text)?,
                };
                times.append_value(ms);
                Ok(())
            }
            Column::Variant(..) => self.add_parsed(text),
            others => others.add_parsed(text.trim_ascii()),
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

    pub fn finish(&mut self) -> ArrayRef {
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

/// A text without its escapes.
fn text_of<'a>(value: Value<'a>, unescaped: &'a mut String) -> Result<&'a str, String> {
    match value.kind {
        JsonType::Text(true) => {
            unescaped.clear();
            json::unescape(value.text, unescaped)?;
            Ok(unescaped)
        }
        _ => Ok(value.text),
    }
}

/// A time that is a number.
fn milliseconds(text: &str) -> Result<i64, String> {
    i64::read(text).map_err(|why| match why {
        Wrong::Fraction => "it has a fraction, and a number is milliseconds since 1970".into(),
        Wrong::OutOfRange => "it is out of range".into(),
        Wrong::NoNumber => number::NO_NUMBER.into(),
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::record::{Date, checked_schema, records_of};

    #[test]
    fn all_texts_lose_their_escapes_in_one_buffer() {
        type Row = (Vec<String>, Date);
        let schema = checked_schema::<Row>();
        let mut rows = ColumnBuilder::new(&schema, FinerTimes::Refused).unwrap();
        let values = [
            Value {
                kind: JsonType::List,
                text: r#"["a\"b", "c\u0064"]"#,
            },
            Value {
                kind: JsonType::Text(true),
                text: r"2026-11-2\u0039",
            },
        ];
        rows.unescaped.reserve(100);
        let buffer = rows.unescaped.as_ptr();
        for _ in 0..3 {
            rows.add(|place| Cell::Json(values[place])).unwrap();
            assert_eq!(rows.unescaped, "2026-11-29");
            assert_eq!(rows.unescaped.as_ptr(), buffer);
        }
        let found = records_of::<Row>(&rows.finish().unwrap().unwrap()).unwrap();
        let wanted = (vec!["a\"b".to_owned(), "cd".to_owned()], Date(20_786));
        assert_eq!(found, vec![wanted; 3]);
    }
}
