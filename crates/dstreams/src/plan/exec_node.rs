//! Code shared by our nodes: DataFusion's `ExecutionPlan` needs the same lines in each.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::{Partitioning, PlanProperties};

/// The properties of a node that guarantees only its columns and number of partitions.
pub(crate) fn properties(schema: SchemaRef, partitions: usize) -> Arc<PlanProperties> {
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(schema),
        Partitioning::UnknownPartitioning(partitions),
        EmissionType::Incremental,
        Boundedness::Bounded,
    ))
}

/// An error for a broken invariant of ours.
pub(crate) fn internal<T>(message: String) -> Result<T> {
    Err(DataFusionError::Internal(message))
}

/// Implements `ExecutionPlan` for a node with a `properties` field and a `run` method. The second form is for a
/// node with one `input` and a `with_input` method, the third for one with `inputs` and a `with_inputs` method.
macro_rules! leaf_node {
    ($node:ident, $detail:expr) => {
        $crate::plan::exec_node::leaf_node!(@ $node, $detail,
            fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> { Vec::new() }
            fn with_new_children(
                self: Arc<Self>,
                _: Vec<Arc<dyn ExecutionPlan>>,
            ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
                Ok(self)
            }
        );
    };
    ($node:ident, input, $detail:expr) => {
        $crate::plan::exec_node::leaf_node!(@ $node, $detail,
            fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> { vec![&self.input] }
            fn with_new_children(
                self: Arc<Self>,
                children: Vec<Arc<dyn ExecutionPlan>>,
            ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
                match <[_; 1]>::try_from(children) {
                    Ok([input]) => Ok(Arc::new(self.with_input(input))),
                    Err(_) => $crate::plan::exec_node::internal("expected one child".into()),
                }
            }
        );
    };
    ($node:ident, inputs, $detail:expr) => {
        $crate::plan::exec_node::leaf_node!(@ $node, $detail,
            fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> { self.inputs.iter().collect() }
            fn with_new_children(
                self: Arc<Self>,
                children: Vec<Arc<dyn ExecutionPlan>>,
            ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
                match children.len() == self.inputs.len() {
                    true => Ok(Arc::new(self.with_inputs(children))),
                    false => $crate::plan::exec_node::internal("expected as many children".into()),
                }
            }
        );
    };
    (@ $node:ident, $detail:expr, $($children:tt)*) => {
        impl datafusion::physical_plan::DisplayAs for $node {
            fn fmt_as(
                &self,
                _: datafusion::physical_plan::DisplayFormatType,
                f: &mut std::fmt::Formatter<'_>,
            ) -> std::fmt::Result {
                let detail: fn(&$node) -> String = $detail;
                write!(f, "{}: {}", stringify!($node), detail(self))
            }
        }

        impl ExecutionPlan for $node {
            fn name(&self) -> &str { stringify!($node) }
            fn properties(&self) -> &Arc<PlanProperties> { &self.properties }
            fn apply_expressions(
                &self,
                _: &mut dyn FnMut(
                    &Arc<dyn datafusion::physical_plan::PhysicalExpr>,
                ) -> datafusion::error::Result<
                    datafusion::common::tree_node::TreeNodeRecursion,
                >,
            ) -> datafusion::error::Result<datafusion::common::tree_node::TreeNodeRecursion> {
                Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
            }
            fn execute(
                &self,
                partition: usize,
                context: Arc<TaskContext>,
            ) -> datafusion::error::Result<SendableRecordBatchStream> {
                self.run(partition, context)
            }
            $($children)*
        }
    };
}
pub(crate) use leaf_node;
