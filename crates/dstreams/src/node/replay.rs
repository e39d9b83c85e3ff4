//! [`StreamContext::replay`]: runs a batch that was set aside on its own.

use std::path::Path;
use std::sync::Arc;

use dstreams_control::BatchTime;

use super::local::{new_states, run_on};
use crate::checkpoint::set_aside;
use crate::commit::Dataset;
use crate::error::{Error, Result};
use crate::execute::LocalEngine;
use crate::program::Description;
use crate::program::StreamContext;

impl StreamContext {
    /// Runs a batch that was set aside in the directory `dir`, alone and in this process: to find out what is wrong
    /// with its records, or whether a changed program can process them. Returns the number of its records.
    ///
    /// Sources are not opened, and the states are empty. Closures of outputs, prints and channels get the results
    /// of the batch; sinks are left out, so nothing takes effect that an earlier run may have made visible. Nothing
    /// in the directory changes. Fails with the error of the batch, with operator, place and cause.
    ///
    /// ```no_run
    /// # async fn again(ctx: dstreams::StreamContext) -> dstreams::Result<()> {
    /// let records = ctx.replay("words.state", dstreams::BatchTime(1_764_000_000_000)).await?;
    /// println!("{records} records, and no error");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn replay(self, dir: impl AsRef<Path>, batch: BatchTime) -> Result<u64> {
        let parts = Description::of(self)?;
        let schemas: Vec<_> = parts
            .inputs()
            .into_iter()
            .map(|(_, schema)| schema)
            .collect();
        let blocks = set_aside::read(dir.as_ref(), batch, &schemas)?;
        let plans = parts.plans(parts.config.threads)?;
        let states = new_states(&plans, &parts.config, plans.tasks)?;
        let engine = Arc::new(LocalEngine::new(&parts.config)?);
        let outputs = parts.take_outputs();
        let run = async {
            let alone = (batch, None);
            let rows = run_on(&engine, &plans, &parts.config, &states, alone, &blocks).await?;
            let rows = rows.into_iter().map(|rows| rows.map(Dataset::Rows));
            let called = move || outputs.call(batch, rows.collect());
            let called = tokio::task::spawn_blocking(called).await;
            called.map_err(Error::of_thread)?
        };
        run.await.map_err(|cause: Error| Error::Batch {
            batch,
            attempts: 1,
            stage: cause.place(),
            cause: Arc::new(cause),
        })?;
        Ok(blocks.iter().map(|(_, block)| block.meta.rows).sum())
    }
}
