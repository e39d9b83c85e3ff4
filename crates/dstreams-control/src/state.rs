//! [`State`]: the phase of a controller's life.
//!
//! It only goes forward, from `New` to `Stopped`.

/// The phase of a controller's life.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub enum State {
    /// Waits for `Start`.
    New,
    /// Makes a batch at each boundary.
    Running,
    /// Graceful stop: receivers are closed; what was received is cut, run and committed.
    Draining,
    /// Abrupt stop during a commit: waits for that commit only.
    Halting,
    /// `Stopped` was given; every event is ignored.
    Stopped,
}
