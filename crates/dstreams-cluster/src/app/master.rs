//! `master`: plans, schedules and commits batches; workers do the rest.

use dstreams::{Result, StreamContext};
use serde::Serialize;
use tokio::time::interval;

use super::arguments::MasterArgs;
use super::error::Error;
use super::gather::{CHECK_INTERVAL, dismiss, gather};
use super::members::Members;
use super::signals::Signals;
use super::{json, offer_line};
use crate::{ClusterStatus, logs};

/// Run as the master: schedule and commit batches; workers receive records and run tasks
///
/// SIGTERM or Ctrl-C stops the program, its workers and its standbys after the records received so far are run and
/// committed. A standby leaves at once.
#[derive(Debug, clap::Args)]
pub struct MasterRoleArgs {
    #[command(flatten)]
    master: MasterArgs,
    /// Arguments of the program
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the role.
pub async fn run(
    args: MasterRoleArgs,
    app: &dyn Fn(&[String]) -> Result<StreamContext>,
) -> Result<(), Error> {
    let MasterRoleArgs { master, arguments } = args;
    logs::to_stderr();
    let mut signals = Signals::catch()?;
    let context = app(&arguments)?;
    let mut reporter = Reporter {
        json: master.json,
        members: Members::default(),
    };

    let drain = master.ends.drain;
    if master.standby {
        let standby = true;
        reporter.line(&StandbyLine { standby }, "standing by");
    }
    let master = tokio::select! {
        master = master.listen(context, arguments) => master?,
        // It leads nothing.
        () = signals.next() => return Ok(()),
    };
    let Some(master) = master else {
        let ended = true;
        reporter.line(&EndedLine { ended }, "the program has ended");
        return Ok(());
    };
    reporter.line(
        &MasterLine {
            master: master.address().to_owned(),
        },
        format_args!("master {}", master.address()),
    );
    let cluster = tokio::select! {
        cluster = gather(master, |status| reporter.changes(status)) => cluster?,
        // Nothing has started.
        () = signals.next() => return Ok(()),
    };

    let (running, mut ticks, mut asked) = (&cluster.running, interval(CHECK_INTERVAL), false);
    let ended = loop {
        tokio::select! {
            ended = running.await_termination(None) => break ended,
            () = signals.next() => {
                match asked {
                    false => running.request_stop_within(drain),
                    true => running.request_abort(),
                }
                asked = true;
            }
            _ = ticks.tick() => reporter.changes(&cluster.status()),
        }
    };
    dismiss(&cluster).await;
    let summary = ended?.ok_or(dstreams::Error::NotRunning)?;
    let (batches, records, set_aside) = (summary.batches, summary.records, summary.set_aside);
    let mut end = format!("ended: {records} records in {batches} batches");
    if set_aside > 0 {
        end += &format!(", {set_aside} were set aside");
    }
    let line = EndLine {
        batches,
        records,
        set_aside,
    };
    reporter.line(&line, end);
    match summary.unfinished {
        0 => Ok(()),
        unfinished => Err(Error::Unfinished { unfinished }),
    }
}

/// Prints addresses and changes. The program runs on even if nobody reads them.
struct Reporter {
    json: bool,
    members: Members,
}

impl Reporter {
    fn line(&self, object: &impl Serialize, text: impl std::fmt::Display) {
        match self.json {
            true => drop(json(object).map(offer_line)),
            false => offer_line(text),
        }
    }

    fn changes(&mut self, status: &ClusterStatus) {
        for change in self.members.changes(status) {
            self.line(&change, &change);
        }
    }
}

#[derive(Serialize)]
struct StandbyLine {
    standby: bool,
}

#[derive(Serialize)]
struct EndedLine {
    ended: bool,
}

#[derive(Serialize)]
struct MasterLine {
    master: String,
}

#[derive(Serialize)]
struct EndLine {
    batches: u64,
    records: u64,
    set_aside: u64,
}
