//! A process that is silent or hears nothing is given up within the bound, unless the master gets no processor or the
//! link carries so much that a probe would wait.

use dstreams_control::cluster::Look;

use crate::world::Truth;

pub fn check(truth: &Truth, look: Look) -> Option<String> {
    let late = truth.certain? > truth.bound + truth.jitter;
    let missed = late && !matches!(look, Look::Suspect(_));
    missed.then(|| format!("without a sign for {:?} µs", truth.certain))
}
