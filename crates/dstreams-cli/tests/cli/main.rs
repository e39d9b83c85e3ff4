//! The `dstreams` command as a user meets it: real processes, real sockets, and counts that are
//! compared with naive ones.
//!
//! Nothing here waits for a time to pass: a line of output or the end of a process is awaited, and
//! [`process::PATIENCE`] only ends what hangs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cluster;
mod local;
mod page;
mod process;
mod text;
mod unread;
