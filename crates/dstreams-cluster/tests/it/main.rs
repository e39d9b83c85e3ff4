//! The cluster over real sockets, with masters and workers of this process.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../dstreams/tests/it/bad_words.rs"]
mod bad_words;
#[path = "../../../dstreams/tests/it/checked_sink.rs"]
mod checked_sink;
#[path = "../../../dstreams/tests/it/dir.rs"]
mod dir;
#[path = "../../../dstreams/tests/it/every_operator.rs"]
mod every_operator;
#[path = "../../../dstreams/tests/it/further_operators.rs"]
mod further_operators;
#[path = "../../../dstreams/tests/it/killed.rs"]
#[allow(dead_code)] // as here
mod killed;
#[path = "../../../dstreams/tests/it/program.rs"]
#[allow(dead_code)] // the local engine's tests use more of it
mod program;
#[path = "../../../dstreams/tests/it/quiet_program.rs"]
#[allow(dead_code)] // as here
mod quiet_program;
#[path = "../../../dstreams-control/tests/shared/rng.rs"]
#[allow(dead_code)] // the simulations use more of it
mod rng;
#[path = "../../../dstreams/tests/it/sources_that_end.rs"]
mod sources_that_end;

mod alone;
mod app;
mod ask;
mod bad_input;
mod chained_states;
mod crash_loop;
mod detection;
mod double_loss;
mod downtime;
mod drain;
mod engines;
mod errors;
mod failover;
mod faults;
mod full_disk;
mod namespaces;
mod own_source;
mod pipeline;
mod ports;
mod process;
mod replayed;
mod restart;
mod scene;
mod set_aside;
mod set_aside_killed;
mod sinks;
mod slow_closures;
mod slow_copies;
mod soak;
mod sources_end;
mod speculation;
mod stateless;
mod workers;
