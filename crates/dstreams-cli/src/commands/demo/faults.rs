//! The faults of the demo: workers and masters are killed and replaced, and at the end the counts of all words since the
//! start are compared with those that the producer sent.

use std::collections::HashMap;
use std::time::Duration;

use dstreams_cluster::WorkerStatus;
use tempfile::TempDir;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::stage::Stage;
use super::totals::Totals;
use crate::error::Error;
use crate::output::warn;
use crate::program::Program;

/// Batches after which the totals are read: their files are removed then.
const READ_EVERY: u64 = 16;

/// Kills at regular times.
pub struct Faults {
    times: Interval,
    /// Whether masters are killed too, in turn with workers.
    of_masters: bool,
    workers: u64,
    masters: u64,
    batches: u64,
    totals: Totals,
    /// Has the state directory of the program, so that the loss of several workers at once does no harm, and its totals.
    directory: TempDir,
}

impl Faults {
    pub fn new(every: Duration, of_masters: bool) -> Result<Self, Error> {
        let directory = tempfile::Builder::new().prefix("dstreams-demo-").tempdir();
        let directory = directory.map_err(Error::Start)?;
        let mut times = interval_at(Instant::now() + every, every);
        times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Faults {
            times,
            of_masters,
            workers: 0,
            masters: 0,
            batches: 0,
            totals: Totals::new(directory.path().join("totals")),
            directory,
        })
    }

    /// The program that they do not harm, and that counts words since the start.
    pub fn program(&self, program: Program) -> Result<Program, Error> {
        let state = self.directory.path().join("state");
        let program = program.with_totals(Some(self.totals.directory()))?;
        program.with_state_dir(Some(&state))
    }

    /// A batch was counted.
    pub fn batch(&mut self) -> Result<(), Error> {
        self.batches += 1;
        if self.batches.is_multiple_of(READ_EVERY) {
            self.totals.read()?;
        }
        Ok(())
    }

    /// Kills the worker that has been there longest, or the master that leads, and starts another one. Does nothing as long as
    /// the last victim is not replaced.
    pub fn strike(&mut self, stage: &mut Stage) -> Result<(), Error> {
        let of_masters = self.of_masters && stage.has_standby();
        let victim = match of_masters && self.masters <= self.workers {
            true => {
                let leader = stage.kill_leader();
                self.masters += u64::from(leader.is_some());
                leader
                    .map(|pid| format!("the master that leads (pid {pid}); its standby takes over"))
            }
            false => {
                let worker = stage.replace_worker()?;
                self.workers += u64::from(worker.is_some());
                let killed = |worker: WorkerStatus| {
                    let (id, pid) = (worker.id, worker.pid);
                    format!("worker {id} (pid {pid}), and starts another one")
                };
                worker.map(killed)
            }
        };
        if let Some(victim) = victim {
            warn(format_args!("kills {victim}"));
        }
        Ok(())
    }

    /// Compares the totals with the words that were sent; returns what to say if they are the same.
    pub fn check(mut self, sent: &HashMap<String, i64>) -> Result<String, Error> {
        let totals = self.totals.read()?;
        let words = sent.keys().chain(totals.keys());
        let of = |counts: &HashMap<String, i64>, word| counts.get(word).copied().unwrap_or(0);
        for word in words {
            let (sent, counted) = (of(sent, word), of(totals, word));
            if sent != counted {
                let word = word.clone();
                return Err(Error::Miscounted {
                    word,
                    sent,
                    counted,
                });
            }
        }
        let masters = match self.of_masters {
            true => format!(" and {} masters", self.masters),
            false => String::new(),
        };
        let (workers, words) = (self.workers, sent.len());
        Ok(format!(
            "killed {workers} workers{masters}; all {words} words were counted as often as they were sent"
        ))
    }
}

/// Waits for the time of the next kill; never returns without faults. Cancel-safe.
pub async fn next(faults: &mut Option<Faults>) {
    match faults {
        Some(faults) => drop(faults.times.tick().await),
        None => std::future::pending().await,
    }
}
