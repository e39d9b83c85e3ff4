//! Aggregates: what `agg` and `window_agg` compute for each key.
//!
//! An aggregate is a list of parts (counts, sums, least and greatest values, moments: DataFusion's vectorised ones)
//! and a rule for each result. Partial results, windows and states store the parts. Columns must be without nulls,
//! except those of [`sum_some`], [`min_some`], [`max_some`], [`avg_some`] and [`count_some`], which pass over nulls.
//!
//! Floating-point numbers are compared by a total order, in aggregates as in queries, whatever the order of rows:
//! `NaN` of either sign is greater than all others, and `-0.0` is less than `0.0`.
//!
//! All aggregates have a fixed size for each key, so that they can be stored forever. Functions that store every
//! value (a median, a list, a count of distinct values) are not available here, and [`by_name()`] refuses them by
//! name: within a batch use a query ([`DStream::sql`](crate::DStream::sql)).

mod by_name;
mod some;
mod variance;

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::record::{Decimal, Leaf, Record, field_name};
use crate::debug::debug_as;

pub use by_name::{ByName, by_name};
pub use some::{
    AvgSome, CountSome, MaxSome, MinSome, SumSome, avg_some, avg_some_of, count_some,
    count_some_of, max_some, max_some_of, min_some, min_some_of, sum_some, sum_some_of,
};
pub use variance::{
    Variance, stddev_pop, stddev_pop_of, stddev_samp, stddev_samp_of, var_pop, var_pop_of,
    var_samp, var_samp_of,
};

/// A part of an aggregate.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AggPart {
    pub function: Function,
    /// Name of the column; `None` for a count of rows. Of a column with nulls, a count is that of the other values,
    /// and the others take a null for a value that changes nothing.
    pub column: Option<String>,
}

/// The function of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Count,
    Sum,
    /// Sum of the high halves of the values, each rounded to its nearest. Together with the sum, which wraps around,
    /// it gives the exact sum of 64-bit integers. Only for columns of means, after all other parts.
    High,
    Min,
    Max,
    /// Sum of decimal numbers as floating-point numbers: tells whether their exact sum has left its range.
    Rough,
    /// Number, mean, and sum of squared differences from the mean.
    Moments,
}

impl Function {
    /// Columns of the part.
    pub fn columns(self) -> usize {
        match self {
            Function::Moments => 3,
            _ => 1,
        }
    }
}

/// How to compute a result column from the columns of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The column itself.
    Part(usize),
    /// The column, null where the number of values is zero.
    Some { part: usize, count: usize },
    /// A sum divided by a number of values, null where that is zero; with the sum of high halves if the sum itself
    /// may wrap around.
    Mean {
        sum: usize,
        high: Option<usize>,
        count: usize,
    },
    /// A sum of decimal numbers, which fails if it has more than 38 digits; null where the number of values, if there
    /// is one, is zero.
    Decimal {
        sum: usize,
        rough: usize,
        count: Option<usize>,
    },
    /// The variance from moments; this is their first column.
    Variance {
        moments: usize,
        /// Whether the values are a sample: null for a single value.
        sample: bool,
        /// Whether to take the square root.
        root: bool,
    },
}

/// An aggregate, resolved against the columns it reads.
#[derive(Debug, Clone, Default)]
pub(crate) struct AggPlan {
    pub parts: Vec<AggPart>,
    pub finish: Vec<Finish>,
}

impl AggPlan {
    /// The parts and their columns.
    pub fn columns(&self) -> impl Iterator<Item = (&AggPart, Range<usize>)> {
        let mut end = 0;
        self.parts.iter().map(move |part| {
            let start = end;
            end += part.function.columns();
            (part, start..end)
        })
    }

    /// The columns with sums of high halves, each with the column of its sum.
    pub fn highs(&self) -> Vec<(usize, usize)> {
        let sums: Vec<_> = self.columns().collect();
        let sum_of = |high: &AggPart| {
            let is_sum = |it: &AggPart| it.function == Function::Sum && it.column == high.column;
            let (_, columns) = sums.iter().find(|(part, _)| is_sum(part))?;
            Some(columns.start)
        };
        let highs = self
            .columns()
            .filter(|(part, _)| part.function == Function::High);
        highs
            .filter_map(|(part, columns)| Some((columns.start, sum_of(part)?)))
            .collect()
    }

    /// The parts without sums of high halves, which earlier versions did not store, and `schema` without their
    /// columns; its first `keys` columns are not parts.
    pub fn without_highs(&self, schema: &SchemaRef, keys: usize) -> (Vec<AggPart>, SchemaRef) {
        let highs = self.highs();
        let mut parts = self.parts.clone();
        parts.retain(|part| part.function != Function::High);
        let is_high = |at: usize| highs.iter().any(|(high, _)| keys + high == at);
        let fields = schema.fields().iter().enumerate();
        let fields = fields.filter(|(at, _)| !is_high(*at));
        let fields: Vec<_> = fields.map(|(_, field)| Arc::clone(field)).collect();
        (parts, Arc::new(Schema::new(fields)))
    }

    /// The first column of a part; adds the part if it is missing.
    pub fn column_of(&mut self, part: AggPart) -> usize {
        let known = self.columns().find(|(known, _)| **known == part);
        if let Some((_, columns)) = known {
            return columns.start;
        }
        let next = self.parts.iter().map(|part| part.function.columns()).sum();
        self.parts.push(part);
        next
    }
}

/// Collects the parts of an aggregate.
pub struct AggParts<'a> {
    plan: AggPlan,
    schema: &'a Schema,
    error: Option<String>,
}

debug_as!(AggParts<'_> { error });

impl<'a> AggParts<'a> {
    pub(crate) fn resolve<V: Record, A: Agg<V>>(
        schema: &'a Schema,
        agg: &A,
    ) -> Result<AggPlan, String> {
        let mut parts = AggParts {
            plan: AggPlan::default(),
            schema,
            error: None,
        };
        agg.add_to(&mut parts);
        parts.add_highs();
        match parts.error {
            Some(error) => Err(error),
            None => Ok(parts.plan),
        }
    }

    /// The first column of a part.
    fn part(&mut self, function: Function, column: Option<String>) -> usize {
        self.plan.column_of(AggPart { function, column })
    }

    /// The result of one part, null where `count` is zero.
    fn result_of(&mut self, function: Function, column: String, count: Option<usize>) -> Finish {
        let decimal = function == Function::Sum && self.is_decimal(&column);
        let part = self.part(function, Some(column.clone()));
        match (decimal, count) {
            (true, count) => Finish::Decimal {
                sum: part,
                rough: self.part(Function::Rough, Some(column)),
                count,
            },
            (false, Some(count)) => Finish::Some { part, count },
            (false, None) => Finish::Part(part),
        }
    }

    fn is_decimal(&self, column: &str) -> bool {
        let field = self.schema.field_with_name(column);
        field.is_ok_and(|field| matches!(field.data_type(), DataType::Decimal128(..)))
    }

    /// The mean of a column, of which `count` counts the values; without it, records are counted.
    fn mean(&mut self, column: String, count: Option<usize>) -> Finish {
        let function = match self.is_decimal(&column) {
            true => Function::Rough,
            false => Function::Sum,
        };
        let sum = self.part(function, Some(column));
        let count = count.unwrap_or_else(|| self.part(Function::Count, None));
        Finish::Mean {
            sum,
            high: None,
            count,
        }
    }

    /// Adds high halves for means of 64-bit integers. They come last, so that the columns before them are those of
    /// earlier versions.
    fn add_highs(&mut self) {
        let plan = &mut self.plan;
        for at in 0..plan.finish.len() {
            let Finish::Mean { sum, .. } = plan.finish[at] else {
                continue;
            };
            let part = plan.columns().find(|(_, columns)| columns.start == sum);
            let column = part.and_then(|(part, _)| part.column.clone());
            let field = (column.as_deref()).and_then(|name| self.schema.field_with_name(name).ok());
            let wide =
                |field: &Field| matches!(field.data_type(), DataType::Int64 | DataType::UInt64);
            if field.is_some_and(wide) {
                let function = Function::High;
                let added = plan.column_of(AggPart { function, column });
                if let Finish::Mean { high, .. } = &mut plan.finish[at] {
                    *high = Some(added);
                }
            }
        }
    }

    /// The column of the value called `name` ("" for a single value), if it has the type `N` and no nulls.
    fn column<N: Record>(&mut self, name: &str, function: &str) -> String {
        self.column_of::<N>(name, function, false)
    }

    /// The same; it may have nulls.
    fn nullable_column<N: Record>(&mut self, name: &str, function: &str) -> String {
        self.column_of::<N>(name, function, true)
    }

    fn column_of<N: Record>(&mut self, name: &str, function: &str, nullable: bool) -> String {
        let wanted = N::schema();
        let wanted = wanted.fields().first().map(|f| f.data_type().clone());
        let wanted = wanted.unwrap_or(DataType::Null);
        let (column, _) =
            self.column_that(name, function, nullable, |found| match *found == wanted {
                true => Ok(()),
                false => Err(format!("it is {found}, not {wanted}")),
            });
        column
    }

    /// The column of the value called `name` with its type, if `fits` accepts it.
    fn column_that(
        &mut self,
        name: &str,
        function: &str,
        nullable: bool,
        fits: impl Fn(&DataType) -> Result<(), String>,
    ) -> (String, DataType) {
        let column = match name {
            "" => "value".to_owned(),
            name => field_name("value", name),
        };
        let (kind, problem) = match self.schema.field_with_name(&column) {
            Err(_) => (DataType::Null, Err("there is no such column".to_owned())),
            Ok(field) => {
                let kind = field.data_type();
                let nulls = match (field.is_nullable() && !nullable, function) {
                    (false, _) => Ok(()),
                    (true, "sum" | "min" | "max" | "avg") => Err(format!(
                        "it may contain nulls; pass over them by `{function}_some`, or filter or replace \
                         them first"
                    )),
                    (true, _) => {
                        Err("it may contain nulls; filter or replace them first".to_owned())
                    }
                };
                (kind.clone(), fits(kind).and(nulls))
            }
        };
        if let Err(problem) = problem {
            let names: Vec<_> = self.schema.fields().iter().map(|f| f.name()).collect();
            let error = format!("{function} of column `{column}`: {problem}; columns: {names:?}");
            self.refuse(error);
        }
        (column, kind)
    }

    /// Records an error; the first one is reported.
    fn refuse(&mut self, error: String) {
        self.error.get_or_insert(error);
    }
}

/// An aggregate over values of type `V`.
///
/// Created by [`count`], [`sum`], [`min`], [`max`], [`avg`], [`var_samp`], [`var_pop`], [`stddev_samp`],
/// [`stddev_pop`] and their `_of` forms for a named column, by [`sum_some`] and the like for columns with nulls, or by
/// [`by_name()`]; a tuple of up to twelve aggregates computes several at once.
pub trait Agg<V: Record>: Send + Sync + 'static {
    /// Type of the result.
    type Out: Record;
    /// Adds its parts and results.
    fn add_to(&self, parts: &mut AggParts<'_>);
}

/// A number that can be summed.
pub trait Number: Leaf {
    /// Type of the sum: `i64`, `u64`, `f64` or a decimal number of 38 digits. Integer sums wrap around on overflow, as
    /// in queries; the sum of a window is correct again once the values that were too large have left. A decimal sum
    /// of more than 38 digits fails its batch, with the column's name; windows and states have no decimal sums yet.
    type Sum: Record;
}

impl<const P: u8, const S: i8> Number for Decimal<P, S> {
    type Sum = Decimal<38, S>;
}

macro_rules! numbers {
    ($($native:ty => $sum:ty),*) => {$(impl Number for $native { type Sum = $sum; })*};
}
numbers!(i8 => i64, i16 => i64, i32 => i64, i64 => i64, u8 => u64, u16 => u64, u32 => u64,
    u64 => u64, f32 => f64, f64 => f64);

/// Number of records: see [`count`].
#[derive(Debug, Clone, Copy)]
pub struct Count;

/// Number of records of a key.
pub fn count() -> Count {
    Count
}

impl<V: Record> Agg<V> for Count {
    type Out = i64;
    fn add_to(&self, parts: &mut AggParts<'_>) {
        let count = parts.part(Function::Count, None);
        parts.plan.finish.push(Finish::Part(count));
    }
}

macro_rules! of_column {
    ($of:ident, $whole:ident, $bound:ident, $function:ident, $doc:literal, $out:ty) => {
        #[doc = concat!($doc, " of a named column: see [`", stringify!($of), "`].")]
        pub struct $function<N> {
            column: String,
            number: PhantomData<fn() -> N>,
        }
        debug_as!([N] $function<N> { column });
        #[doc = concat!($doc, " of the column `column` of the values, which holds `N`.")]
        pub fn $of<N: $bound>(column: &str) -> $function<N> {
            $function {
                column: column.to_owned(),
                number: PhantomData,
            }
        }
        #[doc = concat!($doc, " of the values, which are single values.")]
        pub fn $whole<N: $bound>() -> $function<N> {
            $of("")
        }
        impl<V: Record, N: $bound> Agg<V> for $function<N> {
            type Out = $out;
            fn add_to(&self, parts: &mut AggParts<'_>) {
                let column = parts.column::<N>(&self.column, stringify!($whole));
                let result = parts.result_of(Function::$function, column, None);
                parts.plan.finish.push(result);
            }
        }
    };
}

of_column!(sum_of, sum, Number, Sum, "Sum", N::Sum);
of_column!(min_of, min, Leaf, Min, "Least", N);
of_column!(max_of, max, Leaf, Max, "Greatest", N);

/// Mean of a named column: see [`avg_of`].
pub struct Avg<N> {
    column: String,
    number: PhantomData<fn() -> N>,
}

debug_as!([N] Avg<N> { column });

/// Mean of the column `column` of the values, which holds `N`: their sum divided by their number.
///
/// Sums of integers are exact, even beyond 64 bits, for up to 2^32 arbitrary values of a key (and far more values if
/// they are not near the limits of 64 bits). SQL's own `avg` adds floating-point numbers and loses digits of large
/// integers.
pub fn avg_of<N: Number>(column: &str) -> Avg<N> {
    Avg {
        column: column.to_owned(),
        number: PhantomData,
    }
}

/// Mean of values that are single numbers.
pub fn avg<N: Number>() -> Avg<N> {
    avg_of("")
}

impl<V: Record, N: Number> Agg<V> for Avg<N> {
    type Out = f64;
    fn add_to(&self, parts: &mut AggParts<'_>) {
        let column = parts.column::<N>(&self.column, "avg");
        let mean = parts.mean(column, None);
        parts.plan.finish.push(mean);
    }
}

macro_rules! several {
    ($($agg:ident $index:tt),*) => {
        impl<V: Record, $($agg: Agg<V>),*> Agg<V> for ($($agg,)*) {
            type Out = ($($agg::Out,)*);
            fn add_to(&self, parts: &mut AggParts<'_>) { $(self.$index.add_to(parts);)* }
        }
    };
}
several!(A 0, B 1);
several!(A 0, B 1, C 2);
several!(A 0, B 1, C 2, D 3);
several!(A 0, B 1, C 2, D 3, E 4);
several!(A 0, B 1, C 2, D 3, E 4, F 5);
several!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
several!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
several!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8);
several!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9);
several!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10);
several!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11);
