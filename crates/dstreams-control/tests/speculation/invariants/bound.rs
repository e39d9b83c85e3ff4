//! No more copies are made than the bound allows.

use super::Moment;

pub fn check(moment: &Moment) -> Option<String> {
    match moment {
        Moment::Copied { copies, most, .. } if copies > most => {
            Some(format!("{copies} copies, {most} allowed"))
        }
        _ => None,
    }
}
