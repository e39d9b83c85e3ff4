//! The one error type of the library.
//!
//! Every message names what was wrong, where, and what to do. It says its cause too, so that a log line or a command has
//! to print one text only. [`std::error::Error::source`] is therefore what the cause itself was caused by: a printer of
//! chains prints nothing twice, and nothing is left out. The cause stays typed, in the field of its variant
//! (`cause`, `source`).

mod text;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use dstreams_control::{BatchTime, BlockId};

#[doc(hidden)]
pub use text::said;

/// Result of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A cause kept from another library, shared so that an error can be handed to several waiters.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// What sources and sinks of users return: any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// A setting has a value that cannot work.
    Config {
        /// Name of the setting.
        setting: &'static str,
        /// What is wrong with it and what fits.
        message: String,
    },
    /// A directory is used by another process, or by another output of this one.
    Locked {
        /// The directory.
        path: String,
        /// By what, and what to do.
        message: String,
    },
    /// The directory of a program was removed, renamed or taken while the program ran.
    LostDirectory {
        /// The directory.
        path: String,
    },
    /// The directory of a program has what another program wrote.
    OtherProgram {
        /// What differs and what to do.
        message: String,
    },
    /// Checkpoints are not those that were written, not there, or cannot be used.
    Checkpoints {
        /// What is wrong, where, and what to do.
        message: String,
    },
    /// Blocks or state of a cluster are gone with the workers that held them.
    LostState {
        /// What is gone, and what to do.
        message: String,
    },
    /// A worker found no master, for as long as it may try.
    NoMaster {
        /// The address of the master, as given.
        master: String,
        /// How long it tried.
        waited: Duration,
        /// What was seen at last.
        reason: String,
    },
    /// A master does not take a worker.
    Refused {
        /// The address of the master, as given.
        master: String,
        /// Why.
        reason: String,
    },
    /// A thread cannot be started.
    Thread {
        /// What it was for.
        what: &'static str,
        /// What the operating system said.
        source: Arc<std::io::Error>,
    },
    /// The graph cannot be built as described.
    Graph {
        /// The operator with the place in the program that built it.
        operator: Operator,
        /// What is wrong and what to do.
        message: String,
    },
    /// Columns do not have the shape a record type needs.
    Schema {
        /// Whose columns.
        what: String,
        /// The columns that are needed.
        expected: String,
        /// The columns that are there.
        found: String,
    },
    /// An address could not be opened.
    Listen {
        /// The address as given.
        address: String,
        /// What the operating system said.
        source: Arc<std::io::Error>,
    },
    /// A source ended with an error.
    Source {
        /// Its stream.
        stream: String,
        /// What it said.
        cause: Cause,
    },
    /// A user's closure panicked.
    Panic {
        /// The operator with the place in the program that built it.
        operator: Operator,
        /// The panic's message.
        message: String,
    },
    /// One record (or what it became) cannot be handled by an operator.
    Record {
        /// The operator with the place in the program that built it.
        operator: Operator,
        /// What is wrong and what to do.
        message: String,
    },
    /// A batch could not be run; the context has stopped.
    Batch {
        /// The batch.
        batch: BatchTime,
        /// How often it was tried.
        attempts: u32,
        /// The operator or output that failed; on a cluster with the task and its worker, where one failed.
        stage: String,
        /// Why.
        cause: Cause,
    },
    /// A task of a batch failed on a worker of a cluster.
    Task {
        /// The name of the worker, as its log and the status of the cluster have it.
        worker: String,
        /// Its number in its stage.
        task: usize,
        /// What it failed with.
        cause: Box<Error>,
    },
    /// A sink could not prepare or commit.
    Sink {
        /// Name of the output.
        output: String,
        /// What it said.
        cause: Cause,
    },
    /// A block of a batch is not held any more.
    LostBlock {
        /// The block.
        block: BlockId,
    },
    /// Bytes from a file or another process cannot be read.
    Bytes {
        /// What they were to be.
        what: String,
        /// What is wrong with them.
        message: String,
    },
    /// A version of a state cannot be read: it is let go, or not there yet.
    Version {
        /// The version that was asked for.
        asked: BatchTime,
        /// The oldest that can be read; all since the beginning where there is none.
        oldest: Option<BatchTime>,
        /// The newest; none where nothing was installed.
        newest: Option<BatchTime>,
    },
    /// What a batch changed in a state does not fit the version that the state has.
    Gap {
        /// The batch of the changes.
        batch: BatchTime,
        /// The version they were built on; none for a whole state, which nothing may come before.
        on: Option<BatchTime>,
        /// The version of the state.
        version: Option<BatchTime>,
    },
    /// What a batch changed in a state has a key twice.
    Duplicate {
        /// The batch of the changes.
        batch: BatchTime,
        /// The key, as text.
        key: String,
    },
    /// A file or a directory could not be used.
    File {
        /// What was to be done.
        action: &'static str,
        /// Its path.
        path: String,
        /// What the operating system said.
        source: Arc<std::io::Error>,
    },
    /// The query engine said no.
    Engine(Arc<DataFusionError>),
    /// The query engine said no to an operator.
    Operator {
        /// The operator with the place in the program that built it.
        operator: Operator,
        /// What the engine said.
        cause: Arc<DataFusionError>,
    },
    /// A record is larger than what workers of a cluster send to each other.
    TooLarge {
        /// The stream that it was for.
        stream: String,
        /// Its size.
        bytes: usize,
        /// What is possible.
        most: usize,
    },
    /// The context has stopped (or was never started).
    NotRunning,
    /// What cannot be, unless this library has a mistake.
    Internal {
        /// What was seen.
        message: String,
    },
}

impl Error {
    /// A file or directory that could not be used.
    pub(crate) fn file(action: &'static str, path: &Path, source: std::io::Error) -> Error {
        Error::File {
            action,
            path: path.display().to_string(),
            source: Arc::new(source),
        }
    }

    /// What cannot be.
    #[doc(hidden)]
    pub fn internal(message: impl Into<String>) -> Error {
        let message = message.into();
        Error::Internal { message }
    }

    /// A thread that did not end its work: it panicked, or the program ends.
    pub(crate) fn of_thread(ended: tokio::task::JoinError) -> Error {
        match ended.is_panic() {
            true => Error::internal(format!("a thread of the program ended: {ended}")),
            false => Error::NotRunning,
        }
    }

    /// The same error as that of `operator`, unless it names another already.
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

    /// What failed in a task, without where.
    pub(crate) fn beside_its_task(self) -> Error {
        match self {
            Error::Task { cause, .. } => *cause,
            other => other,
        }
    }

    /// Whether the same batch may succeed when it is tried again.
    ///
    /// Results are deterministic, so only what comes from outside (a sink, resources) is worth
    /// another attempt; a panic or a wrong value would come again.
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

    /// Whether a batch that fails so failed for what is in it or what its program does, and not for what it ran on, such
    /// as a disk or a worker that was lost: only then is it set aside
    /// ([`OnFailure::SetAside`](crate::OnFailure::SetAside)).
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
        // Errors of our own nodes travel through the engine as `External`: unwrap the outermost, which
        // names its operator. The root may be what it was caused by.
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

/// Names an operator of the graph: what it is and where the program built it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// Name of the operator, such as `flat_map`.
    pub name: String,
    /// `file:line` of the call that built it.
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
    fn a_batch_is_to_blame_for_what_is_in_it_alone() {
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
    fn a_batch_says_where_and_why_once() {
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
            text.contains("in output counts: nobody answers; see to"),
            "{text}"
        );
        assert!(batch(Error::NotRunning).ends_with("the stream context is not running"));
    }

    /// An error with a cause of its own, which its text leaves to printers of chains.
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

    /// What a program prints that prints an error and what caused it.
    fn chain(error: &dyn std::error::Error) -> Vec<String> {
        let first: Option<&dyn std::error::Error> = Some(error);
        std::iter::successors(first, |error| error.source())
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_chain_of_causes_says_each_once() {
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
