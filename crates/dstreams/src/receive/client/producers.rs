//! The producers of a stream: the last batch number of each, and its newest connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dstreams_client::protocol::Sequence;

use crate::error::Result;
use crate::receive::Intake;

/// One producer, locked while a batch of it is stored: a newer connection waits for that, and then knows which
/// batches were stored.
#[derive(Debug, Default)]
pub(super) struct Producer {
    pub sequence: Sequence,
    /// Counts the connections: only the newest may store batches.
    pub connection: u64,
    /// The block of the last stored batch.
    pub block: Option<u64>,
    /// On a cluster: no other worker receives batches of this producer.
    pub owned: bool,
}

impl Producer {
    /// A producer whose batches up to `last` were received elsewhere.
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

    /// A producer whose batches up to `last` were received by an earlier process.
    fn restored(last: u64) -> Self {
        Producer {
            sequence: Sequence::after(last),
            ..Producer::default()
        }
    }

    /// Waits until all its batches are safe; fails if they will not be.
    pub async fn safe(&self, intake: &Intake) -> Result<()> {
        match self.block {
            Some(block) => intake.safe(block).await,
            None => Ok(()),
        }
    }
}

// Lock order L3 in ARCHITECTURE.md: before `Intake`'s.
pub(super) type SharedProducer = Arc<tokio::sync::Mutex<Producer>>;

/// The producers of one stream.
#[derive(Default)]
pub(super) struct Producers(Mutex<Known>);

struct Known {
    /// With the time of the last access, counted in calls.
    producers: HashMap<String, (SharedProducer, u64)>,
    calls: u64,
    /// How many unconnected ones are remembered.
    most: usize,
    forgotten: Arc<AtomicU64>,
}

impl Default for Known {
    fn default() -> Self {
        Known {
            producers: HashMap::new(),
            calls: 0,
            most: usize::MAX,
            forgotten: Arc::default(),
        }
    }
}

impl Producers {
    /// Sets how many unconnected ones are remembered, and the counter of forgotten ones.
    pub fn bound(&self, most: usize, forgotten: Arc<AtomicU64>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (known.most, known.forgotten) = (most, forgotten);
    }

    /// Adds a producer of an earlier process; call it in the order of last use, oldest first.
    pub fn restore(&self, name: &str, last: u64) {
        let producer = Arc::new(tokio::sync::Mutex::new(Producer::restored(last)));
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.calls += 1;
        let asked = known.calls;
        known.producers.insert(name.to_owned(), (producer, asked));
    }

    /// The producer of this name; a new one if there is no name.
    pub fn get(&self, name: Option<&str>) -> SharedProducer {
        let Some(name) = name else {
            return SharedProducer::default();
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.calls += 1;
        let now = known.calls;
        if let Some((producer, asked)) = known.producers.get_mut(name) {
            *asked = now;
            return Arc::clone(producer);
        }
        // Not at each call, so that the cost of each is small.
        if known.producers.len() > known.most.saturating_add(known.most / 4) {
            known.forget();
        }
        let producer = SharedProducer::default();
        known
            .producers
            .insert(name.to_owned(), (Arc::clone(&producer), now));
        producer
    }
}

impl Known {
    /// Forgets the least recently used of the unconnected ones.
    fn forget(&mut self) {
        let away = |producer: &SharedProducer| Arc::strong_count(producer) == 1;
        let all = self.producers.values();
        let mut asked: Vec<_> = all
            .filter(|(p, _)| away(p))
            .map(|(_, asked)| *asked)
            .collect();
        let Some(many @ 1..) = asked.len().checked_sub(self.most) else {
            return;
        };
        let (_, &mut last, _) = asked.select_nth_unstable(many - 1);
        self.producers
            .retain(|_, (producer, asked)| !away(producer) || *asked > last);
        self.forgotten.fetch_add(many as u64, Ordering::Relaxed);
        tracing::warn!(
            many,
            "the least recently active producers are forgotten: records that they send again are received again"
        );
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

    const LIMIT: usize = 1000;

    fn bounded() -> (Producers, Arc<AtomicU64>) {
        let (producers, forgotten) = (Producers::default(), Arc::<AtomicU64>::default());
        producers.bound(LIMIT, Arc::clone(&forgotten));
        (producers, forgotten)
    }

    fn len(producers: &Producers) -> usize {
        producers.0.lock().unwrap().producers.len()
    }

    #[test]
    fn the_least_recent_are_forgotten_and_connected_ones_never() {
        let (producers, forgotten) = bounded();
        let connected = producers.get(Some("connected"));
        connected.try_lock().unwrap().sequence.taken(7);
        for number in 0..2 * LIMIT {
            let name = number.to_string();
            producers
                .get(Some(&name))
                .try_lock()
                .unwrap()
                .sequence
                .taken(1);
        }
        assert!(len(&producers) <= LIMIT + LIMIT / 4 + 1);
        let gone = forgotten.load(Ordering::Relaxed) as usize;
        assert_eq!(gone + len(&producers), 2 * LIMIT + 1);
        assert_eq!(last(&producers, "connected"), 7);
        assert_eq!(last(&producers, &LIMIT.to_string()), 1, "the last so many");
        assert_eq!(last(&producers, "0"), 0, "it was forgotten");
    }

    /// Before the first new producer, no other has connected.
    #[test]
    fn after_a_restart_the_most_recent_producers_are_known() {
        let (producers, forgotten) = bounded();
        for number in (0..2 * LIMIT).rev() {
            producers.restore(&number.to_string(), 7);
        }
        assert_eq!(last(&producers, "new"), 0);
        assert_eq!(forgotten.load(Ordering::Relaxed), LIMIT as u64);
        for number in [0, LIMIT - 1] {
            assert_eq!(last(&producers, &number.to_string()), 7, "{number}");
        }
        assert_eq!(last(&producers, &LIMIT.to_string()), 0);
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
