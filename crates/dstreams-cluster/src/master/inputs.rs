//! [`InputOf`]: the inputs of the program, and where they are received.

use dstreams::cluster::{Parts, Place};
use dstreams_control::cluster::{ClusterConfig, InputKind};

/// An input of the program.
pub struct InputOf {
    pub name: String,
    pub kind: InputKind,
    /// Whether clients send it.
    pub clients: bool,
}

/// Those of a program, in their order.
pub fn inputs_of(parts: &Parts) -> Vec<InputOf> {
    let inputs = parts.inputs().into_iter().zip(&parts.sources).enumerate();
    let inputs = inputs.map(|(at, ((name, _), source))| {
        let (kind, clients) = match source.place() {
            _ if parts.dead_letter_input == Some(at) => (InputKind::Everywhere, false),
            Place::OneWorker => (InputKind::One, false),
            Place::Everywhere(_) => (InputKind::Everywhere, true),
            Place::Master => (InputKind::Master, false),
        };
        InputOf {
            name,
            kind,
            clients,
        }
    });
    inputs.collect()
}

/// What a cluster begins with that has them.
pub fn config(inputs: &[InputOf], copies: usize, partitions: u32) -> ClusterConfig {
    let kinds = inputs.iter().map(|input| input.kind).collect();
    let mut config = ClusterConfig::new(kinds, partitions);
    config.copies = copies;
    config
}
