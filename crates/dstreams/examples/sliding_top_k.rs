//! The most viewed pages of the last three seconds, twice a second, of a made-up web site.
//!
//! Shows a generator (record `n` is the same in every run), a stream of structs, several aggregates over one
//! sliding window, and `top`.
//!
//! ```text
//! cargo run --example sliding_top_k        # until Ctrl-C
//! cargo run --example sliding_top_k 10     # ten batches
//! ```

use std::time::Duration;

use dstreams::agg::{avg_of, count, max_of};
use dstreams::{Generator, Record, StreamContext};

#[derive(Record)]
struct View {
    page: String,
    millis: i64,
}

/// View number `n`: page 1 is twice as popular as page 2, and so on.
fn view(n: u64) -> View {
    let random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    View {
        page: format!("/page/{}", (random | 1 << 20).trailing_zeros() + 1),
        millis: (random % 97 + 3) as i64,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let batches: Option<usize> = std::env::args().nth(1).map(|n| n.parse()).transpose()?;

    let mut ctx = StreamContext::new(Duration::from_millis(500))?;
    let views = ctx.generator("views", Generator::new(20_000, view));
    let pages = views
        .key_by_into::<String>(|view, key| key.push(view.page))
        // For each page: views, mean and longest time. The slide is the interval here; it may be
        // any multiple of it, and the window any multiple of that.
        .window_agg(
            Duration::from_secs(3),
            Duration::from_millis(500),
            (count(), avg_of::<i64>("millis"), max_of::<i64>("millis")),
        )?;
    // Greatest first: by the count, which is the first column of the value.
    let mut tops = pages.top(3).collect();

    let running = ctx.start().await?;
    for _ in 0..batches.unwrap_or(usize::MAX) {
        let Some(rdd) = tops.recv().await else { break };
        println!("batch {}", rdd.batch_time());
        for (page, (views, mean, longest)) in rdd.collect()? {
            println!("  {page:<10} {views:>7} views  {mean:>6.2} ms mean  {longest:>3} ms longest");
        }
    }
    running.abort().await?;
    Ok(())
}
