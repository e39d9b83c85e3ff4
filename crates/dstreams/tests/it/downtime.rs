//! Long downtimes with `Config::skip_quiet`: as many batches as something happens in, and the rows that each interval
//! would have given.

use std::collections::BTreeSet;
use std::path::Path;

use dstreams::{Config, OnFailure, Queue};

use crate::dir::Dir;
use crate::program::{INTERVAL, Live, Program, block_on, small, until};
use crate::quiet_program::until as until_batch;
use crate::quiet_program::{
    AfterPauses, Events, Log, PAUSES, Timers, Words, describe, end, over_pauses, skipping,
};
use crate::restart::{PLACE, Process};

/// 24 h of the interval.
const DAY: u32 = 864_000;

struct Running {
    live: Live,
    queue: Queue<(String, f64)>,
}

/// Starts the program; its clock shows so many intervals.
async fn start(config: Config, dir: Option<&Dir>, at: u32, log: &Log, timeout: u32) -> Running {
    let mut program = Program::after(at, config);
    let queue = describe(&mut program.ctx, log, timeout);
    if let Some(dir) = dir {
        program.ctx.persist_in(dir.path());
    }
    let live = program.start().await;
    Running { live, queue }
}

impl Running {
    async fn push(&self, word: &str, value: f64) {
        self.queue.push([(word.to_owned(), value)]).await.unwrap();
    }

    fn set(&self, intervals: u32) {
        self.live.clock.set(INTERVAL * intervals);
    }

    async fn until(&mut self, batch: u32) {
        until_batch(&mut self.live, batch).await;
    }

    async fn batch(&mut self, at: u32) {
        end(&mut self.live, at).await;
    }

    async fn abort(self) {
        self.live.running.abort().await.unwrap();
    }
}

/// Of one record in batch 1: windows, the one with RDDs every second interval, the two time-outs.
fn busy(timeout: u32) -> Vec<u64> {
    let [timeout, peaks] = [1 + timeout, 4 + 2 * timeout].map(u64::from);
    vec![1, 2, 3, 4, 5, timeout, peaks]
}

fn one(row: &str) -> Vec<String> {
    vec![row.to_owned()]
}

#[test]
fn a_day_has_the_batches_in_which_something_happens() {
    let (dir, log) = (&Dir::new(), &Log::default());
    // Six hours.
    let timeout = DAY / 4;
    block_on(async {
        let mut run = start(skipping(), Some(dir), 0, log, timeout).await;
        run.push("a", 1.5).await;
        run.batch(1).await;
        run.abort().await;

        let mut run = start(skipping(), Some(dir), DAY, log, timeout).await;
        run.until(4 + 2 * timeout).await;
        let totals = run.live.running.table("totals").await.unwrap();
        assert_eq!(totals.count().await.unwrap(), 1);
        // What comes now belongs to now.
        run.push("a", 2.5).await;
        run.batch(DAY + 1).await;
        run.abort().await;

        // The journal has the skips; nothing is counted twice.
        let mut run = start(skipping(), Some(dir), DAY + 1, log, timeout).await;
        run.push("a", 0.5).await;
        run.batch(DAY + 2).await;
        run.abort().await;
    });
    let day = u64::from(DAY);
    let expected: BTreeSet<u64> = busy(timeout)
        .into_iter()
        .chain([day + 1, day + 2])
        .collect();
    assert_eq!(log.batches(), expected);
    let left = u64::from(1 + timeout);
    assert_eq!(log.of("left"), [(left, one(r#"("a", 1)"#))]);
    let past = u64::from(4 + 2 * timeout);
    assert_eq!(log.of("past peaks"), [(past, one(r#"("a", 1)"#))]);
    let totals = [(1, 1), (day + 1, 2), (day + 2, 3)];
    let totals = totals.map(|(batch, total)| (batch, vec![format!(r#"("a", {total})"#)]));
    assert_eq!(log.of("totals"), totals);
    let windows = log.of("windows");
    let of = |values: &str| vec![format!(r#"("a", ({values}))"#)];
    let expected = [
        (1, of("1, 1.5, 1.5")),
        (2, of("1, 1.5, 1.5")),
        (3, of("1, 1.5, 1.5")),
        (day + 1, of("1, 2.5, 2.5")),
        (day + 2, of("2, 2.5, 1.5")),
    ];
    assert_eq!(windows, expected);
}

/// Starts a program; its clock shows so many intervals.
async fn start_of<P: AfterPauses>(
    config: &Config,
    dir: Option<&Dir>,
    at: u32,
    log: &Log,
) -> (Live, P) {
    let mut program = Program::after(at, config.clone());
    let described = P::describe(&mut program.ctx, log);
    if let Some(dir) = dir {
        program.ctx.persist_in(dir.path());
    }
    (program.start().await, described)
}

/// The program without a pause: interval by interval.
async fn interval_by_interval<P: AfterPauses>(log: &Log) {
    let (mut live, program) = start_of::<P>(&small(2, 4, 8), None, 0, log).await;
    let mut at = 0;
    for (number, pause) in (1u8..).zip(PAUSES) {
        for _ in 0..pause {
            at += 1;
            end(&mut live, at).await;
        }
        at += 1;
        program.push(number, at).await;
        end(&mut live, at).await;
    }
    live.running.abort().await.unwrap();
}

/// Each pause is between two processes.
async fn by_processes<P: AfterPauses>(log: &Log) {
    let dir = Dir::new();
    let mut at = 0;
    for (number, pause) in (1u8..).zip(PAUSES) {
        let last = at + pause;
        let (mut live, program) = start_of::<P>(&skipping(), Some(&dir), last, log).await;
        match (number, pause) {
            // It begins after this pause.
            (1, _) | (_, 0) => {}
            (_, 1..=101) => until_batch(&mut live, last).await,
            _ => {}
        }
        at = last + 1;
        program.push(number, at).await;
        end(&mut live, at).await;
        live.running.abort().await.unwrap();
    }
}

/// Without a pause, over pauses, and by several processes; returns the batches of the first two.
fn same_rows<P: AfterPauses>() -> [usize; 2] {
    let (each, skipped, killed) = (Log::default(), Log::default(), Log::default());
    block_on(async {
        interval_by_interval::<P>(&each).await;
        let (mut live, program) = start_of::<P>(&skipping(), None, 0, &skipped).await;
        over_pauses(&mut live, &program).await;
        live.running.abort().await.unwrap();
        by_processes::<P>(&killed).await;
    });
    assert_eq!(skipped.rows(), each.rows());
    // Its first process began after the first pause.
    assert_eq!(killed.rows(), each.rows());
    let all: u32 = PAUSES.iter().map(|pause| pause + 1).sum();
    assert_eq!(each.batches().len() as u32, all);
    [each, skipped].map(|log| log.batches().len())
}

#[test]
fn a_gap_gives_the_rows_that_each_interval_would_have_given() {
    let [all, skipped] = same_rows::<Words>();
    assert!(skipped < all / 3, "{skipped} of {all}");
}

#[test]
fn a_gap_gives_what_is_held_when_it_is_due() {
    let [all, skipped] = same_rows::<Events>();
    assert!(skipped < 2 * all / 3, "{skipped} of {all}");
}

#[test]
fn a_gap_wakes_keys_when_their_timers_are_due() {
    let [all, skipped] = same_rows::<Timers>();
    assert!(skipped < all / 2, "{skipped} of {all}");
}

/// Each process runs one more of the batches in the gap, and then it ends.
#[test]
fn a_process_that_ends_in_a_gap_is_followed_by_one_that_goes_on() {
    let (dir, log, timeout) = (&Dir::new(), &Log::default(), SHORT);
    let mut busy = busy(timeout);
    block_on(async {
        let mut run = start(skipping(), Some(dir), 0, log, timeout).await;
        run.push("a", 1.5).await;
        run.batch(1).await;
        run.abort().await;
        let mut begins = 1;
        for batch in &busy[1..] {
            let batch = *batch as u32;
            let mut run = start(skipping(), Some(dir), DAY, log, timeout).await;
            // The one before may have run more, before it ended.
            if !log.batches().contains(&u64::from(batch)) {
                run.until(batch).await;
            }
            run.abort().await;
            begins += 1;
        }
        assert_eq!(begins, 7);
        let mut run = start(skipping(), Some(dir), DAY, log, timeout).await;
        run.push("b", 0.5).await;
        run.batch(DAY + 1).await;
        run.abort().await;
    });
    busy.push(u64::from(DAY + 1));
    assert_eq!(log.batches(), busy.iter().copied().collect());
    assert_eq!(log.of("left"), [(151, one(r#"("a", 1)"#))]);
    assert_eq!(log.of("past peaks"), [(304, one(r#"("a", 1)"#))]);
}

const SHORT: u32 = 150;

/// Not a test: the program in a gap, until it is killed or has run all that is due.
#[test]
#[ignore = "a process of other tests"]
fn the_program_in_a_gap() {
    let Ok(place) = std::env::var(PLACE) else {
        return;
    };
    let place = Path::new(&place);
    let log = Log::in_dir(&place.join("log"));
    block_on(async {
        let mut program = Program::after(DAY, skipping());
        let _queue = describe(&mut program.ctx, &log, SHORT);
        program.ctx.persist_in(place.join("state"));
        let live = program.start().await;
        // The last output of the last batch that is due.
        let last = place.join("log").join(format!("{}-left", 4 + 2 * SHORT));
        until("the last batch", || last.exists()).await;
        live.running.abort().await.unwrap();
    });
}

#[test]
fn a_process_that_is_killed_in_a_gap_is_followed_by_one_that_goes_on() {
    let each = ["batch:cut", "commit:begins", "commit:done"];
    for point in each
        .into_iter()
        .flat_map(|point| [1, 4, 6].map(|n| format!("{point}#{n}")))
    {
        let dir = Dir::new();
        std::fs::create_dir_all(dir.join("log")).unwrap();
        block_on(async {
            let mut program = Program::new(skipping());
            let queue = describe(&mut program.ctx, &Log::in_dir(&dir.join("log")), SHORT);
            program.ctx.persist_in(dir.join("state"));
            let mut live = program.start().await;
            queue.push([("a".to_owned(), 1.5)]).await.unwrap();
            live.batch().await;
            live.running.abort().await.unwrap();

            let test = "downtime::the_program_in_a_gap";
            let place = dir.path().display().to_string();
            let mut killed = Process::start_as(test, dir.path(), &place, Some(&point));
            assert!(!killed.end().await.success(), "{point}");
            assert!(dir.join("crashed").exists(), "{point}");
            let mut next = Process::start_as(test, dir.path(), &place, None);
            assert!(next.end().await.success(), "{point}");
        });
        let log = Log::read(&dir.join("log"));
        assert_eq!(log.batches(), busy(SHORT).into_iter().collect(), "{point}");
        let left = [(u64::from(1 + SHORT), one(r#"("a", 1)"#))];
        assert_eq!(log.of("left"), left, "{point}");
        let past = [(u64::from(4 + 2 * SHORT), one(r#"("a", 1)"#))];
        assert_eq!(log.of("past peaks"), past, "{point}");
    }
}

/// The state from before it is made from batches between which intervals were skipped.
#[test]
fn a_batch_is_set_aside_after_a_gap() {
    let (dir, log, timeout) = (&Dir::new(), &Log::default(), 200);
    let mut config = skipping();
    config.attempts = 1;
    config.on_failure = OnFailure::SetAside;
    config.checkpoint_every = 1_000;
    block_on(async {
        let mut run = start(config.clone(), Some(dir), 0, log, timeout).await;
        run.push("a", 1.5).await;
        run.batch(1).await;
        run.set(DAY);
        run.until(4 + 2 * timeout).await;
        run.push("bad", 0.0).await;
        run.batch(DAY + 1).await;
        run.push("a", 2.5).await;
        run.batch(DAY + 2).await;
        run.abort().await;
        // A restart runs all of them again.
        let mut run = start(config, Some(dir), DAY + 2, log, timeout).await;
        run.push("a", 2.5).await;
        run.batch(DAY + 3).await;
        run.abort().await;
    });
    let totals = [(1, 1), (u64::from(DAY) + 2, 2), (u64::from(DAY) + 3, 3)];
    let totals = totals.map(|(batch, total)| (batch, vec![format!(r#"("a", {total})"#)]));
    assert_eq!(log.of("totals"), totals);
}

#[test]
fn a_program_with_rows_in_each_interval_has_each() {
    block_on(async {
        let mut program = Program::new(skipping());
        let (_queue, words) = program.ctx.queue::<String>("words");
        let mut counts = words.count().unwrap().collect();
        let mut live = program.start().await;
        live.clock.advance(INTERVAL * 150);
        for batch in 1..=150 {
            assert_eq!(live.report().await.unwrap().batch.millis(), 100 * batch);
            assert_eq!(counts.recv().await.unwrap().collect().unwrap(), [0]);
        }
        live.running.abort().await.unwrap();
    });
}

/// A clock that was far ahead for a moment costs one batch, not the time until then.
#[test]
fn a_clock_that_was_a_day_ahead_for_a_moment_is_no_gap() {
    let log = &Log::default();
    block_on(async {
        let mut run = start(skipping(), None, 0, log, 150).await;
        run.set(DAY);
        run.until(1).await;
        run.set(2);
        run.push("a", 1.5).await;
        run.batch(3).await;
        run.abort().await;
    });
    assert_eq!(log.batches(), [1, 2, 3].into());
}
