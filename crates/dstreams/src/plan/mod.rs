//! Plan: the graph becomes steps that are planned once and run for every batch.
//!
//! **In**: the graph, the number of map tasks. **Out**: a [`Template`]: stages of DataFusion plans
//! that read datasets by reference, cut where rows change partitions, where windows keep state and
//! where several readers share a D-Stream. **Promise**: no SQL and no optimiser runs for a batch;
//! the order of rows in every dataset follows from the batch alone. **On failure**: an error that
//! names the operator, before the first batch.

mod aggregate;
mod apply;
mod combine;
mod compile;
mod cut;
mod datasets;
mod held;
mod node;
mod plans;
mod reads;
mod reduce;
mod relation;
mod route;
mod template;
mod total_order;

pub use datasets::{Datasets, Partitions, Slot};
#[cfg(test)]
pub(crate) use held::Views;
pub use plans::Plans;
pub use reads::Read;
pub use route::split_by_route;
pub(crate) use template::Update;
pub use template::{KeyedSpec, Route, Stage, StateSpec, StateStep, Step, Template, WindowSpec};
