//! A task has a copy only once it is slow.

use super::Moment;

pub fn check(moment: &Moment) -> Option<String> {
    match moment {
        Moment::Copied { age, limit, .. } if limit.is_none_or(|limit| *age + 1 < limit) => {
            Some(format!("after {age} µs, slow after {limit:?}"))
        }
        _ => None,
    }
}
