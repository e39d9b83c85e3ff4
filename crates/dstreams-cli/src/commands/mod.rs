//! The subcommands of this crate, one file or folder each: arguments and implementation.
//!
//! `worker`, `status` and `drain` come from `dstreams_cluster::app`.

pub mod checkpoint;
pub mod demo;
pub mod master;
pub mod send;
pub mod table;
pub mod wordcount;
