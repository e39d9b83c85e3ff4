//! [`World`]: a master, its links, and everything that goes wrong with them.
//!
//! Time is in microseconds. What arrives at the master waits in the socket until the master runs and its tasks have got
//! to it; a look may come first. What is sent over a cut link arrives when it is mended, as with TCP.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use dstreams_control::cluster::{Look, Suspicion};

use crate::invariants;
use crate::machine::Machine;
use crate::rng::Rng;
use crate::tally::Tally;

/// What the invariants compare the machine with: the truth about one link at one look.
pub struct Truth {
    pub bound: u64,
    pub tick: u64,
    /// The most that a look is late for other reasons than a starved master.
    pub jitter: u64,
    /// The time, in which the master ran, since the last message reached the reader.
    pub unheard: u64,
    /// For how long of that time something has been wrong, if nothing has shown the contrary.
    pub faulty: Option<u64>,
    /// For how long the machine must have seen it.
    pub certain: Option<u64>,
    /// Stops of the master since then.
    pub stalls: u64,
    /// Whether the master got the processor late since then.
    pub starved: bool,
    pub was_busy: bool,
    pub probes: u64,
    pub open_probe: bool,
}

#[derive(Debug)]
pub struct Violation {
    pub invariant: &'static str,
    #[allow(dead_code)] // shown
    pub at: u64,
    #[allow(dead_code)] // shown
    pub detail: String,
}

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum Message {
    Report,
    Answer(u64),
}

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum Event {
    /// The reader of a link looks.
    Look(usize),
    /// What is in the socket reaches the reader.
    Read(usize),
    /// A message arrives in the socket.
    Up(usize, Message),
    /// A probe arrives at the worker.
    Down(usize, u64),
    /// The worker reports its numbers.
    Report(usize),
    /// The worker joins again, as another one.
    Rejoin(usize),
    StopWorker(usize),
    ResumeWorker(usize),
    Cut(usize, bool, bool),
    Mend(usize),
    Busy(usize, bool),
    StopMaster(bool),
    ResumeMaster,
    Starve(bool),
}

struct Link {
    machine: Box<dyn Machine>,
    /// Given up; its worker has not joined again.
    over: bool,
    stopped: bool,
    /// Towards the master, and towards the worker.
    cut: (bool, bool),
    busy: bool,
    /// Arrived at the worker while it was stopped.
    inbox: VecDeque<u64>,
    /// Sent while the link was cut.
    held: (VecDeque<Message>, VecDeque<u64>),
    /// In the socket of the master.
    socket: VecDeque<Message>,
    /// Probes that wait behind other messages.
    behind: VecDeque<u64>,
    /// When the last messages arrive, since they are not reordered.
    last: (u64, u64),
    probes: u64,
    open_probe: bool,
    /// In time in which the master ran.
    heard: u64,
    fault: Option<u64>,
    /// Since when the fault must show.
    certain: u64,
    stalls: u64,
    stalls_of_heard: u64,
    starved: bool,
    was_busy: bool,
}

impl Link {
    fn is_faulty(&self) -> bool {
        self.stopped || self.cut.0 || self.cut.1
    }
}

pub struct World<'a> {
    random: Rng,
    new: &'a dyn Fn(Duration, Duration) -> Box<dyn Machine>,
    pub shows: bool,
    /// The only invariant that is checked, if not all are.
    pub only: Option<&'static str>,
    now: u64,
    /// Time in which the master ran, up to `now`.
    ran: u64,
    queue: BTreeMap<(u64, u64), Event>,
    numbers: u64,
    bound: u64,
    tick: u64,
    end: u64,
    links: Vec<Link>,
    master_stopped: bool,
    starved: bool,
    waiting: Vec<Event>,
    tally: Tally,
}

impl<'a> World<'a> {
    pub fn new(mut random: Rng, new: &'a dyn Fn(Duration, Duration) -> Box<dyn Machine>) -> Self {
        let bound = random.pick(&[200_000, 500_000, 2_000_000, 10_000_000]);
        let mut world = World {
            random,
            new,
            shows: false,
            only: None,
            now: 7,
            ran: 0,
            queue: BTreeMap::new(),
            numbers: 0,
            bound,
            tick: bound / 20,
            end: 30 * bound,
            links: Vec::new(),
            master_stopped: false,
            starved: false,
            waiting: Vec::new(),
            tally: Tally::default(),
        };
        for at in 0..1 + world.random.below(3) as usize {
            let link = world.link();
            world.links.push(link);
            world.after(0, Event::Report(at));
            let first = world.random.below(world.tick);
            world.after(first, Event::Look(at));
        }
        world.plan();
        world
    }

    fn link(&self) -> Link {
        let now = Duration::from_micros(self.now);
        Link {
            machine: (self.new)(Duration::from_micros(self.bound), now),
            over: false,
            stopped: false,
            cut: (false, false),
            busy: false,
            inbox: VecDeque::new(),
            held: Default::default(),
            socket: VecDeque::new(),
            behind: VecDeque::new(),
            last: (0, 0),
            probes: 0,
            open_probe: false,
            heard: self.ran,
            fault: None,
            certain: 0,
            stalls: 0,
            stalls_of_heard: 0,
            starved: self.starved,
            was_busy: false,
        }
    }

    /// The faults of this seed.
    fn plan(&mut self) {
        let links = self.links.len() as u64;
        for _ in 0..2 + self.random.below(8) {
            let begins = self.random.below(self.end - 5 * self.bound);
            let lasts = match self.random.below(4) {
                0 => self.random.below(self.bound / 2),
                1 => self.random.below(self.bound),
                2 => self.random.below(3 * self.bound),
                _ => self.bound * 3 / 4 + self.random.below(self.bound / 2),
            };
            let at = self.random.below(links) as usize;
            let (begin, end) = match self.random.below(9) {
                0 | 1 => (Event::StopWorker(at), Event::ResumeWorker(at)),
                2 => (Event::Cut(at, true, true), Event::Mend(at)),
                3 => (Event::Cut(at, true, false), Event::Mend(at)),
                4 => (Event::Cut(at, false, true), Event::Mend(at)),
                5 => (Event::Busy(at, true), Event::Busy(at, false)),
                6 => (Event::Starve(true), Event::Starve(false)),
                7 => (Event::StopMaster(false), Event::ResumeMaster),
                _ => (Event::StopMaster(true), Event::ResumeMaster),
            };
            let lasts = match begin {
                Event::StopMaster(true) => 50 * self.bound,
                _ => lasts,
            };
            self.after(begins, begin);
            self.after(begins + lasts, end);
        }
    }

    fn after(&mut self, wait: u64, event: Event) {
        self.numbers += 1;
        self.queue.insert((self.now + wait, self.numbers), event);
    }

    /// The way of a message: half a tick at most.
    fn way(&mut self) -> u64 {
        self.random.below(self.tick / 2)
    }

    /// How late a task of the master gets the processor.
    fn late(&mut self) -> u64 {
        match self.starved {
            true => self.random.below(5 * self.tick),
            false => self.random.below(self.tick / 10),
        }
    }

    /// Runs the world; returns what happened, and the number of steps.
    pub fn run(mut self) -> Result<(Tally, u64), Violation> {
        let mut steps = 0;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            if self.ran > self.end {
                break;
            }
            if !self.master_stopped {
                self.ran += at - self.now;
            }
            self.now = at;
            if self.shows {
                println!("{at:>12} {event:?}");
            }
            self.step(event)?;
            steps += 1;
        }
        Ok((self.tally, steps))
    }

    fn step(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Look(_) | Event::Read(_) if self.master_stopped => self.waiting.push(event),
            Event::Look(at) => return self.look(at),
            Event::Read(at) => self.read(at),
            Event::Up(at, message) => self.up(at, message),
            Event::Down(at, probe) => self.down(at, probe),
            Event::Report(at) => {
                if !self.links[at].stopped {
                    self.say(at, Message::Report);
                }
                self.after(self.bound / 4, event);
            }
            Event::Rejoin(at) => {
                self.tally.add("worker came back from the dead");
                self.links[at] = self.link();
                self.after(0, Event::Look(at));
            }
            Event::StopWorker(at) => {
                self.tally.add("worker stopped");
                if self.master_stopped {
                    self.tally.add("worker stopped while the master was");
                }
                self.links[at].stopped = true;
                self.fault(at);
            }
            Event::ResumeWorker(at) => {
                let link = &mut self.links[at];
                if link.stopped && !link.over {
                    self.tally.add("worker went on in time");
                }
                self.links[at].stopped = false;
                self.part_mended(at);
                for probe in std::mem::take(&mut self.links[at].inbox) {
                    self.down(at, probe);
                }
            }
            Event::Cut(at, up, down) => {
                self.tally.add(match (up, down) {
                    (true, true) => "link cut both ways",
                    (true, false) => "link cut towards the master",
                    _ => "link cut towards the worker",
                });
                let link = &mut self.links[at];
                link.cut = (link.cut.0 || up, link.cut.1 || down);
                self.fault(at);
            }
            Event::Mend(at) => {
                self.links[at].cut = (false, false);
                self.part_mended(at);
                let (up, down) = std::mem::take(&mut self.links[at].held);
                up.into_iter().for_each(|message| self.say(at, message));
                down.into_iter().for_each(|probe| self.send(at, probe));
            }
            Event::Busy(at, busy) => {
                self.tally.add("busy link");
                let (ran, link) = (self.ran, &mut self.links[at]);
                link.busy = busy;
                link.was_busy = true;
                link.certain = ran;
                for probe in std::mem::take(&mut self.links[at].behind) {
                    self.send(at, probe);
                }
            }
            Event::StopMaster(long) => {
                self.tally.add(match long {
                    true => "master stopped for long",
                    false => "master stopped",
                });
                self.master_stopped = true;
                for link in &mut self.links {
                    link.stalls += 1;
                    link.stalls_of_heard += 1;
                }
            }
            Event::ResumeMaster => {
                self.master_stopped = false;
                for event in std::mem::take(&mut self.waiting) {
                    let late = self.late().max(self.random.below(self.tick / 2));
                    self.after(late, event);
                }
            }
            Event::Starve(starved) => {
                self.tally.add("master starved");
                self.starved = starved;
                for link in &mut self.links {
                    link.starved = true;
                    // What was late before is read by then.
                    link.certain = self.ran + 6 * self.tick;
                }
            }
        }
        Ok(())
    }

    /// Something is wrong with a link from now on.
    fn fault(&mut self, at: usize) {
        let (ran, settled) = (self.ran, self.ran + self.tick);
        let (starved, link) = (self.starved, &mut self.links[at]);
        if link.fault.is_none() {
            link.fault = Some(ran);
            link.stalls = u64::from(self.master_stopped);
            link.starved |= starved;
        }
        // What was on its way has arrived by then.
        link.certain = link.certain.max(settled);
    }

    /// What was held back is on its way, and counts as a sign, even if something else is still wrong.
    fn part_mended(&mut self, at: usize) {
        let settled = self.ran + self.tick;
        let link = &mut self.links[at];
        link.certain = link.certain.max(settled);
    }

    /// The worker sends a message.
    fn say(&mut self, at: usize, message: Message) {
        let way = self.now + self.way();
        let link = &mut self.links[at];
        link.last.0 = way.max(link.last.0);
        let wait = link.last.0 - self.now;
        self.after(wait, Event::Up(at, message));
    }

    /// The master sends a probe.
    fn send(&mut self, at: usize, probe: u64) {
        let way = self.now + self.way();
        let link = &mut self.links[at];
        if link.busy {
            return link.behind.push_back(probe);
        }
        link.last.1 = way.max(link.last.1);
        let wait = link.last.1 - self.now;
        self.after(wait, Event::Down(at, probe));
    }

    fn up(&mut self, at: usize, message: Message) {
        let link = &mut self.links[at];
        if link.cut.0 {
            return link.held.0.push_back(message);
        }
        if self.master_stopped {
            self.tally.add("message while the master was stopped");
        }
        self.links[at].socket.push_back(message);
        let late = self.late();
        self.after(late, Event::Read(at));
    }

    fn down(&mut self, at: usize, probe: u64) {
        let link = &mut self.links[at];
        if link.cut.1 {
            link.held.1.push_back(probe);
        } else if link.stopped {
            link.inbox.push_back(probe);
        } else {
            self.say(at, Message::Answer(probe));
        }
    }

    fn read(&mut self, at: usize) {
        let (now, ran) = (Duration::from_micros(self.now), self.ran);
        let link = &mut self.links[at];
        for message in std::mem::take(&mut link.socket) {
            if link.over {
                continue;
            }
            match message {
                Message::Report => link.machine.heard(now),
                Message::Answer(probe) => {
                    link.machine.answered(probe, now);
                    if probe == link.probes {
                        link.open_probe = false;
                    }
                }
            }
            (link.heard, link.stalls_of_heard) = (ran, 0);
            if !link.is_faulty() && !link.open_probe && link.fault.take().is_some() {
                self.tally.add("answer after a fault");
                link.was_busy = link.busy;
                link.starved = self.starved;
            }
        }
    }

    fn truth(&self, at: usize) -> Truth {
        let link = &self.links[at];
        let since = |from: u64| self.ran.saturating_sub(from);
        let clear = link.is_faulty() && !link.busy && !self.starved;
        Truth {
            bound: self.bound,
            tick: self.tick,
            jitter: self.tick / 5,
            unheard: since(link.heard),
            faulty: link.fault.map(since),
            certain: link.fault.filter(|_| clear).map(|_| since(link.certain)),
            stalls: link.stalls.max(link.stalls_of_heard),
            starved: link.starved || self.starved,
            was_busy: link.was_busy || link.busy,
            probes: link.probes,
            open_probe: link.open_probe,
        }
    }

    fn look(&mut self, at: usize) -> Result<(), Violation> {
        if self.links[at].over {
            return Ok(());
        }
        let now = Duration::from_micros(self.now);
        let link = &mut self.links[at];
        let look = link.machine.look(now, !link.busy);
        if self.shows {
            println!("{:>12} {at}: {look:?}", self.now);
        }
        let truth = self.truth(at);
        for &(invariant, check) in invariants::ALL {
            if self.only.is_some_and(|only| only != invariant) {
                continue;
            }
            if let Some(detail) = check(&truth, look) {
                return Err(Violation {
                    invariant,
                    at: self.now,
                    detail,
                });
            }
        }
        match look {
            Look::Wait => {}
            Look::Probe(probe) => {
                let link = &mut self.links[at];
                (link.probes, link.open_probe) = (probe, true);
                self.send(at, probe);
            }
            Look::Suspect(why) => {
                self.tally.add(match why {
                    Suspicion::Silent(_) => "given up: silent",
                    Suspicion::Unanswered(_) => "given up: unanswered",
                });
                if truth.was_busy {
                    self.tally.add("busy link of a suspect");
                }
                self.links[at].over = true;
                let back = self.bound + self.random.below(4 * self.bound);
                self.after(back, Event::Rejoin(at));
                return Ok(());
            }
        }
        let late = self.late();
        self.after(self.tick + late, Event::Look(at));
        Ok(())
    }
}
