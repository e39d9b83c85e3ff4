//! At most one probe at a time has no answer; numbers grow.

use dstreams_control::cluster::Look;

use crate::world::Truth;

pub fn check(truth: &Truth, look: Look) -> Option<String> {
    let Look::Probe(number) = look else {
        return None;
    };
    let again = number <= truth.probes || truth.open_probe;
    again.then(|| format!("probe {number}, after {}", truth.probes))
}
