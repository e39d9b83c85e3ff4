//! [`World`]: time, a queue of events, and a model of the node that executes the commands.
//!
//! At first it is as troublesome as its [`Plan`] says, then it is fair: nothing fails, messages are fast, the clock
//! is right. Messages in flight when it became fair may still arrive late or as a failure; nothing is lost
//! permanently.

use std::collections::BTreeMap;

use dstreams_control::{BatchTime, Command, Event, Timestamp};

use crate::invariants::{self, End};
use crate::judge::{Judge, Violation};
use crate::machine::Machine;
use crate::node::{Node, Sent};
use crate::plan::{Plan, PlannedStop, Rates};
use crate::rng::Rng;
use crate::tally::Tally;

/// A future event.
#[derive(Debug)]
enum Item {
    Deliver(Sent),
    /// The timer of the `WakeAt` with this number runs out.
    Wake(u64),
    Stop(PlannedStop),
    /// A receiver joins, or leaves.
    Join,
    Leave,
    /// The clock steps to this lead over time, microseconds.
    Clock(i64),
}

pub struct World<'a> {
    machine: &'a mut dyn Machine,
    rng: Rng,
    plan: Plan,
    rates: Rates,
    /// Microseconds since the beginning; the clock shows `plan.epoch_us + time + ahead`.
    time: u64,
    ahead: i64,
    queue: BTreeMap<(u64, u64), Item>,
    queued: u64,
    wakes: u64,
    node: Node,
    judge: Judge,
    tally: Tally,
}

/// Runs the world of `seed` to its end; returns what happened and the number of steps.
pub fn run(
    seed: u64,
    machine: &mut dyn Machine,
    plan: Plan,
    trace: bool,
) -> Result<(Tally, u64), Violation> {
    let mut world = World {
        machine,
        rng: Rng::new(seed.wrapping_mul(31)),
        rates: plan.rates.clone(),
        time: 0,
        ahead: 0,
        queue: BTreeMap::new(),
        queued: 0,
        wakes: 0,
        node: Node::new(&plan),
        judge: Judge::new(plan.config.clone(), plan.program, trace),
        tally: Tally::default(),
        plan,
    };
    world.live()?;
    Ok((world.tally, world.judge.steps))
}

impl World<'_> {
    fn live(&mut self) -> Result<(), Violation> {
        if self.plan.receivers.is_empty() {
            self.tally.add("world without receivers");
        }
        if self.rng.chance(20) {
            self.deliver(Event::Tick)?;
        }
        if self.rng.chance(10) {
            self.stop(self.plan.last_stop)?;
        }
        if self.judge.ledger.stopped.is_none() {
            self.node.start();
        }
        let (early, receivers) = self.plan.receivers.split_at(self.plan.early);
        let (early, receivers) = (early.to_vec(), receivers.to_vec());
        for receiver in early {
            self.deliver(Event::Joined { receiver })?;
        }
        self.deliver(Event::Start { receivers })?;
        for after in self.plan.joins.clone() {
            self.push(after, Item::Join);
        }
        for after in self.plan.leaves.clone() {
            self.push(after, Item::Leave);
        }
        for (after, stop) in self.plan.stops.clone() {
            self.push(after, Item::Stop(stop));
        }
        self.trouble()?;
        self.catch_up()?;
        self.wind_down()?;
        self.end()
    }

    /// Until the plan's trouble is over.
    fn trouble(&mut self) -> Result<(), Violation> {
        while self.time < self.plan.chaos_us && self.judge.ledger.stopped.is_none() {
            let interval = self.interval_us();
            if self.rng.chance(self.rates.noise) {
                let noise = self.node.noise(&mut self.rng);
                self.tally.add("noise delivered");
                self.deliver(noise)?;
            }
            if self.rng.chance(self.rates.clock_step) {
                let back = i64::try_from(self.rng.below(3 * interval)).unwrap();
                let (after, ahead) = (self.rng.below(interval), self.rng.pick(&[-back, -back, 0]));
                self.push(after, Item::Clock(ahead));
            }
            if self.rng.chance(self.rates.stall) {
                self.time += self.rng.below(6 * interval);
                self.tally.add("node stood still");
            }
            if self.plan.config.skip_missed.is_some() && self.rng.chance(self.rates.long_stall) {
                self.time += self.rng.below(150 * interval);
                self.tally.add("node stood still for long");
            }
            if !self.next()? {
                break;
            }
        }
        Ok(())
    }

    /// The world is fair from now on: everything due is committed.
    fn catch_up(&mut self) -> Result<(), Violation> {
        self.rates = Rates::default();
        let interval = self.interval_us();
        let goal = (self.now().0 / interval + 4) * interval;
        let until = self.time + 200 * interval;
        while self.judge.ledger.stop.is_none() && self.judge.ledger.stopped.is_none() {
            let committed = self
                .judge
                .ledger
                .committed
                .last()
                .map(|(attempt, _)| attempt.batch);
            if committed.is_some_and(|batch| batch.timestamp().0 >= goal) {
                self.tally.add("world survived and caught up");
                break;
            }
            let goal = BatchTime(goal / 1_000);
            self.lively(until, || {
                format!("{goal} is never committed; the last that is: {committed:?}")
            })?;
        }
        Ok(())
    }

    /// A stop leads to `Stopped`.
    fn wind_down(&mut self) -> Result<(), Violation> {
        if self.judge.ledger.stop.is_none() && self.judge.ledger.stopped.is_none() {
            self.stop(self.plan.last_stop)?;
        }
        let until = self.time + 200 * self.interval_us();
        while self.judge.ledger.stopped.is_none() {
            self.lively(until, || "a stop does not lead to Stopped".to_owned())?;
        }
        Ok(())
    }

    /// Stragglers after the end, then the judgement over the whole run.
    fn end(&mut self) -> Result<(), Violation> {
        for _ in 0..10 {
            self.next()?;
        }
        for event in [
            Event::Tick,
            Event::Stop {
                graceful: true,
                deadline: None,
            },
        ] {
            self.deliver(event)?;
        }
        let end = End {
            received: &self.node.received,
            reports_behind_last_cut: self.node.behind_last_cut,
        };
        if invariants::is_complete(&self.judge.ledger, &end) && !end.received.is_empty() {
            self.tally
                .add("every received block cut after a graceful stop");
        }
        self.judge.end(&end)
    }

    fn lively(&mut self, until: u64, complaint: impl Fn() -> String) -> Result<(), Violation> {
        if self.time > until || !self.next()? {
            return self.judge.rule("liveness", Err(complaint()));
        }
        Ok(())
    }

    /// Processes the next event; false if there is none.
    fn next(&mut self) -> Result<bool, Violation> {
        let Some(((at, _), item)) = self.queue.pop_first() else {
            return Ok(false);
        };
        self.time = self.time.max(at);
        match item {
            Item::Deliver(sent) => {
                self.node
                    .arrives(&sent, &self.judge.ledger, &mut self.tally);
                self.deliver(sent.event)?;
            }
            Item::Wake(number) if number == self.wakes => self.deliver(Event::Tick)?,
            Item::Wake(_) => {}
            Item::Stop(stop) => self.stop(stop)?,
            Item::Join => {
                if let Some(joined) = self.node.join(&mut self.tally) {
                    self.deliver(joined.event.clone())?;
                    self.repeat(&joined);
                }
            }
            Item::Leave => {
                let (rates, rng) = (&self.rates, &mut self.rng);
                let left = self.node.leave(rates, rng, &mut self.tally);
                left.into_iter().for_each(|left| self.send(left));
            }
            Item::Clock(ahead) => {
                if ahead < self.ahead {
                    self.tally.add("clock stepped back");
                }
                self.ahead = ahead;
            }
        }
        Ok(true)
    }

    fn stop(&mut self, stop: PlannedStop) -> Result<(), Violation> {
        if self.judge.ledger.stopped.is_some() {
            return Ok(());
        }
        let PlannedStop { graceful, deadline } = stop;
        self.tally.add(match graceful {
            true if self.judge.ledger.open.is_some() => "stop graceful with a Seal outstanding",
            true => "stop graceful",
            false if self.judge.ledger.commit.is_some() => "stop abrupt during a commit",
            false => "stop abrupt",
        });
        if self.judge.ledger.stop.is_some() {
            self.tally.add("several stops");
        }
        let deadline = deadline.map(|after| Timestamp(self.now().0 + after));
        self.deliver(Event::Stop { graceful, deadline })
    }

    /// One step: the machine decides, the invariants judge, the node executes.
    fn deliver(&mut self, event: Event) -> Result<(), Violation> {
        let (now, node, tally) = (self.now(), &mut self.node, &mut self.tally);
        let commands = self
            .judge
            .step(self.machine, event, now, |command, ledger| {
                node.note(command, ledger, tally)
            })?;
        for command in commands {
            self.carry_out(command);
        }
        Ok(())
    }

    fn carry_out(&mut self, command: Command) {
        if let Command::WakeAt(at) = command {
            self.wakes += 1;
            let late = self.rng.below(self.interval_us() / 20);
            self.push(
                at.0.saturating_sub(self.now().0) + late,
                Item::Wake(self.wakes),
            );
            return;
        }
        if let Command::AskDue { after } = command {
            let sent = self
                .node
                .due(after, &self.judge.ledger, &self.rates, &mut self.rng);
            return self.send(sent);
        }
        for sent in self.node.carry_out(command, &self.rates, &mut self.rng) {
            self.send(sent);
        }
    }

    fn send(&mut self, sent: Sent) {
        self.repeat(&sent);
        self.push(sent.after, Item::Deliver(sent));
    }

    /// Perhaps it arrives again.
    fn repeat(&mut self, sent: &Sent) {
        if self.rng.chance(self.rates.duplicate) {
            let after = sent.after + self.rng.below(4 * self.interval_us());
            let sent = Sent {
                again: true,
                ..sent.clone()
            };
            self.push(after, Item::Deliver(sent));
        }
    }

    fn push(&mut self, after: u64, item: Item) {
        self.queued += 1;
        self.queue.insert((self.time + after, self.queued), item);
    }

    fn now(&self) -> Timestamp {
        Timestamp((self.plan.epoch_us + self.time).saturating_add_signed(self.ahead))
    }

    fn interval_us(&self) -> u64 {
        self.plan.config.interval_ms * 1_000
    }
}
