//! The output of `wordcount` and `master`, for programs or for people.

use std::net::SocketAddr;
use std::time::Duration;

use dstreams_cluster::WorkerStatus;
use dstreams_cluster::app::Console;
use serde::Serialize;

use crate::commands::table;
use crate::error::Error;
use crate::output::{self, json, print_line, warn};
use crate::program::{BatchLine, BatchResults, LINES};

/// Prints the batches of `wordcount` and `master`, as JSON or as a table.
pub struct Report {
    pub json: bool,
    pub interval: Duration,
    records: u64,
    /// Printed batches, read or not.
    batches: u64,
    dead_letters: u64,
}

impl Report {
    pub fn new(json: bool, interval: Duration) -> Self {
        Report {
            json,
            interval,
            records: 0,
            batches: 0,
            dead_letters: 0,
        }
    }

    /// Prints the addresses of a single process.
    pub async fn listening(
        &self,
        text: SocketAddr,
        clients: Option<SocketAddr>,
    ) -> Result<(), Error> {
        if self.json {
            let listening = Listening {
                listening: text,
                clients,
            };
            return print_line(json(&listening)?).await;
        }
        print_line(format_args!(
            "listening on {text}: nc {} {} < FILE",
            text.ip(),
            text.port()
        ))
        .await?;
        if let Some(clients) = clients {
            let how = send(&clients.to_string());
            print_line(format_args!("listening on {clients} for clients: {how}")).await?;
        }
        table::header().await
    }

    /// Prints the address of a master that waits for workers.
    pub async fn master(&self, address: &str) -> Result<(), Error> {
        match self.json {
            true => print_line(json(&Master { master: address })?).await,
            false => print_line(format_args!("master {address}: {}", send(address))).await,
        }
    }

    /// Prints that a master waits while another one leads.
    pub async fn standby(&self) -> Result<(), Error> {
        match self.json {
            true => print_line(json(&Standby { standby: true })?).await,
            false => print_line("standing by").await,
        }
    }

    /// Prints the addresses of a master and its workers.
    pub async fn cluster(&self, master: &str, workers: &[WorkerStatus]) -> Result<(), Error> {
        if self.json {
            let workers = workers.iter().map(|worker| Worker {
                id: worker.id,
                pid: worker.pid,
                ingest: &worker.ingest,
            });
            let workers = workers.collect();
            return print_line(json(&Cluster { master, workers })?).await;
        }
        self.master(master).await?;
        for worker in workers {
            let WorkerStatus {
                id, pid, ingest, ..
            } = worker;
            print_line(format_args!("worker {id} at {ingest} (pid {pid})")).await?;
        }
        table::header().await
    }

    pub async fn batch(&mut self, found: &BatchResults) -> Result<(), Error> {
        match self.json {
            true => print_line(json(&BatchLine::from(found))?).await?,
            false => table::batch(found, self.interval).await?,
        }
        self.records += found.records;
        self.batches += 1;
        Ok(())
    }

    /// Number of batches, out of `batches`, whose output nobody has read.
    pub fn not_shown(&self, batches: u64) -> u64 {
        let waiting = Console::stdout().waiting() as u64;
        batches.saturating_sub(self.batches.saturating_sub(waiting))
    }

    /// Updates the number of dead letters; `known` drops when a worker is lost, with its count.
    pub fn dead_letters(&mut self, known: u64) {
        self.dead_letters = self.dead_letters.max(known);
    }

    /// Prints the end; `received` is the number of lines counted, printed or not.
    pub async fn end(&self, received: u64) -> Result<(), Error> {
        let (records_total, dead_letters) = (self.records, self.dead_letters);
        if dead_letters > 0 {
            warn(format_args!(
                "{dead_letters} line(s) left out: not UTF-8, too long or cut off"
            ));
        }
        if received > records_total {
            let late = received - records_total;
            warn(format_args!(
                "{late} line(s) came after the last batch that was asked for"
            ));
        }
        match self.json {
            true => print_line(json(&EndLine { records_total })?).await?,
            false => print_line(format_args!("{records_total} lines in all")).await?,
        }
        output::written().await
    }
}

/// The command that sends lines.
fn send(address: &str) -> String {
    format!("dstreams send {address} --stream {LINES} FILE")
}

#[derive(Serialize)]
struct Listening {
    listening: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    clients: Option<SocketAddr>,
}

#[derive(Serialize)]
struct Standby {
    standby: bool,
}

#[derive(Serialize)]
struct Master<'a> {
    master: &'a str,
}

#[derive(Serialize)]
struct Cluster<'a> {
    master: &'a str,
    workers: Vec<Worker<'a>>,
}

#[derive(Serialize)]
struct Worker<'a> {
    id: u32,
    pid: u32,
    ingest: &'a str,
}

#[derive(Serialize)]
struct EndLine {
    records_total: u64,
}
