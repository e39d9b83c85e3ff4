//! [`State`]: where a controller is in its life.
//!
//! It only goes forward, from `New` to `Stopped`.

/// Where a controller is in its life.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub enum State {
    /// Waits for `Start`.
    New,
    /// Makes a batch at each boundary.
    Running,
    /// Graceful stop: receivers are closed; what was received is cut, run and committed.
    Draining,
    /// Abrupt stop, while a commit was under way: waits for that one only.
    Halting,
    /// `Stopped` was given; every event is ignored.
    Stopped,
}
