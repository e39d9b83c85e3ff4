//! `bench sender`: producers in a process of their own, paced or as fast as they can.
//!
//! Paced producers are open-loop: each send has a due time, and its latency counts from then, so a delayed producer
//! does not look fast.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bench_input::{Args, Input, LINE_BYTES};
use dstreams::arrow::array::{ArrayRef, RecordBatch, StringArray};
use dstreams_client::{BatchSender, Client, LineSender, Options, Report};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::processes::guard;
use crate::own::{Outcome, flag, percentiles};
use crate::system::cpu;

/// How often due sends and acknowledgements are polled.
const POLL_INTERVAL: Duration = Duration::from_micros(250);
/// Bytes of text that are passed to a producer at once when there is no pace.
pub const PIECE: usize = 256_000;
/// Bins per millisecond in the table of latencies.
const BINS_PER_MS: f64 = 10.0;

/// What is sent, and how.
struct Plan {
    addresses: Vec<String>,
    clients: usize,
    rate: u64,
    every: Duration,
    length: Duration,
    options: Options,
    batches: bool,
}

/// Default time in milliseconds that a line waits for others.
pub fn usual_linger() -> u64 {
    Options::default().linger.as_millis() as u64
}

/// `bench sender ADDRESS,... [--clients N] [--rate LINES_PER_S] [--every-ms N] [--seconds N]
/// [--linger-ms N] [--lines N] [--as lines|batches]`; without a rate, all lines at once.
pub fn sender(flags: &[String]) -> Outcome<()> {
    guard(flags);
    let addresses = flags.first().ok_or("a sender needs addresses")?;
    let linger = flag(flags, "--linger-ms", usual_linger())?;
    let mut options = Options::default();
    options.linger = Duration::from_millis(linger);
    let plan = Plan {
        addresses: addresses.split(',').map(str::to_owned).collect(),
        clients: flag(flags, "--clients", 1)?,
        rate: flag(flags, "--rate", 0)?,
        every: Duration::from_millis(flag(flags, "--every-ms", 1)?),
        length: Duration::from_secs_f64(flag(flags, "--seconds", 10.0)?),
        options,
        batches: flag(flags, "--as", "lines".to_owned())? == "batches",
    };
    let lines = flag(flags, "--lines", 100_000usize)?;
    let (text, found) = text(lines)?;
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build()?;
    let mut result = match plan.rate {
        0 => at_once(&runtime, &plan, &text)?,
        _ => paced(&runtime, &plan, &text)?,
    };
    result["work"] = "sender".into();
    result["found"] = found.into();
    result["clients"] = plan.clients.into();
    result["linger_ms"] = linger.into();
    println!("{result}");
    Ok(())
}

/// Lines of the benchmark's input, one after the other, and how many of them `grep` finds.
pub fn text(lines: usize) -> Outcome<(Vec<u8>, u64)> {
    let words = ["--work", "grep", "--batches", "1", "--lines"].map(str::to_owned);
    let args = Args::parse(words.into_iter().chain([lines.to_string()]))?;
    let input = Input::generate(&args);
    Ok((input.batches.concat(), input.expected.grep.iter().sum()))
}

/// Part `at` of `parts` of the text, split between lines.
fn part(text: &[u8], at: usize, parts: usize) -> &[u8] {
    bench_input::input::part(text, at, parts)
}

/// The text as Arrow batches of [`PIECE`] bytes.
pub fn batches_of(text: &[u8]) -> Outcome<Vec<RecordBatch>> {
    let batch = |piece: &[u8]| -> Outcome<RecordBatch> {
        let lines: StringArray = std::str::from_utf8(piece)?.lines().map(Some).collect();
        let schema = dstreams_client::protocol::lines_schema();
        Ok(RecordBatch::try_new(
            schema,
            vec![std::sync::Arc::new(lines) as ArrayRef],
        )?)
    };
    text.chunks(PIECE / LINE_BYTES * LINE_BYTES)
        .map(batch)
        .collect()
}

fn words(text: &[u8]) -> u64 {
    memchr::memchr2_iter(b' ', b'\n', text).count() as u64
}

fn unix_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_micros() as u64)
}

/// Connects a client; clients use the addresses in turns.
async fn connect(plan: &Plan, number: usize) -> Outcome<Client> {
    let address = &plan.addresses[number % plan.addresses.len()];
    Ok(Client::connect(address, plan.options.clone()).await?)
}

fn summed(reports: &[Report], began_us: u64, length: Duration) -> Value {
    let of = |number: fn(&Report) -> u64| reports.iter().map(number).sum::<u64>();
    let (acknowledged, seconds) = (of(|r| r.records_acknowledged), length.as_secs_f64());
    json!({
        "checked": of(|r| r.records_sent) == acknowledged,
        "records": acknowledged,
        "messages": of(|r| r.messages),
        "message_bytes": of(|r| r.bytes),
        "resends": of(|r| r.resends),
        "began_us": began_us,
        "seconds": seconds,
        "bytes_per_s": acknowledged as f64 * LINE_BYTES as f64 / seconds,
    })
}

enum Sender {
    Lines(LineSender),
    Batches(BatchSender),
}

/// Each client sends its part of the text, and waits until all of it is acknowledged.
fn at_once(runtime: &Runtime, plan: &Plan, text: &[u8]) -> Outcome<Value> {
    let prepared = (0..plan.clients).map(|at| batches_of(part(text, at, plan.clients)));
    let mut prepared = match plan.batches {
        true => prepared.collect::<Outcome<Vec<_>>>()?,
        false => vec![Vec::new(); plan.clients],
    };
    let mut senders = Vec::new();
    for at in 0..plan.clients {
        senders.push(runtime.block_on(async {
            let client = connect(plan, at).await?;
            let schema = dstreams_client::protocol::lines_schema();
            Ok::<_, Box<dyn std::error::Error>>(match plan.batches {
                true => Sender::Batches(client.batches("lines", schema).await?),
                false => Sender::Lines(client.lines("lines").await?),
            })
        })?);
    }
    let (start, began_us, used) = (Instant::now(), unix_us(), cpu(std::process::id()));
    let mut sending = Vec::new();
    for (at, sender) in senders.into_iter().enumerate() {
        let text = part(text, at, plan.clients).to_vec();
        let batches = std::mem::take(&mut prepared[at]);
        sending.push(runtime.spawn(async move {
            match sender {
                Sender::Lines(mut lines) => {
                    for piece in text.chunks(PIECE / LINE_BYTES * LINE_BYTES) {
                        lines.send_text(piece).await?;
                    }
                    lines.finish().await
                }
                Sender::Batches(mut sender) => {
                    for batch in batches {
                        sender.send(batch).await?;
                    }
                    sender.finish().await
                }
            }
        }));
    }
    let mut reports = Vec::new();
    for sending in sending {
        reports.push(runtime.block_on(sending)??);
    }
    let mut result = summed(&reports, began_us, start.elapsed());
    result["cpu_s"] = (cpu(std::process::id()) - used).as_secs_f64().into();
    result["words"] = words(text).into();
    Ok(result)
}

/// A producer with a pace, and its sends in flight.
struct Paced {
    sender: LineSender,
    /// When its next send is due; `line` is its first line.
    due: Instant,
    line: usize,
    lines_left_over: f64,
    /// Due times, and the numbers of records sent then.
    waiting: std::collections::VecDeque<(Instant, u64)>,
}

fn paced(runtime: &Runtime, plan: &Plan, text: &[u8]) -> Outcome<Value> {
    let lines = text.len() / LINE_BYTES;
    let start = Instant::now() + Duration::from_millis(50);
    let mut producers = Vec::new();
    for at in 0..plan.clients {
        let opened = runtime.block_on(async {
            let client = connect(plan, at).await?;
            Ok::<_, Box<dyn std::error::Error>>(client.lines("lines").await?)
        });
        producers.push(Paced {
            sender: opened?,
            due: start + plan.every * at as u32 / plan.clients as u32,
            line: lines * at / plan.clients,
            lines_left_over: 0.0,
            waiting: Default::default(),
        });
    }
    let start = start.max(Instant::now());
    let (began_us, end) = (unix_us(), start + plan.length);
    let each = plan.rate as f64 * plan.every.as_secs_f64() / plan.clients as f64;
    let (mut latencies, mut late, mut sent_words) = (Vec::new(), Vec::new(), 0);
    loop {
        let mut idle = true;
        for producer in &mut producers {
            while producer.due <= Instant::now() && producer.due < end {
                late.push(producer.due.elapsed());
                producer.lines_left_over += each;
                let wanted = (producer.lines_left_over as usize).min(lines - producer.line);
                producer.lines_left_over -= wanted as f64;
                let from = producer.line * LINE_BYTES;
                let piece = &text[from..from + wanted * LINE_BYTES];
                sent_words += words(piece);
                runtime.block_on(producer.sender.send_text(piece))?;
                let sent = producer.sender.sent();
                producer.waiting.push_back((producer.due, sent));
                producer.line = (producer.line + wanted) % lines;
                producer.due += plan.every;
            }
            let acknowledged = producer.sender.acknowledged();
            while let Some((due, _)) = producer.waiting.front().filter(|w| w.1 <= acknowledged) {
                latencies.push(due.elapsed());
                producer.waiting.pop_front();
            }
            idle &= producer.waiting.is_empty() && producer.due >= end;
        }
        if idle {
            break;
        }
        if producers.iter().all(|p| p.due >= end) && end.elapsed() > Duration::from_secs(60) {
            return Err("sends were not acknowledged for a minute".into());
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    let length = start.elapsed();
    let reports = producers
        .into_iter()
        .map(|p| runtime.block_on(p.sender.finish()));
    let reports = reports.collect::<Result<Vec<_>, _>>()?;
    let mut result = summed(&reports, began_us, length);
    result["words"] = sent_words.into();
    result["rate"] = plan.rate.into();
    result["every_ms"] = (plan.every.as_millis() as u64).into();
    result["late_ms"] = percentiles(late);
    result["table"] = json!(table(&latencies));
    result["ack_ms"] = percentiles(latencies);
    Ok(result)
}

/// A histogram of latencies in tenths of a millisecond: start of the bin, count.
fn table(latencies: &[Duration]) -> Vec<(f64, u64)> {
    let mut bins: BTreeMap<u64, u64> = BTreeMap::new();
    for latency in latencies {
        *bins
            .entry((latency.as_secs_f64() * 1e3 * BINS_PER_MS) as u64)
            .or_default() += 1;
    }
    bins.into_iter()
        .map(|(bin, n)| (bin as f64 / BINS_PER_MS, n))
        .collect()
}
