//! Of all tasks of a partition, one result counts.

use super::Moment;

pub fn check(moment: &Moment) -> Option<String> {
    match moment {
        Moment::Succeeded {
            counted: true,
            dropped: false,
        } => Some("a second result counts".into()),
        Moment::Accepted { results } if *results > 1 => Some(format!("{results} results")),
        _ => None,
    }
}
