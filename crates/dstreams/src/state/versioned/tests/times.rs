//! Rows with first events and timers: when they are due, and their bytes, in format 2.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use dstreams_control::BatchTime;

use super::rows::{Kind, bits};
use crate::state::versioned::transfer::{DELTA, DELTA_2};
use crate::state::versioned::{Delta, DueRule, EventTimes, KeyTimes, KeyedPartition, Shape};
use crate::stream::lifetime::Lifetime;

const KIND: Kind = Kind::TextAndNumber;
const LIFETIME: Lifetime = Lifetime {
    timeout_ms: Some(300),
    live_ms: Some(500),
};
const NEVER: u64 = u64::MAX;

fn shape(lifetime: Lifetime, timers: bool) -> Arc<Shape> {
    let columns = KIND.shape();
    let (schema, keys) = (columns.schema(), columns.key_columns_len());
    let due = DueRule::Keys { lifetime, timers };
    Shape::of_state(Arc::clone(schema), keys, &[], due).unwrap()
}

/// Keys with first event, last event and timer.
type Row = (u16, u64, u64, u64);

fn delta(shape: &Arc<Shape>, batch: u64, rows: &[Row], deleted: &[u16]) -> Delta {
    let values: Vec<_> = rows
        .iter()
        .map(|row| (row.0, u32::from(row.0) + 3))
        .collect();
    let times = EventTimes {
        first: Some(rows.iter().map(|row| row.1).collect()),
        last: Some(rows.iter().map(|row| row.2).collect()),
        timer: Some(rows.iter().map(|row| row.3).collect()),
    };
    let (rows, deleted) = (KIND.batch(&values), KIND.keys(deleted));
    Delta::of_events(shape, BatchTime(batch), &rows, times, &deleted).unwrap()
}

/// Versions 300 to 500.
fn example(shape: &Arc<Shape>) -> KeyedPartition {
    let mut state = KeyedPartition::new(Arc::clone(shape));
    let rows: Vec<Row> = (0..9).map(|key| (key, 100, 100, NEVER)).collect();
    state.install(&delta(shape, 100, &rows, &[])).unwrap();
    let rows = [(3, 100, 200, 350), (4, 100, 100, 333), (5, 100, 200, NEVER)];
    state.install(&delta(shape, 300, &rows, &[1, 2])).unwrap();
    state.compact(BatchTime(300), 1_000).unwrap();
    let rows = [(6, 400, 400, NEVER), (7, 100, 400, 390), (8, 100, 400, 800)];
    state.install(&delta(shape, 400, &rows, &[4, 40])).unwrap();
    state.install(&delta(shape, 500, &[], &[])).unwrap();
    state
}

/// Key and times of the rows that are due, in order.
fn due(state: &KeyedPartition, until: u64) -> Vec<(u16, KeyTimes)> {
    let due = state.due_rows(BatchTime(until)).unwrap();
    let keys: Vec<Vec<u8>> = due.rows.iter().flat_map(of_keys).collect();
    let number = |of: &Vec<u8>| (0..50).find(|key| *of == of_keys(&KIND.batch(&[(*key, 0)]))[0]);
    let keys = keys.iter().map(|key| number(key).unwrap());
    keys.zip(due.times).collect()
}

/// Each key as bytes.
fn of_keys(rows: &RecordBatch) -> Vec<Vec<u8>> {
    let keys = rows.project(&[0, 1]).unwrap();
    let rows = (0..keys.num_rows()).map(|row| bits(&[keys.slice(row, 1)]));
    rows.map(|row| row.concat()).collect()
}

fn due_keys(state: &KeyedPartition, until: u64) -> Vec<u16> {
    due(state, until).into_iter().map(|(key, _)| key).collect()
}

#[test]
fn rows_are_due_by_the_earliest_of_their_times() {
    let state = example(&shape(LIFETIME, true));
    assert_eq!(state.due(), Some(BatchTime(350)));
    assert!(due_keys(&state, 349).is_empty());
    // By timer, then by last event, then by first event; at the same time by the last change.
    assert_eq!(due_keys(&state, 400), [3, 7, 0]);
    assert_eq!(due_keys(&state, 600), [3, 7, 0, 5, 8]);
    assert_eq!(due_keys(&state, 700), [3, 7, 0, 5, 8, 6]);
    let times = |first: u64, last: u64, timer: u64| KeyTimes {
        first: BatchTime(first),
        last: BatchTime(last),
        timer: BatchTime(timer),
    };
    assert_eq!(due(&state, 350), [(3, times(100, 200, 350))]);
    assert_eq!(due(&state, 600)[4], (8, times(100, 400, 800)));

    let by_last = Lifetime {
        live_ms: None,
        ..LIFETIME
    };
    assert_eq!(due_keys(&example(&shape(by_last, false)), 500), [0, 3, 5]);
    let timers = example(&shape(Lifetime::default(), true));
    assert_eq!(due_keys(&timers, 799), [3, 7]);
    let neither = example(&shape(Lifetime::default(), false));
    assert!(due_keys(&neither, 1 << 40).is_empty());
    assert_eq!(neither.due(), Some(BatchTime::MAX));
}

const DELTA_2_BYTES: &[u8] = include_bytes!("../fixtures/delta-2.bin");
const PARTITION_2_BYTES: &[u8] = include_bytes!("../fixtures/partition-2.bin");

/// Bytes with first events and timers stay readable for ever, also by a program without these.
#[test]
fn old_bytes_can_be_read() {
    for (lifetime, timers) in [
        (LIFETIME, true),
        (LIFETIME, false),
        (
            Lifetime {
                live_ms: None,
                ..LIFETIME
            },
            true,
        ),
        (Lifetime::default(), false),
    ] {
        let shape = shape(lifetime, timers);
        let state = example(&shape);
        let read = KeyedPartition::import(Arc::clone(&shape), PARTITION_2_BYTES).unwrap();
        assert_eq!(read.version(), Some(BatchTime(500)));
        assert_eq!(read.due(), state.due());
        assert_eq!(due(&read, 1 << 40), due(&state, 1 << 40));
        let delta = Delta::from_bytes(&shape, DELTA_2_BYTES).unwrap();
        let ours = state.changes(BatchTime(400)).unwrap();
        assert_eq!((delta.batch(), delta.len()), (BatchTime(400), (3, 2)));
        assert_eq!(bits(&delta.rows().unwrap()), bits(&ours.rows().unwrap()));
    }
}

/// Bytes of states before there were timers and times to live: each key's only event was its last one.
#[test]
fn bytes_without_first_events_and_timers_can_be_read() {
    let before = KIND.shape();
    let mut state = KeyedPartition::new(Arc::clone(&before));
    for batch in [100, 200] {
        let rows = KIND.batch(&[(batch as u16 / 100, 5), (9, 6)]);
        let delta = Delta::new(&before, BatchTime(batch), &rows, None, &[]).unwrap();
        state.install(&delta).unwrap();
    }
    let bytes = state.export().unwrap();
    let live = Lifetime {
        timeout_ms: None,
        live_ms: Some(500),
    };
    let read = KeyedPartition::import(shape(live, true), &bytes).unwrap();
    let times = |at: u64| KeyTimes {
        first: BatchTime(at),
        last: BatchTime(at),
        timer: BatchTime::MAX,
    };
    let wanted = [(1, times(100)), (2, times(200)), (9, times(200))];
    assert_eq!(due(&read, 700), wanted);
}

/// A state without timers and times to live has the bytes that it had before there were any.
#[test]
fn only_what_is_needed_is_written() {
    let version = |delta: &Delta| delta.to_bytes().unwrap()[8];
    let rows = [(3, 100, 200, NEVER)];
    let (with_live, by_last) = (
        LIFETIME,
        Lifetime {
            live_ms: None,
            ..LIFETIME
        },
    );
    let of = |lifetime, timers| shape(lifetime, timers);
    assert_eq!(version(&delta(&of(by_last, true), 300, &rows, &[])), 1);
    assert_eq!(version(&delta(&of(with_live, true), 300, &rows, &[])), 2);
    assert_eq!(version(&delta(&of(with_live, true), 300, &[], &[4])), 1);
    let rows = [(3, 100, 200, 350)];
    assert_eq!(version(&delta(&of(by_last, true), 300, &rows, &[])), 2);
    let with = delta(&of(by_last, false), 300, &rows, &[])
        .to_bytes()
        .unwrap();
    let last = datafusion::arrow::array::UInt64Array::from(vec![200]);
    let without = Delta::new(
        &KIND.shape(),
        BatchTime(300),
        &KIND.batch(&[(3, 6)]),
        Some(&last),
        &[],
    );
    assert_eq!(with, without.unwrap().to_bytes().unwrap());
}

#[test]
fn impossible_contents_are_refused() {
    let shape = shape(LIFETIME, true);
    let bytes = delta(&shape, 400, &[(3, 100, 200, 350)], &[])
        .to_bytes()
        .unwrap();
    let flags = |flags: u64| {
        let mut lie = bytes[..bytes.len() - 8].to_vec();
        lie[20..28].copy_from_slice(&flags.to_le_bytes());
        Delta::from_bytes(&shape, &DELTA_2.seal(lie))
            .unwrap_err()
            .to_string()
    };
    assert!(flags(16 + 12).contains("flags 28"), "{}", flags(28));
    // The columns are others than the flags say.
    for lie in [0, 4, 8] {
        flags(lie);
    }
    let mut older = bytes[..bytes.len() - 8].to_vec();
    older[8] = 1;
    assert!(Delta::from_bytes(&shape, &DELTA.seal(older.clone())).is_err());
    older[8] = 3;
    let error = Delta::from_bytes(&shape, &DELTA.seal(older))
        .unwrap_err()
        .to_string();
    assert!(error.contains("format 3"), "{error}");
    let mut bytes = bytes;
    for at in 0..bytes.len() {
        bytes[at] ^= 1 << (at % 8);
        assert!(Delta::from_bytes(&shape, &bytes).is_err(), "byte {at}");
        bytes[at] ^= 1 << (at % 8);
    }
    Delta::from_bytes(&shape, &bytes).unwrap();
}

/// Writes the fixtures of a new format.
#[test]
#[ignore = "writes files that are committed"]
fn write_fixtures() {
    let state = example(&shape(LIFETIME, true));
    let delta = state.changes(BatchTime(400)).unwrap().on(BatchTime(300));
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/state/versioned/fixtures");
    std::fs::write(format!("{folder}/delta-2.bin"), delta.to_bytes().unwrap()).unwrap();
    std::fs::write(format!("{folder}/partition-2.bin"), state.export().unwrap()).unwrap();
}
