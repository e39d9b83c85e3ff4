//! [`TaskError`]: an error of a task, as it is sent to the master.
//!
//! The engine carries only a text for the error of a task, and quotes and wraps it on the way. So the worker encodes
//! the error into that text as hexadecimal digits, which no quoting changes, with bounded size. The master decodes it
//! from the task's own report, before the engine turns it into the text of a failed job.

use std::fmt::{self, Write};
use std::sync::Arc;

use datafusion::error::DataFusionError;
use dstreams::internal::engine_message;
use dstreams::{Error, Operator};
use serde::{Deserialize, Serialize};

/// Precedes the digits.
const MARK: &str = "dstreams-error:";
/// The most bytes of a message: panic messages have any length, but reports of tasks have bounded size.
const MAX_MESSAGE_BYTES: usize = 16 << 10;

/// The error of a task, as it is sent to the master.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskError {
    kind: Kind,
    operator: Option<(String, String)>,
    message: String,
    /// Whether a retry may succeed.
    pub retryable: bool,
    /// Whether the contents of the batch caused the failure.
    of_batch: bool,
    /// The worker, and the task's number.
    task: Option<(String, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Kind {
    Panic,
    Record,
    /// The query engine failed in an operator.
    Operator,
    Other,
}

impl TaskError {
    pub fn of(error: &Error) -> Self {
        let (kind, operator, message) = match error {
            Error::Panic { operator, message } => (Kind::Panic, Some(operator), message.clone()),
            Error::Record { operator, message } => (Kind::Record, Some(operator), message.clone()),
            Error::Operator { operator, cause } => {
                (Kind::Operator, Some(operator), engine_message(cause))
            }
            Error::Engine(cause) => (Kind::Other, None, engine_message(cause)),
            other => (Kind::Other, None, other.to_string()),
        };
        TaskError {
            kind,
            operator: operator.map(|o| (clip(&o.name), clip(&o.at))),
            message: clip(&message),
            retryable: error.is_retryable(),
            of_batch: error.is_of_batch(),
            task: None,
        }
    }

    /// The same error, with its worker and task.
    pub fn at(mut self, worker: &str, task: usize) -> Self {
        self.task = Some((clip(worker), task));
        self
    }

    /// A retryable failure of the engine or the machine.
    pub fn of_the_machine(message: &str) -> Self {
        TaskError {
            kind: Kind::Other,
            operator: None,
            message: clip(message),
            retryable: true,
            of_batch: false,
            task: None,
        }
    }

    /// Decodes the error in a text of the engine, if there is one.
    pub fn find(text: &str) -> Option<Self> {
        let from = text.find(MARK)? + MARK.len();
        let digits = text[from..]
            .bytes()
            .map_while(|digit| (digit as char).to_digit(16));
        let digits: Vec<u8> = digits.map(|digit| digit as u8).collect();
        let bytes = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]);
        serde_json::from_slice(&bytes.collect::<Vec<_>>()).ok()
    }

    /// The original error.
    pub fn into_error(self) -> Error {
        let message = self.message;
        let engine = |message: String| match (self.retryable, self.of_batch) {
            (true, true) => DataFusionError::ResourcesExhausted(message),
            (true, false) => DataFusionError::IoError(std::io::Error::other(message)),
            (false, _) => DataFusionError::Execution(message),
        };
        let Some((name, at)) = self.operator else {
            return Error::Engine(Arc::new(engine(message)));
        };
        let in_task = |error: Error| match self.task {
            Some((worker, task)) => Error::Task {
                worker,
                task,
                cause: Box::new(error),
            },
            None => error,
        };
        let operator = Operator { name, at };
        in_task(match self.kind {
            Kind::Panic => Error::Panic { operator, message },
            Kind::Record => Error::Record { operator, message },
            Kind::Operator | Kind::Other => Error::Operator {
                operator,
                cause: Arc::new(engine(message)),
            },
        })
    }

    /// The error for the engine, which retries I/O errors by itself.
    pub fn for_engine(self) -> DataFusionError {
        match self.retryable {
            true => DataFusionError::IoError(std::io::Error::other(self)),
            false => DataFusionError::External(Box::new(self)),
        }
    }
}

/// The message, truncated if it is too long.
pub fn clip(message: &str) -> String {
    match message.len() > MAX_MESSAGE_BYTES {
        true => {
            let end = message.floor_char_boundary(MAX_MESSAGE_BYTES);
            format!("{} ... ({} bytes in all)", &message[..end], message.len())
        }
        false => message.to_owned(),
    }
}

/// For people.
impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, at)) = &self.operator {
            write!(f, "`{name}` at {at}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// For the engine, which writes errors in this form.
impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        f.write_str(MARK)?;
        json.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_char(';')
    }
}

impl std::error::Error for TaskError {}

#[cfg(test)]
mod tests {
    use ballista_core::error::BallistaError;
    use ballista_core::serde::protobuf::FailedTask;

    use super::*;

    fn operator() -> Operator {
        Operator {
            name: "map".into(),
            at: "src/main.rs:7".into(),
        }
    }

    /// The engine's report of the error, and the engine's text of the failed job.
    fn reported(error: &Error) -> (FailedTask, String) {
        let report = FailedTask::from(BallistaError::from(TaskError::of(error).for_engine()));
        let text = format!("Job failed due to stage 1 failed: {:?}\n", report.error);
        (report, format!("{text:?}"))
    }

    #[test]
    fn errors_survive_the_engines_reports_and_texts() {
        let engine = |cause| Arc::new(cause);
        let io = || DataFusionError::IoError(std::io::Error::other("gone"));
        let exhausted = || DataFusionError::ResourcesExhausted("no more memory".into());
        for error in [
            Error::Panic {
                operator: operator(),
                message: "no \"thirteen\" /> \\ please\u{7}\n".into(),
            },
            Error::Record {
                operator: operator(),
                message: "äöü\0".into(),
            },
            Error::Operator {
                operator: operator(),
                cause: engine(DataFusionError::Execution("divided by zero".into())),
            },
            Error::Operator {
                operator: operator(),
                cause: engine(io()),
            },
            Error::Operator {
                operator: operator(),
                cause: engine(exhausted()),
            },
            Error::Engine(engine(io())),
        ] {
            let (report, text) = reported(&error);
            assert_eq!(report.retryable, error.is_retryable());
            for text in [&report.error, &text] {
                let found = TaskError::find(text).unwrap().into_error();
                assert_eq!(found.to_string(), error.to_string());
                assert_eq!(
                    std::mem::discriminant(&found),
                    std::mem::discriminant(&error)
                );
                assert_eq!(found.is_retryable(), error.is_retryable());
                assert_eq!(found.is_of_batch(), error.is_of_batch());
            }
        }
        assert_eq!(TaskError::find("nothing of ours"), None);
        assert_eq!(TaskError::find("dstreams-error:7b"), None);
    }

    #[test]
    fn reports_are_small_however_long_a_panic_message_is() {
        let error = Error::Panic {
            operator: operator(),
            message: "\u{1}".repeat(900_000),
        };
        let (report, _) = reported(&error);
        // Each control character is 6 bytes of JSON, each of these 2 digits.
        assert!(
            report.error.len() < 13 * MAX_MESSAGE_BYTES,
            "{}",
            report.error.len()
        );
        let found = TaskError::find(&report.error)
            .unwrap()
            .into_error()
            .to_string();
        assert!(found.ends_with("(900000 bytes in all)"), "{found}");
    }
}
