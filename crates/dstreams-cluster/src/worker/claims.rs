//! Claims of producers that connected to this worker: the master grants or refuses each.
//!
//! A claim whose client has gone is removed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use dstreams::internal::Claims;
use tokio::sync::oneshot;
use tonic::Status;

use super::session::Epoch;
use crate::link::ToMaster;

/// The number of a producer's last received batch, or why it is not served.
type Answer = Result<u64, Status>;

/// Claims that the master has not answered.
#[derive(Default)]
pub struct PendingClaims(Mutex<Open>);

#[derive(Default)]
struct Open {
    next: u64,
    claims: HashMap<u64, oneshot::Sender<Answer>>,
}

impl PendingClaims {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> (u64, oneshot::Receiver<Answer>) {
        let (claim, answer) = oneshot::channel();
        let mut open = self.lock();
        open.next += 1;
        let token = open.next;
        open.claims.insert(token, claim);
        (token, answer)
    }

    /// Passes on the master's answer.
    pub fn answer(&self, token: u64, answer: Answer) {
        if let Some(claim) = self.lock().claims.remove(&token) {
            let _ = claim.send(answer);
        }
    }
}

/// The error of a refused claim: the producer has since connected to another worker.
pub fn superseded() -> Status {
    Status::aborted("a newer connection of this producer took over, at another worker")
}

/// Claims producers from the master.
pub struct MasterClaims(Weak<Epoch>);

impl MasterClaims {
    pub fn new(epoch: &Arc<Epoch>) -> Self {
        MasterClaims(Arc::downgrade(epoch))
    }
}

/// Removes a claim when its caller stops waiting.
struct Claiming<'a>(&'a MasterClaims, u64);

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        if let Some(epoch) = self.0.0.upgrade() {
            epoch.claims.lock().claims.remove(&self.1);
        }
    }
}

#[async_trait]
impl Claims for MasterClaims {
    async fn claim(&self, stream: &str, producer: &str) -> Answer {
        let gone = || Status::unavailable("this worker has left its cluster");
        let epoch = self.0.upgrade().ok_or_else(gone)?;
        let input = epoch.inputs.iter().position(|(name, _)| name == stream);
        let input = input.ok_or_else(|| Status::not_found(format!("no stream `{stream}`")))?;
        let (token, answer) = epoch.claims.open();
        let _claiming = Claiming(self, token);
        epoch.link.send(&ToMaster::Claim {
            input: input as u32,
            producer: producer.to_owned(),
            token,
        });
        drop(epoch);
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}
