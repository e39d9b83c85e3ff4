//! Once a result counts, the other task of the partition is cancelled.

use super::Moment;

pub fn check(moment: &Moment) -> Option<String> {
    match moment {
        Moment::Decided { left } => left.clone(),
        _ => None,
    }
}
