//! [`BatchRunner`]: runs batches on the workers, and retries them after failures of machines.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dstreams::arrow::array::RecordBatch;
use dstreams::internal::{Dataset, Plans, PreviousBatch, tasks_for};
use dstreams::{Error, Result};
use dstreams_control::cluster::Finish;
use dstreams_control::{BatchTime, BlockMeta, Due};

use super::batch_state::{BatchStates, Snapshot, states};
use super::cluster_state::ClusterState;
use super::datasets::BatchRows;
use super::hub::Hub;
use crate::execute::{ClusterEngine, session_config};
use crate::plan::check;
use crate::plan::{Binding, Delivery, Gate, Job, Shapes};
use crate::retry::retryable;
use crate::worker::engine_name;

/// How long a batch is retried here after failures of machines and of the engine, before they cost it an attempt:
/// longer than it takes to notice a loss.
pub const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause before a retry: the first, and the longest.
pub const PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Runs batches on the workers of a cluster.
pub struct BatchRunner {
    hub: Arc<Hub>,
    pub engine: ClusterEngine,
    pub plans: Arc<Plans>,
    shapes: Shapes,
    rows_per_task: usize,
    pub rows: BatchRows,
    pub states: BatchStates,
}

impl BatchRunner {
    pub fn new(
        engine: ClusterEngine,
        rows_per_task: usize,
        rows: BatchRows,
        states: BatchStates,
    ) -> Self {
        BatchRunner {
            hub: Arc::clone(&states.hub),
            engine,
            plans: Arc::clone(&states.plans),
            shapes: Shapes::default(),
            rows_per_task,
            rows,
            states,
        }
    }

    /// Reads a state from its primaries. Fails if one has changed meanwhile, or the state was rebuilt: its rows may not be
    /// those of the batch.
    pub async fn read_state(
        &self,
        state: usize,
        batch: BatchTime,
    ) -> Result<Vec<Vec<RecordBatch>>> {
        let snapshot = self.states.snapshot(Some(batch)).await;
        let rows = self.rows.state(state, batch, &snapshot).await?;
        snapshot.check(&self.hub.lock())?;
        Ok(rows)
    }

    /// The first time after `after` at which a state has something to do without records.
    pub async fn due(&self, after: BatchTime) -> Result<Option<Due>> {
        let snapshot = self.states.snapshot(Some(after)).await;
        let due = self.rows.due(after, &snapshot).await?;
        snapshot.check(&self.hub.lock())?;
        Ok(due)
    }

    /// Runs a batch, which begins with the state as of the batch `before`. Retries after failures of machines.
    pub async fn run(
        &self,
        batch: BatchTime,
        before: Option<PreviousBatch>,
        attempt: u32,
        wanted: (&[BlockMeta], Wanted),
    ) -> Result<Vec<Option<Dataset>>> {
        let over = self.hub.until(|state| {
            let lost = || self.states.lost_for_good(state);
            state.broken().or_else(lost)
        });
        if wanted.1 == Wanted::All {
            let again = |state: &mut ClusterState| state.versions.recovery.committed(batch);
            self.hub.change(again);
        }
        tokio::select! {
            done = self.run_with_retries(batch, before, attempt, wanted) => done,
            error = over => Err(error),
        }
    }

    async fn run_with_retries(
        &self,
        batch: BatchTime,
        before: Option<PreviousBatch>,
        attempt: u32,
        (blocks, wanted): (&[BlockMeta], Wanted),
    ) -> Result<Vec<Option<Dataset>>> {
        let after = before.map(|before| before.batch);
        let (mut failing, mut pause) = (None, PAUSE);
        let mut era = self.hub.lock().versions.era();
        loop {
            self.note_slow_workers();
            let snapshot = self.states.snapshot(None).await;
            if std::mem::replace(&mut era, snapshot.era) != era {
                // That was no failure of the batch.
                failing = None;
            }
            let gate = Gate::default();
            let run = (batch, before, attempt);
            let run = self.run_jobs(run, (blocks, wanted), &snapshot, &gate);
            tokio::pin!(run);
            let run = async {
                tokio::select! {
                    biased;
                    opened = self.states.open_gate((&gate, &self.engine), after, &snapshot) => match opened {
                        true => Some((&mut run).await),
                        false => None,
                    },
                    done = &mut run => Some(done),
                }
            };
            // Tasks on state run only on its primary; the engine moves all others to other workers.
            let done = tokio::select! {
                done = run => done,
                lost = self.hub.until(|state| snapshot.lost_primary(state)) => {
                    let message = format!("worker {lost}, the primary of a partition of state, was lost");
                    Some(Err(retryable(message)))
                }
                () = self.hub.until(|state| (state.versions.era() != era).then_some(())) => None,
            };
            // What a run of an earlier era returns, errors too, does not count.
            let Some(done) = done.filter(|_| self.hub.lock().versions.era() == era) else {
                continue;
            };
            match done {
                Err(error)
                    if of_machines(&error)
                        && failing.get_or_insert_with(Instant::now).elapsed() < RETRY_TIMEOUT =>
                {
                    tracing::warn!(%batch, %error, ?pause, "retrying a batch");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
                Ok(_) if wanted == Wanted::All && !self.may_commit(batch, era).await => {}
                done => {
                    self.engine.batch_ended(batch);
                    return done;
                }
            }
        }
    }

    /// Whether a batch may be committed that has run on a state of this era; if not, it must run again.
    async fn may_commit(&self, batch: BatchTime, era: u32) -> bool {
        if !self.states.any() {
            return true;
        }
        loop {
            let finish = |state: &mut ClusterState| state.versions.recovery.finish(batch, era);
            match self.hub.change(finish) {
                Finish::Commit => return true,
                Finish::RunAgain => return false,
                Finish::Wait => {
                    let over = |state: &ClusterState| {
                        (!state.versions.recovery.is_running()).then_some(())
                    };
                    self.hub.until(over).await;
                }
            }
        }
    }

    /// Moves state away from workers that have become slow, and back to those that are no longer.
    fn note_slow_workers(&self) {
        let names = self.engine.slow_workers();
        let slow = |state: &ClusterState| -> BTreeMap<_, _> {
            let joined = state.roster.joined().map(|(id, _)| id);
            let slow = joined.filter_map(|id| Some((id, *names.get(&engine_name(id.0))?)));
            slow.collect()
        };
        let is_known = {
            let state = self.hub.lock();
            state.slow == slow(&state)
        };
        if !is_known {
            self.hub.change(|state| state.slow_are(slow(state)));
        }
    }

    async fn run_jobs(
        &self,
        (batch, before, attempt): (BatchTime, Option<PreviousBatch>, u32),
        (blocks, wanted): (&[BlockMeta], Wanted),
        snapshot: &Snapshot,
        gate: &Gate,
    ) -> Result<Vec<Option<Dataset>>> {
        let rows = blocks.iter().map(|block| block.rows).sum();
        let many = tasks_for(rows, self.rows_per_task, self.plans.tasks) > 1;
        let template = self.plans.of(many);
        let inputs = self
            .rows
            .inputs(blocks, if many { self.plans.tasks } else { 1 })?;
        let states_alone = wanted != Wanted::All;
        let (shape, new) = self.shapes.of(&self.plans, (many, states_alone), batch)?;
        let primaries: Vec<_> = snapshot
            .assignments
            .iter()
            .map(|h| engine_name(h.primary.0))
            .collect();
        let mut cached_at = HashMap::new();
        for roots in &shape.jobs {
            let binding = Binding {
                plans: &self.plans,
                many,
                batch,
                before,
                attempt,
                rebuilds: wanted == Wanted::Lost,
                era: snapshot.era,
                inputs: &inputs,
                primaries: &primaries,
                gate,
                cached_at: &cached_at,
                names: &snapshot.names,
            };
            let job = Job::new(&shape, roots, &binding)?;
            if new {
                check(&job.plan, &session_config(self.plans.tasks))?;
            }
            let done = self.engine.run(batch, job.plan).await?;
            // Workers that joined since the run began may have run tasks too.
            let addresses: HashMap<_, _> = {
                let state = self.hub.lock();
                let workers = state.roster.all();
                let named = workers.map(|(id, w)| (engine_name(id.0), w.address.clone()));
                named.collect()
            };
            for (at, output) in job.outputs.iter().enumerate() {
                let worker = done.workers.get(&at);
                let address = worker.and_then(|name| addresses.get(name));
                let Some(address) = address else {
                    return Err(retryable(format!(
                        "the worker that ran partition {output:?} was lost"
                    )));
                };
                cached_at.insert(*output, address.clone());
            }
        }
        if self.states.any() {
            gate.opened().await;
            if wanted == Wanted::Lost {
                self.states.rebuilt(batch, snapshot)?;
            } else {
                let due = states(template, &shape);
                let installed = (batch, before, attempt);
                self.states.install(installed, &due, snapshot).await?;
            }
        }
        let mut outputs = Vec::new();
        if states_alone {
            // Outputs are committed already: sinks must not prepare them again.
            return Ok(outputs);
        }
        for (at, (slot, timetable)) in template.outputs.iter().enumerate() {
            if !timetable.has(batch) {
                outputs.push(None);
                continue;
            }
            let dataset = match (shape.ways[slot.0], inputs.get(slot.0)) {
                (Some(Delivery::Input), Some(input)) => {
                    Dataset::Rows(Arc::new(self.rows.blocks(input).await?))
                }
                _ => {
                    let parts = cached_at.iter().filter(|((of, _), _)| *of == slot.0);
                    let mut parts: Vec<_> = parts.map(|((_, p), at)| (*p, at)).collect();
                    parts.sort_by_key(|(partition, _)| *partition);
                    self.rows
                        .dataset((batch, attempt), (at, slot.0), &parts)
                        .await?
                }
            };
            outputs.push(Some(dataset));
        }
        Ok(outputs)
    }
}

/// The results that a run of a batch is for.
#[derive(Clone, Copy, PartialEq)]
pub enum Wanted {
    All,
    /// Only states: the batch has committed already.
    States,
    /// The same while lost state is rebuilt: states that have the batch stay as they are.
    Lost,
}

/// Whether a machine or the engine failed, not the program or a sink.
fn of_machines(error: &Error) -> bool {
    let of_engine = match error {
        Error::Task { cause, .. } => &**cause,
        other => other,
    };
    let of_engine = matches!(of_engine, Error::Engine(_) | Error::Operator { .. });
    of_engine && error.is_retryable() && !error.is_of_batch()
}
