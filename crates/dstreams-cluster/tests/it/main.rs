//! The cluster with real sockets: masters and workers of this process, and real processes.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod first;
