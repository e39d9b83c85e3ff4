//! Records in the interval of their event time: each is on time, late or ahead, once, where the rule says.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use dstreams::agg::sum;
use dstreams::{Config, DStream, RddReceiver, Slack, StreamContext};
use proptest::prelude::*;

use crate::dir::Dir;
use crate::program::{
    Batches, INTERVAL, Interval, Program, block_on, cases, intervals, runs, settings, small, sorted,
};

/// A number, and its event time.
type Event = (i64, i64);

fn batches(n: usize) -> Duration {
    INTERVAL * n as u32
}

/// Event times around those of the batches, and some that are far from them.
fn event() -> impl Strategy<Value = Event> {
    let time = prop_oneof![
        20 => -300..1500i64,
        1 => Just(i64::MIN),
        1 => Just(i64::MAX),
        1 => Just(-1i64),
    ];
    (-99..99i64, time)
}

/// Intervals of waiting, and of being ahead.
type Bounds = (usize, usize);

fn slack((wait, ahead): Bounds) -> Slack {
    Slack::of(batches(wait)).ahead(batches(ahead))
}

/// What the three streams have.
#[derive(Debug, Clone, PartialEq, Default)]
struct Found {
    records: Batches<Event>,
    late: Batches<(i64, Event)>,
    ahead: Batches<(i64, Event)>,
}

impl Found {
    fn sorted(self) -> Found {
        Found {
            records: sorted(self.records),
            late: sorted(self.late),
            ahead: sorted(self.ahead),
        }
    }
}

fn end_of(time: i64) -> i128 {
    (i128::from(time).div_euclid(100) + 1) * 100
}

fn named(event: &Event) -> (i64, Event) {
    let end = end_of(event.1);
    let saturated = match end {
        end if end > i64::MAX.into() => i64::MAX,
        end => end as i64,
    };
    (saturated, *event)
}

/// The rule, record by record.
fn naive(input: &[Interval<Event>], (wait, ahead): Bounds) -> Found {
    let (wait, ahead) = (100 * wait as i128, 100 * ahead as i128);
    let times: Vec<i128> = (1..=input.len()).map(|at| 100 * at as i128).collect();
    let mut released: BTreeMap<i128, Vec<Event>> = times.iter().map(|t| (*t, vec![])).collect();
    let mut found = Found::default();
    for (t, interval) in times.iter().zip(input) {
        let (mut late, mut early) = (Vec::new(), Vec::new());
        for event in interval.iter().flatten() {
            let end = end_of(event.1);
            if *t > end + wait {
                late.push(named(event));
            } else if end > *t + ahead {
                early.push(named(event));
            } else if let Some(rdd) = released.get_mut(&(end + wait)) {
                rdd.push(*event);
            }
        }
        found.late.push((*t as u64, late));
        found.ahead.push((*t as u64, early));
    }
    let rdds = released.into_iter().map(|(t, rows)| (t as u64, rows));
    found.records = rdds.collect();
    found
}

struct Outputs(
    RddReceiver<Event>,
    RddReceiver<(i64, Event)>,
    RddReceiver<(i64, Event)>,
);

impl Outputs {
    fn of(events: &DStream<Event>, bounds: Bounds) -> Self {
        let timed = events
            .by_time("events", |(_, time)| time, slack(bounds))
            .unwrap();
        let late = timed.late().pairs().collect();
        Outputs(
            timed.records().collect(),
            late,
            timed.ahead().pairs().collect(),
        )
    }

    fn found(mut self) -> Found {
        fn all<T: dstreams::Record>(of: &mut RddReceiver<T>) -> Batches<T> {
            let all = dstreams::testing::batches(of).unwrap().into_iter();
            all.map(|(batch, records)| (batch.0, records)).collect()
        }
        Found {
            records: all(&mut self.0),
            late: all(&mut self.1),
            ahead: all(&mut self.2),
        }
    }
}

fn by_time(config: &Config, input: &[Interval<Event>], bounds: Bounds) -> Found {
    block_on(async {
        let mut program = Program::new(config.clone());
        let (queue, events) = program.ctx.queue::<Event>("in");
        let outputs = Outputs::of(&events, bounds);
        let mut live = program.start().await;
        for interval in input {
            for block in interval {
                queue.push(block.iter().copied()).await.unwrap();
            }
            live.batch().await;
        }
        live.running.abort().await.unwrap();
        outputs.found()
    })
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// A graceful stop, which runs one more batch.
    Stop,
    Kill,
}

/// Runs some intervals of a program in a directory, the first of which is number `first`.
fn run_in(
    dir: &Path,
    (config, bounds): (&Config, Bounds),
    first: usize,
    input: &[Interval<Event>],
    end: End,
) -> Found {
    block_on(async {
        let mut program = Program::after(first as u32, config.clone());
        let (queue, events) = program.ctx.queue::<Event>("in");
        let outputs = Outputs::of(&events, bounds);
        program.ctx.persist_in(dir);
        let mut live = program.start().await;
        for (at, interval) in input.iter().enumerate() {
            for block in interval {
                queue.push(block.iter().copied()).await.unwrap();
            }
            if end == End::Stop && at + 1 == input.len() {
                live.running.stop().await.unwrap();
            } else {
                live.batch().await;
            }
        }
        if end == End::Kill {
            live.running.abort().await.unwrap();
        }
        outputs.found()
    })
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn each_record_is_where_the_rule_says(
        config in settings(),
        input in intervals(event(), 14),
        bounds in (0..4usize, 0..4usize),
    ) {
        let found = by_time(&config, &input, bounds);
        prop_assert_eq!(found.clone().sorted(), naive(&input, bounds).sorted());
        // In one partition they are in order of arrival.
        let mut one = config.clone();
        one.threads = 1;
        prop_assert_eq!(by_time(&one, &input, bounds), naive(&input, bounds));
    }

    /// However long the program is down, and however it ended: what is held is released at the same batch.
    #[test]
    fn restarts_lose_nothing_and_tell_nothing_twice(
        runs in runs(),
        input in intervals(event(), 14),
        bounds in (0..4usize, 0..4usize),
    ) {
        let dir = Dir::missing();
        let mut found = Found::default();
        runs.each(&input, |first, some, is_killed| {
            let end = if is_killed { End::Kill } else { End::Stop };
            let more = run_in(dir.path(), (&runs.config, bounds), first, some, end);
            found.records.extend(more.records);
            found.late.extend(more.late);
            found.ahead.extend(more.ahead);
        });
        prop_assert_eq!(found.sorted(), naive(&input, bounds).sorted());
    }

    /// A window over event time: its slides are multiples of that.
    #[test]
    fn windows_by_event_time(
        config in settings(),
        input in intervals(event(), 14),
        (wait, ahead) in (0..4usize, 0..4usize),
        (len, slide) in (1..5usize, 1..4usize),
    ) {
        let bounds = (wait, ahead);
        let got = crate::program::run(&config, &input, |_, events| {
            let timed = events.by_time("events", |(_, time)| time, slack(bounds)).unwrap();
            // The time of the RDD is that of its records.
            let records = timed.records().with_time();
            let records = records.map(|(end, (n, time))| (n, if end_of(time) == end.into() { n } else { 1_000_000 }));
            let numbers = records.key_by(|(n, _)| n % 3).map_values(|(_, n)| n);
            numbers.window_agg(batches(len), batches(slide), sum::<i64>()).unwrap().pairs()
        });
        let records = naive(&input, bounds).records;
        let at = |end: usize| {
            let mut sums = BTreeMap::<i64, i64>::new();
            for (_, rdd) in &records[end.saturating_sub(len)..end] {
                rdd.iter().for_each(|(n, _)| *sums.entry(n % 3).or_default() += n);
            }
            (100 * end as u64, sums.into_iter().collect::<Vec<_>>())
        };
        let own = |end: &usize| (*end as i64 - wait as i64).rem_euclid(slide as i64) == 0;
        let wanted = (1..=input.len()).filter(own).map(at);
        prop_assert_eq!(sorted(got), sorted(wanted.collect()));
    }
}

fn at(interval: usize, numbers: &[i64]) -> Vec<Event> {
    // In the middle of the interval that ends then.
    let time = 100 * interval as i64 - 50;
    numbers.iter().map(|n| (*n, time)).collect()
}

/// A record of the interval 11 that comes in 11, 12, 13 is in the RDD of 13; in 14 it is late.
#[test]
fn the_example_of_the_documentation() {
    let mut input: Vec<Interval<Event>> = vec![vec![]; 14];
    for batch in 11..=14 {
        input[batch - 1] = vec![at(11, &[batch as i64])];
    }
    let found = by_time(&small(2, 1, 4), &input, (2, 2)).sorted();
    assert_eq!(
        found.records[12],
        (1300, [at(11, &[11]), at(11, &[12]), at(11, &[13])].concat())
    );
    assert_eq!(found.late[13], (1400, vec![(1100, at(11, &[14])[0])]));
    assert_eq!(
        found
            .ahead
            .iter()
            .map(|(_, rows)| rows.len())
            .sum::<usize>(),
        0
    );
}

/// Batches since the checkpoint run again, or all of them if there is none, and would release intervals at other times
/// than they did.
#[test]
fn another_slack_is_refused_at_a_restart() {
    for (every, remedy) in [(1_000, "a directory of its own"), (1, "drop_state")] {
        let mut config = small(2, 1, 4);
        config.checkpoint_every = every;
        let dir = Dir::missing();
        let input: Vec<Interval<Event>> = (1..=6).map(|batch| vec![at(batch, &[1])]).collect();
        run_in(dir.path(), (&config, (1, 3)), 0, &input, End::Stop);
        for wait in [0, 3] {
            let refused = block_on(async {
                let mut program = Program::after(6, config.clone());
                let (_, events) = program.ctx.queue::<Event>("in");
                let _outputs = Outputs::of(&events, (wait, 3));
                program.ctx.persist_in(dir.path());
                program.ctx.start().await.err().unwrap().to_string()
            });
            let wanted = format!("[slack 100 ms], and are [slack {} ms]", 100 * wait);
            assert!(
                refused.contains(&wanted) && refused.contains(remedy),
                "{refused}"
            );
        }
    }
}

/// What nothing reads is counted.
#[test]
fn unread_late_records_are_counted() {
    block_on(async {
        let mut program = Program::new(small(2, 1, 4));
        let (queue, events) = program.ctx.queue::<Event>("in");
        let slack = slack((1, 1));
        let unread = events.by_time("unread", |(_, time)| time, slack).unwrap();
        unread.records().print(0);
        let read = events.by_time("read", |(_, time)| time, slack).unwrap();
        read.late().pairs().print(0);
        let mut live = program.start().await;
        for batch in 1..=4 {
            queue.push(at(1, &[batch])).await.unwrap();
            queue.push(at(9, &[batch, -batch])).await.unwrap();
            live.batch().await;
        }
        let rejected = live.running.status().rejected;
        let counts: Vec<(bool, u64)> = rejected
            .iter()
            .map(|(of, n)| (of.starts_with("late"), *n))
            .collect();
        // Of both, four batches with two records ahead; of the first, two batches with a late one.
        assert_eq!(counts, [(true, 2), (false, 8), (false, 8)], "{rejected:?}");
        live.running.stop().await.unwrap();
    });
}

#[test]
fn a_slack_that_does_not_fit_is_refused() {
    let ms = Duration::from_millis;
    let mut ctx = StreamContext::new(INTERVAL).unwrap();
    let (_, events) = ctx.queue::<Event>("in");
    let by = |slack| events.by_time("events", |(_, time)| time, slack);
    let refused = by(Slack::of(ms(150))).unwrap_err().to_string();
    assert!(refused.contains("a slack of 150ms"), "{refused}");
    let refused = by(Slack::of(ms(100)).ahead(ms(50)))
        .unwrap_err()
        .to_string();
    assert!(refused.contains("ahead"), "{refused}");
    let timed = by(Slack::of(ms(300))).unwrap();
    let refused = by(Slack::of(ms(300))).unwrap_err().to_string();
    assert!(refused.contains("called `events`"), "{refused}");
    let again = timed
        .records()
        .by_time("again", |(_, time)| time, Slack::of(ms(0)));
    let refused = again.unwrap_err().to_string();
    assert!(refused.contains("late by 300 ms already"), "{refused}");
    let refused = timed.records().union(&events).unwrap_err().to_string();
    assert!(refused.contains("`delayed`"), "{refused}");
    let _ = timed
        .records()
        .union(&events.delayed(ms(300)).unwrap())
        .unwrap();
}
