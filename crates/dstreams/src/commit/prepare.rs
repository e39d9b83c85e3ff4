//! Prepare and commit of one batch's outputs.

use dstreams_control::BatchTime;

use crate::error::{Error, Operator, Result};
use crate::stream::output::{Output, Prepared, Rows};

/// What one output needs to commit a batch.
pub(crate) struct PreparedBatch {
    output: Output,
    operator: Operator,
    rows: Rows,
    parts: Vec<Prepared>,
}

/// Prepares all partitions of one output.
pub(crate) async fn prepare(
    output: &Output,
    operator: &Operator,
    rows: Rows,
) -> Result<PreparedBatch> {
    let mut parts = Vec::new();
    if let Output::Sink(sink) = output {
        for (partition, batches) in rows.partitions.iter().enumerate() {
            let part = sink.prepare(rows.batch, partition, batches).await;
            parts.push(part.map_err(|cause| Error::Sink {
                output: operator.to_string(),
                cause: cause.into(),
            })?);
        }
    }
    Ok(PreparedBatch {
        output: output.clone(),
        operator: operator.clone(),
        rows,
        parts,
    })
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
                let done = sink.commit(batch, prepared.parts.clone()).await;
                done.map_err(|cause| Error::Sink {
                    output: prepared.operator.to_string(),
                    cause: cause.into(),
                })?;
            }
        }
    }
    Ok(())
}
