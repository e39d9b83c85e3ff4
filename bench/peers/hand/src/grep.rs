//! Lines that contain the needle.

use bench_input::{Args, Input, NEEDLE, Report, input};
use memchr::{memchr, memmem};
use std::sync::Barrier;
use std::time::Instant;

pub fn run<'a>(args: &'a Args, data: &Input) -> Result<Report<'a>, String> {
    let count = match args.variant.as_str() {
        "plain" | "slices" | "tuned" => whole,
        "lines" => lines,
        other => return Err(format!("unknown variant {other:?}: plain or lines")),
    };
    let ready = Barrier::new(args.threads + 1);
    let batch_done = Barrier::new(args.threads);
    let (time, parts) = std::thread::scope(|scope| {
        let worker = |part| {
            let (ready, batch_done) = (&ready, &batch_done);
            scope.spawn(move || {
                let finder = memmem::Finder::new(NEEDLE);
                ready.wait();
                let mut found = Vec::with_capacity(data.batches.len());
                for batch in &data.batches {
                    found.push(count(input::part(batch, part, args.threads), &finder));
                    batch_done.wait();
                }
                found
            })
        };
        let workers: Vec<_> = (0..args.threads).map(worker).collect();
        ready.wait();
        let start = Instant::now();
        let parts: Vec<Vec<u64>> = workers
            .into_iter()
            .map(|w| w.join().expect("a worker"))
            .collect();
        (start.elapsed(), parts)
    });
    let found: Vec<u64> = (0..args.batches)
        .map(|b| parts.iter().map(|part| part[b]).sum())
        .collect();
    data.expected.check_grep(&found)?;
    Ok(super::throughput(args, time))
}

/// Searches the text as a whole and goes on after the line of each hit.
fn whole(mut text: &[u8], finder: &memmem::Finder<'_>) -> u64 {
    let mut found = 0;
    while let Some(at) = finder.find(text) {
        found += 1;
        let end = memchr(b'\n', &text[at..]).map_or(text.len(), |n| at + n + 1);
        text = &text[end..];
    }
    found
}

/// Cuts the lines first, then searches each.
fn lines(mut text: &[u8], finder: &memmem::Finder<'_>) -> u64 {
    let mut found = 0;
    while let Some(end) = memchr(b'\n', text) {
        found += u64::from(finder.find(&text[..end]).is_some());
        text = &text[end + 1..];
    }
    found
}
