//! Aggregates as DataFusion plans: partial results, merging them, and final results.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, RecordBatchOptions,
};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::kernels::numeric::div;
use datafusion::arrow::compute::{binary, cast, nullif};
use datafusion::arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, Float64Type, Int64Type, SchemaRef,
    UInt64Type,
};
use datafusion::common::ScalarValue;
use datafusion::functions_aggregate::{count, sum, variance};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::{self, Column, Literal};
use datafusion::physical_plan::aggregates::{
    AggregateExec, AggregateInputMode, AggregateMode, PhysicalGroupBy,
};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use dstreams_control::BatchTime;

use super::group_exec::group;
use crate::error::{Error, Result};
use crate::stream::agg::{AggPart, AggPlan, Finish, Function};
use crate::stream::extreme::{greatest, least};
use crate::stream::rows::{RowsFn, RowsTask};

/// Aggregation of `input` by its first `keys` columns.
pub(super) struct Aggregation<'a> {
    pub keys: usize,
    pub plan: &'a AggPlan,
    /// The columns before aggregation.
    pub input: SchemaRef,
}

impl Aggregation<'_> {
    /// Partial results of each partition of `input`.
    pub fn partial(&self, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        self.exec(AggregateMode::Partial, input)
    }

    /// The results of the records of one partition.
    pub fn single(&self, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        // Moments are results in the form of the state, not as the final variance.
        match self.has_moments() {
            true => {
                let partial = self.exec(AggregateMode::Partial, input)?;
                self.exec(AggregateMode::PartialReduce, partial)
            }
            false => self.exec(AggregateMode::Single, input),
        }
    }

    /// The results of each partition, from partial ones.
    pub fn last(&self, partial: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        match self.has_moments() {
            true => self.exec(AggregateMode::PartialReduce, partial),
            false => self.exec(AggregateMode::FinalPartitioned, partial),
        }
    }

    fn has_moments(&self) -> bool {
        let mut parts = self.plan.parts.iter();
        parts.any(|part| part.function == Function::Moments)
    }

    /// The aggregation in one mode: over records, or over partial results.
    fn exec(
        &self,
        mode: AggregateMode,
        input: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let fields = self.input.fields()[..self.keys].iter().enumerate();
        let keys = fields.map(|(at, field)| (column(field.name(), at), field.name().clone()));
        let by = PhysicalGroupBy::new_single(keys.collect());
        let over_partial = mode.input_mode() == AggregateInputMode::Partial;
        let by = if over_partial { by.as_final() } else { by };
        let parts = self.plan.parts.iter().enumerate();
        let parts = parts.map(|(at, part)| self.part(at, part));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let filters = vec![None; parts.len()];
        let schema = Arc::clone(&self.input);
        let aggregate = AggregateExec::try_new(mode, by, parts, filters, input, schema)?;
        let grouped = group(&aggregate)?;
        Ok(grouped.unwrap_or_else(|| Arc::new(aggregate)))
    }

    fn part(&self, at: usize, part: &AggPart) -> Result<Arc<AggregateFunctionExpr>> {
        let function = match part.function {
            Function::Count => count::count_udaf(),
            Function::Sum | Function::High | Function::Rough => sum::sum_udaf(),
            Function::Min => least(),
            Function::Max => greatest(),
            Function::Moments => variance::var_samp_udaf(),
        };
        let argument: Arc<dyn PhysicalExpr> = match &part.column {
            Some(name) => column(name, self.input.index_of(name)?),
            None => Arc::new(Literal::new(ScalarValue::Int64(Some(1)))),
        };
        let argument = match part.function {
            Function::Sum => widened(argument, &self.input)?,
            Function::High => high_half(argument, &self.input)?,
            Function::Moments | Function::Rough => {
                cast_to(argument, &self.input, DataType::Float64)?
            }
            _ => argument,
        };
        let argument = match part.function {
            Function::Count => argument,
            function => without_nulls(argument, function, &self.input)?,
        };
        let part = AggregateExprBuilder::new(function, vec![argument])
            .schema(Arc::clone(&self.input))
            .alias(format!("part{at}"))
            .build()?;
        Ok(Arc::new(part))
    }
}

/// Sums have 64 bits, and those of decimal numbers 38 digits: see `Number::Sum`.
fn widened(argument: Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
    let wide = match argument.data_type(schema)? {
        kind if kind.is_signed_integer() => DataType::Int64,
        kind if kind.is_unsigned_integer() => DataType::UInt64,
        DataType::Decimal128(_, points) => DataType::Decimal128(DECIMAL128_MAX_PRECISION, points),
        _ => DataType::Float64,
    };
    cast_to(argument, schema, wide)
}

/// The high half of a 64-bit integer, rounded to nearest: the remainder is in -2^31 to 2^31 - 1, so that both
/// halves of many values can be summed without wrapping.
fn high_half(of: Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
    let kind = of.data_type(schema)?;
    let with = |left, op, number| {
        let number = ScalarValue::Int64(Some(number)).cast_to(&kind)?;
        expressions::binary(left, op, Arc::new(Literal::new(number)), schema)
    };
    let twice = with(of, Operator::BitwiseShiftRight, 31)?;
    let rounded = with(twice, Operator::Plus, 1)?;
    Ok(with(rounded, Operator::BitwiseShiftRight, 1)?)
}

/// A sum as a floating-point number. A sum of 64-bit integers is reconstructed from its low 64 bits and the sum of
/// high halves.
fn float_sum(sum: &ArrayRef, high: Option<&ArrayRef>) -> Result<ArrayRef> {
    let Some(high) = high else {
        return Ok(cast(sum, &DataType::Float64)?);
    };
    let whole = |high: i128, sum: i64| {
        let low = sum.wrapping_sub((high as i64) << 32);
        ((high << 32) + i128::from(low)) as f64
    };
    let sums: Float64Array = match (sum.as_primitive_opt(), high.as_primitive_opt()) {
        (Some(sum), Some(high)) => {
            binary::<Int64Type, Int64Type, _, _>(sum, high, |sum, high| whole(high.into(), sum))?
        }
        _ => {
            let (sum, high) = (sum.as_primitive(), high.as_primitive());
            binary::<UInt64Type, UInt64Type, _, _>(sum, high, |sum, high| {
                whole(high.into(), sum as i64)
            })?
        }
    };
    Ok(Arc::new(sums))
}

/// The argument, with a value that does not change the result of `function` in the place of nulls. Types without such
/// a value, such as text, are not stored from batch to batch: there DataFusion's own functions pass over nulls.
fn without_nulls(
    argument: Arc<dyn PhysicalExpr>,
    function: Function,
    schema: &SchemaRef,
) -> Result<Arc<dyn PhysicalExpr>> {
    if !argument.nullable(schema)? {
        return Ok(argument);
    }
    let kind = argument.data_type(schema)?;
    let neutral = match (function, &kind) {
        // A sum of nothing but `-0.0` is `-0.0`.
        (Function::Sum | Function::Rough, DataType::Float64) => {
            Some(ScalarValue::Float64(Some(-0.0)))
        }
        (Function::Sum | Function::High | Function::Rough, _) => {
            Some(ScalarValue::new_zero(&kind)?)
        }
        // `NaN` is the greatest.
        (Function::Min, DataType::Float64) => Some(ScalarValue::Float64(Some(f64::NAN))),
        (Function::Min, DataType::Float32) => Some(ScalarValue::Float32(Some(f32::NAN))),
        (Function::Min, kind) => ScalarValue::max(kind),
        (Function::Max, kind) => ScalarValue::min(kind),
        (Function::Count | Function::Moments, _) => None,
    };
    let Some(neutral) = neutral else {
        return Ok(argument);
    };
    let is = expressions::is_not_null(Arc::clone(&argument))?;
    let neutral: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(neutral));
    Ok(expressions::case(
        None,
        vec![(is, argument)],
        Some(neutral),
    )?)
}

/// Fails if a sum has more digits than its type: DataFusion's wraps around beyond 128 bits. A floating-point sum of
/// the same values is far from those that 128 bits hold, if it did.
fn check_decimal(name: &str, sums: &ArrayRef, rough: &ArrayRef) -> Result<()> {
    const WRAPPED: f64 = 1.5e38;
    let most = 10i128.pow(DECIMAL128_MAX_PRECISION.into()) - 1;
    let DataType::Decimal128(_, points) = sums.data_type() else {
        return Ok(());
    };
    let unit = 10f64.powi((*points).into());
    let (sums, rough) = (
        sums.as_primitive::<Decimal128Type>(),
        rough.as_primitive::<Float64Type>(),
    );
    let mut pairs = sums.values().iter().zip(rough.values());
    let beyond = |(sum, rough): &(&i128, &f64)| {
        rough.abs() * unit > WRAPPED || sum.unsigned_abs() > most.unsigned_abs()
    };
    match pairs.find(beyond) {
        None => Ok(()),
        Some((_, rough)) => Err(Error::Schema {
            what: format!("a sum of decimal numbers, column `{name}` of the result"),
            expected: format!("{DECIMAL128_MAX_PRECISION} digits at most"),
            found: format!(
                "about {rough:e}; sum numbers with fewer digits behind the point, or `f64`"
            ),
        }),
    }
}

/// The results, null where the count of values is zero.
fn none_without_values(results: ArrayRef, count: &ArrayRef) -> Result<ArrayRef> {
    let counts = count.as_primitive::<Int64Type>().values();
    if counts.iter().all(|count| *count != 0) {
        return Ok(results);
    }
    let none: BooleanBuffer = counts.iter().map(|count| *count == 0).collect();
    Ok(nullif(&results, &BooleanArray::new(none, None))?)
}

fn cast_to(
    argument: Arc<dyn PhysicalExpr>,
    schema: &SchemaRef,
    kind: DataType,
) -> Result<Arc<dyn PhysicalExpr>> {
    Ok(expressions::cast(argument, schema, kind)?)
}

pub(super) fn column(name: &str, at: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(name, at))
}

/// Computes the results of an aggregate from its parts, with the columns of `schema`.
#[derive(Clone)]
pub(super) struct Results {
    pub keys: usize,
    pub finish: Vec<Finish>,
    pub schema: SchemaRef,
}

impl RowsFn for Results {
    fn start(&self, _: BatchTime) -> Box<dyn RowsTask> {
        Box::new(self.clone())
    }
}

impl RowsTask for Results {
    fn run(&mut self, rows: &RecordBatch, _: usize, _: usize) -> Result<(RecordBatch, usize)> {
        let columns = self.columns(rows)?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let schema = Arc::clone(&self.schema);
        let results = RecordBatch::try_new_with_options(schema, columns, &options)?;
        Ok((results, rows.num_rows()))
    }
}

impl Results {
    /// The keys and the results.
    pub fn columns(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let mut columns: Vec<ArrayRef> = rows.columns()[..self.keys].to_vec();
        for finish in &self.finish {
            let name = self
                .schema
                .fields()
                .get(columns.len())
                .map(|field| field.name());
            columns.push(match finish {
                Finish::Part(part) => Arc::clone(rows.column(self.keys + part)),
                Finish::Some { part, count } => {
                    let results = Arc::clone(rows.column(self.keys + part));
                    none_without_values(results, rows.column(self.keys + count))?
                }
                Finish::Decimal { sum, rough, count } => {
                    let part = |part: &usize| rows.column(self.keys + part);
                    check_decimal(
                        name.map_or("", |name| name.as_str()),
                        part(sum),
                        part(rough),
                    )?;
                    match count {
                        Some(count) => none_without_values(Arc::clone(part(sum)), part(count))?,
                        None => Arc::clone(part(sum)),
                    }
                }
                Finish::Mean { sum, high, count } => {
                    let part = |part: &usize| rows.column(self.keys + part);
                    let high = high.as_ref().map(part);
                    let means = div(
                        &float_sum(part(sum), high)?,
                        &cast(part(count), &DataType::Float64)?,
                    )?;
                    none_without_values(means, part(count))?
                }
                Finish::Variance {
                    moments,
                    sample,
                    root,
                } => {
                    let [count, _, squares] = [0, 1, 2].map(|at| self.keys + moments + at);
                    let count = rows.column(count).as_primitive::<UInt64Type>().values();
                    let squares = rows.column(squares).as_primitive::<Float64Type>().values();
                    let variance = |(count, squares): (&u64, &f64)| {
                        let count = count - u64::from(*sample && *count > 0);
                        let variance = squares / count as f64;
                        let result = if *root { variance.sqrt() } else { variance };
                        (count > 0).then_some(result)
                    };
                    let rows = count.iter().zip(squares);
                    Arc::new(rows.map(variance).collect::<Float64Array>())
                }
            });
        }
        Ok(columns)
    }
}
