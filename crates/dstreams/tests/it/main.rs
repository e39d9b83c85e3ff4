//! The one integration test binary: whole programs on the local engine, through the public API.
//!
//! [`program`] runs a program over a list of intervals on a clock moved by hand, with `dstreams::testing`; everything
//! waits on conditions, with a long bound only so that a failure ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad_files;
mod bad_joins;
mod bad_times;
mod bad_words;
mod batch_time;
mod bounded;
mod changes;
mod checked_sink;
mod client_records;
mod clock;
mod contract;
mod contract_source;
mod corrections;
mod determinism;
mod dir;
mod doors;
mod downtime;
mod durations;
mod earlier_batches;
mod every_operator;
mod explain;
mod extremes;
mod files_names;
mod files_round_trip;
mod files_sink;
mod files_source;
mod files_store;
mod files_vectors;
mod flink;
mod folds;
mod full_disk;
mod functions;
mod further_operators;
mod further_windows;
mod graph;
mod join_within;
mod joins;
mod kept;
mod keyed_state;
mod killed;
mod leaves;
mod lifecycle;
mod map_partitions;
mod names;
mod nested;
mod nexmark;
mod next_run;
mod nulls;
mod odd_values;
mod operators;
mod pairs;
mod partitions;
mod plain;
mod program;
mod programs;
mod quiet_program;
mod random_times;
mod receive_memory;
mod receive_tcp;
mod records;
mod relational;
mod replay_time;
mod restart;
mod restart_files;
#[path = "../../../dstreams-control/tests/shared/rng.rs"]
#[allow(dead_code)] // the simulations use more of it
mod rng;
mod sessions;
mod set_aside;
mod sinks;
mod slack;
mod some;
mod sources_that_end;
mod spark;
mod state_closures;
mod state_memory;
mod stopping;
mod sums;
mod testing;
mod tidy;
mod timeouts;
mod timers;
mod tried;
mod values;
mod variance;
mod watched;
mod windows;
mod windows_of_records;
mod with_state;
