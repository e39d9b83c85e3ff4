//! Least and greatest values of floating-point numbers by a total order: `NaN` is greater than all others.
//!
//! DataFusion's grouped versions start from the largest finite numbers and accept any number after a `NaN`: an
//! infinity comes back finite, and the result depends on the order of rows. These give the same result for any order
//! of rows, number of tasks and split into batches, grouped or not, in [`agg`](super::agg) and in queries. Other
//! types are left to DataFusion.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray,
};
use datafusion::arrow::datatypes::{
    ArrowNativeTypeOp, DataType, Field, FieldRef, Float16Type, Float32Type, Float64Type,
};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::logical_expr::expr::WindowFunctionDefinition;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, Expr, GroupsAccumulator, LogicalPlan,
    ReversedUDAF, SetMonotonicity, Signature, StatisticsArgs,
};
use datafusion::prelude::SessionContext;
use datafusion::scalar::ScalarValue;

static MIN: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| Extreme::of(min_udaf(), false));
static MAX: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| Extreme::of(max_udaf(), true));

/// The least value.
pub(crate) fn least() -> Arc<AggregateUDF> {
    Arc::clone(&MIN)
}

/// The greatest value.
pub(crate) fn greatest() -> Arc<AggregateUDF> {
    Arc::clone(&MAX)
}

/// Registers these as the `min` and `max` of a session's queries.
pub(crate) fn register_extremes(session: &SessionContext) {
    session.register_udaf(least().as_ref().clone());
    session.register_udaf(greatest().as_ref().clone());
}

/// Replaces DataFusion's own in the plan: DataFrames use those without asking their session.
pub(super) fn in_place_of_others(plan: LogicalPlan) -> Result<LogicalPlan> {
    let ours = |name: &str| match name {
        "min" => Some(least()),
        "max" => Some(greatest()),
        _ => None,
    };
    let replace = |expr: Expr| {
        Ok(match expr {
            Expr::AggregateFunction(mut call) => match ours(call.func.name()) {
                Some(func) => {
                    call.func = func;
                    Transformed::yes(Expr::AggregateFunction(call))
                }
                None => Transformed::no(Expr::AggregateFunction(call)),
            },
            Expr::WindowFunction(mut call) => match ours(call.fun.name()) {
                Some(func) => {
                    call.fun = WindowFunctionDefinition::AggregateUDF(func);
                    Transformed::yes(Expr::WindowFunction(call))
                }
                None => Transformed::no(Expr::WindowFunction(call)),
            },
            other => Transformed::no(other),
        })
    };
    let plan = plan.transform_up_with_subqueries(|node| {
        node.map_expressions(|expr| expr.transform_up(replace))
    })?;
    Ok(plan.data)
}

/// Least or greatest value of a column of floating-point numbers, by a total order: NaN is greater than all others.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Extreme {
    /// DataFusion's function, for all other types.
    other: Arc<AggregateUDF>,
    greatest: bool,
}

impl Extreme {
    fn of(other: Arc<AggregateUDF>, greatest: bool) -> Arc<AggregateUDF> {
        Arc::new(AggregateUDF::new_from_impl(Extreme { other, greatest }))
    }
}

impl AggregateUDFImpl for Extreme {
    fn name(&self) -> &str {
        self.other.name()
    }

    fn signature(&self) -> &Signature {
        self.other.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.other.return_type(arguments)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.other.coerce_types(arguments)
    }

    fn state_fields(&self, arguments: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let kind = arguments.return_type().clone();
        let name = format!("{}[value]", arguments.name);
        Ok(vec![Arc::new(Field::new(name, kind, true))])
    }

    fn accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let inner = self.other.accumulator(arguments)?;
        Ok(Box::new(OneNan(inner)))
    }

    fn create_sliding_accumulator(
        &self,
        arguments: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn Accumulator>> {
        let inner = self.other.create_sliding_accumulator(arguments)?;
        Ok(Box::new(OneNan(inner)))
    }

    fn groups_accumulator_supported(&self, arguments: AccumulatorArgs<'_>) -> bool {
        self.other.groups_accumulator_supported(arguments)
    }

    fn create_groups_accumulator(
        &self,
        arguments: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        let greatest = self.greatest;
        match arguments.return_field.data_type() {
            DataType::Float64 => Ok(Box::new(Groups::<Float64Type>::new(greatest))),
            DataType::Float32 => Ok(Box::new(Groups::<Float32Type>::new(greatest))),
            DataType::Float16 => Ok(Box::new(Groups::<Float16Type>::new(greatest))),
            _ => self.other.create_groups_accumulator(arguments),
        }
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn value_from_stats(&self, arguments: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        // Statistics of files omit `NaN`.
        match arguments.return_type.is_floating() {
            true => None,
            false => self.other.value_from_stats(arguments),
        }
    }

    fn set_monotonicity(&self, kind: &DataType) -> SetMonotonicity {
        self.other.inner().set_monotonicity(kind)
    }
}

/// Columns in which all `NaN`s are the same one.
fn one_nan(columns: &[ArrayRef]) -> Vec<ArrayRef> {
    fn of<P: ArrowPrimitiveType>(column: &ArrayRef) -> ArrayRef
    where
        P::Native: ArrowNativeTypeOp,
    {
        Arc::new(column.as_primitive::<P>().unary::<_, P>(canonical))
    }
    let columns = columns.iter().map(|column| match column.data_type() {
        DataType::Float64 => of::<Float64Type>(column),
        DataType::Float32 => of::<Float32Type>(column),
        DataType::Float16 => of::<Float16Type>(column),
        _ => Arc::clone(column),
    });
    columns.collect()
}

/// Replaces every `NaN` by one: zero divided by zero has either sign, and the sign makes it the least or the
/// greatest.
#[inline]
fn canonical<N: ArrowNativeTypeOp + PartialOrd>(value: N) -> N {
    match value.partial_cmp(&value) {
        Some(_) => value,
        None => N::MAX_TOTAL_ORDER,
    }
}

/// DataFusion's accumulator, whose order is total, over columns with a single `NaN`.
#[derive(Debug)]
struct OneNan(Box<dyn Accumulator>);

impl Accumulator for OneNan {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.update_batch(&one_nan(values))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.0.evaluate()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.0.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0.merge_batch(&one_nan(states))
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.retract_batch(&one_nan(values))
    }

    fn supports_retract_batch(&self) -> bool {
        self.0.supports_retract_batch()
    }
}

/// The extreme values of groups; `None` for a group without values.
struct Groups<P: ArrowPrimitiveType> {
    greatest: bool,
    values: Vec<Option<P::Native>>,
}

impl<P: ArrowPrimitiveType> Groups<P>
where
    P::Native: ArrowNativeTypeOp,
{
    fn new(greatest: bool) -> Self {
        Groups {
            greatest,
            values: Vec::new(),
        }
    }

    fn take(&mut self, group: usize, value: P::Native) {
        let best = &mut self.values[group];
        let better = match *best {
            None => true,
            Some(best) if self.greatest => value.is_gt(best),
            Some(best) => value.is_lt(best),
        };
        if better {
            *best = Some(value);
        }
    }
}

impl<P: ArrowPrimitiveType> GroupsAccumulator for Groups<P>
where
    P::Native: ArrowNativeTypeOp + PartialOrd,
{
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.values.resize(total, None);
        let values = values[0].as_primitive::<P>();
        if values.null_count() == 0 && filter.is_none() {
            for (value, group) in values.values().iter().zip(groups) {
                self.take(*group, canonical(*value));
            }
            return Ok(());
        }
        for (row, group) in groups.iter().enumerate() {
            if values.is_valid(row) && passes(filter, row) {
                self.take(*group, canonical(values.value(row)));
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.update_batch(states, groups, None, total)
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let values = emit.take_needed(&mut self.values);
        Ok(Arc::new(PrimitiveArray::<P>::from_iter(values)))
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit)?])
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let Some(filter) = filter else {
            return Ok(one_nan(values));
        };
        let values = values[0].as_primitive::<P>().iter().enumerate();
        let values = values.map(|(row, value)| value.filter(|_| passes(Some(filter), row)));
        Ok(vec![Arc::new(
            values
                .map(|value| value.map(canonical))
                .collect::<PrimitiveArray<P>>(),
        )])
    }

    fn size(&self) -> usize {
        self.values.capacity() * size_of::<Option<P::Native>>()
    }
}

fn passes(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}
