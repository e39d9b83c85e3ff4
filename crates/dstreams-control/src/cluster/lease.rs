//! [`LeaseWatch`]: decides when a standby takes a program over from the process that leads it.
//!
//! The leader locks the directory of the program, and renews a lease there: a file that changes. A standby looks at both
//! again and again:
//!
//! * **The process ended on the standby's machine.** The system has released its lock: the standby leads at once.
//! * **The machine of the leader is gone, or cut off from the directory.** Nothing is renewed any more. Whether the lock
//!   is still seen depends on the file system, so only the silence counts: the standby leads after the length of the
//!   lease.
//! * **The leader is stopped.** Its lock is there, but it renews nothing: the same, and the standby replaces the lock.
//! * **The standby itself was stopped.** Nothing follows from that: the time from one look to the next counts as two ticks
//!   at most, and in that time the leader had the chance to renew.
//!
//! A leader that was given up may come back. It is fenced by the name in the lock, which it checks with all that it
//! writes, and not by this. So no clocks are compared, and none needs to be right.

use std::time::Duration;

/// Ticks in the length of a lease; the leader renews it as often.
const TICKS: u32 = 5;
/// The most ticks of time that count between two looks.
const MAX_STEP: u32 = 2;

/// A lease, as a standby finds it.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Lease {
    /// The name of the process that leads.
    pub holder: String,
    /// How often it has renewed the lease.
    pub renewals: u64,
    /// After this time without a renewal, the leader is given up.
    pub length: Duration,
    /// The program has ended as it should.
    pub ended: bool,
}

impl Lease {
    /// The time between two renewals, and between two looks.
    #[must_use]
    pub fn tick(&self) -> Duration {
        tick(self.length)
    }
}

/// The time between two renewals of a lease of this length, and between two looks at it.
#[must_use]
pub fn tick(length: Duration) -> Duration {
    length / TICKS
}

/// The state of the directory at one look of a standby.
#[derive(Clone, Debug)]
pub struct LeaseLook {
    /// The lease; `None` if the directory has none, as without a leader, or under a program on one machine.
    pub lease: Option<Lease>,
    /// The standby could lock the directory, as far as its machine sees.
    pub is_free: bool,
    /// The lease is of a process on this machine, so that the lock says whether that process is there.
    pub is_local: bool,
}

/// The next action of a standby.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum LeaseVerdict {
    /// Look again after a tick.
    Wait,
    /// Lock the directory: nobody leads.
    Take,
    /// Replace the lock of a leader that is silent and may still run.
    Replace,
    /// End: the program has ended, as somebody wanted.
    End,
}

/// When a standby takes over, as a pure state machine.
///
/// ```
/// use std::time::Duration;
/// use dstreams_control::cluster::{LeaseVerdict, Lease, LeaseLook, LeaseWatch};
///
/// let second = Duration::from_secs(1);
/// let mut watch = LeaseWatch::default();
/// let lease = |renewals| Lease { holder: "a".into(), renewals, length: 5 * second, ended: false };
/// let mut look = |renewals, is_free| {
///     watch.look(LeaseLook { lease: Some(lease(renewals)), is_free, is_local: true }, second)
/// };
/// assert_eq!(look(1, false), LeaseVerdict::Wait);
/// // The process has ended: at once.
/// assert_eq!(look(1, true), LeaseVerdict::Take);
/// // It is stopped: after the length of the lease.
/// assert_eq!(look(2, false), LeaseVerdict::Wait);
/// assert_eq!([(); 5].map(|()| look(2, false)), [LeaseVerdict::Wait, LeaseVerdict::Wait, LeaseVerdict::Wait, LeaseVerdict::Wait, LeaseVerdict::Replace]);
/// ```
#[derive(Clone, Default, Debug)]
pub struct LeaseWatch {
    /// The lease at the last look.
    last: Option<Lease>,
    /// For how long it has not changed, in time that counts.
    silent: Duration,
    /// Whether the lease changed while this standby watched.
    was_led: bool,
}

impl LeaseWatch {
    /// Takes what was found, and the time since the last look by a monotonic clock.
    pub fn look(&mut self, found: LeaseLook, elapsed: Duration) -> LeaseVerdict {
        let LeaseLook {
            lease,
            is_free,
            is_local,
        } = found;
        let Some(lease) = lease else {
            *self = Self::default();
            return if is_free {
                LeaseVerdict::Take
            } else {
                LeaseVerdict::Wait
            };
        };
        if self.last.as_ref() == Some(&lease) {
            self.silent += elapsed.min(lease.tick() * MAX_STEP);
        } else {
            self.was_led |= self.last.is_some();
            self.silent = Duration::ZERO;
        }
        let (length, ended) = (lease.length, lease.ended);
        self.last = Some(lease);
        let is_silent = self.silent >= length;
        match (ended, is_free) {
            // The process that ended it releases the directory soon.
            (true, _) if self.was_led => LeaseVerdict::End,
            // An earlier run ended; this is the next one.
            (true, true) => LeaseVerdict::Take,
            (false, true) if is_local || is_silent => LeaseVerdict::Take,
            (false, false) if is_silent => LeaseVerdict::Replace,
            _ => LeaseVerdict::Wait,
        }
    }

    /// For how long the lease was not renewed, in time that counts.
    #[must_use]
    pub const fn silent(&self) -> Duration {
        self.silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_secs(1);

    fn lease(renewals: u64) -> Lease {
        Lease {
            holder: "a".to_owned(),
            renewals,
            length: TICK * TICKS,
            ended: false,
        }
    }

    fn found(lease: Option<Lease>, is_free: bool, is_local: bool) -> LeaseLook {
        LeaseLook {
            lease,
            is_free,
            is_local,
        }
    }

    /// Ticks until the standby does something, if nothing changes.
    fn waits(
        watch: &mut LeaseWatch,
        look: &LeaseLook,
        step: Duration,
    ) -> Option<(u32, LeaseVerdict)> {
        (0..100).find_map(|tick| match watch.look(look.clone(), step) {
            LeaseVerdict::Wait => None,
            claim => Some((tick, claim)),
        })
    }

    #[test]
    fn a_directory_that_nobody_leads_is_taken() {
        let mut watch = LeaseWatch::default();
        assert_eq!(
            watch.look(found(None, true, false), TICK),
            LeaseVerdict::Take
        );
        // A program on one machine has a lock and no lease: however long that takes.
        let held = found(None, false, false);
        assert_eq!(waits(&mut watch, &held, TICK), None);
    }

    #[test]
    fn the_lock_of_another_machine_says_nothing() {
        for free in [true, false] {
            let mut watch = LeaseWatch::default();
            let claim = if free {
                LeaseVerdict::Take
            } else {
                LeaseVerdict::Replace
            };
            let remote = found(Some(lease(7)), free, false);
            assert_eq!(waits(&mut watch, &remote, TICK), Some((TICKS, claim)));
        }
    }

    #[test]
    fn a_leader_that_renews_is_never_replaced() {
        for (free, local) in [(false, true), (false, false), (true, false)] {
            let mut watch = LeaseWatch::default();
            for at in 0..1_000 {
                // It renews only just in time.
                let renewals = at / u64::from(TICKS);
                let claim = watch.look(found(Some(lease(renewals)), free, local), TICK);
                assert_eq!(claim, LeaseVerdict::Wait, "look {at}");
            }
        }
    }

    /// A standby that sleeps for an hour has not watched the leader for an hour.
    #[test]
    fn a_standby_that_was_stopped_gives_nobody_up() {
        let mut watch = LeaseWatch::default();
        let look = found(Some(lease(1)), false, false);
        assert_eq!(watch.look(look.clone(), Duration::ZERO), LeaseVerdict::Wait);
        assert_eq!(watch.look(look.clone(), TICK * 3_600), LeaseVerdict::Wait);
        assert_eq!(watch.silent(), TICK * MAX_STEP);
        let renewed = found(Some(lease(2)), false, false);
        assert_eq!(watch.look(renewed, TICK), LeaseVerdict::Wait);
        assert_eq!(watch.silent(), Duration::ZERO);
    }

    /// Each new leader has the whole length, also one with as many renewals.
    #[test]
    fn another_leader_is_a_change() {
        let mut watch = LeaseWatch::default();
        let look = found(Some(lease(1)), false, false);
        assert_eq!(
            waits(&mut watch, &look, TICK),
            Some((TICKS, LeaseVerdict::Replace))
        );
        let other = Lease {
            holder: "b".to_owned(),
            ..lease(1)
        };
        let look = found(Some(other), false, false);
        assert_eq!(
            waits(&mut watch, &look, TICK),
            Some((TICKS, LeaseVerdict::Replace))
        );
    }

    /// Stopping the program ends its standbys. A standby that finds a program that ended earlier begins its next run.
    #[test]
    fn a_program_that_ended_is_not_taken_over() {
        let ended = Lease {
            ended: true,
            ..lease(4)
        };
        for free in [true, false] {
            let mut watch = LeaseWatch::default();
            let look = found(Some(lease(3)), false, true);
            assert_eq!(watch.look(look, TICK), LeaseVerdict::Wait);
            let look = found(Some(ended.clone()), free, true);
            assert_eq!(watch.look(look, TICK), LeaseVerdict::End);
        }
        let mut watch = LeaseWatch::default();
        let held = found(Some(ended.clone()), false, true);
        assert_eq!(watch.look(held, TICK), LeaseVerdict::Wait);
        let free = found(Some(ended), true, true);
        assert_eq!(watch.look(free, TICK), LeaseVerdict::Take);
    }
}
