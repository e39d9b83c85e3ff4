//! The age of a silent process is that of its last message, in time in which the master ran; a stall counts as two
//! ticks at most.

use dstreams_control::cluster::{Look, Suspicion};

use crate::world::Truth;

pub fn check(truth: &Truth, look: Look) -> Option<String> {
    let Look::Suspect(Suspicion::Silent(age)) = look else {
        return None;
    };
    let (age, real) = (age.as_micros() as u64, truth.unheard);
    // A starved master's time counts in part.
    let least = if truth.starved { 0 } else { real };
    let most = real + truth.stalls * 2 * truth.tick;
    (age < least || age > most).then(|| format!("{age} µs, not {least} to {most}"))
}
