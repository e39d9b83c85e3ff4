//! Routing: the partition of a key, by a hash of our own choice, which must never change.
//!
//! A key's shard is `xxh3_64` of its canonical bytes, scaled to the number of shards: the bytes of a string or of
//! binary data; the little-endian bytes of an integer, a date or a time, widened to 64 bits; the 16 little-endian
//! bytes of a decimal number without its point; one byte of a `bool`; one byte 0xFF for null. Each further column is hashed with the previous hash as its seed, the first with 0. A partition is a run of shards.
//! DataFusion's own hash changes with versions and differs between encodings of the same string, so it is not
//! used. Values of other types, which occur in exchanges of queries, are hashed in Arrow's row format.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{cast, take_record_batch};
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Int64Type, UInt64Type};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::physical_plan::PhysicalExpr;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::Result;

// I10 (ARCHITECTURE.md): this number and `hash_column` decide where persisted state belongs.
/// The number of hash ranges of keys.
pub const SHARDS: usize = 128;

/// The bytes of a null.
const NULL: &[u8] = &[0xFF];

/// Splits `rows` by their keys and appends them to `parts`, preserving their order.
pub fn split_by_route(
    rows: &RecordBatch,
    keys: &[Arc<dyn PhysicalExpr>],
    parts: &mut [Vec<RecordBatch>],
) -> Result<()> {
    let mut hashes = vec![0u64; rows.num_rows()];
    for key in keys {
        let column = key.evaluate(rows)?.into_array(rows.num_rows())?;
        hash_column(&column, &mut hashes)?;
    }
    let mut picks: Vec<Vec<u32>> = vec![Vec::new(); parts.len()];
    for (row, hash) in hashes.iter().enumerate() {
        picks[partition_of(shard_of(*hash), parts.len())].push(row as u32);
    }
    for (part, picks) in parts.iter_mut().zip(picks) {
        if picks.len() == rows.num_rows() {
            part.push(rows.clone());
        } else if !picks.is_empty() {
            part.push(take_record_batch(rows, &UInt32Array::from(picks))?);
        }
    }
    Ok(())
}

/// Cuts the rows of a task into `parts` runs of equal length, without copying them. The first run of the next task is
/// in the next part, so that few rows of many tasks are spread too.
pub fn deal(rows: Vec<RecordBatch>, task: usize, parts: usize) -> Vec<Vec<RecordBatch>> {
    let total: usize = rows.iter().map(RecordBatch::num_rows).sum();
    let mut output = vec![Vec::new(); parts];
    let (mut run, mut done) = (0, 0);
    for batch in rows {
        let mut from = 0;
        while from < batch.num_rows() {
            let end = (run + 1) * total / parts;
            if done == end {
                run += 1;
                continue;
            }
            let length = (end - done).min(batch.num_rows() - from);
            output[(task + run) % parts].push(batch.slice(from, length));
            from += length;
            done += length;
        }
    }
    output
}

fn shard_of(hash: u64) -> usize {
    ((u128::from(hash) * SHARDS as u128) >> 64) as usize
}

fn partition_of(shard: usize, parts: usize) -> usize {
    shard * parts.min(SHARDS) / SHARDS
}

/// Hashes each value with the previous hash as its seed.
fn hash_column(column: &ArrayRef, hashes: &mut [u64]) -> Result<()> {
    match column.data_type() {
        DataType::Utf8View => {
            let texts = column.as_string_view();
            for (row, hash) in hashes.iter_mut().enumerate() {
                let bytes = match texts.is_null(row) {
                    true => NULL,
                    false => texts.value(row).as_bytes(),
                };
                *hash = xxh3_64_with_seed(bytes, *hash);
            }
        }
        DataType::Utf8 | DataType::LargeUtf8 => {
            return hash_column(&cast(column, &DataType::Utf8View)?, hashes);
        }
        DataType::BinaryView => {
            let values = column.as_binary_view();
            for (row, hash) in hashes.iter_mut().enumerate() {
                let bytes = match values.is_null(row) {
                    true => NULL,
                    false => values.value(row),
                };
                *hash = xxh3_64_with_seed(bytes, *hash);
            }
        }
        DataType::FixedSizeBinary(_) => {
            let values = column.as_fixed_size_binary();
            for (row, hash) in hashes.iter_mut().enumerate() {
                let bytes = match values.is_null(row) {
                    true => NULL,
                    false => values.value(row),
                };
                *hash = xxh3_64_with_seed(bytes, *hash);
            }
        }
        DataType::Decimal128(..) => {
            let values = column.as_primitive::<Decimal128Type>().values();
            hash_words(values.iter().map(|v| v.to_le_bytes()), column, hashes);
        }
        DataType::Boolean => {
            let values = column.as_boolean();
            for (row, hash) in hashes.iter_mut().enumerate() {
                let bytes: &[u8] = match values.is_null(row) {
                    true => NULL,
                    false => &[u8::from(values.value(row))],
                };
                *hash = xxh3_64_with_seed(bytes, *hash);
            }
        }
        DataType::UInt64 => {
            let values = column.as_primitive::<UInt64Type>();
            hash_words(
                values.values().iter().map(|v| v.to_le_bytes()),
                column,
                hashes,
            );
        }
        kind if kind.is_integer() || kind.is_temporal() => {
            let values = cast(column, &DataType::Int64)?;
            let words = values.as_primitive::<Int64Type>().values();
            hash_words(words.iter().map(|v| v.to_le_bytes()), &values, hashes);
        }
        kind if kind.is_floating() => {
            let values = cast(column, &DataType::Float64)?;
            let words = values.as_primitive::<datafusion::arrow::datatypes::Float64Type>();
            // One form each for zero and NaN.
            let canonical = |v: &f64| match v {
                v if *v == 0.0 => 0f64,
                v if v.is_nan() => f64::NAN,
                v => *v,
            };
            let words = words.values().iter().map(|v| canonical(v).to_le_bytes());
            hash_words(words, &values, hashes);
        }
        kind => {
            // Only exchanges of queries have these; nothing persisted is split by them.
            let converter = RowConverter::new(vec![SortField::new(kind.clone())])?;
            let rows = converter.convert_columns(std::slice::from_ref(column))?;
            for (hash, row) in hashes.iter_mut().zip(&rows) {
                *hash = xxh3_64_with_seed(row.as_ref(), *hash);
            }
        }
    }
    Ok(())
}

fn hash_words<const N: usize>(
    words: impl Iterator<Item = [u8; N]>,
    column: &ArrayRef,
    hashes: &mut [u64],
) {
    for ((row, hash), word) in hashes.iter_mut().enumerate().zip(words) {
        let bytes = if column.is_null(row) { NULL } else { &word[..] };
        *hash = xxh3_64_with_seed(bytes, *hash);
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int32Array, Int64Array, StringArray, StringViewArray};

    use super::*;
    use crate::record::{Record, batch_of};
    use crate::{Bytes, Date, Decimal, Millis, Uuid};

    fn shards(column: ArrayRef) -> Vec<usize> {
        let mut hashes = vec![0; column.len()];
        hash_column(&column, &mut hashes).unwrap();
        hashes.into_iter().map(shard_of).collect()
    }

    /// State is persisted by shard: these must never change.
    #[test]
    fn test_vectors() {
        let texts = [
            "",
            "a",
            "to be",
            "a text that is longer than twelve bytes",
            "ä",
        ];
        let views: ArrayRef = Arc::new(StringViewArray::from(texts.to_vec()));
        let plain: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        assert_eq!(shards(views), TEXT_SHARDS);
        assert_eq!(shards(plain), TEXT_SHARDS);
        let wide: ArrayRef = Arc::new(Int64Array::from(vec![Some(0), Some(1), Some(-1), None]));
        let narrow: ArrayRef = Arc::new(Int32Array::from(vec![Some(0), Some(1), Some(-1), None]));
        assert_eq!(shards(wide), NUMBER_SHARDS);
        assert_eq!(shards(narrow), NUMBER_SHARDS);
    }

    #[test]
    fn test_vectors_of_other_types() {
        let texts = [
            "",
            "a",
            "to be",
            "a text that is longer than twelve bytes",
            "ä",
        ];
        let bytes = texts.map(|text| Bytes(text.as_bytes().to_vec()));
        assert_eq!(shards(column(bytes.to_vec())), TEXT_SHARDS);
        let numbers = [Some(0), Some(1), Some(-1), None];
        let dates = numbers.map(|n| n.map(|n| Date(n as i32)));
        assert_eq!(shards(column(dates.to_vec())), NUMBER_SHARDS);
        let times = numbers.map(|n| n.map(Millis));
        assert_eq!(shards(column(times.to_vec())), NUMBER_SHARDS);
        let decimals = numbers.map(|n| n.map(|n| Decimal::<12, 2>(n.into())));
        assert_eq!(shards(column(decimals.to_vec())), DECIMAL_SHARDS);
        let ids = [Some(Uuid([0; 16])), Some(Uuid(*b"0123456789abcdef")), None];
        assert_eq!(shards(column(ids.to_vec())), UUID_SHARDS);
    }

    fn column<T: Record>(of: Vec<T>) -> ArrayRef {
        Arc::clone(batch_of(of).unwrap().column(0))
    }

    // Computed by another implementation of the hash (the Python package xxhash).
    const DECIMAL_SHARDS: [usize; 4] = [104, 19, 57, 107];
    const UUID_SHARDS: [usize; 3] = [104, 50, 107];
    const TEXT_SHARDS: [usize; 5] = [22, 115, 33, 42, 42];
    const NUMBER_SHARDS: [usize; 4] = [99, 23, 40, 107];

    #[test]
    fn a_second_column_is_hashed_with_the_first_as_its_seed() {
        let text: ArrayRef = Arc::new(StringViewArray::from(vec!["a"]));
        let number: ArrayRef = Arc::new(Int64Array::from(vec![7]));
        let mut hashes = vec![0];
        hash_column(&text, &mut hashes).unwrap();
        hash_column(&number, &mut hashes).unwrap();
        assert_eq!(shard_of(hashes[0]), 89);
    }

    #[test]
    fn partitions_are_runs_of_shards() {
        for parts in 1..=SHARDS {
            let of: Vec<_> = (0..SHARDS)
                .map(|shard| partition_of(shard, parts))
                .collect();
            assert!(of.is_sorted());
            assert_eq!(of[SHARDS - 1], parts - 1);
        }
    }
}
