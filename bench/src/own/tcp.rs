//! TCP text to a counted grep, compared with a receiver that only reads and counts line feeds; the same producer,
//! in turns.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bench_input::{Args, Input, NEEDLE};
use dstreams::{Config, Listener, StreamContext};
use tokio::sync::Notify;

use super::{Outcome, flag};

/// `bench tcp [--lines N] [--rounds N] [--interval-ms N]`
pub fn tcp(flags: &[String]) -> Outcome<()> {
    let lines: usize = flag(flags, "--lines", 5_000_000)?;
    let rounds: usize = flag(flags, "--rounds", 5)?;
    let interval = Duration::from_millis(flag(flags, "--interval-ms", 500)?);
    let words = [
        "--work",
        "grep",
        "--lines",
        &lines.to_string(),
        "--batches",
        "20",
    ];
    let args = Args::parse(words.map(str::to_owned))?;
    let input = Input::generate(&args);
    let wanted: u64 = input.expected.grep.iter().sum();
    let input = Arc::new(input);
    for round in 0..rounds {
        let plain = plain(&input, lines as u64)?;
        let (dstreams, found) = dstreams(&input, lines as u64, interval)?;
        if found != wanted {
            return Err(format!("grep found {found} lines, not {wanted}").into());
        }
        let rate = |time: Duration| (lines as f64 / time.as_secs_f64()).round();
        println!(
            "{}",
            serde_json::json!({
                "work": "tcp", "round": round, "lines": lines, "checked": true,
                "plain_lines_per_s": rate(plain), "dstreams_lines_per_s": rate(dstreams),
                "ratio": plain.as_secs_f64() / dstreams.as_secs_f64(),
            })
        );
    }
    Ok(())
}

/// Sends all batches over one connection, in writes of 64 KiB.
fn produce(input: &Arc<Input>, to: SocketAddr) -> std::thread::JoinHandle<std::io::Result<()>> {
    let input = Arc::clone(input);
    std::thread::spawn(move || {
        let mut socket = TcpStream::connect(to)?;
        for batch in &input.batches {
            for piece in batch.chunks(64 << 10) {
                socket.write_all(piece)?;
            }
        }
        Ok(())
    })
}

fn plain(input: &Arc<Input>, lines: u64) -> Outcome<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let start = Instant::now();
    let producer = produce(input, listener.local_addr()?);
    let (mut socket, _) = listener.accept()?;
    let mut buffer = vec![0u8; 256 << 10];
    let mut count = 0;
    loop {
        match socket.read(&mut buffer)? {
            0 => break,
            read => count += memchr::memchr_iter(b'\n', &buffer[..read]).count() as u64,
        }
    }
    let time = start.elapsed();
    producer.join().map_err(|_| "the producer panicked")??;
    match count == lines {
        true => Ok(time),
        false => Err(format!("the plain receiver counted {count} lines, not {lines}").into()),
    }
}

/// Counts records of completed batches.
struct Records {
    count: Arc<AtomicU64>,
    changed: Arc<Notify>,
}

impl Listener for Records {
    fn batch_completed(&self, report: &dstreams::BatchReport) {
        self.count.fetch_add(report.records, Ordering::SeqCst);
        self.changed.notify_one();
    }
}

fn dstreams(input: &Arc<Input>, lines: u64, interval: Duration) -> Outcome<(Duration, u64)> {
    let mut config = Config::new(interval);
    config.threads = 2;
    let mut ctx = StreamContext::with_config(config)?;
    let text = ctx.tcp_text("lines", "127.0.0.1:0");
    let needle = memchr::memmem::Finder::new(NEEDLE).into_owned();
    let found = text
        .filter(move |line| needle.find(line.as_bytes()).is_some())
        .count()?;
    let mut counts = found.collect();
    let (count, changed) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    ctx.add_listener(Records {
        count: Arc::clone(&count),
        changed: Arc::clone(&changed),
    });
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let running = ctx.start().await?;
        let address = running.address("lines").ok_or("no address")?;
        let start = Instant::now();
        let producer = produce(input, address);
        while !producer.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        producer.join().map_err(|_| "the producer panicked")??;
        // What was received runs at once, not at the end of the interval.
        running.stop().await?;
        let time = start.elapsed();
        let mut found = 0;
        while let Some(rdd) = counts.recv().await {
            found += rdd.collect()?[0] as u64;
        }
        match count.load(Ordering::SeqCst) == lines {
            true => Ok((time, found)),
            false => Err(format!("batches had {count:?} records, not {lines}").into()),
        }
    })
}
