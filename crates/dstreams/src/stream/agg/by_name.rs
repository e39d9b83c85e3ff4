//! [`by_name`]: an aggregate by its SQL name.

use std::marker::PhantomData;

use datafusion::arrow::datatypes::{DataType, Field};

use super::{Agg, AggParts, Finish, Function};
use crate::debug::debug_as;
use crate::stream::record::Record;

/// The available functions.
const AVAILABLE: &str =
    "count, sum, min, max, avg, mean, var, var_samp, var_pop, stddev, stddev_samp, stddev_pop";

/// DataFusion's functions whose state grows with the values of a key.
const UNBOUNDED: [&str; 9] = [
    "array_agg",
    "count_distinct",
    "listagg",
    "median",
    "mode",
    "percentile_cont",
    "quantile_cont",
    "string_agg",
    "sum_distinct",
];

/// An aggregate by name: see [`by_name`].
pub struct ByName<O> {
    function: String,
    column: String,
    out: PhantomData<fn() -> O>,
}

debug_as!([O] ByName<O> { function, column });

/// DataFusion's aggregate `function` of the column `column` of the values ("" for single values): for programs that
/// get the function as a setting. `O` is the type of the result.
///
/// Sums are `i64`, `u64` or `f64`; `var_samp` and `stddev_samp` are `Option<f64>`.
///
/// Functions with unbounded state (a median, a list, a count of distinct values) are refused by name when the graph
/// is built, even within batches: there use a query ([`DStream::sql`](crate::DStream::sql)).
///
/// ```
/// use dstreams::{StreamContext, agg::by_name};
/// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
/// # let (_, prices) = ctx.queue::<(String, f64)>("prices");
/// let prices = prices.by_key();
/// let spread = prices.running_agg("spread", by_name::<f64>("stddev_pop", ""))?;
/// let refused = prices.running_agg("middle", by_name::<f64>("median", "")).err().unwrap();
/// assert!(refused.to_string().contains("`median` keeps every value"));
/// # Ok::<(), dstreams::Error>(())
/// ```
pub fn by_name<O: Record>(function: &str, column: &str) -> ByName<O> {
    ByName {
        function: function.to_owned(),
        column: column.to_owned(),
        out: PhantomData,
    }
}

impl<O: Record> ByName<O> {
    /// Adds the part; returns the type of the result and whether it may be null.
    fn resolve(&self, name: &str, parts: &mut AggParts<'_>) -> Option<(DataType, bool)> {
        let number = |kind: &DataType| match kind.is_integer() || kind.is_floating() {
            true => Ok(()),
            false => Err(format!("it is {kind}, not a number")),
        };
        let mut of = |function| {
            let (column, kind) = parts.column_that(&self.column, name, false, number);
            (parts.part(function, Some(column)), kind)
        };
        let (finish, kind) = match name {
            "count" => {
                if !self.column.is_empty() {
                    parts.column_that(&self.column, name, false, |_| Ok(()));
                }
                let count = parts.part(Function::Count, None);
                (Finish::Part(count), DataType::Int64)
            }
            "sum" => {
                let (sum, kind) = of(Function::Sum);
                let kind = match kind {
                    kind if kind.is_signed_integer() => DataType::Int64,
                    kind if kind.is_unsigned_integer() => DataType::UInt64,
                    _ => DataType::Float64,
                };
                (Finish::Part(sum), kind)
            }
            "min" | "max" => {
                let (column, kind) = parts.column_that(&self.column, name, false, |_| Ok(()));
                let function = match name {
                    "min" => Function::Min,
                    _ => Function::Max,
                };
                (Finish::Part(parts.part(function, Some(column))), kind)
            }
            "avg" | "mean" => {
                let (column, _) = parts.column_that(&self.column, name, false, number);
                (parts.mean(column, None), DataType::Float64)
            }
            _ => {
                let (sample, root) = match name {
                    "var" | "var_samp" | "var_sample" => (true, false),
                    "var_pop" | "var_population" => (false, false),
                    "stddev" | "stddev_samp" => (true, true),
                    "stddev_pop" => (false, true),
                    _ => return None,
                };
                let (moments, _) = of(Function::Moments);
                let finish = Finish::Variance {
                    moments,
                    sample,
                    root,
                };
                (finish, DataType::Float64)
            }
        };
        parts.plan.finish.push(finish);
        Some((
            kind,
            matches!(finish, Finish::Variance { sample: true, .. }),
        ))
    }
}

impl<V: Record, O: Record> Agg<V> for ByName<O> {
    type Out = O;
    fn add_to(&self, parts: &mut AggParts<'_>) {
        let name = self.function.trim().to_lowercase();
        let distinct = name
            .split(|c: char| !c.is_alphanumeric())
            .any(|word| word == "distinct");
        if distinct || UNBOUNDED.contains(&&*name) {
            return parts.refuse(format!(
                "`{name}` keeps every value of a key, so its state is unbounded; within a batch use a query \
                 (`sql`), across batches `track` with a bound of your own; available: {AVAILABLE}"
            ));
        }
        let Some((kind, nulls)) = self.resolve(&name, parts) else {
            return parts.refuse(format!(
                "there is no aggregate `{name}`; available: {AVAILABLE}"
            ));
        };
        let mut out = Vec::<Field>::new();
        O::fields("", &mut out);
        let fits = |field: &Field| *field.data_type() == kind && field.is_nullable() == nulls;
        if out.len() != 1 || !out.iter().all(fits) {
            let found = out.iter().map(|field| match field.is_nullable() {
                true => format!("{} with nulls", field.data_type()),
                false => field.data_type().to_string(),
            });
            let (found, with) = (
                found.collect::<Vec<_>>(),
                if nulls { " with nulls" } else { "" },
            );
            parts.refuse(format!(
                "the result of {name} is {kind}{with}, not {}",
                found.join(", ")
            ));
        }
    }
}
