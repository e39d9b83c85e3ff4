//! A copy is never on the worker of its original.

use super::Moment;

pub fn check(moment: &Moment) -> Option<String> {
    match moment {
        Moment::Started {
            worker,
            original: Some(of),
        } if worker == of => Some(format!("both on {of}")),
        _ => None,
    }
}
