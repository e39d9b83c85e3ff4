//! Dead letters: what could not become a record, kept with its reason.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use dstreams_control::ReceiverId;

use super::ingest::Intake;
use crate::stream::record::batch_of;

/// Bytes kept of one dead letter, so that a flood of huge ones stays small.
const KEPT: usize = 64 << 10;

/// Something received that could not become a record. A record itself: see
/// [`StreamContext::dead_letters`](crate::StreamContext::dead_letters).
#[derive(Debug, Clone, PartialEq, Eq, dstreams_derive::Record)]
pub struct DeadLetter {
    /// The input stream.
    pub stream: String,
    /// Who sent it, such as the address of the producer.
    pub producer: String,
    /// Why it is no record.
    pub reason: String,
    /// The raw bytes: the first 64 KiB.
    pub bytes: Vec<u8>,
    /// Number of bytes it had.
    pub length: u64,
}

/// Counts dead letters, and passes them on where the program reads them.
#[derive(Clone, Default)]
pub struct DeadLetters(Arc<Inner>);

#[derive(Default)]
struct Inner {
    counts: Mutex<BTreeMap<String, u64>>,
    intake: Mutex<Option<Arc<Intake>>>,
}

impl DeadLetters {
    /// Passes dead letters on to this receiver.
    pub fn connect(&self, intake: Arc<Intake>) {
        *self.0.intake.lock().unwrap_or_else(PoisonError::into_inner) = Some(intake);
    }

    fn intake(&self) -> Option<Arc<Intake>> {
        let intake = self.0.intake.lock();
        intake.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The receiver that they are passed on to, if there is one.
    pub fn receiver(&self) -> Option<ReceiverId> {
        self.intake().map(|intake| intake.receiver())
    }

    /// Number of dead letters of each stream.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.0
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Counts one and passes it on, waiting for memory as every record does.
    pub async fn add(&self, stream: &str, producer: &str, bytes: &[u8], length: u64, reason: &str) {
        self.add_at(stream, producer, bytes, length, reason, None)
            .await
    }

    /// The same, of something that is read again after a restart: `mark` says which part of the stream has come
    /// how far with it. What an earlier process has passed on already is not again.
    pub async fn add_at(
        &self,
        stream: &str,
        producer: &str,
        bytes: &[u8],
        length: u64,
        reason: &str,
        mark: Option<(&str, u64)>,
    ) {
        let intake = self.intake();
        let mark = mark.map(|(key, at)| (Arc::<str>::from(format!("{stream}/{key}")), at));
        if let (Some(intake), Some((key, at))) = (&intake, &mark)
            && intake
                .positions()
                .get(&**key)
                .is_some_and(|known| known >= at)
        {
            return;
        }
        tracing::warn!(stream, producer, length, reason, "dead letter");
        {
            let mut counts = self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
            *counts.entry(stream.to_owned()).or_default() += 1;
        }
        let Some(intake) = intake else { return };
        let letter = DeadLetter {
            stream: stream.to_owned(),
            producer: producer.to_owned(),
            reason: reason.to_owned(),
            bytes: bytes[..bytes.len().min(KEPT)].to_vec(),
            length,
        };
        let pushed = match batch_of([letter]) {
            Ok(batch) => {
                let mark = mark.as_ref().map(|(key, at)| (key, *at));
                intake.push_marked(batch, mark).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = pushed {
            tracing::error!(stream, %error, "dead letter not kept");
        }
    }
}
