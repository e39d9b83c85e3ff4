//! Sets aside batches that fail for good, if the program wants that: [`OnFailure::SetAside`](crate::OnFailure).
//!
//! The records are written to files, a journal entry makes that durable, the state from before the batch is
//! recovered, and the controller runs the batch without its records.

use std::sync::Arc;

use dstreams_control::{BatchTime, Event};
use futures::{StreamExt, stream};

use super::mailbox::Message;
use super::master::Master;
use crate::crash::point;
use crate::error::{Error, Result};

impl Master {
    /// Sets the records of a batch aside, in the background: no other batch runs meanwhile.
    pub(super) fn set_aside(&mut self, batch: BatchTime, attempts: u32) {
        let error = self.error_of(batch, attempts);
        let cut = self.state.cuts.get(&batch);
        let metas = cut.map(|cut| cut.blocks.clone()).unwrap_or_default();
        let (durable, workers) = (self.durable.clone(), Arc::clone(&self.workers));
        let (schemas, messages) = (self.schemas.clone(), self.messages.clone());
        tokio::spawn(async move {
            let done = async {
                let durable = durable.ok_or_else(|| {
                    Error::internal("a batch is to be set aside, and there is no directory")
                })?;
                point("aside:begins");
                let shared = Arc::clone(&workers);
                let blocks = stream::iter(metas).then(move |meta| {
                    let shared = Arc::clone(&shared);
                    async move { shared.block(meta).await }
                });
                let path = durable
                    .set_aside(batch, blocks.boxed(), schemas.clone(), &error)
                    .await?;
                point("aside:written");
                tracing::error!(%batch, %error, path = %path.display(), "the records of a batch are set aside");
                if !workers.plans().states.is_empty() {
                    let from = durable.recovery_source(schemas).await?;
                    workers.recover_state(from).await?;
                    point("aside:undone");
                }
                Ok(())
            };
            let result = done.await;
            let _ = messages.send(Message::SetAside { batch, result });
        });
    }

    pub(super) fn was_set_aside(&mut self, batch: BatchTime, result: Result<()>) -> Event {
        match result {
            Ok(()) => {
                let cut = self.state.cuts.get_mut(&batch);
                let error = cut.and_then(|cut| {
                    cut.set_aside = true;
                    cut.last_error.take()
                });
                let error = error.unwrap_or(Error::NotRunning);
                self.notify(|listener| listener.batch_set_aside(batch, &error));
                Event::SetAside { batch }
            }
            Err(error) => {
                tracing::error!(%batch, %error, "the records of a batch could not be set aside");
                Event::SetAsideFailed { batch }
            }
        }
    }
}
