//! A slow task has a copy by the next look, if a core is free elsewhere and the bound allows it.

use super::Moment;

pub fn check(moment: &Moment) -> Option<String> {
    match moment {
        Moment::Ticked { missed } => missed.clone(),
        _ => None,
    }
}
