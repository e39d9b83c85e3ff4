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
    #[error("batch {batch} failed after {attempts} attempt(s) in {stage}: {cause}")]
    Batch {
        /// The batch.
        batch: BatchTime,
        /// How often it was tried.
        attempts: u32,
        /// The operator or output that failed.
        stage: String,
        /// Why.
        #[source]
        cause: Cause,
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
    #[error("{0}")]
    Engine(Arc<DataFusionError>),
    /// The query engine said no to an operator.
    #[error("{operator}: {cause}")]
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
            _ => "the engine".into(),
        }
    }

    /// Whether the same batch may succeed when it is tried again.
    ///
    /// Results are deterministic, so only what comes from outside (a sink, resources) is worth
    /// another attempt; a panic or a wrong value would come again.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Sink { .. } | Error::File { .. } => true,
            Error::Engine(cause) | Error::Operator { cause, .. } => matches!(
                cause.find_root(),
                DataFusionError::IoError(_) | DataFusionError::ResourcesExhausted(_)
            ),
            _ => false,
        }
    }
}

fn bound(version: &Option<BatchTime>) -> String {
    version.map_or_else(|| "none".into(), |version| version.to_string())
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
