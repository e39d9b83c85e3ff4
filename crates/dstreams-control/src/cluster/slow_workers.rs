//! [`SlowWorkers`]: which workers are too slow to be given work.
//!
//! Evidence is a copy that finished before its original although it started later: the same work, at the same moment, on
//! another worker. A task that only has more to do than the others of its stage finishes before its copy.

use std::collections::BTreeMap;
use std::time::Duration;

use super::SpeculationConfig;

/// The batches that are remembered of each worker, and those for which it is on trial after a rest.
const MEMORY: u32 = u16::BITS;
/// The longest rest.
const MAX_REST: Duration = Duration::from_secs(300);
/// A worker that keeps up for so many times its next rest, and in so many batches, is treated as if it had never been slow.
const TRUSTED_AFTER: (u32, u32) = (8, 8 * MEMORY);
/// A trial ends well after so many batches in which the worker got no tasks.
const MAX_IDLE: u32 = 4 * MEMORY;

#[derive(Copy, Clone, Debug)]
enum Standing {
    /// It has kept up since then, in so many batches.
    Steady { since: Duration, batches: u32 },
    /// It gets nothing until then.
    Rests { until: Duration },
    /// It gets tasks again, but no state: for so many more batches, or so many others in which it gets no tasks.
    Trial { left: u32, idle: u32 },
}

#[derive(Clone, Debug)]
struct Record {
    standing: Standing,
    /// One bit for each of its last batches, the newest the lowest: whether it was slow.
    batches: u16,
    /// The length of its next rest.
    rest: Duration,
}

impl Record {
    const fn new(now: Duration, rest: Duration) -> Self {
        Self {
            standing: Standing::Steady {
                since: now,
                batches: 0,
            },
            batches: 0,
            rest,
        }
    }

    /// Ends a rest that is over.
    fn look(&mut self, now: Duration) {
        if let Standing::Rests { until } = self.standing
            && now >= until
        {
            self.standing = Standing::Trial {
                left: MEMORY,
                idle: MAX_IDLE,
            };
        }
    }

    const fn steady(&mut self, now: Duration) {
        *self = Self::new(now, self.rest);
    }

    const fn is_slow(&self) -> bool {
        !matches!(self.standing, Standing::Steady { .. })
    }

    /// It has kept up for long, so its next rest is as short as the first.
    fn is_trusted(&self, now: Duration) -> bool {
        let (rests, least) = TRUSTED_AFTER;
        matches!(self.standing, Standing::Steady { since, batches }
            if now.saturating_sub(since) >= self.rest.saturating_mul(rests) && batches >= least)
    }
}

/// Decides which workers are slow, as a pure state machine.
///
/// A worker that was slow in at least [`slow`](SpeculationConfig::slow) of its last 16 batches rests: it gets no tasks that
/// others can run, and its state moves to others. Then it is on trial: for 16 batches it gets tasks, but no state. If it is
/// slow in a quarter of that number (2 by default), it rests again, twice as long. Otherwise it counts as steady again. So
/// does one that got no tasks in 64 batches. Its rests become short again only once it has kept up for eight times its next
/// rest, and in 128 batches. So state that makes its worker slow does not move back and forth forever. At most half of the
/// workers are slow at once: the others must not become overloaded.
///
/// Workers are named by `W`; times are since any fixed moment, by a monotonic clock.
///
/// ```
/// use std::time::Duration;
/// use dstreams_control::cluster::{SlowWorkers, SpeculationConfig};
///
/// let mut workers = SlowWorkers::new(&SpeculationConfig::default());
/// let at = Duration::from_secs;
/// ["a", "b"].into_iter().for_each(|worker| workers.joined(worker, at(0)));
/// for second in 0..8 {
///     assert_eq!(workers.slow(at(second)), []);
///     // A copy of one of a's tasks finished first.
///     workers.batch([("a", true), ("b", false)], at(second));
/// }
/// assert_eq!(workers.slow(at(16)), [("a", true)]);
/// assert_eq!(workers.slow(at(17)), [("a", false)], "it is tried again");
/// ```
#[derive(Clone, Debug)]
pub struct SlowWorkers<W> {
    /// How many slow batches among the last 16 make a worker rest.
    limit: u32,
    rest: Duration,
    workers: BTreeMap<W, Record>,
}

impl<W: Ord + Clone> SlowWorkers<W> {
    /// There are no workers.
    #[must_use]
    pub const fn new(config: &SpeculationConfig) -> Self {
        Self {
            limit: config.slow,
            rest: config.rest,
            workers: BTreeMap::new(),
        }
    }

    /// A worker was added.
    pub fn joined(&mut self, worker: W, now: Duration) {
        let new = Record::new(now, self.rest);
        self.workers.entry(worker).or_insert(new);
    }

    /// A worker is lost.
    pub fn lost(&mut self, worker: &W, now: Duration) {
        self.workers.remove(worker);
        while self.count() > self.workers.len() / 2 {
            // Those on trial first, then those that have rested for the longest.
            let slow = self.workers.values_mut().filter(|record| record.is_slow());
            let first = slow.min_by_key(|record| match record.standing {
                Standing::Rests { until } => Some(until),
                Standing::Steady { .. } | Standing::Trial { .. } => None,
            });
            let Some(first) = first else {
                return;
            };
            first.steady(now);
        }
    }

    /// A batch has ended: each worker that ran tasks of it which others could have run, and whether a copy of one of them
    /// finished first.
    pub fn batch(&mut self, ran: impl IntoIterator<Item = (W, bool)>, now: Duration) {
        let ran: BTreeMap<W, bool> = ran.into_iter().collect();
        for (worker, record) in &mut self.workers {
            record.look(now);
            if let Standing::Trial { idle, .. } = &mut record.standing
                && !ran.contains_key(worker)
            {
                *idle -= 1;
                if *idle == 0 {
                    record.steady(now);
                }
            }
        }
        for (worker, slow) in ran {
            let may_rest = self.count() < self.workers.len() / 2;
            let Some(record) = self.workers.get_mut(&worker) else {
                continue;
            };
            let (limit, is_over) = match &mut record.standing {
                // A task that began before its rest.
                Standing::Rests { .. } => continue,
                Standing::Steady { batches, .. } => {
                    *batches = batches.saturating_add(1);
                    (self.limit, false)
                }
                Standing::Trial { left, .. } => {
                    *left -= 1;
                    (self.limit.div_ceil(4), *left == 0)
                }
            };
            record.batches = record.batches << 1 | u16::from(slow);
            if slow && record.batches.count_ones() >= limit && (may_rest || record.is_slow()) {
                if record.is_trusted(now) {
                    record.rest = self.rest;
                }
                let until = now.saturating_add(record.rest);
                record.standing = Standing::Rests { until };
                record.rest = record.rest.saturating_mul(2).min(MAX_REST.max(self.rest));
                record.batches = 0;
            } else if is_over {
                record.steady(now);
            }
        }
    }

    /// The number of slow workers.
    fn count(&self) -> usize {
        let slow = self.workers.values().filter(|record| record.is_slow());
        slow.count()
    }

    /// The slow workers, which get no state, and whether each rests: then it gets no tasks either that others can run.
    pub fn slow(&mut self, now: Duration) -> Vec<(W, bool)> {
        self.workers
            .values_mut()
            .for_each(|record| record.look(now));
        let slow = self.workers.iter().filter(|(_, record)| record.is_slow());
        let slow = slow.map(|(worker, record)| {
            let rests = matches!(record.standing, Standing::Rests { .. });
            (worker.clone(), rests)
        });
        slow.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Workers 0, 1, 2... with a batch a second.
    struct Cluster {
        workers: SlowWorkers<u32>,
        second: u32,
    }

    impl Cluster {
        fn new(workers: u32) -> Self {
            let mut cluster = Self {
                workers: SlowWorkers::new(&SpeculationConfig::default()),
                second: 0,
            };
            (0..workers).for_each(|worker| cluster.workers.joined(worker, Duration::ZERO));
            cluster
        }

        fn now(&self) -> Duration {
            SECOND * self.second
        }

        fn slow(&mut self) -> Vec<u32> {
            let slow = self.workers.slow(self.now());
            slow.into_iter().map(|(worker, _)| worker).collect()
        }

        fn rests(&mut self, worker: u32) -> bool {
            self.workers.slow(self.now()).contains(&(worker, true))
        }

        /// Runs a batch in which these workers are slow, unless they rest. Returns the slow workers after it.
        fn batch(&mut self, slow: &[u32]) -> Vec<u32> {
            self.second += 1;
            let all: Vec<u32> = self.workers.workers.keys().copied().collect();
            let ran: Vec<_> = all.into_iter().filter(|it| !self.rests(*it)).collect();
            let ran = ran.into_iter().map(|it| (it, slow.contains(&it)));
            self.workers.batch(ran, self.now());
            self.slow()
        }

        fn lose(&mut self, worker: u32) {
            self.workers.lost(&worker, self.now());
        }

        /// Makes worker 0 slow until it rests. Returns the length of its rest, in seconds.
        fn rest(&mut self) -> u32 {
            while !self.rests(0) {
                self.batch(&[0]);
            }
            let from = self.second;
            while self.rests(0) {
                self.second += 1;
            }
            self.second - from
        }
    }

    #[test]
    fn a_worker_that_is_slow_in_half_of_its_batches_rests() {
        let mut cluster = Cluster::new(3);
        for round in 0..7 {
            assert_eq!(cluster.batch(&[0]), [0; 0], "{round}");
            assert_eq!(cluster.batch(&[]), [0; 0], "{round}");
        }
        assert_eq!(cluster.batch(&[0]), [0]);
        assert!(cluster.rests(0) && !cluster.rests(1));
    }

    #[test]
    fn slow_batches_are_forgotten() {
        let mut cluster = Cluster::new(3);
        for _ in 0..100 {
            for _ in 0..7 {
                assert_eq!(cluster.batch(&[0]), [0; 0]);
            }
            for _ in 0..9 {
                assert_eq!(cluster.batch(&[]), [0; 0]);
            }
        }
    }

    #[test]
    fn a_worker_that_stays_slow_rests_twice_as_long_each_time() {
        let mut cluster = Cluster::new(2);
        let rests = [10, 20, 40, 80, 160, 300, 300];
        assert_eq!(rests.map(|_| cluster.rest()), rests);
        // Its trials had two batches each.
        assert_eq!(cluster.second, 8 + 2 * 6 + rests.iter().sum::<u32>());
    }

    #[test]
    fn a_worker_that_keeps_up_in_its_trial_is_like_the_others_again() {
        let mut cluster = Cluster::new(2);
        assert_eq!(cluster.rest(), 10);
        assert_eq!(cluster.batch(&[0]), [0], "once is not enough");
        for _ in 0..14 {
            assert_eq!(cluster.batch(&[]), [0]);
        }
        assert_eq!(cluster.batch(&[]), [0; 0]);
        for _ in 0..7 {
            assert_eq!(cluster.batch(&[0]), [0; 0]);
        }
        assert_eq!(cluster.batch(&[0]), [0]);
    }

    /// Its state may make it slow, and that came back only after its trial.
    #[test]
    fn a_worker_that_is_slow_after_its_trial_rests_twice_as_long() {
        let mut cluster = Cluster::new(2);
        let mut rests = Vec::new();
        for kept_up in [0, 0, 8 * 80 - 9, 8 * 160 - 8, 0] {
            rests.push(cluster.rest());
            while cluster.slow() == [0] {
                cluster.batch(&[]);
            }
            // It is slow in 8 batches after these.
            for _ in 0..kept_up {
                cluster.batch(&[]);
            }
        }
        // After the third rest it kept up one second too short to be trusted; after the fourth, just long enough.
        assert_eq!(rests, [10, 20, 40, 80, 10]);
    }

    /// The trust is of batches too.
    #[test]
    fn long_pauses_between_batches_forgive_nothing() {
        let mut cluster = Cluster::new(2);
        let (mut rests, mut slow) = (0, false);
        for _ in 0..200 {
            // A batch every 30 seconds.
            cluster.second += 29;
            let before = std::mem::replace(&mut slow, cluster.rests(0));
            rests += u32::from(slow && !before);
            cluster.batch(&[0]);
            assert!(rests == 0 || cluster.slow() == [0], "{rests}");
        }
        assert!(rests > 2, "{rests}");
    }

    #[test]
    fn a_trial_without_tasks_ends() {
        let mut cluster = Cluster::new(2);
        assert_eq!(cluster.rest(), 10);
        cluster.second += 1_000;
        for _ in 0..63 {
            cluster.workers.batch([(1, false)], cluster.now());
            assert_eq!(cluster.slow(), [0]);
        }
        cluster.workers.batch([(1, false)], cluster.now());
        assert_eq!(cluster.slow(), [0; 0]);
    }

    #[test]
    fn a_rest_does_not_end_with_a_task_that_began_before_it() {
        let mut cluster = Cluster::new(2);
        while !cluster.rests(0) {
            cluster.batch(&[0]);
        }
        cluster.second += 9;
        for _ in 0..100 {
            cluster.workers.batch([(0, false)], cluster.now());
        }
        assert!(cluster.rests(0));
        cluster.second += 1;
        assert!(!cluster.rests(0));
        assert_eq!(cluster.slow(), [0]);
    }

    #[test]
    fn at_most_half_of_the_workers_are_slow() {
        let mut cluster = Cluster::new(5);
        for _ in 0..40 {
            assert!(cluster.batch(&[0, 1, 2, 3]).len() <= 2);
        }
        assert_eq!(cluster.batch(&[]), [0, 1]);
        // A single worker cannot be slow: there is none to compare it with.
        let mut alone = Cluster::new(1);
        (0..40).for_each(|_| assert_eq!(alone.batch(&[0]), [0; 0]));
    }

    #[test]
    fn a_loss_ends_the_rests_that_are_too_many() {
        let mut cluster = Cluster::new(4);
        while !cluster.rests(3) {
            cluster.batch(&[3]);
        }
        while !cluster.rests(0) {
            cluster.batch(&[0]);
        }
        cluster.lose(1);
        assert_eq!(cluster.batch(&[]), [0], "3 has rested for longer");
        assert!(!cluster.rests(3) && cluster.rests(0));
        // A slow one that is lost is no longer slow, and comes back as a new worker.
        cluster.lose(0);
        assert_eq!(cluster.batch(&[]), [0; 0]);
        cluster.workers.joined(0, cluster.now());
        assert!(!cluster.rests(0));
        (0..7).for_each(|_| assert_eq!(cluster.batch(&[0]), [0; 0]));
        assert_eq!(cluster.batch(&[0]), [0]);
    }

    #[test]
    fn one_on_trial_is_trusted_before_one_that_rests() {
        let mut cluster = Cluster::new(4);
        assert_eq!(cluster.rest(), 10);
        cluster.batch(&[]);
        while !cluster.rests(1) {
            cluster.batch(&[1]);
        }
        assert_eq!(cluster.batch(&[]), [0, 1]);
        cluster.lose(2);
        assert_eq!(cluster.batch(&[]), [1]);
    }
}
