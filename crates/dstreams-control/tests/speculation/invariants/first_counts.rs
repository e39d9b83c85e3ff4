//! The first result of a partition counts.

use super::Moment;

pub fn check(moment: &Moment) -> Option<String> {
    match moment {
        Moment::Succeeded {
            counted: false,
            dropped: true,
        } => Some("the first result is dropped".into()),
        _ => None,
    }
}
