//! Command-line arguments of the roles, and their parsers.

use std::net::{ToSocketAddrs, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::value_parser;
use dstreams::StreamContext;

use super::error::Error;
use crate::worker::{MAX_PATIENCE, MIN_PATIENCE};
use crate::{Master, MasterOptions, SpeculationConfig, WorkerOptions};

/// Environment variable with the secret, if no file is given.
const TOKEN: &str = "DSTREAMS_TOKEN";
/// Listen address of a worker on the master's machine.
const LOOPBACK: &str = "127.0.0.1:0";

/// The secret that master, workers and clients share
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Secret {
    /// File with the cluster's secret, required beyond loopback [default: DSTREAMS_TOKEN]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Secret {
    /// The secret, if there is one.
    pub fn read(&self) -> Result<Option<String>, Error> {
        let (place, text) = match &self.token_file {
            Some(file) => {
                let text = std::fs::read_to_string(file).map_err(|cause| Error::TokenFile {
                    file: file.clone(),
                    cause,
                })?;
                (file.display().to_string(), text)
            }
            None => match std::env::var(TOKEN) {
                Ok(text) if !text.is_empty() => (TOKEN.to_owned(), text),
                _ => return Ok(None),
            },
        };
        let token = text.trim();
        let problem = match token {
            "" => "it is empty",
            _ if !token.bytes().all(|byte| byte.is_ascii_graphic()) => "it has other characters",
            _ => return Ok(Some(token.to_owned())),
        };
        Err(Error::Token {
            place,
            problem: problem.to_owned(),
        })
    }
}

/// The masters of a program
#[derive(Debug, Clone, clap::Args)]
pub struct Masters {
    /// Address of the master; with standby masters, all addresses, separated by commas
    #[arg(id = "master", long = "master", value_name = "HOST:PORT,...", value_delimiter = ',', required = true,
          value_parser = address)]
    addresses: Vec<String>,
}

impl Masters {
    /// The addresses, in the order in which they are tried.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }
}

/// How a master spreads a program over workers.
#[derive(Debug, Clone, clap::Args)]
pub struct ClusterArgs {
    /// Address at which others reach the master, if it listens on every address; port 0: the port it listens on
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    advertise: Option<String>,
    /// Partitions of keyed data, fixed for the life of the program [default: cores of the workers]
    #[arg(long, value_name = "N", value_parser = value_parser!(u8).range(1..=128))]
    partitions: Option<u8>,
    /// Workers that store each block: with 2, losing any one worker loses no acknowledged record
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = value_parser!(u8).range(1..=2))]
    copies: u8,
    /// Workers that follow each partition of state; with 0, only in a directory, it is rebuilt after each loss
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u8).range(0..=1))]
    standbys: u8,
    /// Time within which a silent worker is given up, 200ms to 1h; the end of its process is noticed at once
    #[arg(long, value_name = "D", default_value = "2s", value_parser = duration)]
    silence: Duration,
    /// Time after which a standby gives up a master that renews nothing in the state directory, 1s to 1h
    #[arg(long, value_name = "D", default_value = "5s", value_parser = duration)]
    lease: Duration,
    /// Run slow tasks once more on other workers; the result of the first one counts, and workers whose tasks
    /// repeatedly lose get no work for a while
    #[arg(long)]
    speculation: bool,
    #[command(flatten)]
    secret: Secret,
}

impl Default for ClusterArgs {
    fn default() -> Self {
        ClusterArgs {
            partitions: None,
            copies: 2,
            standbys: 1,
            silence: MasterOptions::default().silence,
            lease: MasterOptions::default().lease,
            speculation: false,
            advertise: None,
            secret: Secret::default(),
        }
    }
}

impl ClusterArgs {
    /// The defaults, with copies of slow tasks or without.
    pub fn with_speculation(speculation: bool) -> Self {
        ClusterArgs {
            speculation,
            ..ClusterArgs::default()
        }
    }

    /// The options of a master.
    pub fn options(&self, listen: &str, workers: usize) -> Result<MasterOptions, Error> {
        let defaults = MasterOptions::default();
        Ok(MasterOptions {
            listen: listen.to_owned(),
            advertise: self.advertise.clone(),
            workers,
            partitions: self.partitions.map(usize::from),
            copies: usize::from(self.copies),
            standbys: usize::from(self.standbys),
            silence: self.silence,
            lease: self.lease,
            speculation: self.speculation.then(SpeculationConfig::default),
            token: self.secret.read()?,
            ..defaults
        })
    }

    /// The secret of the cluster.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }
}

/// How a program ends.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Drain {
    /// Time to run and commit the records received before a stop signal
    #[arg(long, value_name = "D", default_value = "60s", value_parser = duration)]
    pub drain: Duration,
}

/// Arguments of a master.
#[derive(Debug, Clone, clap::Args)]
pub struct MasterArgs {
    /// Address for workers, clients and `status`; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub listen: String,
    /// Workers to wait for before the first batch
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u16).range(1..))]
    pub workers: u16,
    /// How the program is distributed.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// How it ends.
    #[command(flatten)]
    pub ends: Drain,
    /// Wait while another master leads the program, and go on with it when that one is lost
    #[arg(long)]
    pub standby: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

impl MasterArgs {
    /// Listens for workers of the program that `context` describes; they get `arguments`. A standby waits before that;
    /// `None` if the program has ended meanwhile.
    pub async fn listen(
        &self,
        context: StreamContext,
        arguments: Vec<String>,
    ) -> Result<Option<Master>, Error> {
        let mut options = self.cluster.options(&self.listen, self.workers.into())?;
        options.arguments = arguments;
        Ok(match self.standby {
            true => Master::stand_by(context, options).await?,
            false => Some(Master::listen(context, options).await?),
        })
    }
}

/// Run as a worker: receive, store blocks and state, run tasks
///
/// Exits when the program ends, or on SIGTERM or Ctrl-C. The program's arguments come from the master.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkerArgs {
    #[command(flatten)]
    masters: Masters,
    /// Address for clients and other workers [default: a free port; on loopback if the master is there]
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    listen: Option<String>,
    /// Address at which others reach it, if it listens on every address; port 0: the port of --listen
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    advertise: Option<String>,
    /// Tasks that run at once [default: the cores of the machine]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..))]
    cores: Option<u16>,
    /// Memory limit for received records, e.g. 512MiB [default: set by the program]
    #[arg(long, value_name = "BYTES", value_parser = memory)]
    memory: Option<ByteSize>,
    /// Directory for spilled blocks and state [default: that for temporary files]
    #[arg(long, value_name = "DIR")]
    spill: Option<PathBuf>,
    /// Directory for data that tasks exchange [default: /dev/shm with 1 GiB free, else that for temporary files]
    #[arg(long, value_name = "DIR")]
    exchanges: Option<PathBuf>,
    /// How long to try to reach a master, at first and after the link broke
    #[arg(long, value_name = "D", default_value = "30s", value_parser = duration)]
    retry: Duration,
    /// Silence of the master (stopped, or its machine swaps) before the worker gives it up, 1s to 24h
    #[arg(long, value_name = "D", default_value = "60s", value_parser = patience)]
    patience: Duration,
    #[command(flatten)]
    secret: Secret,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

impl WorkerArgs {
    /// The options of a worker.
    pub(super) fn options(&self) -> Result<WorkerOptions, Error> {
        let masters = self.masters.addresses();
        let mut options = WorkerOptions::new(&masters.join(","));
        options.listen = self.listen.clone().unwrap_or_else(|| beside(masters));
        options.token = self.secret.read()?;
        options.retry = self.retry;
        options.patience = self.patience;
        options.memory = self.memory.map(|memory| memory.as_u64() as usize);
        options.cores = self.cores.map_or(options.cores, usize::from);
        options.advertise = self.advertise.clone();
        options.spill = self.spill.clone();
        options.exchanges = self.exchanges.clone();
        Ok(options)
    }
}

/// The address of this machine that faces the first master that is elsewhere; loopback if all are here, or unknown.
fn beside(masters: &[String]) -> String {
    let facing = |master: &String| {
        let master = master.to_socket_addrs().ok()?.next()?;
        let any = if master.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        // Sends nothing: the system only looks up the route.
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(master).ok()?;
        let mut own = socket.local_addr().ok()?;
        own.set_port(0);
        Some(own)
    };
    let mut facing = masters.iter().filter_map(facing);
    let remote = facing.find(|address| !address.ip().is_loopback());
    remote.map_or_else(|| LOOPBACK.to_owned(), |address| address.to_string())
}

/// A host and a port.
pub fn address(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(text.to_owned())
        }
        _ => Err("an address is HOST:PORT, such as 127.0.0.1:7077".to_owned()),
    }
}

/// A duration with its unit.
pub fn duration(text: &str) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text);
    parsed.map_err(|error| format!("{error}; write it like 500ms, 1s or 2m"))
}

/// How long a worker tolerates a silent master.
fn patience(text: &str) -> Result<Duration, String> {
    let patience = duration(text)?;
    match (MIN_PATIENCE..=MAX_PATIENCE).contains(&patience) {
        true => Ok(patience),
        false => Err("it must be 1s to 24h".to_owned()),
    }
}

/// A number of bytes with its unit.
fn memory(text: &str) -> Result<ByteSize, String> {
    match text.parse::<ByteSize>() {
        Ok(ByteSize(0)) => Err("it must be more than 0".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(format!("{error}; write it like 512MiB or 2GiB")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_sizes_have_units() {
        for (text, bytes) in [
            ("1048576", 1 << 20),
            ("512MiB", 512 << 20),
            ("2 GiB", 2 << 30),
        ] {
            assert_eq!(memory(text), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "0", "-1", "much", "5 bananas"] {
            assert!(memory(text).is_err(), "{text}");
        }
        assert!(memory("much").unwrap_err().contains("512MiB"));
    }

    #[test]
    fn a_worker_listens_where_the_master_can_reach_it() {
        for masters in [
            &["127.0.0.1:7077"][..],
            &["no.such.host.invalid:1"],
            &["127.0.0.1:7077", "no.such.host.invalid:1", "[::1]:7078"],
        ] {
            let masters: Vec<String> = masters.iter().map(|it| (*it).to_owned()).collect();
            assert_eq!(beside(&masters), LOOPBACK, "{masters:?}");
        }
    }
}
