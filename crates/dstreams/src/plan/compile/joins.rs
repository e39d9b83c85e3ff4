//! Operators over the keys of several inputs, each key in the same partition of all; a state may be one of them.

use std::sync::Arc;

use super::{Compiler, ExecPlan};
use crate::error::Result;
use crate::plan::cut::partitions;
use crate::plan::exec_node::internal;
use crate::plan::template::{Probe, ProbeStep, Step};
use crate::stream::graph::{NodeId, Op, View};
use crate::stream::with_state::ProbeOp;

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

    /// Adds the step that looks up the keys of the first input in the second, a state; returns the plan that reads its
    /// rows.
    pub(super) fn probe(&mut self, id: NodeId, op: ProbeOp) -> Result<ExecPlan> {
        let node = self.graph.node(id);
        let [rows, state] = node.inputs[..] else {
            return Ok(internal("a lookup without a state".into())?);
        };
        self.state_of(state)?;
        let Some((number, after)) = self.steps_of.get(&state).copied() else {
            return Ok(internal(format!("{state:?} has no step"))?);
        };
        let plan = self.shared(rows)?;
        let route = self.by_keys(&plan.schema(), op.keys);
        let (from, parts) = self.stage(plan, route, id);
        let (into, schema) = (self.slot(), Arc::clone(&node.schema));
        self.steps.push(Step::Probe(ProbeStep {
            state: number,
            from,
            after,
            into,
            probe: Probe {
                schema: Arc::clone(&schema),
                as_of: op.as_of,
                marked: op.marked,
            },
            at: node.timetable(),
            operator: node.operator.clone(),
        }));
        Ok(self.scan(into, schema, parts))
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
            Op::Probe(probe) => probe.keys == keys,
            Op::StateView(view) => *view != View::Mapped && self.is_by_key(node.inputs[0], keys),
            Op::Rows(rows) => {
                rows.unchanged_columns() >= keys && self.is_by_key(node.inputs[0], keys)
            }
            _ => false,
        }
    }
}
