//! Texts of errors, and the causes that [`std::error::Error::source`] returns.

use std::fmt;
use std::io::ErrorKind;

use datafusion::arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use dstreams_control::BatchTime;

use super::{Cause, Error};

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config { setting, message } => write!(f, "setting `{setting}`: {message}"),
            Error::Locked { path, message } => write!(f, "{path} is {message}"),
            Error::LostDirectory { path } => write!(
                f,
                "{path} was removed, renamed or taken by another process while its program ran; no later input was \
                 acknowledged: restore it, and start a single process of the program"
            ),
            Error::OtherProgram { message } => {
                write!(
                    f,
                    "the checkpoint directory belongs to another program: {message}"
                )
            }
            Error::Checkpoints { message } => write!(f, "checkpoints: {message}"),
            Error::LostState { message } => f.write_str(message),
            Error::NoMaster {
                master,
                waited,
                reason,
            } => write!(
                f,
                "no master at {master} for {waited:?}: {reason}; start one there with `master --listen {master}`, or \
                 give another address"
            ),
            Error::Refused { master, reason } => {
                write!(f, "{master} refuses this worker: {reason}")
            }
            Error::Thread { what, source } => write!(
                f,
                "cannot start {what}: {source}; allow this process more threads and memory, or configure fewer threads"
            ),
            Error::Graph { operator, message } | Error::Record { operator, message } => {
                write!(f, "{operator}: {message}")
            }
            Error::Schema {
                what,
                expected,
                found,
            } => write!(f, "{what}: expected {expected}, found {found}"),
            Error::Listen { address, source } => write!(
                f,
                "cannot listen on {address}: {source}; choose another port, or 0 for a free one"
            ),
            Error::Source { stream, cause } => {
                write!(f, "source of stream `{stream}` failed: {cause}")
            }
            Error::Panic { operator, message } => {
                write!(f, "panic in the closure of {operator}: {message}")
            }
            Error::Batch {
                batch,
                attempts,
                stage,
                cause,
            } => write!(
                f,
                "batch {batch} failed after {attempts} attempt(s) in {stage}: {}{}",
                text_without_place(cause),
                advice(cause)
            ),
            Error::Task {
                worker,
                task,
                cause,
            } => write!(f, "{cause} (task {task} at {worker})"),
            Error::Sink { output, cause } => write!(f, "output {output}: {cause}"),
            Error::LostBlock { block } => write!(f, "block {block} is lost"),
            Error::Bytes { what, message } => write!(f, "bytes of {what}: {message}"),
            Error::Version { .. } | Error::Gap { .. } | Error::Duplicate { .. } => {
                fmt_version_error(self, f)
            }
            Error::File {
                action,
                path,
                source,
            } => write!(f, "cannot {action} {path}: {source}{}", remedy(source)),
            Error::Engine(cause) => f.write_str(&engine_message(cause)),
            Error::Operator { operator, cause } => {
                write!(f, "{operator}: {}", engine_message(cause))
            }
            Error::TooLarge {
                stream,
                bytes,
                most,
            } => write!(
                f,
                "a record of {bytes} bytes for stream `{stream}` is too large: on a cluster a record has {most} bytes \
                 at most; cut it into several"
            ),
            Error::TimedOut { what, waited } => write!(f, "waited {waited:?} for {what}"),
            Error::NotRunning => f.write_str("the stream context is not running"),
            Error::Internal { message } => {
                write!(f, "{message}; this is a bug in dstreams, please report it")
            }
        }
    }
}

/// The text of an error about versions of a state.
fn fmt_version_error(error: &Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error {
        Error::Version {
            asked,
            oldest,
            newest,
        } => write!(
            f,
            "version {asked} of a state cannot be read: available are {} to {}",
            bound(oldest),
            bound(newest)
        ),
        Error::Gap { batch, on, version } => write!(
            f,
            "changes of batch {batch} apply to version {}, but the state is at {}; install those between, or the whole state",
            bound(on),
            bound(version)
        ),
        Error::Duplicate { batch, key } => write!(
            f,
            "changes of batch {batch} contain key ({key}) twice; give each key one row, or delete it"
        ),
        _ => Ok(()),
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Listen { source, .. }
            | Error::File { source, .. }
            | Error::Thread { source, .. } => source.source(),
            Error::Source { cause, .. }
            | Error::Sink { cause, .. }
            | Error::Batch { cause, .. } => cause.source(),
            Error::Task { cause, .. } => cause.source(),
            Error::Engine(cause) | Error::Operator { cause, .. } => unreported_cause(cause),
            _ => None,
        }
    }
}

fn bound(version: &Option<BatchTime>) -> String {
    version.map_or_else(|| "none".into(), |version| version.to_string())
}

/// The text of an error from DataFusion, without its category and its backtrace.
#[doc(hidden)]
pub fn engine_message(error: &DataFusionError) -> String {
    match error {
        DataFusionError::Execution(message) | DataFusionError::ResourcesExhausted(message) => {
            message.clone()
        }
        DataFusionError::ArrowError(error, _) => error.to_string(),
        DataFusionError::IoError(error) => error.to_string(),
        DataFusionError::External(error) => error.to_string(),
        DataFusionError::Diagnostic(_, error) => engine_message(error),
        DataFusionError::Shared(error) => engine_message(error),
        DataFusionError::Context(what, error) => format!("{what}: {}", engine_message(error)),
        other => other.strip_backtrace(),
    }
}

/// The cause of an error from DataFusion that the text from [`engine_message`] does not include.
fn unreported_cause(error: &DataFusionError) -> Option<&(dyn std::error::Error + 'static)> {
    use std::error::Error;
    match error {
        DataFusionError::IoError(error) => error.source(),
        DataFusionError::External(error) => error.source(),
        DataFusionError::Diagnostic(_, error) | DataFusionError::Context(_, error) => {
            unreported_cause(error)
        }
        DataFusionError::Shared(error) => unreported_cause(error),
        DataFusionError::ArrowError(error, _) => match error.as_ref() {
            ArrowError::ExternalError(error) => error.source(),
            ArrowError::IoError(_, error) => error.source(),
            _ => None,
        },
        // DataFusion's text includes the cause.
        _ => None,
    }
}

/// Why a batch failed, without the operator or output, which the message has named already.
fn text_without_place(cause: &Cause) -> String {
    match cause.downcast_ref::<Error>() {
        Some(Error::Panic { message, .. }) => format!("a panic: {message}"),
        Some(Error::Record { message, .. } | Error::Graph { message, .. }) => message.clone(),
        Some(Error::Operator { cause, .. }) => engine_message(cause),
        Some(Error::Sink { cause, .. }) => cause.to_string(),
        _ => cause.to_string(),
    }
}

/// Advice for a failed batch, if there is any.
fn advice(cause: &Cause) -> &'static str {
    match cause.downcast_ref::<Error>() {
        Some(Error::Sink { .. }) => {
            "; fix the destination of this output, then restart the program"
        }
        Some(error) if error.is_of_batch() => {
            "; the same records fail again: change the program (`try_map` and similar operators reject single records), \
             or let it set such batches aside (`OnFailure::SetAside`)"
        }
        Some(error) if error.is_retryable() => "; fix the cause, then restart the program",
        _ => "",
    }
}

/// Advice for a failed file operation, if there is any.
fn remedy(source: &std::io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free space there",
        ErrorKind::PermissionDenied => "; grant this process access",
        ErrorKind::ReadOnlyFilesystem => "; choose a writable location",
        ErrorKind::NotADirectory => "; choose a path that is, or can become, a directory",
        _ => "",
    }
}
