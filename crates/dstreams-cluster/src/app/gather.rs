//! A master waits for its workers before the program, and for their exit after it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::Error;
use crate::{ClusterStatus, Master, RunningCluster};

/// Time to run and commit the received records at the end.
pub const DRAIN: Duration = Duration::from_secs(60);
/// How often the list of workers is checked.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// How long workers may take to leave after the program has ended.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits for the workers of a master, then starts the program; `on_status` gets each status meanwhile.
pub async fn gather(
    master: Master,
    mut on_status: impl FnMut(&ClusterStatus),
) -> Result<RunningCluster, Error> {
    loop {
        on_status(&master.status());
        if master.is_ready()? {
            break;
        }
        sleep(CHECK_INTERVAL).await;
    }
    Ok(master.start().await?)
}

/// Waits until the workers of an ended program have left, so that none tries in vain to reach its
/// master. A worker that hangs is not waited for.
pub async fn dismiss(cluster: &RunningCluster) {
    let since = Instant::now();
    while !cluster.status().workers.is_empty() && since.elapsed() < LEAVE_TIMEOUT {
        sleep(CHECK_INTERVAL).await;
    }
}
