//! The engine of one machine: tasks on the threads of this process.

use std::collections::HashMap;
use std::panic::Location;
use std::sync::Arc;

use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::prelude::SessionConfig;
use dstreams_control::BatchTime;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::engine::{Job, JobOutput};
use super::task;
use crate::config::Config;
use crate::error::{Error, Operator, Result};
use crate::plan::{Datasets, Partitions, ProbeStep, Stage, StateStep, Step};
use crate::stream::rows::panic_message;
use crate::stream::timetable::Timetable;

/// Runs jobs on its own threads, so that tasks do not delay receiving and committing.
pub(crate) struct LocalEngine {
    threads: Option<Runtime>,
    config: SessionConfig,
    resources: Arc<RuntimeEnv>,
    shuffle: Option<u64>,
}

impl LocalEngine {
    pub fn new(config: &Config) -> Result<Self> {
        let threads = Builder::new_multi_thread()
            .worker_threads(config.threads)
            .thread_name("dstreams-task")
            .enable_all()
            .build();
        let threads = threads.map_err(|error| Error::Thread {
            what: "the threads for tasks (`threads`)",
            source: Arc::new(error),
        })?;
        Ok(LocalEngine {
            threads: Some(threads),
            config: SessionConfig::new().with_batch_size(config.rows_per_batch),
            resources: Arc::new(RuntimeEnv::default()),
            shuffle: config.shuffle_tasks,
        })
    }

    /// Runs a job; dropping the future aborts it.
    pub async fn run(self: &Arc<Self>, job: Job) -> Result<JobOutput> {
        let engine = Arc::clone(self);
        // The whole job runs on the engine's threads: no other thread is woken between steps.
        let job = self.spawn(async move { engine.steps(job).await })?;
        job.finish(&Operator::new("job", Location::caller())).await
    }

    fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<Aborting<T>> {
        let threads = self.threads.as_ref().ok_or(Error::NotRunning)?;
        Ok(Aborting(threads.spawn(future)))
    }

    async fn steps(&self, job: Job) -> Result<JobOutput> {
        let datasets = Arc::new(Datasets::new(job.batch, job.template.slots));
        for (slot, rows) in job.template.inputs.iter().zip(&job.inputs) {
            datasets.set(*slot, Arc::clone(rows));
        }
        let context = self.context(&datasets, job.batch);
        for step in &job.template.steps {
            match step {
                Step::Run(stage) => {
                    if stage.at.has(job.batch) {
                        let rows = self.stage(stage, &context, job.batch).await?;
                        datasets.set(stage.into, rows);
                    }
                }
                Step::State(state) => self.state(state, &job, &datasets).await?,
                Step::Probe(probe) => self.probe(probe, &job, &datasets).await?,
            }
        }
        let outputs = job.template.outputs.iter();
        let due = |at: &Timetable| at.has(job.batch);
        Ok(JobOutput(
            outputs
                .map(|(slot, at)| datasets.get(*slot).filter(|_| due(at)).cloned())
                .collect(),
        ))
    }

    fn context(&self, datasets: &Arc<Datasets>, batch: BatchTime) -> Arc<TaskContext> {
        let config = self.config.clone().with_extension(Arc::clone(datasets));
        Arc::new(TaskContext::new(
            None,
            batch.millis().to_string(),
            config,
            HashMap::new(),
            HashMap::new(),
            HashMap::new(),
            HashMap::new(),
            Arc::clone(&self.resources),
        ))
    }

    async fn stage(
        &self,
        stage: &Stage,
        context: &Arc<TaskContext>,
        batch: BatchTime,
    ) -> Result<Partitions> {
        // Joins retain their build side, and metrics grow with each execution: reset them.
        let plan = reset_plan_states(Arc::clone(&stage.plan))?;
        let copies = stage.copies || self.shuffle.is_some();
        let task = |partition| {
            let (plan, context, route) =
                (Arc::clone(&plan), Arc::clone(context), stage.route.clone());
            async move {
                let plan = if copies {
                    reset_plan_states(plan)?
                } else {
                    plan
                };
                task::run_task(plan, partition, context, route, batch).await
            }
        };
        if stage.tasks == 1 && self.shuffle.is_none() {
            let rows = task(0).await.map_err(|error| error.of(&stage.operator))?;
            return Ok(Arc::new(task::join(vec![rows], &stage.route)));
        }
        let mut order: Vec<usize> = (0..stage.tasks).collect();
        if let Some(seed) = self.shuffle {
            shuffle(&mut order, seed ^ batch.millis());
        }
        let mut running = Vec::new();
        for partition in order {
            running.push((partition, self.spawn(task(partition))?));
        }
        let mut rows = vec![Vec::new(); stage.tasks];
        for (partition, task) in running {
            // A task that ran twice contributes the rows of its last run.
            rows[partition] = task.finish(&stage.operator).await?;
        }
        Ok(Arc::new(task::join(rows, &stage.route)))
    }

    async fn state(&self, step: &StateStep, job: &Job, datasets: &Datasets) -> Result<()> {
        let delta = datasets.get(step.from);
        let read = step.at.has(job.batch);
        if delta.is_none() && !read {
            return Ok(());
        }
        let mut running = Vec::new();
        for partition in 0..job.installs.partitions(step.state) {
            let (installs, delta) = (Arc::clone(&job.installs), delta.cloned());
            let (state, batch, before) = (step.state, job.batch, job.before);
            running.push(self.spawn(async move {
                // I6 (ARCHITECTURE.md): the only mutation.
                if let Some(delta) = delta {
                    installs.install(state, partition, batch, before, &delta[partition])?;
                }
                match read {
                    true => installs.read(state, partition),
                    false => Ok(Vec::new()),
                }
            })?);
        }
        let mut rows = Vec::new();
        for task in running {
            rows.push(task.finish(&step.operator).await?);
        }
        datasets.set(step.into, Arc::new(rows));
        Ok(())
    }

    async fn probe(&self, step: &ProbeStep, job: &Job, datasets: &Datasets) -> Result<()> {
        let Some(rows) = datasets.get(step.from) else {
            return Ok(());
        };
        let mut running = Vec::new();
        for partition in 0..job.installs.partitions(step.state) {
            let (installs, rows) = (Arc::clone(&job.installs), Arc::clone(rows));
            let (state, batch, probe) = (step.state, job.batch, step.probe.clone());
            running.push(self.spawn(async move {
                installs.probe(state, partition, batch, &probe, &rows[partition])
            })?);
        }
        let mut found = Vec::new();
        for task in running {
            found.push(task.finish(&step.operator).await?);
        }
        datasets.set(step.into, Arc::new(found));
        Ok(())
    }
}

impl Drop for LocalEngine {
    fn drop(&mut self) {
        // Dropping a runtime inside another one's task would block it.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

/// A spawned task that is aborted when dropped.
struct Aborting<T>(JoinHandle<Result<T>>);

impl<T> Aborting<T> {
    /// The result; a panic becomes the error of `operator`.
    async fn finish(mut self, operator: &Operator) -> Result<T> {
        match (&mut self.0).await {
            Ok(result) => result.map_err(|error| error.of(operator)),
            Err(error) => {
                let message = match error.try_into_panic() {
                    Ok(panic) => panic_message(&*panic),
                    Err(error) => error.to_string(),
                };
                Err(Error::Panic {
                    operator: operator.clone(),
                    message,
                })
            }
        }
    }
}

impl<T> Drop for Aborting<T> {
    fn drop(&mut self) {
        self.0.abort()
    }
}

/// A seeded permutation with one item twice.
fn shuffle(order: &mut Vec<usize>, seed: u64) {
    let mut state = seed | 1;
    let mut next = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound as u64) as usize
    };
    let again = order[next(order.len())];
    order.push(again);
    for at in (1..order.len()).rev() {
        order.swap(at, next(at + 1));
    }
}
