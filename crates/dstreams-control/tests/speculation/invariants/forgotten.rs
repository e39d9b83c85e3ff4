//! Stages that have ended are forgotten.

use super::Moment;

pub fn check(moment: &Moment) -> Option<String> {
    match moment {
        Moment::Synced { known, live } if known > live => {
            Some(format!("{known} stages, {live} live"))
        }
        Moment::Over {
            stages,
            stuck: false,
        } if !stages.is_empty() => Some(format!("{stages:?}")),
        _ => None,
    }
}
