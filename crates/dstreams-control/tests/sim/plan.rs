//! [`Plan`]: the world of a seed, and what goes wrong in it.
//!
//! Each kind of trouble is switched off in half of the seeds, so that every mix of them occurs, calm worlds included.

use dstreams_control::{Config, ReceiverId};

use crate::program::Program;
use crate::rng::Rng;

/// Rates of trouble, per mille of its occasions.
#[derive(Clone, Default, Debug)]
pub struct Rates {
    /// A report comes after up to three intervals.
    pub late_report: u64,
    /// A report comes after up to twenty intervals, later than even the last cut waits.
    pub very_late_report: u64,
    /// An event is delivered again, later.
    pub duplicate: u64,
    /// An attempt fails and may be repeated.
    pub run_fails: u64,
    /// An attempt fails for good.
    pub run_fails_for_good: u64,
    /// A batch cannot be set aside.
    pub set_aside_fails: u64,
    /// A commit fails and may be repeated.
    pub commit_fails: u64,
    /// A commit fails for good.
    pub commit_fails_for_good: u64,
    /// Before an event, a stale or foreign one is delivered.
    pub noise: u64,
    /// The node stalls for up to six intervals.
    pub stall: u64,
    /// The node stalls for up to 150 intervals, where some may be skipped.
    pub long_stall: u64,
    /// The node does not know what is due, and names the next interval.
    pub due_unknown: u64,
    /// The clock steps back by up to three intervals, or forward again.
    pub clock_step: u64,
    /// A block does not survive when its receiver leaves.
    pub block_lost: u64,
    /// A run takes up to two intervals instead of a third of one.
    pub slow_run: u64,
}

/// A planned stop.
#[derive(Copy, Clone, Debug)]
pub struct PlannedStop {
    pub graceful: bool,
    /// Microseconds from then.
    pub deadline: Option<u64>,
}

/// The world of a seed.
#[derive(Debug)]
pub struct Plan {
    pub config: Config,
    pub program: Program,
    /// The receivers at the start.
    pub receivers: Vec<ReceiverId>,
    /// How many of them join before the start, instead of being in its list.
    pub early: usize,
    /// When receivers join and leave, after the start.
    pub joins: Vec<u64>,
    pub leaves: Vec<u64>,
    /// How long trouble lasts, microseconds; the world is fair from then on.
    pub chaos_us: u64,
    pub rates: Rates,
    /// Stops during the trouble, and how long after its start.
    pub stops: Vec<(u64, PlannedStop)>,
    /// The stop of a world that has survived.
    pub last_stop: PlannedStop,
    /// The clock reading at the beginning, microseconds.
    pub epoch_us: u64,
}

impl Plan {
    pub fn new(rng: &mut Rng) -> Self {
        let interval_ms = rng.pick(&[1, 10, 250, 1_000]);
        let config = Config {
            max_attempts: 1 + u32::try_from(rng.below(4)).unwrap(),
            max_set_aside: rng.pick(&[0, 0, 1, 2, 100]),
            max_running: rng.pick(&[0, 1, 2, 2, 3]),
            report_timeout_ms: rng.pick(&[1, interval_ms / 2, interval_ms * 2]).max(1),
            source_timeout_ms: rng.pick(&[0, interval_ms * 4]),
            final_report_timeout_ms: rng.pick(&[0, interval_ms * 8]),
            max_empty_waiting: rng.pick(&[0, 2, 16]),
            skip_missed: rng.pick(&[None, None, Some(0), Some(10)]),
            mark_intervals: rng.pick(&[false, true]),
            ..Config::new(interval_ms).unwrap()
        };
        let program = Program {
            window: rng.pick(&[0, 0, 3]),
            timeout: rng.pick(&[0, 5, 40]),
        };
        let interval_us = interval_ms * 1_000;
        let receivers: Vec<_> = (0..rng.pick(&[0, 1, 1, 2, 2, 3])).map(ReceiverId).collect();
        let chaos_us = interval_us * (2 + rng.below(20));
        let early = usize::try_from(rng.below(receivers.len() as u64 + 1)).unwrap();
        let mut moments = || {
            let count = rng.pick(&[0, 0, 0, 1, 2, 5]);
            (0..count).map(|_| rng.below(chaos_us)).collect()
        };
        let (joins, leaves) = (moments(), moments());
        let stops = match rng.below(10) {
            0..=3 => Vec::new(),
            4..=8 => vec![(rng.below(chaos_us), stop(rng, interval_us))],
            _ => (0..3)
                .map(|_| (rng.below(chaos_us), stop(rng, interval_us)))
                .collect(),
        };
        let last_stop = stop(rng, interval_us);
        let epoch_us = 1_700_000_000_000_000 + rng.below(5_000_000);
        Self {
            config,
            program,
            receivers,
            early,
            joins,
            leaves,
            chaos_us,
            rates: rates(rng),
            stops,
            last_stop,
            epoch_us,
        }
    }
}

fn rates(rng: &mut Rng) -> Rates {
    let mut rate = |most| if rng.chance(500) { 0 } else { rng.below(most) };
    Rates {
        late_report: rate(400),
        very_late_report: rate(60),
        duplicate: rate(400),
        run_fails: rate(500),
        run_fails_for_good: rate(30),
        set_aside_fails: rate(400),
        commit_fails: rate(400),
        commit_fails_for_good: rate(30),
        noise: rate(300),
        stall: rate(50),
        long_stall: rate(30),
        due_unknown: rate(500),
        clock_step: rate(80),
        block_lost: rate(900),
        slow_run: rate(800),
    }
}

fn stop(rng: &mut Rng, interval_us: u64) -> PlannedStop {
    let graceful = rng.chance(650);
    let deadline = rng.chance(400).then(|| rng.below(interval_us * 6));
    PlannedStop { graceful, deadline }
}
