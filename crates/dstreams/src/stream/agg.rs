//! Aggregates: what `agg` and `window_agg` compute for each key.
//!
//! An aggregate is a list of parts (counts, sums, least and greatest values: DataFusion's
//! vectorised ones) and how its results follow from them. The parts are what partial results and
//! windows hold. Columns must be without nulls: filter or replace nulls before.

use std::marker::PhantomData;

use datafusion::arrow::datatypes::{DataType, Field, Schema};

use super::record::{Leaf, Record, field_name};

/// A part of an aggregate.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    pub function: Function,
    /// Name of the column; none for a count of rows.
    pub column: Option<String>,
}

/// Which function a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Count,
    Sum,
    Min,
    Max,
}

/// How a result column follows from the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    /// It is the part.
    Part(usize),
    /// One part divided by another, as floating-point numbers.
    Ratio(usize, usize),
}

/// An aggregate, resolved against the columns it reads.
#[derive(Debug, Clone, Default)]
pub(crate) struct AggPlan {
    pub parts: Vec<Part>,
    pub finish: Vec<Finish>,
}

/// Collects the parts of an aggregate.
pub struct Parts<'a> {
    plan: AggPlan,
    schema: &'a Schema,
    error: Option<String>,
}

impl<'a> Parts<'a> {
    pub(crate) fn resolve<V: Record, A: Agg<V>>(
        schema: &'a Schema,
        agg: &A,
    ) -> Result<AggPlan, String> {
        let mut parts = Parts {
            plan: AggPlan::default(),
            schema,
            error: None,
        };
        agg.add_to(&mut parts);
        match parts.error {
            Some(error) => Err(error),
            None => Ok(parts.plan),
        }
    }

    fn part(&mut self, function: Function, column: Option<String>) -> usize {
        let part = Part { function, column };
        if let Some(known) = self.plan.parts.iter().position(|p| *p == part) {
            return known;
        }
        self.plan.parts.push(part);
        self.plan.parts.len() - 1
    }

    /// The column of the value called `name` ("" for a single value), if it is an `N`.
    fn column<N: Record>(&mut self, name: &str, function: &str) -> String {
        let column = match name {
            "" => "value".to_owned(),
            name => field_name("value", name),
        };
        let mut wanted = Vec::<Field>::new();
        N::fields("", &mut wanted);
        let wanted = wanted.first().map(|f| f.data_type().clone());
        let wanted = wanted.unwrap_or(DataType::Null);
        let problem = match self.schema.field_with_name(&column) {
            Err(_) => Some("there is no such column".to_owned()),
            Ok(field) if *field.data_type() != wanted => {
                Some(format!("it is {}, not {wanted}", field.data_type()))
            }
            Ok(field) if field.is_nullable() => {
                Some("it may hold nulls; filter or replace them before".to_owned())
            }
            Ok(_) => None,
        };
        if let Some(problem) = problem {
            let names: Vec<_> = self.schema.fields().iter().map(|f| f.name()).collect();
            let error = format!("{function} of column `{column}`: {problem}; columns: {names:?}");
            self.error.get_or_insert(error);
        }
        column
    }
}

/// An aggregate over values of type `V`.
///
/// Made by [`count`], [`sum`], [`min`], [`max`], [`avg`] and their `_of` forms for a named column;
/// a tuple of aggregates computes several at once.
pub trait Agg<V: Record>: Send + Sync + 'static {
    /// Type of the result.
    type Out: Record;
    /// Adds its parts and results.
    fn add_to(&self, parts: &mut Parts<'_>);
}

/// A number that can be summed.
pub trait Number: Leaf {
    /// Type of the sum: `i64`, `u64` or `f64`. Integer sums wrap around on overflow.
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
    fn add_to(&self, parts: &mut Parts<'_>) {
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
            fn add_to(&self, parts: &mut Parts<'_>) {
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

/// Mean of the column `column` of the values, which holds `N`.
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
    fn add_to(&self, parts: &mut Parts<'_>) {
        let column = parts.column::<N>(&self.column, "avg");
        let sum = parts.part(Function::Sum, Some(column));
        let count = parts.part(Function::Count, None);
        parts.plan.finish.push(Finish::Ratio(sum, count));
    }
}

macro_rules! several {
    ($($agg:ident $index:tt),*) => {
        impl<V: Record, $($agg: Agg<V>),*> Agg<V> for ($($agg,)*) {
            type Out = ($($agg::Out,)*);
            fn add_to(&self, parts: &mut Parts<'_>) { $(self.$index.add_to(parts);)* }
        }
    };
}
several!(A 0, B 1);
several!(A 0, B 1, C 2);
several!(A 0, B 1, C 2, D 3);
several!(A 0, B 1, C 2, D 3, E 4);
several!(A 0, B 1, C 2, D 3, E 4, F 5);
