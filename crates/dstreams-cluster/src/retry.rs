//! Errors of a cluster after which a batch is tried again.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use dstreams::Error;

/// A failure that another run of the batch may mend.
pub fn retryable(what: impl ToString) -> Error {
    let cause = std::io::Error::other(what.to_string());
    Error::Engine(Arc::new(DataFusionError::IoError(cause)))
}
