//! Stream: D-Streams and their operators, records, aggregates, and the graph that they build.
//!
//! **In**: a program's description. **Out**: the graph, which `plan` turns into plans.
//! **Promise**: no I/O; everything that can be checked without data is checked here.
//! **On failure**: an [`Error`] that names the operator and the source location that built it.

pub mod agg;
pub(crate) mod by_time;
pub(crate) mod correction;
mod distinct;
pub(crate) mod dstream;
mod each_event;
pub(crate) mod event_time;
pub(crate) mod explain;
pub(crate) mod extreme;
pub(crate) mod far_times;
mod fit_list;
mod fold;
pub(crate) mod format;
pub(crate) mod function;
pub(crate) mod graph;
pub(crate) mod history;
pub(crate) mod initial;
pub(crate) mod join;
pub(crate) mod join_within;
pub(crate) mod key_state;
pub(crate) mod keyed;
pub(crate) mod lifetime;
mod nulls;
pub(crate) mod object_url;
pub(crate) mod order;
pub(crate) mod output;
mod pairs;
pub(crate) mod partitions;
pub(crate) mod quiet;
pub mod record;
mod reduce_by_window;
pub(crate) mod rejects;
pub(crate) mod relational;
pub(crate) mod result_rows;
pub(crate) mod rows;
mod session_rows;
pub(crate) mod session_rule;
pub(crate) mod sessions;
pub(crate) mod slack;
pub(crate) mod state;
pub mod text;
pub(crate) mod timetable;
pub(crate) mod track;
pub(crate) mod tracker;
pub(crate) mod tried;
mod window;
mod window_without_keys;
pub(crate) mod with_state;
mod with_time;

use crate::error::{Error, Operator, Result};

/// Refuses to combine D-Streams of two contexts.
pub(crate) fn same_context(
    one: &graph::GraphRef,
    other: &graph::GraphRef,
    at: &Operator,
) -> Result<()> {
    if one.same(other) {
        return Ok(());
    }
    Err(Error::Graph {
        operator: at.clone(),
        message: "its inputs belong to different stream contexts; build them from one".into(),
    })
}
