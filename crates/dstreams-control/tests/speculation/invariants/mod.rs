//! The invariants, one in each file.

mod bound;
mod cancelled;
mod elsewhere;
mod ends;
mod first_counts;
mod forgotten;
mod in_time;
mod not_early;
mod one_result;
mod slow_everywhere;
mod sole_failure;
mod stateless;

use crate::machine::Stage;

/// The last event, and the true state of the world. Times are in microseconds.
pub enum Moment {
    /// A task begins. `original` is the worker of the original of its partition, if that runs.
    Started {
        worker: usize,
        original: Option<usize>,
    },
    /// The machine orders a copy. `limit` is when the task was slow; `alike` whether all workers are; `free` whether
    /// the task may run anywhere; `copies` counts this one.
    Copied {
        age: u64,
        limit: Option<u64>,
        alike: bool,
        free: bool,
        copies: usize,
        most: usize,
    },
    /// The machine has ordered all copies of a stage. A task that should have one and has none.
    Ticked { missed: Option<String> },
    /// A task reports success. Whether an earlier success of its partition counts, and whether this one does not.
    Succeeded { counted: bool, dropped: bool },
    /// A task reports a failure. Whether it counts, and how many other tasks of its partition run.
    Failed { counts: bool, others: usize },
    /// A result counts. A task of the same partition that still runs and is not cancelled.
    Decided { left: Option<String> },
    /// The scheduler has taken a result. The results that it has of that partition.
    Accepted { results: usize },
    /// The machine knows so many stages, of which so many have not ended.
    Synced { known: usize, live: usize },
    /// The end.
    Over { stuck: bool, stages: Vec<Stage> },
}

/// The invariant that was broken, if any.
type Check = fn(&Moment) -> Option<String>;

/// The first that is broken is reported.
pub const ALL: &[(&str, Check)] = &[
    ("one-result", one_result::check),
    ("first-counts", first_counts::check),
    ("sole-failure", sole_failure::check),
    ("elsewhere", elsewhere::check),
    ("bound", bound::check),
    ("slow-everywhere", slow_everywhere::check),
    ("not-early", not_early::check),
    ("stateless", stateless::check),
    ("in-time", in_time::check),
    ("cancelled", cancelled::check),
    ("forgotten", forgotten::check),
    ("ends", ends::check),
];
