//! [`Judge`]: records each step of a machine in the ledger and checks every invariant.
//!
//! The first broken invariant ends the run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dstreams_control::cluster::{Cluster, ClusterCommand, ClusterConfig, ClusterEvent, WorkerId};
use dstreams_control::{BatchTime, BlockMeta};

use crate::invariants::{self, Calm, Invariant, Scene, Verdict};
use crate::ledger::Ledger;
use crate::machine::Machine;
use crate::tally::Tally;
use crate::world::{Client, Truth, Worker};

/// An invariant was broken.
#[derive(Debug)]
pub struct Violation {
    pub step: u64,
    pub invariant: &'static str,
    pub detail: String,
}

/// The true state.
pub type Facts<'a> = (&'a BTreeMap<WorkerId, Worker>, &'a Truth, &'a [Client]);

pub struct Judge {
    pub ledger: Ledger,
    pub steps: u64,
    /// Print every step.
    pub trace: bool,
    /// Judge by this invariant alone.
    only: Option<&'static str>,
}

impl Judge {
    pub fn new(config: ClusterConfig, trace: bool, only: Option<&'static str>) -> Self {
        Self {
            ledger: Ledger::new(config),
            steps: 0,
            trace,
            only,
        }
    }

    /// Passes `event` to `machine`.
    pub fn step(
        &mut self,
        machine: &mut dyn Machine,
        event: ClusterEvent,
        facts: Facts,
        tally: &mut Tally,
    ) -> Result<Vec<ClusterCommand>, Violation> {
        self.steps += 1;
        if self.trace {
            println!("{:>5} {event:?}", self.steps);
        }
        note(&event, &self.ledger, tally);
        self.ledger.event(&event);
        let commands = machine.step(event.clone());
        if self.trace && !commands.is_empty() {
            println!("      -> {commands:?}");
        }
        for command in &commands {
            let scene = self.scene(facts, machine.state());
            for invariant in self.invariants() {
                self.rule(invariant.name(), invariant.command(&scene, command))?;
            }
            self.ledger.command(command);
        }
        let scene = self.scene(facts, machine.state());
        for invariant in self.invariants() {
            self.rule(invariant.name(), invariant.after(&scene, &event))?;
        }
        Ok(commands)
    }

    /// The controller has cut a batch.
    pub fn cut(
        &mut self,
        batch: BatchTime,
        blocks: &[BlockMeta],
        facts: Facts,
        machine: &Cluster,
    ) -> Result<(), Violation> {
        if self.trace {
            println!("      cut of {batch}: {blocks:?}");
        }
        let scene = self.scene(facts, machine);
        for invariant in self.invariants() {
            self.rule(invariant.name(), invariant.cut(&scene, blocks))?;
        }
        self.ledger
            .cuts
            .extend(blocks.iter().map(|block| (block.id, batch)));
        Ok(())
    }

    /// A batch is about to be committed; workers in `behind` could not get its changes, or those of one before it.
    pub fn finished(
        &mut self,
        batch: BatchTime,
        behind: &BTreeSet<(u32, WorkerId)>,
        facts: Facts,
        machine: &Cluster,
    ) -> Result<(), Violation> {
        self.ledger.finished = Some(batch);
        let scene = self.scene(facts, machine);
        self.invariants()
            .try_for_each(|it| self.rule(it.name(), it.finished(&scene, behind)))
    }

    /// The verdict on a world in which nothing is in progress.
    pub fn calm(&self, calm: Calm, facts: Facts, machine: &Cluster) -> Result<(), Violation> {
        if self.trace {
            println!("      {calm:?}");
        }
        let scene = self.scene(facts, machine);
        self.invariants()
            .try_for_each(|it| self.rule(it.name(), it.calm(&scene, calm)))
    }

    fn invariants(&self) -> impl Iterator<Item = &'static dyn Invariant> + use<> {
        let only = self.only;
        let all = invariants::all().iter().copied();
        all.filter(move |it| only.is_none_or(|only| only == it.name()))
    }

    fn scene<'a>(
        &'a self,
        (workers, truth, clients): Facts<'a>,
        machine: &'a Cluster,
    ) -> Scene<'a> {
        Scene {
            ledger: &self.ledger,
            workers,
            truth,
            clients,
            machine,
        }
    }

    /// A verdict as a violation.
    pub fn rule(&self, invariant: &'static str, verdict: Verdict) -> Result<(), Violation> {
        verdict.map_err(|detail| Violation {
            step: self.steps,
            invariant,
            detail,
        })
    }
}

/// Counts notable events; `ledger` does not have this one yet.
fn note(event: &ClusterEvent, ledger: &Ledger, tally: &mut Tally) {
    let fencing = |ledger: &Ledger| ledger.fences.values().any(|silent| !silent.is_empty());
    match event {
        ClusterEvent::Lost { worker } if ledger.live.contains(worker) => {
            if fencing(ledger) {
                tally.add("loss during a fence");
            }
            if ledger.copying.keys().any(|(to, _)| to == worker) {
                tally.add("loss of the target of a copy");
            }
            let parts = |(_, part): (&(u32, WorkerId), &crate::ledger::Part)| part.copying;
            if ledger.parts.iter().any(parts) {
                tally.add("loss during a copy of state");
            }
            if ledger.copying.values().any(|from| from == worker) {
                tally.add("loss of the source of a copy");
            }
            let waits = |(token, (_, at)): (&u64, &(Arc<str>, WorkerId))| {
                at == worker && !ledger.granted.contains(token)
            };
            if ledger.claims.iter().any(waits) {
                tally.add("loss of a waiting claimant");
            }
            let held = |(partition, (primary, _)): (&u32, &(WorkerId, Option<WorkerId>))| {
                primary == worker
                    && ledger.is_complete(*partition)
                    && ledger.newest(*partition).is_some()
            };
            if ledger.assigned.iter().any(held) {
                tally.add("standby took over");
            }
            if ledger.live.len() == 1 {
                tally.add("loss of the last worker");
            }
        }
        ClusterEvent::Slow { workers } => {
            let gives_way = |(partition, (primary, standby)): (&u32, &(WorkerId, Option<_>))| {
                let steady = standby.is_some_and(|standby| !workers.contains(&standby));
                let there = ledger.newest(*partition).is_some() && ledger.is_complete(*partition);
                workers.contains(primary) && steady && there
            };
            if ledger.assigned.iter().any(gives_way) {
                tally.add("slow primary with a complete standby");
            }
        }
        ClusterEvent::Stored { worker, .. } if !ledger.live.contains(worker) => {
            tally.add("Stored of a lost worker");
        }
        ClusterEvent::Stored { blocks, .. }
            if blocks
                .iter()
                .any(|block| ledger.forgotten.contains(&block.meta.id)) =>
        {
            tally.add("Stored of a forgotten block");
        }
        ClusterEvent::Fenced { lost, blocks, .. }
            if blocks
                .iter()
                .any(|block| !ledger.held.contains_key(&block.meta.id))
                && ledger.fences.contains_key(lost) =>
        {
            tally.add("block that only the fence found");
        }
        ClusterEvent::Claim { producer, .. } => {
            if let Some((owner, _)) = ledger.owners.get(producer)
                && ledger.gone.contains(owner)
            {
                tally.add("claim while the owner is fenced");
            }
        }
        ClusterEvent::Joined { worker } if ledger.gone.contains(worker) => {
            tally.add("Joined after Lost");
        }
        _ => {}
    }
}
