//! [`Machine`]: the real machine, or one with an injected fault.

use std::time::Duration;

use dstreams_control::cluster::{Speculation, SpeculationConfig, StageTask, Verdict};

/// The name of a stage, and its attempt.
pub type Stage = (usize, usize);
pub type Task = StageTask<usize>;

pub trait Machine {
    fn started(
        &mut self,
        stage: Stage,
        partitions: usize,
        task: Task,
        may_copy: bool,
        now: Duration,
    );
    fn avoid(&self, stage: Stage, partition: usize) -> Option<usize>;
    fn tick(&mut self, stage: Stage, free: &mut Vec<usize>, now: Duration) -> Vec<Task>;
    fn finished(&mut self, stage: Stage, task: usize, now: Duration) -> Verdict<usize>;
    fn failed(&mut self, stage: Stage, task: usize) -> Verdict<usize>;
    fn gone(&mut self, stage: Stage, task: usize);
    fn lost(&mut self, worker: usize);
    fn scheduled(&self, stage: Stage) -> Vec<usize>;
    fn stages(&self) -> Vec<Stage>;
    fn forget(&mut self, stage: Stage) -> Vec<Task>;
}

/// The machine as it is.
pub struct Real(Speculation<Stage, usize>);

impl Real {
    pub fn new(config: SpeculationConfig) -> Self {
        Real(Speculation::new(config))
    }

    pub fn boxed(config: SpeculationConfig) -> Box<dyn Machine> {
        Box::new(Real::new(config))
    }
}

impl Machine for Real {
    fn started(
        &mut self,
        stage: Stage,
        partitions: usize,
        task: Task,
        may_copy: bool,
        now: Duration,
    ) {
        self.0.started(&stage, partitions, task, may_copy, now);
    }

    fn avoid(&self, stage: Stage, partition: usize) -> Option<usize> {
        self.0.avoid(&stage, partition).copied()
    }

    fn tick(&mut self, stage: Stage, free: &mut Vec<usize>, now: Duration) -> Vec<Task> {
        self.0.tick(&stage, free, now)
    }

    fn finished(&mut self, stage: Stage, task: usize, now: Duration) -> Verdict<usize> {
        self.0.finished(&stage, task, now)
    }

    fn failed(&mut self, stage: Stage, task: usize) -> Verdict<usize> {
        self.0.failed(&stage, task)
    }

    fn gone(&mut self, stage: Stage, task: usize) {
        self.0.gone(&stage, task);
    }

    fn lost(&mut self, worker: usize) {
        self.0.lost(&worker);
    }

    fn scheduled(&self, stage: Stage) -> Vec<usize> {
        self.0.scheduled(&stage)
    }

    fn stages(&self) -> Vec<Stage> {
        self.0.stages()
    }

    fn forget(&mut self, stage: Stage) -> Vec<Task> {
        self.0.forget(&stage)
    }
}
