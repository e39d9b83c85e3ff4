//! Operators over the keys of several inputs, each key in the same partition of all.

use super::{Compiler, ExecPlan};
use crate::error::Result;
use crate::plan::cut::partitions;
use crate::stream::graph::{NodeId, Op, View};

impl Compiler<'_> {
    /// The plans of a node's inputs. They have as many partitions, and equal keys are in the same one of each.
    pub(super) fn inputs_by_key(&mut self, id: NodeId, keys: usize) -> Result<Vec<ExecPlan>> {
        let inputs = self.graph.node(id).inputs.clone();
        let mut plans = Vec::with_capacity(inputs.len());
        for input in &inputs {
            plans.push(self.shared(*input)?);
        }
        if plans.iter().all(|plan| partitions(plan) == 1) {
            return Ok(plans);
        }
        let split = plans.into_iter().zip(inputs).map(|(plan, input)| {
            if partitions(&plan) == self.parts && self.is_by_key(input, keys) {
                return plan;
            }
            let route = self.by_keys(&plan.schema(), keys);
            self.exchange(plan, route, id)
        });
        Ok(split.collect())
    }

    /// Whether a node that has as many partitions as a state has them by its first `keys` columns: another exchange
    /// would move no row.
    fn is_by_key(&self, id: NodeId, keys: usize) -> bool {
        let node = self.graph.node(id);
        match &node.op {
            Op::Window { keys: of, .. } | Op::Running { keys: of, .. } => *of == keys,
            Op::Tracked { keys: of, .. } => *of == keys,
            // Of one partition they have one, and are not split.
            Op::Aggregate { keys: of, .. } | Op::Reduce { keys: of, .. } => *of == keys,
            Op::Join(join) => join.keys == keys,
            Op::Cogroup { keys: of } => *of == keys,
            Op::Held(view) => *view != View::Mapped && self.is_by_key(node.inputs[0], keys),
            Op::Rows(rows) => rows.keys_kept() >= keys && self.is_by_key(node.inputs[0], keys),
            _ => false,
        }
    }
}
