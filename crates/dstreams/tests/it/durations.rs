//! Every duration of the library at its extremes: correct, or refused with the nearest valid ones.

use std::time::Duration;

use dstreams::agg::count;
use dstreams::files::{Files, Format};
use dstreams::{Clock, Config, DStream, MapWithState, StreamContext, Track};

use crate::program::{Batches, INTERVAL, Program, block_on, run, small, soon};

const EXTREMES: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_millis(u64::MAX / 100 * 100),
    Duration::from_secs(u64::MAX),
    Duration::from_secs(u64::MAX / 1_000_000),
    Duration::MAX,
];
/// Longer than any program runs.
const CENTURY: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

#[test]
fn intervals_are_refused_by_name() {
    for interval in EXTREMES {
        let error = StreamContext::new(interval).err().unwrap().to_string();
        for part in ["interval", "366 days", "milliseconds"] {
            assert!(error.contains(part), "{interval:?}: {error}");
        }
    }
    assert!(StreamContext::new(Duration::from_secs(366 * 24 * 3600)).is_ok());
}

#[test]
fn windows_and_timeouts_are_refused_by_name() {
    for length in EXTREMES {
        let mut ctx = StreamContext::new(INTERVAL).unwrap();
        let (_, words) = ctx.queue::<String>("words");
        let keyed = words.keyed();
        let track = Track::new(|_, ()| 1i64, |_, n: i64, ()| Some(n + 1)).timeout(length);
        let map = MapWithState::<String, (), i64, i64>::new(|_, _, _, _| ()).timeout(length);
        let errors = [
            keyed.window_agg(length, INTERVAL, count()).err(),
            keyed.window_agg(INTERVAL, length, count()).err(),
            keyed.track("tracked", track).err(),
            keyed.map_with_state("mapped", map).err(),
        ];
        for error in errors {
            let error = error.unwrap().to_string();
            let said = error.contains("nearest that fit") || error.contains("thousand years");
            assert!(said, "{length:?}: {error}");
        }
    }
}

/// Nothing leaves a window of a century, and no key times out.
#[test]
fn durations_longer_than_any_program_work() {
    let words = |words: &[&str]| vec![words.iter().map(|w| (*w).to_owned()).collect()];
    let input = [words(&["a", "b"]), words(&[]), words(&["a"])];
    let row = |key: &str, n: i64| (key.to_owned(), n);
    let two = vec![row("a", 1), row("b", 1)];
    let last = vec![row("a", 2), row("b", 1)];
    let wanted: Batches<_> = vec![(100, two.clone()), (200, two), (300, last)];
    let window = run(&small(2, 1, 2), &input, |_, words: &DStream<String>| {
        let window = words.keyed().window_agg(CENTURY, INTERVAL, count());
        window.unwrap().pairs()
    });
    assert_eq!(crate::program::sorted(window), wanted);
    let tracked = run(&small(2, 1, 2), &input, |_, words: &DStream<String>| {
        let track = Track::new(|_, ()| 1i64, |_, n: i64, ()| Some(n + 1)).timeout(CENTURY);
        words.keyed().track("tracked", track).unwrap().all().pairs()
    });
    assert_eq!(crate::program::sorted(tracked), wanted);
}

/// Waits and deadlines may be of any length.
#[test]
fn waits_may_be_of_any_length() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.txt"), "one\n").unwrap();
    for wait in EXTREMES {
        block_on(async {
            let mut program = Program::new(small(1, 4, 4));
            // With an infinite pause, a source looks once.
            let every = wait.max(Duration::from_millis(1));
            let files = Files::dir(dir.path(), Format::Text).every(every);
            program
                .ctx
                .files::<String>("files", files)
                .unwrap()
                .for_each_rdd(|_| ());
            let (queue, numbers) = program.ctx.queue::<i64>("in");
            let mut output = numbers.collect();
            let mut live = program.start().await;
            queue.push([1]).await.unwrap();
            live.batch().await;
            let got = soon("an RDD", output.recv_timeout(Duration::MAX))
                .await
                .unwrap();
            assert_eq!(got.collect().unwrap(), [1]);
            if wait < INTERVAL {
                assert!(output.recv_timeout(wait).await.is_none());
                assert!(
                    live.running
                        .await_termination(Some(wait))
                        .await
                        .unwrap()
                        .is_none()
                );
            }
            if wait < INTERVAL {
                live.running.request_abort();
            }
            let stopped = live.running.stop_within(wait);
            let summary = soon("the stop", stopped).await.unwrap();
            assert_eq!(summary.unfinished, 0);
        });
    }
}

/// A clock moved to the end of time stays there.
#[test]
fn a_clock_at_the_end_of_time_stays_there() {
    for start in EXTREMES {
        let (manual, clock) = Clock::manual(start);
        let begun = clock.now();
        for by in EXTREMES {
            manual.advance(by);
            assert!(clock.now() >= begun);
        }
        manual.set(Duration::MAX);
        assert_eq!(clock.now().0, u64::MAX);
    }
}

/// The default settings pass, and so do those with the longest interval.
#[test]
fn settings_with_a_long_interval_pass() {
    assert!(StreamContext::with_config(Config::new(Duration::from_secs(24 * 3600))).is_ok());
}
