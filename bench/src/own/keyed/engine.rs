//! A program that counts by key: the delays of its batches, as it reports them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use dstreams::agg::count;
use dstreams::record::batch_of;
use dstreams::{Config, Queue, StreamContext};
use serde_json::{Value, json};

use super::{Draw, Options, Outcome, key};
use crate::alloc::allocated;
use crate::own::percentiles;
use crate::own::watch::Reports;

/// Long compared with the time of a batch.
const INTERVAL: Duration = Duration::from_millis(50);
/// Keys of a batch while the state is being filled.
const FILL_KEYS: u64 = 200_000;
/// Batches before the measured ones.
const WARM_UP_BATCHES: u64 = 50;

/// The program: its input are numbers, its output are the changes of each batch.
pub struct Program {
    pub ctx: StreamContext,
    pub queue: Queue<u64>,
    pub reports: Reports,
    /// Number of output rows.
    pub rows: Arc<AtomicU64>,
}

impl Program {
    /// Persists in a directory, if one is given.
    pub fn new(dir: Option<&Path>) -> Outcome<Self> {
        let reports = Reports::default();
        let rows = Arc::new(AtomicU64::new(0));
        let mut config = Config::new(INTERVAL);
        config.threads = 2;
        let mut ctx = StreamContext::with_config(config)?;
        let (queue, stream) = ctx.queue::<u64>("keys");
        let counts = stream.keyed().running_agg("counts", count())?;
        let seen = Arc::clone(&rows);
        counts.changes().for_each_rdd(move |rdd| {
            seen.fetch_add(rdd.num_rows() as u64, Relaxed);
        });
        ctx.add_listener(reports.clone());
        if let Some(dir) = dir {
            ctx.persist_in(dir);
        }
        Ok(Program {
            ctx,
            queue,
            reports,
            rows,
        })
    }
}

/// A program's queue, to fill it in step with its batches.
pub struct Feed {
    queue: Queue<u64>,
    pub reports: Reports,
    pub pushed: u64,
}

impl Feed {
    pub fn of(program: &Program) -> Self {
        Feed {
            queue: program.queue.clone(),
            reports: program.reports.clone(),
            pushed: 0,
        }
    }

    /// Runs one batch of the keys at these places; returns when it took effect.
    pub async fn batch(&mut self, places: impl IntoIterator<Item = u64>) -> Outcome<()> {
        let records = batch_of(places.into_iter().map(key))?;
        self.pushed += records.num_rows() as u64;
        self.queue.push_batch(records).await?;
        self.reports.reach(self.pushed).await;
        Ok(())
    }

    /// Pushes each key once.
    pub async fn fill(&mut self, keys: u64) -> Outcome<()> {
        let mut from = 0;
        while from < keys {
            let to = keys.min(from + FILL_KEYS);
            self.batch(from..to).await?;
            from = to;
        }
        Ok(())
    }
}

pub fn measure(options: &Options, keys: u64) -> Outcome<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let program = Program::new(None)?;
        let mut feed = Feed::of(&program);
        let rows = Arc::clone(&program.rows);
        let running = program.ctx.start().await?;
        let empty = allocated().held;
        feed.fill(keys).await?;
        let mut draw = Draw::new();
        // Each key twice, on average, so that compaction reaches its steady state.
        let many = (keys / 4).min(FILL_KEYS).max(options.changed);
        for _ in 0..(2 * keys).div_ceil(many) {
            feed.batch(draw.some(many, keys)).await?;
        }
        for _ in 0..WARM_UP_BATCHES {
            feed.batch(draw.some(options.changed, keys)).await?;
        }
        let (from, before) = (feed.reports.all().len(), rows.load(Relaxed));
        let (mut calls, mut bytes, mut held) = (0, 0, Vec::new());
        for _ in 0..options.batches {
            let changed = draw.some(options.changed, keys);
            let taken = allocated();
            feed.batch(changed).await?;
            let now = allocated();
            calls += now.calls - taken.calls;
            bytes += now.bytes - taken.bytes;
            held.push(now.held.saturating_sub(empty) as f64 / keys as f64);
        }
        if rows.load(Relaxed) - before != options.changed * options.batches {
            return Err("a batch did not change the keys that it was given".into());
        }
        let reports = feed.reports.all().split_off(from);
        let ours = || reports.iter().filter(|report| report.records > 0);
        let processing: Vec<Duration> = ours().map(|r| r.processing_time()).collect();
        let mean = processing.iter().sum::<Duration>().as_secs_f64() * 1e3 / processing.len() as f64;
        let result = json!({
            "work": "keyed", "part": "engine", "keys": keys, "changed": options.changed,
            "interval_ms": INTERVAL.as_millis() as u64, "batches": processing.len(), "checked": true,
            "allocated_bytes": bytes / options.batches, "allocations": calls / options.batches,
            "held_bytes_per_key_mean": held.iter().sum::<f64>() / held.len() as f64,
            "held_bytes_per_key_max": held.iter().copied().fold(0.0, f64::max),
            "mean_ms": mean,
            "batch_ms": percentiles(processing),
            "total_delay_ms": percentiles(ours().map(|r| r.total_delay()).collect()),
        });
        running.abort().await?;
        Ok(result)
    })
}
