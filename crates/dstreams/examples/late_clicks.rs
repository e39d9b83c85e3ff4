//! Clicks on ads, counted by the time at which they happened: some arrive seconds later, and correct counts that were
//! emitted before.
//!
//! Shows aggregates by event time: first results, corrections with what a count was before, final results, and clicks
//! that came too late to count.
//!
//! ```text
//! cargo run --example late_clicks        # until Ctrl-C
//! cargo run --example late_clicks 10     # ten batches
//! ```

use std::time::Duration;

use dstreams::agg::count;
use dstreams::{Generator, Intervals, Record, StreamContext};

#[derive(Record)]
struct Click {
    ad: i64,
    at_ms: i64,
}

/// Click number `n`, as received at `received_ms`. One in eight was under way for up to five seconds.
fn click(n: u64, received_ms: i64) -> Click {
    let random = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as i64;
    let delay = match random % 8 {
        0 => random / 8 % 5_000,
        _ => random / 8 % 100,
    };
    Click {
        ad: random % 3,
        at_ms: received_ms - delay,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let batches: Option<usize> = std::env::args().nth(1).map(|n| n.parse()).transpose()?;

    let half = Duration::from_millis(500);
    let mut ctx = StreamContext::new(half)?;
    let numbers = ctx.generator("clicks", Generator::new(200, |n| n as i64));
    let clicks = numbers
        .with_time()
        .map(|(time, n)| click(n as u64, time - 1));

    // Seconds of the clicks' event time: emitted half a second after their end, then corrected for two seconds.
    let seconds = Intervals::every(2 * half).slack(half).correct_for(4 * half);
    let counts = clicks.key_by(|click| click.ad).agg_by_time(
        "clicks",
        |click| click.at_ms,
        seconds,
        count(),
    )?;
    let first = counts.first().pairs();
    first
        .map(|((end, ad), n)| format!("{end} ad {ad}: {n} clicks"))
        .print(10);
    let corrections = counts.corrections();
    corrections
        .map(|it| {
            let before = it.before.unwrap_or_default();
            format!(
                "{} ad {}: {before} -> {} clicks",
                it.interval, it.key, it.after
            )
        })
        .print(10);
    let finals = counts.finals().pairs();
    finals
        .map(|((end, ad), n)| format!("{end} ad {ad}: {n} clicks, final"))
        .print(10);
    let mut late = counts.late().pairs().count()?.collect();

    let running = ctx.start().await?;
    for _ in 0..batches.unwrap_or(usize::MAX) {
        let Some(rdd) = late.recv().await else { break };
        println!(
            "batch {}: {:?} clicks came too late",
            rdd.batch_time(),
            rdd.collect()?
        );
    }
    running.abort().await?;
    Ok(())
}
