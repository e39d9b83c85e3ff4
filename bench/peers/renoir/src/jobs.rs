//! One job per batch, in renoir's own operators: `group_by_fold` counts where the text is, then by key.

use bench_input::{Args, Input, LINE_BYTES, Words, Work, input};
use compact_str::CompactString;
use renoir::prelude::*;
use std::time::{Duration, Instant};

const BLOCK_LINES: usize = 1_000;

type Counts = Vec<(CompactString, u64)>;

pub fn run(args: &Args, data: &'static Input) -> Result<Vec<Duration>, String> {
    if !matches!(args.work, Work::WordCount | Work::Small) {
        return Err(format!("{} has no variant jobs", args.work.name()));
    }
    let mut times = Vec::with_capacity(args.batches);
    let mut results = Vec::new();
    for (at, batch) in data.batches.iter().enumerate() {
        let start = Instant::now();
        let counts = job(args, batch)?;
        times.push(start.elapsed());
        if args.work == Work::Small {
            data.expected.check_batch(at, sum(&counts))?;
        } else {
            results.push(counts);
        }
    }
    if args.work == Work::WordCount {
        data.expected
            .check_words(&results.iter().map(sum).collect::<Vec<_>>())?;
    }
    Ok(times)
}

fn sum(counts: &Counts) -> Words {
    counts
        .iter()
        .map(|(word, count)| (word.as_bytes(), *count))
        .collect()
}

fn job(args: &Args, batch: &'static [u8]) -> Result<Counts, String> {
    let config = RuntimeConfig::local(args.threads as u64).map_err(|error| error.to_string())?;
    let env = StreamContext::new(config);
    let counts = env
        .stream_par_iter(move |replica, replicas| {
            input::part(batch, replica as usize, replicas as usize).chunks(BLOCK_LINES * LINE_BYTES)
        })
        .batch_mode(BatchMode::fixed(1024))
        .flat_map(|text| {
            text.split(|byte| *byte <= b' ')
                .filter(|word| !word.is_empty())
        })
        .group_by_fold(
            |word: &&[u8]| CompactString::from_utf8_lossy(word),
            0u64,
            |count, _| *count += 1,
            |count, other| *count += other,
        )
        .collect_vec();
    env.execute_blocking();
    counts
        .get()
        .ok_or_else(|| "the job gave no result".to_owned())
}
