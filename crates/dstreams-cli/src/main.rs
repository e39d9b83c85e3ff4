//! The `dstreams` command: see the engine at work, feed a running program, count words.
//!
//! One file for each subcommand (`demo`, `send`, `wordcount`, `master`, `checkpoint`; `worker`, `status` and `drain` are of
//! `dstreams_cluster`); `word_count` is the program that they run. Exit codes: 0 done, 1 failed,
//! 2 wrong use.

mod arguments;
mod checkpoint;
mod demo;
mod ending;
mod error;
mod master;
mod memory;
mod plain;
mod send;
mod word_count;
mod wordcount;
mod workers;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use dstreams_cluster::app::{self, DrainArgs, StatusArgs, WorkerArgs};

use crate::error::Error;

/// Fewer threads meet in the allocator's locks: batches are built and freed on all cores.
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
    Demo(demo::Args),
    Send(send::Args),
    Wordcount(wordcount::Args),
    Master(master::Args),
    Worker(WorkerArgs),
    Status(StatusArgs),
    Drain(DrainArgs),
    Checkpoint(checkpoint::Args),
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
            plain::warn(error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Error> {
    if let Command::Worker(args) = &command {
        // It has threads of its own.
        return Ok(app::work(args, &word_count::describe)?);
    }
    let runtime = tokio::runtime::Runtime::new().map_err(Error::Start)?;
    let ended = runtime.block_on(async {
        match command {
            Command::Demo(args) => demo::run(args).await,
            Command::Send(args) => send::run(args).await,
            Command::Wordcount(args) => wordcount::run(args).await,
            Command::Master(args) => master::run(args).await,
            Command::Status(args) => Ok(app::print_status(&args).await?),
            Command::Drain(args) => Ok(app::drain(&args).await?),
            Command::Checkpoint(args) => checkpoint::run(args),
            Command::Worker(_) => Ok(()),
        }
    });
    // A thread that still waits for the outside (a terminal, a pipe) holds nobody up.
    runtime.shutdown_background();
    ended
}
