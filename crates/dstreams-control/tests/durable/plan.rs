//! [`Plan`]: the world of a seed, and what goes wrong in it.
//!
//! Each kind of trouble is switched off in half of the seeds, so that every mix of them occurs, calm worlds
//! included.

use dstreams_control::{BatchTime, Config};

use crate::rng::Rng;

pub const INTERVAL_MS: u64 = 100;
pub const INTERVAL_US: u64 = INTERVAL_MS * 1_000;
/// Partitions of the state.
pub const PARTITIONS: usize = 2;
/// Every so many intervals something is due without records; in between, intervals may be skipped.
pub const DUE_EVERY: u64 = 7;
/// Outputs of each batch.
pub const OUTPUTS: usize = 2;

pub fn is_due(batch: BatchTime) -> bool {
    batch.0.is_multiple_of(DUE_EVERY * INTERVAL_MS)
}

/// Rates of trouble, per mille of its occasions.
#[derive(Clone, Default, Debug)]
pub struct Rates {
    /// A message between a client and a receiver is lost.
    pub lost: u64,
    /// A message comes again, later.
    pub repeated: u64,
    /// A message or a task takes up to two intervals.
    pub slow: u64,
    /// A sync of the master's journal takes up to four intervals; of another journal.
    pub slow_master: u64,
    pub slow_sync: u64,
    pub run_fails: u64,
    /// An attempt fails for good.
    pub run_fails_for_good: u64,
    pub commit_fails: u64,
    pub checkpoint_fails: u64,
    /// The master is killed, before any event.
    pub killed: u64,
    /// When the master is killed, every machine loses power.
    pub power: u64,
    /// After its end, it takes up to thirty intervals until the next process of the master begins.
    pub long_down: u64,
    /// A client disconnects, and perhaps goes elsewhere.
    pub disconnect: u64,
}

/// Trouble to come.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Trouble {
    /// The process of the master ends.
    KillMaster,
    /// Every machine loses power.
    PowerLoss,
    /// A worker's process ends, perhaps with its machine.
    KillWorker { power: bool },
    /// A worker is given up, and lives on.
    CutOff,
    /// The master is asked to stop.
    Stop,
}

#[derive(Debug)]
pub struct Plan {
    pub control: Config,
    /// There are workers; otherwise one machine, with one journal.
    pub cluster: bool,
    pub workers: usize,
    pub inputs: u32,
    /// How many numbers each client sends.
    pub clients: Vec<u64>,
    /// Batches between two checkpoints.
    pub every: u64,
    /// How long trouble lasts, microseconds; the world is fair from then on.
    pub chaos_us: u64,
    pub rates: Rates,
    pub troubles: Vec<(u64, Trouble)>,
}

impl Plan {
    pub fn new(rng: &mut Rng) -> Self {
        let cluster = rng.chance(600);
        let workers = if cluster { rng.pick(&[1, 2, 3, 3]) } else { 0 };
        let control = Config {
            max_attempts: 1_000,
            max_set_aside: u32::MAX,
            max_running: if cluster { rng.pick(&[1, 2]) } else { 1 },
            skip_missed: rng.pick(&[None, None, Some(2)]),
            ..Config::new(INTERVAL_MS).unwrap()
        };
        let chaos_us = INTERVAL_US * (2 + rng.below(if cluster { 14 } else { 8 }));
        let clients = 1 + rng.below(3);
        let clients = (0..clients).map(|_| 1 + rng.below(14)).collect();
        let count = rng.pick(&[0, 1, 2, 4]);
        let kinds = if cluster { 8 } else { 4 };
        let troubles = (0..count).map(|_| {
            let trouble = match rng.below(kinds) {
                0 | 1 => Trouble::KillMaster,
                2 => Trouble::PowerLoss,
                3 => Trouble::Stop,
                4 | 5 => Trouble::KillWorker {
                    power: rng.chance(500),
                },
                _ => Trouble::CutOff,
            };
            (rng.below(chaos_us), trouble)
        });
        let mut troubles: Vec<_> = troubles.collect();
        for (at, trouble) in troubles.clone() {
            // Two at once are worse than one after the other.
            let lost = matches!(trouble, Trouble::KillWorker { .. } | Trouble::CutOff);
            if lost && rng.chance(500) {
                let at = (at + rng.below(3 * INTERVAL_US)).min(chaos_us - 1);
                troubles.push((at, Trouble::PowerLoss));
            }
        }
        Self {
            control,
            cluster,
            workers,
            inputs: rng.pick(&[1, 1, 2]),
            clients,
            every: 1 + rng.below(3),
            chaos_us,
            rates: rates(rng),
            troubles,
        }
    }
}

fn rates(rng: &mut Rng) -> Rates {
    let mut rate = |most| if rng.chance(500) { 0 } else { rng.below(most) };
    Rates {
        lost: rate(300),
        repeated: rate(300),
        slow: rate(200),
        slow_master: rate(1_000),
        slow_sync: rate(900),
        run_fails: rate(400),
        run_fails_for_good: rate(40),
        commit_fails: rate(400),
        checkpoint_fails: rate(400),
        killed: rate(25),
        power: rate(1_000),
        long_down: rate(900),
        disconnect: rate(200),
    }
}
