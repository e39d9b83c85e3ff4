//! `bench`: measures `dstreams` and its peers on the same input, on this machine.
//!
//! `bench compare` runs every program over every work in interleaved rounds and writes medians under `bench/runs/`;
//! `bench run` is the program `dstreams` itself, with the flags that every peer understands (`bench/peers/README.md`).
//! `bench nexmark` runs the queries of Nexmark beside Flink; `bench cluster` measures a master and its workers in processes of their own.

mod alloc;
mod child;
mod cluster;
mod compare;
mod machine;
mod nexmark;
mod own;
mod programs;
mod run;
mod summary;
mod system;

use std::error::Error;

#[global_allocator]
static GLOBAL: alloc::Counting = alloc::Counting;

const USAGE: &str = "\
bench compare [--quick] [--rounds N] [--only NAME[:VARIANT],...] [--works WORK,...] [--lines N] [--batches N]
              [--small-lines N] [--threads N] [--seed N] [--no-build] [--out DIR]
bench run --work WORK [--lines N] [--batches N] [--threads N] [--seed N] [--variant V]
bench tcp [--lines N] [--rounds N] [--interval-ms N]
bench tick [--interval-ms N] [--rate LINES_PER_S] [--seconds N] [--durable DIR]
bench keyed [--few N] [--many N] [--changed N] [--batches N] [--rounds N] [--only core|engine|restart,...] [--dir DIR]
bench durable [--lines N] [--seconds N] [--rounds N] [--interval-ms N] [--kinds journal|checkpoints|files,...] [--dir DIR]
bench windows [--keys N] [--rows N] [--rounds N]
bench time [--rows N] [--keys N] [--few N] [--many N] [--changed N] [--batches N] [--rounds N]
           [--only order|slack|corrections|windows|within,...]
bench nexmark [--quick] [--events N] [--rate EVENTS_PER_S] [--rounds N] [--works q0,...,within] [--threads N] [--seed N]
              [--only dstreams|flink|renoir,...] [--no-build] [--out DIR]
bench cluster [--quick] [--only small|tick|throughput|acks|bulk|master|soak|faults,...] [--rounds N] [--out DIR]
bench worker MASTER [--cores N]";

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("compare") => compare::compare(&compare::Options::parse(words)?),
        Some("run") => run::run(words),
        Some("tcp") => own::tcp(&words.collect::<Vec<_>>()),
        Some("tick") => own::tick(&words.collect::<Vec<_>>()),
        Some("keyed") => own::keyed(&words.collect::<Vec<_>>()),
        Some("durable") => own::durable(&words.collect::<Vec<_>>()),
        Some("windows") => own::windows(&words.collect::<Vec<_>>()),
        Some("nexmark") => nexmark::nexmark(&words.collect::<Vec<_>>()),
        Some("time") => own::time(&words.collect::<Vec<_>>()),
        Some("cluster") => cluster::cluster(&cluster::Options::parse(words)?),
        Some("worker") => cluster::worker(&words.collect::<Vec<_>>()),
        // Parts of `cluster`, each in a process of its own.
        Some("part") => cluster::part(&words.collect::<Vec<_>>()),
        Some("sender") => cluster::sender(&words.collect::<Vec<_>>()),
        Some("executor") => cluster::executor(&words.collect::<Vec<_>>()),
        Some("flight") => cluster::flight_server(&words.collect::<Vec<_>>()),
        _ => Err(format!("usage:\n{USAGE}").into()),
    }
}
