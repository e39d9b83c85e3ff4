//! Who is heard is not silent.

use dstreams_control::cluster::{Look, Suspicion};

use crate::world::Truth;

pub fn check(truth: &Truth, look: Look) -> Option<String> {
    let Look::Suspect(Suspicion::Silent(_)) = look else {
        return None;
    };
    // Something of it came half a bound ago or later.
    let heard = truth.unheard + truth.stalls * 2 * truth.tick < truth.bound / 2;
    heard.then(|| format!("heard {} µs ago", truth.unheard))
}
