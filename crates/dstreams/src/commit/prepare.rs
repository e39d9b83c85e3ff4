//! Prepare and commit of one batch's outputs.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::BatchTime;
use futures::FutureExt;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::debug::debug_as;
use crate::error::{BoxError, Error, Operator, Result};
use crate::plan::Partitions;
use crate::stream::graph::Graph;
use crate::stream::output::{Output, Prepared, UntypedRdd};
use crate::stream::rows::panic_message;

/// The data with which one output commits a batch.
pub(crate) struct PreparedBatch {
    output: Output,
    operator: Operator,
    rows: UntypedRdd,
    parts: Vec<Prepared>,
}

/// The result of a batch for an output.
#[derive(Debug, Clone)]
pub enum Dataset {
    /// Its rows, by partition.
    Rows(Partitions),
    /// The parts that its sink prepared where the partitions were computed.
    Prepared(Vec<Prepared>),
}

/// An output: its effect, its name, the columns of its stream, and by how many milliseconds that is late.
type OutputOf = (Output, Operator, SchemaRef, u64);

/// The outputs of a program, in the order in which it built them.
pub struct Outputs(Vec<OutputOf>);

debug_as!(Outputs);

impl Outputs {
    /// Takes the outputs out of the graph.
    pub(crate) fn take(graph: &mut Graph) -> Self {
        let outputs = std::mem::take(&mut graph.outputs).into_iter();
        let outputs = outputs.map(|output| {
            let node = graph.node(output.node);
            let schema = Arc::clone(&node.schema);
            (output.output, output.operator, schema, node.shift_ms)
        });
        Outputs(outputs.collect())
    }

    /// Prepares each output that has a dataset; nothing is visible yet.
    pub(crate) async fn prepare(
        &self,
        batch: BatchTime,
        datasets: Vec<Option<Dataset>>,
    ) -> Result<Vec<PreparedBatch>> {
        let mut prepared = Vec::new();
        for ((output, operator, schema, shift_ms), dataset) in self.0.iter().zip(datasets) {
            let (partitions, parts) = match dataset {
                None => continue,
                Some(Dataset::Rows(partitions)) => (partitions, None),
                Some(Dataset::Prepared(parts)) => (Partitions::default(), Some(parts)),
            };
            let rows = UntypedRdd {
                batch,
                shift_ms: *shift_ms,
                schema: Arc::clone(schema),
                partitions,
            };
            let parts = match parts {
                Some(parts) => parts,
                None => prepare(output, operator, &rows).await?,
            };
            prepared.push(PreparedBatch {
                output: output.clone(),
                operator: operator.clone(),
                rows,
                parts,
            });
        }
        Ok(prepared)
    }

    /// Calls the closures of outputs with their datasets; sinks are skipped. Call it on a blocking thread.
    pub(crate) fn call(&self, batch: BatchTime, datasets: Vec<Option<Dataset>>) -> Result<()> {
        for ((output, _, schema, shift_ms), dataset) in self.0.iter().zip(datasets) {
            if let (Output::Rdd(call), Some(Dataset::Rows(partitions))) = (output, dataset) {
                let rows = UntypedRdd {
                    batch,
                    shift_ms: *shift_ms,
                    schema: Arc::clone(schema),
                    partitions,
                };
                call.call(rows, &CancellationToken::new())?;
            }
        }
        Ok(())
    }

    /// The names of sinks, whose partitions can be prepared where they are computed; none for other outputs.
    pub(crate) fn sinks(graph: &Graph) -> Vec<Option<String>> {
        let outputs = graph.outputs.iter().map(|output| match output.output {
            Output::Sink(_) => Some(output.operator.to_string()),
            Output::Rdd(_) => None,
        });
        outputs.collect()
    }

    /// Prepares one partition of one output.
    pub async fn prepare_one(
        &self,
        output: usize,
        batch: BatchTime,
        partition: usize,
        rows: &[RecordBatch],
    ) -> Result<Prepared> {
        match self.0.get(output) {
            Some((Output::Sink(sink), operator, ..)) => {
                guard(operator, sink.prepare(batch, partition, rows)).await
            }
            _ => Err(Error::internal(format!("output {output} is no sink"))),
        }
    }
}

/// Prepares all partitions of one output.
async fn prepare(output: &Output, operator: &Operator, rows: &UntypedRdd) -> Result<Vec<Prepared>> {
    let mut parts = Vec::new();
    if let Output::Sink(sink) = output {
        for (partition, batches) in rows.partitions.iter().enumerate() {
            let part = sink.prepare(rows.batch, partition, batches);
            parts.push(guard(operator, part).await?);
        }
    }
    Ok(parts)
}

/// The result of a sink; its errors and panics name it.
pub(super) async fn guard<T>(
    operator: &Operator,
    work: impl Future<Output = Result<T, BoxError>>,
) -> Result<T> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(done) => done.map_err(|cause| Error::Sink {
            output: operator.to_string(),
            cause: cause.into(),
        }),
        Err(panic) => Err(Error::Panic {
            operator: operator.clone(),
            message: panic_message(&*panic),
        }),
    }
}

/// Commits all outputs of a batch, in the order in which the program built them.
///
/// Called again after a failure, it also repeats outputs that were committed, with the same batch time: see
/// [`crate::Sink`].
///
/// Call it on a blocking thread: closures run on it directly, outside of any future, so that they may block, and
/// wait for futures of their own on `runtime`.
///
/// Once the program is `over`, no further output is called; a running one finishes, since it cannot be
/// interrupted.
pub(crate) fn commit(
    runtime: &Handle,
    batch: BatchTime,
    outputs: &[PreparedBatch],
    over: &CancellationToken,
) -> Result<()> {
    for prepared in outputs {
        if over.is_cancelled() {
            return Err(Error::NotRunning);
        }
        match &prepared.output {
            Output::Rdd(call) => call.call(prepared.rows.clone(), over)?,
            Output::Sink(sink) => {
                let done = sink.commit(batch, prepared.parts.clone());
                runtime.block_on(guard(&prepared.operator, done))?;
                crate::crash::point("commit:half");
            }
        }
    }
    Ok(())
}
