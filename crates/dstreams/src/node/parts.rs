//! [`Parts`]: a described program, taken apart.

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;

use super::context::StreamContext;
use super::durable::checkpoint::Program;
use super::listener::Listener;
use crate::batch::Clock;
use crate::config::Config;
use crate::error::{Error, Operator, Result};
use crate::plan::{Plans, StateSpec};
use crate::receive::Source;
use crate::stream::graph::GraphRef;

/// What a program described with a [`StreamContext`].
pub struct Parts {
    /// D-Streams and outputs.
    pub(crate) graph: GraphRef,
    /// Settings.
    pub config: Config,
    /// Where the time comes from.
    pub clock: Clock,
    /// Who is told about batches.
    pub listeners: Vec<Arc<dyn Listener>>,
    /// By their place among the inputs of the graph.
    pub sources: Vec<Box<dyn Source>>,
    /// Which input takes the dead letters.
    pub dead_letter_input: Option<usize>,
    /// Where the journal and checkpoints are.
    pub checkpoint_dir: Option<PathBuf>,
}

impl Parts {
    /// Fails if there is no output.
    pub fn of(context: StreamContext) -> Result<Self> {
        let StreamContext {
            graph,
            config,
            clock,
            listeners,
            sources,
            dead_letter_input,
            checkpoint_dir,
        } = context;
        if graph.lock().outputs.is_empty() {
            return Err(Error::Graph {
                operator: Operator::new("start", std::panic::Location::caller()),
                message: "there is no output; add `print`, `for_each_rdd`, `collect` or a sink"
                    .into(),
            });
        }
        Ok(Parts {
            graph,
            config,
            clock,
            listeners,
            sources,
            dead_letter_input,
            checkpoint_dir,
        })
    }

    /// The graph as templates for batches that run as one task or as `tasks` of them.
    pub fn plans(&self, tasks: usize) -> Result<Plans> {
        Plans::new(&self.graph.lock(), tasks, self.config.rows_per_batch)
    }

    /// What the program is, in a few letters: processes of one cluster have the same.
    pub fn fingerprint(&self) -> String {
        let text = self.graph.lock().describe();
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
    }

    /// What of the program its checkpoints depend on.
    pub(crate) fn program(&self) -> Result<Program> {
        let inputs = self.inputs().into_iter();
        let plans = self.plans(self.config.threads)?;
        Ok(Program {
            interval_ms: self.config.interval.as_millis() as u64,
            partitions: self.config.threads,
            inputs: inputs
                .map(|(name, schema)| format!("{name} {:?}", schema.fields()))
                .collect(),
            states: plans.states.iter().map(StateSpec::describe).collect(),
        })
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
