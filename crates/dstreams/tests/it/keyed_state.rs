//! Keyed state equals a map that takes one event after the other.

use std::collections::BTreeMap;
use std::time::Duration;

use dstreams::agg::{count, max, min, sum};
use dstreams::{StreamContext, Track};
use proptest::prelude::*;

use crate::program::{INTERVAL, Interval, block_on, cases, intervals, run, settings, text};
use crate::program::{Program, small};

type Event = (String, i64);

fn event() -> impl Strategy<Value = Event> {
    (text(), -20..20i64)
}

/// A state is the number of events since the key began, and a digest of their order.
type Seen = (i64, i64);

fn next(state: Option<Seen>, value: i64) -> Option<Seen> {
    match state {
        None => Some((1, value)),
        // Some events drop their key.
        Some(_) if value % 7 == 0 => None,
        Some((count, digest)) => Some((count + 1, digest.wrapping_mul(31).wrapping_add(value))),
    }
}

/// Timeout in intervals.
const TIMEOUT: u64 = 3;

fn tracking() -> Track<String, i64, Seen> {
    let track = Track::new(
        |_: &str, value| (1, value),
        |_: &str, state: Seen, value| next(Some(state), value),
    );
    track.timeout(INTERVAL * TIMEOUT as u32)
}

/// The contents of `tracking` after each interval, and its changes: one event after the other.
fn by_hand(input: &[Interval<Event>]) -> Vec<(BTreeMap<String, Seen>, BTreeMap<String, Seen>)> {
    let mut held: BTreeMap<String, (Seen, u64)> = BTreeMap::new();
    let mut batches = Vec::new();
    for (now, interval) in (1u64..).zip(input) {
        held.retain(|_, (_, last)| *last + TIMEOUT > now);
        let mut touched = BTreeMap::new();
        for (key, value) in interval.concat() {
            let before = held.remove(&key).map(|(state, _)| state);
            if let Some(state) = next(before, value) {
                held.insert(key.clone(), (state, now));
            }
            touched.insert(key, ());
        }
        let all: BTreeMap<_, _> = held.iter().map(|(k, (s, _))| (k.clone(), *s)).collect();
        let changed = all.iter().filter(|(key, _)| touched.contains_key(*key));
        let changed = changed.map(|(key, state)| (key.clone(), *state)).collect();
        batches.push((all, changed));
    }
    batches
}

fn maps<V: Clone>(batches: Vec<(u64, Vec<(String, V)>)>) -> Vec<BTreeMap<String, V>> {
    let map = |(_, rows): (u64, Vec<(String, V)>)| {
        let count = rows.len();
        let map: BTreeMap<_, _> = rows.into_iter().collect();
        assert_eq!(map.len(), count, "a key is there twice");
        map
    };
    batches.into_iter().map(map).collect()
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn tracked_states_equal_a_map(config in settings(), input in intervals(event(), 12)) {
        let wanted = by_hand(&input);
        let all = run(&config, &input, |_, events| {
            events.by_key().track("seen", tracking()).unwrap().all().pairs()
        });
        let changes = run(&config, &input, |_, events| {
            events.by_key().track("seen", tracking()).unwrap().changes().pairs()
        });
        let found: Vec<_> = maps(all).into_iter().zip(maps(changes)).collect();
        prop_assert_eq!(found, wanted);
    }

    #[test]
    fn running_aggregates_cover_all_batches(config in settings(), input in intervals(event(), 8)) {
        let found = run(&config, &input, |_, events| {
            let running = events.by_key().running_agg("totals", (count(), sum::<i64>(), (min::<i64>(), max::<i64>())));
            running.unwrap().all().pairs()
        });
        let mut held: BTreeMap<String, (i64, i64, (i64, i64))> = BTreeMap::new();
        let mut wanted = Vec::new();
        for interval in &input {
            for (key, value) in interval.concat() {
                let total = held.entry(key).or_insert((0, 0, (i64::MAX, i64::MIN)));
                total.0 += 1;
                total.1 += value;
                total.2 = (total.2.0.min(value), total.2.1.max(value));
            }
            wanted.push(held.clone());
        }
        prop_assert_eq!(maps(found), wanted);
    }
}

/// Both readers of a state, side by side.
#[test]
fn changes_and_the_whole_state_are_read_together() {
    block_on(async {
        let mut program = Program::new(small(2, 2, 4));
        let (queue, words) = program.ctx.queue::<String>("words");
        let counts = words.keyed().running_agg("counts", count()).unwrap();
        let mut changes = counts.changes().pairs().collect();
        let mut all = counts.all().pairs().collect();
        let mut live = program.start().await;
        let mut found = Vec::new();
        for batch in [&["a", "b"][..], &["b"], &[], &["c", "c"]] {
            queue
                .push(batch.iter().map(|word| (*word).to_owned()))
                .await
                .unwrap();
            live.batch().await;
            let mut read = [&mut changes, &mut all].map(|output| {
                let rdd = output.try_recv().unwrap();
                let mut rows: Vec<(String, i64)> = rdd.collect().unwrap();
                rows.sort_unstable();
                let rows = rows
                    .into_iter()
                    .map(|(word, count)| format!("{word}{count}"));
                rows.collect::<Vec<_>>().join(" ")
            });
            found.push(std::mem::take(&mut read));
        }
        let wanted = [
            ["a1 b1", "a1 b1"],
            ["b2", "a1 b2"],
            ["", "a1 b2"],
            ["c2", "a1 b2 c2"],
        ];
        assert_eq!(found, wanted.map(|batch| batch.map(str::to_owned)));
        live.running.stop().await.unwrap();
    });
}

#[test]
fn states_have_names_of_their_own_and_timeouts_are_multiples() {
    let mut ctx = StreamContext::new(INTERVAL).unwrap();
    let (_, events) = ctx.queue::<Event>("events");
    let _ = events.by_key().running_agg("one", count()).unwrap();
    let again = events
        .by_key()
        .track("one", tracking())
        .err()
        .unwrap()
        .to_string();
    assert!(again.contains("another state is called `one`"), "{again}");
    let uneven = tracking().timeout(Duration::from_millis(150));
    let uneven = events
        .by_key()
        .track("two", uneven)
        .err()
        .unwrap()
        .to_string();
    assert!(uneven.contains("100 ms and 200 ms"), "{uneven}");
}

/// A query during the run sees one batch, whatever happens meanwhile.
#[test]
fn states_can_be_asked_while_the_program_runs() {
    block_on(async {
        let mut program = Program::new(small(3, 2, 4));
        let (queue, words) = program.ctx.queue::<String>("words");
        let lengths = words.key_by_into::<String>(|word, key| key.push(&word[..1]));
        let lengths = lengths.map_values(|word| word.len() as i64);
        let means = lengths.running_agg("means", dstreams::agg::avg::<i64>());
        means.unwrap().changes().pairs().for_each_rdd(|_| ());
        let counts = words.keyed().running_agg("counts", count()).unwrap();
        counts.changes().pairs().for_each_rdd(|_| ());
        let mut live = program.start().await;
        let ask = async |running: &dstreams::Running, query: &str| {
            let frame = running.session().await.unwrap().sql(query).await.unwrap();
            let rows = frame.collect().await.unwrap();
            dstreams::arrow::util::pretty::pretty_format_batches(&rows)
                .unwrap()
                .to_string()
        };
        let empty = ask(&live.running, "select count(*) as n from counts").await;
        assert!(empty.contains("| 0 |"), "{empty}");
        let mut sums = Vec::new();
        for batch in [&["aa", "ab", "b"][..], &["b", "aaaa"], &["c"]] {
            queue
                .push(batch.iter().map(|word| (*word).to_owned()))
                .await
                .unwrap();
            live.batch().await;
            // One state counts all words, the other is queried with it: both are of one batch.
            let query =
                "select (select sum(value) from counts) as n, (select count(*) from means) as k";
            sums.push(
                ask(&live.running, query)
                    .await
                    .lines()
                    .nth(3)
                    .unwrap()
                    .to_owned(),
            );
        }
        assert_eq!(sums, ["| 3 | 2 |", "| 5 | 2 |", "| 6 | 3 |"]);
        let mean = live.running.table("means").await.unwrap();
        let mean = mean.filter(
            dstreams::datafusion::prelude::col("key").eq(dstreams::datafusion::prelude::lit("a")),
        );
        let rows = mean.unwrap().collect().await.unwrap();
        let rows = dstreams::record::records_of::<(String, f64)>(&rows[0]).unwrap();
        assert_eq!(rows, [("a".to_owned(), 8.0 / 3.0)]);
        assert!(live.running.table("nobody").await.is_err());
        live.running.stop().await.unwrap();
    });
}
