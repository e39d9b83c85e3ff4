//! Variances and standard deviations, as DataFusion names them.
//!
//! They follow from moments (the number of values, their mean, the sum of squared differences from it), which are
//! merged and not subtracted. So a result is as exact as DataFusion's over all values at once: for `n` values with
//! variance `v` and mean `m` the relative error is about `n * 2e-16 * sqrt(1 + m * m / v)`. The same batches give the
//! same bits.

use std::marker::PhantomData;

use super::{Agg, AggParts, Finish, Function, Number};
use crate::debug::debug_as;
use crate::stream::record::Record;

/// A variance or a standard deviation: created by [`var_samp`], [`var_pop`], [`stddev_samp`], [`stddev_pop`] and
/// their `_of` forms.
pub struct Variance<N, O> {
    column: String,
    name: &'static str,
    sample: bool,
    root: bool,
    types: PhantomData<fn() -> (N, O)>,
}

debug_as!([N, O] Variance<N, O> { name, column });

impl<V: Record, N: Number, O: Record> Agg<V> for Variance<N, O> {
    type Out = O;
    fn add_to(&self, parts: &mut AggParts<'_>) {
        let column = parts.column::<N>(&self.column, self.name);
        let moments = parts.part(Function::Moments, Some(column));
        let (sample, root) = (self.sample, self.root);
        parts.plan.finish.push(Finish::Variance {
            moments,
            sample,
            root,
        });
    }
}

macro_rules! variance {
    ($of:ident, $whole:ident, $out:ty, $sample:literal, $root:literal, $doc:literal) => {
        #[doc = concat!($doc, " of the column `column` of the values, which holds `N`.")]
        pub fn $of<N: Number>(column: &str) -> Variance<N, $out> {
            Variance {
                column: column.to_owned(),
                name: stringify!($whole),
                sample: $sample,
                root: $root,
                types: PhantomData,
            }
        }
        #[doc = concat!($doc, " of the values, which are single numbers.")]
        pub fn $whole<N: Number>() -> Variance<N, $out> {
            $of("")
        }
    };
}

variance!(
    var_samp_of,
    var_samp,
    Option<f64>,
    true,
    false,
    "Sample variance (over `n - 1`; `None` for a single value),"
);
variance!(
    var_pop_of,
    var_pop,
    f64,
    false,
    false,
    "Population variance (over `n`)"
);
variance!(
    stddev_samp_of,
    stddev_samp,
    Option<f64>,
    true,
    true,
    "Sample standard deviation (over `n - 1`; `None` for a single value),"
);
variance!(
    stddev_pop_of,
    stddev_pop,
    f64,
    false,
    true,
    "Population standard deviation (over `n`)"
);
