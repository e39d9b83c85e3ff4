//! Formats: damaged or made-up bytes are an error, and bytes of older programs are readable.

use std::collections::VecDeque;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringViewArray};
use dstreams_control::BatchTime;

use super::delta;
use super::rows::{Kind, bits};
use crate::encoding::ENCODED;
use crate::encoding::{ByteInput, ByteOutput, PIECE, in_one};
use crate::state::versioned::transfer::{DELTA, PARTITION};
use crate::state::versioned::{Delta, KeyedPartition};

const KIND: Kind = Kind::TextAndNumber;

/// Some of everything: versions 300 to 500, of which 400 changed and deleted and 500 did nothing.
fn example() -> KeyedPartition {
    let mut state = KeyedPartition::new(KIND.shape());
    let rows: Vec<(u16, u32)> = (0..9).map(|key| (key, 3 + u32::from(key))).collect();
    state.install(&delta(KIND, 100, &rows, &[])).unwrap();
    state.install(&delta(KIND, 200, &rows[3..5], &[1])).unwrap();
    state.install(&delta(KIND, 300, &[(1, 7)], &[2])).unwrap();
    state.compact(BatchTime(300), 1_000).unwrap();
    state
        .install(&delta(KIND, 400, &[(7, 1), (8, 2)], &[3, 40]))
        .unwrap();
    state.install(&delta(KIND, 500, &[], &[])).unwrap();
    state
}

fn rows(of: crate::Result<Vec<RecordBatch>>) -> Vec<Vec<u8>> {
    bits(&of.unwrap())
}

/// All readable rows.
fn all(state: &KeyedPartition) -> Vec<Vec<Vec<u8>>> {
    let versions = [300, 350, 400, 500].map(|version| rows(state.read(BatchTime(version))));
    let changes = state.changes(BatchTime(400)).unwrap();
    let mut all = versions.to_vec();
    all.extend([rows(changes.rows()), rows(changes.deleted())]);
    all.push(rows(state.expired(BatchTime(250))));
    all
}

#[test]
fn flipped_bits_are_refused() {
    let state = example();
    let (shape, mut bytes) = (KIND.shape(), state.export().unwrap());
    // One bit of each byte: the checksum is read last.
    for at in 0..bytes.len() {
        bytes[at] ^= 1 << (at % 8);
        assert!(
            KeyedPartition::import(shape.clone(), &bytes).is_err(),
            "byte {at}"
        );
        bytes[at] ^= 1 << (at % 8);
    }
    for end in (0..bytes.len()).step_by(7) {
        assert!(
            KeyedPartition::import(shape.clone(), &bytes[..end]).is_err(),
            "{end}"
        );
    }
    let imported = KeyedPartition::import(shape.clone(), &bytes).unwrap();
    assert_eq!(all(&imported), all(&state));
    let mut bytes = state.changes(BatchTime(400)).unwrap().to_bytes().unwrap();
    for at in 0..bytes.len() {
        bytes[at] ^= 1 << (at % 8);
        assert!(Delta::from_bytes(&shape, &bytes).is_err(), "byte {at}");
        bytes[at] ^= 1 << (at % 8);
    }
    assert_eq!(Delta::from_bytes(&shape, &bytes).unwrap().len(), (2, 2));
}

/// Made-up bytes with valid checksums are an error or a working state.
#[test]
fn made_up_bytes_never_panic() {
    let whole = example()
        .snapshot(BatchTime(400))
        .unwrap()
        .to_bytes()
        .unwrap();
    let delta = example()
        .changes(BatchTime(400))
        .unwrap()
        .to_bytes()
        .unwrap();
    let (mut refused, mut taken) = (0, 0);
    for bytes in [whole, delta] {
        let body = bytes.len() - 8;
        for at in 12..body {
            let mut lie = bytes[..body].to_vec();
            lie[at] ^= [0x01, 0x80, 0x40, 0xff][at % 4];
            let Ok(delta) = Delta::from_bytes(&KIND.shape(), &DELTA.seal(lie)) else {
                refused += 1;
                continue;
            };
            taken += 1;
            let mut state = KeyedPartition::new(KIND.shape());
            // A delta with a base version is refused here.
            if state.install(&delta).is_ok() {
                let version = delta.batch();
                rows(state.read(version));
                rows(state.expired(version));
                assert_eq!(state.len(), delta.len().0);
                while state.compact(version, 3).unwrap() {}
                let found = state.latest(&KIND.keys(&[1, 2, 3])).unwrap();
                found.values().unwrap();
                state.export().unwrap();
            }
        }
    }
    assert!(
        refused > 500 && taken > 300,
        "{refused} refused, {taken} taken"
    );
}

#[test]
fn impossible_contents_are_refused_with_the_reason() {
    let state = example();
    let shape = KIND.shape();
    let delta = state.changes(BatchTime(400)).unwrap().to_bytes().unwrap();
    let export = state.export().unwrap();
    let number = |n: u64| n.to_le_bytes();
    let changed = |bytes: &[u8], at: usize, to: &[u8]| {
        let mut lie = bytes[..bytes.len() - 8].to_vec();
        lie[at..at + to.len()].copy_from_slice(to);
        lie
    };
    let of_delta = |at: usize, to: u64| {
        let lie = DELTA.seal(changed(&delta, at, &number(to)));
        Delta::from_bytes(&shape, &lie).unwrap_err().to_string()
    };
    let of_state = |at: usize, to: u64| {
        let lie = PARTITION.seal(changed(&export, at, &number(to)));
        let error = KeyedPartition::import(shape.clone(), &lie).err().unwrap();
        error.to_string()
    };
    let longer = DELTA.seal([&delta[..delta.len() - 8], b"x"].concat());
    let longer = Delta::from_bytes(&shape, &longer).unwrap_err().to_string();
    let cases = [
        (longer, "1 bytes after the end"),
        (of_delta(12, 399), "399"), // last events after the batch
        (of_delta(20, 4), "flags 4"),
        (of_delta(20, 2), "flags 2"), // a full delta deletes nothing
        (of_delta(20, 3), "flags 3"),
        (of_delta(28, 7), "version 7"), // without its flag
        (of_delta(36, u64::MAX), "longer than the bytes left"),
        (of_state(12, 0), "batch"),
        (of_state(12, 4), "low watermark"),
        (of_state(20, 200), "low watermark"),
        (of_state(20, 350), "batch"), // a batch after the newest
        (of_state(28, 299), "batch"), // the full delta has another version
        (of_state(36, 1), "after the end"),
        (of_state(36, 3), "not enough"),
        (of_state(44, 1 << 60), "after the end"),
    ];
    for (error, text) in cases {
        assert!(error.to_lowercase().contains(text), "{text} in: {error}");
    }
}

/// Captured versions do not change, whatever is installed and compacted meanwhile.
#[test]
fn captured_versions_do_not_change() {
    let mut state = example();
    let (bytes, versions) = (state.export().unwrap(), state.versions().unwrap());
    state.install(&delta(KIND, 600, &[(7, 9)], &[4])).unwrap();
    while state.compact(BatchTime(600), 100).unwrap() {}
    assert!(state.export().unwrap() != bytes);
    assert_eq!(in_one(|to| versions.write(to)).unwrap()[8..], bytes);
}

/// Bytes go in pieces, and rows are decoded a few at a time, however many and however long they are.
#[test]
fn a_large_state_is_transferred_in_parts() {
    let state_shape = Kind::Text.shape();
    let mut state = KeyedPartition::new(Arc::clone(&state_shape));
    let long = "x".repeat(2_000);
    let rows_of = |from: u64| {
        let keys = (from..from + 9_000).map(|key| Some(format!("{key} {long}")));
        let keys: StringViewArray = keys.collect();
        let values: StringViewArray = (0..9_000).map(|_| Some("value")).collect();
        let columns: [ArrayRef; 2] = [Arc::new(keys), Arc::new(values)];
        state_shape.rows(columns.to_vec()).unwrap()
    };
    for batch in 1..4 {
        let rows = rows_of(4_500 * batch);
        let delta = Delta::new(&state_shape, BatchTime(batch), &rows, None, &[]).unwrap();
        state.install(&delta).unwrap();
    }
    // Half of the rows of the first batches are superseded.
    state.compact(BatchTime(3), 0).unwrap();
    let (mut pieces, mut largest) = (VecDeque::new(), 0);
    let mut each = |piece: Vec<u8>| {
        largest = largest.max(piece.len());
        pieces.push_back(piece.into());
        Ok(())
    };
    let mut to = ByteOutput::new(&mut each);
    to.begin(&DELTA).unwrap();
    state.versions().unwrap().write(&mut to).unwrap();
    to.seal().unwrap();
    to.end().unwrap();
    assert_eq!(largest, PIECE);
    assert!(pieces.len() > 30, "{}", pieces.len());
    let mut from = ByteInput::new(|| Ok(pieces.pop_front()));
    from.open(&DELTA).unwrap();
    let empty = KeyedPartition::new(state_shape);
    let moved = from.part(|from| empty.filled(from)).unwrap();
    from.close().unwrap();
    assert!(from.largest < 2 * ENCODED, "{}", from.largest);
    assert_eq!(
        rows(moved.read(BatchTime(3))),
        rows(state.read(BatchTime(3)))
    );
}

#[test]
fn bytes_of_another_state_are_refused_with_the_difference() {
    let bytes = example().export().unwrap();
    let error = KeyedPartition::import(Kind::Text.shape(), &bytes)
        .err()
        .unwrap();
    assert!(error.to_string().contains("key1: Int32"), "{error}");
    let delta = example()
        .changes(BatchTime(400))
        .unwrap()
        .to_bytes()
        .unwrap();
    assert!(Delta::from_bytes(&Kind::Number.shape(), &delta).is_err());
    let error = KeyedPartition::import(KIND.shape(), &delta).err().unwrap();
    assert!(
        error.to_string().contains("first bytes are wrong"),
        "{error}"
    );
}

#[test]
fn the_base_version_of_a_delta_survives_encoding() {
    let shape = KIND.shape();
    let delta = delta(KIND, 400, &[(7, 1)], &[3]).on(BatchTime(0));
    let read = Delta::from_bytes(&shape, &delta.to_bytes().unwrap()).unwrap();
    assert_eq!(read.built_on(), Some(BatchTime(0)));
    assert!(!read.is_whole());
    let whole = example().snapshot(BatchTime(400)).unwrap();
    let read = Delta::from_bytes(&shape, &whole.to_bytes().unwrap()).unwrap();
    assert_eq!((read.built_on(), read.is_whole()), (None, true));
}

#[test]
fn a_partition_is_restored_from_deltas() {
    let state = example();
    let shape = KIND.shape();
    let bytes = [
        state.snapshot(BatchTime(300)).unwrap(),
        state.changes(BatchTime(400)).unwrap(),
        delta(KIND, 500, &[], &[]),
    ]
    .map(|delta| delta.to_bytes().unwrap());
    let mut restored = KeyedPartition::new(Arc::clone(&shape));
    for bytes in &bytes {
        let delta = Delta::from_bytes(&shape, bytes).unwrap();
        restored.install(&delta).unwrap();
    }
    assert_eq!(all(&restored), all(&state));
    assert_eq!(restored.low(), Some(BatchTime(300)));
    assert!(restored.read(BatchTime(299)).is_err());
}

const DELTA_1: &[u8] = include_bytes!("../fixtures/delta-1.bin");
const PARTITION_1: &[u8] = include_bytes!("../fixtures/partition-1.bin");

/// Bytes in the first version of the formats stay readable forever.
#[test]
fn old_bytes_can_be_read() {
    let state = example();
    let delta = Delta::from_bytes(&KIND.shape(), DELTA_1).unwrap();
    let ours = state.changes(BatchTime(400)).unwrap();
    assert_eq!(
        (delta.batch(), delta.built_on()),
        (BatchTime(400), Some(BatchTime(300)))
    );
    assert_eq!(rows(delta.rows()), rows(ours.rows()));
    assert_eq!(rows(delta.deleted()), rows(ours.deleted()));
    let imported = KeyedPartition::import(KIND.shape(), PARTITION_1).unwrap();
    assert_eq!(all(&imported), all(&state));
    assert_eq!(imported.version(), Some(BatchTime(500)));
}

/// Writes the fixtures of a new format.
#[test]
#[ignore = "writes files that are committed"]
fn write_fixtures() {
    let state = example();
    let delta = state.changes(BatchTime(400)).unwrap().on(BatchTime(300));
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/state/versioned/fixtures");
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(format!("{folder}/delta-1.bin"), delta.to_bytes().unwrap()).unwrap();
    std::fs::write(format!("{folder}/partition-1.bin"), state.export().unwrap()).unwrap();
}
