//! [`Description`]: the parts of a described program.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;

use super::context::StreamContext;
use super::listener::Listener;
use crate::checkpoint::Durable;
use crate::checkpoint::manifest::{Manifest, Program, StateId};
use crate::checkpoint::offsets::Bound;
use crate::checkpoint::recover::{Restored, StateDirectory};
use crate::commit::{OpenSinks, Outputs};
use crate::config::{Config, OnFailure};
use crate::debug::debug_as;
use crate::error::{Error, Operator, Result};
use crate::journal::DirLock;
use crate::plan::Plans;
use crate::program::Clock;
use crate::receive::{Source, SourcePlacement};
use crate::stream::graph::GraphRef;

/// A program as described with a [`StreamContext`].
pub struct Description {
    /// D-Streams and outputs.
    pub(crate) graph: GraphRef,
    /// Settings.
    pub config: Config,
    /// The source of time.
    pub clock: Clock,
    /// They are notified about batches.
    pub listeners: Vec<Arc<dyn Listener>>,
    /// By index among the inputs of the graph.
    pub sources: Vec<Box<dyn Source>>,
    /// The input for dead letters.
    pub dead_letter_input: Option<usize>,
    /// The program's directory, if it has one.
    pub(crate) directory: Option<StateDirectory>,
    /// Whether it stops when its sources have ended, and how far the time runs on before.
    stops_at_the_end: Option<Duration>,
    /// Its sinks, once they are opened.
    opened: OpenSinks,
}

debug_as!(Description { config });

impl Description {
    /// Fails if there is no output, or if two streams have the same name.
    pub fn of(context: StreamContext) -> Result<Self> {
        let StreamContext {
            graph,
            config,
            clock,
            listeners,
            sources,
            dead_letter_input,
            directory,
            stops_at_the_end,
        } = context;
        if graph.lock().outputs.is_empty() {
            return Err(Error::Graph {
                operator: Operator::new("start", std::panic::Location::caller()),
                message: "there is no output; add `print`, `for_each_rdd`, `collect` or a sink"
                    .into(),
            });
        }
        graph.lock().check_names()?;
        if directory
            .as_ref()
            .is_some_and(|directory| directory.dir.as_os_str().is_empty())
        {
            return Err(Error::Config {
                setting: "checkpoints",
                message: "a program that configures them needs a directory: give it one with \
                          `StreamContext::persist_in`"
                    .into(),
            });
        }
        Ok(Description {
            graph,
            config,
            clock,
            listeners,
            sources,
            dead_letter_input,
            directory,
            stops_at_the_end,
            opened: OpenSinks::default(),
        })
    }

    /// Fails if batches may be set aside and there is no directory for them.
    pub fn may_set_aside(&self) -> Result<()> {
        if self.config.on_failure == OnFailure::SetAside && self.directory.is_none() {
            return Err(Error::Config {
                setting: "on_failure",
                message: "setting batches aside needs a directory: give the program one with \
                          `StreamContext::persist_in`, or have it stop"
                    .into(),
            });
        }
        Ok(())
    }

    /// Number of sources that must end before the program stops by itself; `None` if it does not.
    /// With it comes how far the time runs on before.
    pub(crate) fn sources_to_wait_for(&self) -> Option<(usize, Duration)> {
        let run_on = self.stops_at_the_end?;
        Some((self.sources_with_an_end(), run_on))
    }

    /// Number of sources without that of dead letters, which ends with the program.
    fn sources_with_an_end(&self) -> usize {
        self.sources.len() - usize::from(self.dead_letter_input.is_some())
    }

    /// Prepares the clock for the sources that give the time, before any of them runs. Fails if the clock and the
    /// sources do not fit together.
    pub fn begin_source_time(&self) -> Result<()> {
        let gives = self.sources.iter().map(|source| source.gives_time());
        let inputs = (0..).zip(gives).filter(|(_, gives)| *gives);
        let inputs: Vec<u32> = inputs.map(|(input, _)| input).collect();
        let refused = |setting, message: &str| {
            Err(Error::Config {
                setting,
                message: message.into(),
            })
        };
        let Some(time) = self.clock.source_time() else {
            if self
                .stops_at_the_end
                .is_some_and(|run_on| !run_on.is_zero())
            {
                return refused(
                    "close_when_sources_end",
                    "time runs on only on a clock of the sources: `set_clock(Clock::of_sources())`; on another clock use \
                     `stop_when_sources_end`",
                );
            }
            if !inputs.is_empty() {
                tracing::warn!(
                    "a source gives the time, and the clock is another one: to follow the source, use \
                     `set_clock(Clock::of_sources())`"
                );
            }
            return Ok(());
        };
        let all = inputs.len() == self.sources_with_an_end();
        if self
            .stops_at_the_end
            .is_some_and(|run_on| !run_on.is_zero())
            && !all
        {
            return refused(
                "close_when_sources_end",
                "time runs on at the end only if all sources give the time; beside others, which may go on, use \
                 `stop_when_sources_end`",
            );
        }
        if inputs.is_empty() {
            return refused(
                "clock",
                "`Clock::of_sources` needs a source that gives the time, such as `Files::by_time`",
            );
        }
        match time.begin(inputs.into_iter(), self.stops_at_the_end.is_some() && all) {
            true => Ok(()),
            false => refused(
                "clock",
                "this `Clock::of_sources` belongs to another context that was started; make a new one for each",
            ),
        }
    }

    /// Locks the program's directory, if it has one; with a `lease` that standbys watch.
    pub fn lock(&self, lease: Option<Duration>) -> Result<Option<DirLock>> {
        let directory = self.directory.as_ref();
        directory
            .map(|directory| DirLock::take(&directory.dir, lease))
            .transpose()
    }

    /// The program's directory, if it has one.
    pub fn directory(&self) -> Option<&StateDirectory> {
        self.directory.as_ref()
    }

    /// Whether there is a checkpoint of the program.
    pub async fn has_checkpoint(&self) -> Result<bool> {
        match &self.directory {
            Some(directory) => Ok(Manifest::newest(&directory.store()).await?.is_some()),
            None => Ok(false),
        }
    }

    /// What an earlier process left, and the durable store of this one. If there was none, keyed data has this many
    /// partitions.
    pub async fn restore(
        &self,
        lock: DirLock,
        partitions: usize,
    ) -> Result<(Arc<Durable>, Restored)> {
        let directory = self.directory.as_ref();
        let directory = directory
            .ok_or_else(|| Error::internal("a program without a directory is restored"))?;
        let schemas = self.inputs().into_iter().map(|(_, schema)| schema);
        let every = u64::from(self.config.checkpoint_every);
        let (program, states) = self.program(partitions)?;
        let alike = told_apart_by_order(&states);
        if !alike.is_empty() {
            tracing::warn!(
                windows = alike.join("; "),
                "only their order in the program tells these windows apart: a changed program that swaps them \
                 swaps their content; name them with `named_window_agg` or `named_window`"
            );
        }
        let places = self.sources.iter().map(|source| source.place());
        let of_clients = |place| matches!(place, SourcePlacement::Everywhere(_));
        let bound = Bound {
            most: self.config.producers,
            inputs: places.map(of_clients).collect(),
        };
        let opened = Durable::open(
            lock,
            directory,
            every,
            program,
            states,
            &schemas.collect::<Vec<_>>(),
            bound,
        )
        .await?;
        if let Some(time) = self.clock.source_time() {
            time.resume(opened.1.controller.last_cut);
        }
        Ok(opened)
    }

    /// Opens the sinks, in the process that commits, before anything is received.
    pub async fn open_sinks(&mut self, durable: Option<&Durable>) -> Result<()> {
        let token = durable.map(Durable::fencing_token);
        self.opened = OpenSinks::all(&self.graph, token.as_ref()).await?;
        Ok(())
    }

    /// Takes the opened sinks.
    pub(crate) fn take_opened(&mut self) -> OpenSinks {
        std::mem::take(&mut self.opened)
    }

    /// By output: its name, if it is a sink whose partitions are prepared by the tasks.
    pub fn sinks(&self) -> Vec<Option<String>> {
        Outputs::sinks(&self.graph.lock())
    }

    /// The outputs, for a process that has planned the graph.
    pub fn take_outputs(&self) -> Outputs {
        Outputs::take(&mut self.graph.lock())
    }

    /// The graph as templates for batches that run as one task or as `tasks` of them.
    pub fn plans(&self, tasks: usize) -> Result<Plans> {
        Plans::new(&self.graph.lock(), tasks, self.config.rows_per_batch)
    }

    /// A short hash of the program: all processes of a cluster have the same.
    pub fn fingerprint(&self) -> String {
        let text = self.graph.lock().describe();
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
    }

    /// The part of the program that its checkpoints depend on, and its states, with this number of partitions.
    pub(crate) fn program(&self, partitions: usize) -> Result<(Program, Vec<StateId>)> {
        let inputs = self.inputs().into_iter();
        let program = Program {
            interval_ms: self.config.interval.as_millis() as u64,
            partitions,
            inputs: inputs
                .map(|(name, schema)| format!("{name} {:?}", schema.fields()))
                .collect(),
        };
        let mut states: Vec<StateId> = Vec::new();
        for spec in &self.plans(partitions)?.states {
            let holds = spec.contents();
            // Named states have unique names, whatever their content.
            if let Some(name) = spec.name() {
                let name = name.to_owned();
                states.push(StateId {
                    name,
                    holds,
                    times: spec.times(),
                    may_change: spec.times_may_change(),
                });
                continue;
            }
            // Windows without a name. If they have the same content over the same streams, only their order tells
            // them apart.
            let name = format!("{holds} of {}", spec.streams().unwrap_or_default());
            let same = |state: &&StateId| is_window_of(state, &name) && state.holds == holds;
            let name = match states.iter().filter(same).count() {
                0 => name,
                same => format!("{name} ({})", same + 1),
            };
            states.push(StateId {
                name,
                holds,
                times: None,
                may_change: false,
            });
        }
        Ok((program, states))
    }

    /// Name and columns of each input.
    pub fn inputs(&self) -> Vec<(String, SchemaRef)> {
        let graph = self.graph.lock();
        let inputs = graph.inputs.iter();
        inputs
            .map(|input| (input.name.clone(), Arc::clone(&input.schema)))
            .collect()
    }
}

/// Whether this is the name of an unnamed window with this base name, with or without a number.
fn is_window_of(state: &StateId, name: &str) -> bool {
    let number = state.name.strip_prefix(name).map(|rest| {
        let number = rest.strip_prefix(" (")?.strip_suffix(')')?;
        number.parse::<u32>().ok()
    });
    state.name == name || number.flatten().is_some()
}

/// Unnamed windows with the same content over the same streams.
fn told_apart_by_order(states: &[StateId]) -> Vec<&str> {
    let follows = |state: &StateId, first: &StateId| {
        let is_unnamed = first.name.starts_with(&format!("{} of ", first.holds));
        let is_same = state.holds == first.holds && is_window_of(state, &first.name);
        is_unnamed && is_same && state.name != first.name
    };
    let alike = |state: &&StateId| {
        let mut others = states.iter();
        others.any(|it| follows(state, it) || follows(it, state))
    };
    let alike = states.iter().filter(alike);
    alike.map(|state| &*state.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_that_only_their_order_tells_apart_are_found() {
        let state = |name: &str, holds: &str| StateId {
            name: name.into(),
            holds: holds.into(),
            times: None,
            may_change: false,
        };
        let states = [
            state("sums of a, b", "sums"),
            state("sums of a", "sums"),
            state("sums of a (2)", "sums"),
            state("errors", "sums"),
            state("errors (2)", "sums"),
            state("counts of a", "counts"),
        ];
        let alike = told_apart_by_order(&states);
        assert_eq!(alike, ["sums of a", "sums of a (2)"]);
        assert_eq!(told_apart_by_order(&states[..2]), Vec::<&str>::new());
    }
}
