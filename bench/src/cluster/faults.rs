//! The cost of a fault. Workers are killed or slowed down while a program runs with an interval of one second. The delay
//! of the batches after the fault is compared with the delay before it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dstreams::BatchReport;
use dstreams_cluster::{ClusterStatus, MasterOptions, SpeculationConfig};
use serde_json::{Value, json};

use super::processes::Process;
use super::program::{Spec, build};
use super::soak::DELAYS;
use super::start::Cluster;
use super::tick::row;
use super::watch::Watch;
use super::{Rows, runtime, send};
use crate::own::{Outcome, flag, percentiles};
use crate::system::cpu;

/// Intervals until the fault: the window is full by then.
const BEFORE: u64 = 40;
/// Batches before the fault that count as normal, and those after it that count.
const COUNTED: usize = 15;
/// Batches after a worker has become slow that are left out of the settled ones: by then its state has moved.
const UNTIL_SETTLED: usize = 25;
/// A batch is normal again if it takes at most so many times the normal delay.
const NORMAL: f64 = 1.2;
/// The interval, and how long after the end of one the fault comes.
const INTERVAL: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_millis(120);
/// A slow worker stands still for the first part of each period.
const STOPPED: Duration = Duration::from_millis(80);
const PERIOD: Duration = Duration::from_millis(100);

/// `bench part faults [--work grep|window30] [--workers N] [--kill N] [--slow true|false] [--standbys 0|1]
/// [--speculation true|false] [--floor-ms N] [--checkpoint-every N] [--since-checkpoint N] [--rate LINES_PER_S]`
pub fn faults(flags: &[String]) -> Outcome<Value> {
    let work = flag(flags, "--work", "window30".to_owned())?;
    let workers = flag(flags, "--workers", 4usize)?;
    let kill = flag(flags, "--kill", 0usize)?;
    let slow = flag(flags, "--slow", false)?;
    let standbys = flag(flags, "--standbys", 1usize)?;
    let speculates = flag(flags, "--speculation", false)?;
    let every = flag(flags, "--checkpoint-every", 10u32)?;
    let since = flag(flags, "--since-checkpoint", every / 2)?;
    let rate = flag(flags, "--rate", 100_000u64)?;
    let dir = std::env::temp_dir().join(format!("dstreams-bench-faults-{}", std::process::id()));
    let mut spec = Spec::on_the_clock(&work, 1_000);
    spec.partitions = workers;
    spec.state = dir.display().to_string();
    spec.checkpoint_every = every;
    let mut program = build(&spec)?;
    let watch = Watch::default();
    program.ctx.add_listener(watch.clone());
    let mut options = MasterOptions::default();
    options.standbys = standbys;
    let mut speculation = SpeculationConfig::default();
    speculation.floor = flag(flags, "--floor-ms", 100u64).map(Duration::from_millis)?;
    options.speculation = speculates.then_some(speculation);
    let settles = if slow { UNTIL_SETTLED } else { 0 };
    let seconds = BEFORE + u64::from(every) + (settles + COUNTED) as u64 + 10;
    let mut cpu_ms = 0.0;
    let (sent, begun, status, summary) = runtime()?.block_on(async {
        let mut cluster = Cluster::start_with(&spec, program.ctx, (workers, options)).await?;
        let asked = format!("--clients {workers} --rate {rate} --every-ms 5 --seconds {seconds}");
        let master = vec![cluster.address.clone()];
        let mut sending = Box::pin(send(&master, &asked));
        let half = Duration::from_secs(BEFORE / 2);
        let used = |cluster: &Cluster| -> f64 {
            let all = cluster.pids().into_iter().chain([std::process::id()]);
            all.map(|pid| cpu(pid).as_secs_f64() * 1e3).sum()
        };
        wait(&mut sending, half).await?;
        let before = used(&cluster);
        wait(&mut sending, half).await?;
        cpu_ms = (used(&cluster) - before) / (BEFORE / 2) as f64;
        // So many batches after a checkpoint, while the next one runs.
        while watch.told().reports.len() as u32 % every != since {
            wait(&mut sending, Duration::from_millis(10)).await?;
        }
        let now = dstreams::Clock::wall().now().0 / 1_000;
        wait(
            &mut sending,
            INTERVAL - Duration::from_millis(now % 1_000) + LATER,
        )
        .await?;
        let begun = dstreams::Clock::wall().now();
        let slowed = slow.then(|| Slowed::begin(cluster.workers[0].id()));
        for pid in victims(&cluster.status(), kill) {
            // Killed when dropped.
            cluster.workers.retain(|worker| worker.id() != pid);
        }
        for _ in 0..kill {
            cluster.workers.push(Process::worker(&cluster.address)?);
        }
        let sent = sending.await?;
        drop(slowed);
        let status = cluster.status();
        Ok::<_, Box<dyn std::error::Error>>((sent, begun, status, cluster.stop(true).await?))
    })?;
    std::fs::remove_dir_all(&dir)?;
    let told = watch.told();
    let reports = &told.reports;
    // Also those that ran when it came.
    let at = reports.partition_point(|report| report.committed_at < begun);
    let (normal, after) = (
        &reports[at.saturating_sub(COUNTED)..at],
        &reports[at..(at + COUNTED).min(reports.len())],
    );
    let settled = &reports[(at + settles).min(reports.len())..];
    if [normal, after, settled].iter().any(|of| of.len() < COUNTED) {
        return Err(format!("only {} batches, the fault after {at}", reports.len()).into());
    }
    let settled = &settled[..COUNTED];
    let delay = |report: &BatchReport| report.total_delay().as_secs_f64() * 1e3;
    let worst = |of: &[BatchReport]| of.iter().map(delay).fold(0.0, f64::max);
    let spread =
        |of: &[BatchReport]| percentiles(of.iter().map(BatchReport::total_delay).collect());
    let (normal_ms, after_ms, settled_ms) = (spread(normal), spread(after), spread(settled));
    let typical = normal_ms["p50"].as_f64().unwrap_or_default();
    let late = after
        .iter()
        .rposition(|report| delay(report) > NORMAL * typical);
    let mut rows = Rows::new(&DELAYS);
    reports.iter().for_each(|report| rows.push(row(report)));
    let fault = match (kill, slow) {
        (0, false) => "no fault".to_owned(),
        (0, true) => "one slow worker".to_owned(),
        (kill, _) => format!("{kill} killed"),
    };
    let copies = if speculates { ", copies" } else { "" };
    Ok(json!({
        "work": work,
        "program": format!("{fault}, {workers} workers, {standbys} standby, {since} of {every} s after a checkpoint{copies}"),
        "checked": json!(summary.records) == sent["records"] && status.losses == kill as u64,
        "rate": rate, "batches": reports.len(),
        "normal_ms": normal_ms, "after_ms": after_ms, "worst_ms": worst(after),
        "worst_times": worst(after) / typical,
        "settled_ms": settled_ms, "settled_worst_times": worst(settled) / typical,
        "after_p50_times": after_ms["p50"].as_f64().unwrap_or_default() / typical,
        "late_batches": late.map_or(0, |last| last + 1),
        "settled_p50_times": settled_ms["p50"].as_f64().unwrap_or_default() / typical,
        "slow": status.workers.iter().filter(|worker| worker.slow).count(),
        "cpu_ms_per_batch": cpu_ms,
        "rebuilds": status.rebuilds, "rebuilt_partitions": status.rebuilt_partitions,
        "task_copies": status.task_copies, "task_copies_won": status.task_copies_won,
        "lost": status.lost.iter().map(|lost| lost.after_ms).collect::<Vec<_>>(),
        "rows": rows.json(),
    }))
}

/// A worker with state, the one that stands by for it, and others.
fn victims(status: &ClusterStatus, count: usize) -> Vec<u32> {
    let mut workers: Vec<_> = status.workers.iter().collect();
    workers.sort_by_key(|worker| worker.holds.is_empty());
    let first = workers.first().and_then(|worker| worker.holds.first());
    if let Some(partition) = first
        && let Some(at) = { &workers }
            .iter()
            .position(|it| it.stands_by.contains(partition))
    {
        let standby = workers.remove(at);
        workers.insert(1, standby);
    }
    let all = workers.iter().map(|worker| worker.pid);
    all.take(count).collect()
}

/// Lets time pass while records are sent.
async fn wait(
    sending: &mut (impl Future<Output = Outcome<Value>> + Unpin),
    time: Duration,
) -> Outcome<()> {
    tokio::select! {
        sent = sending => Err(format!("the sender ended early: {sent:?}").into()),
        () = tokio::time::sleep(time) => Ok(()),
    }
}

/// A process that stands still most of the time.
struct Slowed {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Slowed {
    fn begin(pid: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::SeqCst) {
                let begun = Instant::now();
                signal(pid, "STOP");
                std::thread::sleep(STOPPED);
                signal(pid, "CONT");
                std::thread::sleep(PERIOD.saturating_sub(begun.elapsed()));
            }
        });
        Slowed {
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // It only fails if it has panicked, and it does not.
            let _ = thread.join();
        }
    }
}

fn signal(pid: u32, name: &str) {
    if Path::new("/proc").join(pid.to_string()).exists() {
        // The process may end first.
        let _ = Command::new("kill")
            .args(["-s", name, &pid.to_string()])
            .status();
    }
}
