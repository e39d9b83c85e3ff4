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
struct Said {
    ack: u64,
    /// Number of acknowledgements: a repeated batch is acknowledged again.
    acks: u64,
    alive: u64,
    refusal: Option<Status>,
}

/// The server's end.
pub(super) struct Say(watch::Sender<Said>);

impl Say {
    /// Acknowledges everything up to `seq`.
    pub fn ack(&self, seq: u64) {
        self.0.send_modify(|said| {
            said.ack = seq;
            said.acks += 1;
        });
    }

    /// Ends the call with this status.
    pub fn refuse(self, status: Status) {
        self.0.send_modify(|said| said.refusal = Some(status));
    }

    /// Returns when the client is gone.
    pub async fn client_gone(&self) {
        self.0.closed().await
    }

    /// Waits for `future`, and sends keep-alives meanwhile.
    pub async fn with_keep_alives<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                biased;
                result = &mut future => return result,
                () = sleep(ALIVE_EVERY) => self.0.send_modify(|said| said.alive += 1),
            }
        }
    }
}

/// Both ends of a call's answers. The stream ends when `Say` is dropped: with success, unless the call was refused.
pub(super) fn answers() -> (
    Say,
    impl Stream<Item = Result<PutResult, Status>> + Send + 'static,
) {
    let (say, heard) = watch::channel(Said::default());
    let told = Some((heard, Said::default()));
    let stream = unfold(told, |told| async {
        let (mut heard, mut told) = told?;
        loop {
            // In this order: an acknowledgement from before the end is sent before the end.
            let over = heard.has_changed().is_err();
            let now = heard.borrow_and_update().clone();
            if now.acks != told.acks {
                told.acks = now.acks;
                return Some((
                    Ok(Answer::Ack(now.ack).to_put_result()),
                    Some((heard, told)),
                ));
            }
            if now.alive != told.alive {
                told.alive = now.alive;
                return Some((Ok(Answer::Alive.to_put_result()), Some((heard, told))));
            }
            if let Some(status) = now.refusal {
                return Some((Err(status), None));
            }
            if over {
                return None;
            }
            let _ = heard.changed().await;
        }
    });
    (Say(say), stream)
}
