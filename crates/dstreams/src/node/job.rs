//! A cut batch as a job for the engine, and its outputs prepared.

use std::sync::Arc;

use dstreams_control::{BatchTime, BlockMeta};

use crate::batch::{split, tasks_for};
use crate::commit::{PreparedBatch, prepare};
use crate::config::Config;
use crate::error::{Error, Operator, Result};
use crate::execute::{Installs, Job, LocalEngine};
use crate::plan::{Template, WindowSpec, compile};
use crate::receive::Block;
use crate::replicate::BlockStore;
use crate::state::Windows;
use crate::stream::graph::Graph;
use crate::stream::output::{Output, Rows};
use datafusion::arrow::datatypes::SchemaRef;

/// Runs the batches of one context.
pub(super) struct Jobs {
    engine: Arc<LocalEngine>,
    /// For batches that run as one task, and as many.
    templates: [Arc<Template>; 2],
    installs: Arc<dyn Installs>,
    outputs: Vec<(Output, Operator, SchemaRef)>,
    rows_per_task: usize,
    threads: usize,
}

impl Jobs {
    /// Plans the graph.
    pub fn new(graph: &Graph, config: &Config) -> Result<Self> {
        let plan = |tasks| compile(graph, tasks, config.threads, config.rows_per_batch);
        let (one, windows): (_, Vec<WindowSpec>) = plan(1)?;
        let (many, _) = plan(config.threads)?;
        let outputs = graph.outputs.iter().map(|output| {
            let schema = Arc::clone(&graph.node(output.node).schema);
            (output.output.clone(), output.operator.clone(), schema)
        });
        Ok(Jobs {
            engine: Arc::new(LocalEngine::new(config)?),
            templates: [Arc::new(one), Arc::new(many)],
            installs: Arc::new(Windows::new(windows, config.threads)?),
            outputs: outputs.collect(),
            rows_per_task: config.rows_per_task,
            threads: config.threads,
        })
    }

    /// Runs a batch and prepares its outputs; nothing is visible yet.
    pub async fn run(
        &self,
        batch: BatchTime,
        blocks: &[BlockMeta],
        store: &BlockStore,
    ) -> Result<Vec<PreparedBatch>> {
        let rows = blocks.iter().map(|block| block.rows).sum();
        let tasks = tasks_for(rows, self.rows_per_task, self.threads);
        let template = Arc::clone(&self.templates[usize::from(tasks > 1)]);
        let mut inputs: Vec<Vec<Arc<Block>>> = vec![Vec::new(); template.inputs.len()];
        for meta in blocks {
            let Some(block) = store.get(meta.id) else {
                return Err(Error::LostBlock { block: meta.id });
            };
            inputs[meta.id.receiver.0 as usize].push(block);
        }
        let job = Job {
            batch,
            inputs: inputs
                .iter()
                .map(|blocks| Arc::new(split(blocks, tasks)))
                .collect(),
            template,
            installs: Arc::clone(&self.installs),
        };
        let datasets = self.engine.run(job).await?.0;
        let mut prepared = Vec::new();
        for ((output, operator, schema), partitions) in self.outputs.iter().zip(datasets) {
            let Some(partitions) = partitions else {
                continue;
            };
            let rows = Rows {
                batch,
                schema: Arc::clone(schema),
                partitions,
            };
            prepared.push(prepare(output, operator, rows).await?);
        }
        Ok(prepared)
    }
}
