//! The `dstreams` command as a user sees it: real processes, real sockets, and counts that are
//! compared with naive ones.
//!
//! No test relies on a time to pass: tests wait for a line of output or the end of a process, and
//! [`process::PATIENCE`] only ends tests that hang.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cluster;
#[path = "../../../dstreams/tests/it/dir.rs"]
mod dir;
mod local;
mod page;
mod process;
mod text;
mod unread;
