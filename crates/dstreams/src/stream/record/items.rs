//! Lists from elsewhere: queries, files and clients name the items of lists in their own way, declare all of them
//! nullable, and have items in rows that are null.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, ListArray, MutableArrayData, StructArray, make_array,
};
use datafusion::arrow::buffer::{BooleanBuffer, NullBuffer, OffsetBuffer};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, TimeUnit, TimestampMillisecondType};

use crate::error::{Error, Result};

/// Whether two types differ in nothing but the names and the nullability of items.
pub(super) fn same_items(found: &DataType, wanted: &DataType) -> bool {
    match (found, wanted) {
        (DataType::List(found), DataType::List(wanted)) => {
            same_items(found.data_type(), wanted.data_type())
        }
        (DataType::Struct(found), DataType::Struct(wanted)) => {
            let mut pairs = found.iter().zip(wanted);
            found.len() == wanted.len()
                && pairs.all(|(found, wanted)| {
                    found.name() == wanted.name()
                        && same_items(found.data_type(), wanted.data_type())
                })
        }
        (found, wanted) => found == wanted,
    }
}

/// Whether [`refitted`] can make a column of type `wanted` without a loss: lists have items of the same type and fields
/// of the same names in the same order, apart from the encoding of text and bytes, the zone of times, and the number
/// of digits.
pub(crate) fn refits(found: &DataType, wanted: &DataType) -> bool {
    use DataType::*;
    match (found, wanted) {
        (Utf8 | LargeUtf8, Utf8View) | (Binary | LargeBinary, BinaryView) => true,
        (Timestamp(TimeUnit::Millisecond, _), Timestamp(TimeUnit::Millisecond, Some(_))) => true,
        (Decimal128(found, points), Decimal128(wanted, same)) => points == same && found <= wanted,
        (List(found) | LargeList(found), List(wanted)) => {
            refits(found.data_type(), wanted.data_type())
        }
        (Struct(found), Struct(wanted)) => {
            let mut pairs = found.iter().zip(wanted);
            found.len() == wanted.len()
                && pairs.all(|(found, wanted)| {
                    found.name() == wanted.name() && refits(found.data_type(), wanted.data_type())
                })
        }
        (found, wanted) => found == wanted,
    }
}

/// The column with the type of `wanted`, which it [`refits`].
///
/// # Errors
///
/// [`Error::Schema`] if an item, or a field of one, is null and must not be.
pub(crate) fn refitted(column: &ArrayRef, wanted: &Field) -> Result<ArrayRef> {
    if column.data_type() == wanted.data_type() {
        return Ok(Arc::clone(column));
    }
    match wanted.data_type() {
        DataType::List(item) => {
            let list = match column.data_type() {
                DataType::LargeList(item) => cast(column, &DataType::List(Arc::clone(item)))?,
                _ => Arc::clone(column),
            };
            let list = without_hidden_items(list.as_list::<i32>().clone(), None)?;
            let (_, offsets, values, nulls) = list.into_parts();
            let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
            let values = values.slice(first as usize, (last - first) as usize);
            let values = refitted(&values, item)?;
            check("items of a list", item, &values)?;
            let offsets = OffsetBuffer::from_lengths(offsets.lengths());
            let list = ListArray::try_new(Arc::clone(item), offsets, values, nulls)?;
            Ok(Arc::new(list))
        }
        DataType::Struct(fields) => {
            let (_, columns, nulls) = column.as_struct().clone().into_parts();
            let columns = fields.iter().zip(&columns).map(|(field, column)| {
                let column = refitted(column, field)?;
                // Otherwise null with the item that they are in, which is refused or allowed as a whole.
                if nulls.is_none() {
                    let of = format!("`{}` of the items of a list", field.name());
                    check(&of, field, &column)?;
                }
                Ok(column)
            });
            let columns = columns.collect::<Result<Vec<_>>>()?;
            let rows = column.len();
            let structs = StructArray::try_new_with_length(fields.clone(), columns, nulls, rows)?;
            Ok(Arc::new(structs))
        }
        // The same number whatever the zone. Arrow's cast has no times of far years.
        DataType::Timestamp(TimeUnit::Millisecond, zone) => {
            match column.as_primitive_opt::<TimestampMillisecondType>() {
                Some(times) => Ok(Arc::new(times.clone().with_timezone_opt(zone.clone()))),
                None => Ok(cast(column, wanted.data_type())?),
            }
        }
        other => Ok(cast(column, other)?),
    }
}

fn check(what: &str, wanted: &Field, values: &ArrayRef) -> Result<()> {
    match values.null_count() {
        nulls if nulls > 0 && !wanted.is_nullable() => Err(Error::Schema {
            what: what.into(),
            expected: format!("{} without nulls", wanted.data_type()),
            found: format!(
                "{nulls} null(s) in {}; use `Option` for items that may be null, or leave them out by `filter (where .. is not null)`",
                values.len()
            ),
        }),
        _ => Ok(()),
    }
}

/// The same lists, without items in rows that are null or not `there`, if those may be no records.
pub(super) fn without_hidden_items(
    list: ListArray,
    present: Option<&BooleanBuffer>,
) -> Result<ListArray> {
    let shown = match (list.nulls().map(NullBuffer::inner), present) {
        (None, None) => return Ok(list),
        (Some(shown), None) | (None, Some(shown)) => shown.clone(),
        (Some(valid), Some(present)) => valid & present,
    };
    let hides = |row| !shown.value(row) && list.value_length(row) > 0;
    if !may_be_wrong(list.values()) || !(0..list.len()).any(hides) {
        return Ok(list);
    }
    let (item, offsets, values, nulls) = list.into_parts();
    let data = values.to_data();
    let mut items = MutableArrayData::new(vec![&data], false, 0);
    let mut lengths = Vec::with_capacity(shown.len());
    for (row, ends) in offsets.windows(2).enumerate() {
        let (start, end) = (ends[0] as usize, ends[1] as usize);
        let end = if shown.value(row) { end } else { start };
        items.try_extend(0, start, end)?;
        lengths.push(end - start);
    }
    let offsets = OffsetBuffer::from_lengths(lengths);
    let items = make_array(items.freeze());
    Ok(ListArray::try_new(item, offsets, items, nulls)?)
}

/// Whether there are nulls among the values, or in the fields of structs and the items of lists, or decimal numbers,
/// which can have too many digits.
fn may_be_wrong(values: &ArrayRef) -> bool {
    let inside = match values.data_type() {
        DataType::Struct(_) => values.as_struct().columns().iter().any(may_be_wrong),
        DataType::List(_) => may_be_wrong(values.as_list::<i32>().values()),
        DataType::Decimal128(..) => true,
        _ => false,
    };
    inside || values.null_count() > 0
}
