//! The `dstreams` command: see the engine at work, feed a running program, count words.
//!
//! One file for each subcommand (`demo`, `send`, `wordcount`); `word_count` is the program that
//! `demo` and `wordcount` run. Exit codes: 0 done, 1 failed, 2 wrong use.

mod arguments;
mod demo;
mod error;
mod memory;
mod plain;
mod send;
mod signals;
mod word_count;
mod wordcount;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

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
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Error::Start(error)),
    };
    let ended = runtime.block_on(async {
        match command {
            Command::Demo(args) => demo::run(args).await,
            Command::Send(args) => send::run(args).await,
            Command::Wordcount(args) => wordcount::run(args).await,
        }
    });
    // A thread that still waits for the outside (a terminal, a pipe) holds nobody up.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_closed_output() => ExitCode::SUCCESS,
        Err(Error::Usage(message)) => {
            let error = Cli::command().error(clap::error::ErrorKind::ValueValidation, message);
            error.exit()
        }
        Err(error) => fail(&error),
    }
}

fn fail(error: &Error) -> ExitCode {
    plain::warn(error);
    ExitCode::FAILURE
}
