//! All errors of sending, in one enum.
//!
//! Three outcomes are kept apart ([`Outcome`]): *rejected* (refused, and would be refused again), *failed*
//! (nothing was stored, trying later may work) and *unknown* (given up with records on the way). Whether
//! trying again can help is decided in one place, [`Error::is_retryable`]; the client's own reconnecting
//! asks the same function.
//!
//! The text of an error says its cause down to the root, and [`std::error::Error::source`] is nothing: whoever prints a
//! chain prints nothing twice. The cause stays typed, in the field `cause`.

use std::sync::Arc;
use std::time::Duration;

use arrow::error::ArrowError;
use tonic::{Code, Status};

/// How many records were safe, and how many not, when an error ended a sender.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Records the server has acknowledged: they are safe.
    pub acknowledged: u64,
    /// Records taken by `send` and not acknowledged: each may or may not be stored.
    pub unacknowledged: u64,
}

/// The fate of the records after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Refused, by this crate or by the server, and would be refused again.
    Rejected,
    /// Nothing was stored; a later retry may work.
    Failed,
    /// Given up while records were in flight: they may or may not be stored.
    Unknown,
}

/// Why records were not sent, or are not known to be safe. Cheap to clone; later calls return it again.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Invalid [`Options`](crate::Options) or addresses.
    #[error("cannot start with these options: {detail}")]
    Options {
        /// The setting, and its valid values.
        detail: String,
    },

    /// Bytes given as text are not UTF-8. None of them were taken.
    #[error("the text is not UTF-8 after {valid_up_to} bytes; none of it was taken")]
    NotText {
        /// Bytes before the first invalid one.
        valid_up_to: usize,
    },

    /// A single record is larger than a message may be. It was not taken.
    #[error("a record of {bytes} bytes is over the limit of {limit} bytes per message")]
    TooLarge {
        /// Size of the record, in bytes.
        bytes: usize,
        /// [`Options::max_message_bytes`](crate::Options::max_message_bytes).
        limit: usize,
    },

    /// A batch has another schema than its sender. It was not taken.
    #[error("the batch does not fit the sender's schema: expected ({expected}), got ({got})")]
    WrongSchema {
        /// Columns of the sender.
        expected: String,
        /// Columns of the batch.
        got: String,
    },

    /// Arrow could not write a batch, or its schema, as IPC.
    #[error("cannot encode a batch: {cause}")]
    Encode {
        /// What Arrow says.
        cause: Arc<ArrowError>,
    },

    /// The server refuses: unknown stream, wrong schema, too large a message, or not allowed.
    #[error(
        "stream {stream:?} is refused ({code:?}): {message}; {} records are acknowledged, {} are not",
        tally.acknowledged, tally.unacknowledged
    )]
    Rejected {
        /// The stream's name.
        stream: String,
        /// The gRPC code; see the table of [`protocol`](crate::protocol#refusals).
        code: Code,
        /// The server's text: what it expected and what it got.
        message: String,
        /// How many records were safe.
        tally: Tally,
    },

    /// The server requires a token, or another one. Retrying does not help.
    #[error(
        "{address} {}: {message}; {} records are acknowledged, {} are not",
        if *token_given { "rejects the given token" }
        else { "requires a token, and none is given (Options::token)" },
        tally.acknowledged, tally.unacknowledged
    )]
    Unauthenticated {
        /// The address, `host:port`: of a master or of a worker.
        address: String,
        /// [`Options::token`](crate::Options::token) was sent.
        token_given: bool,
        /// The server's text.
        message: String,
        /// How many records were safe.
        tally: Tally,
    },

    /// The master knows the stream, but has no worker for it now.
    #[error("{address} has no worker for stream {stream:?} now: {message}")]
    NoWorker {
        /// The stream's name.
        stream: String,
        /// The master's address, `host:port`.
        address: String,
        /// The master's text, or that it named no worker.
        message: String,
    },

    /// No connection to this address.
    #[error("cannot reach {address}: {}", root(cause))]
    Connect {
        /// The address, `host:port`.
        address: String,
        /// What the transport says.
        cause: Arc<tonic::transport::Error>,
    },

    /// A connection did not open, or its first answer did not come, in time.
    #[error("{address} did not answer within {after:?}")]
    NoAnswer {
        /// The address, `host:port`.
        address: String,
        /// The time waited.
        after: Duration,
    },

    /// A connection broke, or the server answered that a retry may help.
    #[error("the connection to {address} broke: {}", status.message())]
    Broken {
        /// The address, `host:port`.
        address: String,
        /// The gRPC status.
        status: Status,
    },

    /// The server is silent while batches wait for their acknowledgement.
    #[error("{address} has acknowledged nothing for {after:?}")]
    NoAck {
        /// The address, `host:port`.
        address: String,
        /// [`Options::ack_timeout`](crate::Options::ack_timeout).
        after: Duration,
    },

    /// The server's answer does not conform to this protocol.
    #[error("{address} does not speak the protocol of dstreams: {detail}")]
    Protocol {
        /// The address, `host:port`.
        address: String,
        /// The expected and the actual content.
        detail: String,
    },

    /// All tries are used up; the last one's error is the cause.
    #[error(
        "gave up on stream {stream:?} after {tries} tries in {elapsed:?}: {cause}{}; \
         {} records are acknowledged, {} are not",
        before_it(before), tally.acknowledged, tally.unacknowledged
    )]
    GaveUp {
        /// The stream's name.
        stream: String,
        /// Tries since the last acknowledgement.
        tries: u32,
        /// Time since the first of them failed.
        elapsed: Duration,
        /// How many records were safe.
        tally: Tally,
        /// The latest errors of other addresses, a master's included: the newest last, at most eight.
        before: Vec<Error>,
        /// The error of the last try.
        cause: Box<Error>,
    },

    /// The sender's background task is gone: the runtime it ran on was shut down.
    #[error(
        "the runtime of this sender was shut down; {} records are acknowledged, {} are not",
        tally.acknowledged, tally.unacknowledged
    )]
    Stopped {
        /// How many records were safe.
        tally: Tally,
    },
}

impl Error {
    /// Can a retry succeed? [`Error::outcome`] says what it may do to records in flight: only after
    /// [`Outcome::Unknown`] can it store them twice.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Options { .. }
            | Self::NotText { .. }
            | Self::TooLarge { .. }
            | Self::WrongSchema { .. }
            | Self::Encode { .. }
            | Self::Rejected { .. }
            | Self::Unauthenticated { .. }
            | Self::Protocol { .. }
            | Self::Stopped { .. } => false,
            Self::NoWorker { .. }
            | Self::Connect { .. }
            | Self::NoAnswer { .. }
            | Self::Broken { .. }
            | Self::NoAck { .. }
            | Self::GaveUp { .. } => true,
        }
    }

    /// The fate of the records after this error.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Options { .. }
            | Self::NotText { .. }
            | Self::TooLarge { .. }
            | Self::WrongSchema { .. }
            | Self::Encode { .. }
            | Self::Unauthenticated { .. }
            | Self::Rejected { .. } => Outcome::Rejected,
            Self::GaveUp { tally, .. } | Self::Stopped { tally } if tally.unacknowledged > 0 => {
                Outcome::Unknown
            }
            Self::Broken { .. } | Self::NoAck { .. } => Outcome::Unknown,
            Self::NoWorker { .. }
            | Self::Connect { .. }
            | Self::NoAnswer { .. }
            | Self::Protocol { .. }
            | Self::GaveUp { .. }
            | Self::Stopped { .. } => Outcome::Failed,
        }
    }

    /// How many records were safe when a sender ended; `None` for errors that do not end one.
    pub fn tally(&self) -> Option<Tally> {
        match self {
            Self::Rejected { tally, .. }
            | Self::Unauthenticated { tally, .. }
            | Self::GaveUp { tally, .. }
            | Self::Stopped { tally } => Some(*tally),
            _ => None,
        }
    }

    /// The address concerned, if any.
    pub(crate) fn address(&self) -> Option<&str> {
        match self {
            Self::Unauthenticated { address, .. }
            | Self::NoWorker { address, .. }
            | Self::Connect { address, .. }
            | Self::NoAnswer { address, .. }
            | Self::Broken { address, .. }
            | Self::NoAck { address, .. }
            | Self::Protocol { address, .. } => Some(address),
            _ => None,
        }
    }

    /// The same error with the sender's counts.
    pub(crate) fn with_tally(mut self, now: Tally) -> Self {
        match &mut self {
            Self::Rejected { tally, .. }
            | Self::Unauthenticated { tally, .. }
            | Self::GaveUp { tally, .. }
            | Self::Stopped { tally } => *tally = now,
            _ => {}
        }
        self
    }

    /// A status that ended a call: a refusal, or a reason to try again.
    pub(crate) fn from_status(
        stream: &str,
        address: &str,
        token_given: bool,
        status: Status,
    ) -> Self {
        match status.code() {
            Code::Unauthenticated => Self::Unauthenticated {
                address: address.to_string(),
                token_given,
                message: status.message().to_string(),
                tally: Tally::default(),
            },
            Code::NotFound
            | Code::InvalidArgument
            | Code::OutOfRange
            | Code::FailedPrecondition
            | Code::Unimplemented
            | Code::PermissionDenied
            | Code::AlreadyExists
            | Code::DataLoss => Self::Rejected {
                stream: stream.to_string(),
                code: status.code(),
                message: status.message().to_string(),
                tally: Tally::default(),
            },
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable => Self::Broken {
                address: address.to_string(),
                status,
            },
        }
    }
}

impl From<ArrowError> for Error {
    fn from(cause: ArrowError) -> Self {
        Self::Encode {
            cause: Arc::new(cause),
        }
    }
}

fn before_it(before: &[Error]) -> String {
    let texts: Vec<_> = before.iter().rev().map(ToString::to_string).collect();
    match texts.is_empty() {
        true => String::new(),
        false => format!("; before that {}", texts.join("; ")),
    }
}

/// The innermost cause: transport errors only say "transport error" themselves.
fn root(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_final_and_broken_connections_are_not() {
        let of = |code| Error::from_status("s", "a:1", false, Status::new(code, "why"));
        for code in [
            Code::NotFound,
            Code::InvalidArgument,
            Code::OutOfRange,
            Code::Unauthenticated,
        ] {
            assert!(!of(code).is_retryable(), "{code:?}");
            assert_eq!(of(code).outcome(), Outcome::Rejected, "{code:?}");
        }
        for code in [
            Code::Unavailable,
            Code::Aborted,
            Code::Unknown,
            Code::Internal,
        ] {
            assert!(of(code).is_retryable(), "{code:?}");
            assert_eq!(of(code).outcome(), Outcome::Unknown, "{code:?}");
        }
    }

    #[test]
    fn the_text_says_the_cause_and_no_chain_repeats_it() {
        let wrong = tonic::transport::Endpoint::from_shared("no address").unwrap_err();
        let why = root(&wrong);
        let connect = Error::Connect {
            address: "a:1".into(),
            cause: Arc::new(wrong),
        };
        let encode = Error::from(ArrowError::CastError("no number".into()));
        let gave_up = Error::GaveUp {
            stream: "s".into(),
            tries: 3,
            elapsed: Duration::from_secs(1),
            tally: Tally::default(),
            before: Vec::new(),
            cause: Box::new(connect.clone()),
        };
        for (error, why) in [(connect, &*why), (encode, "no number"), (gave_up, &*why)] {
            assert_eq!(error.to_string().matches(why).count(), 1, "{error}");
            assert!(std::error::Error::source(&error).is_none(), "{error}");
        }
    }

    #[test]
    fn errors_that_end_a_sender_have_its_counts_and_those_of_a_connection_its_address() {
        let tally = Tally::default();
        let (stream, address) = (String::from("s"), String::from("a:1"));
        let no_ack = Error::NoAck {
            address: address.clone(),
            after: Duration::ZERO,
        };
        let gave_up = Error::GaveUp {
            stream: stream.clone(),
            tries: 1,
            elapsed: Duration::ZERO,
            tally,
            before: Vec::new(),
            cause: Box::new(no_ack.clone()),
        };
        let of = |code| Error::from_status("s", "a:1", false, Status::new(code, "why"));
        let counted = Tally {
            acknowledged: 5,
            unacknowledged: 2,
        };
        for (error, counts, at) in [
            (of(Code::NotFound), true, None),
            (of(Code::Unauthenticated), true, Some("a:1")),
            (gave_up, true, None),
            (Error::Stopped { tally }, true, None),
            (no_ack, false, Some("a:1")),
            (of(Code::Unavailable), false, Some("a:1")),
        ] {
            assert_eq!(error.address(), at, "{error}");
            assert_eq!(error.tally(), counts.then(Tally::default), "{error}");
            let error = error.with_tally(counted);
            assert_eq!(error.tally(), counts.then_some(counted), "{error}");
        }
    }

    #[test]
    fn giving_up_is_unknown_only_with_records_on_the_way() {
        let no_ack = |address: &str| Error::NoAck {
            address: address.into(),
            after: Duration::ZERO,
        };
        let gave_up = |unacknowledged| Error::GaveUp {
            stream: "s".into(),
            tries: 3,
            elapsed: Duration::from_secs(1),
            tally: Tally {
                acknowledged: 5,
                unacknowledged,
            },
            before: vec![no_ack("m:1"), no_ack("b:1")],
            cause: Box::new(no_ack("a:1")),
        };
        assert_eq!(gave_up(0).outcome(), Outcome::Failed);
        assert_eq!(gave_up(1).outcome(), Outcome::Unknown);
        let text = gave_up(1).to_string();
        assert!(
            text.contains("5 records are acknowledged, 1 are not"),
            "{text}"
        );
        let at: Vec<_> = ["a:1", "b:1", "m:1"]
            .map(|address| text.find(address))
            .to_vec();
        assert!(at.is_sorted() && at[0].is_some(), "newest first: {text}");
    }
}
