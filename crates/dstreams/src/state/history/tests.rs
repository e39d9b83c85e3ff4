//! A partition of a history, moved and restored at random, has the rows that a list of all batches says.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt8Type};
use dstreams_control::BatchTime;
use proptest::prelude::*;

use super::{HistoryPartition, HistorySnapshot};
use crate::encoding::{ByteInput, in_one};
use crate::plan::{HistorySpec, Views};
use crate::state::capture::{Captured, Content};
use crate::stream::graph::View;
use crate::stream::history::Recall;
use crate::stream::timetable::Timetable;

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
        input_at: Timetable {
            slide_ms: EVERY,
            shift_ms: 0,
        },
        recall,
        views: None,
        off_time: None,
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

/// Installs the batches, does after each what its step says, and then calls `check` with the number of the batch.
fn run(
    spec: &Arc<HistorySpec>,
    steps: &[(Vec<i64>, Then)],
    mut check: impl FnMut(usize, &HistoryPartition) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let mut history = HistoryPartition::new(Arc::clone(spec));
    let mut parts: Vec<(bool, Vec<u8>)> = Vec::new();
    let mut since = None;
    for (at, (rows, then)) in (1..).zip(steps) {
        let batch = BatchTime(EVERY * at);
        history.install(batch, &delta(spec, rows)).unwrap();
        match then {
            Then::Nothing => {}
            Then::Again => history.install(batch, &delta(spec, &[1, 2, 3])).unwrap(),
            Then::Move => {
                history = moved(&history);
                // The batch runs again where the state is now.
                history.install(batch, &delta(spec, rows)).unwrap();
            }
            Then::Checkpoint => {
                if let Some((on, content)) = history.capture(since) {
                    if on.is_none() {
                        parts.clear();
                    }
                    let captured = Captured {
                        state: 0,
                        version: batch,
                        on,
                        content,
                    };
                    parts.push((on.is_none(), in_one(|to| captured.write(to)).unwrap()));
                }
                history.checkpointed(batch);
                since = Some(batch);
            }
            Then::Restart => {
                history = HistoryPartition::new(Arc::clone(spec));
                for (whole, bytes) in &parts {
                    let mut bytes = ByteInput::of(bytes.clone());
                    history.restore(*whole, &mut bytes).unwrap();
                }
                prop_assert_eq!(history.version(), since);
                for (at, (rows, _)) in (1..=at).zip(steps) {
                    let batch = BatchTime(EVERY * at);
                    history.install(batch, &delta(spec, rows)).unwrap();
                }
            }
        }
        check(at as usize, &history)?;
    }
    Ok(())
}

/// By view, the numbers of the rows.
fn views(history: &HistoryPartition) -> BTreeMap<u8, Vec<i64>> {
    let mut views = BTreeMap::<u8, Vec<i64>>::new();
    for rows in history.read().unwrap() {
        let kinds = rows.column(2).as_primitive::<UInt8Type>().values();
        for (kind, number) in kinds.iter().zip(numbers(std::slice::from_ref(&rows))) {
            views.entry(*kind).or_default().push(number);
        }
    }
    views
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_has_the_last_batches(steps in steps(), batches in 1..6usize) {
        let length_ms = EVERY * batches as u64;
        run(&spec(Recall::Last { length_ms }), &steps, |at, history| {
            let rows = |first: usize| steps[first..at].iter().flat_map(|(rows, _)| rows.clone());
            let first = at.saturating_sub(batches);
            prop_assert_eq!(numbers(&history.read().unwrap()), rows(first).collect::<Vec<_>>());
            // Only the version before needs one batch more.
            let most = rows(first.saturating_sub(1)).count();
            prop_assert!(history.rows <= most, "{} rows are held, {} needed", history.rows, most);
            Ok(())
        })?;
    }

    #[test]
    fn records_are_in_the_interval_of_their_event_time(
        steps in steps(),
        (wait, ahead) in (0..4i64, 0..4i64),
    ) {
        // Around the interval in which they come.
        let own = |(at, (rows, then)): (i64, &(Vec<i64>, Then))| {
            let rows = rows.iter().map(|n| 100 * (at + n % 11 - 5));
            (rows.collect(), *then)
        };
        let steps: Vec<(Vec<i64>, Then)> = (1..).zip(&steps).map(own).collect();
        let recall = Recall::ByTime { wait_ms: 100 * wait as u64, ahead_ms: 100 * ahead as u64 };
        let plain = Arc::into_inner(spec(recall)).unwrap();
        let all = [View::Released, View::Late, View::Ahead];
        let views_of = Views::new(all, Arc::clone(&plain.schema), None);
        let spec = Arc::new(HistorySpec { views: Some(views_of), ..plain });
        let is_late = |t: i64, e: i64| e < t - 100 * wait;
        let is_ahead = |t: i64, e: i64| e > t + 100 * ahead;
        run(&spec, &steps, |at, history| {
            let t = 100 * at as i64;
            let mut wanted = BTreeMap::<u8, Vec<i64>>::new();
            let mut held = 0;
            for (came, (rows, _)) in (1..=at).zip(&steps) {
                let came = 100 * came as i64;
                for e in rows {
                    let view = match (is_late(came, *e), is_ahead(came, *e)) {
                        (true, _) => (came == t).then_some(View::Late),
                        (_, true) => (came == t).then_some(View::Ahead),
                        _ => (*e == t - 100 * wait).then_some(View::Released),
                    };
                    held += usize::from(!is_late(came, *e) && !is_ahead(came, *e) && !is_late(t, *e));
                    if let Some(view) = view {
                        wanted.entry(view as u8).or_default().push(*e);
                    }
                }
            }
            prop_assert_eq!(views(history), wanted);
            prop_assert_eq!(history.rows, held);
            Ok(())
        })?;
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
    history.checkpointed(BatchTime(500));
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

/// Batches without rows before the one that is due give nothing, and no row leaves the table.
#[test]
fn nothing_happens_before_what_is_due() {
    let (wait_ms, ahead_ms) = (500, 200);
    let recalls = [
        Recall::Last { length_ms: 300 },
        Recall::Earlier { by_ms: 500 },
        Recall::Newest,
        Recall::Asked { length_ms: 400 },
        Recall::ByTime { wait_ms, ahead_ms },
    ];
    recalls.into_iter().for_each(nothing_happens_before);
}

fn nothing_happens_before(recall: Recall) {
    let plain = Arc::into_inner(spec(recall)).unwrap();
    let all = [View::Released, View::Late, View::Ahead];
    let by_time = matches!(recall, Recall::ByTime { .. });
    let views = by_time.then(|| Views::new(all, Arc::clone(&plain.schema), None));
    let times = std::iter::once(Arc::new(Field::new("time", DataType::Int64, false)));
    let columns = times.chain(plain.schema.fields().iter().cloned());
    let table = Some(Arc::new(Schema::new(columns.collect::<Vec<_>>())));
    let spec = Arc::new(HistorySpec {
        views,
        table,
        ..plain
    });
    let rows_of = |rows: &[RecordBatch]| rows.iter().map(RecordBatch::num_rows).sum::<usize>();
    // The rows that a batch gives or removes.
    let install = |history: &mut HistoryPartition, batch: u64| {
        let before = history.version().unwrap();
        let before = history.table(before).unwrap();
        history.install(BatchTime(batch), &[]).unwrap();
        let after = history.table(BatchTime(batch)).unwrap();
        rows_of(&history.read().unwrap()) + rows_of(&before) - rows_of(&after)
    };
    let mut history = HistoryPartition::new(Arc::clone(&spec));
    let (mut at, mut skipped, mut given) = (0, 0, 0);
    for round in 1..60u64 {
        at += 100;
        let rows = (0..round % 4).map(|n| (at + 100 * (n * round % 6)) as i64 - 300);
        let rows = delta(&spec, &rows.collect::<Vec<_>>());
        history.install(BatchTime(at), &rows).unwrap();
        for _ in 0..round % 5 {
            let due = history.due(BatchTime(at), BatchTime(at + 100));
            let time = |batch: BatchTime| batch.0.next_multiple_of(100);
            let (from, to) = due.map_or((at + 600, at + 500), |due| (time(due.from), time(due.to)));
            for between in (at + 100..from).step_by(100) {
                let mut copy = moved(&history);
                let given = install(&mut copy, between);
                assert_eq!(given, 0, "{recall:?}: {between} of {due:?} after {at}");
                skipped += 1;
            }
            let before = history.version().unwrap();
            for batch in (from..=to).step_by(100) {
                let gives = install(&mut history, batch);
                // The last batch of a window only says that it is empty.
                let one = due.is_some_and(|due| due.from == due.to);
                let moves = matches!(recall, Recall::Last { .. } | Recall::Newest);
                assert!(gives > 0 || !one || moves, "{recall:?}: {batch}");
                given += gives;
                if batch == from {
                    // What is asked for meanwhile is still there.
                    history.table(before).unwrap();
                }
            }
            at = to.max(at);
        }
    }
    assert!(skipped > 30, "{recall:?}: {skipped} skipped");
    let newest = matches!(recall, Recall::Newest);
    assert!(given > 20 || newest, "{recall:?}: {given} rows");
}
