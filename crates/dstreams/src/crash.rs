//! Named points at which a process ends as if it were killed, for tests of recovery.
//!
//! `DSTREAMS_CRASH_AT=NAME#N@FILE`: crashes when the point NAME is passed for the N-th time, in the first process
//! that creates FILE at that moment. The names are in [`POINTS`].
//!
//! `DSTREAMS_PAUSE_AT=NAME=MS`: each time that NAME is passed, its thread sleeps for MS milliseconds.

use std::fs::File;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// All points, in the order in which a record passes them: those of workers of a cluster, and of a program with a
/// directory.
pub const POINTS: [&str; 27] = [
    "receive:sealed",
    "replicate:held",
    "replicate:copied",
    "replicate:told",
    "journal:written",
    "journal:synced",
    "batch:cut",
    "execute:task",
    "execute:done",
    "state:installed",
    "state:fetched",
    "state:standby",
    "commit:begins",
    "commit:half",
    "commit:done",
    "checkpoint:written",
    "checkpoint:visible",
    "journal:let-go",
    "restore:replayed",
    "aside:begins",
    "aside:block",
    "aside:files",
    "aside:written",
    "aside:again",
    "aside:undone",
    "takeover:taken",
    "takeover:read",
];

struct Planned {
    point: String,
    left: AtomicU64,
    file: PathBuf,
}

impl Planned {
    fn parse(plan: &str) -> Option<Self> {
        let (point, rest) = plan.split_once('#')?;
        let (count, file) = rest.split_once('@')?;
        Some(Planned {
            point: point.to_owned(),
            left: AtomicU64::new(count.parse().ok()?),
            file: file.into(),
        })
    }

    /// Whether this is the planned time, and this process the first.
    fn is_now(&self, name: &str) -> bool {
        self.point == name
            && self.left.fetch_sub(1, Ordering::Relaxed) == 1
            && File::create_new(&self.file).is_ok()
    }
}

/// Ends or pauses the process here, if that is planned.
pub fn point(name: &str) {
    static PAUSE: OnceLock<Option<(String, Duration)>> = OnceLock::new();
    let pause = PAUSE.get_or_init(|| {
        let plan = std::env::var("DSTREAMS_PAUSE_AT").ok()?;
        let (point, ms) = plan.split_once('=')?;
        Some((point.to_owned(), Duration::from_millis(ms.parse().ok()?)))
    });
    if let Some((_, pause)) = pause.as_ref().filter(|(point, _)| point == name) {
        std::thread::sleep(*pause);
    }
    static PLANNED: OnceLock<Option<Planned>> = OnceLock::new();
    let planned = PLANNED.get_or_init(|| Planned::parse(&std::env::var("DSTREAMS_CRASH_AT").ok()?));
    if planned.as_ref().is_some_and(|planned| planned.is_now(name)) {
        eprintln!("crash at {name}, as planned");
        std::process::abort();
    }
}
