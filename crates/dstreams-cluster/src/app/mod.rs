//! Roles: one program, described once, runs on one machine, as master or as worker.
//!
//! [`main`] gives a program the subcommands `local`, `master`, `worker`, `status`, `drain` and `replay`. Programs with
//! a command line of their own use its parts: arguments for clap, functions that run a role, and output.

mod arguments;
mod drain;
mod error;
mod gather;
mod local;
mod master;
mod members;
mod replay;
mod signals;
mod status;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dstreams::{Result, StreamContext};

pub use arguments::{ClusterArgs, Drain, MasterArgs, Secret, WorkerArgs, address, duration};
pub use drain::{DrainArgs, drain};
pub use dstreams::internal::Console;
pub use error::Error;
pub use gather::{DRAIN, dismiss, gather};
pub use members::{Change, Members};
pub use replay::{ReplayArgs, replay};
pub use signals::Signals;
pub use status::{StatusArgs, ask, print_status};
pub use worker::work;

/// Runs in the role that the command line names.
#[derive(Debug, Parser)]
struct Roles {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    Local(local::LocalRoleArgs),
    Master(master::MasterRoleArgs),
    Worker(WorkerArgs),
    Status(StatusArgs),
    Drain(DrainArgs),
    Replay(ReplayArgs),
}

/// The `main` of a program: runs it in the role that the command line names.
///
/// | subcommand | what it does |
/// |---|---|
/// | `local [-- ARGS]` | runs the program in this process |
/// | `master --listen HOST:PORT [-- ARGS]` | waits for workers, then schedules and commits batches |
/// | `worker --master HOST:PORT` | receives records and runs tasks until the program ends |
/// | `status --master HOST:PORT [--json]` | prints the status of a cluster |
/// | `drain --master HOST:PORT WORKER` | moves a worker's blocks and state to others; then it exits |
/// | `replay DIR --batch T [-- ARGS]` | runs one batch that was set aside in DIR |
///
/// `app` describes the program from the arguments behind `--`, which workers get from the master. It
/// must build the same graph in every process: a worker with another graph cannot join.
///
/// SIGTERM or Ctrl-C on the master (or in `local`) stops the program after the records received so far are run and
/// committed, within a minute or `--drain`; a second signal cuts that short. A worker leaves at once.
///
/// Exit status: 0 when the program has ended, 1 after a failure (standard error says what, where and
/// what to do), 2 for wrong usage.
///
/// ```no_run
/// use std::{process::ExitCode, time::Duration};
/// use dstreams::{Clients, StreamContext, agg::count, text::words};
///
/// fn main() -> ExitCode {
///     dstreams_cluster::main(|_arguments| {
///         let mut ctx = StreamContext::new(Duration::from_millis(500))?;
///         // On a cluster every worker accepts records of clients, at its own address.
///         let lines = ctx.clients::<String>("lines", &Clients::listen("127.0.0.1:0"));
///         lines
///             .flat_map::<String>(|line, out| words(line).for_each(|word| out.push(word)))
///             .keyed()
///             .window_agg(Duration::from_secs(10), Duration::from_millis(500), count())?
///             .top(10)
///             .print(10);
///         Ok(ctx)
///     })
/// }
/// ```
pub fn main(app: impl Fn(&[String]) -> Result<StreamContext>) -> ExitCode {
    let ended = match Roles::parse().role {
        Role::Worker(args) => work(&args, &app),
        Role::Local(args) => on_threads(local::run(&args, &app)),
        Role::Master(args) => on_threads(master::run(args, &app)),
        Role::Status(args) => on_threads(print_status(&args)),
        Role::Drain(args) => on_threads(drain(&args)),
        Role::Replay(args) => on_threads(replay(&args, &app)),
    };
    match ended {
        Err(error) if !error.is_closed_output() => {
            Console::stderr().offer(format!("error: {error}\n"));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

fn on_threads(role: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let runtime = tokio::runtime::Runtime::new().map_err(Error::Start)?;
    let ended = runtime.block_on(role);
    // Does not wait for threads that block on the outside.
    runtime.shutdown_background();
    ended
}

/// Prints a line on standard output; never blocks if nobody reads it.
fn offer_line(line: impl std::fmt::Display) {
    Console::stdout().offer(format!("{line}\n"));
}

/// Prints one line and flushes it; may block. For processes that a signal can end at any time.
fn print_line(line: impl std::fmt::Display) -> Result<(), Error> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let printed = writeln!(out, "{line}").and_then(|()| out.flush());
    printed.map_err(Error::Output)
}

/// `object` as one line of JSON.
fn json(object: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string(object).map_err(|error| Error::Output(error.into()))
}
