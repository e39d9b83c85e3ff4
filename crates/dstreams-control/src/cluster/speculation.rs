//! [`Speculation`]: which slow tasks get a copy on another worker, and whose result counts.
//!
//! A batch ends with its slowest task. So a task that runs much longer than those of its stage that have finished runs
//! once more elsewhere, and whichever ends first counts (the paper, section 3.3.2).
//!
//! The scheduler knows one task for each partition. When a copy is made it forgets the original, so that the partition
//! waits for a worker again; the copy takes its place. If the original succeeds first, or the copy fails, the original
//! takes it back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// When a slow task runs once more on another worker.
#[derive(Copy, Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct SpeculationConfig {
    /// A task is slow that runs longer than so many times the median of the finished tasks of its stage. Default: 1.4,
    /// as in the paper.
    pub multiplier: f64,
    /// The share of a stage's tasks that must have finished before any of the others counts as slow. Default: 0.5. So
    /// a stage with one task has no copies: it has nothing to compare it with.
    pub share: f64,
    /// A task is not slow before it has run for so long. Default: 100 ms: the time of a task includes sending it and
    /// its report, and waiting for a thread, which differ by tens of milliseconds on loaded machines. A copy of a
    /// shorter task costs more than it saves.
    pub floor: Duration,
    /// The most copies at once, as a share of the running tasks of all stages; at least one copy. Default: 0.25.
    pub copies: f64,
    /// A worker is slow once a copy of one of its tasks finished first in so many of its last 16 batches: see
    /// [`SlowWorkers`](super::SlowWorkers). Default: 8. More than 16: never.
    pub slow: u32,
    /// How long a slow worker gets no work that others can do, before it is tried again. If it is soon slow again, it rests
    /// twice as long, up to 5 minutes. Default: 10 s.
    pub rest: Duration,
}

impl Default for SpeculationConfig {
    fn default() -> Self {
        Self {
            multiplier: 1.4,
            share: 0.5,
            floor: Duration::from_millis(100),
            copies: 0.25,
            slow: 8,
            rest: Duration::from_secs(10),
        }
    }
}

/// A task of a stage, and the worker that runs it.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct StageTask<W> {
    /// Its number in the stage, never used twice.
    pub task: usize,
    /// Its partition of the stage.
    pub partition: usize,
    /// Its worker.
    pub worker: W,
}

/// How a task's report is handled.
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum Verdict<W> {
    /// It goes to the scheduler.
    Counts,
    /// It goes to the scheduler. The original is cancelled.
    CopyWins(StageTask<W>),
    /// The original takes its place back; then its report goes to the scheduler. The copy is cancelled, if one has
    /// begun.
    OriginalWins(Option<StageTask<W>>),
    /// The report of the failed copy is dropped, and this original takes its place back.
    OriginalStays(StageTask<W>),
    /// It is dropped: another task of the partition runs or has succeeded.
    Dropped,
}

#[derive(Clone, Debug)]
struct Running<W> {
    at: StageTask<W>,
    since: Duration,
}

#[derive(Clone, Debug)]
enum Twin<W> {
    None,
    /// Its partition waits for a worker.
    Waits,
    Runs(Running<W>),
}

#[derive(Clone, Debug)]
struct TaskPair<W> {
    original: Option<Running<W>>,
    copy: Twin<W>,
    /// Whether it may run on any worker, and neither a copy of it nor a task with a copy has failed.
    may_copy: bool,
    /// How long the task took that counts.
    took: Option<Duration>,
}

impl<W> TaskPair<W> {
    const fn has_copy(&self) -> bool {
        !matches!(self.copy, Twin::None)
    }

    /// The original is gone. Its copy, if there is one, is now the only task.
    fn promote(&mut self) {
        self.original = match std::mem::replace(&mut self.copy, Twin::None) {
            Twin::Runs(copy) => Some(copy),
            Twin::None | Twin::Waits => None,
        };
    }

    fn running(&self) -> usize {
        usize::from(self.original.is_some()) + usize::from(matches!(self.copy, Twin::Runs(_)))
    }
}

#[derive(Clone, Debug)]
struct StageTasks<W> {
    partitions: usize,
    parts: BTreeMap<usize, TaskPair<W>>,
    /// Tasks that were cancelled, since another of their partition succeeded.
    losers: BTreeSet<usize>,
}

impl<W> StageTasks<W> {
    /// The time after which a task is slow, if enough have finished.
    fn limit(&self, config: &SpeculationConfig) -> Option<Duration> {
        let mut took: Vec<_> = self.parts.values().filter_map(|part| part.took).collect();
        if took.is_empty() || (took.len() as f64) < config.share * self.partitions as f64 {
            return None;
        }
        took.sort_unstable();
        let median = took[took.len() / 2].as_secs_f64();
        let slow = Duration::try_from_secs_f64(median * config.multiplier).ok()?;
        Some(slow.max(config.floor))
    }

    fn part_of(&mut self, task: usize) -> Option<&mut TaskPair<W>> {
        let is = |running: &Running<W>| running.at.task == task;
        self.parts.values_mut().find(|part| {
            part.original.as_ref().is_some_and(is)
                || matches!(&part.copy, Twin::Runs(copy) if is(copy))
        })
    }
}

/// Decides which slow tasks get a copy, and whose result counts, as a pure state machine.
///
/// Stages are named by `S`, an attempt to run a stage again by another name; workers are named by `W`. Times are since
/// any fixed moment, by a monotonic clock.
///
/// It must be told of every task that the scheduler starts, of every report before the scheduler gets it, of lost
/// workers, and of tasks that the scheduler gave up ([`gone`](Self::gone)). Then, for each partition of a stage, one
/// success counts, the first; a failure counts only if no other task of the partition runs; a copy never runs on the
/// worker of its original, provided that the caller obeys [`avoid`](Self::avoid); and the number of copies stays within
/// the bound.
///
/// ```
/// use std::time::Duration;
/// use dstreams_control::cluster::{Speculation, SpeculationConfig, StageTask, Verdict};
///
/// let at = Duration::from_millis;
/// let mut speculation = Speculation::new(SpeculationConfig::default());
/// let on = |task, partition, worker| StageTask { task, partition, worker };
/// for (task, worker) in [(0, "a"), (1, "b")] {
///     speculation.started(&"map", 2, on(task, task, worker), true, at(0));
/// }
/// assert_eq!(speculation.finished(&"map", 0, at(90)), Verdict::Counts);
/// // 1.4 times 90 ms are not over.
/// assert_eq!(speculation.tick(&"map", &mut vec!["a"], at(120)), []);
/// assert_eq!(speculation.tick(&"map", &mut vec!["a"], at(130)), [on(1, 1, "b")]);
/// assert_eq!(speculation.avoid(&"map", 1), Some(&"b"));
/// speculation.started(&"map", 2, on(2, 1, "a"), true, at(131));
/// assert_eq!(speculation.finished(&"map", 2, at(200)), Verdict::CopyWins(on(1, 1, "b")));
/// assert_eq!(speculation.finished(&"map", 1, at(3_000)), Verdict::Dropped);
/// ```
#[derive(Clone, Debug)]
pub struct Speculation<S, W> {
    config: SpeculationConfig,
    stages: BTreeMap<S, StageTasks<W>>,
    made: u64,
    won: u64,
}

impl<S: Ord + Clone, W: Eq + Clone> Speculation<S, W> {
    /// No stage has begun.
    #[must_use]
    pub const fn new(config: SpeculationConfig) -> Self {
        Self {
            config,
            stages: BTreeMap::new(),
            made: 0,
            won: 0,
        }
    }

    /// The scheduler starts a task of a stage with so many partitions. `may_copy` is whether it may run on any worker.
    pub fn started(
        &mut self,
        stage: &S,
        partitions: usize,
        at: StageTask<W>,
        may_copy: bool,
        now: Duration,
    ) {
        let stage = self.stages.entry(stage.clone()).or_insert(StageTasks {
            partitions,
            parts: BTreeMap::new(),
            losers: BTreeSet::new(),
        });
        let part = stage.parts.entry(at.partition).or_insert(TaskPair {
            original: None,
            copy: Twin::None,
            may_copy,
            took: None,
        });
        let running = Running { at, since: now };
        if part.has_copy() {
            part.copy = Twin::Runs(running);
            self.made += 1;
        } else {
            // An earlier one failed, or its result was lost.
            (part.original, part.took) = (Some(running), None);
        }
    }

    /// The worker on which no task of the partition may start: the original still runs there.
    #[must_use]
    pub fn avoid(&self, stage: &S, partition: usize) -> Option<&W> {
        let part = self.stages.get(stage)?.parts.get(&partition)?;
        let original = part.original.as_ref().filter(|_| part.has_copy())?;
        Some(&original.at.worker)
    }

    /// The tasks of which a copy is made now. `free` has a worker for each free core; those for the copies are taken
    /// out. The scheduler must forget these tasks, so that their partitions wait for a worker; they go on running.
    pub fn tick(&mut self, stage: &S, free: &mut Vec<W>, now: Duration) -> Vec<StageTask<W>> {
        let parts = self.stages.values().flat_map(|stage| stage.parts.values());
        let (mut running, mut copies) = (0, 0);
        for part in parts {
            running += part.running();
            copies += usize::from(part.has_copy());
        }
        let most = ((running as f64 * self.config.copies) as usize).max(1);
        let Some(stage) = self.stages.get_mut(stage) else {
            return Vec::new();
        };
        let Some(limit) = stage.limit(&self.config) else {
            return Vec::new();
        };
        let mut slow: Vec<_> = stage.parts.values_mut().collect();
        slow.retain(|part| {
            let original = part.original.as_ref();
            let slow = original.is_some_and(|task| now.saturating_sub(task.since) > limit);
            slow && part.may_copy && !part.has_copy()
        });
        slow.sort_by_key(|part| part.original.as_ref().map(|task| task.since));
        let mut chosen = Vec::new();
        for part in slow {
            let Some(Running { at, .. }) = part.original.as_ref().filter(|_| copies < most) else {
                break;
            };
            if let Some(elsewhere) = free.iter().position(|worker| *worker != at.worker) {
                free.remove(elsewhere);
                chosen.push(at.clone());
                part.copy = Twin::Waits;
                copies += 1;
            }
        }
        chosen
    }

    /// Whether the task has a copy or is one, and none of the two has ended.
    #[must_use]
    pub fn is_paired(&mut self, stage: &S, task: usize) -> bool {
        let stage = self.stages.get_mut(stage);
        let part = stage.and_then(|stage| stage.part_of(task));
        part.is_some_and(|part| part.has_copy() && part.original.is_some())
    }

    /// A task reports success.
    pub fn finished(&mut self, stage: &S, task: usize, now: Duration) -> Verdict<W> {
        let Some(stage) = self.stages.get_mut(stage) else {
            return Verdict::Counts;
        };
        if stage.losers.contains(&task) {
            return Verdict::Dropped;
        }
        let Some(part) = stage.part_of(task) else {
            return Verdict::Counts;
        };
        let original = part.original.take();
        let copy = std::mem::replace(&mut part.copy, Twin::None);
        let (verdict, since) = match (original, copy) {
            (Some(original), Twin::None) => (Verdict::Counts, original.since),
            (Some(original), Twin::Waits) => (Verdict::OriginalWins(None), original.since),
            (Some(original), Twin::Runs(copy)) if original.at.task == task => {
                (Verdict::OriginalWins(Some(copy.at)), original.since)
            }
            (Some(original), Twin::Runs(copy)) => {
                self.won += 1;
                (Verdict::CopyWins(original.at), copy.since)
            }
            (None, _) => return Verdict::Counts,
        };
        part.took = Some(now.saturating_sub(since));
        if let Verdict::CopyWins(loser) | Verdict::OriginalWins(Some(loser)) = &verdict {
            stage.losers.insert(loser.task);
        }
        verdict
    }

    /// A task reports a failure.
    pub fn failed(&mut self, stage: &S, task: usize) -> Verdict<W> {
        let Some(stage) = self.stages.get_mut(stage) else {
            return Verdict::Counts;
        };
        if stage.losers.contains(&task) {
            return Verdict::Dropped;
        }
        let Some(part) = stage.part_of(task) else {
            return Verdict::Counts;
        };
        match &part.original {
            Some(original) if original.at.task == task && part.has_copy() => {
                // Otherwise a task that always fails late would have a copy whenever it fails.
                part.may_copy = false;
                part.promote();
                Verdict::Dropped
            }
            Some(original) if original.at.task != task => {
                (part.copy, part.may_copy) = (Twin::None, false);
                Verdict::OriginalStays(original.at.clone())
            }
            _ => {
                part.promote();
                Verdict::Counts
            }
        }
    }

    /// A task will not report: its worker is lost, or the scheduler has given it up. Another one may start.
    pub fn gone(&mut self, stage: &S, task: usize) {
        let stage = self.stages.get_mut(stage);
        let Some(part) = stage.and_then(|stage| stage.part_of(task)) else {
            return;
        };
        match &part.original {
            Some(original) if original.at.task == task => part.promote(),
            _ => part.copy = Twin::Waits,
        }
    }

    /// A worker is lost, with all its tasks.
    pub fn lost(&mut self, worker: &W) {
        let parts = self.stages.values_mut();
        for part in parts.flat_map(|stage| stage.parts.values_mut()) {
            if matches!(&part.copy, Twin::Runs(copy) if copy.at.worker == *worker) {
                part.copy = Twin::Waits;
            }
            if matches!(&part.original, Some(original) if original.at.worker == *worker) {
                part.promote();
            }
        }
    }

    /// The tasks of a stage that the scheduler runs too: neither originals that have a copy, nor losers.
    #[must_use]
    pub fn scheduled(&self, stage: &S) -> Vec<usize> {
        let parts = self.stages.get(stage).into_iter();
        let parts = parts.flat_map(|stage| stage.parts.values());
        let tasks = parts.filter_map(|part| match &part.copy {
            Twin::None => part.original.as_ref(),
            Twin::Waits => None,
            Twin::Runs(copy) => Some(copy),
        });
        tasks.map(|task| task.at.task).collect()
    }

    /// Whether there are stages that have not been forgotten.
    #[must_use]
    pub fn has_stages(&self) -> bool {
        !self.stages.is_empty()
    }

    /// Whether tasks of the stage were started, and it has not been forgotten.
    #[must_use]
    pub fn knows(&self, stage: &S) -> bool {
        self.stages.contains_key(stage)
    }

    /// The stages that have not been forgotten.
    #[must_use]
    pub fn stages(&self) -> Vec<S> {
        self.stages.keys().cloned().collect()
    }

    /// A stage has ended, or runs again by another name. Returns its tasks that still run and that the scheduler has
    /// forgotten: they are cancelled.
    pub fn forget(&mut self, stage: &S) -> Vec<StageTask<W>> {
        let parts = self.stages.remove(stage).into_iter();
        let parts = parts.flat_map(|stage| stage.parts.into_values());
        let originals = parts
            .filter(TaskPair::has_copy)
            .filter_map(|part| part.original);
        originals.map(|original| original.at).collect()
    }

    /// The copies that were started.
    #[must_use]
    pub const fn made(&self) -> u64 {
        self.made
    }

    /// Those of them that succeeded before their original.
    #[must_use]
    pub const fn won(&self) -> u64 {
        self.won
    }
}
