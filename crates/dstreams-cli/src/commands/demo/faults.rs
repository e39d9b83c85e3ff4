//! The faults of the demo: one worker after the other is killed and replaced, and at the end the counts of all words since
//! the start are compared with those that the producer sent.

use std::collections::HashMap;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::cluster::Workers;
use crate::error::Error;
use crate::output::warn;
use crate::program::Program;

/// Kills workers at regular times.
pub struct Faults {
    times: Interval,
    killed: u64,
    /// Counts since the start.
    totals: HashMap<String, i64>,
    /// The directory of the program, which makes the loss of several workers at once harmless.
    state: TempDir,
}

impl Faults {
    pub fn every(every: Duration) -> Result<Self, Error> {
        let state = tempfile::Builder::new().prefix("dstreams-demo-").tempdir();
        let mut times = interval_at(Instant::now() + every, every);
        times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Faults {
            times,
            killed: 0,
            totals: HashMap::new(),
            state: state.map_err(Error::Start)?,
        })
    }

    /// The program that they do not harm, and that counts words since the start.
    pub fn program(&self, program: Program) -> Result<Program, Error> {
        let program = program.with_totals();
        program.with_state_dir(Some(self.state.path()))
    }

    /// Takes the totals that a batch has changed.
    pub fn batch(&mut self, totals: Vec<(String, i64)>) {
        self.totals.extend(totals);
    }

    /// Kills the worker that is there for longest, and starts another one.
    pub fn strike(&mut self, workers: &mut Option<Workers>) -> Result<(), Error> {
        let killed = workers.as_mut().map(Workers::replace_oldest).transpose()?;
        if let Some(worker) = killed.flatten() {
            self.killed += 1;
            let (id, pid) = (worker.id, worker.pid);
            warn(format_args!(
                "kills worker {id} (pid {pid}), and starts another one"
            ));
        }
        Ok(())
    }

    /// Compares the totals with the words that were sent; returns what to say if they are the same.
    pub fn check(&self, sent: &HashMap<String, i64>) -> Result<String, Error> {
        let words = sent.keys().chain(self.totals.keys());
        let of = |counts: &HashMap<String, i64>, word| counts.get(word).copied().unwrap_or(0);
        for word in words {
            let (sent, counted) = (of(sent, word), of(&self.totals, word));
            if sent != counted {
                let word = word.clone();
                return Err(Error::Miscounted {
                    word,
                    sent,
                    counted,
                });
            }
        }
        Ok(format!(
            "killed {} workers; all {} words were counted as often as they were sent",
            self.killed,
            sent.len()
        ))
    }
}

/// Waits for the time of the next fault; never returns without faults. Cancel-safe.
pub async fn next(faults: &mut Option<Faults>) {
    match faults {
        Some(faults) => drop(faults.times.tick().await),
        None => std::future::pending().await,
    }
}
