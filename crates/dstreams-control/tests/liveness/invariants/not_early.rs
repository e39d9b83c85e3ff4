//! Nobody is given up for a fault that is much shorter than the bound, in time in which the master ran.

use dstreams_control::cluster::Look;

use crate::world::Truth;

pub fn check(truth: &Truth, look: Look) -> Option<String> {
    let Look::Suspect(_) = look else { return None };
    let tick = truth.tick;
    // A tick until the next probe, and the way there and back. Messages of a busy link are rarer, and a starved master
    // reads them later.
    let before = if truth.starved || truth.was_busy {
        13
    } else {
        3
    };
    let least = (18 * tick).saturating_sub((before + truth.stalls * 2) * tick);
    let early = truth.faulty? < least;
    early.then(|| format!("after {:?} µs of a fault, not {least}", truth.faulty))
}
