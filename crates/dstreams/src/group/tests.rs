//! The table beside a naive one: rows as text, in a list.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, BooleanArray, FixedSizeBinaryBuilder, Float64Array,
    Int32Array, Int64Array, RecordBatch, StringViewArray, TimestampMillisecondArray, UInt8Array,
};
use datafusion::arrow::datatypes::{Decimal128Type, Field, Int64Type, Schema};
use datafusion::arrow::util::display::array_value_to_string;
use proptest::prelude::*;

use super::KeyTable;
use super::index::{KeyIndex, KeyRows};

/// Kinds of columns; the nullable ones follow the others.
const KINDS: usize = 20;

/// A column of small numbers, as values of a kind: texts of all lengths around those that a view contains.
fn column(kind: usize, numbers: &[u8]) -> ArrayRef {
    let is_nullable = kind >= KINDS / 2;
    let some = |n: u8| !is_nullable || !n.is_multiple_of(5);
    let all = || numbers.iter().map(move |n| some(*n).then_some(*n));
    let texts = || {
        all().map(|n| {
            n.map(|n| {
                format!(
                    "{}{n}",
                    "a common beginning"[..usize::from(n) % 17].to_owned()
                )
            })
        })
    };
    match kind % (KINDS / 2) {
        0 => Arc::new(texts().collect::<StringViewArray>()),
        1 => Arc::new(
            all()
                .map(|n| n.map(|n| i64::from(n) - 100))
                .collect::<Int64Array>(),
        ),
        2 => Arc::new(
            all()
                .map(|n| n.map(|n| i32::from(n) << 20))
                .collect::<Int32Array>(),
        ),
        3 => Arc::new(all().collect::<UInt8Array>()),
        4 => Arc::new(
            all()
                .map(|n| n.map(|n| n % 2 == 0))
                .collect::<BooleanArray>(),
        ),
        5 => {
            let times = all().map(|n| n.map(|n| i64::from(n) * 1_000));
            Arc::new(times.collect::<TimestampMillisecondArray>())
        }
        6 => {
            let texts: Vec<_> = texts().collect();
            let bytes = texts.iter().map(|text| text.as_ref().map(String::as_bytes));
            Arc::new(bytes.collect::<BinaryViewArray>())
        }
        7 => {
            let mut ids = FixedSizeBinaryBuilder::new(16);
            for n in all() {
                match n {
                    Some(n) => ids.append_value([n; 16]).unwrap(),
                    None => ids.append_null(),
                }
            }
            Arc::new(ids.finish())
        }
        8 => {
            let wide = all().map(|n| n.map(|n| (i128::from(n) - 100) << 80));
            Arc::new(wide.collect::<datafusion::arrow::array::PrimitiveArray<Decimal128Type>>())
        }
        _ => Arc::new(all().map(|n| n.map(f64::from)).collect::<Float64Array>()),
    }
}

fn schema(kinds: &[usize]) -> Arc<Schema> {
    let fields = kinds.iter().enumerate().map(|(at, kind)| {
        let name = format!("column{at}");
        Field::new(
            name,
            column(*kind, &[]).data_type().clone(),
            *kind >= KINDS / 2,
        )
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The keys of rows as text, and nothing for null.
fn texts(columns: &[ArrayRef]) -> Vec<Vec<Option<String>>> {
    let value = |column: &ArrayRef, row| {
        let text = || array_value_to_string(column, row).unwrap();
        column.is_valid(row).then(text)
    };
    let rows = 0..columns[0].len();
    rows.map(|row| columns.iter().map(|column| value(column, row)).collect())
        .collect()
}

proptest! {
    /// Numbers and sums of random keys of one to three columns, in random batches that are cut out of larger ones.
    #[test]
    fn keys_are_numbered_and_summed_as_in_a_list(
        kinds in proptest::collection::vec(0..KINDS, 1..4),
        batches in proptest::collection::vec(proptest::collection::vec(any::<[u8; 3]>(), 0..700), 1..5),
        few in 1u8..=255,
        skip in 0usize..4,
    ) {
        let schema = schema(&kinds);
        let (mut numbered, mut summed) = (KeyTable::new(&schema).unwrap(), KeyTable::new(&schema).unwrap());
        let (mut known, mut order, mut sums) = (HashMap::new(), Vec::new(), Vec::new());
        let mut numbers = Vec::new();
        for rows in &batches {
            let columns: Vec<_> = kinds.iter().enumerate().map(|(at, kind)| {
                let values: Vec<u8> = rows.iter().map(|row| row[at] % few).collect();
                let skip = skip.min(rows.len());
                column(*kind, &values).slice(skip, rows.len() - skip)
            }).collect();
            numbered.number(&columns, &mut numbers).unwrap();
            prop_assert_eq!(numbers.len(), columns[0].len());
            let values: Vec<i64> = (0..numbers.len() as i64).map(|row| row * row - 7).collect();
            summed.add(&columns, |row| values[row]).unwrap();
            for ((key, number), value) in texts(&columns).into_iter().zip(&numbers).zip(values) {
                let next = known.len();
                let expected = *known.entry(key.clone()).or_insert(next);
                if expected == next {
                    order.push((key, *number));
                    sums.push(0);
                }
                sums[expected] += value;
                // DataFusion may number keys of one batch in another order.
                let (_, first) = &order[expected];
                prop_assert_eq!(number, first);
                prop_assert!(!summed.has_sums() || *number == expected);
            }
        }
        prop_assert_eq!(numbered.len(), known.len());
        let keys = numbered.take().unwrap();
        prop_assert_eq!(numbered.len(), 0);
        RecordBatch::try_new(Arc::clone(&schema), keys.clone()).unwrap();
        let keys = texts(&keys);
        for (key, number) in order {
            prop_assert_eq!(&keys[number], &key);
        }
        if summed.has_sums() {
            prop_assert_eq!(summed.take_sums(), sums);
            prop_assert_eq!(texts(&summed.take().unwrap()), keys);
        }
    }
}

/// Keys with three hashes in all. The index compares their lower halves.
struct Colliding {
    rows: Vec<u64>,
    known: Vec<u64>,
    halves: Vec<u32>,
}

impl KeyRows for Colliding {
    type Key = u32;
    fn key(&self, row: usize) -> u32 {
        self.rows[row] as u32
    }
    fn known(&self) -> &[u32] {
        &self.halves
    }
    fn hash(key: u32) -> u32 {
        // These hashes lead to the last slots, so that probing wraps around to the first.
        u32::MAX - key % 3
    }
    fn is_whole(key: u32) -> bool {
        key.is_multiple_of(2)
    }
    fn is_equal(&self, number: u32, row: usize) -> bool {
        self.known[number as usize] == self.rows[row]
    }
    fn push(&mut self, key: u32, row: usize) {
        self.halves.push(key);
        self.known.push(self.rows[row]);
    }
}

#[test]
fn keys_with_equal_hashes_and_halves_are_told_apart() {
    // Odd ones also with a different upper half.
    let rows = (0..3_000u64).map(|n| (n % 900) | (n % 900 % 2 * (n % 7)) << 32);
    let mut keys = Colliding {
        rows: rows.collect(),
        known: Vec::new(),
        halves: Vec::new(),
    };
    let (mut index, mut numbers) = (KeyIndex::with_room(0), vec![0; keys.rows.len()]);
    let count = keys.rows.len();
    for _ in 0..2 {
        index.number(&mut keys, &mut numbers).unwrap();
        index.add(&mut keys, count, |_| 1).unwrap();
        for (row, number) in numbers.iter().enumerate() {
            assert_eq!(keys.known[*number], keys.rows[row]);
        }
    }
    let mut distinct = keys.rows.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(keys.known.len(), distinct.len());
    assert_eq!(index.take_sums().iter().sum::<i64>(), 2 * count as i64);
}

#[test]
fn sums_wrap_around() {
    let schema = schema(&[1]);
    let mut table = KeyTable::new(&schema).unwrap();
    let keys: ArrayRef = Arc::new(Int64Array::from(vec![7, 7]));
    table.add(&[keys], |row| [i64::MAX, 1][row]).unwrap();
    assert_eq!(table.take_sums(), [i64::MIN]);
    let keys = table.take().unwrap();
    assert_eq!(keys[0].as_primitive::<Int64Type>().values(), &[7]);
}

/// Hashes of keys that differ in few bits are spread: neighbours in either half, and multiples.
#[test]
fn hashes_are_spread() {
    let keys: [fn(u128) -> u128; 6] = [
        |n| n,
        |n| n * 8,
        |n| n << 64,
        |n| n << 40,
        |n| n << 100 | n,
        |n| (n % 128) | ((n / 128) << 64),
    ];
    for of in keys {
        let mut slots = vec![0u32; 1 << 12];
        for n in 0..1 << 14 {
            slots[super::index::hash_of(of(n)) as usize % (1 << 12)] += 1;
        }
        let most = slots.iter().max().copied().unwrap_or(0);
        let vacant = slots.iter().filter(|count| **count == 0).count();
        // Four each on average: at random, 18 at most and 75 vacant ones.
        assert!(most < 24 && vacant < 150, "{most} at most, {vacant} vacant");
    }
}
