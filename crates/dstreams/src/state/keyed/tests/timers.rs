//! Timers, timeouts and times to live equal a list of keys that is searched in each batch, whatever happens to the
//! state between batches.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use dstreams_control::BatchTime;
use proptest::prelude::*;

use super::{empty, moved, read};
use crate::encoding::{ByteInput, in_one};
use crate::plan::{KeyedSpec, Update, Views};
use crate::state::capture::Captured;
use crate::state::keyed::KeyedState;
use crate::stream::graph::View;
use crate::stream::key_state::KeyState;
use crate::stream::lifetime::Lifetime;
use crate::stream::record::{Out, Record, batch_of, records_of};
use crate::stream::track::MapWithState;

const EVERY: u64 = 100;

/// What a closure does with the state of a key.
trait Cell {
    fn now(&self) -> u64;
    fn get(&self) -> Option<i64>;
    fn set(&mut self, state: i64);
    fn remove(&mut self);
    fn wake_at(&mut self, at: u64);
}

impl Cell for KeyState<i64> {
    fn now(&self) -> u64 {
        self.time().millis()
    }

    fn get(&self) -> Option<i64> {
        KeyState::get(self).copied()
    }

    fn set(&mut self, state: i64) {
        KeyState::set(self, state);
    }

    fn remove(&mut self) {
        KeyState::remove(self);
    }

    fn wake_at(&mut self, at: u64) {
        KeyState::wake_at(self, BatchTime(at));
    }
}

/// A key, the reason of the call, and the state before it.
type Called = (i64, (i64, i64));

fn value(key: i64, value: i64, cell: &mut impl Cell) -> Called {
    let before = cell.get().unwrap_or(-1);
    let next = before.wrapping_mul(3).wrapping_add(value) % 1_000;
    match value.rem_euclid(8) {
        0 => cell.remove(),
        1 | 2 => {
            cell.set(next);
            // Before, at, and between batches.
            let later = value.rem_euclid(11) as u64 * 37;
            cell.wake_at(cell.now() + later - cell.now().min(60));
        }
        3 => {
            cell.set(next);
            cell.wake_at(u64::MAX);
        }
        4 => {
            cell.wake_at(cell.now() + 50);
            cell.remove();
            cell.set(next);
        }
        5 => {
            cell.remove();
            cell.wake_at(cell.now() + 130);
            cell.set(next);
        }
        // Without effect where there is no state.
        6 => cell.wake_at(cell.now() + 170),
        _ => cell.set(next),
    }
    (key, (0, before))
}

fn woken(key: i64, cell: &mut impl Cell) -> Called {
    let before = cell.get().unwrap();
    match before.rem_euclid(5) {
        0 => cell.remove(),
        1 => {
            cell.set(before + 1);
            cell.wake_at(cell.now() + 150);
        }
        2 => {
            cell.remove();
            cell.set(-before / 2);
            cell.wake_at(cell.now().saturating_sub(10));
        }
        3 => {}
        _ => cell.set(before / 2),
    }
    (key, (1, before))
}

fn spec(lifetime: Lifetime, on_timeout: bool) -> Arc<KeyedSpec> {
    let map = MapWithState::<i64, i64, i64, Called>::new(
        move |key: i64, of: Option<i64>, state: &mut KeyState<i64>, out: &mut Out<'_, Called>| {
            assert_eq!(state.is_woken() || state.is_timing_out(), of.is_none());
            match of {
                Some(of) => out.push(value(key, of, state)),
                None if state.is_woken() => out.push(woken(key, state)),
                None => {
                    assert!(!on_timeout);
                    out.push((key, (2, *state.get().unwrap())));
                    state.wake_at(BatchTime(0));
                }
            }
        },
    );
    let map = match on_timeout {
        true => map.on_timeout(|key, state, out| out.push((key, (2, state)))),
        false => map,
    };
    let tracker = map.tracker();
    let schema = <(i64, i64)>::schema();
    let views = [View::Changes, View::All, View::TimedOut, View::Mapped];
    Arc::new(KeyedSpec {
        name: "timed".into(),
        keys: 1,
        views: Views::new(views, schema.clone(), tracker.mapped()),
        results: schema.clone(),
        schema,
        update: Update::Tracked {
            tracker,
            lifetime,
            initial: vec![vec![batch_of([(3i64, 7i64), (9, 4)]).unwrap()]],
        },
        every_ms: EVERY,
    })
}

/// A key as the reference holds it.
#[derive(Debug, Clone)]
struct Held {
    key: i64,
    state: Option<i64>,
    first: u64,
    last: u64,
    timer: Option<u64>,
    now: u64,
}

impl Held {
    /// After a call.
    fn end_call(&mut self) {
        if self.state.is_none() {
            self.timer = None;
            self.first = self.now;
        }
    }

    fn end(&self, lifetime: Lifetime) -> u64 {
        let timeout = lifetime.timeout_ms.map(|length| self.last + length);
        let live = lifetime.live_ms.map(|length| self.first + length);
        timeout.into_iter().chain(live).min().unwrap_or(u64::MAX)
    }

    fn due(&self, lifetime: Lifetime) -> u64 {
        self.end(lifetime).min(self.timer.unwrap_or(u64::MAX))
    }
}

impl Cell for Held {
    fn now(&self) -> u64 {
        self.now
    }

    fn get(&self) -> Option<i64> {
        self.state
    }

    fn set(&mut self, state: i64) {
        self.state = Some(state);
    }

    fn remove(&mut self) {
        (self.state, self.timer) = (None, None);
    }

    fn wake_at(&mut self, at: u64) {
        self.timer = (at < u64::MAX).then_some(at);
    }
}

#[derive(Debug, Default, PartialEq)]
struct Given {
    changes: Vec<(i64, i64)>,
    all: Vec<(i64, i64)>,
    timed_out: Vec<(i64, i64)>,
    mapped: Vec<Called>,
}

/// The reference: keys in the order of their last change.
#[derive(Debug)]
struct Model {
    lifetime: Lifetime,
    held: Vec<Held>,
}

impl Model {
    fn batch(&mut self, now: u64, events: &[(i64, i64)]) -> Given {
        let mut given = Given::default();
        let lifetime = self.lifetime;
        // The keys of the batch in the order of their first call, and the others.
        let mut touched: Vec<Held> = Vec::new();
        let mut due: Vec<Held> = Vec::new();
        self.held.retain(|held| {
            let is_due = held.due(lifetime) <= now;
            due.extend(is_due.then(|| held.clone()));
            !is_due
        });
        due.sort_by_key(|held| held.due(lifetime));
        // What happens, by the time at which it was due: keys that are woken too leave after the others.
        let mut calls: Vec<(u64, Option<i64>, Held)> = Vec::new();
        let mut later = Vec::new();
        for held in due {
            let end = held.end(lifetime);
            let wakes = held.timer.is_some_and(|timer| timer <= end);
            if wakes && end <= now {
                later.push((end, Some(held.key), held.clone()));
            }
            calls.push((held.due(lifetime), None, held));
        }
        calls.extend(later);
        calls.sort_by_key(|(at, _, _)| *at);
        for (at, later, mut held) in calls {
            held.now = now;
            if let Some(key) = later {
                let held = touched.iter_mut().find(|held| held.key == key).unwrap();
                if let Some(state) = held.state.take() {
                    given.mapped.push((key, (2, state)));
                    given.timed_out.push((key, state));
                    held.end_call();
                }
            } else if held.timer == Some(at) {
                held.timer = None;
                given.mapped.push(woken(held.key, &mut held));
                held.end_call();
                touched.push(held);
            } else {
                given.mapped.push((held.key, (2, held.state.unwrap())));
                given.timed_out.push((held.key, held.state.unwrap()));
            }
        }
        for (key, of) in events {
            if !touched.iter().any(|held| held.key == *key) {
                let held = self.held.iter().position(|held| held.key == *key);
                let held = held.map(|at| self.held.remove(at));
                touched.push(held.unwrap_or(Held {
                    key: *key,
                    state: None,
                    first: now,
                    last: now,
                    timer: None,
                    now,
                }));
            }
            let held = touched.iter_mut().find(|held| held.key == *key).unwrap();
            (held.now, held.last) = (now, now);
            given.mapped.push(value(*key, *of, held));
            held.end_call();
        }
        touched.retain(|held| held.state.is_some());
        let pair = |held: &Held| (held.key, held.state.unwrap());
        given.changes = touched.iter().map(pair).collect();
        self.held.extend(touched);
        given.all = self.held.iter().map(pair).collect();
        given
    }
}

/// What happens after a batch.
#[derive(Debug, Clone, Copy)]
enum Then {
    Nothing,
    /// The state goes to another process.
    Move,
    /// It comes from checkpoints.
    Restore,
}

fn batches() -> impl Strategy<Value = Vec<(u64, Vec<(i64, i64)>, Then)>> {
    let gap = prop_oneof![6 => Just(1u64), 1 => 2..5u64];
    let events = prop::collection::vec((0..7i64, -60..60i64), 0..8);
    let then =
        prop_oneof![3 => Just(Then::Nothing), 1 => Just(Then::Move), 1 => Just(Then::Restore)];
    prop::collection::vec((gap, events, then), 1..30)
}

fn lengths() -> impl Strategy<Value = Lifetime> {
    let length = |most: u64| prop::option::of((1..=most).prop_map(|n| n * EVERY));
    (length(4), length(6)).prop_map(|(timeout_ms, live_ms)| Lifetime {
        timeout_ms,
        live_ms,
    })
}

/// A key of the initial state.
fn held((key, of): (i64, i64), at: u64) -> Held {
    Held {
        key,
        state: Some(of),
        first: at,
        last: at,
        timer: None,
        now: at,
    }
}

fn rows<T: Record>(of: &[RecordBatch]) -> Vec<T> {
    of.iter()
        .flat_map(|rows| records_of(rows).unwrap())
        .collect()
}

fn given(state: &KeyedState, now: u64) -> Given {
    let made = state.made.as_ref().unwrap();
    Given {
        changes: rows(&state.changed),
        all: rows(&state.table(BatchTime(now)).unwrap()),
        timed_out: rows(&made.timed_out),
        mapped: rows(&made.mapped),
    }
}

/// A checkpoint that takes in the changes since the last one.
fn capture(state: &mut KeyedState, captured: &mut Vec<Vec<u8>>, since: &mut Option<BatchTime>) {
    let Some((on, content)) = state.capture(*since) else {
        return;
    };
    if on.is_none() {
        captured.clear();
    }
    let version = state.version().unwrap();
    let part = Captured {
        state: 0,
        version,
        on,
        content,
    };
    captured.push(in_one(|to| part.write(to)).unwrap());
    state.checkpointed(version);
    *since = Some(version);
}

/// As they do after intervals that were skipped.
#[test]
fn many_keys_are_woken_and_leave_with_one_batch() {
    let lifetime = Lifetime {
        timeout_ms: Some(2 * EVERY),
        live_ms: None,
    };
    let mut state = empty(&spec(lifetime, true));
    let mut model = Model {
        lifetime,
        held: Vec::new(),
    };
    let now = 1_100;
    model.held = [(3, 7), (9, 4)].map(|row| held(row, now - EVERY)).to_vec();
    let events: Vec<(i64, i64)> = (0..2_000)
        .map(|key| (key, 1 + key % 2 + 8 * (key % 5)))
        .collect();
    let input = [batch_of(events.clone()).unwrap()];
    state.install(BatchTime(now), &input).unwrap();
    assert_eq!(given(&state, now), model.batch(now, &events));

    let now = now + 4 * EVERY;
    state.install(BatchTime(now), &[]).unwrap();
    let found = given(&state, now);
    // Most keys have two calls.
    assert!(found.mapped.len() > 3_000, "{}", found.mapped.len());
    assert_eq!(found, model.batch(now, &[]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn equal_a_list_of_keys(lifetime in lengths(), on_timeout in any::<bool>(), batches in batches()) {
        let spec = spec(lifetime, on_timeout);
        let mut state = empty(&spec);
        let mut model = Model { lifetime, held: Vec::new() };
        let (mut now, mut captured, mut since) = (1_000, Vec::new(), None);
        for (gap, events, then) in batches {
            let first = state.version().is_none();
            now += gap * EVERY;
            if first {
                model.held = [(3, 7), (9, 4)].map(|row| held(row, now - EVERY)).to_vec();
            }
            // Events of two tasks.
            let (one, other) = events.split_at(events.len() / 2);
            let input = [one, other].map(|events| batch_of(events.to_vec()).unwrap());
            state.install(BatchTime(now), &input).unwrap();
            let wanted = model.batch(now, &events);
            prop_assert_eq!(given(&state, now), wanted, "batch {}", now);
            // It runs again elsewhere.
            let mut there = moved(&state);
            there.install(BatchTime(now), &input).unwrap();
            prop_assert_eq!(read(&there), read(&state), "batch {}", now);
            let due = model.held.iter().map(|held| held.due(lifetime)).min();
            let due = due.filter(|due| *due < u64::MAX);
            let due = due.map(|due| due.next_multiple_of(EVERY).max(now + EVERY));
            let found = state.due(BatchTime(now + EVERY)).map(|due| due.from.millis());
            prop_assert_eq!(found, due);
            match then {
                Then::Nothing => {}
                Then::Move => {
                    state = there;
                    (captured, since) = (Vec::new(), None);
                }
                Then::Restore => {
                    capture(&mut state, &mut captured, &mut since);
                    state = empty(&spec);
                    for bytes in &captured {
                        state.restore(&mut ByteInput::of(bytes.clone())).unwrap();
                    }
                    (captured, since) = (Vec::new(), None);
                }
            }
            // Some changes are in an incremental checkpoint.
            if now % 300 == 0 {
                capture(&mut state, &mut captured, &mut since);
            }
        }
    }
}
