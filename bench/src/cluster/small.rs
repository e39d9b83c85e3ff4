//! Latency of a word count over 1,000 lines in two stages, one batch after the other.
//!
//! `clients`: both workers acknowledge the lines first; the clock runs from the end of the interval to the result
//! in this process. `queue`: this process stores the lines, as the local engine does; the clock runs from the push,
//! and the workers fetch them.

use std::time::{Duration, Instant};

use bench_input::{Args, Input};
use dstreams::{BatchTime, Rdd, RddReceiver};
use dstreams_client::{Client, LineSender, Options};
use serde_json::{Value, json};

use super::program::{Answers, Program, Spec, build};
use super::start::Cluster;
use super::watch::Watch;
use super::{Rows, runtime};
use crate::own::{Outcome, flag, percentiles};
use crate::run::{lines, words_of};

/// The columns of the raw rows.
const COLUMNS: [&str; 6] = [
    "total_ms", "cut_ms", "start_ms", "run_ms", "done_ms", "rows",
];

/// The input of `small`: batches of 1,000 lines.
pub fn input(flags: &[String]) -> Outcome<(Args, Input)> {
    let batches: usize = flag(flags, "--batches", 440)?;
    let lines = (batches * bench_input::SMALL_LINES).to_string();
    let words = ["--work", "small", "--lines", &lines];
    let args = Args::parse(words.map(str::to_owned))?;
    let input = Input::generate(&args);
    Ok((args, input))
}

/// `bench part small [--input clients|queue] [--batches N]`
pub fn small(flags: &[String]) -> Outcome<Value> {
    let (args, input) = input(flags)?;
    let from = flag(flags, "--input", "clients".to_owned())?;
    let spec = Spec::by_hand("words", &from);
    let mut program = build(&spec)?;
    let watch = Watch::default();
    program.ctx.add_listener(watch.clone());
    let runtime = runtime()?;
    runtime.block_on(async {
        let Program {
            ctx,
            clock,
            queue,
            answers,
            ..
        } = program;
        let Answers::Words(mut results) = answers else {
            return Err("the results of a word count must be collected".into());
        };
        let cluster = Cluster::start(&spec, ctx, 2).await?;
        let mut sender = match &queue {
            Some(_) => None,
            None => Some(open(&cluster.addresses()[0]).await?),
        };
        let mut seen = Vec::with_capacity(input.batches.len());
        for (at, text) in input.batches.iter().enumerate() {
            if let Some(sender) = &mut sender {
                sender.send_text(text).await?;
                sender.flush().await?;
            }
            let begun = Instant::now();
            if let Some(queue) = &queue {
                queue.push_batch(lines(text.clone())?).await?;
            }
            let moved = Instant::now();
            clock.advance(spec.interval());
            let rdd = next(&mut results, &cluster).await?;
            let result = Instant::now();
            input.expected.check_batch(at, words_of(&rdd))?;
            seen.push(Seen {
                batch: rdd.batch_time(),
                rows: rdd.num_rows(),
                begun,
                moved,
                result,
            });
        }
        drop(sender);
        cluster.stop(false).await?;
        let mut rows = Rows::new(&COLUMNS);
        for seen in &seen[args.warm_up()..] {
            rows.push(seen.row(&watch));
        }
        Ok(json!({
            "work": "small", "program": format!("dstreams {from}"), "checked": true,
            "batches": input.batches.len(), "latency_ms": percentiles(rows.times("total_ms")),
            "parts_ms": {
                "cut": percentiles(rows.times("cut_ms")),
                "start": percentiles(rows.times("start_ms")),
                "run": percentiles(rows.times("run_ms")),
                "done": percentiles(rows.times("done_ms")),
            },
            "rows": rows.json(),
        }))
    })
}

/// A batch, and the times of its steps.
struct Seen {
    batch: BatchTime,
    rows: usize,
    begun: Instant,
    moved: Instant,
    result: Instant,
}

impl Seen {
    /// The parts of the batch's time, as far as listeners are notified.
    fn row(&self, watch: &Watch) -> Vec<f64> {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let (total, rows) = (ms(self.result - self.begun), self.rows as f64);
        let told = watch.told();
        let Some(times) = told.times.get(&self.batch) else {
            return vec![total, 0.0, 0.0, 0.0, 0.0, rows];
        };
        let started = times.started.unwrap_or(times.cut);
        vec![
            total,
            // From the end of the interval until every worker has reported its blocks.
            ms(times.cut - self.moved),
            ms(started - times.cut),
            // Jobs, and fetching the result.
            ms(self.result - started),
            // The commit is reported after the result was delivered.
            times.completed.map_or(0.0, |done| ms(done - self.result)),
            rows,
        ]
    }
}

/// A producer that does not wait for more lines.
pub async fn open(address: &str) -> Outcome<LineSender> {
    let mut options = Options::default();
    options.linger = Duration::ZERO;
    let client = Client::connect(address, options).await?;
    Ok(client.lines("lines").await?)
}

/// The next result, or why there is none.
pub async fn next<T: dstreams::Record>(
    results: &mut RddReceiver<T>,
    cluster: &Cluster,
) -> Outcome<Rdd<T>> {
    match results.recv().await {
        Some(rdd) => Ok(rdd),
        None => Err(cluster.failure().await),
    }
}
