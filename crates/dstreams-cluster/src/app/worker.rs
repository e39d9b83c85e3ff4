//! `worker`: receives records, stores blocks and state, runs tasks.

use std::process;
use std::thread;

use dstreams::{Result, StreamContext};
use serde::Serialize;

use super::arguments::WorkerArgs;
use super::error::Error;
use super::signals::Signals;
use super::{json, offer_line};
use crate::{Membership, logs, run_worker};

/// Runs a worker until its program has ended; `app` builds the program from the master's arguments.
///
/// SIGTERM or Ctrl-C ends the process at once, with exit status 0: the master continues with the other
/// workers. Must not be called inside a tokio runtime.
pub fn work(
    args: &WorkerArgs,
    app: &dyn Fn(&[String]) -> Result<StreamContext>,
) -> Result<(), Error> {
    logs::to_stderr();
    leave_on_signal()?;
    let options = args.options()?;
    let joined = |joined: &Membership<'_>| {
        let (worker, ingest, master) = (joined.worker, joined.address, joined.master);
        let pid = process::id();
        let line = JoinedLine {
            worker,
            pid,
            ingest,
            master,
        };
        // Never blocks, even if nobody reads the line.
        match args.json {
            true => drop(json(&line).map(offer_line)),
            false => offer_line(format_args!(
                "worker {worker} at {ingest}, of the master {master}"
            )),
        }
    };
    Ok(run_worker(&options, app, &joined)?)
}

#[derive(Serialize)]
struct JoinedLine<'a> {
    worker: u32,
    pid: u32,
    ingest: &'a str,
    master: &'a str,
}

/// Exits on a signal. Otherwise the embedded engine would wait for its tasks, whose results nobody needs.
fn leave_on_signal() -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Start)?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals::catch()?
    };
    let wait = move || {
        runtime.block_on(signals.next());
        process::exit(0)
    };
    let thread = thread::Builder::new().name("signals".to_owned());
    thread.spawn(wait).map_err(Error::Start)?;
    Ok(())
}
