//! The answers of a call to its client: the newest acknowledgement, keep-alives, and the final status.
//!
//! Acknowledgements are cumulative, so only the newest is stored: a client that does not read its answers costs no
//! memory and blocks nobody.

use std::pin::pin;

use arrow_flight::PutResult;
use dstreams_client::protocol::{ALIVE_EVERY, Answer};
use futures::Stream;
use futures::stream::unfold;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::Status;

#[derive(Debug, Clone, Default)]
struct AckState {
    ack: u64,
    /// Number of acknowledgements: a repeated batch is acknowledged again.
    acks: u64,
    alive: u64,
    refusal: Option<Status>,
}

/// The server's end.
pub(super) struct AckSender(watch::Sender<AckState>);

impl AckSender {
    /// Acknowledges everything up to `seq`.
    pub fn ack(&self, seq: u64) {
        self.0.send_modify(|state| {
            state.ack = seq;
            state.acks += 1;
        });
    }

    /// Ends the call with this status.
    pub fn refuse(self, status: Status) {
        self.0.send_modify(|state| state.refusal = Some(status));
    }

    /// Returns when the client is gone.
    pub async fn client_disconnected(&self) {
        self.0.closed().await
    }

    /// Waits for `future`, and sends keep-alives meanwhile.
    pub async fn with_keep_alives<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                biased;
                result = &mut future => return result,
                () = sleep(ALIVE_EVERY) => self.0.send_modify(|state| state.alive += 1),
            }
        }
    }
}

/// Both ends of a call's answers. The stream ends when `AckSender` is dropped: with success, unless the call was
/// refused.
pub(super) fn answers() -> (
    AckSender,
    impl Stream<Item = Result<PutResult, Status>> + Send + 'static,
) {
    let (acks, updates) = watch::channel(AckState::default());
    let sent = Some((updates, AckState::default()));
    let stream = unfold(sent, |sent| async {
        let (mut updates, mut sent) = sent?;
        loop {
            // In this order: an acknowledgement from before the end is sent before the end.
            let over = updates.has_changed().is_err();
            let now = updates.borrow_and_update().clone();
            if now.acks != sent.acks {
                sent.acks = now.acks;
                return Some((
                    Ok(Answer::Ack(now.ack).to_put_result()),
                    Some((updates, sent)),
                ));
            }
            if now.alive != sent.alive {
                sent.alive = now.alive;
                return Some((Ok(Answer::Alive.to_put_result()), Some((updates, sent))));
            }
            if let Some(status) = now.refusal {
                return Some((Err(status), None));
            }
            if over {
                return None;
            }
            let _ = updates.changed().await;
        }
    });
    (AckSender(acks), stream)
}
