//! What is known of each producer of a stream: the last number taken, and which of its connections
//! is the newest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use dstreams_client::protocol::Sequence;

use crate::error::Result;
use crate::receive::Intake;

/// Producers remembered that are not connected. With their names some 2 MB at most; a producer may
/// be forgotten once that many others came after it.
const REMEMBERED: usize = 10_000;

/// One producer, locked while a batch of it is stored: a newer connection waits for that, and then
/// knows what was taken.
#[derive(Debug, Default)]
pub(super) struct Producer {
    pub sequence: Sequence,
    /// Counts the connections: only the newest may store.
    pub connection: u64,
    /// The block of the last batch that was taken.
    pub block: Option<u64>,
    /// On a cluster: no other worker takes batches of this producer.
    pub owned: bool,
}

impl Producer {
    /// One whose batches up to `last` were taken elsewhere.
    pub fn owned_from(last: u64, connection: u64) -> Self {
        let sequence = match last {
            0 => Sequence::default(),
            last => Sequence::after(last),
        };
        Producer {
            sequence,
            connection,
            block: None,
            owned: true,
        }
    }

    /// One whose batches up to `last` an earlier process has taken.
    fn restored(last: u64) -> Self {
        Producer {
            sequence: Sequence::after(last),
            ..Producer::default()
        }
    }

    /// Waits until all that was taken is safe; fails if it will not be.
    pub async fn safe(&self, intake: &Intake) -> Result<()> {
        match self.block {
            Some(block) => intake.safe(block).await,
            None => Ok(()),
        }
    }
}

pub(super) type Shared = Arc<tokio::sync::Mutex<Producer>>;

/// The producers of one stream.
#[derive(Default)]
pub(super) struct Producers(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// With the time each was last asked for, counted in calls.
    producers: HashMap<String, (Shared, u64)>,
    calls: u64,
}

impl Producers {
    /// A producer that an earlier process knew.
    pub fn restore(&self, name: &str, last: u64) {
        let producer = Arc::new(tokio::sync::Mutex::new(Producer::restored(last)));
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.producers.insert(name.to_owned(), (producer, 0));
    }

    /// The producer of this name; a new one if it has none.
    pub fn get(&self, name: Option<&str>) -> Shared {
        let Some(name) = name else {
            return Shared::default();
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.calls += 1;
        let now = known.calls;
        if let Some((producer, asked)) = known.producers.get_mut(name) {
            *asked = now;
            return Arc::clone(producer);
        }
        if known.producers.len() >= REMEMBERED {
            known.forget();
        }
        let producer = Shared::default();
        known
            .producers
            .insert(name.to_owned(), (Arc::clone(&producer), now));
        producer
    }
}

impl Known {
    /// Forgets the older half of those that are not connected.
    fn forget(&mut self) {
        let away = |producer: &Shared| Arc::strong_count(producer) == 1;
        let all = self.producers.values();
        let mut asked: Vec<_> = all
            .filter(|(p, _)| away(p))
            .map(|(_, asked)| *asked)
            .collect();
        if asked.is_empty() {
            return;
        }
        let half = asked.len() / 2;
        let (_, &mut last, _) = asked.select_nth_unstable(half);
        self.producers
            .retain(|_, (producer, asked)| !away(producer) || *asked > last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(producers: &Producers, name: &str) -> u64 {
        producers
            .get(Some(name))
            .try_lock()
            .unwrap()
            .sequence
            .last()
    }

    #[test]
    fn the_longest_gone_are_forgotten_and_the_connected_never() {
        let producers = Producers::default();
        let connected = producers.get(Some("connected"));
        connected.try_lock().unwrap().sequence.taken(7);
        for number in 0..2 * REMEMBERED {
            let name = number.to_string();
            producers
                .get(Some(&name))
                .try_lock()
                .unwrap()
                .sequence
                .taken(1);
        }
        assert!(producers.0.lock().unwrap().producers.len() <= REMEMBERED);
        assert_eq!(last(&producers, "connected"), 7);
        assert_eq!(last(&producers, &(2 * REMEMBERED - 1).to_string()), 1);
        assert_eq!(last(&producers, "0"), 0, "it was forgotten");
    }

    #[test]
    fn producers_without_a_name_share_nothing() {
        let producers = Producers::default();
        let (one, other) = (producers.get(None), producers.get(None));
        assert!(!Arc::ptr_eq(&one, &other));
        assert!(Arc::ptr_eq(
            &producers.get(Some("a")),
            &producers.get(Some("a"))
        ));
    }
}
