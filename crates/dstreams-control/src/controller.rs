//! [`Controller`]: takes an event, returns commands.
//!
//! A step has three parts: take the event, advance as far as the new state and time allow (cut, seal, run, stop),
//! and ask to be woken. [`Intake`] decides up to the cut, [`Pipeline`] from there on; this module joins them and
//! handles the stop.

use std::time::Duration;

use crate::elapsed::Elapsed;
use crate::intake::Intake;
use crate::pipeline::{Failure, Pipeline};
use crate::{BatchTime, Command, Config, Event, ReceiverId, Restored, State, Timestamp};

/// The master's decisions as a pure state machine. See the [crate's page](crate).
#[derive(Debug)]
pub struct Controller {
    config: Config,
    state: State,
    elapsed: Elapsed,
    intake: Intake,
    pipeline: Pipeline,
    /// Latest end of the stop (elapsed microseconds).
    deadline: Option<u64>,
    receivers_closed: bool,
    last_wake: Option<Timestamp>,
}

impl Controller {
    /// A controller that waits for [`Event::Start`].
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            state: State::New,
            elapsed: Elapsed::new(),
            intake: Intake::new(&config),
            pipeline: Pipeline::new(&config),
            config,
            deadline: None,
            receivers_closed: false,
            last_wake: None,
        }
    }

    /// A controller that resumes after an earlier one. Pending batches have their `Cut` already; they are run and
    /// committed like any other. Their effect may already be there, if the journal lacks the commit.
    #[must_use]
    pub fn restored(config: Config, restored: Restored) -> Self {
        let mut it = Self::new(config);
        it.intake
            .resume_after(restored.last_cut, restored.begin_after, restored.uncut);
        it.pipeline
            .resume_after(restored.last_committed, restored.set_aside_before);
        for (batch, blocks) in restored.pending {
            // The journal has no time of the cut; it was not before the end of the interval.
            it.pipeline.push(batch, blocks, batch.timestamp());
            let (set_aside, committing) = (&restored.set_aside, &restored.committing);
            it.pipeline
                .set_outcome_of_last(set_aside.contains(&batch), committing.contains(&batch));
        }
        it
    }

    /// Takes an event at `now` and returns what to do, in order.
    ///
    /// Total: any event is accepted at any time, `now` may step back, nothing panics. Amortised constant cost apart
    /// from the length of the lists; however long the clock stood still, one step cuts two batches at most, and
    /// `WakeAt` asks for more steps.
    ///
    /// Timeouts count the forward steps of `now`, so one that is set forward fires them early: where there is a monotonic
    /// clock, use [`step_at`](Self::step_at).
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Command> {
        self.elapsed.observe(now);
        self.step_observed(event, now)
    }

    /// Takes an event like [`step`](Self::step), with the time since any fixed moment by a monotonic clock, which timeouts
    /// count. Use one of the two for all events.
    pub fn step_at(&mut self, event: Event, now: Timestamp, passed: Duration) -> Vec<Command> {
        let passed = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        self.elapsed.observe_both(now, passed);
        self.step_observed(event, now)
    }

    fn step_observed(&mut self, event: Event, now: Timestamp) -> Vec<Command> {
        // I1 (ARCHITECTURE.md): pure; everything external comes in as an event.
        let mut out = Vec::new();
        if self.state == State::Stopped {
            return out;
        }
        self.intake.observe(now);
        let timer_used = event == Event::Tick;
        if self.deadline_passed() {
            self.take_at_deadline(&event, now, &mut out);
        } else {
            self.take(event, now, &mut out);
        }
        self.advance(now, &mut out);
        self.ask_wake(timer_used, &mut out);
        out
    }

    fn take(&mut self, event: Event, now: Timestamp, out: &mut Vec<Command>) {
        match event {
            Event::Start { receivers } => self.start(receivers, now),
            Event::Joined { receiver } => self.intake.joined(receiver),
            Event::Left { receiver, blocks } => self.intake.left(receiver, blocks),
            Event::Tick => {}
            Event::Reported {
                batch,
                receiver,
                blocks,
            } => self.intake.report(batch, receiver, blocks),
            Event::Due { after, due } => self.intake.due(after, due),
            Event::Finished { batch, attempt } => self.pipeline.finished(batch, attempt, now),
            Event::Failed {
                batch,
                attempt,
                retryable,
                of_batch,
            } => {
                let failure = Failure {
                    retryable,
                    of_batch,
                };
                self.pipeline.failed((batch, attempt), failure, now, out);
            }
            Event::SetAside { batch } => self.pipeline.set_aside(batch, now, out),
            Event::SetAsideFailed { batch } => self.pipeline.set_aside_failed(batch, out),
            Event::Committed { batch } => self.pipeline.committed(batch, now, out),
            Event::CommitFailed { batch, retryable } => {
                self.pipeline.commit_failed(batch, retryable, out)
            }
            Event::Stop { graceful, deadline } => self.stop(graceful, deadline, out),
        }
    }

    /// After the deadline: begins nothing more, but a commit that has just taken effect counts.
    fn take_at_deadline(&mut self, event: &Event, now: Timestamp, out: &mut Vec<Command>) {
        if let Event::Committed { batch } = event {
            self.pipeline.committed(*batch, now, out);
        }
    }

    fn start(&mut self, receivers: Vec<ReceiverId>, now: Timestamp) {
        if self.state == State::New {
            self.intake.start(receivers, now);
            self.state = State::Running;
        }
    }

    /// Begins a stop or shortens one.
    fn stop(&mut self, graceful: bool, deadline: Option<Timestamp>, out: &mut Vec<Command>) {
        let deadline = deadline.map(|deadline| self.elapsed.at_clock(deadline));
        self.deadline = [self.deadline, deadline].into_iter().flatten().min();
        match self.state {
            State::Running if graceful => self.state = State::Draining,
            State::New | State::Running => self.state = State::Halting,
            State::Draining if !graceful => self.state = State::Halting,
            State::Draining | State::Halting | State::Stopped => {}
        }
        if self.state == State::Halting {
            self.pipeline.abort(out);
        }
        if let Some(deadline) = self.deadline {
            self.intake.shorten(self.elapsed.passed(), deadline);
        }
        self.close_receivers(out);
    }

    fn advance(&mut self, now: Timestamp, out: &mut Vec<Command>) {
        let goes_on = matches!(self.state, State::Running | State::Draining);
        if goes_on && !self.deadline_passed() {
            self.pipeline.settle(out);
        }
        if self.pipeline.is_over() || self.deadline_passed() {
            return self.finish(out);
        }
        match self.state {
            State::New | State::Stopped => {}
            State::Running | State::Draining => {
                self.cut(now, out);
                if self.seal(now, out) {
                    // At once where nobody is asked; then one boundary per step, or a stall would make a long list.
                    self.cut(now, out);
                }
                let late = self.intake.stop_waiting(self.elapsed.passed());
                out.extend(late.map(|batch| Command::StopWaiting { batch }));
                self.pipeline.start_next(now, out);
                if self.state == State::Running && self.pipeline.len() == 0 {
                    let after = self.intake.ask_due();
                    out.extend(after.map(|after| Command::AskDue { after }));
                }
                if self.intake.is_done() && self.pipeline.len() == 0 {
                    self.finish(out);
                }
            }
            State::Halting => {
                if !self.pipeline.is_committing() {
                    self.finish(out);
                }
            }
        }
    }

    fn deadline_passed(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline <= self.elapsed.passed())
    }

    fn seal(&mut self, now: Timestamp, out: &mut Vec<Command>) -> bool {
        let passed = self.elapsed.passed();
        let asked = |batch| (batch, true);
        let begun = match self.state {
            State::Draining => self.intake.seal_last(passed, self.deadline).map(asked),
            _ if self.boundaries_wait() => None,
            _ => self.intake.begin_due(now, passed),
        };
        let sealed = begun.filter(|(_, asked)| *asked);
        out.extend(sealed.map(|(batch, _)| Command::Seal { batch }));
        begun.is_some()
    }

    /// Whether boundaries wait: the start or the end of a batch brings the next one.
    fn boundaries_wait(&self) -> bool {
        self.intake.waits_for_due()
            || self.pipeline.empty_waiting() >= self.config.max_empty_waiting.max(1)
    }

    fn cut(&mut self, now: Timestamp, out: &mut Vec<Command>) {
        if let Some((batch, blocks)) = self.intake.cut(self.elapsed.passed()) {
            out.push(Command::Cut {
                batch,
                blocks: blocks.clone(),
            });
            self.pipeline.push(batch, blocks, now);
        }
    }

    fn close_receivers(&mut self, out: &mut Vec<Command>) {
        if !self.receivers_closed {
            self.receivers_closed = true;
            out.push(Command::CloseReceivers);
        }
    }

    fn finish(&mut self, out: &mut Vec<Command>) {
        self.pipeline.abort(out);
        self.close_receivers(out);
        self.state = State::Stopped;
        out.push(Command::Stopped {
            unfinished: self.unfinished(),
        });
    }

    /// Asks for a step at the next relevant time, unless that was already asked for and the timer still runs. A
    /// `Tick` has used the timer up, perhaps too early if the clock stepped back.
    fn ask_wake(&mut self, timer_used: bool, out: &mut Vec<Command>) {
        if self.state == State::Stopped {
            return;
        }
        let deadline = self
            .deadline
            .map(|deadline| self.elapsed.clock_at(deadline));
        let cut = self
            .intake
            .wakes_at()
            .map(|until| self.elapsed.clock_at(until));
        let boundary = self.intake.next().filter(|_| !self.boundaries_wait());
        let boundary = boundary.map(BatchTime::timestamp);
        let intake = match self.state {
            State::Running => cut.or(boundary),
            State::Draining => cut,
            State::New | State::Halting | State::Stopped => None,
        };
        let wake = [deadline, intake].into_iter().flatten().min();
        if timer_used || wake != self.last_wake {
            out.extend(wake.map(Command::WakeAt));
        }
        self.last_wake = wake;
    }

    fn unfinished(&self) -> u64 {
        let lacking = self.intake.is_done() && self.intake.overdue() > 0;
        let intake = usize::from(self.intake.is_sealing() || lacking);
        u64::try_from(self.pipeline.len().saturating_add(intake)).unwrap_or(u64::MAX)
    }

    /// The settings.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Where it is in its life.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Number of batches cut and not committed, the running one included.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pipeline.len()
    }

    /// The batches that run or commit, in order, with their attempts.
    pub fn running(&self) -> impl Iterator<Item = (BatchTime, u32)> {
        self.pipeline.active()
    }

    /// The last batch that took effect.
    #[must_use]
    pub const fn last_committed(&self) -> Option<BatchTime> {
        self.pipeline.last_committed()
    }

    /// The boundary that gets a batch next, as far as is known; `None` before the start.
    #[must_use]
    pub fn next_boundary(&self) -> Option<BatchTime> {
        self.intake.next()
    }

    /// The end of the interval to which records belong that are received now; `None` while receivers are asked for an
    /// earlier one, before the start and at the end of time.
    #[must_use]
    pub fn open_interval(&self) -> Option<BatchTime> {
        let waits = self.intake.is_sealing() || self.intake.waits_for_due();
        self.intake.next().filter(|_| !waits)
    }

    /// Reports that missed their cut and are still missing. If not 0 after a graceful stop, received blocks may be
    /// in no batch.
    #[must_use]
    pub fn overdue_reports(&self) -> usize {
        self.intake.overdue()
    }
}
