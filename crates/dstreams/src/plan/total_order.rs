//! [`first_rows`]: the first rows of an order, independent of how the rows are cut into batches.
//!
//! A sort with a limit skips rows that cannot be among the first. The engine decides that by comparing values, for
//! which the two zeros of a floating-point number are equal, but orders rows by bits, for which they differ:
//! whether a zero was in the result depended on the batches. So such columns are ordered by integers in the order
//! of their bits.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int32Type, Int64Type, Schema,
};
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

/// Sorts `input`; with a limit it returns only the first rows of each partition.
pub(super) fn first_rows(
    order: LexOrdering,
    input: Arc<dyn ExecutionPlan>,
    fetch: Option<usize>,
) -> SortExec {
    let exact = |by: &PhysicalSortExpr| {
        let schema = input.schema();
        match by.expr.data_type(&schema) {
            Ok(DataType::Float32 | DataType::Float64) => PhysicalSortExpr {
                expr: Arc::new(BitOrder(Arc::clone(&by.expr))),
                options: by.options,
            },
            _ => by.clone(),
        }
    };
    let by = fetch.and_then(|_| LexOrdering::new(order.iter().map(exact)));
    SortExec::new(by.unwrap_or(order), input).with_fetch(fetch)
}

/// The order before [`first_rows`], for merging its partitions.
pub(super) fn of_values(order: &LexOrdering) -> Option<LexOrdering> {
    let plain = |by: &PhysicalSortExpr| match by.expr.downcast_ref::<BitOrder>() {
        Some(exact) => PhysicalSortExpr {
            expr: Arc::clone(&exact.0),
            options: by.options,
        },
        None => by.clone(),
    };
    LexOrdering::new(order.iter().map(plain))
}

/// Integers in the order of the bits of a floating-point number: -NaN, negative numbers, -0, 0, positive ones, NaN.
#[derive(Debug, Clone, Eq)]
struct BitOrder(Arc<dyn PhysicalExpr>);

impl PartialEq for BitOrder {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq(&other.0)
    }
}

impl Hash for BitOrder {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Display for BitOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bits({})", self.0)
    }
}

impl PhysicalExpr for BitOrder {
    fn data_type(&self, schema: &Schema) -> EngineResult<DataType> {
        Ok(match self.0.data_type(schema)? {
            DataType::Float32 => DataType::Int32,
            _ => DataType::Int64,
        })
    }

    fn nullable(&self, schema: &Schema) -> EngineResult<bool> {
        self.0.nullable(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> EngineResult<ColumnarValue> {
        let values = self.0.evaluate(batch)?.into_array(batch.num_rows())?;
        let bits: ArrayRef = match values.data_type() {
            DataType::Float32 => {
                let values = values.as_primitive::<Float32Type>();
                Arc::new(values.unary::<_, Int32Type>(|value| {
                    let bits = value.to_bits() as i32;
                    bits ^ ((bits >> 31) as u32 >> 1) as i32
                }))
            }
            _ => {
                let values = values.as_primitive::<Float64Type>();
                Arc::new(values.unary::<_, Int64Type>(|value| {
                    let bits = value.to_bits() as i64;
                    bits ^ ((bits >> 63) as u64 >> 1) as i64
                }))
            }
        };
        Ok(ColumnarValue::Array(bits))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.0]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> EngineResult<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(BitOrder(children.swap_remove(0))))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bits({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Array, Float64Array, Int64Array};
    use datafusion::arrow::compute::SortOptions;
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::physical_plan::{collect, expressions::Column};
    use datafusion::prelude::SessionContext;

    use super::*;

    /// -0 is in one batch and 0 in the next: the greater one is found in either order.
    #[tokio::test]
    async fn signed_zeros_are_distinguished_across_batches() {
        for batches in [[-0.0, 0.0], [0.0, -0.0]] {
            let batch = |value: f64| {
                let values: ArrayRef = Arc::new(Float64Array::from(vec![value]));
                RecordBatch::try_from_iter([("x", values)]).unwrap()
            };
            let batches: Vec<_> = batches.into_iter().map(batch).collect();
            let schema = batches[0].schema();
            let input = MemorySourceConfig::try_new_exec(&[batches], schema, None).unwrap();
            let options = SortOptions {
                descending: true,
                nulls_first: false,
            };
            let expr = Arc::new(Column::new("x", 0)) as _;
            let order = LexOrdering::new([PhysicalSortExpr { expr, options }]).unwrap();
            let sort = Arc::new(first_rows(order, input, Some(1)));
            let rows = collect(sort, SessionContext::new().task_ctx())
                .await
                .unwrap();
            let first = rows[0].column(0).as_primitive::<Float64Type>().value(0);
            assert_eq!(first.to_bits(), 0.0_f64.to_bits());
        }
    }

    #[test]
    fn bits_have_the_order_of_all_numbers() {
        let values = [
            -f64::NAN,
            f64::NEG_INFINITY,
            f64::MIN,
            -1.5,
            -0.0,
            0.0,
            1.5,
            f64::MAX,
            f64::INFINITY,
            f64::NAN,
        ];
        let column: ArrayRef = Arc::new(Float64Array::from(values.to_vec()));
        let rows = RecordBatch::try_from_iter([("x", column)]).unwrap();
        let bits = BitOrder(Arc::new(Column::new("x", 0)))
            .evaluate(&rows)
            .unwrap();
        let bits = bits.into_array(values.len()).unwrap();
        let bits = bits.as_any().downcast_ref::<Int64Array>().unwrap();
        assert!(bits.values().is_sorted_by(|a, b| a < b), "{bits:?}");
    }
}
