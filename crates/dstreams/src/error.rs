//! The one error type of the library.
//!
//! Sources stay typed to the end: what failed below is reachable through
//! [`std::error::Error::source`]. Every message names what was wrong, where, and what to do.

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use datafusion::error::DataFusionError;
use dstreams_control::{BatchTime, BlockId};

/// Result of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A cause kept from another library, shared so that an error can be handed to several waiters.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// What sources and sinks of users return: any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting has a value that cannot work.
    #[error("setting `{setting}`: {message}")]
    Config {
        /// Name of the setting.
        setting: &'static str,
        /// What is wrong with it and what fits.
        message: String,
    },
    /// The graph cannot be built as described.
    #[error("{operator}: {message}")]
    Graph {
        /// The operator with the place in the program that built it.
        operator: Operator,
        /// What is wrong and what to do.
        message: String,
    },
    /// Columns do not have the shape a record type needs.
    #[error("{what}: expected {expected}, found {found}")]
    Schema {
        /// Whose columns.
        what: String,
        /// The columns that are needed.
        expected: String,
        /// The columns that are there.
        found: String,
    },
    /// An address could not be opened.
    #[error("cannot listen on {address}: {source}; choose another port, or 0 for a free one")]
    Listen {
        /// The address as given.
        address: String,
        /// What the operating system said.
        source: Arc<std::io::Error>,
    },
    /// A source ended with an error.
    #[error("source of stream `{stream}` failed: {cause}")]
    Source {
        /// Its stream.
        stream: String,
        /// What it said.
        #[source]
        cause: Cause,
    },
    /// A user's closure panicked.
    #[error("panic in the closure of {operator}: {message}")]
    Panic {
        /// The operator with the place in the program that built it.
        operator: Operator,
        /// The panic's message.
        message: String,
    },
    /// One record (or what it became) cannot be handled by an operator.
    #[error("{operator}: {message}")]
    Record {
        /// The operator with the place in the program that built it.
        operator: Operator,
        /// What is wrong and what to do.
        message: String,
    },
    /// A batch could not be run; the context has stopped.
    #[error(
        "batch {batch} failed after {attempts} attempt(s) in {stage}: {}{}",
        beside_its_place(cause),
        what_to_do(cause)
    )]
    Batch {
        /// The batch.
        batch: BatchTime,
        /// How often it was tried.
        attempts: u32,
        /// The operator or output that failed; on a cluster with the task and its worker, where one failed.
        stage: String,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// A task of a batch failed on a worker of a cluster.
    #[error("{cause} (task {task} at {worker})")]
    Task {
        /// The name of the worker, as its log and the status of the cluster have it.
        worker: String,
        /// Its number in its stage.
        task: usize,
        /// What it failed with.
        #[source]
        cause: Box<Error>,
    },
    /// A sink could not prepare or commit.
    #[error("output {output}: {cause}")]
    Sink {
        /// Name of the output.
        output: String,
        /// What it said.
        #[source]
        cause: Cause,
    },
    /// A block of a batch is not held any more.
    #[error("block {block} is not held")]
    LostBlock {
        /// The block.
        block: BlockId,
    },
    /// Bytes from a file or another process cannot be read.
    #[error("bytes of {what}: {message}")]
    Bytes {
        /// What they were to be.
        what: String,
        /// What is wrong with them.
        message: String,
    },
    /// A version of a state cannot be read: it is let go, or not there yet.
    #[error(
        "version {asked} of a state cannot be read: it has those from {} to {}",
        bound(oldest),
        bound(newest)
    )]
    Version {
        /// The version that was asked for.
        asked: BatchTime,
        /// The oldest that can be read; all since the beginning where there is none.
        oldest: Option<BatchTime>,
        /// The newest; none where nothing was installed.
        newest: Option<BatchTime>,
    },
    /// What a batch changed in a state does not fit the version that the state has.
    #[error(
        "changes of batch {batch} are for version {}, and the state has {}; install those between, or all anew",
        bound(on),
        bound(version)
    )]
    Gap {
        /// The batch of the changes.
        batch: BatchTime,
        /// The version they were built on; none for a whole state, which nothing may come before.
        on: Option<BatchTime>,
        /// The version of the state.
        version: Option<BatchTime>,
    },
    /// What a batch changed in a state has a key twice.
    #[error("changes of batch {batch} have key ({key}) twice; give each key one row, or delete it")]
    Duplicate {
        /// The batch of the changes.
        batch: BatchTime,
        /// The key, as text.
        key: String,
    },
    /// A file or a directory could not be used.
    #[error("cannot {action} {path}: {source}{}", remedy(source))]
    File {
        /// What was to be done.
        action: &'static str,
        /// Its path.
        path: String,
        /// What the operating system said.
        source: Arc<std::io::Error>,
    },
    /// The query engine said no.
    #[error("{}", said(.0))]
    Engine(Arc<DataFusionError>),
    /// The query engine said no to an operator.
    #[error("{operator}: {}", said(cause))]
    Operator {
        /// The operator with the place in the program that built it.
        operator: Operator,
        /// What the engine said.
        #[source]
        cause: Arc<DataFusionError>,
    },
    /// A record is larger than what workers of a cluster send to each other.
    #[error(
        "a record of {bytes} bytes for stream `{stream}` is too large: on a cluster a record has {most} bytes at most; \
         cut it into several"
    )]
    TooLarge {
        /// The stream that it was for.
        stream: String,
        /// Its size.
        bytes: usize,
        /// What is possible.
        most: usize,
    },
    /// The context has stopped (or was never started).
    #[error("the stream context is not running")]
    NotRunning,
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

fn bound(version: &Option<BatchTime>) -> String {
    version.map_or_else(|| "none".into(), |version| version.to_string())
}

/// What the query engine said, without how it sorts its errors, and without where in it they arose.
#[doc(hidden)]
pub fn said(error: &DataFusionError) -> String {
    match error {
        DataFusionError::Execution(message) | DataFusionError::ResourcesExhausted(message) => {
            message.clone()
        }
        DataFusionError::ArrowError(error, _) => error.to_string(),
        DataFusionError::IoError(error) => error.to_string(),
        DataFusionError::External(error) => error.to_string(),
        DataFusionError::Diagnostic(_, error) => said(error),
        DataFusionError::Shared(error) => said(error),
        DataFusionError::Context(what, error) => format!("{what}: {}", said(error)),
        other => other.strip_backtrace(),
    }
}

/// Why a batch failed, without the operator or output, which the message names before.
fn beside_its_place(cause: &Cause) -> String {
    match cause.downcast_ref::<Error>() {
        Some(Error::Panic { message, .. }) => format!("a panic: {message}"),
        Some(Error::Record { message, .. } | Error::Graph { message, .. }) => message.clone(),
        Some(Error::Operator { cause, .. }) => said(cause),
        Some(Error::Sink { cause, .. }) => cause.to_string(),
        _ => cause.to_string(),
    }
}

/// What to do about a batch that failed, where that is known.
fn what_to_do(cause: &Cause) -> &'static str {
    match cause.downcast_ref::<Error>() {
        Some(Error::Sink { .. }) => "; see to what it writes to, then start the program again",
        Some(error) if error.is_of_batch() => {
            "; the same records fail again: change the program (`try_map` and the like reject single records), or let it \
             set such batches aside (`OnFailure::SetAside`)"
        }
        Some(error) if error.is_retryable() => "; see to that, then start the program again",
        _ => "",
    }
}

/// What to do about a file that could not be used, where that is known.
fn remedy(source: &std::io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free space there",
        ErrorKind::PermissionDenied => "; give this process the right to it",
        ErrorKind::ReadOnlyFilesystem => "; choose a place that can be written",
        ErrorKind::NotADirectory => "; choose a path that is, or can become, a directory",
        _ => "",
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

impl From<datafusion::arrow::error::ArrowError> for Error {
    fn from(error: datafusion::arrow::error::ArrowError) -> Self {
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
    use datafusion::arrow::error::ArrowError;

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
}
