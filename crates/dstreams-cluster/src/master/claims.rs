//! [`ProducerClaims`]: from a worker's claim to a producer until the grant.

use std::collections::HashMap;
use std::sync::Arc;

use dstreams::internal::{Durable, Ticket};
use dstreams_control::cluster::WorkerId;

use crate::link::{Sender, ToWorker};

/// The claims that are neither granted nor refused. The order of their numbers is the order of the claims.
#[derive(Default)]
pub struct ProducerClaims {
    /// By number: the worker, and its own number of the claim.
    open: HashMap<u64, (WorkerId, u64)>,
    /// The newest claim's number.
    newest: u64,
    /// The journal entry of the newest lost receivers: producers must not resume elsewhere before it is durable.
    lost_entry: Option<Ticket>,
}

impl ProducerClaims {
    /// Numbers a worker's claim.
    pub fn open(&mut self, worker: WorkerId, token: u64) -> u64 {
        self.newest += 1;
        self.open.insert(self.newest, (worker, token));
        self.newest
    }

    /// Removes a claim. Returns the worker's number of it, unless the worker was lost.
    pub fn close(&mut self, number: u64) -> Option<u64> {
        self.open.remove(&number).map(|(_, token)| token)
    }

    /// Removes the claims of a lost worker.
    pub fn lose(&mut self, worker: WorkerId) {
        self.open.retain(|_, (of, _)| *of != worker);
    }

    /// A receiver was lost; the journal entry says so.
    pub fn receiver_lost(&mut self, entry: Ticket) {
        self.lost_entry = Some(entry);
    }

    /// Sends a grant, once earlier losses of receivers are durable in the journal.
    pub fn grant(
        &self,
        durable: Option<&Arc<Durable>>,
        link: &Sender<ToWorker>,
        message: ToWorker,
    ) {
        let (Some(durable), Some(lost_entry)) = (durable, self.lost_entry) else {
            return link.send(&message);
        };
        let (durable, link) = (Arc::clone(durable), link.clone());
        tokio::spawn(async move {
            // If this fails, the next commit ends the program.
            // I3 (ARCHITECTURE.md).
            if durable.synced(lost_entry).await.is_ok() {
                link.send(&message);
            }
        });
    }
}
