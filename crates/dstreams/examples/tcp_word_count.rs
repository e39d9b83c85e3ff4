//! Counts the words of the last ten seconds in lines received over TCP.
//!
//! Shows the path of a record: a stream from a socket, the words of each line, a count for each word over a sliding
//! window, the ten most frequent ones once a second.
//!
//! ```text
//! cargo run --example tcp_word_count            # prints the address it listens on
//! nc 127.0.0.1 7077 < README.md                 # elsewhere, as often as you like
//! ```
//!
//! With a number it ends after so many batches: `cargo run --example tcp_word_count 5`.
//! A second argument is the address to listen on.

use std::time::Duration;

use dstreams::agg::count;
use dstreams::{StreamContext, text::words};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let batches: Option<usize> = std::env::args().nth(1).map(|n| n.parse()).transpose()?;
    let address = std::env::args()
        .nth(2)
        .unwrap_or("127.0.0.1:7077".to_owned());

    // First the graph. Nothing runs yet, no socket is open.
    let interval = Duration::from_secs(1);
    let mut ctx = StreamContext::new(interval)?;
    let lines = ctx.tcp_text("lines", &address);
    let top = lines
        // Words are slices of the received bytes: pushing one copies nothing.
        .flat_map::<String>(|line, out| words(line).for_each(|word| out.push(word)))
        .keyed()
        // A batch costs as much as enters and leaves the window, not the window's length.
        .window_agg(Duration::from_secs(10), interval, count())?
        .top(10);
    let mut tops = top.collect();

    // Now it runs: batch after batch, until it is stopped.
    let running = ctx.start().await?;
    if let Some(address) = running.address("lines") {
        println!("listening on {address}");
    }
    for _ in 0..batches.unwrap_or(usize::MAX) {
        let Some(rdd) = tops.recv().await else { break };
        println!("batch {}: {:?}", rdd.batch_time(), rdd.collect()?);
    }

    // What was received and not yet counted is counted before the end.
    let summary = running.stop().await?;
    println!("{} lines in {} batches", summary.records, summary.batches);
    Ok(())
}
