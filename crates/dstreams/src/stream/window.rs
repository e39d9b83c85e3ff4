//! Checks the length, slide and columns of a window.

use std::time::Duration;

use datafusion::arrow::datatypes::Schema;

use super::agg::{AggPlan, Function};
use crate::error::{Error, Operator, Result};

/// Longest window or timeout: anything longer is meant as "forever", for which there are operators without a window.
/// It keeps sums of batch times and lengths well below 64 bits.
const LONGEST_MS: u64 = 1000 * 366 * 24 * 3600 * 1000;

/// `length` in milliseconds, if it is a positive multiple of `every` and not beyond [`LONGEST_MS`].
pub(super) fn multiple_of(
    every: u64,
    length: Duration,
    what: &str,
    operator: &Operator,
) -> Result<u64> {
    let refused = |message: String| {
        Err(Error::Graph {
            operator: operator.clone(),
            message,
        })
    };
    let nanos = u128::from(every) * 1_000_000;
    let fits = length.as_nanos() > 0 && length.as_nanos().is_multiple_of(nanos);
    let below = u64::try_from(length.as_nanos() / nanos).unwrap_or(u64::MAX);
    let below = below.saturating_mul(every);
    if below > LONGEST_MS {
        return refused(format!(
            "a {what} of {length:?} is longer than a thousand years; for all batches there is `running_agg`, and a \
             state without a timeout"
        ));
    }
    if fits {
        return Ok(below);
    }
    let nearest = match below {
        0 => format!("the nearest that fits is {every} ms"),
        below => format!(
            "the nearest that fit are {below} ms and {} ms",
            below + every
        ),
    };
    refused(format!(
        "a {what} of {length:?} is no multiple of {every} ms, the interval of the stream; {nearest}"
    ))
}

/// `length` in milliseconds, if it is zero or a multiple of `every`, as of [`multiple_of`].
pub(super) fn multiple_or_zero(
    every: u64,
    length: Duration,
    what: &str,
    operator: &Operator,
) -> Result<u64> {
    match length {
        Duration::ZERO => Ok(0),
        length => multiple_of(every, length, what, operator),
    }
}

/// Refuses least and greatest values of anything but numbers, and sums of decimal numbers.
pub(super) fn check_columns(plan: &AggPlan, schema: &Schema, operator: &Operator) -> Result<()> {
    for part in &plan.parts {
        let Some(column) = &part.column else { continue };
        let Ok(field) = schema.field_with_name(column) else {
            continue;
        };
        let kind = field.data_type();
        if part.function == Function::Rough {
            return Err(Error::Graph {
                operator: operator.clone(),
                message: format!(
                    "windows and states have sums and means of numbers of up to 64 bits only, and column \
                     `{column}` is {kind}; use `agg` within a batch, or an integer of the smallest unit"
                ),
            });
        }
        let order = matches!(part.function, Function::Min | Function::Max);
        if order && kind.primitive_width().is_none_or(|width| width > 8) {
            return Err(Error::Graph {
                operator: operator.clone(),
                message: format!(
                    "windows support least and greatest values of numbers of up to 64 bits, dates and \
                     times only, and column `{column}` is {kind}; use `agg`, which has no such limit, or \
                     a number"
                ),
            });
        }
    }
    Ok(())
}
