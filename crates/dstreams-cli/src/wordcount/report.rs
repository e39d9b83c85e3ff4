//! What `wordcount` and `master` print, for programs or for people.

use std::net::SocketAddr;
use std::time::Duration;

use dstreams_cluster::WorkerStatus;
use serde::Serialize;

use crate::error::Error;
use crate::plain::{self, json, say, warn};
use crate::word_count::{Found, LINES};

/// See the module.
pub struct Report {
    pub json: bool,
    pub interval: Duration,
    records: u64,
    dead_letters: u64,
}

impl Report {
    pub fn new(json: bool, interval: Duration) -> Self {
        Report {
            json,
            interval,
            records: 0,
            dead_letters: 0,
        }
    }

    /// Where one process listens.
    pub fn listening(&self, text: SocketAddr, clients: Option<SocketAddr>) -> Result<(), Error> {
        if self.json {
            return json(&Listening {
                listening: text,
                clients,
            });
        }
        say(format_args!(
            "listening on {text}: nc {} {} < FILE",
            text.ip(),
            text.port()
        ))?;
        if let Some(clients) = clients {
            let how = send(&clients.to_string());
            say(format_args!("listening on {clients} for clients: {how}"))?;
        }
        plain::header()
    }

    /// Where a master listens that waits for workers.
    pub fn master(&self, address: &str) -> Result<(), Error> {
        match self.json {
            true => json(&Master { master: address }),
            false => say(format_args!("master {address}: {}", send(address))),
        }
    }

    /// Where a master and all its workers are.
    pub fn cluster(&self, master: &str, workers: &[WorkerStatus]) -> Result<(), Error> {
        if self.json {
            let workers = workers.iter().map(|worker| Worker {
                id: worker.id,
                pid: worker.pid,
                ingest: &worker.ingest,
            });
            let workers = workers.collect();
            return json(&Cluster { master, workers });
        }
        self.master(master)?;
        for worker in workers {
            let WorkerStatus {
                id, pid, ingest, ..
            } = worker;
            say(format_args!("worker {id} at {ingest} (pid {pid})"))?;
        }
        plain::header()
    }

    pub fn batch(&mut self, found: &Found) -> Result<(), Error> {
        self.records += found.records;
        match self.json {
            true => json(&Batch::of(found)),
            false => plain::batch(found, self.interval),
        }
    }

    /// Lines left out so far, as far as they are known: a worker's go with it.
    pub fn dead_letters(&mut self, known: u64) {
        self.dead_letters = self.dead_letters.max(known);
    }

    /// The end: `received` is what the program counted, printed or not.
    pub fn end(&self, received: u64) -> Result<(), Error> {
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
            true => json(&End { records_total }),
            false => say(format_args!("{records_total} lines in all")),
        }
    }
}

/// How lines get there.
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
struct Batch<'a> {
    batch_time: u64,
    records: u64,
    window_words: i64,
    top: &'a [(String, i64)],
    processing_ms: f64,
    scheduling_delay_ms: f64,
}

impl<'a> Batch<'a> {
    fn of(found: &'a Found) -> Self {
        Batch {
            batch_time: found.batch.0,
            records: found.records,
            window_words: found.window_words,
            top: &found.top,
            processing_ms: found.processing.as_micros() as f64 / 1e3,
            scheduling_delay_ms: found.scheduling_delay.as_micros() as f64 / 1e3,
        }
    }
}

#[derive(Serialize)]
struct End {
    records_total: u64,
}
