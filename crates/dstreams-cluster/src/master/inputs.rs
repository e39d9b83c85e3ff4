//! [`InputOf`]: the inputs of the program, and which processes receive them.

use dstreams::internal::{Description, SourcePlacement};
use dstreams::{Clients, Error, Result};
use dstreams_control::cluster::{ClusterConfig, InputKind};

use crate::data::RECORD;

/// The longest line that is always replicable: a record is sent unsplit, in a message of at most 64 MiB.
const LONGEST_LINE: usize = RECORD;

/// Rejects inputs that no worker could receive, or that clients and workers could not tell apart.
pub fn check_inputs(parts: &Description) -> Result<()> {
    let refuse = |setting, message: String| Err(Error::Config { setting, message });
    let mut first: Option<Clients> = None;
    for source in &parts.sources {
        let SourcePlacement::Everywhere(clients) = source.place() else {
            continue;
        };
        if !first
            .get_or_insert_with(|| clients.clone())
            .is_same(&clients)
        {
            return refuse(
                "clients",
                "a worker has one address for clients: give all streams the same `Clients`".into(),
            );
        }
    }
    let mut sources = parts.sources.iter();
    let on_worker = sources
        .any(|source| source.gives_time() && !matches!(source.place(), SourcePlacement::Master));
    if parts.clock.is_of_sources() && on_worker {
        return refuse(
            "clock",
            "a source that runs on a worker gives the time: on a cluster, only sources of the master (`Files`) can"
                .into(),
        );
    }
    let line_bytes = parts.config.line_bytes;
    if line_bytes > LONGEST_LINE {
        return refuse(
            "line_bytes",
            format!(
                "{line_bytes} does not fit: workers copy a line to each other in one message; \
                 it must be at most {LONGEST_LINE}"
            ),
        );
    }
    Ok(())
}

/// An input of the program.
pub struct InputOf {
    pub name: String,
    pub kind: InputKind,
    /// Whether clients send its records.
    pub clients: bool,
}

/// The inputs of a program, in their order.
pub fn inputs_of(parts: &Description) -> Vec<InputOf> {
    let inputs = parts.inputs().into_iter().zip(&parts.sources).enumerate();
    let inputs = inputs.map(|(at, ((name, _), source))| {
        let (kind, clients) = match source.place() {
            _ if parts.dead_letter_input == Some(at) => (InputKind::Everywhere, false),
            SourcePlacement::OneWorker => (InputKind::One, false),
            SourcePlacement::Everywhere(_) => (InputKind::Everywhere, true),
            SourcePlacement::Master => (InputKind::Master, false),
        };
        InputOf {
            name,
            kind,
            clients,
        }
    });
    inputs.collect()
}

/// Initial cluster configuration for these inputs.
pub fn config(
    inputs: &[InputOf],
    (copies, standbys): (usize, usize),
    partitions: u32,
) -> ClusterConfig {
    let kinds = inputs.iter().map(|input| input.kind).collect();
    let mut config = ClusterConfig::new(kinds, partitions);
    config.copies = copies;
    config.standbys = standbys > 0;
    config
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use dstreams::{Config, StreamContext};

    use super::*;

    fn check(build: impl FnOnce(&mut StreamContext), line_bytes: usize) -> String {
        let mut config = Config::new(Duration::from_secs(1));
        config.line_bytes = line_bytes;
        config.block_memory = 1 << 30;
        let mut ctx = StreamContext::with_config(config).unwrap();
        build(&mut ctx);
        match Description::of(ctx).and_then(|parts| check_inputs(&parts)) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn inputs_that_no_worker_can_receive_are_refused() {
        let streams = |ctx: &mut StreamContext, names: [&str; 2], clients: [&Clients; 2]| {
            for (name, clients) in names.into_iter().zip(clients) {
                ctx.clients::<String>(name, clients).for_each_rdd(|_| ());
            }
        };
        let [a, b] = [
            Clients::listen("127.0.0.1:0"),
            Clients::listen("127.0.0.1:0"),
        ];
        let line = 1 << 20;
        assert_eq!(check(|ctx| streams(ctx, ["x", "y"], [&a, &a]), line), "");
        let two = check(|ctx| streams(ctx, ["x", "y"], [&a, &b]), line);
        assert!(two.contains("the same `Clients`"), "{two}");
        let named = check(|ctx| streams(ctx, ["x", "x"], [&a, &a]), line);
        assert!(named.contains("stream `x` already exists"), "{named}");
        let long = check(|ctx| streams(ctx, ["x", "y"], [&a, &a]), 64 << 20);
        assert!(long.contains("at most 33554432"), "{long}");
    }
}
