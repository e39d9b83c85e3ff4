//! The cost of a slide in a window of 100 batches, compared with one of 10.

use std::time::{Duration, Instant};

use dstreams::agg::{Agg, max_of, sum_of};
use dstreams::record::batch_of;
use dstreams::{Clock, Config, StreamContext};

use super::{Outcome, flag, percentiles};

const INTERVAL: Duration = Duration::from_secs(1);

/// `bench windows [--keys N] [--rows N] [--rounds N]`: sums (invertible) and maxima (associative only) of `rows`
/// rows per batch over `keys` keys; windows of 10 and of 100 batches in turns. The window is full before the clock
/// starts.
pub fn windows(flags: &[String]) -> Outcome<()> {
    let keys = flag(flags, "--keys", 100_000u64)?;
    let rows = flag(flags, "--rows", 100_000u64)?;
    let rounds = flag(flags, "--rounds", 3usize)?;
    for round in 0..rounds {
        for (name, associative) in [("invertible", false), ("associative", true)] {
            let mut medians = Vec::new();
            for batches in [10, 100] {
                let times = match associative {
                    false => slides(keys, rows, batches, sum_of::<i64>(""))?,
                    true => slides(keys, rows, batches, max_of::<i64>(""))?,
                };
                let mean = times.iter().sum::<Duration>().as_secs_f64() * 1e3 / times.len() as f64;
                medians.push(mean);
                println!(
                    "{}",
                    serde_json::json!({
                        "work": "windows", "round": round, "kind": name, "window": batches,
                        "keys": keys, "rows": rows, "slides": times.len(),
                        "mean_ms": mean, "slide_ms": percentiles(times),
                    })
                );
            }
            println!(
                "{}",
                serde_json::json!({
                    "work": "windows", "round": round, "kind": name,
                    "mean_ratio_100_to_10": medians[1] / medians[0],
                })
            );
        }
    }
    Ok(())
}

fn slides<A>(keys: u64, rows: u64, window: u32, agg: A) -> Outcome<Vec<Duration>>
where
    A: Agg<i64>,
{
    let mut config = Config::new(INTERVAL);
    config.threads = 2;
    config.block_memory = 1 << 30;
    let mut ctx = StreamContext::with_config(config)?;
    let (clock, time) = Clock::manual(Duration::ZERO);
    ctx.set_clock(time);
    let (queue, pairs) = ctx.queue::<(u64, i64)>("pairs");
    let windowed = pairs
        .by_key()
        .window_agg(INTERVAL * window, INTERVAL, agg)?;
    let mut results = windowed.collect();
    let warm_up = 110u64;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let running = ctx.start().await?;
        let mut times = Vec::new();
        let mut state = 88_172_645_463_325_252u64;
        for batch in 0..warm_up + 200 {
            let mut draw = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            let records = batch_of((0..rows).map(|_| (draw() % keys, (draw() >> 1) as i64 >> 8)))?;
            queue.push_batch(records).await?;
            let start = Instant::now();
            clock.advance(INTERVAL);
            if results.recv().await.is_none() {
                running.await_termination(None).await?;
                return Err("the program stopped before its last batch".into());
            }
            if batch >= warm_up {
                times.push(start.elapsed());
            }
        }
        running.abort().await?;
        Ok(times)
    })
}
