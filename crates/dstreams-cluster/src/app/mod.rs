//! Roles: one program, described once, runs on this machine alone, as master or as worker.
//!
//! [`main`] gives a program the subcommands `local`, `master`, `worker`, `status`, `drain` and `replay`. Programs with
//! a command line of their own put its parts together: arguments for clap, what runs a role, and
//! what is printed.

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

/// A program that runs as what its command line says.
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

/// The `main` of a program: it runs as what its command line says.
///
/// | subcommand | what it does |
/// |---|---|
/// | `local [-- ARGS]` | runs the program in this process |
/// | `master --listen HOST:PORT [-- ARGS]` | decides and commits; waits for workers first |
/// | `worker --master HOST:PORT` | receives and runs tasks, until the program ends |
/// | `status --master HOST:PORT [--json]` | says how a cluster is doing |
/// | `drain --master HOST:PORT WORKER` | has a worker leave without a loss |
/// | `replay DIR --batch T [-- ARGS]` | runs a batch that was set aside in DIR alone |
///
/// `app` describes the program from the arguments behind `--`, which workers get from the master. It
/// must build the same graph in every process: what differs is refused when a worker joins.
///
/// SIGTERM or Ctrl-C on the master (or in `local`) ends the program: what was received is run and
/// committed first, for a minute at most or as `--drain` says; a second signal cuts that short. A worker leaves.
///
/// Exit status: 0 when the program has ended, 1 when something failed (what, where and what to do
/// is on standard error), 2 for wrong use.
///
/// ```no_run
/// use std::{process::ExitCode, time::Duration};
/// use dstreams::{Clients, StreamContext, agg::count, text::words};
///
/// fn main() -> ExitCode {
///     dstreams_cluster::main(|_arguments| {
///         let mut ctx = StreamContext::new(Duration::from_millis(500))?;
///         // On a cluster every worker takes what clients send, at its own address.
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
    // A thread that still waits for the outside holds nobody up.
    runtime.shutdown_background();
    ended
}

/// Says something on standard output that nobody has to read.
fn tell(line: impl std::fmt::Display) {
    Console::stdout().offer(format!("{line}\n"));
}

/// Prints one line, at once. For processes that end by a signal, whatever they wait for.
fn say(line: impl std::fmt::Display) -> Result<(), Error> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let said = writeln!(out, "{line}").and_then(|()| out.flush());
    said.map_err(Error::Output)
}

/// Something as one line of JSON.
fn json(object: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string(object).map_err(|error| Error::Output(error.into()))
}
