//! A batch that another process installed gives the same outputs here.

mod timers;

use std::sync::Arc;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use dstreams_control::{BatchTime, Due};

use super::KeyedState;
use crate::encoding::{ByteInput, in_one};
use crate::plan::{ByTimeSpec, KeyedSpec, StateSpec, Update, Views, session_state_schema};
use crate::state::capture::Captured;
use crate::stream::agg::{AggPart, AggPlan, Finish, Function};
use crate::stream::event_time::IntervalRule;
use crate::stream::graph::View;
use crate::stream::key_state::KeyState;
use crate::stream::lifetime::Lifetime;
use crate::stream::record::{Out, Record, batch_of};
use crate::stream::rejects::Readers;
use crate::stream::result_rows::ResultRows;
use crate::stream::session_rule::SessionRule;
use crate::stream::sessions::SessionOp;
use crate::stream::track::MapWithState;

type Pair = (i64, i64);

/// A state, and the rows that a batch has for it.
struct Case {
    spec: fn() -> Arc<KeyedSpec>,
    rows: fn(u64) -> RecordBatch,
}

const CASES: [Case; 6] = [
    Case {
        spec: tracked,
        rows: events,
    },
    Case {
        spec: by_time,
        rows: partial_results,
    },
    Case {
        spec: || by_time_over(600),
        rows: partial_results,
    },
    Case {
        spec: running_for,
        rows: counted,
    },
    Case {
        spec: || sessions(None),
        rows: partial_sessions,
    },
    Case {
        spec: || sessions(Some(300)),
        rows: partial_sessions,
    },
];

fn tracked() -> Arc<KeyedSpec> {
    let map = MapWithState::<i64, i64, _, _>::new(
        |key: i64, value: Option<i64>, state: &mut KeyState<i64>, out: &mut Out<'_, Pair>| {
            let before = state.remove().unwrap_or(-1);
            out.push((key, before));
            if let Some(value) = value.filter(|value| value % 5 != 0) {
                state.set(before * 3 + value);
            }
        },
    );
    let tracker = map.tracker();
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
            lifetime: Lifetime {
                timeout_ms: Some(200),
                live_ms: None,
            },
            initial: vec![vec![initial]],
        },
        every_ms: 100,
    })
}

/// Keys that repeat within a batch, return just when they time out, or stay away.
fn events(batch: u64) -> RecordBatch {
    let rows = (0..batch % 7).map(|n| ((batch * n * 5 % 23) as i64, (batch + n) as i64));
    batch_of(rows.chain(batch.is_multiple_of(2).then_some((20, batch as i64)))).unwrap()
}

const RULE: IntervalRule = IntervalRule {
    every: 200,
    over: 200,
    slack: 100,
    correct: 300,
    ahead: 200,
};

/// Counts and sums by interval and key.
fn by_time() -> Arc<KeyedSpec> {
    by_time_over(200)
}

fn by_time_over(over: i64) -> Arc<KeyedSpec> {
    let part = |function, column: Option<&str>| AggPart {
        function,
        column: column.map(str::to_owned),
    };
    let emitted = ResultRows::new(&<((i64, i64), (i64, i64))>::schema(), 2);
    let parts = vec![
        part(Function::Count, None),
        part(Function::Sum, Some("value")),
    ];
    let plan = AggPlan {
        parts,
        finish: vec![Finish::Part(0), Finish::Part(1)],
    };
    let spec = ByTimeSpec::new(plan, IntervalRule { over, ..RULE }, emitted.clone());
    let schema = spec.state_schema(&<((i64, i64), (i64, i64))>::schema());
    Arc::new(KeyedSpec {
        name: "by time".into(),
        keys: 2,
        views: Views::new(
            [View::All, View::Mapped],
            schema.clone(),
            Some(emitted.schema()),
        ),
        results: <((i64, i64), (u32, (i64, i64)))>::schema(),
        schema,
        update: Update::ByTime(spec),
        every_ms: 100,
    })
}

/// Of intervals that are open, to be emitted, emitted, and about to be final; some change nothing.
fn partial_results(batch: u64) -> RecordBatch {
    let rows = (0..batch % 7).map(|n| {
        let time = (100 * batch + 150 * (n % 3)).saturating_sub(301);
        let interval = RULE.interval_of(time as i64);
        (
            (interval, (n * batch % 4) as i64),
            (1 + (n % 2) as i64, n as i64 / 2),
        )
    });
    batch_of(rows).unwrap()
}

/// Counts of keys, which are forgotten.
fn running_for() -> Arc<KeyedSpec> {
    let plan = AggPlan {
        parts: vec![AggPart {
            function: Function::Count,
            column: None,
        }],
        finish: vec![Finish::Part(0)],
    };
    let schema = <(i64, i64)>::schema();
    let views = [View::Changes, View::All, View::TimedOut];
    Arc::new(KeyedSpec {
        name: "forgotten".into(),
        keys: 1,
        views: Views::new(views, schema.clone(), None),
        results: schema.clone(),
        schema,
        update: Update::RunningFor {
            plan,
            timeout_ms: 200,
        },
        every_ms: 100,
    })
}

/// The keys of events, some of them from several tasks.
fn counted(batch: u64) -> RecordBatch {
    events(batch)
}

/// Counts and sums by sessions.
fn sessions(longest: Option<i64>) -> Arc<KeyedSpec> {
    let part = |function, column: Option<&str>| AggPart {
        function,
        column: column.map(str::to_owned),
    };
    let plan = AggPlan {
        parts: vec![
            part(Function::Count, None),
            part(Function::Min, Some("time")),
            part(Function::Max, Some("time")),
            part(Function::Sum, Some("value")),
        ],
        finish: vec![Finish::Part(0), Finish::Part(3)],
    };
    let results = <(i64, ((i64, i64), (i64, i64)))>::schema();
    let mut emitted = results.fields().to_vec();
    emitted.insert(1, Arc::new(Field::new("$kind", DataType::UInt8, false)));
    let op = Arc::new(SessionOp {
        name: "sessions".into(),
        keys: 1,
        plan,
        rule: SessionRule {
            every: 100,
            gap: 200,
            slack: 200,
            longest,
        },
        start: 1,
        last: 2,
        count: 0,
        emitted: Arc::new(Schema::new(emitted)),
        late: Arc::new(Readers::new("late records".into())),
    });
    let schema = session_state_schema(&PartialSession::schema(), 1);
    let mapped = Some(Arc::clone(&op.emitted));
    Arc::new(KeyedSpec {
        name: "sessions".into(),
        keys: 1,
        views: Views::new([View::All, View::Mapped], schema.clone(), mapped),
        results,
        schema,
        update: Update::Sessions(op),
        every_ms: 100,
    })
}

/// A key, the interval, the count, the first and the last time, the sum.
type PartialSession = ((i64, i64), (i64, (i64, (i64, i64))));

/// Of sessions that are new, open, to be joined, over, and long over.
fn partial_sessions(batch: u64) -> RecordBatch {
    let rows = (0..batch % 9).map(|n| {
        let n = n as i64;
        let first = 100 * batch as i64 - 137 * n - 1;
        let last = first.max(first.div_euclid(100) * 100 + 10 * n);
        let interval = first.div_euclid(100) * 100;
        let key = n * batch as i64 % 3;
        ((key, interval), (1 + n % 2, (first, (last, n))))
    });
    batch_of(rows).unwrap()
}

fn empty(spec: &Arc<KeyedSpec>) -> KeyedState {
    KeyedState::new(Arc::clone(spec), 0, None).unwrap()
}

fn moved(state: &KeyedState) -> KeyedState {
    let snapshot = state.snapshot().unwrap();
    let bytes = in_one(|to| snapshot.write(to)).unwrap();
    empty(&state.spec)
        .filled(&mut ByteInput::of(bytes))
        .unwrap()
}

fn read(state: &KeyedState) -> RecordBatch {
    let rows = state.read().unwrap();
    concat_batches(&state.spec.dataset(), &rows).unwrap()
}

#[test]
fn a_batch_installed_elsewhere_gives_the_same_outputs() {
    CASES.iter().for_each(gives_the_same_elsewhere);
}

fn gives_the_same_elsewhere(case: &Case) {
    let mut state = empty(&(case.spec)());
    let mut made = 0;
    for batch in 1..40u64 {
        let rows = [(case.rows)(batch)];
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
        let outputs = state.made.as_ref().unwrap();
        let rows = outputs.timed_out.iter().chain(&outputs.mapped);
        made += rows.map(RecordBatch::num_rows).sum::<usize>();
    }
    assert!(made > 30, "{made}");
}

/// A restored checkpoint equals the state, and behaves the same afterwards, also when it moves to another worker
/// at once.
#[test]
fn a_restored_state_behaves_like_the_original() {
    CASES.iter().for_each(behaves_like_the_original);
}

fn behaves_like_the_original(case: &Case) {
    let spec = (case.spec)();
    let mut state = empty(&spec);
    let mut captured: Vec<Vec<u8>> = Vec::new();
    let mut since = None;
    for batch in 1..60u64 {
        let rows = [(case.rows)(batch)];
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
        state.checkpointed(time);
        // Once, as if the last checkpoint were unknown.
        since = Some(time).filter(|_| batch != 25);
        let mut restored = empty(&spec);
        for bytes in &captured {
            restored.restore(&mut ByteInput::of(bytes.clone())).unwrap();
        }
        let table = |of: &KeyedState| {
            let rows = of.table(time).unwrap();
            concat_batches(&spec.results, &rows).unwrap()
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

/// What is final leaves: the state never has more rows than there are open intervals and keys.
#[test]
fn a_state_by_time_is_bounded() {
    for (over, intervals) in [(200, 5), (600, 7)] {
        let mut state = empty(&by_time_over(over));
        let (mut random, mut most, mut ended) = (1u64, 0, 0);
        for batch in 1..=10_000u64 {
            let time = 100 * batch;
            let rows = (0..4).map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                // What a task leaves: neither late nor ahead.
                let at = time as i64 - 400 + (random % 600) as i64;
                let interval = RULE.interval_of(at).min(time as i64 / 200 * 200 + 200);
                ((interval, (random % 5) as i64), (1i64, 1i64))
            });
            let rows: Vec<_> = rows
                .filter(|((interval, _), _)| RULE.final_at(*interval) >= time as i64)
                .collect();
            (state.install(BatchTime(time), &[batch_of(rows).unwrap()])).unwrap();
            most = most.max(state.partition.len());
            let emitted = &state.made.as_ref().unwrap().mapped;
            ended += emitted.iter().map(RecordBatch::num_rows).sum::<usize>();
        }
        assert!((5..=5 * intervals).contains(&most), "{most} rows");
        assert!(ended > 10_000, "{ended} rows emitted");
    }
}

/// This text is in checkpoints: state of a program with another one is refused.
#[test]
fn a_state_by_time_describes_its_columns() {
    let wanted = "[AggPart { function: Count, column: None }, AggPart { function: Sum, column: Some(\"value\") }] by event \
                  time every 200 ms and 2 column(s), [\"key_key Int64\", \"key_value Int64\", \"value_key Int64\", \
                  \"value_value Int64\", \"$version UInt32\"]";
    assert_eq!(by_time().contents(), wanted);
}

/// Batches without rows before the one that is due change nothing and give nothing; that one does something.
#[test]
fn nothing_happens_before_what_is_due() {
    let skipped: u64 = CASES.iter().map(nothing_happens_before).sum();
    assert!(skipped > 30, "{skipped}");
}

/// Returns how many batches do nothing.
fn nothing_happens_before(case: &Case) -> u64 {
    let rows_of = |rows: &[RecordBatch]| rows.iter().map(RecordBatch::num_rows).sum::<usize>();
    // What a batch gives, and how many keys it adds or removes.
    let install = |state: &mut KeyedState, batch: BatchTime| {
        let before = state.partition.len();
        state.install(batch, &[]).unwrap();
        let made = state.made.as_ref().unwrap();
        let given = rows_of(&state.changed) + rows_of(&made.timed_out) + rows_of(&made.mapped);
        given + before.abs_diff(state.partition.len())
    };
    let mut state = empty(&(case.spec)());
    let (mut batch, mut skipped, mut due_ones) = (0, 0, 0);
    for round in 1..60u64 {
        batch += 1;
        let rows = [(case.rows)(batch)];
        state.install(BatchTime(100 * batch), &rows).unwrap();
        // At times the next records come before all that is due.
        for _ in 0..round % 5 {
            let due = state.due(BatchTime(100 * (batch + 1)));
            let until = due.map_or(batch + 4, |due| due.from.millis() / 100);
            for between in batch + 1..until {
                let mut copy = moved(&state);
                let happens = install(&mut copy, BatchTime(100 * between));
                assert_eq!(happens, 0, "batch {between} of {due:?} after {batch}");
                skipped += 1;
            }
            batch = until;
            let Some(due) = due else { break };
            assert_eq!(due, Due::at(BatchTime(100 * until)));
            let before = state.version().unwrap();
            assert!(install(&mut state, due.from) > 0, "batch {batch}");
            // What is queried meanwhile is still there.
            state.table(before).unwrap();
            due_ones += 1;
        }
    }
    assert!(skipped > 0 && due_ones > 20, "{skipped}, {due_ones}");
    skipped
}

/// What is over leaves, whatever the number of records.
#[test]
fn a_state_of_sessions_is_bounded() {
    for longest in [None, Some(300)] {
        let mut state = empty(&sessions(longest));
        let (mut most, mut emitted) = (0, 0);
        for batch in 1..=5_000u64 {
            let rows = [partial_sessions(batch)];
            state.install(BatchTime(100 * batch), &rows).unwrap();
            let stored = state.partition.read(BatchTime(100 * batch)).unwrap();
            let items = stored.iter().map(|rows| rows.column(1).as_list::<i32>());
            most = most.max(items.map(|lists| lists.values().len()).sum::<usize>());
            let outputs = &state.made.as_ref().unwrap().mapped;
            emitted += outputs.iter().map(RecordBatch::num_rows).sum::<usize>();
        }
        assert!((3..50).contains(&most), "{most} open sessions");
        assert!(emitted > 1_000, "{emitted} sessions");
    }
}

/// These texts are in checkpoints: state of a program with others is refused.
#[test]
fn a_state_of_sessions_describes_its_columns_and_times() {
    let spec = sessions(Some(300));
    let holds = spec.contents();
    assert!(
        holds.contains("by sessions and 1 key column(s), [\""),
        "{holds}"
    );
    let times = StateSpec::Keyed(spec).times().unwrap();
    assert_eq!(times, "gap 200 ms, slack 200 ms, cut after 300 ms");
}
