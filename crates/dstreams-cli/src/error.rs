//! Errors of commands: what, where, and what to do about it.

use std::process::ExitStatus;
use std::{fmt, io};

use dstreams_cluster::app;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Arguments that do not fit together.
    #[error("{0}")]
    Usage(String),
    /// A role failed.
    #[error("{}", of_role(.0))]
    Role(#[from] app::Error),
    /// The program could not be built, or stopped with an error.
    #[error("{}", of_program(.0))]
    Program(#[from] dstreams::Error),
    /// The stop was cut short by a second signal or by its time limit.
    #[error("stopped before everything that was received was counted{}", left(*.unfinished))]
    Unfinished {
        /// Batches that were begun and not finished, if their number is known.
        unfinished: Option<u64>,
    },
    /// Nobody read the output, and a signal ended the wait for it.
    #[error("nobody reads standard output: {0}")]
    NotShown(String),
    /// The last process of a role ended.
    #[error("{0}; no {role} is left", role = .0.role)]
    NoneLeft(ChildEnd),
    /// The demo has counted fewer lines than were acknowledged.
    #[error(
        "{acknowledged} lines were acknowledged and only {counted} counted; please report this"
    )]
    Lost {
        /// Lines that were acknowledged to the client.
        acknowledged: u64,
        /// Lines in committed batches.
        counted: u64,
    },
    /// The demo has counted a word otherwise than it was sent.
    #[error("{word:?} was sent {sent} times and counted {counted} times; please report this")]
    Miscounted {
        /// The word.
        word: String,
        /// How often it is in the acknowledged lines.
        sent: i64,
        /// How often it was counted.
        counted: i64,
    },
    /// Sending failed.
    #[error("{}", of_client(.0))]
    Client(#[from] dstreams_client::Error),
    /// A file (or standard input) cannot be read.
    #[error("cannot read {name}: {source}")]
    Input {
        /// The file as given.
        name: String,
        /// The operating system's error.
        source: io::Error,
    },
    /// A line of the input cannot be sent.
    #[error("{name}, line {line}: {problem}; the lines before it were sent")]
    Line {
        /// The file as given.
        name: String,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// A signal came before the end of the input.
    #[error("stopped by a signal before the end of {name}")]
    Interrupted {
        /// The file as given.
        name: String,
    },
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// The terminal cannot be used.
    #[error("cannot use the terminal: {0}; try --plain")]
    Terminal(io::Error),
    /// The operating system refuses threads or processes, or processes do not start in time.
    #[error("cannot start: {0}")]
    Start(io::Error),
}

impl Error {
    /// Whether the reader of standard output has gone (`| head`), which is no failure.
    pub fn is_closed_output(&self) -> bool {
        match self {
            Error::Output(error) => error.kind() == io::ErrorKind::BrokenPipe,
            Error::Role(error) => error.is_closed_output(),
            _ => false,
        }
    }
}

fn left(unfinished: Option<u64>) -> String {
    unfinished.map_or(String::new(), |batches| {
        format!(" ({batches} batch(es) left)")
    })
}

fn of_role(error: &app::Error) -> String {
    match error {
        app::Error::Program(error) => of_program(error),
        _ => error.to_string(),
    }
}

/// For an address that cannot be opened, the name of the stream is left out.
fn of_program(error: &dstreams::Error) -> String {
    if let dstreams::Error::Source { cause, .. } = error
        && let Some(listen @ dstreams::Error::Listen { .. }) = cause.downcast_ref()
    {
        return listen.to_string();
    }
    error.to_string()
}

fn of_client(error: &dstreams_client::Error) -> String {
    use dstreams_client::Error::{Connect, NoAnswer, Rejected};
    match error {
        Connect { .. } | NoAnswer { .. } => format!(
            "{error}; is the program running, and is this its address for clients \
             (`dstreams wordcount` has one with --clients; a master has one once a worker has joined)?"
        ),
        Rejected { message, tally, .. } if tally.acknowledged + tally.unacknowledged == 0 => {
            format!("the program refuses: {message}")
        }
        _ => error.to_string(),
    }
}

/// The role of a child process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Master,
    Worker,
}

impl Role {
    /// The subcommand that it runs.
    pub fn subcommand(self) -> &'static str {
        match self {
            Role::Master => "master",
            Role::Worker => "worker",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.subcommand())
    }
}

/// A child process that has ended.
#[derive(Debug)]
pub struct ChildEnd {
    pub role: Role,
    pub pid: u32,
    /// Its number, if it is a worker that had one.
    pub worker: Option<u32>,
    pub status: ExitStatus,
}

impl fmt::Display for ChildEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ChildEnd { pid, status, .. } = self;
        match (self.role, self.worker) {
            (Role::Master, _) => write!(f, "a master (pid {pid}) ended: {status}"),
            (_, Some(worker)) => write!(f, "worker {worker} (pid {pid}) ended: {status}"),
            (_, None) => write!(
                f,
                "a worker (pid {pid}) ended before it had joined: {status}"
            ),
        }
    }
}
