//! Plain DataFusion: an answer that is independent of this library.

use std::sync::Arc;

use dstreams::arrow::array::RecordBatch;
use dstreams::arrow::compute::cast;
use dstreams::datafusion::prelude::{SessionConfig, SessionContext};
use dstreams::record::records_of;
use dstreams::{Config, DStream, Record};
use proptest::prelude::*;

use crate::program::{Interval, block_on, run};

/// The rows of `query` over `tables` in plain DataFusion with one partition.
pub fn plain<U: Record>(tables: &[(&str, RecordBatch)], query: &str) -> Vec<U> {
    block_on(async {
        let config = SessionConfig::new().with_target_partitions(1);
        let session = SessionContext::new_with_config(config);
        for (name, rows) in tables {
            session.register_batch(*name, rows.clone()).unwrap();
        }
        let batches = session.sql(query).await.unwrap().collect().await.unwrap();
        let typed = |batch: &RecordBatch| {
            let schema = U::schema();
            let columns = batch.columns().iter().zip(schema.fields());
            let columns = columns.map(|(column, field)| cast(column, field.data_type()).unwrap());
            RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap()
        };
        let batches = batches.iter();
        batches
            .flat_map(|batch| records_of::<U>(&typed(batch)).unwrap())
            .collect()
    })
}

/// Checks what `build` makes of each batch, given the records of its last `batches` intervals.
pub fn check_last<T: Record + Clone, U: Record>(
    config: &Config,
    input: &[Interval<T>],
    batches: usize,
    build: impl FnOnce(&DStream<T>) -> DStream<U>,
    check: impl Fn(Vec<U>, Vec<T>) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let found = run(config, input, |_, stream| build(stream));
    for (end, (_, found)) in (1..).zip(found) {
        let last = &input[usize::saturating_sub(end, batches)..end];
        check(found, last.concat().concat())?;
    }
    Ok(())
}
