//! `status`: the status of a cluster, from its master.

use std::fmt::Write;
use std::time::Duration;

use arrow_flight::Action;
use bytesize::ByteSize;
use comfy_table::{CellAlignment, Table, presets};
use tonic::Code;

use super::arguments::{Masters, Secret};
use super::error::Error;
use super::members::Change;
use super::{json, print_line};
use crate::data::{Peers, Token};
use crate::{ClusterStatus, WorkerStatus};

/// How long a master may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Show the status of a cluster
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    masters: Masters,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    secret: Secret,
}

/// Asks the master, and prints the answer.
pub async fn print_status(args: &StatusArgs) -> Result<(), Error> {
    let (master, status) = leader(&args.masters, args.secret.read()?).await?;
    match args.json {
        true => print_line(json(&status)?),
        false => print_line(table(master, &status).trim_end()),
    }
}

/// Asks the masters in turn: of several only one leads, and the others do not listen. Returns the first that answers, with
/// its status.
pub(super) async fn leader(
    masters: &Masters,
    token: Option<String>,
) -> Result<(&str, ClusterStatus), Error> {
    let mut failed = None;
    for master in masters.addresses() {
        match ask(master, token.clone()).await {
            Ok(status) => return Ok((master, status)),
            Err(error @ Error::NoAnswer { .. }) => failed = failed.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    Err(failed.unwrap_or_else(|| Error::NoAnswer {
        address: String::new(),
        reason: "no address was given".to_owned(),
    }))
}

/// Asks a master for the status of its cluster.
pub async fn ask(master: &str, token: Option<String>) -> Result<ClusterStatus, Error> {
    let answer = call(master, token, Action::new("status", ""), ANSWER_TIMEOUT).await?;
    serde_json::from_slice(&answer).map_err(|error| Error::NoMaster {
        address: master.to_owned(),
        reason: error.to_string(),
    })
}

/// Sends an action to a master; returns its answer.
pub(super) async fn call(
    master: &str,
    token: Option<String>,
    action: Action,
    patience: Duration,
) -> Result<Vec<u8>, Error> {
    let no_answer = |reason: String| Error::NoAnswer {
        address: master.to_owned(),
        reason,
    };
    let no_master = |reason: String| Error::NoMaster {
        address: master.to_owned(),
        reason,
    };
    let peers = Peers::new(Token::new(token));
    let asked = async {
        let mut client = peers.client(master)?;
        client
            .do_action(peers.request(action))
            .await?
            .into_inner()
            .message()
            .await
    };
    let answer = match tokio::time::timeout(patience, asked).await {
        Ok(Ok(answer)) => answer.unwrap_or_default(),
        Ok(Err(status)) => {
            let said = status.message().to_owned();
            return Err(match status.code() {
                Code::Unauthenticated | Code::Unimplemented => no_master(said),
                _ => no_answer(said),
            });
        }
        Err(_) => return Err(no_answer(format!("no answer within {patience:?}"))),
    };
    Ok(answer.body.to_vec())
}

/// The status as text for people.
fn table(master: &str, status: &ClusterStatus) -> String {
    let (batches, records) = (status.batches, status.records);
    let mut text = format!("master {master}: {records} records in {batches} batches\n");
    if !status.runs {
        text += "no batch runs: the master waits for workers, or resumes the program\n";
    }
    if let Some(last) = &status.last {
        let (delay, processing) = (last.scheduling_delay(), last.processing_time());
        let _ = writeln!(
            text,
            "last batch {}: {} records, scheduling delay {:.1} ms, processing {:.1} ms, {} attempt(s)",
            last.batch,
            last.records,
            delay.as_secs_f64() * 1e3,
            processing.as_secs_f64() * 1e3,
            last.attempts,
        );
    }
    for lost in &status.lost {
        let (id, pid, why, after_ms) = (lost.id, lost.pid, lost.why, lost.after_ms);
        let _ = writeln!(
            text,
            "worker {id} is gone (pid {pid}) after {after_ms} ms: {why}"
        );
    }
    if status.adopted + u64::from(status.rebuilds) > 0 {
        let (read, rebuilds) = (status.adopted, status.rebuilds);
        let partitions = status.rebuilt_partitions;
        let _ = writeln!(
            text,
            "{read} journal(s) of lost workers read, state rebuilt {rebuilds} time(s), {partitions} partition(s)"
        );
    }
    if let copies @ 1.. = status.task_copies {
        let won = status.task_copies_won;
        let _ = writeln!(
            text,
            "slow tasks copied {copies} time(s), {won} time(s) the copy was first"
        );
    }
    for worker in status.workers.iter().filter(|worker| worker.slow) {
        let (slow, pid) = (worker.id, worker.pid);
        let _ = writeln!(text, "{}", Change::Slow { slow, pid });
    }
    if let (tries @ 1.., Some(error)) = &status.checkpoint_failures {
        let _ = writeln!(text, "no checkpoint was written in {tries} tries: {error}");
    }
    for (operator, rejected) in &status.rejected {
        let _ = writeln!(
            text,
            "{rejected} records were rejected by {operator}, and nothing reads them"
        );
    }
    if let Some((batch, why)) = &status.last_set_aside {
        let records = status.set_aside;
        let _ = writeln!(
            text,
            "{records} records were set aside, the last of batch {batch}: {why}"
        );
    }
    let streams = status.streams.iter().map(|stream| {
        let listening = stream.listening.clone();
        let listening = listening.unwrap_or_else(|| "every worker".to_owned());
        [
            stream.name.clone(),
            listening,
            stream.dead_letters.to_string(),
        ]
    });
    text += "\n";
    text += &rows(["stream", "listening", "dead letters"], streams);
    text += "\n";
    let head = [
        "worker",
        "pid",
        "ingest",
        "cores",
        "blocks",
        "block memory",
        "cached",
        "partitions",
        "standby for",
        "memory",
    ];
    text += &rows(head, status.workers.iter().map(worker));
    text
}

fn worker(worker: &WorkerStatus) -> [String; 10] {
    let size = |bytes: u64| ByteSize(bytes).display().iec().to_string();
    let list = |partitions: &[u32]| match partitions {
        [] => "-".to_owned(),
        all => {
            let all: Vec<_> = all.iter().map(u32::to_string).collect();
            all.join(" ")
        }
    };
    [
        worker.id.to_string(),
        worker.pid.to_string(),
        worker.ingest.clone(),
        worker.cores.to_string(),
        worker.blocks.to_string(),
        size(worker.block_memory as u64),
        worker.kept.to_string(),
        list(&worker.holds),
        list(&worker.stands_by),
        size(worker.resident_memory),
    ]
}

/// A table without lines, columns below their names.
fn rows<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column
            .set_padding((0, 2))
            .set_cell_alignment(CellAlignment::Left);
    }
    let lines: Vec<_> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n") + "\n"
}
