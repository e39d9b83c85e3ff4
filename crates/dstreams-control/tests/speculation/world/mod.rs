//! [`World`]: a scheduler with stages of tasks, workers that are slow, fail and die, and everything between them.
//!
//! Time is in microseconds. The scheduler is modelled as the engine's: one task for each partition, statuses in a
//! queue, and a task that it has given up is ignored afterwards.

mod scheduler;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use dstreams_control::cluster::{SpeculationConfig, Verdict};

use crate::invariants::{self, Moment};
use crate::machine::{Machine, Stage, Task};
use crate::rng::Rng;
use crate::tally::Tally;

const TICK: u64 = 50_000;
const WATCH: u64 = 1_000_000;
/// By then all stages must have ended.
const END: u64 = 600_000_000;

#[derive(Debug)]
pub struct Violation {
    pub invariant: &'static str,
    #[allow(dead_code)] // shown
    pub at: u64,
    #[allow(dead_code)] // shown
    pub detail: String,
}

type Id = (Stage, usize);

#[derive(Copy, Clone, Debug)]
enum Event {
    Begin(usize),
    Tick,
    Watch,
    /// A task ends on its worker.
    End(Id),
    /// A report arrives at the master.
    Report(Id, bool),
    Cancel(Id),
    /// The scheduler takes what is next in its queue.
    Schedule,
    Lose(usize),
    RunAgain(usize),
}

enum News {
    Status(Id, bool),
    Lost(usize),
}

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum State {
    Running,
    GivenUp,
    Successful,
}

struct Known {
    at: Task,
    state: State,
    since: u64,
    /// Whether its partition was taken from it, since another task has its place for good.
    replaced: bool,
}

/// A stage, as the scheduler has it.
struct Graph {
    attempt: usize,
    partitions: usize,
    /// Whether its tasks may run anywhere.
    free: bool,
    micros: u64,
    /// Of all attempts, if the stage was over in between.
    tasks: Vec<Known>,
    pending: VecDeque<usize>,
    /// A partition whose tasks take long and always fail.
    bad: Option<usize>,
    /// By partition: how often its tasks have failed since the last success.
    failures: Vec<usize>,
    over: bool,
}

struct Run {
    at: Task,
    fails: bool,
}

struct Worker {
    cores: usize,
    factor: u64,
    alive: bool,
}

pub struct World {
    random: Rng,
    machine: Box<dyn Machine>,
    config: SpeculationConfig,
    pub shows: bool,
    /// The only invariant that is checked, if not all are.
    pub only: Option<&'static str>,
    now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    numbers: u64,
    even: bool,
    workers: Vec<Worker>,
    graphs: BTreeMap<usize, Graph>,
    stages: usize,
    runs: BTreeMap<Id, Run>,
    news: VecDeque<News>,
    /// Tasks that run and that the scheduler has given up, with their workers.
    hidden: BTreeMap<Id, usize>,
    lost_reports: BTreeSet<Id>,
    /// Tasks that were cancelled, since another of their partition counts.
    cancelled: BTreeSet<Id>,
    /// By partition: its original, while it has a copy.
    pairs: BTreeMap<Id, usize>,
    /// Partitions of which a copy failed, or a task with a copy.
    tried: BTreeSet<Id>,
    /// By partition: how long the task took that counted.
    took: BTreeMap<Id, u64>,
    tally: Tally,
    broken: Option<Violation>,
}

impl World {
    pub fn new(
        mut random: Rng,
        new: &dyn Fn(SpeculationConfig) -> Box<dyn Machine>,
        config: SpeculationConfig,
    ) -> Self {
        let even = random.chance(200);
        let factor = random.pick(&[1, 10]);
        let mut world = World {
            machine: new(config),
            config,
            shows: false,
            only: None,
            now: 7,
            queue: BTreeMap::new(),
            numbers: 0,
            even,
            workers: Vec::new(),
            graphs: BTreeMap::new(),
            stages: 2 + random.below(6) as usize,
            runs: BTreeMap::new(),
            news: VecDeque::new(),
            hidden: BTreeMap::new(),
            lost_reports: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            pairs: BTreeMap::new(),
            tried: BTreeSet::new(),
            took: BTreeMap::new(),
            tally: Tally::default(),
            broken: None,
            random,
        };
        for _ in 0..1 + world.random.below(5) {
            let slow = world.random.chance(350);
            let of_slow = world.random.pick(&[2, 4, 12]);
            let factor = match (even, slow) {
                (true, _) => factor,
                (false, true) => of_slow,
                (false, false) => 1,
            };
            world.add_worker(factor);
        }
        for stage in 0..world.stages {
            let begins = world.random.below(3_000_000);
            world.after(begins, Event::Begin(stage));
            if world.random.chance(100) {
                world.after(begins + 300_000, Event::RunAgain(stage));
            }
        }
        for _ in 0..world.random.below(3) {
            let when = world.random.below(6_000_000);
            let at = world.random.below(world.workers.len() as u64);
            world.after(when, Event::Lose(at as usize));
        }
        world.after(TICK, Event::Tick);
        world.after(WATCH, Event::Watch);
        world
    }

    fn add_worker(&mut self, factor: u64) {
        let cores = 1 + self.random.below(4) as usize;
        self.workers.push(Worker {
            cores,
            factor,
            alive: true,
        });
    }

    fn after(&mut self, wait: u64, event: Event) {
        self.numbers += 1;
        self.queue.insert((self.now + wait, self.numbers), event);
    }

    fn time(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    /// Runs the world; returns what happened, and the number of steps.
    pub fn run(mut self) -> Result<(Tally, u64), Violation> {
        let mut steps = 0;
        if self.even {
            self.tally.add("all workers alike");
        }
        while let Some(((at, _), event)) = self.queue.pop_first() {
            let over = self.graphs.len() == self.stages && self.graphs.values().all(|g| g.over);
            let stuck = at > END;
            if over && self.runs.is_empty() || stuck {
                self.sync();
                let stages = self.machine.stages();
                self.see(&Moment::Over { stuck, stages });
                break;
            }
            self.now = at;
            if self.shows {
                println!("{at:>12} {event:?}");
            }
            self.step(event);
            self.bind();
            steps += 1;
            if self.broken.is_some() {
                break;
            }
        }
        match self.broken {
            Some(violation) => Err(violation),
            None => Ok((self.tally, steps)),
        }
    }

    /// Compares what happens with the invariants.
    fn see(&mut self, moment: &Moment) {
        for &(invariant, check) in invariants::ALL {
            if self.broken.is_some() || self.only.is_some_and(|only| only != invariant) {
                continue;
            }
            self.broken = check(moment).map(|detail| Violation {
                invariant,
                at: self.now,
                detail,
            });
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Begin(stage) => {
                let partitions = 1 + self.random.below(12) as usize;
                let bad = self.random.chance(150);
                let bad = bad.then(|| self.random.below(partitions as u64) as usize);
                let graph = Graph {
                    attempt: 0,
                    partitions,
                    free: !self.random.chance(250),
                    micros: self.random.pick(&[5_000, 40_000, 150_000, 900_000]),
                    tasks: Vec::new(),
                    pending: (0..partitions).collect(),
                    bad,
                    failures: vec![0; partitions],
                    over: false,
                };
                self.graphs.insert(stage, graph);
            }
            Event::Tick => {
                self.sync();
                self.tick();
                self.after(TICK, Event::Tick);
            }
            Event::Watch => self.watch(),
            Event::End(id) => self.end(id),
            Event::Report(id, ok) => self.report(id, ok),
            Event::Cancel(id) => self.cancelled(id),
            Event::Schedule => self.schedule(),
            Event::Lose(worker) => self.lose(worker),
            Event::RunAgain(stage) => self.run_again(stage),
        }
    }

    /// The machine learns what the scheduler has given up.
    fn sync(&mut self) {
        for stage in self.machine.stages() {
            if self.graph(stage).is_none() {
                self.pairs.retain(|(of, _), _| *of != stage);
                for task in self.machine.forget(stage) {
                    self.cancel((stage, task.task));
                }
                continue;
            }
            for task in self.machine.scheduled(stage) {
                let graph = self.graph(stage).unwrap();
                if graph.tasks[task].state == State::GivenUp {
                    self.machine.gone(stage, task);
                }
            }
        }
        let stages = self.machine.stages();
        let live = stages.iter().filter(|stage| self.graph(**stage).is_some());
        let (live, known) = (live.count(), stages.len());
        self.see(&Moment::Synced { known, live });
    }

    /// The time after which a task is slow, as the settings say.
    fn limit(&self, stage: Stage) -> Option<u64> {
        let mut took: Vec<_> = self
            .took
            .iter()
            .filter(|((of, _), _)| *of == stage)
            .collect();
        let partitions = self.graphs[&stage.0].partitions;
        if took.is_empty() || (took.len() as f64) < self.config.share * partitions as f64 {
            return None;
        }
        took.sort_by_key(|(_, took)| **took);
        let median = *took[took.len() / 2].1 as f64;
        let floor = self.config.floor.as_micros() as u64;
        Some(floor.max((median * self.config.multiplier) as u64))
    }

    fn tick(&mut self) {
        if self.graphs.values().all(|graph| graph.over) {
            return;
        }
        let mut free = self.free();
        let stages = self.live();
        for stage in stages {
            let time = self.time();
            let limit = self.limit(stage);
            for task in self.machine.tick(stage, &mut free, time) {
                let graph = self.graphs.get_mut(&stage.0).unwrap();
                let known = &mut graph.tasks[task.task];
                assert_eq!(known.state, State::Running, "a copy of {task:?}");
                known.state = State::GivenUp;
                let (age, free) = (self.now - known.since, graph.free);
                let alike = self.even && graph.bad != Some(task.partition);
                graph.pending.push_front(task.partition);
                self.hidden.insert((stage, task.task), task.worker);
                self.pairs.insert((stage, task.partition), task.task);
                let most = self.most();
                if self.pairs.len() == most {
                    self.tally.add("bound reached");
                }
                let moment = Moment::Copied {
                    age,
                    limit,
                    alike,
                    free,
                    copies: self.pairs.len(),
                    most,
                };
                self.see(&moment);
            }
            let missed = self.missed(stage, limit, &free);
            self.see(&Moment::Ticked { missed });
        }
    }

    fn most(&self) -> usize {
        let tasks = self.graphs.values().flat_map(|graph| &graph.tasks);
        let running = tasks.filter(|task| task.state == State::Running).count();
        let running = running + self.pairs.len();
        ((running as f64 * self.config.copies) as usize).max(1)
    }

    /// A task that should have a copy, and has none.
    fn missed(&self, stage: Stage, limit: Option<u64>, free: &[usize]) -> Option<String> {
        // A task that has ended is not known to have, until its report is there.
        let run = |graph: &Graph, at: usize, task: &Known| {
            let original = self.pairs.get(&((at, graph.attempt), task.at.partition));
            let counts = task.state == State::Running || original == Some(&task.at.task);
            counts && self.runs.contains_key(&((at, graph.attempt), task.at.task))
        };
        let running = self.graphs.iter().flat_map(|(at, graph)| {
            let tasks = graph.tasks.iter();
            tasks.filter(move |task| run(graph, *at, task))
        });
        let most = ((running.count() as f64 * self.config.copies) as usize).max(1);
        let (graph, limit) = (&self.graphs[&stage.0], limit?);
        if graph.over || !graph.free || self.pairs.len() >= most {
            return None;
        }
        let slow = graph.tasks.iter().find(|task| {
            let id = (stage, task.at.partition);
            task.state == State::Running
                && self.runs.contains_key(&(stage, task.at.task))
                && self.now - task.since > limit + 1
                && !self.pairs.contains_key(&id)
                && !self.tried.contains(&id)
                && !self.took.contains_key(&id)
                && free.iter().any(|worker| *worker != task.at.worker)
        });
        slow.map(|task| format!("{stage:?} {:?} since {}", task.at, task.since))
    }

    /// Tasks whose reports were lost are found by asking their workers.
    fn watch(&mut self) {
        for (stage, task) in std::mem::take(&mut self.lost_reports) {
            let id = (stage, task);
            if self.hidden.remove(&id).is_some() {
                self.tally.add("report of a hidden task lost");
                self.unpair(id);
                self.machine.gone(stage, task);
            } else if let Some(graph) = self.graph(stage)
                && graph.tasks[task].state == State::Running
            {
                graph.tasks[task].state = State::GivenUp;
                let partition = graph.tasks[task].at.partition;
                graph.pending.push_front(partition);
                self.tally.add("report lost");
            }
        }
        self.after(WATCH, Event::Watch);
    }

    /// The original of a pair has ended.
    fn unpair(&mut self, (stage, task): Id) {
        self.pairs
            .retain(|(of, _), original| (*of, *original) != (stage, task));
    }

    fn end(&mut self, id: Id) {
        let Some(run) = self.runs.remove(&id) else {
            return;
        };
        self.send(id, !run.fails);
    }

    /// A worker reports a task, unless the report is lost.
    fn send(&mut self, id: Id, ok: bool) {
        if !self.even && self.random.chance(20) {
            self.lost_reports.insert(id);
            return;
        }
        let way = self.random.below(4_000);
        self.after(way, Event::Report(id, ok));
    }

    fn cancel(&mut self, id: Id) {
        let way = self.random.below(4_000);
        self.after(way, Event::Cancel(id));
        self.cancelled.insert(id);
    }

    /// The worker cancels a task, or cannot.
    fn cancelled(&mut self, id: Id) {
        if self.random.chance(400) {
            self.tally.add("cancelled in vain");
        } else if self.runs.remove(&id).is_some() {
            self.send(id, false);
        }
    }

    fn report(&mut self, id: Id, ok: bool) {
        let (stage, task) = id;
        let at = self.graphs.get(&stage.0);
        // The numbers of the tasks of an earlier attempt are used again.
        let at = at.filter(|graph| graph.attempt == stage.1);
        let at = at.map(|graph| graph.tasks[task].at.clone());
        if at.as_ref().is_some_and(|at| !self.workers[at.worker].alive) {
            return;
        }
        self.hidden.remove(&id);
        let Some(at) = at else {
            return;
        };
        let time = self.time();
        let verdict = match ok {
            true => self.machine.finished(stage, task, time),
            false => self.machine.failed(stage, task),
        };
        if self.shows {
            println!("{:>12} {id:?} {ok}: {verdict:?}", self.now);
        }
        self.judge(id, &at, (ok, &verdict));
        match verdict {
            Verdict::Counts => self.pass(News::Status(id, ok)),
            Verdict::CopyWins(original) => {
                self.tally.add("copy won");
                self.cancel((stage, original.task));
                self.pass(News::Status(id, ok));
            }
            Verdict::OriginalWins(copy) => {
                self.tally.add(match copy {
                    Some(_) => "original won",
                    None => "original won before its copy began",
                });
                if let Some(copy) = &copy {
                    self.cancel((stage, copy.task));
                }
                match self.restore(id, copy) {
                    true => self.pass(News::Status(id, ok)),
                    false => self.tally.add("original won in vain"),
                }
            }
            Verdict::OriginalStays(original) => {
                self.tally.add("copy failed");
                self.tried.insert((stage, original.partition));
                let id = (stage, original.task);
                self.unpair(id);
                if self.restore(id, None) {
                    self.hidden.remove(&id);
                }
            }
            Verdict::Dropped => {
                let part = (stage, at.partition);
                if self.pairs.get(&part) == Some(&task) {
                    self.tally.add("original failed");
                    self.tried.insert(part);
                } else {
                    self.tally.add("report of a loser");
                }
                self.unpair(id);
            }
        }
        self.see_losers(id, &at);
    }

    fn judge(&mut self, (stage, task): Id, at: &Task, (ok, verdict): (bool, &Verdict<usize>)) {
        let part = (stage, at.partition);
        let state = self.graph(stage).map(|graph| graph.tasks[task].state);
        let cancelled = state.is_some() && self.cancelled.contains(&(stage, task));
        let paired = self.pairs.get(&part) == Some(&task);
        let given_up = state != Some(State::Running) && !paired;
        let dropped = *verdict == Verdict::Dropped;
        if !cancelled && given_up && *verdict == Verdict::Counts || cancelled && dropped {
            // The scheduler ignores it.
            return;
        }
        let counted = cancelled || self.took.contains_key(&part);
        if !ok {
            let others = self.runs.iter().filter(|((of, number), run)| {
                let same = *of == stage && run.at.partition == at.partition;
                same && *number != task && !self.cancelled.contains(&(*of, *number))
            });
            let others = others.count();
            let counts = *verdict == Verdict::Counts;
            return self.see(&Moment::Failed { counts, others });
        }
        self.see(&Moment::Succeeded { counted, dropped });
        if !dropped {
            let since = self.graphs[&stage.0].tasks[task].since;
            self.took.insert(part, self.now - since);
            self.pairs.remove(&part);
        }
    }

    /// Once a result counts, what else runs for the partition is cancelled.
    fn see_losers(&mut self, (stage, task): Id, at: &Task) {
        if self.took.contains_key(&(stage, at.partition)) {
            let left = self.runs.iter().find(|((of, number), run)| {
                let same = *of == stage && run.at.partition == at.partition;
                same && *number != task && !self.cancelled.contains(&(*of, *number))
            });
            let left = left.map(|(id, _)| format!("{id:?}"));
            self.see(&Moment::Decided { left });
        }
    }

    fn lose(&mut self, worker: usize) {
        if !self.workers[worker].alive {
            return;
        }
        for (part, original) in std::mem::take(&mut self.pairs) {
            let of = |task| (part.0, task);
            let on = |task| self.runs.get(&of(task)).map(|run| run.at.worker);
            let copy = self.graphs[&part.0.0].tasks.iter().rev();
            let mut copy = copy.filter(|t| t.at.partition == part.1 && t.at.task != original);
            let copy = copy.find(|task| task.state == State::Running);
            if copy.is_some_and(|copy| copy.at.worker == worker) {
                self.tally.add("worker of a copy lost");
            }
            match on(original) == Some(worker)
                || self.graphs[&part.0.0].tasks[original].at.worker == worker
            {
                true => self.tally.add("worker of an original lost"),
                false => drop(self.pairs.insert(part, original)),
            }
        }
        self.workers[worker].alive = false;
        self.runs.retain(|_, run| run.at.worker != worker);
        self.hidden.retain(|_, of| *of != worker);
        self.machine.lost(worker);
        self.pass(News::Lost(worker));
        let factor = self.workers[worker].factor;
        self.add_worker(factor);
    }
}
