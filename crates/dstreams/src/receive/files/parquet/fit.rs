//! Columns of a Parquet file as those of the record: types that have the same values, and times of other units.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, ListArray, RecordBatch, StructArray, TimestampMillisecondArray,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, Field, FieldRef, Fields, Int64Type, SchemaRef, TimeUnit,
};

use super::super::time::{FINER, FinerTimes};
use crate::stream::record::{RowCheck, refitted};

/// The same type, or one whose values it includes: a number of fewer bits or digits, text and bytes in another encoding,
/// times of another unit or zone, of which single values may not fit.
pub(super) fn fits(wanted: &DataType, found: &DataType) -> bool {
    use DataType::*;
    let text = |kind: &DataType| matches!(kind, Utf8 | LargeUtf8 | Utf8View);
    match (wanted, found) {
        (_, Dictionary(_, values)) => fits(wanted, values),
        (Int16, Int8 | UInt8)
        | (Int32, Int8 | Int16 | UInt8 | UInt16)
        | (Int64, Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32)
        | (UInt16, UInt8)
        | (UInt32, UInt8 | UInt16)
        | (UInt64, UInt8 | UInt16 | UInt32)
        | (Float64, Float32)
        | (BinaryView, Binary | LargeBinary)
        | (Timestamp(TimeUnit::Millisecond, Some(_)), Timestamp(..)) => true,
        (Decimal128(wanted, points), Decimal128(found, same)) => points == same && found <= wanted,
        (List(wanted), List(found) | LargeList(found)) => {
            fits(wanted.data_type(), found.data_type())
        }
        (Struct(wanted), Struct(found)) => {
            let mut pairs = wanted.iter().zip(found);
            wanted.len() == found.len()
                && pairs.all(|(wanted, found)| {
                    wanted.name() == found.name() && fits(wanted.data_type(), found.data_type())
                })
        }
        _ => wanted == found || (text(wanted) && text(found)),
    }
}

/// The columns of the record, or the reason why some row is none.
pub(super) fn fitted(
    wanted: &SchemaRef,
    batch: &RecordBatch,
    finer: FinerTimes,
    check: RowCheck,
) -> Result<RecordBatch, String> {
    let mut columns = Vec::with_capacity(wanted.fields().len());
    for field in wanted.fields() {
        let name = field.name();
        let column = batch.column_by_name(name);
        let column = column.ok_or_else(|| format!("there is no column `{name}`"))?;
        if !field.is_nullable() && column.logical_null_count() > 0 {
            return Err(format!("column `{name}` is null"));
        }
        if column.data_type() == field.data_type() {
            columns.push(Arc::clone(column));
            continue;
        }
        let wrong = |why: String| format!("column `{name}`: {why}");
        let column = in_millis(column, finer).map_err(wrong)?;
        columns.push(refitted(&column, field).map_err(|error| wrong(error.to_string()))?);
    }
    let rows = RecordBatch::try_new(Arc::clone(wanted), columns);
    let rows = rows.map_err(|error| error.to_string())?;
    check(&rows).map_err(|error| error.to_string())?;
    Ok(rows)
}

/// The column with its times in milliseconds, also those in lists and structs. Times without a zone are UTC.
fn in_millis(column: &ArrayRef, finer: FinerTimes) -> Result<ArrayRef, String> {
    let failed = |error: datafusion::arrow::error::ArrowError| error.to_string();
    match column.data_type() {
        DataType::Timestamp(unit, _) => millis(column, *unit, finer),
        kind if !has_times(kind) => Ok(Arc::clone(column)),
        DataType::Dictionary(_, values) => in_millis(&cast(column, values).map_err(failed)?, finer),
        DataType::LargeList(item) => {
            let list = DataType::List(Arc::clone(item));
            in_millis(&cast(column, &list).map_err(failed)?, finer)
        }
        DataType::List(item) => {
            let (_, offsets, items, nulls) = column.as_list::<i32>().clone().into_parts();
            let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
            // Times of other rows are of no account.
            let items = items.slice(first as usize, (last - first) as usize);
            let items = in_millis(&items, finer)?;
            let item = of_column(item, &items);
            let offsets = OffsetBuffer::from_lengths(offsets.lengths());
            let list = ListArray::try_new(item, offsets, items, nulls);
            Ok(Arc::new(list.map_err(failed)?))
        }
        DataType::Struct(fields) => {
            let (_, columns, nulls) = column.as_struct().clone().into_parts();
            let columns = columns.iter().map(|column| in_millis(column, finer));
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            let fields = fields.iter().zip(&columns);
            let fields: Fields = fields.map(|(field, it)| of_column(field, it)).collect();
            let structs = StructArray::try_new(fields, columns, nulls);
            Ok(Arc::new(structs.map_err(failed)?))
        }
        _ => Ok(Arc::clone(column)),
    }
}

fn has_times(kind: &DataType) -> bool {
    match kind {
        DataType::Timestamp(..) => true,
        DataType::Dictionary(_, values) => has_times(values),
        DataType::List(item) | DataType::LargeList(item) => has_times(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_times(field.data_type())),
        _ => false,
    }
}

/// The same field with the type of this column.
fn of_column(field: &Field, column: &ArrayRef) -> FieldRef {
    let kind = column.data_type().clone();
    Arc::new(Field::new(field.name(), kind, field.is_nullable()))
}

/// Times of a unit as milliseconds.
fn millis(column: &ArrayRef, unit: TimeUnit, finer: FinerTimes) -> Result<ArrayRef, String> {
    let convert = |time: i64| {
        let parts = match unit {
            TimeUnit::Second => {
                let ms = time.checked_mul(1_000);
                return ms.ok_or_else(|| "it is out of range".to_owned());
            }
            TimeUnit::Millisecond => return Ok(time),
            TimeUnit::Microsecond => 1_000,
            TimeUnit::Nanosecond => 1_000_000,
        };
        match time.rem_euclid(parts) {
            0 => {}
            _ if finer == FinerTimes::Cut => {}
            _ => return Err(FINER.to_owned()),
        }
        Ok(time.div_euclid(parts))
    };
    let numbers = cast(column, &DataType::Int64).map_err(|error| error.to_string())?;
    let numbers = numbers.as_primitive::<Int64Type>().iter();
    let times = numbers.map(|time| time.map(convert).transpose());
    let times = times.collect::<Result<TimestampMillisecondArray, _>>()?;
    Ok(Arc::new(times.with_timezone("+00:00")))
}
