//! What a window's length, slide and columns must be.

use std::time::Duration;

use datafusion::arrow::datatypes::Schema;

use super::agg::{AggPlan, Function};
use crate::error::{Error, Operator, Result};

/// `length` in milliseconds, if it is a positive multiple of `every`.
pub(super) fn multiple_of(
    every: u64,
    length: Duration,
    what: &str,
    operator: &Operator,
) -> Result<u64> {
    let nanos = u128::from(every) * 1_000_000;
    if length.as_nanos() > 0 && length.as_nanos().is_multiple_of(nanos) {
        return Ok(length.as_millis() as u64);
    }
    let below = (length.as_nanos() / nanos) as u64 * every;
    let fits = match below {
        0 => format!("the nearest that fits is {every} ms"),
        below => format!(
            "the nearest that fit are {below} ms and {} ms",
            below + every
        ),
    };
    Err(Error::Graph {
        operator: operator.clone(),
        message: format!(
            "a {what} of {length:?} is no multiple of {every} ms, at which the stream has RDDs; {fits}"
        ),
    })
}

/// Windows hold least and greatest values of numbers only.
pub(super) fn check_columns(plan: &AggPlan, schema: &Schema, operator: &Operator) -> Result<()> {
    for part in &plan.parts {
        let Some(column) = &part.column else { continue };
        let Ok(field) = schema.field_with_name(column) else {
            continue;
        };
        let kind = field.data_type();
        let order = matches!(part.function, Function::Min | Function::Max);
        if order && !kind.is_primitive() {
            return Err(Error::Graph {
                operator: operator.clone(),
                message: format!(
                    "a window holds least and greatest values of numbers only, and column \
                     `{column}` is {kind}; use `agg`, which is not limited so, or a number"
                ),
            });
        }
    }
    Ok(())
}
