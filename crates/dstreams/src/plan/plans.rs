//! [`Plans`]: the templates of a program.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::compile::compile;
use super::template::{StateSpec, Template};
use crate::debug::debug_as;
use crate::error::Result;
use crate::stream::graph::Graph;
use crate::stream::rejects::Readers;

/// A program's graph as templates: a small batch runs as one task and needs no exchange.
pub struct Plans {
    one: Arc<Template>,
    many: Arc<Template>,
    /// The number of tasks of a large batch, and of partitions of keyed data.
    pub tasks: usize,
    /// The specification of each state.
    pub states: Vec<StateSpec>,
    rejects: Vec<Arc<Readers>>,
}

debug_as!(Plans { tasks });

impl Plans {
    /// Plans `graph` for batches that run as one task or as `tasks` of them.
    pub(crate) fn new(graph: &Graph, tasks: usize, rows_per_batch: usize) -> Result<Self> {
        let plan = |count| compile(graph, count, tasks, rows_per_batch);
        let (one, states) = plan(1)?;
        let (many, _) = plan(tasks)?;
        Ok(Plans {
            one: Arc::new(one),
            many: Arc::new(many),
            tasks,
            states,
            rejects: graph.rejects.clone(),
        })
    }

    /// The template for batches with several tasks, or with one.
    pub fn of(&self, many: bool) -> &Arc<Template> {
        if many { &self.many } else { &self.one }
    }

    /// The number of records that operators rejected in this process and that nothing has read, by operator.
    pub fn rejected(&self) -> BTreeMap<String, u64> {
        let rejects = self.rejects.iter();
        rejects.filter_map(|readers| readers.missed()).collect()
    }
}
