//! The client against a server of its own protocol, over real sockets and through a proxy that cuts them.
//!
//! One binary. `server` stores what it is sent and can misbehave on purpose, `master` says which servers take
//! a stream; `proxy` cuts connections after seeded numbers of bytes. Nothing here waits for time to pass:
//! `until` waits for a condition.
//! A failing seed is printed; `DSTREAMS_SEED=n` runs it alone, `DSTREAMS_SEEDS=n` runs more of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod batches;
mod discovery;
mod endings;
mod exactly_once;
mod failover;
mod foreign;
mod linger;
mod master;
mod proxy;
mod refusals;
mod seed;
mod server;
mod token;
mod window;

use std::time::{Duration, Instant};

use dstreams_client::Options;

/// Small messages and a small window, so that a few lines exercise both; short timeouts.
fn small() -> Options {
    let mut options = Options::default();
    options.pack_lines = 7;
    options.window_messages = 4;
    options.retry.tries = 100;
    options.retry.elapsed = Duration::from_secs(60);
    options.retry.first_pause = Duration::from_micros(200);
    options.retry.longest_pause = Duration::from_millis(2);
    options
}

/// As `small`, with timeouts as long as a test lasts.
fn patient() -> Options {
    let mut options = small();
    options.retry.tries = u32::MAX;
    options
}

/// Waits for a condition; after 20 s panics with its name.
async fn until(what: &str, condition: impl FnMut() -> bool) {
    until_within(Duration::from_secs(20), what, condition).await;
}

async fn until_within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}
