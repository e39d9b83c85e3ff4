//! Errors after which a batch is retried.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use dstreams::Error;

/// A failure that a retry of the batch may cure.
pub fn retryable(what: impl ToString) -> Error {
    let cause = std::io::Error::other(what.to_string());
    Error::Engine(Arc::new(DataFusionError::IoError(cause)))
}
