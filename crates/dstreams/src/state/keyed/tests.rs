//! A batch that another process installed gives the same outputs here.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::concat_batches;
use dstreams_control::BatchTime;

use super::KeyedState;
use crate::encoding::{ByteInput, in_one};
use crate::plan::{KeyedSpec, Update, Views};
use crate::state::capture::Captured;
use crate::stream::graph::View;
use crate::stream::key_state::KeyState;
use crate::stream::record::{Out, Record, batch_of};
use crate::stream::track::MapWithState;

type Pair = (i64, i64);

fn spec() -> Arc<KeyedSpec> {
    let map = MapWithState::<i64, i64, _, _>::new(
        |key: i64, value: Option<i64>, state: &mut KeyState<i64>, out: &mut Out<'_, Pair>| {
            let before = state.remove().unwrap_or(-1);
            out.push((key, before));
            if let Some(value) = value.filter(|value| value % 5 != 0) {
                state.set(before * 3 + value);
            }
        },
    );
    let tracker = map.settings.tracker;
    let schema = <(i64, i64)>::schema();
    let views = [View::Changes, View::All, View::TimedOut, View::Mapped];
    let initial = batch_of((0..9i64).map(|key| (key, 100 + key))).unwrap();
    Arc::new(KeyedSpec {
        name: "seen".into(),
        keys: 1,
        views: Views::new(views, schema.clone(), tracker.mapped()),
        results: schema.clone(),
        schema,
        update: Update::Tracked {
            tracker,
            timeout_ms: Some(200),
            initial: vec![vec![initial]],
        },
        every_ms: 100,
    })
}

fn empty() -> KeyedState {
    KeyedState::new(spec(), 0, None).unwrap()
}

fn moved(state: &KeyedState) -> KeyedState {
    let snapshot = state.snapshot().unwrap();
    let bytes = in_one(|to| snapshot.write(to)).unwrap();
    empty().filled(&mut ByteInput::of(bytes)).unwrap()
}

fn read(state: &KeyedState) -> RecordBatch {
    let rows = state.read().unwrap();
    concat_batches(&state.spec.dataset(), &rows).unwrap()
}

#[test]
fn a_batch_installed_elsewhere_gives_the_same_outputs() {
    let mut state = empty();
    let mut made = 0;
    for batch in 1..40u64 {
        // Keys that repeat within a batch, return just when they time out, or stay away.
        let rows = (0..batch % 7).map(|n| ((batch * n * 5 % 23) as i64, (batch + n) as i64));
        let rows = rows.chain((batch % 2 == 0).then_some((20, batch as i64)));
        let rows = [batch_of(rows).unwrap()];
        let time = BatchTime(100 * batch);
        let before = moved(&state);
        state.install(time, &rows).unwrap();
        let here = read(&state);
        let mut there = moved(&state);
        assert!(there.read().is_err(), "it lacks the outputs of closures");
        // The batch runs again on the copy.
        there.install(time, &rows).unwrap();
        assert_eq!(read(&there), here, "batch {batch}");
        // And on a copy from before the batch.
        let mut there = before;
        there.install(time, &rows).unwrap();
        assert_eq!(read(&there), here, "batch {batch}");
        // Run again here, it changes nothing.
        state.install(time, &rows).unwrap();
        assert_eq!(read(&state), here, "batch {batch}");
        made += state
            .made
            .as_ref()
            .unwrap()
            .timed_out
            .iter()
            .map(RecordBatch::num_rows)
            .sum::<usize>();
    }
    assert!(made > 30, "{made}");
}

/// A restored checkpoint equals the state, and behaves the same afterwards, also when it moves to another worker
/// at once.
#[test]
fn a_restored_state_behaves_like_the_original() {
    let mut state = empty();
    let mut captured: Vec<Vec<u8>> = Vec::new();
    let mut since = None;
    for batch in 1..60u64 {
        let rows = (0..batch % 7).map(|n| ((batch * n * 5 % 23) as i64, (batch + n) as i64));
        let rows = [batch_of(rows).unwrap()];
        let time = BatchTime(100 * batch);
        state.install(time, &rows).unwrap();
        if batch % 5 > 0 {
            continue;
        }
        let (on, content) = state.capture(since).unwrap();
        assert_eq!(on, since.filter(|_| batch != 30), "batch {batch}");
        if on.is_none() {
            captured.clear();
        }
        let captured_now = Captured {
            state: 0,
            version: time,
            on,
            content,
        };
        captured.push(in_one(|to| captured_now.write(to)).unwrap());
        state.covered(time);
        // Once, as if the last checkpoint were unknown.
        since = Some(time).filter(|_| batch != 25);
        let mut restored = empty();
        for bytes in &captured {
            restored.restore(&mut ByteInput::of(bytes.clone())).unwrap();
        }
        let table = |of: &KeyedState| {
            let rows = of.table(time).unwrap();
            concat_batches(&spec().results, &rows).unwrap()
        };
        assert_eq!(table(&restored), table(&state), "batch {batch}");
        let mut there = moved(&restored);
        let mut here = moved(&state);
        let next = BatchTime(time.0 + 100);
        here.install(next, &rows).unwrap();
        there.install(next, &rows).unwrap();
        assert_eq!(read(&there), read(&here), "after batch {batch}");
    }
}
