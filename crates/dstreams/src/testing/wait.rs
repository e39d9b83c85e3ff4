//! Waits that end: with what was waited for, or with an error that says what it was.

use std::future::Future;
use std::time::Duration;

use crate::error::{Error, Result};

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(1);

pub(super) async fn within<T>(
    patience: Duration,
    what: &str,
    future: impl Future<Output = T>,
) -> Result<T> {
    let waited = tokio::time::timeout(patience, future).await;
    waited.map_err(|_| Error::TimedOut {
        what: what.to_owned(),
        waited: patience,
    })
}

pub(super) async fn until(
    patience: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    let wait = async {
        while !condition() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    within(patience, what, wait).await
}
