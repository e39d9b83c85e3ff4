//! [`Sabotaged`]: a machine with an injected fault. The list is in the documentation of `main.rs`.

use std::time::Duration;

use dstreams_control::cluster::{SpeculationConfig, Verdict};

use crate::machine::{Machine, Real, Stage, Task};

/// An injected fault.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Fault {
    LoserCounts,
    WinnerDropped,
    FailedCopyCounts,
    FailedOriginalCounts,
    SameWorker,
    BoundIgnored,
    MultiplierIgnored,
    FloorIgnored,
    ShareIgnored,
    BoundTasksCopied,
    NoCopies,
    OneCopyInAll,
    LoserRuns,
    NothingForgotten,
    LossIgnored,
}

/// All faults, each with the invariant that must report it.
pub const FAULTS: &[(Fault, &str)] = &[
    (Fault::LoserCounts, "one-result"),
    (Fault::WinnerDropped, "first-counts"),
    (Fault::FailedCopyCounts, "sole-failure"),
    (Fault::FailedOriginalCounts, "sole-failure"),
    (Fault::SameWorker, "elsewhere"),
    (Fault::BoundIgnored, "bound"),
    (Fault::MultiplierIgnored, "slow-everywhere"),
    (Fault::FloorIgnored, "not-early"),
    (Fault::ShareIgnored, "not-early"),
    (Fault::BoundTasksCopied, "stateless"),
    (Fault::NoCopies, "in-time"),
    (Fault::OneCopyInAll, "in-time"),
    (Fault::LoserRuns, "cancelled"),
    (Fault::NothingForgotten, "forgotten"),
    (Fault::LossIgnored, "ends"),
];

pub struct Sabotaged {
    fault: Fault,
    inner: Real,
    copied: bool,
}

impl Sabotaged {
    pub fn boxed(fault: Fault, mut config: SpeculationConfig) -> Box<dyn Machine> {
        match fault {
            Fault::BoundIgnored => config.copies = 100.0,
            Fault::MultiplierIgnored => config.multiplier = 1.0,
            Fault::FloorIgnored => config.floor = Duration::ZERO,
            Fault::ShareIgnored => config.share = 0.0,
            _ => {}
        }
        Box::new(Sabotaged {
            fault,
            inner: Real::new(config),
            copied: false,
        })
    }
}

impl Machine for Sabotaged {
    fn started(
        &mut self,
        stage: Stage,
        partitions: usize,
        task: Task,
        may_copy: bool,
        now: Duration,
    ) {
        let may_copy = may_copy || self.fault == Fault::BoundTasksCopied;
        self.inner.started(stage, partitions, task, may_copy, now);
    }

    fn avoid(&self, stage: Stage, partition: usize) -> Option<usize> {
        let avoid = self.inner.avoid(stage, partition);
        avoid.filter(|_| self.fault != Fault::SameWorker)
    }

    fn tick(&mut self, stage: Stage, free: &mut Vec<usize>, now: Duration) -> Vec<Task> {
        match self.fault {
            Fault::NoCopies => return Vec::new(),
            Fault::OneCopyInAll if self.copied => return Vec::new(),
            _ => {}
        }
        let copies = self.inner.tick(stage, free, now);
        self.copied |= !copies.is_empty();
        copies
    }

    fn finished(&mut self, stage: Stage, task: usize, now: Duration) -> Verdict<usize> {
        match (self.fault, self.inner.finished(stage, task, now)) {
            (Fault::LoserCounts, Verdict::Dropped) => Verdict::Counts,
            (Fault::WinnerDropped, Verdict::OriginalWins(_)) => Verdict::Dropped,
            (Fault::LoserRuns, Verdict::CopyWins(_)) => Verdict::Counts,
            (_, verdict) => verdict,
        }
    }

    fn failed(&mut self, stage: Stage, task: usize) -> Verdict<usize> {
        match (self.fault, self.inner.failed(stage, task)) {
            (Fault::FailedCopyCounts, Verdict::OriginalStays(_))
            | (Fault::FailedOriginalCounts, Verdict::Dropped) => Verdict::Counts,
            (_, verdict) => verdict,
        }
    }

    fn gone(&mut self, stage: Stage, task: usize) {
        self.inner.gone(stage, task);
    }

    fn lost(&mut self, worker: usize) {
        if self.fault != Fault::LossIgnored {
            self.inner.lost(worker);
        }
    }

    fn scheduled(&self, stage: Stage) -> Vec<usize> {
        self.inner.scheduled(stage)
    }

    fn stages(&self) -> Vec<Stage> {
        self.inner.stages()
    }

    fn forget(&mut self, stage: Stage) -> Vec<Task> {
        match self.fault {
            Fault::NothingForgotten => Vec::new(),
            _ => self.inner.forget(stage),
        }
    }
}
