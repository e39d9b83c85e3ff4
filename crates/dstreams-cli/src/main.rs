//! The `dstreams` command: see the engine at work, feed a running program, count words.
//!
//! `commands` has one file or folder for each subcommand (`worker`, `status` and `drain` come from `dstreams_cluster`);
//! `program` is the word count that they run; `cluster` starts and watches workers. Exit codes: 0 done, 1 failed,
//! 2 wrong usage.

mod arguments;
mod cluster;
mod commands;
mod ending;
mod error;
mod memory;
mod output;

mod program;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use dstreams_cluster::app::{self, DrainArgs, StatusArgs, WorkerArgs};

use crate::error::Error;

/// Less lock contention: batches are built and freed on all cores.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Discretized Streams: a stream as a sequence of small batches.
#[derive(Debug, Parser)]
#[command(name = "dstreams", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(commands::demo::DemoArgs),
    Send(commands::send::SendArgs),
    Wordcount(commands::wordcount::WordcountArgs),
    Master(commands::master::WordcountMasterArgs),
    Worker(WorkerArgs),
    Status(StatusArgs),
    Drain(DrainArgs),
    Checkpoint(commands::checkpoint::CheckpointArgs),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_closed_output() => ExitCode::SUCCESS,
        Err(Error::Usage(message)) => {
            let error = Cli::command().error(clap::error::ErrorKind::ValueValidation, message);
            error.exit()
        }
        Err(error) => {
            output::warn(error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Error> {
    if let Command::Worker(args) = &command {
        // It creates its own runtimes.
        return Ok(app::work(args, &program::describe)?);
    }
    let runtime = tokio::runtime::Runtime::new().map_err(Error::Start)?;
    let ended = runtime.block_on(async {
        match command {
            Command::Demo(args) => commands::demo::run(args).await,
            Command::Send(args) => commands::send::run(args).await,
            Command::Wordcount(args) => commands::wordcount::run(args).await,
            Command::Master(args) => commands::master::run(args).await,
            Command::Status(args) => Ok(app::print_status(&args).await?),
            Command::Drain(args) => Ok(app::drain(&args).await?),
            Command::Checkpoint(args) => commands::checkpoint::run(args),
            Command::Worker(_) => Ok(()),
        }
    });
    // Does not wait for threads that block on the outside (a terminal, a pipe).
    runtime.shutdown_background();
    ended
}
