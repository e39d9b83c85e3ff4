//! Times and dates of years that Arrow cannot write as text: it writes its error instead, which is not even valid JSON.

use std::borrow::Cow;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Field, Schema, TimeUnit, TimestampMillisecondType,
};

use crate::error::Result;

const DAY_MS: i64 = 86_400_000;
/// Days of 250,000 years: Arrow writes times that are nearer to 1970 than this.
const NEAR_DAYS: i64 = 91_310_000;

/// The rows with text in place of each column that has such a time, in the same form as nearer ones:
/// `+300000-01-01T00:00:00Z`. Lists are as they are.
pub(super) fn with_far_times_as_text(rows: &RecordBatch) -> Result<Cow<'_, RecordBatch>> {
    let text: Vec<Option<ArrayRef>> = rows.columns().iter().map(text_of).collect();
    if text.iter().all(Option::is_none) {
        return Ok(Cow::Borrowed(rows));
    }
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    let schema = rows.schema();
    for ((field, column), text) in schema.fields().iter().zip(rows.columns()).zip(text) {
        let column = text.unwrap_or_else(|| Arc::clone(column));
        fields.push(Field::new(
            field.name(),
            column.data_type().clone(),
            field.is_nullable(),
        ));
        columns.push(column);
    }
    let schema = Arc::new(Schema::new(fields));
    Ok(Cow::Owned(RecordBatch::try_new(schema, columns)?))
}

/// The column as text, if it has a time that is far.
fn text_of(column: &ArrayRef) -> Option<ArrayRef> {
    let is_far = |days: i64| !(-NEAR_DAYS..NEAR_DAYS).contains(&days);
    let text: StringArray = match column.data_type() {
        DataType::Timestamp(TimeUnit::Millisecond, Some(_)) => {
            let times = column.as_primitive::<TimestampMillisecondType>();
            let far = times
                .iter()
                .flatten()
                .any(|ms| is_far(ms.div_euclid(DAY_MS)));
            far.then(|| times.iter().map(|ms| ms.map(time)).collect())?
        }
        DataType::Date32 => {
            let days = column.as_primitive::<Date32Type>();
            let far = days.iter().flatten().any(|day| is_far(day.into()));
            far.then(|| {
                days.iter()
                    .map(|day| day.map(|day| date(day.into())))
                    .collect()
            })?
        }
        _ => return None,
    };
    Some(Arc::new(text))
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

    use super::*;

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
    fn far_times_have_their_years() {
        assert_eq!(time(9_404_918_380_800_000), "+300000-01-01T00:00:00Z");
        assert_eq!(time(i64::MAX), "+292278994-08-17T07:12:55.807Z");
        assert_eq!(time(i64::MIN), "-292275055-05-16T16:47:04.192Z");
        assert_eq!(date(i32::MAX.into()), "+5881580-07-11");
    }
}
