//! Large batches on two workers of one core, and on the local engine with two threads.
//!
//! `preloaded`: two clients send a batch, and both workers store all of it; then the clock starts, the interval
//! ends by hand, and the clock stops at the result in this process: receiving is left out, as it is for the local
//! engine, to which lines are pushed as `bench run` pushes them. `received`: two clients in a process of their own
//! send as fast as they can while batches run every half second; the clock runs from the first send to the last
//! result, for both engines.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bench_input::{Args, Input, LINE_BYTES, Words};
use dstreams_client::LineSender;
use serde_json::{Value, json};

use super::program::{Answers, Program, Spec, build};
use super::small::{next, open};
use super::start::Cluster;
use super::{Rows, runtime, send};
use crate::own::{Outcome, flag};
use crate::run::words_of;
use crate::system::{cpu, loopback, written};

/// Number of rows from which on a batch runs as two tasks: the library's default.
const ROWS_PER_TASK: usize = 4_096;
/// Clients, one for each worker.
const CLIENTS: usize = 2;

/// `bench part throughput [--work grep|wordcount] [--mode preloaded|received] [--engine cluster|local]
/// [--lines N] [--batches N] [--interval-ms N]`
pub fn throughput(flags: &[String]) -> Outcome<Value> {
    let work = flag(flags, "--work", "grep".to_owned())?;
    let mode = flag(flags, "--mode", "preloaded".to_owned())?;
    let engine = flag(flags, "--engine", "cluster".to_owned())?;
    let lines = flag(flags, "--lines", 5_000_000usize)?;
    let batches = flag(flags, "--batches", 20usize)?;
    let own = match work.as_str() {
        "wordcount" => "words",
        other => other,
    };
    let mut result = match mode.as_str() {
        "preloaded" => {
            let words = format!("--work {work} --lines {lines} --batches {batches}");
            let args = Args::parse(words.split(' ').map(str::to_owned))?;
            match engine.as_str() {
                "cluster" => preloaded(own, &Input::generate(&args))?,
                _ => local(own, &args)?,
            }
        }
        _ => received(own, &engine, flag(flags, "--interval-ms", 500)?, lines)?,
    };
    result["work"] = format!("{work}, {mode}, {batches} batches").into();
    if mode == "received" {
        result["work"] = format!("{work}, received").into();
    }
    result["program"] = format!("dstreams {engine}").into();
    result["lines"] = lines.into();
    result["batches"] = batches.into();
    Ok(result)
}

/// The result of each batch.
#[derive(Default)]
struct Results {
    found: Vec<u64>,
    words: Vec<Words>,
}

impl Results {
    fn check(&self, work: &str, input: &Input) -> Outcome<()> {
        match work {
            "grep" => input.expected.check_grep(&self.found)?,
            _ => input.expected.check_words(&self.words)?,
        }
        Ok(())
    }
}

fn preloaded(work: &str, input: &Input) -> Outcome<Value> {
    let mut spec = Spec::by_hand(work, "clients");
    spec.rows_per_task = ROWS_PER_TASK;
    let program = build(&spec)?;
    let mut rows = Rows::new(&[
        "receive_ms",
        "total_ms",
        "receive_loopback",
        "run_loopback",
        "run_written",
        "worker_cpu_ms",
        "master_cpu_ms",
    ]);
    let results = runtime()?.block_on(async {
        let Program {
            ctx,
            clock,
            mut answers,
            ..
        } = program;
        let cluster = Cluster::start(&spec, ctx, 2).await?;
        let mut senders = Vec::new();
        for address in cluster.addresses() {
            senders.push(open(&address).await?);
        }
        let pids = cluster.pids();
        let now = || Reading {
            at: Instant::now(),
            loopback: loopback(),
            written: pids.iter().map(|pid| written(*pid)).sum(),
            workers: pids.iter().map(|pid| cpu(*pid)).sum(),
            master: cpu(std::process::id()),
        };
        let mut results = Results::default();
        for text in &input.batches {
            let before = now();
            let halves = senders.iter_mut().enumerate();
            let halves = halves.map(|(at, sender)| push(sender, text, at));
            futures::future::try_join_all(halves).await?;
            let held = now();
            clock.advance(spec.interval());
            match &mut answers {
                Answers::Found(found) => {
                    let rdd = next(found, &cluster).await?;
                    let done = now();
                    rows.push(row(&before, &held, &done));
                    results.found.push(rdd.collect()?[0] as u64);
                }
                Answers::Words(words) => {
                    let rdd = next(words, &cluster).await?;
                    let done = now();
                    rows.push(row(&before, &held, &done));
                    results.words.push(words_of(&rdd));
                }
                Answers::Totals => return Err("results must be collected here".into()),
            }
        }
        drop(senders);
        cluster.stop(false).await?;
        Ok::<_, Box<dyn std::error::Error>>(results)
    })?;
    results.check(work, input)?;
    let bytes: usize = input.batches.iter().map(Vec::len).sum();
    let sum = |name: &str| rows.column(name).iter().sum::<f64>();
    let (receive, run) = (sum("receive_ms") / 1e3, sum("total_ms") / 1e3);
    let lines = (bytes / LINE_BYTES) as f64;
    Ok(json!({
        "checked": true, "seconds": run, "lines_per_s": lines / run,
        "received_lines_per_s": lines / receive,
        "bytes_per_input_byte": {
            "loopback_receiving": sum("receive_loopback") / bytes as f64,
            "loopback_running": sum("run_loopback") / bytes as f64,
            "written_running": sum("run_written") / bytes as f64,
        },
        "receive_cpu_s": sum("receive_cpu_ms") / 1e3,
        "worker_cpu_s": sum("worker_cpu_ms") / 1e3, "master_cpu_s": sum("master_cpu_ms") / 1e3,
        "rows": rows.json(),
    }))
}

/// The local engine, with lines pushed as views into their text: as receiving would leave them.
fn local(work: &str, args: &Args) -> Outcome<Value> {
    let mut input = Input::generate(args);
    let batches = std::mem::take(&mut input.batches).into_iter();
    let batches = batches
        .map(crate::run::lines)
        .collect::<Outcome<Vec<_>>>()?;
    let mut spec = Spec::by_hand(work, "queue");
    spec.rows_per_task = ROWS_PER_TASK;
    let Program {
        ctx,
        clock,
        queue,
        mut answers,
        ..
    } = build(&spec)?;
    let queue = queue.ok_or("a queue is pushed")?;
    let mut rows = Rows::new(&["total_ms", "cpu_ms"]);
    let results = runtime()?.block_on(async {
        let running = ctx.start().await?;
        let (own, mut results) = (std::process::id(), Results::default());
        for batch in batches {
            let (begun, used) = (Instant::now(), cpu(own));
            queue.push_batch(batch).await?;
            clock.advance(spec.interval());
            let ended = "the program stopped before its last batch";
            let done = match &mut answers {
                Answers::Found(found) => {
                    let rdd = found.recv().await.ok_or(ended)?;
                    let done = (begun.elapsed(), cpu(own) - used);
                    results.found.push(rdd.collect()?[0] as u64);
                    done
                }
                Answers::Words(words) => {
                    let rdd = words.recv().await.ok_or(ended)?;
                    let done = (begun.elapsed(), cpu(own) - used);
                    results.words.push(words_of(&rdd));
                    done
                }
                Answers::Totals => return Err("results must be collected here".into()),
            };
            rows.push(vec![done.0.as_secs_f64() * 1e3, done.1.as_secs_f64() * 1e3]);
        }
        running.abort().await?;
        Ok::<_, Box<dyn std::error::Error>>(results)
    })?;
    results.check(work, &input)?;
    let sum = |name: &str| rows.column(name).iter().sum::<f64>() / 1e3;
    let seconds = sum("total_ms");
    Ok(json!({
        "checked": true, "seconds": seconds, "lines_per_s": args.lines as f64 / seconds,
        "worker_cpu_s": sum("cpu_ms"),
    }))
}

/// Sends one half of a batch, and waits until both workers store it.
async fn push(sender: &mut LineSender, text: &[u8], at: usize) -> Outcome<()> {
    let half = bench_input::input::part(text, at, CLIENTS);
    for piece in half.chunks(super::sender::PIECE / LINE_BYTES * LINE_BYTES) {
        sender.send_text(piece).await?;
    }
    Ok(sender.flush().await?)
}

/// The system's counters at a moment.
struct Reading {
    at: Instant,
    loopback: u64,
    written: u64,
    workers: Duration,
    master: Duration,
}

fn row(before: &Reading, held: &Reading, done: &Reading) -> Vec<f64> {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    vec![
        ms(held.at - before.at),
        ms(done.at - held.at),
        (held.loopback - before.loopback) as f64,
        (done.loopback - held.loopback) as f64,
        (done.written - held.written) as f64,
        ms(held.workers - before.workers),
        ms(done.workers - held.workers),
        ms(done.master - held.master),
    ]
}

fn received(work: &str, engine: &str, interval: u64, lines: usize) -> Outcome<Value> {
    let mut spec = Spec::on_the_clock(work, interval);
    spec.rows_per_task = ROWS_PER_TASK;
    let program = build(&spec)?;
    let (ctx, totals) = (program.ctx, program.totals);
    let asked = format!("--clients {CLIENTS} --lines {lines}");
    let (sent, summary) = runtime()?.block_on(async {
        Ok::<_, Box<dyn std::error::Error>>(match engine {
            "cluster" => {
                let cluster = Cluster::start(&spec, ctx, 2).await?;
                let sent = send(&cluster.addresses(), &asked).await?;
                (sent, cluster.stop(true).await?)
            }
            "local" => {
                let running = ctx.start().await?;
                let address = running.address("lines").ok_or("no address")?;
                let sent = send(&[address.to_string()], &asked).await?;
                (sent, running.stop().await?)
            }
            other => return Err(format!("no engine {other:?}: cluster or local").into()),
        })
    })?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64;
    let seconds = (now - sent["began_us"].as_u64().unwrap_or(now)) as f64 / 1e6;
    let sum = totals.sum.load(Ordering::SeqCst);
    let wanted: u64 = match work {
        "grep" => sent["found"].as_u64().unwrap_or_default(),
        _ => sent["words"].as_u64().unwrap_or_default(),
    };
    if sum != wanted || summary.records != lines as u64 {
        let records = summary.records;
        return Err(format!("{records} lines gave {sum}, not {wanted}").into());
    }
    Ok(json!({
        "checked": true, "seconds": seconds, "lines_per_s": lines as f64 / seconds,
        "batches_run": summary.batches, "received_lines_per_s": lines as f64
            / sent["seconds"].as_f64().unwrap_or(f64::INFINITY),
    }))
}
