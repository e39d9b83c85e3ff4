//! The invariants, one in each file.

mod age;
mod cause;
mod in_time;
mod no_fault;
mod not_early;
mod one_probe;

use dstreams_control::cluster::Look;

use crate::world::Truth;

/// The invariant that the machine's answer to a look broke, if any.
type Check = fn(&Truth, Look) -> Option<String>;

/// The first that is broken is reported.
pub const ALL: &[(&str, Check)] = &[
    ("no-fault", no_fault::check),
    ("not-early", not_early::check),
    ("cause", cause::check),
    ("age", age::check),
    ("in-time", in_time::check),
    ("one-probe", one_probe::check),
];
