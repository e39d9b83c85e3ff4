//! Tables of medians over the rounds, and how they grow.

use crate::sample::{Row, percentile};

/// The fits: the kind of work, and one of its numbers.
const GROWTH: [(&str, &str, &str); 14] = [
    ("batch", "cpu_us", "batch, processor time"),
    ("batch", "commands", "batch, commands"),
    ("batch", "messages", "batch, messages to all"),
    ("batch", "allocations", "batch, allocations"),
    ("held", "cluster_bytes", "held bytes of the cluster machine"),
    ("stored", "cpu_us", "a stored block"),
    ("commit", "cpu_us", "a commit with its forgetting"),
    (
        "batch while state moves",
        "cpu_us",
        "batch while state moves",
    ),
    ("join", "longest_us", "join, longest step"),
    ("join", "commands", "join, commands until settled"),
    ("join", "cpu_us", "join, until settled"),
    ("loss", "longest_us", "loss, longest step"),
    ("loss", "commands", "loss, commands until settled"),
    ("loss", "cpu_us", "loss, until settled"),
];

pub fn summary(rows: &[Row], workers: &[usize], partitions: &[u32]) -> String {
    let of = |kind: &str, name: &str, workers: usize, partitions: u32| {
        let fits =
            |row: &&Row| (row.kind, row.workers, row.partitions) == (kind, workers, partitions);
        let named = |row: &Row| row.numbers.iter().find(|it| it.0 == name).map(|it| it.1);
        percentile(rows.iter().filter(fits).filter_map(named).collect(), 0.5)
    };
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };

    line(format!(
        "{} blocks of each worker and interval, each on two workers; every batch changes every partition. \
         Processor time of one thread, with the counting of allocations.\n\n## Batches\n",
        crate::BLOCKS
    ));
    line("| workers | partitions | CPU ms p50 | p99 | commands | messages of a worker | allocations | allocated KB | held KB | while state moves ms |".to_owned());
    line("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|".to_owned());
    for &w in workers {
        for &p in partitions {
            let batch = |name| of("batch", name, w, p);
            let held = of("held", "cluster_bytes", w, p) + of("held", "controller_bytes", w, p);
            line(format!(
                "| {w} | {p} | {:.3} | {:.3} | {} | {} | {} | {:.0} | {:.0} | {:.3} |",
                batch("cpu_us") / 1e3,
                batch("cpu_us_p99") / 1e3,
                batch("commands"),
                batch("most_messages_of_a_worker"),
                batch("allocations"),
                batch("allocated_bytes") / 1e3,
                held / 1e3,
                of("batch while state moves", "cpu_us", w, p) / 1e3,
            ));
        }
    }

    line("\n## Events\n".to_owned());
    line("| workers | partitions | stored block µs | commit ms | join ms | longest step | steps | commands | loss ms | longest step | steps | commands |".to_owned());
    line("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|".to_owned());
    for &w in workers {
        for &p in partitions {
            let mut cells = format!(
                "| {w} | {p} | {:.2} | {:.3} |",
                of("stored", "cpu_us", w, p),
                of("commit", "cpu_us", w, p) / 1e3
            );
            for kind in ["join", "loss"] {
                let event = |name| of(kind, name, w, p);
                let (all, longest) = (event("cpu_us") / 1e3, event("longest_us") / 1e3);
                let (steps, commands) = (event("steps"), event("commands"));
                cells += &format!(" {all:.3} | {longest:.3} | {steps} | {commands} |");
            }
            line(cells);
        }
    }

    let (Some(&w_least), Some(&w_most)) = (workers.first(), workers.last()) else {
        return out;
    };
    let (Some(&p_least), Some(&p_most)) = (partitions.first(), partitions.last()) else {
        return out;
    };
    line("\n## Growth\n\nThe exponent of workers or of partitions, fitted to the upper two thirds of the sizes; 1 is linear.\n".to_owned());
    line(format!(
        "| | workers, {p_least} partitions | workers, {p_most} | partitions, {w_least} workers | partitions, {w_most} |"
    ));
    line("|---|---:|---:|---:|---:|".to_owned());
    for (kind, name, title) in GROWTH {
        let over_workers = |p| {
            let point = |&w: &usize| (w as f64, of(kind, name, w, p));
            exponent(workers.iter().map(point).collect())
        };
        let over_partitions = |w| {
            let point = |&p: &u32| (f64::from(p), of(kind, name, w, p));
            exponent(partitions.iter().map(point).collect())
        };
        line(format!(
            "| {title} | {:.2} | {:.2} | {:.2} | {:.2} |",
            over_workers(p_least),
            over_workers(p_most),
            over_partitions(w_least),
            over_partitions(w_most)
        ));
    }
    out
}

/// The slope of the line through the logarithms, by least squares. Constants hide the growth at the small end, so
/// the first third is left out.
fn exponent(points: Vec<(f64, f64)>) -> f64 {
    let skipped = points.len() / 3;
    let logs: Vec<_> = points
        .into_iter()
        .skip(skipped)
        .map(|(x, y)| (x.ln(), y.ln()))
        .collect();
    let count = logs.len() as f64;
    let (x, y) = logs
        .iter()
        .fold((0.0, 0.0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
    let (x, y) = (x / count, y / count);
    let both: f64 = logs.iter().map(|it| (it.0 - x) * (it.1 - y)).sum();
    let square: f64 = logs.iter().map(|it| (it.0 - x).powi(2)).sum();
    both / square
}
