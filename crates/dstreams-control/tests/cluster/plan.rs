//! [`Plan`]: the world of a seed, and what goes wrong in it.
//!
//! Each kind of trouble is switched off in half of the seeds, so that every mix of them occurs, calm worlds included.

use dstreams_control::Config;
use dstreams_control::cluster::{ClusterConfig, InputKind};

use crate::rng::Rng;

/// Milliseconds between batches; all delays are in proportion to it.
pub const INTERVAL_MS: u64 = 100;
pub const INTERVAL_US: u64 = INTERVAL_MS * 1_000;

/// The rate of each fault, per mille of its occasions.
#[derive(Clone, Default, Debug)]
pub struct Rates {
    /// A message takes up to two intervals.
    pub late: u64,
    /// A worker's message is delivered again later.
    pub duplicate: u64,
    /// A client disconnects.
    pub disconnect: u64,
    /// A copy of a block fails.
    pub copy_fails: u64,
    /// A state copy fails.
    pub state_copy_fails: u64,
    /// An attempt fails and is retried.
    pub run_fails: u64,
    /// A batch fails for good because of its records, after some workers have its changes.
    pub bad_batch: u64,
    /// A batch's change is already released when a standby asks for it.
    pub released_early: u64,
}

/// Changes to the workers; the number picks one of the live ones.
#[derive(Copy, Clone, Debug)]
pub enum Turn {
    Join,
    /// It dies, which is noticed later.
    Die(u64),
    /// It is given up but runs on for a while.
    GiveUp(u64),
    Drain(u64),
    /// From now on these are slow: one bit for each worker that is there.
    Slow(u64),
}

#[derive(Debug)]
pub struct Plan {
    pub cluster: ClusterConfig,
    pub control: Config,
    pub workers: u64,
    /// Minimum time to copy a partition's state, microseconds: also when nothing goes wrong.
    pub state_us: u64,
    /// The number of batches each producer sends.
    pub producers: Vec<u64>,
    /// How long trouble lasts, microseconds; after that the world is fair.
    pub chaos_us: u64,
    pub turns: Vec<(u64, Turn)>,
    pub rates: Rates,
}

impl Plan {
    pub fn new(rng: &mut Rng) -> Self {
        let inputs = match rng.below(4) {
            0 => vec![InputKind::Master, InputKind::Everywhere],
            1 => vec![InputKind::Everywhere, InputKind::One],
            2 => vec![InputKind::One, InputKind::Master, InputKind::Everywhere],
            _ => vec![InputKind::Everywhere],
        };
        let partitions = rng.pick(&[0, 1, 3, 5]);
        let cluster = ClusterConfig {
            copies: rng.pick(&[1, 2, 2, 2, 2, 3]),
            max_concurrent_copies: rng.pick(&[1, 2, 8]),
            max_standby_lag: 1 + rng.below(3),
            ..ClusterConfig::new(inputs, partitions)
        };
        let control = Config {
            max_attempts: u32::MAX,
            max_set_aside: u32::MAX,
            report_timeout_ms: rng.pick(&[1, INTERVAL_MS / 2, INTERVAL_MS * 2]),
            final_report_timeout_ms: INTERVAL_MS * 1_000,
            ..Config::new(INTERVAL_MS).unwrap()
        };
        let chaos_us = INTERVAL_US * (2 + rng.below(8));
        let turns = (0..rng.pick(&[0, 1, 2, 4, 7]))
            .map(|_| (rng.below(chaos_us), turn(rng)))
            .collect();
        let producers = (0..1 + rng.below(3)).map(|_| 2 + rng.below(14)).collect();
        let mut plan = Self {
            cluster,
            control,
            workers: rng.pick(&[1, 2, 3, 3, 4, 5]),
            state_us: rng.pick(&[0, 0, 0, INTERVAL_US / 2, 4 * INTERVAL_US]),
            producers,
            chaos_us,
            turns,
            rates: rates(rng),
        };
        plan.cluster.journals = rng.chance(500);
        plan.cluster.standbys = !rng.chance(200);
        plan
    }
}

fn turn(rng: &mut Rng) -> Turn {
    let which = rng.next();
    match rng.below(12) {
        10 | 11 => Turn::Slow(rng.next()),
        0..=3 => Turn::Join,
        4..=6 => Turn::Die(which),
        7 | 8 => Turn::GiveUp(which),
        _ => Turn::Drain(which),
    }
}

fn rates(rng: &mut Rng) -> Rates {
    let mut rate = |most| if rng.chance(500) { 0 } else { rng.below(most) };
    Rates {
        late: rate(300),
        duplicate: rate(300),
        disconnect: rate(150),
        copy_fails: rate(500),
        state_copy_fails: rate(500),
        run_fails: rate(300),
        bad_batch: rate(300),
        released_early: rate(100),
    }
}
