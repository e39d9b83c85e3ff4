//! Prepare and commit of one batch's outputs.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::BatchTime;
use futures::FutureExt;

use crate::error::{BoxError, Error, Operator, Result};
use crate::plan::Partitions;
use crate::stream::graph::Graph;
use crate::stream::output::{Output, Prepared, Rows};
use crate::stream::rows::panic_message;

/// What one output needs to commit a batch.
pub(crate) struct PreparedBatch {
    output: Output,
    operator: Operator,
    rows: Rows,
    parts: Vec<Prepared>,
}

/// The outputs of a program, in the order in which it built them.
pub(crate) struct Outputs(Vec<(Output, Operator, SchemaRef)>);

impl Outputs {
    /// Takes the outputs out of the graph.
    pub fn take(graph: &mut Graph) -> Self {
        let outputs = std::mem::take(&mut graph.outputs).into_iter();
        let outputs = outputs.map(|output| {
            let schema = Arc::clone(&graph.node(output.node).schema);
            (output.output, output.operator, schema)
        });
        Outputs(outputs.collect())
    }

    /// Prepares the dataset of each output, where there is one; nothing is visible yet.
    pub async fn prepare(
        &self,
        batch: BatchTime,
        datasets: Vec<Option<Partitions>>,
    ) -> Result<Vec<PreparedBatch>> {
        let mut prepared = Vec::new();
        for ((output, operator, schema), partitions) in self.0.iter().zip(datasets) {
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

/// Prepares all partitions of one output.
async fn prepare(output: &Output, operator: &Operator, rows: Rows) -> Result<PreparedBatch> {
    let mut parts = Vec::new();
    if let Output::Sink(sink) = output {
        for (partition, batches) in rows.partitions.iter().enumerate() {
            let part = sink.prepare(rows.batch, partition, batches);
            parts.push(guard(operator, part).await?);
        }
    }
    Ok(PreparedBatch {
        output: output.clone(),
        operator: operator.clone(),
        rows,
        parts,
    })
}

/// What a sink did; its errors and panics name it.
async fn guard<T>(
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
/// When it is called again after a failure, outputs that were committed are committed again with
/// the same batch time: see [`crate::Sink`].
pub(crate) async fn commit(batch: BatchTime, outputs: &[PreparedBatch]) -> Result<()> {
    for prepared in outputs {
        match &prepared.output {
            Output::Rdd(call) => call.call(prepared.rows.clone())?,
            Output::Sink(sink) => {
                let done = sink.commit(batch, prepared.parts.clone());
                guard(&prepared.operator, done).await?;
                crate::crash::point("commit:half");
            }
        }
    }
    Ok(())
}
