//! Many short batches with a window: does anything grow?

use std::time::{Duration, Instant};

use dstreams_cluster::ClusterStatus;
use serde_json::{Value, json};

use super::program::{Spec, WINDOW, build};
use super::start::Cluster;
use super::watch::Watch;
use super::{Rows, runtime, send};
use crate::own::{Outcome, flag, percentiles};
use crate::system::{exchanged, open_files, resident_mb, threads};

/// The columns of batch reports as raw rows.
pub const DELAYS: [&str; 7] = [
    "batch_ms",
    "records",
    "cut_ms",
    "wait_ms",
    "run_ms",
    "commit_ms",
    "total_ms",
];
/// The columns of the samples.
const COLUMNS: [&str; 16] = [
    "seconds",
    "batches",
    "total_delay_ms",
    "master_mb",
    "worker1_mb",
    "worker2_mb",
    "kept1",
    "kept2",
    "blocks",
    "block_mb",
    "master_files",
    "worker1_files",
    "master_threads",
    "worker1_threads",
    "exchange_mb",
    "jobs",
];
/// Number of samples in a run.
const MAX_SAMPLES: u64 = 400;
/// How long sampling continues after the feed has ended: the window runs empty, and workers report the memory they
/// use.
const COOL_DOWN: Duration = Duration::from_secs(4);

/// `bench part soak [--batches N] [--interval-ms N] [--rate LINES_PER_S]`
pub fn soak(flags: &[String]) -> Outcome<Value> {
    let batches = flag(flags, "--batches", 20_000u64)?;
    let interval = flag(flags, "--interval-ms", 20u64)?;
    let rate = flag(flags, "--rate", 5_000u64)?;
    let spec = Spec::on_the_clock("window", interval);
    let mut program = build(&spec)?;
    let watch = Watch::default();
    program.ctx.add_listener(watch.clone());
    let totals = program.totals;
    let seconds = batches as f64 * interval as f64 / 1e3;
    let mut rows = Rows::new(&COLUMNS);
    let (sent, end, summary) = runtime()?.block_on(async {
        let cluster = Cluster::start(&spec, program.ctx, 2).await?;
        let asked = format!("--clients 2 --rate {rate} --every-ms 10 --seconds {seconds}");
        let addresses = cluster.addresses();
        let mut sending = Box::pin(send(&addresses, &asked));
        let begun = Instant::now();
        let every = Duration::from_secs_f64((seconds / MAX_SAMPLES as f64).max(0.2));
        let sent = loop {
            tokio::select! {
                sent = &mut sending => break sent?,
                () = tokio::time::sleep(every) => rows.push(sample(&cluster, begun)),
            }
        };
        tokio::time::sleep(WINDOW + COOL_DOWN).await;
        rows.push(sample(&cluster, begun));
        let end = cluster.status();
        Ok::<_, Box<dyn std::error::Error>>((sent, end, cluster.stop(true).await?))
    })?;
    let told = watch.told();
    let delays = told.reports.iter().map(|report| report.total_delay());
    let (grown, flat) = growth(&rows);
    let most = |name: &str| rows.column(name).into_iter().fold(0.0, f64::max);
    let last = totals.last.load(std::sync::atomic::Ordering::SeqCst);
    Ok(json!({
        "work": "soak", "program": "dstreams", "interval_ms": interval, "rate": rate,
        "checked": json!(summary.records) == sent["records"] && last == 0,
        "batches": summary.batches, "asked": batches, "acknowledged": sent["records"],
        "counted": summary.records, "in_last_window": last,
        "total_delay_ms": percentiles(delays.collect()),
        "grown_mb": grown, "flat": flat, "resends": sent["resends"],
        "kept_at_end": end.workers.iter().map(|worker| worker.kept).collect::<Vec<_>>(),
        "blocks_at_end": end.workers.iter().map(|worker| worker.blocks).collect::<Vec<_>>(),
        "block_memory_at_end": end.workers.iter().map(|w| w.block_memory).collect::<Vec<_>>(),
        "jobs_at_end": end.jobs, "most_jobs": most("jobs"), "most_kept": most("kept1"),
        "rows": rows.json(),
    }))
}

fn sample(cluster: &Cluster, begun: Instant) -> Vec<f64> {
    let ClusterStatus {
        workers,
        batches,
        last,
        jobs,
        ..
    } = cluster.status();
    let delay = last.map_or(0.0, |last| last.total_delay().as_secs_f64() * 1e3);
    let (own, pids) = (std::process::id(), cluster.pids());
    let kept = |at: usize| workers.get(at).map_or(0.0, |worker| worker.kept as f64);
    let mb = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let blocks: usize = workers.iter().map(|worker| worker.blocks).sum();
    let block_memory: usize = workers.iter().map(|worker| worker.block_memory).sum();
    vec![
        begun.elapsed().as_secs_f64(),
        batches as f64,
        delay,
        resident_mb(own),
        resident_mb(pids[0]),
        resident_mb(pids[1]),
        kept(0),
        kept(1),
        blocks as f64,
        mb(block_memory),
        open_files(own) as f64,
        open_files(pids[0]) as f64,
        threads(own) as f64,
        threads(pids[0]) as f64,
        mb(exchanged(&pids) as usize),
        jobs as f64,
    ]
}

/// Growth of resident memory from the second quarter of the samples to the last, and whether it is less than a
/// tenth.
fn growth(rows: &Rows) -> (Value, bool) {
    let median = |mut values: Vec<f64>| {
        values.sort_unstable_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    let (mut grown, mut flat) = (serde_json::Map::new(), true);
    for name in ["master_mb", "worker1_mb", "worker2_mb"] {
        let values = rows.column(name);
        let quarter = values.len() / 4;
        let early = median(values[quarter..2 * quarter].to_vec());
        let late = median(values[3 * quarter..].to_vec());
        flat &= late <= 1.1 * early;
        grown.insert(name.into(), json!({"early": early, "late": late}));
    }
    (grown.into(), flat)
}
