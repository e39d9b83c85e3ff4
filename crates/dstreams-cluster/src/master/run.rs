//! [`Remote`]: workers on other machines carry out what the controller decides.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use dstreams::cluster::{BlockStore, Held, Partitions, Plans, Step, Template, Workers, tasks_for};
use dstreams::{Closing, Result};
use dstreams_control::cluster::{ClusterEvent, WorkerId};
use dstreams_control::{BatchTime, BlockId, BlockMeta, Event, ReceiverId};
use tokio_util::task::TaskTracker;

use super::hub::{Holders, Hub, Own};
use crate::data::Peers;
use crate::execute::{Engine, retryable, session_config};
use crate::link::ToWorker;
use crate::plan::{Binding, Job, KeptId, Shape, Shapes, Slice, Source, Way, check};
use crate::worker::engine_name;

/// See the module.
pub struct Remote {
    pub hub: Arc<Hub>,
    pub engine: Engine,
    pub plans: Arc<Plans>,
    pub peers: Peers,
    pub rows_per_task: usize,
    /// Where this process serves blocks of its own.
    pub address: String,
    pub own: Own,
    pub store: Arc<BlockStore>,
    pub closing: Closing,
    pub sources: TaskTracker,
    pub shapes: Shapes,
    /// The newest batch that has taken effect: what installed more can run again on less.
    pub committed: Mutex<Option<BatchTime>>,
}

/// The workers at the start of a run.
struct Snapshot {
    /// By address: their names for the engine.
    names: HashMap<String, String>,
    /// By name for the engine.
    addresses: HashMap<String, String>,
    holders: Vec<Holders>,
}

impl Remote {
    fn has_windows(&self) -> bool {
        !self.plans.windows.is_empty()
    }

    fn committed(&self) -> Option<BatchTime> {
        *self
            .committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for workers, one at least, and for a holder of each partition.
    async fn snapshot(&self) -> Snapshot {
        let partitions = if self.has_windows() {
            self.plans.tasks
        } else {
            0
        };
        self.hub
            .until(|hub| {
                let workers = hub.workers();
                let joined = workers.iter().filter(|(_, worker)| worker.joined);
                let joined = joined.map(|(id, w)| (engine_name(id.0), w.address.clone()));
                let addresses: HashMap<_, _> = joined.collect();
                let holders: Option<Vec<_>> = hub.holders(partitions).into_iter().collect();
                let holders = holders?;
                // One that took over has what was committed before it goes on.
                let committed = self.committed();
                let up_to_date = |(partition, of): (u32, &Holders)| {
                    hub.version(of.holder, partition) >= committed
                };
                if addresses.is_empty() || !(0..).zip(&holders).all(up_to_date) {
                    return None;
                }
                let names = addresses
                    .iter()
                    .map(|(name, at)| (at.clone(), name.clone()));
                Some(Snapshot {
                    names: names.collect(),
                    holders,
                    addresses,
                })
            })
            .await
    }

    /// The rows of each task, for each input: as on one machine, by row counts alone.
    fn inputs(&self, blocks: &[BlockMeta], tasks: usize) -> Vec<Vec<Vec<Slice>>> {
        let inputs = self.hub.inputs.len();
        let mut of: Vec<Vec<(BlockMeta, Vec<String>)>> = vec![Vec::new(); inputs];
        for meta in blocks {
            let (input, mut at) = self.hub.block(meta.id);
            if at.is_empty() && self.store.get(meta.id).is_some() {
                at.push(self.address.clone());
            }
            if let Some(of) = of.get_mut(input as usize) {
                of.push((*meta, at));
            }
        }
        of.iter().map(|blocks| split(blocks, tasks)).collect()
    }

    async fn run_here(
        &self,
        batch: BatchTime,
        attempt: u32,
        blocks: &[BlockMeta],
    ) -> Result<Vec<Option<Partitions>>> {
        let snapshot = self.snapshot().await;
        let rows = blocks.iter().map(|block| block.rows).sum();
        let many = tasks_for(rows, self.rows_per_task, self.plans.tasks) > 1;
        let template = self.plans.of(many);
        let inputs = self.inputs(blocks, if many { self.plans.tasks } else { 1 });
        let (shape, new) = self.shapes.of(&self.plans, many, batch)?;
        let holders: Vec<_> = snapshot
            .holders
            .iter()
            .map(|h| engine_name(h.holder.0))
            .collect();
        let mut kept = HashMap::new();
        for roots in &shape.jobs {
            let binding = Binding {
                plans: &self.plans,
                many,
                batch,
                attempt,
                inputs: &inputs,
                holders: &holders,
                kept: &kept,
                names: &snapshot.names,
            };
            let job = Job::new(&shape, roots, &binding)?;
            if new {
                check(&job.plan, &session_config(self.plans.tasks))?;
            }
            let done = self.engine.run(job.plan).await?;
            // Also one that has joined since the run began may have run tasks.
            let workers = self.hub.workers();
            let addresses: HashMap<_, _> = workers
                .into_iter()
                .map(|(id, worker)| (engine_name(id.0), worker.address))
                .collect();
            for (at, output) in job.outputs.iter().enumerate() {
                let worker = done.workers.get(&at);
                let address = worker.and_then(|name| addresses.get(name));
                let Some(address) = address else {
                    return Err(retryable(format!(
                        "the worker that ran partition {output:?} was lost"
                    )));
                };
                kept.insert(*output, address.clone());
            }
        }
        if self.has_windows() {
            let due = windows(template, &shape);
            self.install(batch, attempt, &due, &snapshot).await;
        }
        let mut outputs = Vec::new();
        for (slot, slide) in &template.outputs {
            if !batch.0.is_multiple_of(*slide) {
                outputs.push(None);
                continue;
            }
            let rows = match (shape.ways[slot.0], inputs.get(slot.0)) {
                (Some(Way::Input), Some(input)) => self.blocks(input).await?,
                _ => {
                    let parts = kept.iter().filter(|((of, _), _)| *of == slot.0);
                    let mut parts: Vec<_> = parts.map(|((_, p), at)| (*p, at)).collect();
                    parts.sort_by_key(|(partition, _)| *partition);
                    self.fetch((batch, attempt), slot.0, &parts).await?
                }
            };
            outputs.push(Some(Arc::new(rows)));
        }
        Ok(outputs)
    }

    /// Fetches the partitions of a dataset.
    async fn fetch(
        &self,
        (batch, attempt): (BatchTime, u32),
        slot: usize,
        parts: &[(usize, &String)],
    ) -> Result<Vec<Vec<dstreams::arrow::array::RecordBatch>>> {
        let fetches = parts.iter().map(|(partition, at)| async move {
            let source = Source::Kept(KeptId {
                batch,
                attempt,
                slot,
                partition: *partition,
            });
            self.peers.fetch(&source, std::iter::once(*at)).await
        });
        futures::future::try_join_all(fetches).await
    }

    /// Fetches blocks, for an output that is an input.
    async fn blocks(
        &self,
        tasks: &[Vec<Slice>],
    ) -> Result<Vec<Vec<dstreams::arrow::array::RecordBatch>>> {
        let mut parts = Vec::new();
        for slices in tasks {
            let mut rows = Vec::new();
            for slice in slices {
                rows.extend(self.read(slice).await?);
            }
            parts.push(rows);
        }
        Ok(parts)
    }

    async fn read(&self, slice: &Slice) -> Result<Vec<dstreams::arrow::array::RecordBatch>> {
        let own = match &slice.source {
            Source::Block(id) => self.store.get(*id).map(|block| block.batches.clone()),
            Source::Kept(_) => None,
        };
        let rows = match own {
            Some(rows) => rows,
            None => self.peers.fetch(&slice.source, slice.at.iter()).await?,
        };
        Ok(slice.cut(rows))
    }

    /// Tells that the holders have installed the batch, and has standbys that are up to date do so.
    async fn install(
        &self,
        batch: BatchTime,
        attempt: u32,
        windows: &[(usize, usize)],
        snapshot: &Snapshot,
    ) {
        let mut waiting: Vec<(u32, WorkerId)> = Vec::new();
        // Not only those of the snapshot: who was assigned meanwhile needs this batch too.
        let now = self.hub.holders(snapshot.holders.len());
        for ((partition, ran), now) in (0u32..).zip(&snapshot.holders).zip(now) {
            let before = self.hub.version(ran.holder, partition);
            self.hub.installed(ran.holder, partition, batch, None);
            let name = engine_name(ran.holder.0);
            let (Some(now), Some(from)) = (now, snapshot.addresses.get(&name)) else {
                continue;
            };
            let others = [Some(now.holder), now.standby].into_iter().flatten();
            for other in others.filter(|other| *other != ran.holder) {
                let install = ToWorker::Install {
                    batch,
                    attempt,
                    partition,
                    windows: windows.to_vec(),
                    from: from.clone(),
                };
                let known = self.hub.version(other, partition);
                self.hub.say(other, &install);
                let complete = known >= before && !self.hub.is_behind(other, partition);
                if complete || other == now.holder {
                    waiting.push((partition, other));
                }
            }
        }
        // One that still gets the whole state catches up by itself; one that was lost never will.
        self.hub
            .until(|hub| {
                let workers = hub.workers();
                let done = waiting.iter().all(|(partition, standby)| {
                    hub.version(*standby, *partition) >= Some(batch)
                        || !workers.contains_key(standby)
                        || hub.is_behind(*standby, *partition)
                });
                done.then_some(())
            })
            .await;
    }

    /// A partition whose holder will never have what was committed.
    fn stuck(&self, hub: &Hub) -> Option<u32> {
        let committed = self.committed();
        let holders = hub.holders(self.plans.tasks);
        let mut all = (0..).zip(holders);
        let stuck = all.find(|(partition, of)| {
            of.is_some_and(|of| {
                hub.is_behind(of.holder, *partition)
                    && hub.version(of.holder, *partition) < committed
            })
        });
        stuck.map(|(partition, _)| partition)
    }

    fn seal_own(&self, batch: BatchTime, last: bool) {
        for (receiver, intake) in &self.own {
            let blocks = match last {
                true => intake.seal_last(),
                false => intake.seal(),
            };
            let metas = blocks.iter().map(|block| block.meta).collect();
            blocks
                .into_iter()
                .for_each(|block| self.store.insert(block));
            self.hub.mailbox.send(Event::Reported {
                batch,
                receiver: ReceiverId(*receiver),
                blocks: metas,
            });
        }
    }
}

#[async_trait]
impl Workers for Remote {
    fn receivers(&self) -> Vec<ReceiverId> {
        self.own
            .iter()
            .map(|(receiver, _)| ReceiverId(*receiver))
            .collect()
    }

    fn seal(self: Arc<Self>, batch: BatchTime) {
        let last = self.closing.is_requested();
        self.hub.say_all(&ToWorker::Seal { batch, last });
        if !last {
            return self.seal_own(batch, false);
        }
        tokio::spawn(async move {
            self.sources.wait().await;
            self.seal_own(batch, true);
        });
    }

    fn close(&self) {
        self.closing.request();
        self.hub.say_all(&ToWorker::Close);
    }

    /// When a worker is lost the engine runs its tasks elsewhere; but tasks that need state had to
    /// run there, so the batch runs again on the standby.
    async fn run(
        &self,
        batch: BatchTime,
        attempt: u32,
        blocks: &[BlockMeta],
    ) -> Result<Vec<Option<Partitions>>> {
        let (losses, _) = self.hub.losses();
        let lost = self.hub.until(|hub| {
            if !self.has_windows() {
                return None;
            }
            let (now, state) = hub.losses();
            let state = state.or_else(|| self.stuck(hub));
            (now > losses || state.is_some()).then_some(state)
        });
        tokio::select! {
            done = self.run_here(batch, attempt, blocks) => done,
            state = lost => Err(match state {
                Some(partition) => lost_state(partition),
                None => retryable("a worker that held state was lost"),
            }),
        }
    }

    fn forget(&self, batch: BatchTime, blocks: &[BlockId]) {
        *self
            .committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(batch);
        self.hub.step(ClusterEvent::Committed { batch });
        self.hub.step(ClusterEvent::Forgotten {
            blocks: blocks.to_vec(),
        });
        self.hub.say_all(&ToWorker::Forget { batch });
        self.store.forget(blocks);
    }

    fn end(&self) {
        self.own
            .iter()
            .for_each(|(_, intake)| drop(intake.seal_last()));
        self.store.clear();
        self.hub.end();
    }

    fn held(&self) -> Held {
        let mut held = Held {
            blocks: self.store.len(),
            ..Held::default()
        };
        for worker in self.hub.workers().into_values() {
            held.blocks += worker.holds.blocks;
            held.block_memory += worker.holds.block_memory;
            for (stream, count) in worker.holds.dead_letters {
                *held.dead_letters.entry(stream).or_default() += count;
            }
        }
        held
    }
}

/// The windows that a batch adds to, and the slots of what it adds.
fn windows(template: &Template, shape: &Shape) -> Vec<(usize, usize)> {
    let windows = template.steps.iter().filter_map(|step| match step {
        Step::Window(window) => Some((window.window, window.from.0)),
        Step::Run(_) => None,
    });
    windows
        .filter(|(_, from)| shape.makers[*from].is_some())
        .collect()
}

fn lost_state(partition: u32) -> dstreams::Error {
    dstreams::Error::Config {
        setting: "copies",
        message: format!(
            "the state of partition {partition} is gone with the workers that held it: \
             the holder and its standby were lost before another one had a copy"
        ),
    }
}

/// The rows of blocks, in their order, as runs of nearly equal length, one for each task: the same
/// as [`dstreams`] makes of the blocks themselves.
fn split(blocks: &[(BlockMeta, Vec<String>)], tasks: usize) -> Vec<Vec<Slice>> {
    let total: u64 = blocks.iter().map(|(meta, _)| meta.rows).sum();
    let end_of = |task: usize| (total as u128 * (task as u128 + 1) / tasks as u128) as u64;
    let mut parts: Vec<Vec<Slice>> = vec![Vec::new(); tasks];
    let (mut task, mut before) = (0, 0u64);
    for (meta, at) in blocks {
        let mut from = 0;
        while from < meta.rows {
            while task + 1 < tasks && before >= end_of(task) {
                task += 1;
            }
            let left = meta.rows - from;
            let rows = match task + 1 < tasks {
                true => left.min(end_of(task) - before),
                false => left,
            };
            parts[task].push(Slice {
                source: Source::Block(meta.id),
                from,
                rows: Some(rows),
                at: at.clone(),
            });
            from += rows;
            before += rows;
        }
    }
    parts
}
