//! What every master does around its program: gather workers, and dismiss them.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::Error;
use crate::{ClusterStatus, Master, RunningCluster};

/// How long what was received may take to be run and committed at the end.
pub const DRAIN: Duration = Duration::from_secs(60);
/// How often one looks who is there.
pub(super) const LOOK: Duration = Duration::from_millis(50);
/// How long workers may take to leave when the program has ended.
const LEAVE: Duration = Duration::from_secs(5);

/// Waits until `workers` are there, and begins the program; `told` sees who is there meanwhile.
pub async fn gather(
    master: Master,
    workers: usize,
    mut told: impl FnMut(&ClusterStatus),
) -> Result<RunningCluster, Error> {
    loop {
        let status = master.status();
        told(&status);
        if status.workers.len() >= workers {
            break;
        }
        sleep(LOOK).await;
    }
    Ok(master.start().await?)
}

/// Waits until the workers of a program that has ended have left, so that none looks for its master
/// in vain; not for one that hangs.
pub async fn dismiss(cluster: &RunningCluster) {
    let since = Instant::now();
    while !cluster.status().workers.is_empty() && since.elapsed() < LEAVE {
        sleep(LOOK).await;
    }
}
