//! [`Told`]: an error of a task as text that the master can read again.
//!
//! The engine passes on errors of tasks as text. What our nodes say is marked in it, so that the
//! operator, the place in the program and whether a retry may help arrive as they were.

use std::fmt;

use datafusion::error::DataFusionError;
use dstreams::{Error, Operator};
use serde::{Deserialize, Serialize};

const BEGIN: &str = "<dstreams-error ";
const END: &str = "/>";

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    kind: Kind,
    operator: Option<(String, String)>,
    message: String,
    pub retryable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Kind {
    Panic,
    Record,
    Other,
}

impl Told {
    pub fn of(error: &Error) -> Self {
        let (kind, operator, message) = match error {
            Error::Panic { operator, message } => (Kind::Panic, Some(operator), message.clone()),
            Error::Record { operator, message } => (Kind::Record, Some(operator), message.clone()),
            Error::Operator { operator, cause } => {
                (Kind::Record, Some(operator), cause.to_string())
            }
            other => (Kind::Other, None, other.to_string()),
        };
        Told {
            kind,
            operator: operator.map(|o| (o.name.clone(), o.at.clone())),
            message,
            retryable: error.is_retryable(),
        }
    }

    /// The marked error in a text of the engine, if there is one.
    pub fn find(text: &str) -> Option<Self> {
        let from = text.find(BEGIN)? + BEGIN.len();
        let mut values = serde_json::Deserializer::from_str(&text[from..]).into_iter();
        values.next()?.ok()
    }

    pub fn into_error(self) -> Option<Error> {
        let operator = self.operator.map(|(name, at)| Operator { name, at })?;
        let message = self.message;
        Some(match self.kind {
            Kind::Panic => Error::Panic { operator, message },
            Kind::Record | Kind::Other => Error::Record { operator, message },
        })
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        write!(f, "{BEGIN}{json}{END}")
    }
}

impl std::error::Error for Told {}

/// An error of a task for the engine. One that another try may mend has the form that the engine
/// tries again for: an I/O error.
pub fn for_engine(error: Error) -> DataFusionError {
    let told = Told::of(&error);
    match told.retryable {
        true => DataFusionError::IoError(std::io::Error::other(told)),
        false => DataFusionError::External(Box::new(told)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_found_again_in_the_text_around_it() {
        let operator = Operator {
            name: "map".into(),
            at: "src/main.rs:7".into(),
        };
        let error = Error::Panic {
            operator,
            message: "no \"thirteen\" /> please".into(),
        };
        let text = format!("Job failed: Execution({}), more", for_engine(error.clone()));
        let found = Told::find(&text).unwrap();
        assert!(!found.retryable);
        assert_eq!(found.into_error().unwrap().to_string(), error.to_string());
        assert_eq!(Told::find("nothing of ours"), None);
    }
}
