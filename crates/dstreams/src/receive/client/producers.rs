//! What is known of each producer of a stream: the last number taken, and which of its connections
//! is the newest.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dstreams_client::protocol::Sequence;

use crate::error::Result;
use crate::receive::Intake;

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

// Lock order L3 in ARCHITECTURE.md: before `Intake`'s.
pub(super) type SharedProducer = Arc<tokio::sync::Mutex<Producer>>;

/// The producers of one stream.
#[derive(Default)]
pub(super) struct Producers(Mutex<Known>);

struct Known {
    /// With the time each was last asked for, counted in calls.
    producers: HashMap<String, (SharedProducer, u64)>,
    calls: u64,
    /// So many are remembered that are not connected.
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
    /// How many are remembered that are not connected, and where those are counted that are forgotten.
    pub fn bound(&self, most: usize, forgotten: Arc<AtomicU64>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (known.most, known.forgotten) = (most, forgotten);
    }

    /// A producer that an earlier process knew; of those that were used longest ago first.
    pub fn restore(&self, name: &str, last: u64) {
        let producer = Arc::new(tokio::sync::Mutex::new(Producer::restored(last)));
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.calls += 1;
        let asked = known.calls;
        known.producers.insert(name.to_owned(), (producer, asked));
    }

    /// The producer of this name; a new one if it has none.
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
        // Now and then, so that it costs little for each.
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
    /// Forgets those that were used longest ago, of those that are not connected.
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
            "producers that sent longest ago are forgotten: what they send again is taken again"
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

    const MOST: usize = 1000;

    fn bounded() -> (Producers, Arc<AtomicU64>) {
        let (producers, forgotten) = (Producers::default(), Arc::<AtomicU64>::default());
        producers.bound(MOST, Arc::clone(&forgotten));
        (producers, forgotten)
    }

    fn len(producers: &Producers) -> usize {
        producers.0.lock().unwrap().producers.len()
    }

    #[test]
    fn the_longest_gone_are_forgotten_and_the_connected_never() {
        let (producers, forgotten) = bounded();
        let connected = producers.get(Some("connected"));
        connected.try_lock().unwrap().sequence.taken(7);
        for number in 0..2 * MOST {
            let name = number.to_string();
            producers
                .get(Some(&name))
                .try_lock()
                .unwrap()
                .sequence
                .taken(1);
        }
        assert!(len(&producers) <= MOST + MOST / 4 + 1);
        let gone = forgotten.load(Ordering::Relaxed) as usize;
        assert_eq!(gone + len(&producers), 2 * MOST + 1);
        assert_eq!(last(&producers, "connected"), 7);
        assert_eq!(last(&producers, &MOST.to_string()), 1, "the last so many");
        assert_eq!(last(&producers, "0"), 0, "it was forgotten");
    }

    /// Nobody has connected yet when the first new one does.
    #[test]
    fn after_a_restart_those_that_sent_last_are_known() {
        let (producers, forgotten) = bounded();
        for number in (0..2 * MOST).rev() {
            producers.restore(&number.to_string(), 7);
        }
        assert_eq!(last(&producers, "new"), 0);
        assert_eq!(forgotten.load(Ordering::Relaxed), MOST as u64);
        for number in [0, MOST - 1] {
            assert_eq!(last(&producers, &number.to_string()), 7, "{number}");
        }
        assert_eq!(last(&producers, &MOST.to_string()), 0);
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
