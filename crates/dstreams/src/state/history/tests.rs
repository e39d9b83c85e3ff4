//! A partition of a history, moved and restored at random, has the rows that a list of all batches says.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};
use dstreams_control::BatchTime;
use proptest::prelude::*;

use super::{HistoryPartition, HistorySnapshot};
use crate::encoding::{ByteInput, in_one};
use crate::plan::HistorySpec;
use crate::state::capture::{Captured, Content};
use crate::stream::history::Recall;
use crate::stream::schedule::Schedule;

const EVERY: u64 = 100;

fn spec(recall: Recall) -> Arc<HistorySpec> {
    let fields = vec![
        Field::new("key", DataType::Int64, false),
        Field::new("value", DataType::Utf8View, false),
    ];
    Arc::new(HistorySpec {
        name: None,
        streams: "in".into(),
        schema: Arc::new(Schema::new(fields)),
        keys: 0,
        every_ms: EVERY,
        input_at: Schedule {
            slide_ms: EVERY,
            shift_ms: 0,
        },
        recall,
        table: None,
    })
}

fn delta(spec: &HistorySpec, rows: &[i64]) -> Vec<RecordBatch> {
    let batch = |rows: &[i64]| {
        let texts = rows.iter().map(|n| format!("a text that is no view, {n}"));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(rows.to_vec())),
            Arc::new(StringViewArray::from_iter_values(texts)),
        ];
        RecordBatch::try_new(Arc::clone(&spec.schema), columns).unwrap()
    };
    // In pieces, as they come from tasks.
    rows.chunks(3).map(batch).collect()
}

fn numbers(rows: &[RecordBatch]) -> Vec<i64> {
    let of = |rows: &RecordBatch| {
        let texts = rows.column(1).as_string_view().iter();
        let keys = rows.column(0).as_primitive::<Int64Type>().values().to_vec();
        for (text, key) in texts.zip(&keys) {
            assert_eq!(text.unwrap(), format!("a text that is no view, {key}"));
        }
        keys
    };
    rows.iter().flat_map(of).collect()
}

/// What is done with the partition after a batch.
#[derive(Debug, Clone, Copy)]
enum Then {
    Nothing,
    Again,
    Move,
    /// A checkpoint is taken; it is complete before the next batch.
    Checkpoint,
    /// It is restored from the checkpoint, and the batches since are replayed.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<(Vec<i64>, Then)>> {
    let then = prop_oneof![
        3 => Just(Then::Nothing),
        1 => Just(Then::Again),
        1 => Just(Then::Move),
        2 => Just(Then::Checkpoint),
        1 => Just(Then::Restart),
    ];
    prop::collection::vec((prop::collection::vec(0..99i64, 0..9), then), 1..30)
}

fn moved(history: &HistoryPartition) -> HistoryPartition {
    let bytes = in_one(|to| history.snapshot().write(to)).unwrap();
    let copy = HistoryPartition::import(history.spec(), &mut ByteInput::of(bytes.clone())).unwrap();
    assert!(in_one(|to| copy.snapshot().write(to)).unwrap() == bytes);
    copy
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_has_the_last_batches(steps in steps(), batches in 1..6u64) {
        let spec = spec(Recall::Last { length_ms: EVERY * batches });
        let mut history = HistoryPartition::new(Arc::clone(&spec));
        let mut parts: Vec<(bool, Vec<u8>)> = Vec::new();
        let mut since = None;
        for (at, (rows, then)) in (1..).zip(&steps) {
            let batch = BatchTime(EVERY * at);
            history.install(batch, &delta(&spec, rows)).unwrap();
            match then {
                Then::Nothing => {}
                Then::Again => history.install(batch, &delta(&spec, &[1, 2, 3])).unwrap(),
                Then::Move => history = moved(&history),
                Then::Checkpoint => {
                    if let Some((on, content)) = history.capture(since) {
                        if on.is_none() {
                            parts.clear();
                        }
                        let captured = Captured { state: 0, version: batch, on, content };
                        parts.push((on.is_none(), in_one(|to| captured.write(to)).unwrap()));
                    }
                    history.covered(batch);
                    since = Some(batch);
                }
                Then::Restart => {
                    history = HistoryPartition::new(Arc::clone(&spec));
                    for (whole, bytes) in &parts {
                        history.restore(*whole, &mut ByteInput::of(bytes.clone())).unwrap();
                    }
                    prop_assert_eq!(history.version(), since);
                    for (at, (rows, _)) in (1..=at).zip(&steps) {
                        history.install(BatchTime(EVERY * at), &delta(&spec, rows)).unwrap();
                    }
                }
            }
            let first = (at as usize).saturating_sub(batches as usize);
            let wanted: Vec<i64> = steps[first..at as usize].iter().flat_map(|(rows, _)| rows.clone()).collect();
            prop_assert_eq!(numbers(&history.read().unwrap()), wanted);
            // Only the version before needs one batch more.
            let first = first.saturating_sub(1);
            let most = steps[first..at as usize].iter().map(|(rows, _)| rows.len()).sum();
            prop_assert!(history.rows <= most, "{} rows are held, {} needed", history.rows, most);
        }
    }
}

/// Written by the first program that used this format; it must stay readable forever.
const FIXTURE: &[u8] = include_bytes!("fixtures/history-1");

fn example() -> HistoryPartition {
    let spec = spec(Recall::Last { length_ms: 300 });
    let mut history = HistoryPartition::new(Arc::clone(&spec));
    for at in 1..=5 {
        let rows: Vec<i64> = (0..at % 4).map(|n| 10 * at + n).collect();
        history
            .install(BatchTime(100 * at as u64), &delta(&spec, &rows))
            .unwrap();
    }
    history
}

fn sealed(snapshot: &HistorySnapshot) -> Vec<u8> {
    in_one(|to| snapshot.write_sealed(to)).unwrap()
}

#[test]
#[ignore = "writes a fixture"]
fn write_fixture() {
    let bytes = sealed(&example().snapshot());
    std::fs::write("src/state/history/fixtures/history-1", bytes).unwrap();
}

#[test]
fn histories_of_earlier_programs_are_read() {
    let mut history = HistoryPartition::new(example().spec());
    history.restore(true, &mut ByteInput::of(FIXTURE)).unwrap();
    let read = numbers(&history.read().unwrap());
    assert_eq!(read, numbers(&example().read().unwrap()));
    assert_eq!(read, [30, 31, 32, 50]);
    assert_eq!(sealed(&example().snapshot()), FIXTURE);
}

#[test]
fn damaged_bytes_and_other_histories_are_refused() {
    for bit in (0..8 * FIXTURE.len()).step_by(5) {
        let mut bytes = FIXTURE.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let mut history = HistoryPartition::new(example().spec());
        let refused = history.restore(true, &mut ByteInput::of(bytes));
        assert!(refused.is_err() && history.version().is_none(), "bit {bit}");
    }
    let mut other = HistoryPartition::new(Arc::new(HistorySpec {
        keys: 1,
        ..Arc::into_inner(spec(Recall::Last { length_ms: 300 })).unwrap()
    }));
    let refused = other.restore(true, &mut ByteInput::of(FIXTURE));
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("rows by 1 key(s)"), "{refused}");
}

/// What a checkpoint adds is what batches added since the one before.
#[test]
fn a_checkpoint_has_the_rows_since_the_last_one() {
    let mut history = example();
    assert!(matches!(history.capture(None), Some((None, _))));
    history.covered(BatchTime(500));
    assert!(history.capture(Some(BatchTime(500))).is_none());
    let spec = history.spec();
    history
        .install(BatchTime(600), &delta(&spec, &[7]))
        .unwrap();
    let Some((Some(on), Content::History(added))) = history.capture(Some(BatchTime(500))) else {
        panic!("the changes are known");
    };
    assert_eq!((on, added.pieces.len()), (BatchTime(500), 1));
}
