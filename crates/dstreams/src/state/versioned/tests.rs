//! A partition compared with a naive model, under any sequence of operations.

mod checkpoints;
mod costs;
mod formats;
mod model;
mod rows;
mod times;

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Float64Array, RecordBatch, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use dstreams_control::BatchTime;

use self::rows::{Kind, bits};
use super::*;
use crate::error::Error;

fn times(from: impl IntoIterator<Item = u64>) -> Vec<BatchTime> {
    from.into_iter().map(BatchTime).collect()
}

/// A delta of numbered keys with numbered values.
fn delta(kind: Kind, batch: u64, rows: &[(u16, u32)], deleted: &[u16]) -> Delta {
    let changed: Vec<_> = rows.iter().map(|(key, value)| (*key, *value)).collect();
    let rows = kind.batch(&changed);
    Delta::new(
        &kind.shape(),
        BatchTime(batch),
        &rows,
        None,
        &kind.keys(deleted),
    )
    .unwrap()
}

#[test]
fn a_gap_is_refused_if_the_delta_names_its_base_version() {
    let kind = Kind::Number;
    let mut state = KeyedPartition::new(kind.shape());
    let first = delta(kind, 100, &[(1, 1)], &[]).on(BatchTime(50));
    let error = state.install(&first).unwrap_err();
    assert!(matches!(error, Error::Gap { version: None, .. }), "{error}");
    assert!(state.install(&delta(kind, 100, &[(1, 1)], &[])).unwrap());
    let gap = delta(kind, 300, &[(1, 3)], &[]).on(BatchTime(200));
    let error = state.install(&gap).unwrap_err();
    let (on, version) = (Some(BatchTime(200)), Some(BatchTime(100)));
    assert!(
        matches!(error, Error::Gap { batch: BatchTime(300), on: o, version: v } if (o, v) == (on, version)),
        "{error}"
    );
    assert_eq!(state.version(), version);
    assert_eq!(
        state.read(BatchTime(100)).unwrap(),
        delta(kind, 100, &[(1, 1)], &[]).rows().unwrap()
    );
    assert!(
        state
            .install(&delta(kind, 200, &[], &[]).on(BatchTime(100)))
            .unwrap()
    );
    assert!(state.install(&gap).unwrap());
    assert!(!state.install(&gap).unwrap(), "again");
    let whole = state.snapshot(BatchTime(300)).unwrap();
    let mut other = KeyedPartition::new(kind.shape());
    other.install(&delta(kind, 100, &[], &[])).unwrap();
    assert!(matches!(
        other.install(&whole).unwrap_err(),
        Error::Gap { on: None, .. }
    ));
}

#[test]
fn it_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<KeyedPartition>();
    shared::<Delta>();
    shared::<LookedUpRows<'_>>();
}

#[test]
fn a_duplicate_key_is_refused_by_name() {
    let kind = Kind::Text;
    let shape = kind.shape();
    let twice = |rows: &[(u16, u32)], deleted: &[u16]| {
        Delta::new(
            &shape,
            BatchTime(7),
            &kind.batch(rows),
            None,
            &kind.keys(deleted),
        )
    };
    for (rows, deleted) in [
        (&[(6, 1), (1, 1), (6, 2)][..], &[][..]),
        (&[(6, 1)], &[6]),
        (&[], &[6, 1, 6]),
    ] {
        let error = twice(rows, deleted).unwrap_err();
        assert!(
            matches!(&error, Error::Duplicate { batch: BatchTime(7), key } if key == "k6"),
            "{error}"
        );
    }
    twice(&[(6, 1), (1, 1)], &[2]).unwrap();
}

#[test]
fn columns_of_another_state_are_refused() {
    let (kind, other) = (Kind::Text, Kind::Number);
    let shape = kind.shape();
    let batch = BatchTime(7);
    let schema = |result: crate::Result<Delta>| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Schema { .. }), "{error}");
    };
    schema(Delta::new(
        &shape,
        batch,
        &other.batch(&[(1, 1)]),
        None,
        &[],
    ));
    schema(Delta::new(
        &shape,
        batch,
        &kind.batch(&[]),
        None,
        &other.keys(&[1]),
    ));
    for last in [vec![Some(8)], vec![None], vec![], vec![Some(1), Some(2)]] {
        let last = UInt64Array::from(last);
        schema(Delta::new(
            &shape,
            batch,
            &kind.batch(&[(1, 1)]),
            Some(&last),
            &[],
        ));
    }
    let mut state = KeyedPartition::new(shape);
    state.install(&delta(other, 7, &[(1, 1)], &[])).unwrap_err();
    assert!(state.latest(&other.keys(&[1])).is_err());
    assert_eq!(state.version(), None);
    assert!(Shape::new(Arc::clone(kind.shape().schema()), 0).is_err());
    assert!(Shape::new(Arc::clone(kind.shape().schema()), 9).is_err());
}

#[test]
fn released_and_unknown_versions_are_errors() {
    let kind = Kind::Number;
    let mut state = KeyedPartition::new(kind.shape());
    assert!(state.read(BatchTime(0)).is_err());
    assert_eq!(state.latest(&kind.keys(&[1, 2])).unwrap().existing(), 0);
    assert!(!state.compact(BatchTime(10), 10).unwrap());
    assert_eq!(state.low(), None);
    for batch in [100, 200, 300, 400] {
        state
            .install(&delta(kind, batch, &[(1, batch as u32)], &[]))
            .unwrap();
    }
    for version in times([0, 99, 100, 150, 400]) {
        state.read(version).unwrap();
    }
    assert!(state.read(BatchTime(99)).unwrap().is_empty());
    state.compact(BatchTime(250), 0).unwrap();
    for version in times([0, 100, 249, 401]) {
        let error = state.read(version).unwrap_err();
        let (oldest, newest) = (Some(BatchTime(250)), Some(BatchTime(400)));
        assert!(
            matches!(error, Error::Version { asked, oldest: o, newest: n } if (asked, o, n) == (version, oldest, newest)),
            "{error}"
        );
        assert!(state.latest_at(&kind.keys(&[1]), version).is_err());
        assert!(state.snapshot(version).is_err());
        assert!(state.changes(version).is_err());
    }
    assert!(state.changes(BatchTime(250)).is_err());
    assert_eq!(state.changes(BatchTime(300)).unwrap().len(), (1, 0));
    // Never back, and never beyond the newest.
    state.compact(BatchTime(200), 0).unwrap();
    assert_eq!(state.low(), Some(BatchTime(250)));
    state.compact(BatchTime(u64::MAX), 0).unwrap();
    assert_eq!(state.low(), Some(BatchTime(400)));
}

/// Keys are equal if DataFusion's grouping treats them as one.
#[test]
fn keys_are_equal_as_in_grouping() {
    for kind in Kind::ALL {
        let all: Vec<u16> = (0..80).collect();
        let groups = kind.groups(&all);
        let shape = kind.shape();
        let keys = shape.keys(&kind.keys(&all)).unwrap();
        for one in 0..all.len() {
            for other in 0..all.len() {
                let same = groups[one] == groups[other];
                assert_eq!(
                    keys.equal(one, &keys, other),
                    same,
                    "{kind:?} {one} {other}"
                );
                assert!(
                    !same || keys.hash(one) == keys.hash(other),
                    "{kind:?} {one} {other}"
                );
            }
        }
        // And they decode to the key they are equal to.
        let back = shape.key_columns(&keys).unwrap();
        let schema = shape.key_schema();
        RecordBatch::try_new(Arc::clone(schema), back.clone()).unwrap();
        let again = shape.keys(&back).unwrap();
        assert!(
            (0..all.len()).all(|row| keys.equal(row, &again, row)),
            "{kind:?}"
        );
    }
}

#[test]
fn signed_zeros_are_one_key_and_nans_compare_bitwise() {
    let kind = Kind::Float;
    let other = f64::from_bits(f64::NAN.to_bits() ^ 1);
    let keys =
        |keys: [f64; 2]| -> Vec<ArrayRef> { vec![Arc::new(Float64Array::from(keys.to_vec()))] };
    let mut state = KeyedPartition::new(kind.shape());
    let columns = [
        keys([-0.0, f64::NAN]),
        kind.batch(&[(9, 1), (9, 2)]).columns()[1..].to_vec(),
    ]
    .concat();
    let rows = RecordBatch::try_new(Arc::clone(kind.shape().schema()), columns).unwrap();
    state
        .install(&Delta::new(&kind.shape(), BatchTime(1), &rows, None, &[]).unwrap())
        .unwrap();
    let there = |of: [f64; 2]| {
        let keys = keys(of);
        let found = state.latest(&keys).unwrap();
        [found.exists(0), found.exists(1)]
    };
    assert_eq!(there([0.0, f64::NAN]), [true, true]);
    assert_eq!(there([-0.0, other]), [true, false]);
    // The stored key has no sign.
    let read = state.read(BatchTime(1)).unwrap();
    let expected = keys([0.0, f64::NAN]);
    assert_eq!(
        bits(&[read[0].project(&[0]).unwrap()]),
        bits(&[RecordBatch::try_from_iter([("key", expected[0].clone())]).unwrap()])
    );
}

#[test]
fn strings_do_not_retain_their_source_buffers() {
    let kind = Kind::Text;
    let shape = kind.shape();
    let all: Vec<(u16, u32)> = (0..5_000).map(|key| (key, u32::from(key))).collect();
    let rows = kind.batch(&all).slice(102, 6);
    let mut state = KeyedPartition::new(shape.clone());
    let delta = Delta::new(&shape, BatchTime(1), &rows, None, &[]).unwrap();
    state.install(&delta).unwrap();
    let bytes: usize = state
        .read(BatchTime(1))
        .unwrap()
        .iter()
        .map(RecordBatch::get_array_memory_size)
        .sum();
    assert!(bytes < 4_000, "{bytes}");
    assert!(rows.get_array_memory_size() > 100_000);
    // Nor does a slice of a plain column.
    let numbers = Kind::Number.batch(&all).slice(102, 6);
    let delta = Delta::new(&Kind::Number.shape(), BatchTime(1), &numbers, None, &[]).unwrap();
    let bytes: usize = delta
        .rows()
        .unwrap()
        .iter()
        .map(RecordBatch::get_array_memory_size)
        .sum();
    assert!(bytes < 2_000, "{bytes}");
}

#[test]
fn columns_without_an_encoding_are_refused() {
    let dictionary = DataType::Dictionary(Box::new(DataType::Int16), Box::new(DataType::Utf8));
    let item = Arc::new(Field::new("item", dictionary.clone(), true));
    let plain = Field::new("plain", DataType::Int64, true);
    for kind in [dictionary, DataType::List(item)] {
        let field = Field::new("field", kind, true);
        for fields in [vec![field.clone()], vec![plain.clone(), field.clone()]] {
            let error = Shape::new(Arc::new(Schema::new(fields)), 1).unwrap_err();
            assert!(error.to_string().contains("Dictionary"), "{error}");
        }
    }
}
