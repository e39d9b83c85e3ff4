//! [`TaskError`]: an error of a task on its way to the master.
//!
//! The engine has one text for the error of a task, which it quotes and wraps on the way. So the worker writes what is
//! known of the error into that text as hexadecimal digits, which no quoting changes, and of bounded size. The master
//! reads it from the task's own report, before the engine makes the text of a failed job of it.

use std::fmt::{self, Write};
use std::sync::Arc;

use datafusion::error::DataFusionError;
use dstreams::internal::said;
use dstreams::{Error, Operator};
use serde::{Deserialize, Serialize};

/// What comes before the digits.
const MARK: &str = "dstreams-error:";
/// Bytes of a message: a panic can say anything, at any length, and reports of tasks are messages of bounded size.
const LONGEST: usize = 16 << 10;

/// The error of a task, as it travels to the master.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskError {
    kind: Kind,
    operator: Option<(String, String)>,
    message: String,
    /// Whether the same work may succeed when it is done again.
    pub retryable: bool,
    /// Whether it failed for what is in the batch.
    of_batch: bool,
    /// Which task of which worker.
    task: Option<(String, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Kind {
    Panic,
    Record,
    /// The query engine said no to an operator.
    Operator,
    Other,
}

impl TaskError {
    pub fn of(error: &Error) -> Self {
        let (kind, operator, message) = match error {
            Error::Panic { operator, message } => (Kind::Panic, Some(operator), message.clone()),
            Error::Record { operator, message } => (Kind::Record, Some(operator), message.clone()),
            Error::Operator { operator, cause } => (Kind::Operator, Some(operator), said(cause)),
            Error::Engine(cause) => (Kind::Other, None, said(cause)),
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

    /// The same, of this task.
    pub fn at(mut self, worker: &str, task: usize) -> Self {
        self.task = Some((clip(worker), task));
        self
    }

    /// What the engine or the machine did not manage: worth another try.
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

    /// The error in a text of the engine, if there is one.
    pub fn find(text: &str) -> Option<Self> {
        let from = text.find(MARK)? + MARK.len();
        let digits = text[from..]
            .bytes()
            .map_while(|digit| (digit as char).to_digit(16));
        let digits: Vec<u8> = digits.map(|digit| digit as u8).collect();
        let bytes = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]);
        serde_json::from_slice(&bytes.collect::<Vec<_>>()).ok()
    }

    /// The error that it was.
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

    /// The error for the engine, which tries again by itself what looks like an I/O error to it.
    pub fn for_engine(self) -> DataFusionError {
        match self.retryable {
            true => DataFusionError::IoError(std::io::Error::other(self)),
            false => DataFusionError::External(Box::new(self)),
        }
    }
}

/// The beginning of a message that is too long.
pub fn clip(message: &str) -> String {
    match message.len() > LONGEST {
        true => {
            let end = message.floor_char_boundary(LONGEST);
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

    /// As the engine makes a report of it, and of the report the text of a failed job.
    fn reported(error: &Error) -> (FailedTask, String) {
        let report = FailedTask::from(BallistaError::from(TaskError::of(error).for_engine()));
        let text = format!("Job failed due to stage 1 failed: {:?}\n", report.error);
        (report, format!("{text:?}"))
    }

    #[test]
    fn an_error_is_found_again_in_what_the_engine_makes_of_it() {
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
    fn a_report_is_small_whatever_a_panic_says() {
        let error = Error::Panic {
            operator: operator(),
            message: "\u{1}".repeat(900_000),
        };
        let (report, _) = reported(&error);
        // Each control character is 6 bytes of JSON, each of these 2 digits.
        assert!(report.error.len() < 13 * LONGEST, "{}", report.error.len());
        let found = TaskError::find(&report.error)
            .unwrap()
            .into_error()
            .to_string();
        assert!(found.ends_with("(900000 bytes in all)"), "{found}");
    }
}
