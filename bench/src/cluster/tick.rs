//! A short interval under a paced load of clients: does the delay stay constant, and are all acknowledged records
//! counted?

use std::sync::atomic::Ordering;
use std::time::Duration;

use dstreams::BatchReport;
use serde_json::{Value, json};

use super::program::{Spec, build};
use super::start::Cluster;
use super::watch::Watch;
use super::{Rows, runtime, send};
use crate::own::{Outcome, flag, percentiles};

/// Largest ratio of the delays of the second half to those of the first.
const MAX_GROWTH: f64 = 1.5;

/// `bench part tick [--interval-ms N] [--rate LINES_PER_S] [--seconds N] [--clients N]`
pub fn tick(flags: &[String]) -> Outcome<Value> {
    let interval = flag(flags, "--interval-ms", 50u64)?;
    let rate = flag(flags, "--rate", 100_000u64)?;
    let seconds = flag(flags, "--seconds", 120u64)?;
    let clients = flag(flags, "--clients", 2usize)?;
    let spec = Spec::on_the_clock("words", interval);
    let mut program = build(&spec)?;
    let watch = Watch::default();
    program.ctx.add_listener(watch.clone());
    let totals = program.totals;
    let (sent, summary) = runtime()?.block_on(async {
        let cluster = Cluster::start(&spec, program.ctx, 2).await?;
        let asked = format!("--clients {clients} --rate {rate} --every-ms 2 --seconds {seconds}");
        let sent = send(&cluster.addresses(), &asked).await?;
        Ok::<_, Box<dyn std::error::Error>>((sent, cluster.stop(true).await?))
    })?;
    let told = watch.told();
    let first = told.reports.iter().position(|report| report.records > 0);
    let last = told.reports.iter().rposition(|report| report.records > 0);
    let (Some(first), Some(last)) = (first, last) else {
        return Err("no batch had records".into());
    };
    // The first second is left out: connections are opened, and code runs for the first time.
    let first = (first + (1_000 / interval) as usize).min(last);
    let reports = &told.reports[first..=last];
    let mut rows = Rows::new(&[
        "batch_ms",
        "records",
        "cut_ms",
        "wait_ms",
        "run_ms",
        "commit_ms",
        "total_ms",
    ]);
    reports.iter().for_each(|report| rows.push(row(report)));
    let total = |reports: &[BatchReport]| {
        percentiles(reports.iter().map(BatchReport::total_delay).collect())
    };
    let (early, late) = reports.split_at(reports.len() / 2);
    let (early, late) = (total(early), total(late));
    let p50 = |half: &Value| half["p50"].as_f64().unwrap_or_default();
    let counted = (summary.records, totals.sum.load(Ordering::SeqCst));
    let exact = json!(counted.0) == sent["records"] && json!(counted.1) == sent["words"];
    Ok(json!({
        "work": "tick", "program": "dstreams", "checked": exact,
        "interval_ms": interval, "rate": rate, "seconds": seconds, "clients": clients,
        "batches": reports.len(), "acknowledged": sent["records"], "counted": counted.0,
        "words_sent": sent["words"], "words_counted": counted.1,
        "total_delay_first_half_ms": early, "total_delay_second_half_ms": late,
        "holds": p50(&late) <= MAX_GROWTH * p50(&early) && p50(&late) <= 2.0 * interval as f64,
        "cut_ms": percentiles(rows.times("cut_ms")),
        "wait_ms": percentiles(rows.times("wait_ms")),
        "run_ms": percentiles(rows.times("run_ms")),
        "commit_ms": percentiles(rows.times("commit_ms")),
        "ack_ms": sent["ack_ms"], "sender_late_ms": sent["late_ms"], "resends": sent["resends"],
        "rows": rows.json(),
    }))
}

/// The parts of a batch's delay.
pub fn row(report: &BatchReport) -> Vec<f64> {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    vec![
        report.batch.0 as f64,
        report.records as f64,
        ms(report.cut_at.since(report.batch.timestamp())),
        ms(report.first_started_at.since(report.cut_at)),
        ms(report.finished_at.since(report.first_started_at)),
        ms(report.committed_at.since(report.finished_at)),
        ms(report.total_delay()),
    ]
}
