//! Sizes of single records: messages between workers are split between records, so one record must fit into a
//! message.

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::DataType;

use crate::encoding;
use crate::error::{Error, Result};

/// The most bytes of one push. A push of more than the memory budget for records passes alone.
pub const PUSH_BYTES: usize = if cfg!(test) { 8 << 20 } else { 1 << 30 };

/// Refuses a push of `bytes` (with all buffers that the records share) that is larger than a journal entry or any
/// other buffer on its way, and single records of more than `most` bytes.
pub fn check_size(stream: &str, records: &RecordBatch, bytes: usize, most: usize) -> Result<()> {
    if bytes > PUSH_BYTES && encoding::bytes_of(records) > PUSH_BYTES {
        return Err(Error::Schema {
            what: format!("records of one push for stream `{stream}`"),
            expected: format!("{PUSH_BYTES} bytes at most; push them in smaller batches"),
            found: format!("{bytes} bytes"),
        });
    }
    let largest = match bytes > most {
        true => largest_record(records),
        false => 0,
    };
    match largest > most {
        true => Err(Error::TooLarge {
            stream: stream.to_owned(),
            bytes: largest,
            most,
        }),
        false => Ok(()),
    }
}

/// Bytes of the values of the largest record, without what its columns share with others.
pub fn largest_record(records: &RecordBatch) -> usize {
    let record = |row| {
        let columns = records.columns().iter();
        columns.map(|column| bytes_of(&*column.slice(row, 1))).sum()
    };
    (0..records.num_rows()).map(record).max().unwrap_or(0)
}

fn bytes_of(values: &dyn Array) -> usize {
    match values.data_type() {
        // Views point into shared buffers.
        DataType::Utf8View => {
            let texts = values.as_string_view().iter().flatten();
            texts.map(str::len).sum()
        }
        DataType::BinaryView => {
            let bytes = values.as_binary_view().iter().flatten();
            bytes.map(<[u8]>::len).sum()
        }
        DataType::List(_) => {
            let lists = values.as_list::<i32>().iter().flatten();
            lists.map(|list| bytes_of(&*list)).sum()
        }
        DataType::LargeList(_) => {
            let lists = values.as_list::<i64>().iter().flatten();
            lists.map(|list| bytes_of(&*list)).sum()
        }
        DataType::Struct(_) => {
            let columns = values.as_struct().columns().iter();
            columns.map(|column| bytes_of(&**column)).sum()
        }
        _ => values.to_data().get_slice_memory_size().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use dstreams_control::ReceiverId;

    use super::*;
    use crate::blocks::Budget;
    use crate::config::Config;
    use crate::error::Error;
    use crate::receive::{DeadLetters, Intake};
    use crate::record::batch_of;
    use crate::stream::record::Record;

    #[test]
    fn the_largest_record_is_measured_without_shared_buffers() {
        let text = |length: usize| "x".repeat(length);
        let rows = [(1i64, text(10)), (2, text(5000)), (3, text(300))];
        let records = batch_of::<(i64, String)>(rows).unwrap();
        let largest = largest_record(&records);
        assert!((5000..5100).contains(&largest), "{largest}");
        let last = largest_record(&records.slice(2, 1));
        assert!((300..400).contains(&last), "{last}");
        assert_eq!(largest_record(&records.slice(0, 0)), 0);

        let lists = [vec![text(100); 3], vec![text(7000), text(50)], vec![]];
        let records = batch_of::<Vec<String>>(lists).unwrap();
        let largest = largest_record(&records);
        assert!((7050..7200).contains(&largest), "{largest}");
        assert!(largest_record(&records.slice(0, 1)) < 500);
    }

    #[tokio::test]
    async fn a_record_too_large_is_refused_and_small_ones_of_a_large_batch_are_not() {
        let config = Config::new(std::time::Duration::from_secs(1));
        let budget = Budget::new(1 << 20);
        let schema = <String as Record>::schema();
        let (receiver, dead) = (ReceiverId(1), DeadLetters::default());
        let intake = Intake::new(receiver, "lines", schema, &config, budget.clone(), dead);
        let intake = intake.with_record_bytes(1000);
        let push = async |lengths: &[usize]| {
            let lines = lengths.iter().map(|length| "x".repeat(*length));
            intake.push(batch_of::<String>(lines).unwrap()).await
        };
        push(&[900; 20]).await.unwrap();
        let used = budget.used();
        let error = push(&[10, 1001, 20]).await.unwrap_err();
        assert!(
            matches!(
                error,
                Error::TooLarge {
                    bytes: 1001,
                    most: 1000,
                    ..
                }
            ),
            "{error:?}"
        );
        let said = error.to_string();
        assert!(
            said.contains("`lines`") && said.contains("cut it"),
            "{said}"
        );
        assert_eq!(budget.used(), used, "it holds nothing");
        push(&[1000]).await.unwrap();
    }
}
