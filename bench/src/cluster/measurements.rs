//! The measurements: the programs of each, as command lines of this executable.

/// Programs that run in turns.
pub struct Measurement {
    /// Its name.
    pub name: &'static str,
    /// How often each program runs.
    pub rounds: usize,
    /// The command line of each.
    pub programs: Vec<String>,
}

/// All measurements; `quick` is short and small.
pub fn all(quick: bool) -> Vec<Measurement> {
    let pick = |quickly: u64, else_: u64| if quick { quickly } else { else_ };
    let measurement = |name, rounds, programs| Measurement {
        name,
        rounds: if quick { 1 } else { rounds },
        programs,
    };
    vec![
        measurement("small", 5, small(pick(110, 440))),
        measurement(
            "tick",
            1,
            vec![format!("part tick --seconds {}", pick(10, 120))],
        ),
        measurement("throughput", 3, throughput(pick(400_000, 5_000_000))),
        measurement("acks", 3, acks(pick(5, 30))),
        measurement("bulk", 5, bulk(pick(400_000, 4_000_000))),
        measurement("master", 3, master(pick(8, 30))),
        measurement(
            "soak",
            1,
            vec![format!("part soak --batches {}", pick(2_000, 20_000))],
        ),
        measurement("faults", 3, faults(quick)),
    ]
}

fn faults(quick: bool) -> Vec<String> {
    let windows = [
        "--kill 0",
        "--kill 0 --speculation true",
        "--kill 1",
        "--kill 1 --standbys 0",
        "--kill 2",
        "--kill 2 --standbys 0",
        "--kill 2 --standbys 0 --checkpoint-every 2",
        "--kill 2 --standbys 0 --checkpoint-every 30",
        "--slow true",
        "--slow true --speculation true",
    ];
    let greps = [
        "--kill 0",
        "--kill 0 --speculation true",
        "--kill 1",
        "--kill 2",
        "--slow true",
        "--slow true --speculation true",
    ];
    let windows = windows.map(|flags| format!("part faults --work window30 {flags}"));
    let greps = greps.map(|flags| format!("part faults --work grep {flags}"));
    let all = windows.into_iter().chain(greps);
    all.step_by(if quick { 4 } else { 1 }).collect()
}

fn small(batches: u64) -> Vec<String> {
    let inputs = [
        "small --input clients",
        "bare --input held",
        "small --input queue",
        "bare --input shipped",
    ];
    let words = inputs
        .iter()
        .map(|input| format!("part {input} --batches {batches}"));
    words.collect()
}

fn throughput(lines: u64) -> Vec<String> {
    let mut words = Vec::new();
    for work in ["grep", "wordcount"] {
        for engine in ["cluster", "local"] {
            let on = |mode: &str| {
                format!(
                    "part throughput --work {work} --engine {engine} --lines {lines} --mode {mode}"
                )
            };
            // As many as the local benchmark has, and few large ones.
            words.push(on("preloaded --batches 20"));
            words.push(on("preloaded --batches 4"));
            words.push(on("received"));
        }
    }
    words
}

fn acks(seconds: u64) -> Vec<String> {
    let mut words = Vec::new();
    // The client's default, and less.
    for linger in [2, 1] {
        for clients in [1, 4] {
            words.push(format!(
                "part acks --clients {clients} --linger-ms {linger} --seconds {seconds}"
            ));
        }
    }
    words
}

fn bulk(lines: u64) -> Vec<String> {
    let programs = ["bulk --as lines", "flight", "bulk --as batches"];
    let words = programs.iter().flat_map(|program| {
        [1, 2].map(|clients| format!("part {program} --clients {clients} --lines {lines}"))
    });
    words.collect()
}

fn master(seconds: u64) -> Vec<String> {
    let mut words = Vec::new();
    for workers in [1, 2, 4, 8u64] {
        for tasks in [2, workers.max(2)] {
            let program =
                format!("part master --workers {workers} --partitions {tasks} --seconds {seconds}");
            if !words.contains(&program) {
                words.push(program);
            }
        }
    }
    words
}
