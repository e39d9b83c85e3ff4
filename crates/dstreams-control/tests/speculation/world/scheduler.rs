//! The scheduler of a [`World`]: what it has, what it starts, and what it takes from its queue.

use std::collections::BTreeSet;

use super::{Event, Graph, Id, Known, News, Run, State, World};
use crate::invariants::Moment;
use crate::machine::{Stage, Task};

/// So many times longer than others do tasks take that always fail.
const LATE: u64 = 3;
/// So many failures of a partition end its stage.
const MOST_FAILURES: usize = 4;

impl World {
    pub(super) fn graph(&mut self, stage: Stage) -> Option<&mut Graph> {
        let graph = self.graphs.get_mut(&stage.0);
        graph.filter(|graph| graph.attempt == stage.1 && !graph.over)
    }

    /// A worker for each free core.
    pub(super) fn free(&self) -> Vec<usize> {
        let mut busy = vec![0; self.workers.len()];
        for graph in self.graphs.values().filter(|graph| !graph.over) {
            let running = graph.tasks.iter().filter(|t| t.state == State::Running);
            running.for_each(|task| busy[task.at.worker] += 1);
        }
        self.hidden.values().for_each(|worker| busy[*worker] += 1);
        let mut free = Vec::new();
        for (at, worker) in self.workers.iter().enumerate().filter(|(_, w)| w.alive) {
            free.extend((busy[at]..worker.cores).map(|_| at));
        }
        free
    }

    pub(super) fn live(&self) -> Vec<Stage> {
        let live = self.graphs.iter().filter(|(_, graph)| !graph.over);
        live.map(|(at, graph)| (*at, graph.attempt)).collect()
    }

    /// Starts the tasks of waiting partitions.
    pub(super) fn bind(&mut self) {
        if self.graphs.values().all(|graph| graph.pending.is_empty()) {
            return;
        }
        let mut free = self.free();
        let stages = self.live();
        for stage in stages {
            let waiting = self
                .graphs
                .get_mut(&stage.0)
                .map(|g| std::mem::take(&mut g.pending));
            for partition in waiting.into_iter().flatten() {
                let avoid = self.machine.avoid(stage, partition);
                let worker = free.iter().position(|worker| Some(*worker) != avoid);
                match worker.map(|at| free.swap_remove(at)) {
                    Some(worker) => self.start(stage, partition, worker),
                    None => {
                        let graph = self.graphs.get_mut(&stage.0).unwrap();
                        graph.pending.push_back(partition);
                    }
                }
            }
        }
    }

    pub(super) fn start(&mut self, stage: Stage, partition: usize, worker: usize) {
        let (now, time) = (self.now, self.time());
        let graph = self.graphs.get_mut(&stage.0).unwrap();
        let at = Task {
            task: graph.tasks.len(),
            partition,
            worker,
        };
        graph.tasks.push(Known {
            at: at.clone(),
            state: State::Running,
            since: now,
            replaced: false,
        });
        let (partitions, free, micros) = (graph.partitions, graph.free, graph.micros);
        let bad = graph.bad == Some(partition);
        let original = self.pairs.get(&(stage, partition)).copied();
        let runs_on = original.and_then(|task| self.runs.get(&(stage, task)));
        let moment = Moment::Started {
            worker,
            original: runs_on.map(|run| run.at.worker),
        };
        self.see(&moment);
        if original.is_none() {
            self.took.remove(&(stage, partition));
        }
        self.machine
            .started(stage, partitions, at.clone(), free, time);
        let jitter = 1_000 + self.random.below(200);
        let late = if bad { LATE } else { 1 };
        let takes = micros * self.workers[worker].factor * late * jitter / 1_000;
        let fails = self.random.chance(30) || bad;
        let id = (stage, at.task);
        let run = Run { at, fails };
        self.runs.insert(id, run);
        self.after(takes, Event::End(id));
    }

    /// The original takes its place back, if nothing of its partition has succeeded.
    pub(super) fn restore(&mut self, (stage, task): Id, copy: Option<Task>) -> bool {
        let Some(graph) = self.graph(stage) else {
            return false;
        };
        let partition = graph.tasks[task].at.partition;
        let mut of = graph
            .tasks
            .iter_mut()
            .filter(|t| t.at.partition == partition);
        if of.any(|task| task.state == State::Successful) {
            return false;
        }
        let of = graph
            .tasks
            .iter_mut()
            .filter(|t| t.at.partition == partition);
        for known in of {
            if known.state == State::Running {
                known.state = State::GivenUp;
            }
            known.replaced = known.at.task != task;
        }
        graph.pending.retain(|pending| *pending != partition);
        graph.tasks[task].state = State::Running;
        if let Some(copy) = copy
            && self.runs.contains_key(&(stage, copy.task))
        {
            self.hidden.insert((stage, copy.task), copy.worker);
        }
        true
    }

    pub(super) fn pass(&mut self, news: News) {
        self.news.push_back(news);
        let way = self.random.below(5_000);
        self.after(way, Event::Schedule);
    }

    pub(super) fn schedule(&mut self) {
        match self.news.pop_front() {
            Some(News::Status((stage, task), ok)) => {
                let Some(graph) = self.graph(stage) else {
                    return;
                };
                if graph.tasks[task].state != State::Running {
                    return;
                }
                let partition = graph.tasks[task].at.partition;
                if !ok {
                    graph.tasks[task].state = State::GivenUp;
                    graph.pending.push_front(partition);
                    graph.failures[partition] += 1;
                    if graph.failures[partition] == MOST_FAILURES {
                        self.fail(stage);
                    }
                    return;
                }
                graph.failures[partition] = 0;
                graph.tasks[task].state = State::Successful;
                let done = |partition| {
                    let of = graph.tasks.iter().filter(|t| t.at.partition == partition);
                    of.filter(|task| task.state == State::Successful).count()
                };
                let results = done(partition);
                graph.over = (0..graph.partitions).all(|partition| done(partition) > 0);
                self.see(&Moment::Accepted { results });
            }
            Some(News::Lost(worker)) => {
                for graph in self.graphs.values_mut().filter(|graph| !graph.over) {
                    for known in &mut graph.tasks {
                        if known.at.worker == worker && known.state != State::GivenUp {
                            known.state = State::GivenUp;
                            graph.pending.push_back(known.at.partition);
                        }
                    }
                }
                self.run_again_what_is_lost(worker);
            }
            None => {}
        }
    }

    /// A task has failed too often: its stage is over.
    fn fail(&mut self, stage: Stage) {
        let Some(graph) = self.graph(stage) else {
            return;
        };
        graph.over = true;
        graph.pending.clear();
        let mut running = Vec::new();
        for known in graph.tasks.iter_mut().filter(|t| t.state == State::Running) {
            known.state = State::GivenUp;
            running.push(known.at.task);
        }
        self.tally.add("stage failed");
        for task in running {
            self.cancel((stage, task));
        }
    }

    /// Stages that were over run again if their results are still to be read and a worker was lost with some. A new
    /// attempt has the tasks of the earlier one, and the newest of a partition says whether it is done.
    fn run_again_what_is_lost(&mut self, worker: usize) {
        for graph in self.graphs.values_mut() {
            let lost = |task: &Known| task.at.worker == worker && task.state == State::Successful;
            let failed = graph.failures.contains(&MOST_FAILURES);
            let read = self.random.chance(700);
            if !graph.over || failed || !read || !graph.tasks.iter().any(lost) {
                continue;
            }
            graph
                .tasks
                .iter_mut()
                .filter(|task| lost(task))
                .for_each(|task| {
                    task.state = State::GivenUp;
                });
            if graph.tasks.iter().any(|task| task.replaced) {
                self.tally.add("stage ran again after an original won");
            }
            let mut seen = BTreeSet::new();
            for task in graph.tasks.iter().rev().filter(|task| !task.replaced) {
                if seen.insert(task.at.partition) && task.state != State::Successful {
                    graph.pending.push_back(task.at.partition);
                }
            }
            graph.attempt += 1;
            graph.over = false;
            graph.failures.fill(0);
            self.tally.add("stage that was over ran again");
        }
    }

    /// A stage lost its input: the scheduler starts it again.
    pub(super) fn run_again(&mut self, stage: usize) {
        let Some(graph) = self.graphs.get_mut(&stage).filter(|graph| !graph.over) else {
            return;
        };
        let attempt = graph.attempt;
        let running = graph.tasks.iter().filter(|t| t.state == State::Running);
        let running: Vec<_> = running.map(|task| task.at.task).collect();
        graph.attempt += 1;
        graph.tasks.clear();
        graph.pending = (0..graph.partitions).collect();
        graph.failures.fill(0);
        self.tally.add("stage ran again");
        for task in running {
            self.cancel(((stage, attempt), task));
        }
    }
}
