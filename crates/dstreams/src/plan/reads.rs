//! The partitions of datasets that each task of a stage reads.

use datafusion::physical_expr::Distribution;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;

use super::cut::partitions;
use super::datasets::{DatasetScanExec, Slot};
use super::exec_node::internal;
use super::template::Stage;
use crate::error::Result;

type PlanRef = std::sync::Arc<dyn ExecutionPlan>;

/// A partition of a dataset that a task reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    pub slot: Slot,
    pub partition: usize,
    /// Whether every task of the stage reads it: the collected side of a join.
    pub whole: bool,
}

impl Stage {
    /// The partitions that each task reads.
    pub fn reads(&self) -> Result<Vec<Vec<Read>>> {
        reads(&self.plan)
    }
}

fn reads(plan: &PlanRef) -> Result<Vec<Vec<Read>>> {
    let count = partitions(plan);
    if let Some(scan) = plan.downcast_ref::<DatasetScanExec>() {
        let read = |partition| Read {
            slot: scan.slot(),
            partition,
            whole: false,
        };
        return Ok((0..count).map(|partition| vec![read(partition)]).collect());
    }
    if plan.is::<UnionExec>() {
        let mut tasks = Vec::new();
        for child in plan.children() {
            tasks.extend(reads(child)?);
        }
        return Ok(tasks);
    }
    let mut tasks = vec![Vec::new(); count];
    let needs = plan.input_distribution_requirements();
    for (child, need) in plan
        .children()
        .into_iter()
        .zip(needs.per_child_distributions())
    {
        let below = reads(child)?;
        if below.len() == count && count > 1 && !matches!(need, Distribution::SinglePartition) {
            for (task, below) in tasks.iter_mut().zip(below) {
                task.extend(below);
            }
        } else if let [one] = below.as_slice() {
            for task in &mut tasks {
                let whole = |read: &Read| Read {
                    whole: read.whole || count > 1,
                    ..*read
                };
                task.extend(one.iter().map(whole));
            }
        } else if count == 1 {
            // It merges the partitions below.
            tasks[0].extend(below.into_iter().flatten());
        } else {
            let (name, below) = (plan.name(), below.len());
            return Ok(internal(format!(
                "{name} has {count} partition(s) over {below}"
            ))?);
        }
    }
    Ok(tasks)
}
