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
/// A worker that is like the others for so many times its next rest is trusted as one that was never slow.
const TRUSTED_AFTER: u32 = 8;

#[derive(Copy, Clone, Debug)]
enum Standing {
    /// It is like the others since then.
    Steady(Duration),
    /// It gets nothing until then.
    Rests(Duration),
    /// It gets tasks again for so many more batches, and at most until then, but no state.
    Trial(u32, Duration),
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
    /// Changes the standing where time alone does.
    fn look(&mut self, now: Duration) {
        if let Standing::Rests(until) = self.standing
            && now >= until
        {
            self.standing = Standing::Trial(MEMORY, until.saturating_add(self.rest));
        }
        if let Standing::Trial(left, until) = self.standing
            && (left == 0 || now >= until)
        {
            self.steady(now);
        }
    }

    const fn steady(&mut self, now: Duration) {
        self.standing = Standing::Steady(now);
        self.batches = 0;
    }

    const fn is_slow(&self) -> bool {
        !matches!(self.standing, Standing::Steady(_))
    }
}

/// Decides which workers are slow, as a pure state machine.
///
/// A worker that was slow in at least [`slow`](SpeculationConfig::slow) of its last 16 batches rests: it gets no tasks that
/// others can run, and its state moves to others. Then it is on trial: for 16 batches it gets tasks, but no state. If it is
/// slow in a quarter as many of these, it rests again, twice as long. Otherwise, or if it gets no tasks for as long as that rest would
/// take, it is like the others again. Its next rest is as short as the first only after it was like the others for eight
/// times as long; so state that makes a worker slow does not come and go for ever. At most half of the workers are slow at
/// once: the others must not be overloaded in their turn.
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
        let rest = self.rest;
        self.workers.entry(worker).or_insert(Record {
            standing: Standing::Steady(now),
            batches: 0,
            rest,
        });
    }

    /// A worker is lost.
    pub fn lost(&mut self, worker: &W, now: Duration) {
        self.workers.remove(worker);
        while self.count() > self.workers.len() / 2 {
            // Those on trial first, then those that have rested for the longest.
            let slow = self.workers.values_mut().filter(|record| record.is_slow());
            let first = slow.min_by_key(|record| match record.standing {
                Standing::Rests(until) => Some(until),
                Standing::Steady(_) | Standing::Trial(..) => None,
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
        for (worker, slow) in ran {
            let may_rest = self.count() < self.workers.len() / 2;
            let Some(record) = self.workers.get_mut(&worker) else {
                continue;
            };
            record.look(now);
            let limit = match &mut record.standing {
                // A task that began before its rest.
                Standing::Rests(_) => continue,
                Standing::Steady(_) => self.limit,
                Standing::Trial(left, _) => {
                    *left -= 1;
                    self.limit.div_ceil(4)
                }
            };
            record.batches = record.batches << 1 | u16::from(slow);
            if slow && record.batches.count_ones() >= limit && (may_rest || record.is_slow()) {
                if let Standing::Steady(since) = record.standing
                    && now.saturating_sub(since) >= record.rest.saturating_mul(TRUSTED_AFTER)
                {
                    record.rest = self.rest;
                }
                record.standing = Standing::Rests(now.saturating_add(record.rest));
                record.rest = record.rest.saturating_mul(2).min(MAX_REST.max(self.rest));
                record.batches = 0;
            }
            record.look(now);
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
            let rests = matches!(record.standing, Standing::Rests(_));
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

        /// A batch in which these were slow, of those that do not rest. Returns who is slow after it.
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

        /// Worker 0 is slow until it rests, for so many seconds; returns them.
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
        // Its third rest was of 40 s, its next is of 80: after 8 times as long it is trusted.
        for (pause, fourth) in [(8 * 80 - 9, 80), (8 * 80 - 8, 10)] {
            let mut cluster = Cluster::new(2);
            let mut rests = Vec::new();
            for pause in [0, 0, pause, 0] {
                rests.push(cluster.rest());
                while cluster.slow() == [0] {
                    cluster.batch(&[]);
                }
                // Its next 8 batches, in which it is slow, come after that.
                cluster.second += pause;
            }
            assert_eq!(rests, [10, 20, 40, fourth]);
        }
    }

    #[test]
    fn a_trial_without_tasks_ends_in_time() {
        let mut cluster = Cluster::new(2);
        assert_eq!(cluster.rest(), 10);
        cluster.second += 19;
        assert_eq!(cluster.slow(), [0]);
        cluster.second += 1;
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
