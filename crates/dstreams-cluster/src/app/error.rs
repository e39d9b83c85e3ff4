//! Errors of a role, other than those of the program. Their texts contain their causes, as in [`dstreams::Error`].

use std::io;
use std::path::PathBuf;

/// Why a role failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program could not be built, or stopped with an error.
    #[error(transparent)]
    Program(#[from] dstreams::Error),
    /// The stop was cut short by a second signal or by its time limit.
    #[error("stopped before everything that was received was run ({unfinished} batch(es) left)")]
    Unfinished {
        /// Batches that were begun and not finished.
        unfinished: u64,
    },
    /// Nothing answers at the address.
    #[error(
        "no master answers at {address}: {reason}; is it running (`master --listen {address}`), \
         and is this its address?"
    )]
    NoAnswer {
        /// The address as given.
        address: String,
        /// The actual outcome.
        reason: String,
    },
    /// Something other than a master answers.
    #[error(
        "{address} answers, but not as a master: {reason}; give the address that the master prints"
    )]
    NoMaster {
        /// The address as given.
        address: String,
        /// Its answer.
        reason: String,
    },
    /// The secret cannot be read.
    #[error("cannot read the token from {file}: {cause}")]
    TokenFile {
        /// The file as given.
        file: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// The secret is not usable as a token.
    #[error(
        "the token of {place} cannot be used: {problem}; it is one line of visible ASCII characters"
    )]
    Token {
        /// The file or the environment variable.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// The operating system refuses threads or signal handlers.
    #[error("cannot start: {0}")]
    Start(io::Error),
}

impl Error {
    /// Whether the reader of standard output has gone (`| head`), which is no failure.
    pub fn is_closed_output(&self) -> bool {
        matches!(self, Error::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
