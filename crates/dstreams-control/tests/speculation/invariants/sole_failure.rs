//! A failure counts only if nothing else runs for the partition.

use super::Moment;

pub fn check(moment: &Moment) -> Option<String> {
    match moment {
        Moment::Failed {
            counts: true,
            others,
        } if *others > 0 => Some(format!("{others} others run")),
        _ => None,
    }
}
