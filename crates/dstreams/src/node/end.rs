//! The end of a program: what ends it though nobody asks for that, and what is released.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::mailbox::Message;
use super::master::Master;
use crate::error::Error;

/// How long a program may take beyond the deadline of its stop to release its resources: usually it takes less than
/// a hundredth of that.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

impl Master {
    /// From now on, the program ends when it loses its journal or its directory. The batch that would find out may be
    /// waiting, for workers or for an interval in which something happens.
    pub(super) fn end_without_its_directory(&self) {
        let Some(durable) = self.durable.clone() else {
            return;
        };
        let (over, messages) = (self.over.clone(), self.messages.clone());
        tokio::spawn(async move {
            if let Some(lost) = over.run_until_cancelled(durable.lost()).await {
                let failure = Some(lost);
                let _ = messages.send(Message::Stop {
                    graceful: false,
                    failure,
                });
            }
        });
    }

    /// Releases all resources. What is not released soon after a deadline is released later.
    pub(super) async fn end(&mut self) {
        let (durable, opened) = (self.durable.take(), std::mem::take(&mut self.opened));
        if let (Some(failure), Some(durable)) = (&mut self.state.failure, &durable)
            && let Ok(Err(lost @ Error::LostDirectory { .. })) =
                timeout(SHUTDOWN_GRACE, durable.check_owner()).await
        {
            // Whatever failed: another process goes on with the program, with all that this one had.
            tracing::warn!(error = %failure, "the program has failed after another process took its directory");
            *failure = lost;
        }
        let (workers, failed) = (Arc::clone(&self.workers), self.state.failure.is_some());
        let ending = tokio::spawn(async move {
            if let Some(durable) = &durable {
                if !failed {
                    durable.ended().await;
                }
                // Before the threads that write to it are gone.
                durable.close().await;
            }
            workers.end(failed).await;
            drop(opened);
            if let Some(durable) = durable {
                durable.free().await;
            }
        });
        match self.state.until {
            None => drop(ending.await),
            Some(until) => {
                let until = until.max(Instant::now()) + SHUTDOWN_GRACE;
                if tokio::time::timeout_at(until, ending).await.is_err() {
                    tracing::warn!(
                        "the program has stopped at its deadline; its directory, its outputs and its addresses are \
                         released when its pending writes are done"
                    );
                }
            }
        }
    }
}
