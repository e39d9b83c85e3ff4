//! Random faults for any length of time, with exact results: a program with many keys of state runs in real processes,
//! on one machine and on a cluster, fed by real producers. Processes are killed, stopped, added and drained, and
//! every batch is checked against a recount.
//!
//! `DSTREAMS_SOAK_SECONDS` is the length of each of the two, `DSTREAMS_SOAK_KEYS` the number of keys,
//! `DSTREAMS_SOAK_RATE` the records per second of each of three producers, `DSTREAMS_SOAK_SEED` the seed of the faults.

mod alone;
mod check;
mod cluster;
mod program;
mod roles;
mod watch;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use dstreams::Running;
use dstreams::record::records_of;

use self::check::Check;
use self::program::Shape;
use self::roles::{Feed, Role};
use self::watch::Watch;
use crate::killed::new_dir;
use crate::rng::Rng;

/// The limit of every wait: only failures take that long, even on a busy machine and with a million keys.
const PATIENCE: Duration = Duration::from_secs(300);
/// The signal that asks a process to end.
const SIGTERM: i32 = 15;
/// Number of producers, besides the first one.
const PRODUCERS: usize = 3;
/// Pause between two checks.
const TICK: Duration = Duration::from_millis(50);
/// Minimum lifetime of a process for the check that its memory does not grow.
const LONG_LIFE: Duration = Duration::from_secs(240);

/// The parts that both soaks share.
struct Soak {
    shape: Shape,
    feed: Feed,
    check: Check,
    watch: Watch,
    random: Rng,
    begun: Instant,
    lasts: Duration,
    faults: BTreeMap<&'static str, u32>,
}

impl Soak {
    /// Producers connect to `to`; `salt` varies the seed.
    fn new(what: &str, interval: Duration, to: &str, salt: u64) -> Self {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
        let seconds = number("DSTREAMS_SOAK_SECONDS").unwrap_or(10);
        let seed = number("DSTREAMS_SOAK_SEED").unwrap_or(u64::from(std::process::id()));
        let shape = Shape {
            dir: new_dir(),
            keys: number("DSTREAMS_SOAK_KEYS").unwrap_or(20_000),
            interval,
        };
        let rate = number("DSTREAMS_SOAK_RATE").unwrap_or(1_000);
        println!(
            "{what}: DSTREAMS_SOAK_SEED={seed}, {seconds} s, {} keys, {} records a second, {}",
            shape.keys,
            rate * PRODUCERS as u64,
            shape.dir.display()
        );
        Soak {
            feed: Feed::start(&shape, to, PRODUCERS, rate),
            check: Check::new(&shape),
            watch: Watch::start(shape.state()),
            random: Rng::new(seed ^ salt),
            begun: Instant::now(),
            lasts: Duration::from_secs(seconds),
            faults: BTreeMap::new(),
            shape,
        }
    }

    fn is_over(&self) -> bool {
        self.begun.elapsed() >= self.lasts
    }

    /// In the second quarter the program's or the master's process is not killed, so that growth becomes visible.
    fn is_quiet(&self) -> bool {
        let quarter = self.lasts / 4;
        (quarter..quarter * 2).contains(&self.begun.elapsed())
    }

    fn fault(&mut self, kind: &'static str, more: impl std::fmt::Display) {
        *self.faults.entry(kind).or_default() += 1;
        self.say(format_args!("{kind} {more}"));
    }

    fn say(&self, what: impl std::fmt::Display) {
        let at = self.begun.elapsed().as_secs_f64();
        println!("  {at:7.2} s, batch {}: {what}", self.check.batches);
    }

    /// A random time up to `most` milliseconds.
    fn up_to(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.random.below(most))
    }

    /// Time for a process to end before it is killed; `None`: unlimited.
    fn random_patience(&mut self) -> Option<Duration> {
        let (killed, time) = (self.random.chance(500), self.up_to(1_000));
        killed.then_some(time)
    }

    fn ask_to_end(&mut self, role: &mut Role, patience: Option<Duration>) {
        match patience {
            Some(time) => {
                let fault = "the program is asked to end, and killed";
                self.fault(fault, format_args!("after {time:?}"));
                role.signal("TERM");
                std::thread::sleep(time);
                role.kill();
            }
            None => {
                self.fault("the program is asked to end", "");
                role.signal("TERM");
                let status = role.end();
                // A process without its signal handler yet is killed by the signal.
                let early = status.signal() == Some(SIGTERM);
                assert!(status.success() || early, "it ended badly: {status}");
            }
        }
    }

    fn tick(&mut self) {
        self.check.advance();
        self.feed.look();
        std::thread::sleep(TICK);
    }

    /// Stops one of the producers for a while, or kills it.
    fn trouble_a_producer(&mut self) {
        let (which, kills) = (self.random.next() >> 8, self.random.chance(600));
        if kills {
            self.fault("a producer is killed", "");
            self.feed.kill(which);
            return;
        }
        let time = self.up_to(4_000);
        self.fault("a producer is stopped", format_args!("for {time:?}"));
        let role = self.feed.any(which);
        role.signal("STOP");
        std::thread::sleep(time);
        role.signal("CONT");
    }

    /// Checks that all acknowledged records are there once, and nothing but sent records, without gaps.
    fn check_producers(&self) {
        let (mut all, mut acknowledged_of_all) = (0, 0);
        for &(producer, acknowledged, sent) in self.feed.sent() {
            let there = self.check.of_producer(producer);
            assert!(
                (acknowledged..=sent).contains(&there),
                "producer {producer} sent {sent} records, {acknowledged} were acknowledged, and {there} are there"
            );
            all += there as u64;
            acknowledged_of_all += acknowledged as u64;
        }
        assert_eq!(all, self.check.records);
        println!(
            "  {} batches, {all} records, {acknowledged_of_all} of them known to be acknowledged, of {} producers",
            self.check.batches,
            self.feed.sent().len()
        );
    }

    /// Checks the state of a program that was started again.
    async fn check_state(&self, running: &Running) {
        let session = running.session().await.unwrap();
        let rows = session.table("totals").await.unwrap();
        let mut there = vec![0; self.check.totals.len()];
        for rows in rows.collect().await.unwrap() {
            for (key, total) in records_of::<(i64, i64)>(&rows).unwrap() {
                let total_of = &mut there[key as usize];
                assert_eq!(*total_of, 0, "key {key} is there twice");
                *total_of = total as u32;
            }
        }
        let wrong = (0..).zip(there.iter().zip(&self.check.totals));
        let wrong: Vec<(u64, _)> = wrong
            .filter(|(_, (there, wanted))| there != wanted)
            .collect();
        assert!(
            wrong.is_empty(),
            "{} keys are wrong (key, there, wanted): {:?}",
            wrong.len(),
            &wrong[..wrong.len().min(10)]
        );
        let keys = there.iter().filter(|total| **total > 0).count();
        println!("  {keys} keys have the right total");
    }

    fn close(self) {
        let all: u32 = self.faults.values().sum();
        println!("  {all} faults: {:?}", self.faults);
        println!("{}", self.watch.report());
        self.watch.check(LONG_LIFE);
        let _ = std::fs::remove_dir_all(&self.shape.dir);
    }
}
