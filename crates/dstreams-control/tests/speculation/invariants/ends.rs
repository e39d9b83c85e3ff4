//! Every stage ends.

use super::Moment;

pub fn check(moment: &Moment) -> Option<String> {
    match moment {
        Moment::Over { stuck: true, .. } => Some("a stage has not ended".into()),
        _ => None,
    }
}
