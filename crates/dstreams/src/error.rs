//! The one error type of the library.
//!
//! Every message names what is wrong, where, and what to do. It includes its cause, so that a log line or a command
//! prints one text only. [`std::error::Error::source`] therefore returns the cause of the cause: a printer of chains
//! repeats nothing and omits nothing. The typed cause is in the field of its variant (`cause`, `source`).

mod text;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use dstreams_control::{BatchTime, BlockId};

#[doc(hidden)]
pub use text::engine_message;

/// Result of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A cause from another library, shared so that several waiters can get the error.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// Any error: the error type of user-defined sources and sinks.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An error of the library.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// A setting has a value that is not possible.
    Config {
        /// Name of the setting.
        setting: &'static str,
        /// What is wrong with it, and which values are possible.
        message: String,
    },
    /// A directory is used by another process, or by another output of this one.
    Locked {
        /// The directory.
        path: String,
        /// Its user, and what to do.
        message: String,
    },
    /// The directory of a program was removed, renamed or taken while the program ran.
    LostDirectory {
        /// The directory.
        path: String,
    },
    /// The directory belongs to another program.
    OtherProgram {
        /// What differs and what to do.
        message: String,
    },
    /// Checkpoints are damaged, missing or cannot be used.
    Checkpoints {
        /// What is wrong, where, and what to do.
        message: String,
    },
    /// All workers that had some blocks or state of a cluster are lost.
    LostState {
        /// What is lost, and what to do.
        message: String,
    },
    /// A worker found no master within its time limit.
    NoMaster {
        /// The address of the master, as given.
        master: String,
        /// How long it tried.
        waited: Duration,
        /// The last failure.
        reason: String,
    },
    /// A master refuses a worker.
    Refused {
        /// The address of the master, as given.
        master: String,
        /// Why.
        reason: String,
    },
    /// A thread cannot be started.
    Thread {
        /// Its purpose.
        what: &'static str,
        /// The error of the operating system.
        source: Arc<std::io::Error>,
    },
    /// The graph cannot be built as described.
    Graph {
        /// The operator, with the source location that built it.
        operator: Operator,
        /// What is wrong and what to do.
        message: String,
    },
    /// Columns do not match those that a record type needs.
    Schema {
        /// Where the columns are from.
        what: String,
        /// The required columns.
        expected: String,
        /// The columns found.
        found: String,
    },
    /// Cannot listen on an address.
    Listen {
        /// The address as given.
        address: String,
        /// The error of the operating system.
        source: Arc<std::io::Error>,
    },
    /// A source ended with an error.
    Source {
        /// Its stream.
        stream: String,
        /// Its error.
        cause: Cause,
    },
    /// A closure of the program panicked.
    Panic {
        /// The operator, with the source location that built it.
        operator: Operator,
        /// The panic's message.
        message: String,
    },
    /// An operator cannot process one record, or a result made from it.
    Record {
        /// The operator, with the source location that built it.
        operator: Operator,
        /// What is wrong and what to do.
        message: String,
    },
    /// A batch failed for good; the context has stopped.
    Batch {
        /// The batch.
        batch: BatchTime,
        /// Number of attempts.
        attempts: u32,
        /// The operator or output that failed; on a cluster also the task and its worker, if a task failed.
        stage: String,
        /// Why.
        cause: Cause,
    },
    /// A task of a batch failed on a worker of a cluster.
    Task {
        /// The worker's name in its log and in the status of the cluster.
        worker: String,
        /// The task's number in its stage.
        task: usize,
        /// Its error.
        cause: Box<Error>,
    },
    /// A sink failed to prepare or commit.
    Sink {
        /// Name of the output.
        output: String,
        /// Its error.
        cause: Cause,
    },
    /// A block of a batch is lost.
    LostBlock {
        /// The block.
        block: BlockId,
    },
    /// Bytes from a file or another process cannot be decoded.
    Bytes {
        /// Their expected content.
        what: String,
        /// What is wrong with them.
        message: String,
    },
    /// A version of a state cannot be read: it was released, or does not exist yet.
    Version {
        /// The requested version.
        asked: BatchTime,
        /// The oldest readable version; `None` if all from the first one are.
        oldest: Option<BatchTime>,
        /// The newest version; `None` if nothing was installed.
        newest: Option<BatchTime>,
    },
    /// The changes of a batch do not apply to the current version of a state.
    Gap {
        /// The batch of the changes.
        batch: BatchTime,
        /// The version they apply to; `None` for a whole state, which applies only to an empty one.
        on: Option<BatchTime>,
        /// The current version of the state.
        version: Option<BatchTime>,
    },
    /// The changes of a batch contain a key twice.
    Duplicate {
        /// The batch of the changes.
        batch: BatchTime,
        /// The key, as text.
        key: String,
    },
    /// An operation on a file or a directory failed.
    File {
        /// The operation.
        action: &'static str,
        /// Its path.
        path: String,
        /// The error of the operating system.
        source: Arc<std::io::Error>,
    },
    /// An error from DataFusion.
    Engine(Arc<DataFusionError>),
    /// An error from DataFusion in an operator.
    Operator {
        /// The operator, with the source location that built it.
        operator: Operator,
        /// DataFusion's error.
        cause: Arc<DataFusionError>,
    },
    /// A record is larger than workers of a cluster can send to each other.
    TooLarge {
        /// Its stream.
        stream: String,
        /// Its size.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// A test waited for something that did not come: see [`testing`](crate::testing).
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
    },
    /// The context has stopped (or was never started).
    NotRunning,
    /// A bug in this library.
    Internal {
        /// The inconsistency that was found.
        message: String,
    },
}

impl Error {
    /// An operation on a file or directory that failed.
    pub(crate) fn file(action: &'static str, path: &Path, source: std::io::Error) -> Error {
        Error::File {
            action,
            path: path.display().to_string(),
            source: Arc::new(source),
        }
    }

    /// A bug in this library.
    #[doc(hidden)]
    pub fn internal(message: impl Into<String>) -> Error {
        let message = message.into();
        Error::Internal { message }
    }

    /// A thread that did not finish: it panicked, or the program is ending.
    pub(crate) fn of_thread(ended: tokio::task::JoinError) -> Error {
        match ended.is_panic() {
            true => Error::internal(format!("a thread of the program ended: {ended}")),
            false => Error::NotRunning,
        }
    }

    /// This error with `operator` as its place, unless it names an operator already.
    #[doc(hidden)]
    pub fn of(self, operator: &Operator) -> Error {
        match self {
            Error::Engine(cause) => Error::Operator {
                operator: operator.clone(),
                cause,
            },
            other => other,
        }
    }

    /// The operator or output that failed, for messages.
    pub(crate) fn place(&self) -> String {
        match self {
            Error::Panic { operator, .. }
            | Error::Record { operator, .. }
            | Error::Operator { operator, .. }
            | Error::Graph { operator, .. } => operator.to_string(),
            Error::Sink { output, .. } => format!("output {output}"),
            Error::Task {
                worker,
                task,
                cause,
            } => format!("{} (task {task} at {worker})", cause.place()),
            _ => "the engine".into(),
        }
    }

    /// The failure of a task, without the task and the worker.
    pub(crate) fn beside_its_task(self) -> Error {
        match self {
            Error::Task { cause, .. } => *cause,
            other => other,
        }
    }

    /// Whether another attempt at the same batch may succeed.
    ///
    /// Results are deterministic, so only external failures (a sink, resources) are worth another attempt; a panic or
    /// a wrong value would recur.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Sink { .. } | Error::File { .. } => true,
            Error::Task { cause, .. } => cause.is_retryable(),
            Error::Engine(cause) | Error::Operator { cause, .. } => matches!(
                cause.find_root(),
                DataFusionError::IoError(_) | DataFusionError::ResourcesExhausted(_)
            ),
            _ => false,
        }
    }

    /// Whether the batch's records or the program caused the failure, and not the environment, such as a disk or a
    /// lost worker: only such a batch is set aside ([`OnFailure::SetAside`](crate::OnFailure::SetAside)).
    pub fn is_of_batch(&self) -> bool {
        match self {
            Error::Operator { cause, .. } => {
                !matches!(cause.find_root(), DataFusionError::IoError(_))
            }
            Error::Task { cause, .. } => cause.is_of_batch(),
            Error::Panic { .. }
            | Error::Record { .. }
            | Error::Sink { .. }
            | Error::Graph { .. }
            | Error::Schema { .. }
            | Error::Duplicate { .. } => true,
            _ => false,
        }
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        // Errors of our own nodes travel through DataFusion as `External`. Unwrap the outermost one, which names its
        // operator; the root may be its cause.
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(cause) = next {
            if let Some(ours) = cause.downcast_ref::<Error>() {
                return ours.clone();
            }
            next = cause.source();
        }
        Error::Engine(Arc::new(error))
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        DataFusionError::External(Box::new(error))
    }
}

impl From<ArrowError> for Error {
    fn from(error: ArrowError) -> Self {
        Error::from(DataFusionError::from(error))
    }
}

/// An operator of the graph: its name and the source location that built it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// Name of the operator, such as `flat_map`.
    pub name: String,
    /// File and line of the call that built it, as `file:line`.
    pub at: String,
}

impl Operator {
    /// An operator built at `location`.
    pub fn new(name: impl Into<String>, location: &std::panic::Location<'_>) -> Self {
        Operator {
            name: name.into(),
            at: format!("{}:{}", location.file(), location.line()),
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` at {}", self.name, self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator() -> Operator {
        Operator {
            name: "map".into(),
            at: "src/main.rs:7".into(),
        }
    }

    fn of_engine(cause: DataFusionError) -> Error {
        let (operator, cause) = (operator(), Arc::new(cause));
        Error::Operator { operator, cause }
    }

    fn batch(cause: Error) -> String {
        let (batch, attempts, stage) = (BatchTime(300), 1, cause.place());
        let cause = Arc::new(cause.beside_its_task());
        let error = Error::Batch {
            batch,
            attempts,
            stage,
            cause,
        };
        error.to_string()
    }

    #[test]
    fn only_errors_of_records_or_the_program_are_of_the_batch() {
        let io = || std::io::Error::other("gone");
        let panic = Error::Panic {
            operator: operator(),
            message: "no".into(),
        };
        let in_task = |cause: Error| Error::Task {
            worker: "worker-3".into(),
            task: 2,
            cause: Box::new(cause),
        };
        let exhausted = DataFusionError::ResourcesExhausted("no more".into());
        for (error, is_of_batch, is_retryable) in [
            (panic.clone(), true, false),
            (in_task(panic), true, false),
            (of_engine(exhausted), true, true),
            (
                of_engine(DataFusionError::Execution("no".into())),
                true,
                false,
            ),
            (of_engine(DataFusionError::IoError(io())), false, true),
            (
                in_task(of_engine(DataFusionError::IoError(io()))),
                false,
                true,
            ),
            (Error::file("read", Path::new("/x"), io()), false, true),
            (Error::NotRunning, false, false),
        ] {
            assert_eq!(error.is_of_batch(), is_of_batch, "{error}");
            assert_eq!(error.is_retryable(), is_retryable, "{error}");
        }
    }

    #[test]
    fn batch_errors_name_place_and_cause_once() {
        let cast = ArrowError::CastError("no number".into());
        let cast = DataFusionError::ArrowError(Box::new(cast), None);
        let text = batch(Error::Task {
            worker: "worker-3".into(),
            task: 2,
            cause: Box::new(of_engine(cast.context("select"))),
        });
        let begins = format!(
            "batch {} failed after 1 attempt(s) in `map` at src/main.rs:7 (task 2 at worker-3): \
             select: Cast error: no number; the same records",
            BatchTime(300)
        );
        assert!(text.starts_with(&begins), "{text}");
        let sink = Error::Sink {
            output: "counts".into(),
            cause: BoxError::from("nobody answers").into(),
        };
        let text = batch(sink);
        assert!(
            text.contains("in output counts: nobody answers; fix the destination"),
            "{text}"
        );
        assert!(batch(Error::NotRunning).ends_with("the stream context is not running"));
    }

    /// An error whose own cause is left to printers of chains.
    #[derive(Debug)]
    struct Outer(Inner);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the outer cause")
        }
    }

    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    #[derive(Debug)]
    struct Inner;

    impl fmt::Display for Inner {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the inner cause")
        }
    }

    impl std::error::Error for Inner {}

    /// The output of a program that prints an error and its chain of causes.
    fn chain(error: &dyn std::error::Error) -> Vec<String> {
        let first: Option<&dyn std::error::Error> = Some(error);
        std::iter::successors(first, |error| error.source())
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn chains_of_causes_contain_each_cause_once() {
        let io = || Arc::new(std::io::Error::other(Outer(Inner)));
        let cause = || -> Cause { Arc::new(Outer(Inner)) };
        let (stream, address) = (String::from("lines"), String::from("127.0.0.1:1"));
        let sink = Error::Sink {
            output: "counts".into(),
            cause: cause(),
        };
        let in_task = |cause: Error| Error::Task {
            worker: "worker-3".into(),
            task: 2,
            cause: Box::new(cause),
        };
        let in_batch = |cause: Error| Error::Batch {
            batch: BatchTime(300),
            attempts: 1,
            stage: cause.place(),
            cause: Arc::new(cause),
        };
        let external = || DataFusionError::External(Box::new(Outer(Inner)));
        let arrow = ArrowError::from_external_error(Box::new(Outer(Inner)));
        let arrow = DataFusionError::ArrowError(Box::new(arrow), None);
        let read = DataFusionError::IoError(std::io::Error::other(Outer(Inner)));
        for error in [
            Error::Listen {
                address,
                source: io(),
            },
            Error::Source {
                stream,
                cause: cause(),
            },
            Error::Thread {
                what: "a thread",
                source: io(),
            },
            Error::file("read", Path::new("/x"), std::io::Error::other(Outer(Inner))),
            Error::Engine(Arc::new(external())),
            Error::Engine(Arc::new(DataFusionError::Shared(Arc::new(external())))),
            of_engine(external().context("select")),
            of_engine(arrow),
            of_engine(read),
            in_task(of_engine(external())),
            in_batch(of_engine(external())),
            in_batch(in_task(of_engine(external()))),
            in_batch(sink.clone()),
            sink,
        ] {
            let texts = chain(&error);
            let all = texts.join("\n");
            assert_eq!(
                all.matches("the outer cause").count(),
                1,
                "{error:?}: {all}"
            );
            assert_eq!(
                all.matches("the inner cause").count(),
                1,
                "{error:?}: {all}"
            );
            assert!(texts[0].contains("the outer cause"), "{all}");
        }
        assert_eq!(chain(&Error::NotRunning).len(), 1);
    }
}
