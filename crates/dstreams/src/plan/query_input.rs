//! Inputs of a query: tables whose scan is a placeholder, replaced by the input's own plan.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::Result as EngineResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, PlanProperties};

use super::aggregate::column;
use super::exec_node::{internal, leaf_node, properties};

/// An input of a query.
#[derive(Debug)]
pub(super) struct InputTable {
    pub input: usize,
    pub schema: SchemaRef,
    pub partitions: usize,
}

#[async_trait]
impl TableProvider for InputTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> EngineResult<Arc<dyn ExecutionPlan>> {
        let input: Arc<dyn ExecutionPlan> = Arc::new(InputExec {
            input: self.input,
            properties: properties(Arc::clone(&self.schema), self.partitions),
        });
        let Some(chosen) = projection else {
            return Ok(input);
        };
        let columns = chosen.iter().map(|at| {
            let name = self.schema.field(*at).name();
            (column(name, *at), name.clone())
        });
        let columns: Vec<_> = columns.collect();
        Ok(Arc::new(ProjectionExec::try_new(columns, input)?))
    }
}

/// Stands for an input while a query is planned.
#[derive(Debug)]
pub(super) struct InputExec {
    pub input: usize,
    properties: Arc<PlanProperties>,
}

impl InputExec {
    fn run(&self, _: usize, _: Arc<TaskContext>) -> EngineResult<SendableRecordBatchStream> {
        internal(format!("input {} of a query was not replaced", self.input))
    }
}

leaf_node!(InputExec, |input: &InputExec| format!(
    "input={}",
    input.input
));
