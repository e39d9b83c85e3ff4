//! Aggregates: what `agg` and `window_agg` compute for each key.
//!
//! An aggregate is a list of parts (counts, sums, least and greatest values, moments: DataFusion's
//! vectorised ones) and how its results follow from them. The parts are what partial results,
//! windows and states hold. Columns must be without nulls: filter or replace nulls before.
//!
//! Least and greatest floating-point numbers are those of one total order, in which what is not a number (`NaN`, of
//! either sign) is greater than all others, and `-0.0` less than `0.0`: here as in queries, in any order of rows.
//!
//! All are of fixed size for each key, so that they can be held for ever. What keeps every value that
//! it saw (a median, a list, a count of distinct values) is no aggregate here: within a batch it is
//! a query ([`DStream::sql`](crate::DStream::sql)), and [`by_name()`] refuses it by name.

mod by_name;
mod variance;

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::record::{Leaf, Record, field_name};
use crate::debug::debug_as;

pub use by_name::{ByName, by_name};
pub use variance::{
    Variance, stddev_pop, stddev_pop_of, stddev_samp, stddev_samp_of, var_pop, var_pop_of,
    var_samp, var_samp_of,
};

/// A part of an aggregate.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AggPart {
    pub function: Function,
    /// Name of the column; none for a count of rows.
    pub column: Option<String>,
}

/// Which function a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Count,
    Sum,
    /// Sum of the values' high halves, each rounded to its nearest: with the sum, which wraps around, it gives the
    /// exact sum of integers of 64 bits. Columns of means only, after all others.
    High,
    Min,
    Max,
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

/// How a result column follows from the columns of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    /// It is that column.
    Part(usize),
    /// A sum by a number of values; with the sum of high halves where the sum itself may wrap around.
    Mean {
        sum: usize,
        high: Option<usize>,
        count: usize,
    },
    /// The variance by moments, whose first column this is.
    Variance {
        moments: usize,
        /// That of what the values are a sample of: nothing where there is one value only.
        sample: bool,
        /// Its square root.
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

    /// The columns with sums of high halves, and those of the sums that they belong to.
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

    /// Without sums of high halves, which earlier versions did not hold: the parts, and `schema`, whose first `keys`
    /// columns are no parts.
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

    /// The first column of a part, which is added if it is not there.
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

    /// The mean of a column.
    fn mean(&mut self, column: String) -> Finish {
        let sum = self.part(Function::Sum, Some(column));
        let count = self.part(Function::Count, None);
        Finish::Mean {
            sum,
            high: None,
            count,
        }
    }

    /// High halves for the means of 64-bit integers. They come last, so that the columns before are those of
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

    /// The column of the value called `name` ("" for a single value), if it is an `N`.
    fn column<N: Record>(&mut self, name: &str, function: &str) -> String {
        let mut wanted = Vec::<Field>::new();
        N::fields("", &mut wanted);
        let wanted = wanted.first().map(|f| f.data_type().clone());
        let wanted = wanted.unwrap_or(DataType::Null);
        let (column, _) = self.column_that(name, function, |found| match *found == wanted {
            true => Ok(()),
            false => Err(format!("it is {found}, not {wanted}")),
        });
        column
    }

    /// The column of the value called `name`, and its type, if `fits` says that it can be used.
    fn column_that(
        &mut self,
        name: &str,
        function: &str,
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
                let nulls = match field.is_nullable() {
                    true => Err("it may hold nulls; filter or replace them before".to_owned()),
                    false => Ok(()),
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

    /// The first refusal is the error.
    fn refuse(&mut self, error: String) {
        self.error.get_or_insert(error);
    }
}

/// An aggregate over values of type `V`.
///
/// Made by [`count`], [`sum`], [`min`], [`max`], [`avg`], [`var_samp`], [`var_pop`], [`stddev_samp`],
/// [`stddev_pop`] and their `_of` forms for a named column, or [`by_name()`]; a tuple of aggregates computes
/// several at once.
pub trait Agg<V: Record>: Send + Sync + 'static {
    /// Type of the result.
    type Out: Record;
    /// Adds its parts and results.
    fn add_to(&self, parts: &mut AggParts<'_>);
}

/// A number that can be summed.
pub trait Number: Leaf {
    /// Type of the sum: `i64`, `u64` or `f64`. Integer sums wrap around on overflow, as those of a query do; a sum
    /// over a window is right again once what was too large has left.
    type Sum: Record;
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
                let part = parts.part(Function::$function, Some(column));
                parts.plan.finish.push(Finish::Part(part));
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

/// Mean of the column `column` of the values, which holds `N`: their sum by their number.
///
/// Of integers the sum is exact, beyond 64 bits too, of up to 2^32 values of a key whatever they are (and of far more
/// where they are not near the limits of 64 bits). SQL's own `avg` adds up floating-point numbers, which loses digits of
/// large integers.
pub fn avg_of<N: Number>(column: &str) -> Avg<N> {
    Avg {
        column: column.to_owned(),
        number: PhantomData,
    }
}

/// Mean of the values, which are single numbers.
pub fn avg<N: Number>() -> Avg<N> {
    avg_of("")
}

impl<V: Record, N: Number> Agg<V> for Avg<N> {
    type Out = f64;
    fn add_to(&self, parts: &mut AggParts<'_>) {
        let column = parts.column::<N>(&self.column, "avg");
        let mean = parts.mean(column);
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
