//! [`Sabotaged`]: a machine with an injected fault. The list is in the documentation of `main.rs`.

use std::time::Duration;

use dstreams_control::cluster::{Liveness, Look, Suspicion};

use crate::machine::Machine;

/// An injected fault.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Fault {
    StallsCount,
    ClockSetForward,
    AnswersIgnored,
    MessagesIgnored,
    ProbesNotSent,
    WaitingProbesCount,
    MessagesAreAnswers,
    NobodySuspected,
    ClockStands,
    ClockTooFast,
    DeafIsSilent,
    WrongAge,
    ProbeRepeated,
}

/// All faults, each with the invariant that must report it.
pub const FAULTS: &[(Fault, &str)] = &[
    (Fault::StallsCount, "no-fault"),
    (Fault::ClockSetForward, "no-fault"),
    (Fault::AnswersIgnored, "no-fault"),
    (Fault::MessagesIgnored, "no-fault"),
    (Fault::ProbesNotSent, "no-fault"),
    (Fault::WaitingProbesCount, "no-fault"),
    (Fault::MessagesAreAnswers, "in-time"),
    (Fault::NobodySuspected, "in-time"),
    (Fault::ClockStands, "in-time"),
    (Fault::ClockTooFast, "not-early"),
    (Fault::DeafIsSilent, "cause"),
    (Fault::WrongAge, "age"),
    (Fault::ProbeRepeated, "one-probe"),
];

pub struct Sabotaged {
    fault: Fault,
    inner: Liveness,
    begun: Duration,
    last: Duration,
    looks: u32,
    newest: u64,
}

impl Sabotaged {
    pub fn boxed(fault: Fault, bound: Duration, now: Duration) -> Box<dyn Machine> {
        Box::new(Sabotaged {
            fault,
            inner: Liveness::new(bound, now),
            begun: now,
            last: now,
            looks: 0,
            newest: 0,
        })
    }

    fn time(&self, now: Duration) -> Duration {
        match self.fault {
            Fault::ClockStands => self.begun,
            Fault::ClockTooFast => self.begun + 2 * (now - self.begun),
            _ => now,
        }
    }

    /// As if somebody had looked at every tick until `now`.
    fn look_often(&mut self, from: Duration, now: Duration) -> Option<Look> {
        let ticks = (1..)
            .map(|n| from + self.inner.tick() * n)
            .take_while(|at| *at < now);
        // More than any bound has.
        let looks: Vec<_> = ticks.take(100).collect();
        let suspects = |look: &Look| matches!(look, Look::Suspect(_));
        let mut looks = looks.into_iter().map(|at| self.inner.look(at, false));
        looks.find(suspects)
    }
}

impl Machine for Sabotaged {
    fn heard(&mut self, now: Duration) {
        let at = self.time(now);
        match self.fault {
            Fault::MessagesIgnored => {}
            Fault::MessagesAreAnswers => self.inner.answered(self.newest, at),
            _ => self.inner.heard(at),
        }
    }

    fn answered(&mut self, probe: u64, now: Duration) {
        let at = self.time(now);
        match self.fault {
            Fault::AnswersIgnored => self.inner.heard(at),
            _ => self.inner.answered(probe, at),
        }
    }

    fn look(&mut self, now: Duration, can_send: bool) -> Look {
        let at = self.time(now);
        self.looks += 1;
        let from = match self.fault {
            Fault::StallsCount => self.last,
            Fault::ClockSetForward if self.looks == 50 => {
                now.saturating_sub(self.inner.tick() * 100)
            }
            _ => at,
        };
        self.last = now;
        if self.fault == Fault::ClockSetForward && self.looks == 50 {
            for n in 1..100 {
                let later = now + self.inner.tick() * n;
                if let suspected @ Look::Suspect(_) = self.inner.look(later, false) {
                    return suspected;
                }
            }
        } else if let Some(suspected) = self.look_often(from, now) {
            return suspected;
        }
        let can_send = can_send || self.fault == Fault::WaitingProbesCount;
        match self.inner.look(at, can_send) {
            Look::Probe(_) if self.fault == Fault::ProbesNotSent => Look::Wait,
            Look::Probe(number) => {
                self.newest = number;
                Look::Probe(number)
            }
            Look::Wait if self.fault == Fault::ProbeRepeated && can_send && self.newest > 0 => {
                Look::Probe(self.newest)
            }
            Look::Suspect(_) if self.fault == Fault::NobodySuspected => Look::Wait,
            Look::Suspect(Suspicion::Unanswered(age)) if self.fault == Fault::DeafIsSilent => {
                Look::Suspect(Suspicion::Silent(age))
            }
            Look::Suspect(Suspicion::Silent(age)) if self.fault == Fault::WrongAge => {
                Look::Suspect(Suspicion::Silent(age / 2))
            }
            look => look,
        }
    }
}
