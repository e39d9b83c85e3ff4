//! A task that may run on one worker only has no copy.

use super::Moment;

pub fn check(moment: &Moment) -> Option<String> {
    match moment {
        Moment::Copied { free: false, .. } => Some("it is bound to a worker".into()),
        _ => None,
    }
}
