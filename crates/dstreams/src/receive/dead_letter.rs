//! Dead letters: input that could not become a record, stored with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use dstreams_control::ReceiverId;

use super::intake::Intake;
use crate::debug::debug_as;
use crate::error::Result;
use crate::stream::record::batch_of;

/// Bytes stored of one dead letter, so that a flood of huge ones stays small.
pub(crate) const STORED_BYTES: usize = 64 << 10;
/// Bytes stored of a reason: the error, without all of the value that caused it.
const REASON_BYTES: usize = 400;
const SECOND: Duration = Duration::from_secs(1);
/// Dead letters of a stream that are logged one by one in each second; the others are only counted.
const LOGGED_PER_SECOND: u32 = 5;

/// Input that could not become a record. Dead letters are records themselves: see
/// [`StreamContext::dead_letters`](crate::StreamContext::dead_letters).
#[derive(Debug, Clone, PartialEq, Eq, dstreams_derive::Record)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The input stream.
    pub stream: String,
    /// The sender, such as the address of the producer.
    pub producer: String,
    /// Why it is not a record: up to 400 bytes.
    pub reason: String,
    /// The raw bytes: up to the first 64 KiB.
    pub bytes: Vec<u8>,
    /// Its full length in bytes.
    pub length: u64,
}

/// Counts dead letters, and passes them on if the program reads them.
#[derive(Clone, Default)]
pub struct DeadLetters(Arc<Inner>);

debug_as!(DeadLetters);

#[derive(Default)]
struct Inner {
    // Lock order L6 in ARCHITECTURE.md: before `intake`.
    counts: Mutex<BTreeMap<String, LetterCount>>,
    /// Weak, since every intake owns these dead letters, also the intake for dead letters.
    intake: Mutex<Weak<Intake>>,
    /// Parts of streams whose letters an earlier process passed on, and which have been forgotten since.
    forgotten: Mutex<BTreeSet<String>>,
}

impl DeadLetters {
    /// Passes dead letters on to this receiver, as long as it has another owner.
    pub fn connect(&self, intake: &Arc<Intake>) {
        *self.0.intake.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(intake);
    }

    pub(crate) fn intake(&self) -> Option<Arc<Intake>> {
        let intake = self.0.intake.lock();
        intake.unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    /// The receiver that dead letters are passed on to, if there is one.
    pub fn receiver(&self) -> Option<ReceiverId> {
        self.intake().map(|intake| intake.receiver())
    }

    /// Number of dead letters of each stream.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.0
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(stream, count)| (stream.clone(), count.all))
            .collect()
    }

    /// Counts letters of one producer and passes them on together, waiting for memory as every record does. Returns
    /// the number of their block: see [`DeadLetters::safe`].
    ///
    /// Letters of input that is read again after a restart carry the part of the stream, `key`, and their offset in
    /// it: letters that an earlier process passed on already are skipped.
    pub async fn add(
        &self,
        stream: &str,
        producer: &str,
        key: Option<&str>,
        mut letters: Vec<Letter>,
    ) -> Option<u64> {
        let intake = self.intake();
        let key = key.map(|key| Arc::<str>::from(format!("{stream}/{key}")));
        if let (Some(intake), Some(key)) = (&intake, &key) {
            let known = intake.offsets().get(&**key).copied();
            let known = known.filter(|_| !self.forgotten().contains(&**key));
            letters.retain(|letter| {
                letter
                    .at
                    .is_none_or(|at| known.is_none_or(|known| known < at))
            });
        }
        for letter in &mut letters {
            shorten(&mut letter.reason);
            letter.bytes.truncate(STORED_BYTES);
        }
        self.count(stream, producer, &letters);
        let intake = intake.filter(|_| !letters.is_empty())?;
        let last = letters.iter().filter_map(|letter| letter.at).max();
        let letters = letters.into_iter().map(|letter| DeadLetter {
            stream: stream.to_owned(),
            producer: producer.to_owned(),
            reason: letter.reason,
            bytes: letter.bytes,
            length: letter.length,
        });
        let pushed = match batch_of(letters) {
            Ok(batch) => intake.take_in(batch, key.as_ref().zip(last)).await,
            Err(error) => Err(error),
        };
        not_kept(stream, pushed).flatten()
    }

    /// The part of a stream will not come again: see [`Ingest::forget`](super::Ingest::forget).
    pub fn forget(&self, stream: &str, key: &str) {
        let Some(intake) = self.intake() else { return };
        let key = format!("{stream}/{key}");
        intake.forget(&key);
        if intake.offsets().contains_key(&key) {
            self.forgotten().insert(key);
        }
    }

    fn forgotten(&self) -> MutexGuard<'_, BTreeSet<String>> {
        let forgotten = self.0.forgotten.lock();
        forgotten.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until added dead letters are as safe as records.
    pub async fn safe(&self, added: Option<u64>) {
        if let (Some(block), Some(intake)) = (added, self.intake()) {
            not_kept(&intake.stream, intake.safe(block).await);
        }
    }

    /// No more dead letters will come: logs how many were not logged, and releases the receiver.
    pub fn end(&self) {
        let mut counts = self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (stream, count) in counts.iter_mut().filter(|(_, count)| count.others > 0) {
            let others = std::mem::take(&mut count.others);
            tracing::warn!(stream, others, "other dead letters were not logged");
        }
        *self.0.intake.lock().unwrap_or_else(PoisonError::into_inner) = Weak::new();
    }

    fn count(&self, stream: &str, producer: &str, letters: &[Letter]) {
        let mut counts = self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(stream.to_owned()).or_default();
        for letter in letters {
            count.all += 1;
            let Some(others) = count.log(Instant::now()) else {
                continue;
            };
            if others > 0 {
                tracing::warn!(stream, others, "other dead letters were not logged");
            }
            let (length, reason) = (letter.length, &letter.reason);
            tracing::warn!(stream, producer, length, reason, "dead letter");
        }
    }
}

/// Input that is not a record.
pub struct Letter {
    /// Its first bytes.
    pub bytes: Vec<u8>,
    /// Its full length in bytes.
    pub length: u64,
    /// Why it is not a record.
    pub reason: String,
    /// Offset of the letter in its part of the stream.
    pub at: Option<u64>,
}

debug_as!(Letter { length });

/// Dead letters of one stream.
#[derive(Default)]
struct LetterCount {
    all: u64,
    /// When the current second of `logged` began.
    second: Option<Instant>,
    logged: u32,
    /// Letters not logged in that second.
    others: u64,
}

impl LetterCount {
    /// Whether to log the next letter; if so, how many were skipped before it.
    fn log(&mut self, now: Instant) -> Option<u64> {
        let second = self
            .second
            .is_some_and(|at| now.duration_since(at) < SECOND);
        if !second {
            self.second = Some(now);
            self.logged = 0;
        }
        if self.logged == LOGGED_PER_SECOND {
            self.others += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.others))
    }
}

fn not_kept<T>(stream: &str, done: Result<T>) -> Option<T> {
    let failed = |error| tracing::error!(stream, %error, "dead letters were lost");
    done.map_err(failed).ok()
}

/// Shortens a reason, which may contain a whole value.
fn shorten(reason: &mut String) {
    if reason.len() > REASON_BYTES {
        // The error is named at the beginning or at the end.
        let end = reason.split_off(reason.ceil_char_boundary(reason.len() - REASON_BYTES / 3));
        reason.truncate(reason.floor_char_boundary(REASON_BYTES - 5 - end.len()));
        reason.push_str(" ... ");
        reason.push_str(&end);
    }
}

#[cfg(test)]
mod tests {
    use dstreams_control::ReceiverId;

    use super::*;
    use crate::blocks::Budget;
    use crate::config::Config;
    use crate::stream::record::{Record, records_of};

    fn letter(reason: &str, at: u64) -> Letter {
        Letter {
            bytes: vec![b'x'; 100_000],
            length: 100_000,
            reason: reason.to_owned(),
            at: Some(at),
        }
    }

    /// Without any disk.
    #[tokio::test]
    async fn dead_letters_of_one_push_wait_for_the_disk_once_and_are_small() {
        let (dead, config) = (DeadLetters::default(), Config::new(SECOND));
        let (budget, columns) = (Budget::new(1 << 30), DeadLetter::schema());
        let intake = Intake::new(
            ReceiverId(7),
            "dead",
            columns,
            &config,
            budget,
            dead.clone(),
        );
        let intake = Arc::new(intake.with_copies());
        dead.connect(&intake);
        let letters = (0..3).map(|at| letter(&"ä".repeat(50_000), at)).collect();
        let added = dead.add("lines", "someone", Some("file"), letters).await;
        assert_eq!(added, Some(0));
        let blocks = intake.seal(false);
        let found = blocks[0].batches.iter().map(|batch| batch.num_rows());
        assert_eq!(found.collect::<Vec<_>>(), [3], "one batch for all");
        let letters: Vec<DeadLetter> = records_of(&blocks[0].batches[0]).unwrap();
        assert!(
            letters
                .iter()
                .all(|it| it.bytes.len() == STORED_BYTES && it.length == 100_000)
        );
        let reasons = letters.iter().map(|it| it.reason.len());
        assert!(
            reasons
                .clone()
                .all(|bytes| (300..=REASON_BYTES).contains(&bytes)),
            "{reasons:?}"
        );
        assert_eq!(blocks[0].offsets.get("lines/file"), Some(&2));
        assert_eq!(dead.counts(), [("lines".to_owned(), 3)].into());
        intake.fail(crate::Error::NotRunning);
        dead.safe(added).await;
    }

    #[test]
    fn a_flood_of_dead_letters_does_not_flood_the_log() {
        let (mut count, begun) = (LetterCount::default(), Instant::now());
        let logged = (0..10_000)
            .filter_map(|_| count.log(begun))
            .collect::<Vec<_>>();
        assert_eq!(logged, [0; LOGGED_PER_SECOND as usize]);
        assert_eq!(
            count.log(begun + SECOND),
            Some(10_000 - u64::from(LOGGED_PER_SECOND))
        );
        assert_eq!(count.log(begun + SECOND), Some(0));
    }
}
