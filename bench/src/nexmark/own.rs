//! `dstreams` as one of the programs: a work over the input in a folder, in a process of its own.

use std::path::Path;
use std::time::{Duration, Instant};

use dstreams::{Clock, Config, StreamContext};
use serde_json::{Value, json};

use super::queries::{Inputs, describe};
use super::records::Answer;
use super::{INTERVAL, Outcome, Size};
use crate::own::{Reports, flag};

/// Runs the work that the flags name, and prints its line.
pub fn run(flags: &[String]) -> Outcome<()> {
    let work: String = flag(flags, "--work", String::new())?;
    let folder: String = flag(flags, "--input", String::new())?;
    let size = Size::of(flags)?;
    println!("{}", measured(&work, Path::new(&folder), &size)?);
    Ok(())
}

/// Pushes the batches one after the other, each when the one before has taken effect. The clock runs from the first push
/// to the effect of the last batch; the input is in memory before.
fn measured(work: &str, folder: &Path, size: &Size) -> Outcome<Value> {
    let mut config = Config::new(INTERVAL);
    config.threads = size.threads;
    config.block_memory = 4 << 30;
    let mut ctx = StreamContext::with_config(config)?;
    let (clock, time) = Clock::manual(Duration::ZERO);
    ctx.set_clock(time);
    let (answer, reports) = (Answer::default(), Reports::default());
    let mut inputs = Inputs::new(&mut ctx, folder, size);
    describe(work, &mut inputs, &answer)?;
    let feeds = inputs.feeds();
    ctx.add_listener(reports.clone());
    let events: u64 = feeds.iter().map(|feed| feed.table.records).sum();
    let batches = feeds.iter().map(|feed| feed.table.batches.len()).max();
    let batches = batches.unwrap_or(0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let seconds = runtime.block_on(async {
        let running = ctx.start().await?;
        let start = Instant::now();
        for batch in 0..batches {
            for feed in &feeds {
                if let Some(rows) = feed
                    .table
                    .batches
                    .get(batch)
                    .filter(|rows| rows.num_rows() > 0)
                {
                    feed.push(rows.clone()).await?;
                }
            }
            clock.advance(INTERVAL);
            reports.count(batch + 1).await;
        }
        let seconds = start.elapsed().as_secs_f64();
        let rejected: u64 = running.status().rejected.values().sum();
        running.abort().await?;
        match rejected {
            0 => Outcome::Ok(seconds),
            _ => Err(format!("{rejected} events were late or ahead").into()),
        }
    })?;
    let (rows, checksum) = answer.end();
    Ok(json!({
        "program": "dstreams", "version": env!("CARGO_PKG_VERSION"), "work": work, "threads": size.threads,
        "events": events, "batches": batches, "seconds": seconds, "events_per_s": (events as f64 / seconds).round(),
        "rows": rows, "checksum": checksum.cast_signed(),
    }))
}
