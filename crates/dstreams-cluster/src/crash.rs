//! Named points at which a worker ends as if it were killed, for tests of what happens then.
//!
//! `DSTREAMS_CRASH_AT=NAME` or `NAME#N`: at the N-th time that the point NAME is passed. The names
//! are those of [`POINTS`].

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// All points, in the order of a record's way.
pub const POINTS: [&str; 8] = [
    "receive:sealed",
    "replicate:held",
    "replicate:copied",
    "replicate:told",
    "execute:task",
    "execute:done",
    "state:installed",
    "state:standby",
];

struct Planned {
    point: String,
    left: AtomicU64,
}

/// Ends the process here if that is planned.
pub fn point(name: &str) {
    static PLANNED: OnceLock<Option<Planned>> = OnceLock::new();
    let planned = PLANNED.get_or_init(|| {
        let plan = std::env::var("DSTREAMS_CRASH_AT").ok()?;
        let (point, count) = match plan.rsplit_once('#') {
            Some((point, count)) => (point.to_owned(), count.parse().ok()?),
            None => (plan, 1),
        };
        let left = AtomicU64::new(count);
        Some(Planned { point, left })
    });
    let Some(planned) = planned else { return };
    if planned.point == name && planned.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        eprintln!("crash at {name}, as planned");
        std::process::abort();
    }
}
