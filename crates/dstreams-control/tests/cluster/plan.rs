//! [`Plan`]: what a seed's world is like, and what goes wrong in it.
//!
//! Each kind of trouble is switched off in half of the seeds, so that every mix of them occurs, calm worlds included.

use dstreams_control::Config;
use dstreams_control::cluster::{ClusterConfig, InputKind};

use crate::rng::Rng;

/// Milliseconds between batches; its microseconds are the measure of all delays.
pub const INTERVAL_MS: u64 = 100;
pub const INTERVAL_US: u64 = INTERVAL_MS * 1_000;

/// How often what goes wrong, per mille of its occasions.
#[derive(Clone, Default, Debug)]
pub struct Rates {
    /// A message takes up to two intervals.
    pub late: u64,
    /// A worker's message is delivered again, later.
    pub duplicate: u64,
    /// A client breaks its connection.
    pub disconnect: u64,
    /// A copy of a block fails.
    pub copy_fails: u64,
    /// A copy of state fails.
    pub state_copy_fails: u64,
    /// An attempt fails and is repeated.
    pub run_fails: u64,
    /// A batch fails for good, for what is in it, when some have what it changed.
    pub bad_batch: u64,
    /// What a batch changed is not there any more when a standby asks for it.
    pub lets_go: u64,
}

/// What will happen to the workers; the number picks one of those that are there.
#[derive(Copy, Clone, Debug)]
pub enum Turn {
    Join,
    /// It dies, and later that is seen.
    Die(u64),
    /// It is given up and goes on for a while.
    GiveUp(u64),
    Drain(u64),
}

#[derive(Debug)]
pub struct Plan {
    pub cluster: ClusterConfig,
    pub control: Config,
    pub workers: u64,
    /// How long a copy of a partition's state takes at least, microseconds: also when nothing goes wrong.
    pub state_us: u64,
    /// How many numbered batches each producer sends.
    pub producers: Vec<u64>,
    /// How long trouble lasts, microseconds; the world is fair from then on.
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
            max_copying: rng.pick(&[1, 2, 8]),
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
        Self {
            cluster,
            control,
            workers: rng.pick(&[1, 2, 3, 3, 4, 5]),
            state_us: rng.pick(&[0, 0, 0, INTERVAL_US / 2, 4 * INTERVAL_US]),
            producers,
            chaos_us,
            turns,
            rates: rates(rng),
        }
    }
}

fn turn(rng: &mut Rng) -> Turn {
    let which = rng.next();
    match rng.below(10) {
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
        lets_go: rate(100),
    }
}
