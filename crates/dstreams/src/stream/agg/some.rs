//! Aggregates that pass over nulls, as SQL's do.
//!
//! Underneath is a count of the values that are not null, and a part that is never null itself: a null counts as the
//! number that changes nothing (zero for a sum, the greatest number for the least value). So windows subtract these
//! parts and states combine them as any others. The result is `None` where that count is zero.

use std::marker::PhantomData;

use super::{Agg, AggParts, Finish, Function, Number};
use crate::debug::debug_as;
use crate::stream::record::{Leaf, Record};

impl AggParts<'_> {
    /// The column called `name`, which may have nulls, and the number of its values.
    fn column_and_count<N: Record>(&mut self, name: &str, function: &str) -> (String, usize) {
        let column = self.nullable_column::<N>(name, function);
        let count = self.part(Function::Count, Some(column.clone()));
        (column, count)
    }
}

macro_rules! of_some {
    ($of:ident, $whole:ident, $bound:ident, $name:ident, $function:ident, $doc:literal, $out:ty) => {
        #[doc = concat!($doc, " of a column with nulls: see [`", stringify!($of), "`].")]
        pub struct $name<N> {
            column: String,
            number: PhantomData<fn() -> N>,
        }
        debug_as!([N] $name<N> { column });
        #[doc = concat!($doc, " of the column `column` of the values, which holds `Option<N>`.")]
        ///
        /// Nulls are passed over; `None` for a key that has nothing else.
        pub fn $of<N: $bound>(column: &str) -> $name<N> {
            $name {
                column: column.to_owned(),
                number: PhantomData,
            }
        }
        #[doc = concat!($doc, " of the values, which are `Option<N>`: see [`", stringify!($of), "`].")]
        ///
        /// ```
        /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
        #[doc = concat!("use dstreams::agg::{count_some, ", stringify!($whole), "};")]
        /// # let mut ctx = dstreams::StreamContext::new(std::time::Duration::from_secs(3600))?;
        /// let (queue, readings) = ctx.queue::<(String, Option<i64>)>("readings");
        #[doc = concat!("let found = readings.by_key().agg((count_some(), ", stringify!($whole), "::<i64>()))?;")]
        /// let mut found = found.pairs().collect();
        /// let running = ctx.start().await?;
        /// queue.push([("a".to_owned(), Some(7)), ("a".to_owned(), None)]).await?;
        /// running.stop().await?;
        /// let found = found.recv().await.unwrap().collect()?;
        /// assert_eq!(found, [("a".to_owned(), (1, Some(7)))]);
        /// # Ok(()) }
        /// ```
        pub fn $whole<N: $bound>() -> $name<N> {
            $of("")
        }
        impl<V: Record, N: $bound> Agg<V> for $name<N> {
            type Out = Option<$out>;
            fn add_to(&self, parts: &mut AggParts<'_>) {
                let (column, count) = parts.column_and_count::<N>(&self.column, stringify!($whole));
                let result = parts.result_of(Function::$function, column, Some(count));
                parts.plan.finish.push(result);
            }
        }
    };
}

of_some!(sum_some_of, sum_some, Number, SumSome, Sum, "Sum", N::Sum);
of_some!(min_some_of, min_some, Leaf, MinSome, Min, "Least", N);
of_some!(max_some_of, max_some, Leaf, MaxSome, Max, "Greatest", N);

/// Mean of a column with nulls: see [`avg_some_of`].
pub struct AvgSome<N> {
    column: String,
    number: PhantomData<fn() -> N>,
}

debug_as!([N] AvgSome<N> { column });

/// Mean of the column `column` of the values, which holds `Option<N>`: as exact as that of
/// [`avg_of`](super::avg_of). Nulls are passed over; `None` for a key that has nothing else.
pub fn avg_some_of<N: Number>(column: &str) -> AvgSome<N> {
    AvgSome {
        column: column.to_owned(),
        number: PhantomData,
    }
}

/// Mean of values that are `Option<N>`: see [`avg_some_of`].
///
/// ```
/// # use dstreams::{StreamContext, agg::avg_some};
/// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
/// # let (_, readings) = ctx.queue::<(String, Option<f64>)>("readings");
/// let means = readings.by_key().running_agg("means", avg_some::<f64>())?;
/// means.changes().print(10);
/// # Ok::<(), dstreams::Error>(())
/// ```
pub fn avg_some<N: Number>() -> AvgSome<N> {
    avg_some_of("")
}

impl<V: Record, N: Number> Agg<V> for AvgSome<N> {
    type Out = Option<f64>;
    fn add_to(&self, parts: &mut AggParts<'_>) {
        let (column, count) = parts.column_and_count::<N>(&self.column, "avg_some");
        let mean = parts.mean(column, Some(count));
        parts.plan.finish.push(mean);
    }
}

/// Number of values that are not null: see [`count_some_of`].
#[derive(Debug, Clone)]
pub struct CountSome {
    column: String,
}

/// Number of records of a key whose column `column`, of any type, is not null; 0 if there are none.
///
/// ```
/// # use dstreams::{StreamContext, agg::count_some_of};
/// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
/// # let (_, visits) = ctx.queue::<(String, (i64, Option<String>))>("visits");
/// let referred = visits.by_key().agg(count_some_of("value"))?;
/// referred.print(10);
/// # Ok::<(), dstreams::Error>(())
/// ```
pub fn count_some_of(column: &str) -> CountSome {
    CountSome {
        column: column.to_owned(),
    }
}

/// Number of records of a key whose value, an `Option` of a single value, is not `None`: see [`count_some_of`].
pub fn count_some() -> CountSome {
    count_some_of("")
}

impl<V: Record> Agg<V> for CountSome {
    type Out = i64;
    fn add_to(&self, parts: &mut AggParts<'_>) {
        let (column, _) = parts.column_that(&self.column, "count_some", true, |_| Ok(()));
        let count = parts.part(Function::Count, Some(column));
        parts.plan.finish.push(Finish::Part(count));
    }
}
