//! The cost of durability: counts per word of all batches at full throughput, without it and with it, in turns.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bench_input::{Args, Input};
use dstreams::agg::count;
use dstreams::arrow::array::{Array, AsArray, RecordBatch};
use dstreams::files::Format;
use dstreams::text::words;
use dstreams::{Config, Queue, Rdd, StreamContext};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::watch::{Files, Place, Reports};
use super::{Outcome, flag, percentiles};
use crate::run;
use crate::system::cpu;

/// Lines of one push, and number of concurrent pushes: a push returns only when its records are safe.
const LINES_PER_PUSH: u64 = 10_000;
const CONCURRENT_PUSHES: u64 = 16;
/// Waiting batches, in addition to the one that is being pushed.
const WAITING_BATCHES: u64 = 2;
/// Batches that are not measured: in the first ones all words are new.
const WARM_UP_BATCHES: usize = 2;

/// What a program persists.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing.
    Plain,
    /// A journal, and hardly any checkpoints.
    Journal,
    /// A journal and checkpoints.
    Checkpoints,
    /// Both, and each batch's changes in files, exactly once.
    Files,
}

impl Kind {
    /// The kind that it is compared with.
    fn base(self) -> Kind {
        match self {
            Kind::Checkpoints => Kind::Journal,
            _ => Kind::Plain,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Plain => "plain",
            Kind::Journal => "journal",
            Kind::Checkpoints => "checkpoints",
            Kind::Files => "files",
        }
    }
}

/// `bench durable [--lines N] [--seconds N] [--rounds N] [--interval-ms N] [--kinds KIND,...] [--dir DIR]`: pairs of
/// programs, each for so many seconds: one with a `journal` and a plain one; one with `checkpoints` every 10 batches and
/// one with a journal alone; one with journal, checkpoints and `files` and a plain one.
///
/// A batch has `lines` lines, too many for one interval. While a batch runs, others are pushed. The lines are those
/// of `bench compare --works running`.
pub fn durable(flags: &[String]) -> Outcome<()> {
    let lines: u64 = flag(flags, "--lines", 3_000_000)?;
    let seconds = Duration::from_secs(flag(flags, "--seconds", 20)?);
    let rounds: usize = flag(flags, "--rounds", 10)?;
    let interval = Duration::from_millis(flag(flags, "--interval-ms", 500)?);
    let kinds: String = flag(flags, "--kinds", "journal,checkpoints,files".into())?;
    let below: String = flag(flags, "--dir", String::new())?;
    let all = [Kind::Journal, Kind::Checkpoints, Kind::Files];
    let kind = |name: &str| all.into_iter().find(|kind| kind.name() == name);
    let kinds: Vec<Kind> = kinds
        .split(',')
        .map(|name| kind(name).ok_or(format!("no kind {name:?}: journal, checkpoints, files")))
        .collect::<Result<_, _>>()?;
    let words = [
        "--work",
        "running",
        "--lines",
        "1000000",
        "--batches",
        "100",
    ];
    let input = Input::generate(&Args::parse(words.map(str::to_owned))?);
    let batches = input.batches.into_iter().map(run::lines);
    let batches: Vec<RecordBatch> = batches.collect::<Outcome<_>>()?;
    let mut ratios = vec![Vec::new(); kinds.len()];
    for round in 0..rounds {
        for (kind, ratios) in kinds.iter().zip(&mut ratios) {
            let once = |kind| -> Outcome<Value> {
                let place = Place::new(&below, "durable")?;
                let mut result = measure(kind, &batches, lines, seconds, interval, &place.0)?;
                result["round"] = round.into();
                println!("{result}");
                Ok(result)
            };
            // Neither is always first.
            let (base, kept) = match round % 2 {
                0 => (once(kind.base())?, once(*kind)?),
                _ => {
                    let kept = once(*kind)?;
                    (once(kind.base())?, kept)
                }
            };
            let of = |result: &Value, what: &str| result[what].as_f64().unwrap_or_default();
            let ratio = of(&kept, "lines_per_s") / of(&base, "lines_per_s");
            let cpu = of(&kept, "cpu_ns_per_line") / of(&base, "cpu_ns_per_line");
            ratios.push((ratio, cpu));
            let pair = json!({
                "work": "durable", "pair": kind.name(), "base": kind.base().name(), "round": round, "ratio": ratio,
                "cpu_ratio": cpu,
            });
            println!("{pair}");
        }
    }
    for (kind, ratios) in kinds.into_iter().zip(ratios) {
        let (rates, cpu): (Vec<_>, Vec<_>) = ratios.into_iter().unzip();
        let pairs = json!({
            "work": "durable", "pair": kind.name(), "base": kind.base().name(), "pairs": rates.len(),
            "ratio": spread(rates), "cpu_ratio": spread(cpu),
        });
        println!("{pairs}");
    }
    Ok(())
}

/// The median of some numbers, and their spread.
fn spread(mut numbers: Vec<f64>) -> Value {
    numbers.sort_unstable_by(f64::total_cmp);
    let last = numbers.len().saturating_sub(1) as f64;
    let rank = |at: f64| numbers.get(at as usize).copied();
    let between =
        |share: f64| Some((rank((last * share).floor())? + rank((last * share).ceil())?) / 2.0);
    json!({
        "median": between(0.5), "least": rank(0.0), "quarter": between(0.25), "three_quarters": between(0.75),
        "greatest": rank(last),
    })
}

/// The program, and its input.
fn program(
    kind: Kind,
    interval: Duration,
    reports: &Reports,
    changed: &Arc<AtomicU64>,
    place: &Path,
) -> Outcome<(StreamContext, Queue<String>)> {
    let mut config = Config::new(interval);
    config.threads = 2;
    config.block_memory = 2 << 30;
    if kind == Kind::Journal {
        config.checkpoint_every = u32::MAX;
    }
    let mut ctx = StreamContext::with_config(config)?;
    let (queue, stream) = ctx.queue::<String>("lines");
    let counts = stream
        .flat_map::<String>(|line, out| words(line).for_each(|word| out.push(word)))
        .keyed()
        .running_agg("counts", count())?;
    let changed = Arc::clone(changed);
    let changes = counts.changes();
    match kind {
        Kind::Files => changes.write_files(place.join("files"), Format::Csv)?,
        _ => changes.for_each_rdd(move |rdd| {
            changed.fetch_add(bytes_of(&rdd), Relaxed);
        }),
    }
    ctx.add_listener(reports.clone());
    if kind != Kind::Plain {
        ctx.persist_in(place.join("program"));
    }
    Ok((ctx, queue))
}

/// Bytes of the keys and values of some rows.
fn bytes_of(rdd: &Rdd<(String, i64)>) -> u64 {
    let rows = rdd.partitions().iter().flatten();
    rows.map(|rows| {
        let words = rows.column(0).as_string_view();
        let lengths = words.views().iter().map(|view| u64::from(*view as u32));
        lengths.sum::<u64>() + 8 * words.len() as u64
    })
    .sum()
}

/// Time to the end of the interval.
fn to_next(interval: Duration) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let (now, every) = (now.unwrap_or_default().as_nanos(), interval.as_nanos());
    Duration::from_nanos((every - now % every) as u64)
}

fn measure(
    kind: Kind,
    batches: &[RecordBatch],
    lines: u64,
    seconds: Duration,
    interval: Duration,
    place: &Path,
) -> Outcome<Value> {
    let (reports, changed) = (Reports::default(), Arc::new(AtomicU64::new(0)));
    let (ctx, queue) = program(kind, interval, &reports, &changed, place)?;
    let files = Files::watch(&place.join("program"), false);
    let used = cpu(std::process::id());
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build()?;
    let (pushed, summary) = runtime.block_on(async {
        let running = ctx.start().await?;
        let end = Instant::now() + seconds;
        let (allowed, next) = (Semaphore::new(0), AtomicU64::new(0));
        let feed = || async {
            while let Ok(allowed) = allowed.acquire().await {
                allowed.forget();
                let at = next.fetch_add(1, Relaxed) as usize % batches.len();
                queue.push_batch(batches[at].clone()).await?;
            }
            Ok::<_, dstreams::Error>(())
        };
        let allow = async {
            let (pushes, mut all) = (lines.div_ceil(LINES_PER_PUSH), 0u64);
            while Instant::now() < end {
                reports
                    .reach(all.saturating_sub(WAITING_BATCHES * pushes) * LINES_PER_PUSH)
                    .await;
                allowed.add_permits(pushes as usize);
                all += pushes;
                // At most one batch in an interval.
                tokio::time::sleep(to_next(interval)).await;
            }
            allowed.close();
            Ok(())
        };
        let feeds = futures::future::try_join_all((0..CONCURRENT_PUSHES).map(|_| feed()));
        futures::future::try_join(feeds, allow).await?;
        let summary = running.stop().await?;
        Ok::<_, dstreams::Error>((next.load(Relaxed) * LINES_PER_PUSH, summary))
    })?;
    let used = cpu(std::process::id()) - used;
    let [state, manifest, journal] = files.end(["state-", "manifest-", "journal-"])?;
    if summary.records != pushed {
        return Err(format!("batches had {} records, not {pushed}", summary.records).into());
    }
    let mut reports = reports.all();
    reports.retain(|report| report.records > 0);
    let [first, rest @ ..] = reports.get(WARM_UP_BATCHES..).unwrap_or_default() else {
        return Err("too few batches; give it more seconds".into());
    };
    let last = rest.last().ok_or("too few batches; give it more seconds")?;
    let micros = last.committed_at.0 - first.committed_at.0;
    let lines: u64 = rest.iter().map(|report| report.records).sum();
    let mut result = json!({
        "work": "durable", "kind": kind.name(), "interval_ms": interval.as_millis() as u64,
        "checked": true, "batches": rest.len(), "lines": lines,
        "lines_per_s": (lines as f64 * 1e6 / micros as f64).round(),
        "cpu_ns_per_line": (used.as_nanos() as f64 / pushed as f64).round(),
        "processing_ms": percentiles(rest.iter().map(|r| r.processing_time()).collect()),
        "total_delay_ms": percentiles(rest.iter().map(|r| r.total_delay()).collect()),
    });
    if kind != Kind::Plain {
        result["journal_bytes"] = journal.into();
        result["checkpoint_bytes"] = (state + manifest).into();
    }
    let changed = changed.load(Relaxed);
    if changed > 0 {
        result["changed_bytes"] = changed.into();
    }
    if kind == Kind::Checkpoints {
        let each = (state + manifest) as f64 / changed as f64;
        result["checkpoint_bytes_per_changed_byte"] = each.into();
    }
    Ok(result)
}
