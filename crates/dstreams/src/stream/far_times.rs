//! Times and dates of years that Arrow cannot write as text: it writes its error instead, which is not even valid JSON.

use std::borrow::Cow;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, ListArray, RecordBatch, StringArray, StructArray,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Field, FieldRef, Schema, TimeUnit, TimestampMillisecondType,
};

use crate::error::Result;

const DAY_MS: i64 = 86_400_000;
/// Days of 250,000 years: Arrow writes times that are nearer to 1970 than this.
const NEAR_DAYS: i64 = 91_310_000;

/// The rows with text in place of each column that has such a time, also in its lists, in the same form as nearer
/// ones: `+300000-01-01T00:00:00Z`.
pub(crate) fn with_far_times_as_text(rows: &RecordBatch) -> Result<Cow<'_, RecordBatch>> {
    let text = rows.columns().iter().map(text_of);
    let text: Vec<Option<ArrayRef>> = text.collect::<Result<_>>()?;
    if text.iter().all(Option::is_none) {
        return Ok(Cow::Borrowed(rows));
    }
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    let schema = rows.schema();
    for ((field, column), text) in schema.fields().iter().zip(rows.columns()).zip(text) {
        let column = text.unwrap_or_else(|| Arc::clone(column));
        fields.push(of_column(field, &column));
        columns.push(column);
    }
    let schema = Arc::new(Schema::new(fields));
    Ok(Cow::Owned(RecordBatch::try_new(schema, columns)?))
}

/// The same field with the type of this column.
fn of_column(field: &Field, column: &ArrayRef) -> FieldRef {
    let kind = column.data_type().clone();
    Arc::new(Field::new(field.name(), kind, field.is_nullable()))
}

/// The column as text, if it has a time that is far.
fn text_of(column: &ArrayRef) -> Result<Option<ArrayRef>> {
    let is_far = |days: i64| !(-NEAR_DAYS..NEAR_DAYS).contains(&days);
    let text = match column.data_type() {
        DataType::Timestamp(TimeUnit::Millisecond, Some(_)) => {
            let times = column.as_primitive::<TimestampMillisecondType>();
            let mut days = times.iter().flatten().map(|ms| ms.div_euclid(DAY_MS));
            days.any(is_far)
                .then(|| times.iter().map(|ms| ms.map(time)).collect())
        }
        DataType::Date32 => {
            let days = column.as_primitive::<Date32Type>();
            let mut all = days.iter().flatten().map(i64::from);
            all.any(is_far).then(|| {
                let dates = days.iter().map(|day| day.map(|day| date(day.into())));
                dates.collect()
            })
        }
        DataType::List(item) => return text_of_items(column.as_list(), item),
        DataType::Struct(_) => return text_of_fields(column.as_struct()),
        _ => None,
    };
    Ok(text.map(|text: StringArray| Arc::new(text) as ArrayRef))
}

fn text_of_items(lists: &ListArray, item: &FieldRef) -> Result<Option<ArrayRef>> {
    let (first, last) = (lists.offsets()[0], lists.offsets()[lists.len()]);
    // Nothing else is written of a slice.
    let items = lists
        .values()
        .slice(first as usize, (last - first) as usize);
    let Some(items) = text_of(&items)? else {
        return Ok(None);
    };
    let offsets = OffsetBuffer::from_lengths(lists.offsets().lengths());
    let item = of_column(item, &items);
    let lists = ListArray::try_new(item, offsets, items, lists.nulls().cloned())?;
    Ok(Some(Arc::new(lists)))
}

fn text_of_fields(structs: &StructArray) -> Result<Option<ArrayRef>> {
    let text = structs.columns().iter().map(text_of);
    let text: Vec<Option<ArrayRef>> = text.collect::<Result<_>>()?;
    if text.iter().all(Option::is_none) {
        return Ok(None);
    }
    let all = structs.columns().iter().zip(text);
    let columns: Vec<_> = all
        .map(|(column, text)| text.unwrap_or_else(|| Arc::clone(column)))
        .collect();
    let fields = structs.fields().iter().zip(&columns);
    let fields = fields.map(|(field, column)| of_column(field, column));
    let structs = StructArray::try_new(fields.collect(), columns, structs.nulls().cloned())?;
    Ok(Some(Arc::new(structs)))
}

/// Of milliseconds since 1970: `2026-11-29T16:44:00.500Z`.
fn time(ms: i64) -> String {
    let (day, ms) = (date(ms.div_euclid(DAY_MS)), ms.rem_euclid(DAY_MS));
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    match ms % 1_000 {
        0 => format!("{day}T{hour:02}:{minute:02}:{second:02}Z"),
        ms => format!("{day}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z"),
    }
}

/// Of days since 1970, in the Gregorian calendar of all years: a year of more than four digits has a sign.
fn date(days: i64) -> String {
    // Years begin in March, so that the day that is added to some of them is their last; 400 years are 146,097 days.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    match year {
        0..=9_999 => format!("{year:04}-{month:02}-{day:02}"),
        year => format!("{year:+05}-{month:02}-{day:02}"),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Date32Array, TimestampMillisecondArray};
    use datafusion::arrow::compute::cast;
    use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

    use super::*;
    use crate::stream::record::{Date, Millis, batch_of};

    /// As Arrow writes them, where it can.
    #[test]
    fn near_times_are_as_arrow_writes_them() {
        let days = (0..20_000).map(|n| n * 7_919 % 91_000_000 * if n % 2 == 0 { 1 } else { -1 });
        let days: Vec<i32> = days.chain(-800_000..-790_000).collect();
        let dates = cast(&Date32Array::from(days.clone()), &DataType::Utf8).unwrap();
        let times = days
            .iter()
            .map(|day| i64::from(*day) * DAY_MS + i64::from(*day) * 977 % DAY_MS);
        let times: Vec<i64> = times.chain([0, -1, 1_795_970_640_500]).collect();
        let texts = TimestampMillisecondArray::from(times.clone()).with_timezone("+00:00");
        let texts = cast(&texts, &DataType::Utf8).unwrap();
        for (day, wanted) in days.into_iter().zip(dates.as_string::<i32>()) {
            assert_eq!(Some(date(day.into()).as_str()), wanted);
        }
        for (ms, wanted) in times.into_iter().zip(texts.as_string::<i32>()) {
            assert_eq!(Some(time(ms).as_str()), wanted);
        }
    }

    #[test]
    fn far_times_are_text_in_lists_and_structs_too() {
        let far = i64::MAX;
        type Row = (i64, Vec<Vec<(Option<Millis>, Date)>>);
        let rows: [Row; 3] = [
            (1, vec![vec![(Some(Millis(0)), Date(0))], vec![]]),
            (2, vec![vec![(None, Date(1)), (Some(Millis(far)), Date(2))]]),
            (3, vec![]),
        ];
        let rows = batch_of(rows).unwrap();
        let text = |rows: &RecordBatch| {
            let rows = with_far_times_as_text(rows).unwrap();
            let shown = ArrayFormatter::try_new(rows.column(1), &FormatOptions::default());
            let shown = shown.unwrap();
            (0..rows.num_rows())
                .map(|row| shown.value(row).to_string())
                .collect::<Vec<_>>()
        };
        let wanted = [
            "[[{key: 1970-01-01T00:00:00Z, value: 1970-01-01}], []]",
            "[[{key: , value: 1970-01-02}, {key: +292278994-08-17T07:12:55.807Z, value: 1970-01-03}]]",
            "[]",
        ];
        assert_eq!(text(&rows), wanted);
        assert_eq!(text(&rows.slice(1, 2)), wanted[1..]);
        // Without one that is far nothing is copied.
        let near = with_far_times_as_text(&rows.slice(2, 1))
            .unwrap()
            .into_owned();
        assert_eq!(near, rows.slice(2, 1));
    }

    #[test]
    fn far_times_have_their_years() {
        assert_eq!(time(9_404_918_380_800_000), "+300000-01-01T00:00:00Z");
        assert_eq!(time(i64::MAX), "+292278994-08-17T07:12:55.807Z");
        assert_eq!(time(i64::MIN), "-292275055-05-16T16:47:04.192Z");
        assert_eq!(date(i32::MAX.into()), "+5881580-07-11");
    }
}
