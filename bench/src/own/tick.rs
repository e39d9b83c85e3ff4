//! A short interval under load: does the delay stay constant, and how does it compare with a bare timer?

use std::path::Path;
use std::time::{Duration, Instant};

use bench_input::{Args, Input};
use dstreams::agg::count;
use dstreams::files::Format;
use dstreams::text::words;
use dstreams::{BatchReport, Config, Generator, StreamContext};

use super::watch::{Place, Reports};
use super::{Outcome, flag, percentiles};

/// `bench tick [--interval-ms N] [--rate LINES_PER_S] [--seconds N] [--durable DIR]`: word count over lines of 100
/// bytes, and next to it a timer that sleeps until each boundary. With a directory it counts with totals, and has a
/// journal, checkpoints, and each batch's changes in files.
pub fn tick(flags: &[String]) -> Outcome<()> {
    let every = flag(flags, "--interval-ms", 10u64)?;
    let rate = flag(flags, "--rate", 100_000u64)?;
    let seconds = flag(flags, "--seconds", 120u64)?;
    let durable: String = flag(flags, "--durable", String::new())?;
    let flags = ["--work", "grep", "--lines", "100000", "--batches", "1"];
    let input = Input::generate(&Args::parse(flags.map(str::to_owned))?);
    let text: Vec<String> = String::from_utf8(input.batches.concat())?
        .lines()
        .map(str::to_owned)
        .collect();
    let make = move |n: u64| text[n as usize % text.len()].clone();
    let reports = Reports::default();
    let describe = |files: Option<&Path>| {
        let mut config = Config::new(Duration::from_millis(every));
        config.threads = 2;
        let mut ctx = StreamContext::with_config(config)?;
        let lines = ctx.generator("lines", Generator::new(rate, make));
        let words = lines
            .flat_map::<String>(|line, out| words(line).for_each(|word| out.push(word)))
            .keyed();
        match files {
            None => words.agg(count())?.for_each_rdd(|_| ()),
            Some(files) => {
                let counts = words.running_agg("counts", count())?;
                counts.changes().write_files(files, Format::Csv)?;
            }
        }
        ctx.add_listener(reports.clone());
        Ok::<_, dstreams::Error>(ctx)
    };
    let place = match durable.as_str() {
        "" => None,
        below => Some(Place::new(below, "tick")?),
    };
    let ctx = match &place {
        None => describe(None)?,
        Some(Place(place)) => {
            let mut ctx = describe(Some(&place.join("files")))?;
            ctx.persist_in(place.join("program"));
            ctx
        }
    };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build()?;
    let jitter = runtime.block_on(async {
        let running = ctx.start().await?;
        let jitter = bare_timer(Duration::from_millis(every), Duration::from_secs(seconds)).await;
        running.stop().await?;
        Ok::<_, dstreams::Error>(jitter)
    })?;
    let reports = reports.all();
    let records: u64 = reports.iter().map(|report| report.records).sum();
    let total =
        |reports: &[BatchReport]| percentiles(reports.iter().map(|r| r.total_delay()).collect());
    let (first, second) = reports.split_at(reports.len() / 2);
    println!(
        "{}",
        serde_json::json!({
            "work": "tick", "interval_ms": every, "rate": rate, "seconds": seconds, "durable": place.is_some(),
            "batches": reports.len(), "records": records,
            "processing_ms": percentiles(reports.iter().map(|r| r.processing_time()).collect()),
            "scheduling_ms": percentiles(reports.iter().map(|r| r.scheduling_delay()).collect()),
            "total_delay_first_half_ms": total(first),
            "total_delay_second_half_ms": total(second),
            "bare_timer_late_ms": percentiles(jitter),
        })
    );
    Ok(())
}

/// The lateness of a timer that sleeps until each multiple of `every`.
async fn bare_timer(every: Duration, length: Duration) -> Vec<Duration> {
    let start = Instant::now();
    let mut late = Vec::new();
    let mut next = start + every;
    while start.elapsed() < length {
        tokio::time::sleep_until(next.into()).await;
        late.push(next.elapsed());
        next += every;
    }
    late
}
