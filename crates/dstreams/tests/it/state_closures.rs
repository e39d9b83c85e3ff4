//! States of closures equal a map that takes one event after the other: contents, changes, results, leavings.

use std::collections::{BTreeMap, BTreeSet};

use dstreams::{KeyState, MapWithState, StreamContext, Track};
use proptest::prelude::*;

use crate::program::{Batches, INTERVAL, Interval, Program, block_on, cases, intervals, run};
use crate::program::{settings, small, text};

type Event = (String, i64);

fn event() -> impl Strategy<Value = Event> {
    (text(), -20..20i64)
}

/// Events since the key began, and a digest of their order.
type Seen = (i64, i64);

/// Some values drop their key.
fn next(state: Option<Seen>, value: i64) -> Option<Seen> {
    let (count, digest) = state.unwrap_or_default();
    let next = (count + 1, digest.wrapping_mul(31).wrapping_add(value));
    (value % 7 != 3).then_some(next)
}

/// Timeout in intervals.
const TIMEOUT: u64 = 3;

/// Some keys that will come, and some that will not.
fn initial() -> Vec<(String, Seen)> {
    let keys = ["a", "b", "aa", "ßä", "nobody", "a key that never comes"];
    let rows = keys.into_iter().zip(1..);
    rows.map(|(key, n)| (key.to_owned(), (n, -n))).collect()
}

fn mapping(on_timeout: bool) -> MapWithState<String, i64, Seen, String> {
    let map = MapWithState::new(
        |key,
         value: Option<i64>,
         state: &mut KeyState<Seen>,
         out: &mut dstreams::Out<'_, String>| {
            let before = state.get().copied();
            let Some(value) = value else {
                assert!(state.is_timing_out());
                return out.push(format!("{key} leaves {before:?}"));
            };
            assert!(!state.is_timing_out());
            // None for some values, two records for others.
            for n in 0..value.rem_euclid(3) {
                out.push(format!("{key} {before:?} {value} {n}"));
            }
            match next(before, value) {
                Some(next) => state.set(next),
                None => assert_eq!(state.remove(), before),
            }
        },
    );
    let map = match on_timeout {
        false => map,
        true => {
            map.on_timeout(|key, state, out| out.push(format!("{key} leaves {:?}", Some(state))))
        }
    };
    map.timeout(INTERVAL * TIMEOUT as u32).initial(initial())
}

/// A batch's results, sorted.
#[derive(Debug, Default, PartialEq)]
struct Given {
    mapped: Vec<String>,
    changes: Vec<(String, Seen)>,
    all: Vec<(String, Seen)>,
    timed_out: Vec<(String, Seen)>,
}

/// The results of `mapping` for each interval: one event after the other.
fn by_hand(input: &[Interval<Event>]) -> Vec<Given> {
    let held = initial().into_iter();
    let mut held: BTreeMap<String, (Seen, u64)> = held.map(|(k, s)| (k, (s, 0))).collect();
    let mut batches = Vec::new();
    for (now, interval) in (1u64..).zip(input) {
        let mut given = Given::default();
        held.retain(|key, (state, last)| {
            let stays = *last + TIMEOUT > now;
            if !stays {
                given.timed_out.push((key.clone(), *state));
                given
                    .mapped
                    .push(format!("{key} leaves {:?}", Some(*state)));
            }
            stays
        });
        let mut touched = BTreeSet::new();
        for (key, value) in interval.concat() {
            let before = held.remove(&key).map(|(state, _)| state);
            for n in 0..value.rem_euclid(3) {
                given.mapped.push(format!("{key} {before:?} {value} {n}"));
            }
            if let Some(state) = next(before, value) {
                held.insert(key.clone(), (state, now));
            }
            touched.insert(key);
        }
        let all = held.iter().map(|(key, (state, _))| (key.clone(), *state));
        given.all = all.collect();
        let changes = given.all.iter().filter(|(key, _)| touched.contains(key));
        given.changes = changes.cloned().collect();
        given.mapped.sort();
        batches.push(given);
    }
    batches
}

fn only<U: Ord>(batches: Batches<U>) -> Vec<Vec<U>> {
    let sorted = batches.into_iter().map(|(_, mut rows)| {
        rows.sort();
        rows
    });
    sorted.collect()
}

/// All outputs of one program, its readers side by side.
fn together(config: &dstreams::Config, input: &[Interval<Event>]) -> Vec<Given> {
    block_on(async {
        let mut program = Program::new(config.clone());
        let (queue, events) = program.ctx.queue::<Event>("in");
        let (mapped, state) = events
            .by_key()
            .map_with_state("seen", mapping(false))
            .unwrap();
        let mut mapped = mapped.collect();
        let mut views =
            [state.changes(), state.all(), state.timed_out()].map(|view| view.pairs().collect());
        let mut live = program.start().await;
        let mut batches = Vec::new();
        for interval in input {
            for block in interval {
                queue.push(block.iter().cloned()).await.unwrap();
            }
            live.batch().await;
            let mut made = mapped.try_recv().unwrap().collect().unwrap();
            made.sort();
            let [changes, all, timed_out] = views.each_mut().map(|view| {
                let mut rows = view.try_recv().unwrap().collect().unwrap();
                rows.sort();
                rows
            });
            batches.push(Given {
                mapped: made,
                changes,
                all,
                timed_out,
            });
        }
        live.running.stop().await.unwrap();
        batches
    })
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn mapped_with_state(config in settings(), input in intervals(event(), 12)) {
        prop_assert_eq!(together(&config, &input), by_hand(&input));
    }

    #[test]
    fn a_single_reader_gets_the_same(config in settings(), input in intervals(event(), 9)) {
        let wanted = by_hand(&input);
        let mapped = run(&config, &input, |_, events| {
            events.by_key().map_with_state("seen", mapping(true)).unwrap().0
        });
        let timed_out = run(&config, &input, |_, events| {
            events.by_key().map_with_state("seen", mapping(true)).unwrap().1.timed_out().pairs()
        });
        let [mapped, timed_out] = [only(mapped), only(timed_out).into_iter().map(|rows| {
            rows.into_iter().map(|(key, state)| format!("{key} {state:?}")).collect()
        }).collect::<Vec<_>>()];
        let text = |given: &Given| given.timed_out.iter().map(|(key, state)| format!("{key} {state:?}")).collect::<Vec<_>>();
        prop_assert_eq!(timed_out, wanted.iter().map(text).collect::<Vec<_>>());
        prop_assert_eq!(mapped, wanted.into_iter().map(|given| given.mapped).collect::<Vec<_>>());
    }

    /// All values of a key in a batch at once, in their order; keys without values are left alone.
    #[test]
    fn updated_by_batches(config in settings(), input in intervals(event(), 9), timeout in any::<bool>()) {
        let update = |_: &str, values: dstreams::Values<'_, i64>, state: Option<Seen>| {
            assert!(values.len() > 0 && values.clone().count() == values.len());
            // Drops the key if the batch ends so.
            values.fold(state, next)
        };
        let found = run(&config, &input, |_, events| {
            let track = Track::by_batch(update).initial(initial());
            match timeout {
                true => events.by_key().track("seen", track.timeout(INTERVAL * TIMEOUT as u32)).unwrap(),
                false => events.by_key().track("seen", track).unwrap(),
            }.all().pairs()
        });
        let found = only(found);
        let mut held: BTreeMap<_, _> = initial().into_iter().map(|(k, s)| (k, (s, 0))).collect();
        for ((now, interval), found) in (1u64..).zip(&input).zip(found) {
            held.retain(|_, (_, last)| !timeout || *last + TIMEOUT > now);
            for (key, value) in interval.concat() {
                let before = held.remove(&key).map(|(state, _)| state);
                if let Some(state) = next(before, value) {
                    held.insert(key, (state, now));
                }
            }
            let all: Vec<_> = held.iter().map(|(key, (state, _))| (key.clone(), *state)).collect();
            prop_assert_eq!(found, all);
        }
    }
}

#[test]
fn update_state_by_key_is_called_for_keys_with_values_only() {
    let input = [["a", "b", "a"].to_vec(), vec![], vec!["b"]];
    let input = input.map(|words| vec![words.into_iter().map(|w| (w.to_owned(), 1)).collect()]);
    let found = run(
        &small(2, 1, 2),
        &input,
        |_, events: &dstreams::DStream<Event>| {
            let state =
                events
                    .by_key()
                    .update_state_by_key("calls", |_, values, state: Option<Seen>| {
                        let (calls, sum) = state.unwrap_or_default();
                        Some((calls + 1, sum + values.sum::<i64>()))
                    });
            state.unwrap().all().pairs()
        },
    );
    let row = |key: &str, state| (key.to_owned(), state);
    let first = vec![row("a", (1, 2)), row("b", (1, 1))];
    let last = vec![row("a", (1, 2)), row("b", (2, 2))];
    assert_eq!(only(found), [first.clone(), first, last]);
}

#[test]
fn an_initial_key_twice_is_refused_by_name() {
    let mut ctx = StreamContext::new(INTERVAL).unwrap();
    let (_, events) = ctx.queue::<Event>("events");
    let twice = ["a", "b", "a"].map(|key| (key.to_owned(), (1, 1)));
    let track = Track::new(|_, value| (1, value), |_, _: Seen, value| Some((2, value)));
    let error = events
        .by_key()
        .track("seen", track.initial(twice))
        .err()
        .unwrap();
    let message = error.to_string();
    for part in ["track", "initial", "`a`"] {
        assert!(message.contains(part), "{message}");
    }
}

/// A key that times out leaves; a state given to it then has no effect, and ends nothing.
#[test]
fn a_key_that_leaves_cannot_be_given_a_state() {
    let event = |n| vec![vec![("a".to_owned(), n)]];
    let input = [event(1), vec![], event(2), event(3)];
    type Map = MapWithState<String, i64, i64, String>;
    let text = |key: &str, n: Option<i64>| format!("{key} {n:?}");
    let careless = |_: &str, value: Option<i64>, state: &mut KeyState<i64>| {
        let before = state.get().copied();
        state.set(before.unwrap_or_default() + value.unwrap_or(1000));
        before
    };
    let wanted = ["a None", "a Some(1)", "a None", "a Some(2)"];
    for last in [false, true] {
        let got = run(
            &small(2, 1, 2),
            &input,
            |_, events: &dstreams::DStream<Event>| {
                let map = Map::new(move |key, value, state, out| {
                    assert!(!last || value.is_some());
                    out.push(text(key, careless(key, value, state)));
                });
                let map = map.timeout(INTERVAL);
                let map = match last {
                    true => map.on_timeout(move |key, state, out| out.push(text(key, Some(state)))),
                    false => map,
                };
                events.by_key().map_with_state("careless", map).unwrap().0
            },
        );
        // In the last batch the key times out, and begins anew.
        let got: Vec<String> = got.into_iter().flat_map(|(_, rows)| rows).collect();
        assert_eq!(
            got,
            [&wanted[..], &["a None"]].concat(),
            "on_timeout: {last}"
        );
    }
}

/// A state may consist of its key only.
#[test]
fn a_state_may_have_no_columns() {
    let words = |words: &[&str]| vec![words.iter().map(|w| ((*w).to_owned(), 1)).collect()];
    let input = [words(&["a", "b", "a"]), words(&[]), words(&["c", "b", "d"])];
    let key = |key: &str| (key.to_owned(), ());
    let all = [vec![key("a"), key("b")], vec![key("a"), key("b")]];
    let last = ["a", "b", "c", "d"].map(key).to_vec();
    let wanted = [&all[..], &[last]].concat();
    for threads in [1, 3] {
        let config = small(threads, 1, 2);
        let tracked = run(&config, &input, |_, events: &dstreams::DStream<Event>| {
            let known = Track::new(|_, _| (), |_, (), _| Some(()));
            events.by_key().track("known", known).unwrap().all().pairs()
        });
        assert_eq!(only(tracked), wanted);
        let updated = run(&config, &input, |_, events: &dstreams::DStream<Event>| {
            let known = events
                .by_key()
                .update_state_by_key("known", |_, _, state: Option<()>| state.or(Some(())));
            known.unwrap().all().pairs()
        });
        assert_eq!(only(updated), wanted);
        // Its results have no columns either, and some keys have left.
        let first = run(&config, &input, |_, events: &dstreams::DStream<Event>| {
            let map = MapWithState::new(
                |_,
                 value: Option<i64>,
                 known: &mut KeyState<()>,
                 out: &mut dstreams::Out<'_, ()>| {
                    if value.is_none() || known.get().is_none() {
                        out.push(());
                    }
                    if value.is_some() {
                        known.set(());
                    }
                },
            );
            let map = map.timeout(INTERVAL * 2).initial([("z".to_owned(), ())]);
            let (first, state) = events.by_key().map_with_state("known", map).unwrap();
            let ends = state.timed_out().pairs().map(|_| ());
            first.union(&ends).unwrap()
        });
        // `a` and `b` are new; `z` leaves, reported twice; `c`, `d` and `b`, which left, are new, and `a` and `b`
        // leave.
        let counts: Vec<usize> = first.iter().map(|(_, rows)| rows.len()).collect();
        assert_eq!(counts, [2, 2, 3 + 2 * 2]);
    }
}
