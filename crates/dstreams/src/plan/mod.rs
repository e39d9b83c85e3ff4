//! Plan: compiles the graph to steps that are planned once and run for every batch.
//!
//! **In**: the graph, the number of map tasks. **Out**: a [`Template`]: stages of DataFusion plans that read
//! datasets by reference, cut where rows change partitions, where windows have state and where several readers
//! share a D-Stream. **Promise**: no SQL and no optimiser runs for a batch; the order of rows in every dataset
//! depends on the batch alone. **On failure**: an error that names the operator, before the first batch.

mod aggregate;
mod apply;
mod by_time;
mod cogroup;
mod compile;
mod cut;
mod datasets;
mod exec_node;
mod group_exec;
mod history;
mod join;
mod key_groups;
mod plans;
mod query_input;
mod reads;
mod reduce;
mod route;
mod sessions;
pub(crate) mod split;
mod state_views;
mod template;
mod total_order;

pub(crate) use by_time::ByTimeSpec;
pub use datasets::{Datasets, Partitions, Slot};
pub use history::HistorySpec;
pub use plans::Plans;
pub use reads::Read;
pub use route::{deal, split_by_route};
#[cfg(test)]
pub(crate) use sessions::session_state_schema;
pub(crate) use sessions::{session_parts, session_results};
#[cfg(test)]
pub(crate) use state_views::Views;
pub(crate) use template::Update;
pub use template::{
    KeyedSpec, Probe, ProbeStep, Route, Stage, StateSpec, StateStep, Step, Template, WindowSpec,
};
