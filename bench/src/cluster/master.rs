//! The cost of a batch for the master, with more and more workers: processor time of its process, and wall time.

use std::time::{Duration, Instant};

use dstreams::BatchReport;
use serde_json::{Value, json};

use super::program::{Spec, build};
use super::start::Cluster;
use super::watch::Watch;
use super::{Rows, runtime, send};
use crate::own::{Outcome, flag, percentiles};
use crate::system::cpu;

/// Time at the beginning and at the end of the sending that is left out.
const MARGIN: Duration = Duration::from_secs(2);

/// `bench part master [--workers N] [--partitions N] [--interval-ms N] [--rate LINES_PER_S] [--seconds N]`:
/// a word count of small batches from one client.
pub fn master(flags: &[String]) -> Outcome<Value> {
    let workers = flag(flags, "--workers", 1usize)?;
    let interval = flag(flags, "--interval-ms", 100u64)?;
    let rate = flag(flags, "--rate", 10_000u64)?;
    let seconds = flag(flags, "--seconds", 30u64)?;
    let mut spec = Spec::on_the_clock("words", interval);
    spec.partitions = flag(flags, "--partitions", workers.max(2))?;
    let mut program = build(&spec)?;
    let watch = Watch::default();
    program.ctx.add_listener(watch.clone());
    let (own, mut rows) = (std::process::id(), Rows::new(&super::soak::DELAYS));
    let (used, of_workers, reports) = runtime()?.block_on(async {
        let cluster = Cluster::start(&spec, program.ctx, workers).await?;
        let asked = format!("--clients 1 --rate {rate} --every-ms 10 --seconds {seconds}");
        let addresses = cluster.addresses();
        let sending = send(&addresses, &asked);
        let measuring = async {
            let length = Duration::from_secs(seconds);
            tokio::time::sleep(MARGIN).await;
            let all = || cluster.pids().into_iter().map(cpu).sum::<Duration>();
            let (from, before, others) = (watch.told().reports.len(), cpu(own), all());
            let begun = Instant::now();
            tokio::time::sleep(length.saturating_sub(2 * MARGIN)).await;
            let used = (cpu(own) - before, all() - others);
            let reports = watch.told().reports[from..].to_vec();
            (used, begun.elapsed(), reports)
        };
        let (sent, ((used, others), _, reports)) = tokio::join!(sending, measuring);
        sent?;
        cluster.stop(true).await?;
        Ok::<_, Box<dyn std::error::Error>>((used, others, reports))
    })?;
    if reports.is_empty() {
        return Err("no batch was completed".into());
    }
    for report in &reports {
        rows.push(super::tick::row(report));
    }
    let batches = reports.len();
    let each = |time: Duration| time.as_secs_f64() * 1e3 / batches as f64;
    let times = reports.iter().map(BatchReport::processing_time).collect();
    let records: u64 = reports.iter().map(|report| report.records).sum();
    Ok(json!({
        "work": "master", "checked": true,
        "program": format!("{workers} workers, {} tasks", spec.partitions),
        "workers": workers, "tasks": spec.partitions, "interval_ms": interval, "batches": batches,
        "records_per_batch": records as f64 / batches as f64,
        "master_cpu_ms": each(used), "workers_cpu_ms": each(of_workers),
        "processing_ms": percentiles(times),
        "rows": rows.json(),
    }))
}
